//! What a Deployment is waiting for, if anything: for `wade wait`, which tools cannot say that count a paused Deployment
//! as ready.

use serde_json::Value;

use super::door::running;
use super::{Cluster, told};
use crate::apiserver::Kind;
use crate::apiserver::value::{count, flag, number};
use crate::daemon::api::{Problem, ReleaseSummary};
use crate::daemon::views::summary;
use crate::engine::Outcome;
use crate::platforms::kubernetes::workload;

/// What a Deployment is waiting for.
#[derive(Clone, Debug, PartialEq)]
pub enum Waiting {
    /// A release that runs.
    Release {
        /// In one sentence.
        what: String,
        /// It does not come to an end by itself.
        stuck: bool,
    },
    /// A rollout of Kubernetes' own, in one sentence.
    Rollout(String),
    /// Nothing.
    Nothing {
        /// The last release, if one is kept, and how it ended.
        last: Option<Box<(ReleaseSummary, Outcome)>>,
    },
}

impl Cluster {
    /// What a Deployment is waiting for now.
    ///
    /// # Errors
    /// There is no such Deployment, or the API server cannot be asked.
    pub async fn waits_for(&self, deployment: &str) -> Result<Waiting, Problem> {
        let store = self.store(deployment);
        if let Some(record) = running(&store).await? {
            let seen = summary(&record);
            let place = format!("deployment/{deployment} -n {}", self.namespace());
            let gone = if self.is_abandoned(deployment).await? {
                format!("; the run that carried it is gone: `wade settle {place}`")
            } else {
                String::new()
            };
            return Ok(Waiting::Release {
                what: format!(
                    "{} of {} is {}: {}{gone}",
                    record.key, seen.version, seen.phase, seen.summary
                ),
                stuck: seen.stuck,
            });
        }
        let object = self
            .api
            .get(Kind::Deployment, deployment)
            .await
            .map_err(|error| told(&error))?;
        let object = object.ok_or_else(|| self.no_such(deployment))?;
        if let Some(what) = unfinished(&object) {
            return Ok(Waiting::Rollout(format!("deployment {deployment}: {what}")));
        }
        let last = store.latest().await.map_err(Problem::unavailable)?;
        let last = last.and_then(|record| {
            let outcome = record.state.outcome()?.clone();
            Some(Box::new((summary(&record), outcome)))
        });
        Ok(Waiting::Nothing { last })
    }
}

/// Why a Deployment is not rolled out, as `kubectl rollout status` has it; one that is paused counts as unfinished where
/// its template is not yet the one that serves.
pub(super) fn unfinished(deployment: &Value) -> Option<String> {
    let wanted = workload::replicas(deployment);
    let (updated, all) = (
        count(deployment, "/status/updatedReplicas"),
        count(deployment, "/status/replicas"),
    );
    let available = count(deployment, "/status/availableReplicas");
    let paused = if flag(deployment, "/spec/paused") {
        ", and it is paused"
    } else {
        ""
    };
    if number(deployment, "/status/observedGeneration") < number(deployment, "/metadata/generation") {
        Some("its controller has not seen the last change".to_owned())
    } else if updated < wanted {
        Some(format!("{updated} of {wanted} pods have its present template{paused}"))
    } else if all > updated {
        Some(format!("{} old pods are left{paused}", all - updated))
    } else if available < wanted {
        Some(format!("{available} of {wanted} pods are available{paused}"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_deployment_is_rolled_out_when_every_pod_is_new_and_available() {
        let of = |generation: u64, paused: bool, status: [u32; 3]| {
            let [replicas, updated, available] = status;
            unfinished(
                &json!({"metadata": {"generation": generation}, "spec": {"replicas": 4, "paused": paused},
                "status": {"observedGeneration": 2, "replicas": replicas, "updatedReplicas": updated,
                    "availableReplicas": available}}),
            )
        };
        assert_eq!(of(2, false, [4, 4, 4]), None);
        assert_eq!(
            of(2, true, [4, 4, 4]),
            None,
            "paused between releases, nothing to wait for"
        );
        let said = |words: &str| Some(words.to_owned());
        assert_eq!(
            of(3, false, [4, 4, 4]),
            said("its controller has not seen the last change")
        );
        assert_eq!(
            of(2, true, [4, 0, 4]),
            said("0 of 4 pods have its present template, and it is paused")
        );
        assert_eq!(of(2, false, [5, 4, 4]), said("1 old pods are left"));
        assert_eq!(of(2, false, [4, 4, 3]), said("3 of 4 pods are available"));
    }
}
