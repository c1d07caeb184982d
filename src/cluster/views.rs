//! What is shown of a Deployment and its releases, in the API's words.

use serde_json::Value;

use super::{Cluster, told};
use crate::apiserver::value::name;
use crate::apiserver::{Kind, Selection};
use crate::daemon::api::{InstanceView, Problem, RevisionView, RolloutView};
use crate::daemon::views::summary;
use crate::engine::Phase;
use crate::engine::desired::split_now;
use crate::plan::ALL_STABLE;
use crate::platforms::kubernetes::{HASH, template};
use crate::store::ReleaseRecord;
use crate::store::configmap::ConfigMapStore;

impl Cluster {
    /// A Deployment as it is now.
    pub(super) async fn view_of(&self, deployment: &Value, store: &ConfigMapStore) -> Result<RolloutView, Problem> {
        let own = name(deployment);
        let sets = self
            .api
            .list(Kind::ReplicaSet, &Selection::default())
            .await
            .map_err(|error| told(&error))?;
        let pods = self
            .api
            .list(Kind::Pod, &Selection::default())
            .await
            .map_err(|error| told(&error))?;
        let latest = store.latest().await.map_err(Problem::unavailable)?;
        let live = latest.as_ref().filter(|record| record.state.outcome().is_none());
        let revision = |hash: &str| -> Option<RevisionView> {
            let set = sets.iter().find(|set| {
                crate::apiserver::value::label(set, HASH) == Some(hash) && name(set) == format!("{own}-{hash}")
            })?;
            Some(revision_view(set, &pods, hash))
        };
        let release_of = |record: &ReleaseRecord| -> Option<crate::platforms::kubernetes::Release> {
            serde_json::from_value(record.canary.workload.clone()).ok()
        };
        let (stable, canary) = match live.and_then(release_of) {
            Some(release) => (revision(&release.stable), revision(&release.canary)),
            None => {
                let newest = sets
                    .iter()
                    .filter(|set| {
                        name(set).starts_with(own) && crate::apiserver::value::count(set, "/spec/replicas") > 0
                    })
                    .find_map(|set| crate::apiserver::value::label(set, HASH));
                (newest.and_then(revision), None)
            }
        };
        let state = store.rollout().await.map_err(Problem::unavailable)?;
        Ok(RolloutView {
            name: own.to_owned(),
            listen: None,
            split: live.map_or(ALL_STABLE, |record| match &record.state.phase {
                Phase::Returning(..) | Phase::Done(_) | Phase::Waiting => ALL_STABLE,
                _ => split_now(&record.plan, &record.state),
            }),
            stable,
            canary,
            release: latest.as_ref().map(summary),
            quarantined: state
                .map(|state| {
                    state
                        .quarantined
                        .into_iter()
                        .map(|failed| (failed.revision, failed.reason))
                        .collect()
                })
                .unwrap_or_default(),
        })
    }
}

fn revision_view(set: &Value, pods: &[Value], hash: &str) -> RevisionView {
    let instances: Vec<InstanceView> = pods
        .iter()
        .filter(|pod| crate::apiserver::value::label(pod, HASH) == Some(hash))
        .enumerate()
        .map(|(slot, pod)| {
            let ready = crate::apiserver::value::is_ready(pod);
            let leaving = crate::apiserver::value::is_leaving(pod);
            InstanceView {
                slot: slot as u32,
                pid: None,
                port: None,
                state: match (leaving, ready) {
                    (true, _) => "stopping",
                    (false, true) => "ready",
                    (false, false) => "starting",
                }
                .to_owned(),
                restarts: crate::apiserver::value::list(pod, "/status/containerStatuses")
                    .iter()
                    .map(|status| crate::apiserver::value::count(status, "/restartCount"))
                    .sum(),
                diagnosis: None,
            }
        })
        .collect();
    RevisionView {
        id: hash.to_owned(),
        version: template::version_of(&set["spec"]["template"], None),
        ready: instances.iter().filter(|instance| instance.state == "ready").count() as u32,
        wanted: crate::apiserver::value::count(set, "/spec/replicas"),
        requests: 0,
        errors: 0,
        instances,
    }
}
