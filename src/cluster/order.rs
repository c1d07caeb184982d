//! What has to be true elsewhere before a release begins here: other rollouts are through (`spec.after`), the same images
//! have been promoted in another namespace (`spec.requires`).
//!
//! Both are looked at before anything is touched. What is under way may be waited for; what stands still is said.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::wait::unfinished;
use super::{Cluster, told};
use crate::apiserver::value::{flag, is_controlled_by, label, name};
use crate::apiserver::{ApiServer, Kind, Selection};
use crate::daemon::api::{Problem, ProblemKind};
use crate::platforms::kubernetes::{HASH, digest, template};
use crate::spec::{Requires, Rollout};
use crate::store::configmap::ConfigMapStore;

/// How long a step waits for what is under way elsewhere (`spec.after`, `spec.requires`), and how often it looks.
const ELSEWHERE_WITHIN: Duration = Duration::from_secs(30 * 60);
const ELSEWHERE_LOOK: Duration = Duration::from_secs(3);

/// How a condition stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// It holds. With what the canary's containers have to run, if that is asked.
    Holds(BTreeMap<String, String>),
    /// Not yet, and something is under way that may make it hold; what, in one sentence.
    UnderWay(String),
    /// Not, and nothing will change that by itself; why, in one sentence.
    Stands(String),
}

impl Cluster {
    /// Waits a moment for what is under way elsewhere. A daemon has others to look after: it comes back by itself.
    pub(super) async fn wait_elsewhere(&self, what: &str, begun: Instant) -> Result<(), Problem> {
        if self.options.confined.is_some() {
            return Err(Problem::unavailable(format!("waiting: {what}")));
        }
        if begun.elapsed() > ELSEWHERE_WITHIN {
            return Err(Problem::new(
                ProblemKind::Conflict,
                format!("{what}, for longer than a step of a pipeline should wait; run it again when that is over"),
            ));
        }
        tracing::info!("waiting: {what}");
        tokio::time::sleep(ELSEWHERE_LOOK).await;
        Ok(())
    }

    /// Whether a release of `template` by this rollout may begin, as far as others are concerned.
    ///
    /// # Errors
    /// The others cannot be looked at.
    pub(super) async fn order(&self, rollout: &Rollout, own: &str, template: &Value) -> Result<Order, Problem> {
        for other in &rollout.spec.after {
            if let Err(not) = through(&self.api, other).await? {
                return Ok(not);
            }
        }
        match &rollout.spec.requires {
            Some(requires) => self.required(requires, own, template).await,
            None => Ok(Order::Holds(BTreeMap::new())),
        }
    }

    async fn required(&self, requires: &Requires, own: &str, template: &Value) -> Result<Order, Problem> {
        let there = self.api.in_namespace(&requires.namespace);
        let deployment = requires.deployment.as_deref().unwrap_or(own);
        let place = format!("{}/{deployment}", requires.namespace);
        let object = match through(&there, deployment).await? {
            Ok(object) => object,
            Err(not) => return Ok(not),
        };
        let promoted = template::without_hash(&object["spec"]["template"]);
        if !was_promoted(&ConfigMapStore::open(&there, deployment), &promoted).await? {
            return Ok(Order::Stands(format!(
                "what serves in {place} has not been promoted there by Wade; release it there first"
            )));
        }
        if let Err(why) = same_images(template, &promoted, requires.same_digest) {
            return Ok(Order::Stands(format!(
                "{place} serves something else: {why}; release it there first"
            )));
        }
        if !requires.same_digest {
            return Ok(Order::Holds(BTreeMap::new()));
        }
        digests(&there, &object, &place).await
    }
}

/// The Deployment, if what was asked of it last serves; otherwise why it does not.
async fn through(api: &ApiServer, deployment: &str) -> Result<Result<Value, Order>, Problem> {
    let place = format!("{}/{deployment}", api.namespace());
    let store = ConfigMapStore::open(api, deployment);
    if let Some(running) = super::door::running(&store).await? {
        return Ok(Err(Order::UnderWay(format!(
            "{place} is being released (release {}, {})",
            running.key.number,
            running.state.phase.label()
        ))));
    }
    let object = api
        .get(Kind::Deployment, deployment)
        .await
        .map_err(|error| told(&error))?;
    let Some(object) = object else {
        return Ok(Err(Order::Stands(format!(
            "there is no deployment {place}, which has to be through first"
        ))));
    };
    let Some(what) = unfinished(&object) else {
        return Ok(Ok(object));
    };
    let id = template::revision_of(&object);
    let failed = store.quarantined(&id).await.map_err(Problem::unavailable)?;
    Ok(Err(match failed {
        Some(failed) => Order::Stands(format!(
            "what was asked of {place} last failed in release {} ({})",
            failed.release, failed.reason
        )),
        None if flag(&object, "/spec/paused") => Order::UnderWay(format!("a change waits in {place}: {what}")),
        None => Order::UnderWay(format!("{place} is rolling: {what}")),
    }))
}

async fn was_promoted(store: &ConfigMapStore, template: &Value) -> Result<bool, Problem> {
    let id = template::hash(template);
    let kept = store.releases().await.map_err(Problem::unavailable)?;
    Ok(kept
        .iter()
        .any(|record| record.canary.id == id && record.state.outcome().is_some_and(crate::engine::Outcome::is_forward)))
}

/// Whether every container that both have is called the same: the whole reference, or, where digests are compared
/// afterwards, what stands behind the name (registries may be mirrors of each other).
fn same_images(here: &Value, there: &Value, by_digest: bool) -> Result<(), String> {
    let theirs = template::images(there);
    for image in template::images(here) {
        let Some(other) = theirs.iter().find(|other| other.container == image.container) else {
            return Err(format!("it has no container {}", image.container));
        };
        let same = if by_digest {
            version(&image.image) == version(&other.image)
        } else {
            image.image == other.image
        };
        if !same {
            return Err(format!(
                "its container {} is {}, and this is {}",
                image.container,
                version(&other.image),
                version(&image.image)
            ));
        }
    }
    Ok(())
}

/// The digest or the tag of an image; all of it if it has neither.
fn version(image: &str) -> &str {
    if let Some((_, digest)) = image.rsplit_once('@') {
        return digest;
    }
    match image.rsplit_once(':') {
        Some((_, tag)) if !tag.contains('/') => tag,
        _ => image,
    }
}

/// What the pods of a Deployment run that is through: those of the ReplicaSet with its template.
async fn digests(api: &ApiServer, deployment: &Value, place: &str) -> Result<Order, Problem> {
    let sets = api.list(Kind::ReplicaSet, &Selection::default()).await;
    let sets = sets.map_err(|error| told(&error))?;
    let serves = |set: &&Value| {
        is_controlled_by(set, deployment) && template::revision_of(set) == template::revision_of(deployment)
    };
    let Some(hash) = sets.iter().find(serves).and_then(|set| label(set, HASH)) else {
        return Ok(Order::Stands(format!(
            "{place} has no ReplicaSet of what it should run"
        )));
    };
    let pods = Selection::labels(format!("{HASH}={hash}"));
    let pods = api.list(Kind::Pod, &pods).await.map_err(|error| told(&error))?;
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for pod in &pods {
        for (container, digest) in digest::running(pod) {
            let first = all.entry(container.clone()).or_insert_with(|| digest.clone());
            if *first != digest {
                return Ok(Order::Stands(format!(
                    "the pods of {place} run different images under one name in container {container} (pod {}); restart them there first",
                    name(pod)
                )));
            }
        }
    }
    if all.is_empty() {
        return Ok(Order::UnderWay(format!(
            "no pod of {place} says yet which image it runs"
        )));
    }
    Ok(Order::Holds(all))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(image: &str) -> Value {
        json!({"spec": {"containers": [{"name": "app", "image": image}]}})
    }

    #[test]
    fn images_are_the_same_by_reference_or_by_what_stands_behind_the_name() {
        let (here, mirror) = (of("prod.local:5000/shop:1.4"), of("stage.local:5000/shop:1.4"));
        assert_eq!(same_images(&here, &here, false), Ok(()));
        assert!(
            same_images(&here, &mirror, false).is_err(),
            "another registry may hold anything"
        );
        assert_eq!(same_images(&here, &mirror, true), Ok(()), "the digest tells");
        let newer = same_images(&of("shop:1.5"), &of("shop:1.4"), true).expect_err("another version");
        assert_eq!(newer, "its container app is 1.4, and this is 1.5");
        let other = json!({"spec": {"containers": [{"name": "web", "image": "shop:1.4"}]}});
        assert!(same_images(&here, &other, true).is_err());
        assert_eq!(version("localhost:5000/shop"), "localhost:5000/shop");
        assert_eq!(version("shop:1@sha256:ab"), "sha256:ab");
    }
}
