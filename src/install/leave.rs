//! Taking everything out again, in the order that leaves every service as it was.
//!
//! 1. Running releases go back to stable, all that the daemon or a step had begun: commands into their records; what
//!    nobody carries is carried here. 2. The policies go, so that nothing is paused any more. 3. The daemon goes; what it
//!    may have begun meanwhile is settled too. 4. Holds are lifted: labels, annotations, and the pause of a Deployment
//!    that says what serves. One that says something else *stays paused*: unpausing it would roll out, unjudged, what was
//!    waiting or what has failed before. That is said, with what to do. 5. Rights and definitions go, and with them every
//!    Rollout and Release. Records and Leases stay for `wade history`, unless they are to be purged.
//!
//! Ended in the middle it can be run again; nothing in it depends on an earlier step of the same run.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::apply::{Change, Say, permitted};
use super::{HoldApi, NAME, SYSTEM, Settings, kind_of, manifests};
use crate::apiserver::value::{annotation, flag, is_controlled_by, label, list, name, resource_version, text};
use crate::apiserver::{ApiError, ApiServer, Kind, MANAGER, Patch, Selection};
use crate::clock::{Clock, stopwatch};
use crate::cluster::find::Found;
use crate::cluster::{Cluster, Options, told};
use crate::daemon::api::{CommandRequest, Problem, ProblemKind};
use crate::daemon::client::Door;
use crate::engine::CommandKind;
use crate::platforms::kubernetes::hooks::HOOK;
use crate::platforms::kubernetes::{EPOCH, HOLD, LEFT_PAUSED, PART, RELEASE, ROLLOUT, WRITE, managers, template};

/// How often something that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long the daemon's pods may take to go.
const GONE_WITHIN: Duration = Duration::from_secs(60);
/// Annotations on a Deployment that are Wade's.
const MARKS: [&str; 4] = [RELEASE, EPOCH, WRITE, LEFT_PAUSED];

/// What may stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaving {
    /// The definitions, and with them every Rollout and Release.
    pub keep_definitions: bool,
    /// Records and Leases go too.
    pub purge: bool,
    /// Nothing is touched.
    pub dry: bool,
    /// How long running releases may take to end.
    pub within: Duration,
}

/// What is to be said at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Releases that were taken back.
    pub ended: Vec<String>,
    /// Deployments whose hold was lifted.
    pub lifted: Vec<String>,
    /// What stays as it is, with the reason and what to do.
    pub stays: Vec<String>,
}

/// Takes everything out of the cluster.
///
/// # Errors
/// Rights are missing, a release does not come to an end, or the server refuses; what was done until then stays done.
pub async fn uninstall(
    api: &ApiServer,
    leaving: Leaving,
    clock: &Arc<dyn Clock>,
    say: Say<'_>,
) -> Result<Left, Problem> {
    let everything = everything();
    let mut kinds: Vec<Kind> = everything.iter().filter_map(kind_of).collect();
    kinds.dedup();
    permitted(api, &kinds, &["get", "delete"]).await?;
    let everywhere = api.in_namespace("");
    let system = api.in_namespace(SYSTEM);
    let mut left = Left::default();

    end_releases(&everywhere, leaving, clock, &mut left).await?;
    let is_policy = |kind: Kind| kind.group() == Kind::ValidatingAdmissionPolicy.group();
    remove(&system, &everything, &is_policy, leaving.dry, say).await?;
    remove(&system, &everything, &|kind| kind == Kind::Deployment, leaving.dry, say).await?;
    if !leaving.dry {
        gone(&system).await?;
        end_releases(&everywhere, leaving, clock, &mut left).await?;
    }
    lift_holds(&everywhere, leaving.dry, &mut left).await?;
    if leaving.purge {
        purge(&everywhere, leaving.dry, say).await?;
    }
    let is_definition = |kind: Kind| kind == Kind::CustomResourceDefinition;
    if leaving.keep_definitions {
        left.stays
            .push("the definitions, with every Rollout, Release, ClusterStrategy and Freeze (--keep-crds)".to_owned());
    } else {
        if !leaving.dry {
            free_resources(&everywhere).await?;
        }
        remove(&system, &everything, &is_definition, leaving.dry, say).await?;
    }
    let rest =
        |kind: Kind| !is_policy(kind) && !is_definition(kind) && kind != Kind::Deployment && kind != Kind::Namespace;
    remove(&system, &everything, &rest, leaving.dry, say).await?;
    // A Freeze for all, or a certificate, may still be in it.
    remove(&system, &everything, &|kind| kind == Kind::Namespace, leaving.dry, say).await?;
    if !leaving.dry {
        let slow = |kind: Kind| kind == Kind::Namespace || (is_definition(kind) && !leaving.keep_definitions);
        vanished(&system, &everything, &slow).await?;
    }
    if !leaving.purge {
        let records = records(&everywhere).await?.len();
        if records > 0 {
            left.stays.push(format!(
                "{records} records of releases, ConfigMaps with the label {PART}=record, which `wade history` reads (--purge removes them)"
            ));
        }
        let jobs = hook_jobs(&everywhere).await?.len();
        if jobs > 0 {
            left.stays.push(format!(
                "{jobs} Jobs of hooks, with the label {PART}={HOOK}, which go by themselves within a day (--purge removes them)"
            ));
        }
    }
    Ok(left)
}

/// What may have been installed, in the opposite order.
fn everything() -> Vec<Value> {
    let mut all = manifests(&Settings::default());
    for api in [HoldApi::V1, HoldApi::V1Beta1] {
        all.extend(super::policies::hold(api));
    }
    all.reverse();
    all
}

async fn remove(
    api: &ApiServer,
    objects: &[Value],
    which: &(dyn Fn(Kind) -> bool + Sync),
    dry: bool,
    say: Say<'_>,
) -> Result<(), Problem> {
    for object in objects {
        let Some(kind) = kind_of(object).filter(|kind| which(*kind)) else {
            continue;
        };
        let own = name(object);
        // A kind that the server does not have is not there either.
        let there = api.get(kind, own).await.map_err(|error| told(&error))?;
        if there.is_none() {
            continue;
        }
        if !dry {
            api.delete(kind, own, None).await.map_err(|error| told(&error))?;
        }
        say(kind, own, Change::Removed);
    }
    Ok(())
}

/// Waits until what takes its time to go has gone: a namespace and a definition go after all that is in them.
async fn vanished(api: &ApiServer, objects: &[Value], which: &(dyn Fn(Kind) -> bool + Sync)) -> Result<(), Problem> {
    let watch = stopwatch();
    for object in objects {
        let Some(kind) = kind_of(object).filter(|kind| which(*kind)) else {
            continue;
        };
        while api
            .get(kind, name(object))
            .await
            .map_err(|error| told(&error))?
            .is_some()
        {
            if watch.elapsed() > GONE_WITHIN {
                return Err(Problem {
                    kind: ProblemKind::Unavailable,
                    message: format!(
                        "{} {} is still going after {} s; its conditions say what holds it: `kubectl describe {} {}`",
                        kind.word(),
                        name(object),
                        GONE_WITHIN.as_secs(),
                        kind.resource(),
                        name(object)
                    ),
                });
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(())
}

async fn records(everywhere: &ApiServer) -> Result<Vec<Value>, Problem> {
    let selector = Selection::labels(format!("{PART}=record"));
    everywhere
        .list(Kind::ConfigMap, &selector)
        .await
        .map_err(|error| told(&error))
}

/// Every release that is not over goes back to stable, one after another where this process has to carry them.
async fn end_releases(
    everywhere: &ApiServer,
    leaving: Leaving,
    clock: &Arc<dyn Clock>,
    left: &mut Left,
) -> Result<(), Problem> {
    for record in records(everywhere).await? {
        let (namespace, Some(rollout)) = (text(&record, "/metadata/namespace"), label(&record, ROLLOUT)) else {
            continue;
        };
        let api = everywhere.in_namespace(namespace);
        let cluster = Arc::new(Cluster::new(api.clone(), Options::default(), Arc::clone(clock))?);
        let running = |views: Vec<crate::daemon::api::ReleaseSummary>| {
            views.into_iter().find(|summary| summary.outcome.is_none())
        };
        let Some(release) = running(cluster.releases(rollout).await?) else {
            continue;
        };
        let what = format!("{namespace}/{}", release.key);
        if leaving.dry {
            left.ended.push(what);
            continue;
        }
        let abort = CommandRequest {
            kind: CommandKind::Abort,
            reason: Some("Wade is uninstalled".to_owned()),
        };
        // Past the hand over there is no way back, and none is needed: it is waited for all the same.
        let refused = cluster.command(rollout, &abort).await.err();
        let watch = stopwatch();
        loop {
            cluster.settle(rollout).await?;
            if cluster.is_carrying() {
                let _ = tokio::time::timeout(leaving.within.saturating_sub(watch.elapsed()), cluster.finished()).await;
            }
            let Some(still) = running(cluster.releases(rollout).await?) else {
                break;
            };
            if watch.elapsed() > leaving.within {
                let why = refused
                    .map(|problem| format!(" ({})", problem.message))
                    .unwrap_or_default();
                return Err(Problem {
                    kind: ProblemKind::Conflict,
                    message: format!(
                        "{what} is still {}{why}; nothing was removed that it needs. `wade why deployment/{rollout} -n {namespace}` says at what, then run this again",
                        still.phase
                    ),
                });
            }
            tokio::time::sleep(LOOK).await;
        }
        left.ended.push(what);
    }
    Ok(())
}

/// Waits until no pod of the daemon is left.
async fn gone(system: &ApiServer) -> Result<(), Problem> {
    let selector = Selection::labels(format!("app.kubernetes.io/name={NAME}"));
    let watch = stopwatch();
    while watch.elapsed() < GONE_WITHIN {
        let pods = system.list(Kind::Pod, &selector).await.map_err(|error| told(&error))?;
        if pods.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    Err(Problem {
        kind: ProblemKind::Unavailable,
        message: format!(
            "pods of the daemon are still there after {} s; `kubectl -n {SYSTEM} get pods` shows them. Run this again when they have gone",
            GONE_WITHIN.as_secs()
        ),
    })
}

/// Takes Wade's label and marks off every Deployment, and the pause off those that say what serves.
async fn lift_holds(everywhere: &ApiServer, dry: bool, left: &mut Left) -> Result<(), Problem> {
    let all = everywhere
        .list(Kind::Deployment, &Selection::default())
        .await
        .map_err(|error| told(&error))?;
    for deployment in all.iter().filter(|deployment| is_marked(deployment)) {
        let namespace = text(deployment, "/metadata/namespace");
        let what = format!("{namespace}/{}", name(deployment));
        let api = everywhere.in_namespace(namespace);
        let lifted = lift(&api, name(deployment), dry).await.map_err(|error| told(&error))?;
        match lifted {
            Lifted::Whole => left.lifted.push(what),
            Lifted::StillPaused => left.stays.push(format!(
                "deployment {what} is still paused: its template is not what serves, and would roll out unjudged; put the template right, then `kubectl -n {namespace} rollout resume deployment/{}`",
                name(deployment)
            )),
            Lifted::PausedBy(who) => left.stays.push(format!("deployment {what} is paused by {who}, as it was")),
            Lifted::Gone => {}
        }
    }
    Ok(())
}

enum Lifted {
    Whole,
    StillPaused,
    PausedBy(String),
    Gone,
}

fn is_marked(deployment: &Value) -> bool {
    label(deployment, HOLD).is_some() || MARKS.iter().any(|mark| annotation(deployment, mark).is_some())
}

/// How often a write that somebody else came before is tried again.
const TRIES: usize = 5;

async fn lift(api: &ApiServer, deployment: &str, dry: bool) -> Result<Lifted, ApiError> {
    for again in (0..TRIES).rev() {
        let Some(found) = Found::read(api, deployment).await? else {
            return Ok(Lifted::Gone);
        };
        let (patch, lifted) = unmarked(&found.deployment, &found.sets);
        if dry {
            return Ok(lifted);
        }
        match api.patch(Kind::Deployment, deployment, &patch).await {
            Ok(_) => return Ok(lifted),
            Err(error) if error.is_conflict() && again > 0 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Lifted::Gone)
}

/// The patch that takes Wade's marks off a Deployment, and whether it is whole afterwards.
fn unmarked(deployment: &Value, sets: &[Value]) -> (Patch, Lifted) {
    let mut changes = vec![json!({
        "op": "test", "path": "/metadata/resourceVersion", "value": resource_version(deployment),
    })];
    let mut drop = |place: &str, key: &str| {
        let key = key.replace('~', "~0").replace('/', "~1");
        changes.push(json!({ "op": "remove", "path": format!("/metadata/{place}/{key}") }));
    };
    if label(deployment, HOLD).is_some() {
        drop("labels", HOLD);
    }
    for mark in MARKS.iter().filter(|mark| annotation(deployment, mark).is_some()) {
        drop("annotations", mark);
    }
    let serves = sets.iter().any(|set| {
        is_controlled_by(set, deployment)
            && crate::apiserver::value::count(set, "/status/readyReplicas") > 0
            && template::same(&set["spec"]["template"], &deployment["spec"]["template"])
    });
    let by = managers::managers_of(deployment, &["spec", "paused"]);
    let theirs = by.into_iter().find(|manager| manager.manager != MANAGER);
    let lifted = match (flag(deployment, "/spec/paused"), theirs) {
        (true, Some(manager)) => Lifted::PausedBy(manager.manager),
        (true, None) if serves => {
            changes.push(json!({ "op": "remove", "path": "/spec/paused" }));
            Lifted::Whole
        }
        (true, None) => Lifted::StillPaused,
        (false, _) => Lifted::Whole,
    };
    (Patch::Json(Value::Array(changes)), lifted)
}

/// Takes Wade's finalizers off its objects: with the daemon gone nobody else would, and the definitions could not go.
async fn free_resources(everywhere: &ApiServer) -> Result<(), Problem> {
    for kind in [Kind::Rollout, Kind::Release, Kind::Freeze, Kind::ClusterStrategy] {
        let objects = match everywhere.list(kind, &Selection::default()).await {
            Ok(objects) => objects,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(told(&error)),
        };
        for object in &objects {
            let finalizers = list(object, "/metadata/finalizers");
            let kept: Vec<&Value> = finalizers
                .iter()
                .filter(|one| !one.as_str().is_some_and(|one| one.starts_with("wade.dev/")))
                .collect();
            if kept.len() == finalizers.len() {
                continue;
            }
            let patch = Patch::Merge(json!({ "metadata": { "finalizers": kept } }));
            let api = everywhere.in_namespace(text(object, "/metadata/namespace"));
            match api.patch(kind, name(object), &patch).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(told(&error)),
            }
        }
    }
    Ok(())
}

/// Jobs that were hooks of a release.
async fn hook_jobs(everywhere: &ApiServer) -> Result<Vec<Value>, Problem> {
    let hooks = Selection::labels(format!("{PART}={HOOK}"));
    everywhere.list(Kind::Job, &hooks).await.map_err(|error| told(&error))
}

/// Removes records, the Leases that Wade made, and the Jobs of hooks.
async fn purge(everywhere: &ApiServer, dry: bool, say: Say<'_>) -> Result<(), Problem> {
    let mut objects: Vec<(Kind, Value)> = records(everywhere)
        .await?
        .into_iter()
        .map(|record| (Kind::ConfigMap, record))
        .collect();
    let ours = Selection::labels("app.kubernetes.io/managed-by=wade");
    let leases = everywhere
        .list(Kind::Lease, &ours)
        .await
        .map_err(|error| told(&error))?;
    objects.extend(leases.into_iter().map(|lease| (Kind::Lease, lease)));
    objects.extend(hook_jobs(everywhere).await?.into_iter().map(|job| (Kind::Job, job)));
    let mut seen = BTreeSet::new();
    for (kind, object) in &objects {
        let namespace = text(object, "/metadata/namespace");
        if !seen.insert((*kind, namespace, name(object))) {
            continue;
        }
        if !dry {
            let api = everywhere.in_namespace(namespace);
            api.delete(*kind, name(object), None)
                .await
                .map_err(|error| told(&error))?;
        }
        say(*kind, &format!("{namespace}/{}", name(object)), Change::Removed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(paused: bool, image: &str) -> Value {
        json!({
            "metadata": {
                "name": "checkout", "namespace": "shop", "uid": "d", "resourceVersion": "7",
                "labels": {HOLD: "true", "team": "pay"}, "annotations": {WRITE: "3", "own": "x"},
            },
            "spec": {"paused": paused, "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "app", "image": image}]}}},
        })
    }

    fn set(image: &str) -> Value {
        json!({
            "metadata": {"name": "checkout-1", "ownerReferences": [{"kind": "Deployment", "name": "checkout", "uid": "d", "controller": true}]},
            "spec": {"template": {"metadata": {"labels": {"app": "x", "pod-template-hash": "1"}}, "spec": {"containers": [{"name": "app", "image": image}]}}},
            "status": {"readyReplicas": 2},
        })
    }

    fn operations(patch: &Patch) -> Vec<String> {
        let Patch::Json(Value::Array(changes)) = patch else {
            panic!("{patch:?}")
        };
        changes
            .iter()
            .map(|change| {
                format!(
                    "{} {}",
                    change["op"].as_str().unwrap_or_default(),
                    change["path"].as_str().unwrap_or_default()
                )
            })
            .collect()
    }

    #[test]
    fn a_pause_is_lifted_only_where_nothing_would_roll_out() {
        let marks = [
            "test /metadata/resourceVersion",
            "remove /metadata/labels/wade.dev~1hold",
            "remove /metadata/annotations/wade.dev~1write",
        ];
        let (patch, lifted) = unmarked(&deployment(true, "app:1"), &[set("app:1")]);
        assert_eq!(operations(&patch)[..3], marks);
        assert_eq!(operations(&patch)[3..], ["remove /spec/paused"]);
        assert!(matches!(lifted, Lifted::Whole));
        let (patch, lifted) = unmarked(&deployment(true, "app:bad"), &[set("app:1")]);
        assert_eq!(operations(&patch), marks, "it stays paused");
        assert!(matches!(lifted, Lifted::StillPaused));
        let mut theirs = deployment(true, "app:1");
        theirs["metadata"]["managedFields"] = json!([{
            "manager": "kubectl-rollout", "operation": "Update", "fieldsV1": {"f:spec": {"f:paused": {}}},
        }]);
        let (patch, lifted) = unmarked(&theirs, &[set("app:1")]);
        assert_eq!(operations(&patch), marks, "a person's pause is theirs");
        assert!(matches!(lifted, Lifted::PausedBy(_)));
        let (patch, lifted) = unmarked(&deployment(false, "app:1"), &[set("app:1")]);
        assert_eq!(operations(&patch), marks);
        assert!(matches!(lifted, Lifted::Whole));
    }

    #[test]
    fn what_is_removed_is_all_that_can_be_installed() {
        let names = |objects: &[Value]| -> BTreeSet<(Kind, String)> {
            objects
                .iter()
                .map(|object| (kind_of(object).expect("known"), name(object).to_owned()))
                .collect()
        };
        let gone = names(&everything());
        for hold in [HoldApi::None, HoldApi::V1, HoldApi::V1Beta1] {
            let settings = Settings {
                hold,
                ..Settings::default()
            };
            assert!(names(&manifests(&settings)).is_subset(&gone));
        }
    }
}
