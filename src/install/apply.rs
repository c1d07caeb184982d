//! Putting everything into a cluster, object by object, and saying what changed.
//!
//! Server-side apply with force as [`INSTALLER`]: running it again changes nothing, and what others have added (an
//! annotation, more replicas by hand are not among it) stays. Before anything is touched, all rights that it takes are
//! asked for at once. A dry run asks the server what would become of each object, and stores nothing.

use std::time::Duration;

use serde_json::{Value, json};

use super::{HoldApi, INSTALLER, NAME, SYSTEM, Settings, kind_of, manifests};
use crate::apiserver::value::{condition, count, flag, list, name, number, resource_version, text};
use crate::apiserver::{ApiError, ApiServer, Kind, Patch, Selection};
use crate::clock::stopwatch;
use crate::cluster::told;
use crate::daemon::api::{Problem, ProblemKind};

/// Where one right is asked for.
const ACCESS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
/// How often something that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long the definitions may take to be served.
const ESTABLISHED_WITHIN: Duration = Duration::from_secs(30);

/// What came of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was not there.
    Created,
    /// It was there, and is different now.
    Changed,
    /// It was there just so.
    Unchanged,
    /// It was there, and is gone now.
    Removed,
}

impl Change {
    /// The word in the output.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::Removed => "removed",
        }
    }
}

/// Told of each object as it is done, by kind and name.
pub type Say<'a> = &'a mut (dyn FnMut(Kind, &str, Change) + Send);

/// Which version of the holding policy the API server serves.
///
/// # Errors
/// Not reachable.
pub async fn hold_api(api: &ApiServer) -> Result<HoldApi, Problem> {
    for (kind, found) in [
        (Kind::MutatingAdmissionPolicyV1, HoldApi::V1),
        (Kind::MutatingAdmissionPolicy, HoldApi::V1Beta1),
    ] {
        let group = kind.api_version();
        if api.serves(&group, kind.plural()).await.map_err(|error| told(&error))? {
            return Ok(found);
        }
    }
    Ok(HoldApi::None)
}

/// Installs everything, or asks what would be changed.
///
/// # Errors
/// Rights are missing (all of them are named, nothing has been touched), or the server refuses an object.
pub async fn install(api: &ApiServer, settings: &Settings, dry: bool, say: Say<'_>) -> Result<(), Problem> {
    let objects = manifests(settings);
    let mut kinds: Vec<Kind> = objects.iter().filter_map(kind_of).collect();
    kinds.dedup();
    permitted(api, &kinds, &["get", "patch", "create"]).await?;
    let api = api.in_namespace(SYSTEM);
    let mut waited = false;
    for object in &objects {
        let kind = kind_of(object).expect("every manifest of ours has a kind that is known");
        // What follows the definitions may name them.
        if !dry && !waited && kind != Kind::Namespace && kind != Kind::CustomResourceDefinition {
            established(&api).await?;
            waited = true;
        }
        let change = apply(&api, kind, object, dry).await.map_err(|error| told(&error))?;
        say(kind, name(object), change);
    }
    Ok(())
}

async fn apply(api: &ApiServer, kind: Kind, object: &Value, dry: bool) -> Result<Change, ApiError> {
    let before = api.get(kind, name(object)).await?;
    let patch = Patch::Apply {
        object: object.clone(),
        manager: INSTALLER.to_owned(),
        force: true,
    };
    if !dry {
        let after = api.patch(kind, name(object), &patch).await?;
        return Ok(match before {
            None => Change::Created,
            Some(before) if resource_version(&before) == resource_version(&after) => Change::Unchanged,
            Some(_) => Change::Changed,
        });
    }
    let Some(before) = before else {
        // In a namespace that is not there yet the server could not even try.
        return Ok(Change::Created);
    };
    let after = api.try_patch(kind, name(object), &patch).await?;
    Ok(if essence(before) == essence(after) {
        Change::Unchanged
    } else {
        Change::Changed
    })
}

/// An object without what the server writes about it.
fn essence(mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in [
            "managedFields",
            "resourceVersion",
            "generation",
            "uid",
            "creationTimestamp",
        ] {
            metadata.remove(field);
        }
    }
    if let Some(object) = object.as_object_mut() {
        object.remove("status");
    }
    object
}

async fn established(api: &ApiServer) -> Result<(), Problem> {
    let watch = stopwatch();
    loop {
        let all = api
            .list(Kind::CustomResourceDefinition, &Selection::default())
            .await
            .map_err(|error| told(&error))?;
        let ours = all
            .iter()
            .filter(|definition| text(definition, "/spec/group") == Kind::Rollout.group());
        let waiting: Vec<&str> = ours
            .filter(|definition| {
                let is = condition(definition, "Established").is_some_and(|found| found["status"] == "True");
                !is
            })
            .map(name)
            .collect();
        if waiting.is_empty() {
            return Ok(());
        }
        if watch.elapsed() > ESTABLISHED_WITHIN {
            return Err(Problem {
                kind: ProblemKind::Unavailable,
                message: format!(
                    "the API server does not serve {} yet; `kubectl describe crd {}` says why",
                    waiting.join(", "),
                    waiting[0]
                ),
            });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until the daemon's pods are there and ready.
///
/// # Errors
/// They are not within `within`; the sentence says what the pods say.
pub async fn available(api: &ApiServer, within: Duration) -> Result<(), Problem> {
    let api = api.in_namespace(SYSTEM);
    let watch = stopwatch();
    loop {
        let deployment = api.get(Kind::Deployment, NAME).await.map_err(|error| told(&error))?;
        let deployment = deployment.unwrap_or_default();
        let wanted = count(&deployment, "/spec/replicas");
        let seen = number(&deployment, "/status/observedGeneration") >= number(&deployment, "/metadata/generation");
        let updated = count(&deployment, "/status/updatedReplicas") == wanted;
        if seen && updated && count(&deployment, "/status/availableReplicas") >= wanted && wanted > 0 {
            return Ok(());
        }
        if watch.elapsed() > within {
            return Err(Problem {
                kind: ProblemKind::Unavailable,
                message: format!(
                    "deployment {NAME} in namespace {SYSTEM} has {} of {wanted} pods available{}; `kubectl -n {SYSTEM} describe pods` says more",
                    count(&deployment, "/status/availableReplicas"),
                    trouble(&api).await
                ),
            });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What the daemon's containers wait for, as far as they say.
async fn trouble(api: &ApiServer) -> String {
    let selector = Selection::labels(format!("app.kubernetes.io/name={NAME}"));
    let pods = api.list(Kind::Pod, &selector).await.unwrap_or_default();
    let said = pods.iter().find_map(|pod| {
        let states = list(pod, "/status/containerStatuses");
        states.iter().find_map(|state| {
            let waiting = &state["state"]["waiting"];
            let why = waiting["reason"].as_str()?;
            Some(format!(" (pod {}: {why} {})", name(pod), text(waiting, "/message")))
        })
    });
    said.map(|words| words.trim_end().to_owned()).unwrap_or_default()
}

/// Asks for every right at once, before anything is touched.
pub(super) async fn permitted(api: &ApiServer, kinds: &[Kind], verbs: &[&str]) -> Result<(), Problem> {
    let mut wanted = Vec::new();
    for kind in kinds {
        for verb in verbs {
            if !wanted.contains(&(*kind, *verb)) {
                wanted.push((*kind, *verb));
            }
        }
    }
    let answers = futures_util::future::join_all(wanted.iter().map(|(kind, verb)| allowed(api, *kind, verb))).await;
    let mut lacking = Vec::new();
    for ((kind, verb), answer) in wanted.iter().zip(answers) {
        if !answer.map_err(|error| told(&error))? {
            lacking.push(format!("{verb} {}", kind.resource()));
        }
    }
    if lacking.is_empty() {
        return Ok(());
    }
    Err(Problem {
        kind: ProblemKind::Forbidden,
        message: format!(
            "nothing was touched: this takes rights that you lack in {}: {}; ask somebody with cluster-admin, or have them apply what `wade install --manifests` prints",
            api.place(),
            lacking.join(", ")
        ),
    })
}

async fn allowed(api: &ApiServer, kind: Kind, verb: &str) -> Result<bool, ApiError> {
    let namespace = if kind.is_of_the_cluster() { "" } else { SYSTEM };
    let question = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": { "resourceAttributes": {
            "verb": verb, "group": kind.group(), "resource": kind.plural(), "namespace": namespace,
        }},
    });
    Ok(flag(&api.review(ACCESS, &question).await?, "/status/allowed"))
}
