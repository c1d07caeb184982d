//! Doing what is to be done about one Deployment: opting it in and out, releasing what waits, going on with what a dead
//! run left.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::SemaphorePermit;

use super::Operator;
use super::consider::{HoldMode, Looked};
use super::fleet::{At, PolicySketch};
use super::writer::Voice;
use crate::apiserver::value::{annotation, flag, label, resource_version, text};
use crate::apiserver::{ApiServer, Kind, Patch};
use crate::cluster::admit::Ask;
use crate::cluster::{Cluster, Options};
use crate::crd::release::ReleaseSpec;
use crate::crd::{self, ReleaseStatus};
use crate::daemon::api::{Problem, ProblemKind, ReleaseRequest, Started};
use crate::daemon::client::Door;
use crate::engine::Actor;
use crate::platforms::kubernetes::{HOLD, LEFT_PAUSED, RELEASE, template};

/// How often it is looked whether whoever carries a release still lives.
const LOOK: Duration = Duration::from_secs(1);
/// How soon what could not be done for want of an answer is tried again.
pub(super) const AGAIN: Duration = Duration::from_secs(3);

impl Operator {
    pub(super) fn api(&self, at: &At) -> ApiServer {
        self.place.in_namespace(&at.namespace)
    }

    /// From now on only a release puts its template into force; no pod is touched.
    pub(super) async fn adopt(self: Arc<Self>, at: &At) {
        let _room = self.room().await;
        let patch = Patch::Merge(json!({ "metadata": { "labels": { HOLD: "true" } } }));
        match self.api(at).patch(Kind::Deployment, &at.name, &patch).await {
            Ok(_) => {
                self.no_trouble(at);
                tracing::info!(
                    namespace = at.namespace,
                    deployment = at.name,
                    "adopted: its changes become releases"
                );
            }
            Err(error) => {
                self.trouble(at, "it cannot be adopted", &error);
                for policy in self.fleet.policies(at) {
                    let message = format!("deployment {} cannot be adopted yet: {error}", at.name);
                    self.say(&policy, "Waiting", message, None, Voice::Leader);
                }
            }
        }
    }

    /// Waits until a small change may be made.
    async fn room(&self) -> SemaphorePermit<'_> {
        self.small.acquire().await.expect("it is never closed")
    }

    /// The Deployment is nobody's but its owner's again.
    pub(super) async fn disown(self: Arc<Self>, at: &At) {
        let _room = self.room().await;
        let api = self.api(at);
        let deployment = match api.get(Kind::Deployment, &at.name).await {
            Ok(Some(deployment)) => deployment,
            Ok(None) => return,
            Err(error) => return self.trouble(at, "it cannot be let go of", &error),
        };
        if let Some(patch) = let_go(&deployment) {
            match api.patch(Kind::Deployment, &at.name, &patch).await {
                Ok(_) => {
                    self.no_trouble(at);
                    tracing::info!(
                        namespace = at.namespace,
                        deployment = at.name,
                        "let go of: there is no Rollout about it any more"
                    );
                }
                Err(error) => self.trouble(at, "it cannot be let go of", &error),
            }
        }
    }

    /// Paused until its template changes, where no policy does that in time.
    pub(super) async fn pause(self: Arc<Self>, at: &At) {
        self.set_paused(at, true).await;
    }

    /// It goes on: nothing waits any more.
    pub(super) async fn resume(self: Arc<Self>, at: &At) {
        self.set_paused(at, false).await;
    }

    async fn set_paused(&self, at: &At, paused: bool) {
        let _room = self.room().await;
        let api = self.api(at);
        let seen = self.fleet.deployment(at);
        let deployment = match api.get(Kind::Deployment, &at.name).await {
            Ok(Some(deployment)) => deployment,
            Ok(None) => return,
            Err(error) => return self.trouble(at, "it cannot be looked at", &error),
        };
        let same = template::revision_of(&deployment);
        if annotation(&deployment, RELEASE).is_some() || seen.is_none_or(|seen| seen.template != same) {
            // Something has happened since; its news are on their way.
            return;
        }
        let mut changes =
            vec![json!({ "op": "test", "path": "/metadata/resourceVersion", "value": resource_version(&deployment) })];
        match (paused, flag(&deployment, "/spec/paused")) {
            (true, false) => changes.push(json!({ "op": "add", "path": "/spec/paused", "value": true })),
            (false, true) => changes.push(json!({ "op": "remove", "path": "/spec/paused" })),
            _ => return,
        }
        if annotation(&deployment, LEFT_PAUSED).is_some() {
            let mark = format!("/metadata/annotations/{}", LEFT_PAUSED.replace('/', "~1"));
            changes.push(json!({ "op": "remove", "path": mark }));
        }
        let patch = Patch::Json(Value::Array(changes));
        match api.patch(Kind::Deployment, &at.name, &patch).await {
            Err(error) if !error.is_conflict() => self.trouble(at, "its pause cannot be changed", &error),
            _ => self.no_trouble(at),
        }
    }

    /// Releases the template that waits in the Deployment.
    pub(super) async fn release_held(self: Arc<Self>, at: &At) {
        let Some(policy) = self.fleet.policies(at).into_iter().next() else {
            return;
        };
        let Some(seen) = self.fleet.deployment(at) else { return };
        let writer = seen.writer.clone().unwrap_or_default();
        let by = Actor::named(writer_of(&writer));
        let ask = Ask {
            held: true,
            stays_paused: self.mode() == HoldMode::Paused,
            ..Ask::default()
        };
        let request = ReleaseRequest {
            reason: (!writer.is_empty()).then(|| format!("the template was changed{writer}")),
            ..ReleaseRequest::default()
        };
        let begun = async {
            let cluster = self.cluster(&policy, ask, by).await?;
            if let Some(why) = cluster.not_again(&at.name).await? {
                return Err(Problem::new(ProblemKind::Conflict, why));
            }
            // It is looked at every minute as long as a freeze lasts: then the cheap question comes first.
            cluster.may_begin(&at.name, &request).await?;
            self.works_through(at, "held", &cluster);
            let started = cluster.release(&at.name, &request).await?;
            Ok::<_, Problem>((cluster, started))
        };
        match Box::pin(begun).await {
            Ok((cluster, Started { release: Some(key), .. })) => {
                self.follow(at, &policy, &cluster, key, None).await;
            }
            Ok((_, started)) => {
                self.remember(at, &seen.template, Looked::Serves);
                self.say(
                    &policy,
                    "Idle",
                    format!("{} serves", started.canary),
                    None,
                    Voice::Leader,
                );
            }
            Err(problem) if problem.kind == ProblemKind::Unavailable => {
                self.complain(at, "the release cannot begin yet", &problem);
                self.say(&policy, "Waiting", problem.message, None, Voice::Leader);
                // It must not take a place among the releases while it waits: what it waits for may need that place.
                self.remember(at, &seen.template, Looked::Waits);
            }
            Err(problem) => {
                tracing::warn!(namespace = at.namespace, deployment = at.name, error = %problem, "refused");
                self.remember(at, &seen.template, Looked::Refused);
                self.say(&policy, "Refused", problem.message, None, Voice::Leader);
            }
        }
    }

    /// Does what a Release object asks for, and says in it what came of it.
    pub(super) async fn follow_ask(self: Arc<Self>, at: &At, ask: &str) {
        let what = format!("release {ask}");
        let api = self.api(at);
        let Some(policy) = self.fleet.policies(at).into_iter().next() else {
            return;
        };
        let object = match api.get(Kind::Release, ask).await {
            // It may have been answered in a moment that the watch has not told of yet.
            Ok(Some(object)) if text(&object, "/status/phase").is_empty() => object,
            Ok(_) => return,
            Err(error) => {
                self.trouble(at, "what is asked for cannot be read", &error);
                return tokio::time::sleep(AGAIN).await;
            }
        };
        let begun = async {
            let spec: ReleaseSpec = crd::spec_of(&object).map_err(invalid)?;
            let wanted = Ask {
                stays_paused: self.mode() == HoldMode::Paused,
                ..spec.ask()
            };
            let request = spec.request();
            let cluster = self.cluster(&policy, wanted, Actor::named(&spec.by)).await?;
            self.works_through(at, &what, &cluster);
            let started = cluster.release(&at.name, &request).await?;
            Ok::<_, Problem>((cluster, started))
        };
        match Box::pin(begun).await {
            Ok((cluster, started)) => match started.release.clone() {
                Some(key) => self.follow(at, &policy, &cluster, key, Some((ask, &started))).await,
                None => {
                    let status = ReleaseStatus {
                        phase: Some("unchanged".to_owned()),
                        canary: Some(started.canary),
                        stable: started.stable,
                        message: Some(started.found.join("; ")),
                        ..ReleaseStatus::default()
                    };
                    self.show_release(at, ask, &status, Voice::Leader);
                }
            },
            Err(problem) if problem.kind == ProblemKind::Unavailable => {
                self.complain(at, "the release cannot begin yet", &problem);
                tokio::time::sleep(AGAIN).await;
            }
            Err(problem) => {
                let status = ReleaseStatus {
                    phase: Some("refused".to_owned()),
                    problem: serde_json::to_value(problem.kind)
                        .ok()
                        .and_then(|kind| Some(kind.as_str()?.to_owned())),
                    message: Some(problem.message),
                    ..ReleaseStatus::default()
                };
                self.show_release(at, ask, &status, Voice::Leader);
            }
        }
    }

    /// Goes on with a release that nobody carries any more: by its Rollout, or, where there is none, back to stable.
    pub(super) async fn take_up(self: Arc<Self>, at: &At) {
        let policy = self.fleet.policies(at).into_iter().next();
        let cluster = match &policy {
            Some(policy) => self.cluster(policy, Ask::default(), Actor::named("wade")).await,
            None => Cluster::new(
                self.api(at),
                Options {
                    actor: Some(Actor::named("wade")),
                    ..self.options()
                },
                Arc::clone(&self.clock),
            )
            .map(Arc::new),
        };
        let cluster = match cluster {
            Ok(cluster) => cluster,
            Err(problem) => {
                self.complain(at, "what a dead run left cannot be looked at", &problem);
                return tokio::time::sleep(AGAIN).await;
            }
        };
        self.works_through(at, "take up", &cluster);
        while self.leads() && self.fleet.deployment(at).is_some_and(|deployment| deployment.held) {
            let taken = match &policy {
                Some(_) => Box::pin(cluster.take_up(&at.name)).await,
                None => Box::pin(cluster.settle(&at.name)).await,
            };
            match taken {
                Ok(Some(key)) => {
                    tracing::info!(
                        namespace = at.namespace,
                        deployment = at.name,
                        release = key.number,
                        "going on with what nobody carried"
                    );
                    match &policy {
                        Some(policy) => self.follow(at, policy, &cluster, key, None).await,
                        None => {
                            let _ = cluster.finished().await;
                        }
                    }
                    return;
                }
                Ok(None) => tokio::time::sleep(LOOK).await,
                Err(problem) => {
                    self.complain(at, "what a dead run left cannot be taken up", &problem);
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        // Somebody else has brought it to its end.
        self.say_last(at).await;
    }

    /// Goes on with a release that holds its Deployment no more and is not over (its last hooks run), if nobody carries
    /// it; looks again later if somebody does.
    pub(super) async fn take_up_unheld(&self, at: &At, policy: &PolicySketch, what: &str) {
        let taken = async {
            let cluster = self.cluster(policy, Ask::default(), Actor::named("wade")).await?;
            self.works_through(at, what, &cluster);
            let key = Box::pin(cluster.take_up(&at.name)).await?;
            Ok::<_, Problem>((cluster, key))
        };
        match taken.await {
            Ok((cluster, Some(key))) => return self.follow(at, policy, &cluster, key, None).await,
            Ok((_, None)) => {}
            Err(problem) => self.complain(at, "what a dead run left cannot be taken up", &problem),
        }
        tokio::time::sleep(AGAIN).await;
        self.fleet.mark([at.clone()]);
    }

    /// The cluster as a release by this policy sees it.
    pub(super) async fn cluster(&self, policy: &PolicySketch, ask: Ask, by: Actor) -> Result<Arc<Cluster>, Problem> {
        let at = &policy.at;
        let api = self.api(at);
        let object = api
            .get(Kind::Rollout, &at.name)
            .await
            .map_err(Problem::unavailable)?
            .ok_or_else(|| Problem::unavailable(format!("rollout {} is gone", at.name)))?;
        let rollout = crd::rollout::read(&object).map_err(|faults| invalid(faults.to_string()))?;
        let options = Options {
            ask,
            rollout: Some(rollout),
            actor: Some(by),
            ..self.options()
        };
        Cluster::new(api, options, Arc::clone(&self.clock)).map(Arc::new)
    }

    /// What every release of this daemon keeps to, and is counted by.
    fn options(&self) -> Options {
        Options {
            home: Some(self.home.namespace().to_owned()),
            confined: Some(self.settings.hosts.clone()),
            telemetry: Some(Arc::clone(&self.telemetry)),
            ..Options::default()
        }
    }
}

/// What lets a Deployment go: the label, and the pause if it is Wade's and nothing waits behind it.
pub(super) fn let_go(deployment: &Value) -> Option<Patch> {
    if annotation(deployment, RELEASE).is_some() {
        // The release comes first.
        return None;
    }
    let mut changes =
        vec![json!({ "op": "test", "path": "/metadata/resourceVersion", "value": resource_version(deployment) })];
    if label(deployment, HOLD).is_some() {
        changes.push(json!({ "op": "remove", "path": format!("/metadata/labels/{}", HOLD.replace('/', "~1")) }));
    }
    let by = crate::platforms::kubernetes::managers::managers_of(deployment, &["spec", "paused"]);
    let ours = by.iter().all(|manager| manager.manager == crate::apiserver::MANAGER);
    let replicas = crate::apiserver::value::count(deployment, "/spec/replicas");
    let waits = crate::apiserver::value::count(deployment, "/status/updatedReplicas") != replicas;
    if flag(deployment, "/spec/paused") && ours && !waits && annotation(deployment, LEFT_PAUSED).is_none() {
        changes.push(json!({ "op": "remove", "path": "/spec/paused" }));
    }
    (changes.len() > 1).then_some(Patch::Json(Value::Array(changes)))
}

fn invalid(message: String) -> Problem {
    Problem::new(ProblemKind::Invalid, message)
}

/// `kubectl-set` from ` (last written by kubectl-set at …)`.
fn writer_of(words: &str) -> &str {
    words
        .strip_prefix(" (last written by ")
        .and_then(|rest| rest.split([' ', ')']).next())
        .unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letting_go_lifts_our_pause_and_nobody_elses() {
        let paused = |manager: &str, updated: u32| {
            json!({
                "metadata": { "resourceVersion": "7", "labels": { HOLD: "true" }, "managedFields": [
                    { "manager": manager, "operation": "Update", "fieldsV1": { "f:spec": { "f:paused": {} } } }] },
                "spec": { "paused": true, "replicas": 2 }, "status": { "updatedReplicas": updated },
            })
        };
        let operations = |deployment: &Value| match let_go(deployment) {
            Some(Patch::Json(Value::Array(changes))) => changes.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!(operations(&paused("wade", 2)), 3, "the version, the label, the pause");
        assert_eq!(operations(&paused("kubectl", 2)), 2, "somebody wants it paused");
        assert_eq!(
            operations(&paused("wade", 0)),
            2,
            "a template waits that nobody has judged"
        );
    }

    #[test]
    fn the_writer_is_named_as_the_server_knows_it() {
        assert_eq!(
            writer_of(" (last written by kubectl-set at 2026-03-02T10:00:00Z)"),
            "kubectl-set"
        );
        assert_eq!(writer_of(" (last written by helm)"), "helm");
        assert_eq!(writer_of(""), "unknown");
    }
}
