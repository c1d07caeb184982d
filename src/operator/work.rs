//! Doing what is to be done about one Deployment: opting it in and out, releasing what waits, going on with what a dead
//! run left, and saying what goes on in the objects' own status.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::consider::{HoldMode, Looked};
use super::fleet::{At, PolicySketch, SHOWN};
use super::status::{ReleaseStanding, Standing};
use super::{Operator, trouble};
use crate::apiserver::value::{annotation, flag, label, resource_version, text};
use crate::apiserver::{ApiServer, Kind, Patch};
use crate::cluster::admit::Ask;
use crate::cluster::{Cluster, Options};
use crate::controller::Notice;
use crate::crd;
use crate::crd::release::{ReleaseSpec, Target};
use crate::daemon::api::{Problem, ProblemKind, ReleaseRequest, Started};
use crate::daemon::client::Door;
use crate::engine::{Actor, apply};
use crate::platforms::kubernetes::{HOLD, LEFT_PAUSED, RELEASE, template};
use crate::store::{ReleaseKey, ReleaseRecord};

/// How often it is looked whether whoever carries a release still lives.
const LOOK: Duration = Duration::from_secs(1);
/// How soon what could not be done for want of an answer is tried again.
const AGAIN: Duration = Duration::from_secs(3);

impl Operator {
    fn api(&self, at: &At) -> ApiServer {
        self.place.in_namespace(&at.namespace)
    }

    /// From now on only a release puts its template into force; no pod is touched.
    pub(super) async fn adopt(self: Arc<Self>, at: &At) {
        let patch = Patch::Merge(json!({ "metadata": { "labels": { HOLD: "true" } } }));
        match self.api(at).patch(Kind::Deployment, &at.name, &patch).await {
            Ok(_) => tracing::info!(
                namespace = at.namespace,
                deployment = at.name,
                "adopted: its changes become releases"
            ),
            Err(error) => trouble(at, "it cannot be adopted", &error),
        }
    }

    /// The Deployment is nobody's but its owner's again.
    pub(super) async fn disown(self: Arc<Self>, at: &At) {
        let api = self.api(at);
        let deployment = match api.get(Kind::Deployment, &at.name).await {
            Ok(Some(deployment)) => deployment,
            Ok(None) => return,
            Err(error) => return trouble(at, "it cannot be let go of", &error),
        };
        if let Some(patch) = let_go(&deployment) {
            match api.patch(Kind::Deployment, &at.name, &patch).await {
                Ok(_) => tracing::info!(
                    namespace = at.namespace,
                    deployment = at.name,
                    "let go of: there is no Rollout about it any more"
                ),
                Err(error) => trouble(at, "it cannot be let go of", &error),
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
        let api = self.api(at);
        let seen = self.fleet.deployment(at);
        let deployment = match api.get(Kind::Deployment, &at.name).await {
            Ok(Some(deployment)) => deployment,
            Ok(None) => return,
            Err(error) => return trouble(at, "it cannot be looked at", &error),
        };
        let same = template::hash(&template::without_hash(&deployment["spec"]["template"]));
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
            Err(error) if !error.is_conflict() => trouble(at, "its pause cannot be changed", &error),
            _ => {}
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
                self.say(&policy, "Idle", format!("{} serves", started.canary), None)
                    .await;
            }
            Err(problem) if problem.kind == ProblemKind::Unavailable => {
                tracing::warn!(namespace = at.namespace, deployment = at.name, error = %problem, "the release cannot begin yet");
                self.say(&policy, "Waiting", problem.message, None).await;
                tokio::time::sleep(AGAIN).await;
            }
            Err(problem) => {
                tracing::warn!(namespace = at.namespace, deployment = at.name, error = %problem, "refused");
                self.remember(at, &seen.template, Looked::Refused);
                self.say(&policy, "Refused", problem.message, None).await;
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
            Ok(Some(object)) => object,
            Ok(None) => return,
            Err(error) => {
                trouble(at, "what is asked for cannot be read", &error);
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
                    let status = json!({ "phase": "unchanged", "canary": started.canary, "stable": started.stable,
                        "message": started.found.join("; ") });
                    self.put_status(at, Kind::Release, ask, &status).await;
                }
            },
            Err(problem) if problem.kind == ProblemKind::Unavailable => {
                tracing::warn!(namespace = at.namespace, deployment = at.name, error = %problem, "the release cannot begin yet");
                tokio::time::sleep(AGAIN).await;
            }
            Err(problem) => {
                let kind = serde_json::to_value(problem.kind).unwrap_or_default();
                let status = json!({ "phase": "refused", "problem": kind, "message": problem.message });
                self.put_status(at, Kind::Release, ask, &status).await;
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
                tracing::warn!(namespace = at.namespace, deployment = at.name, error = %problem, "what a dead run left cannot be looked at");
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
                    tracing::warn!(namespace = at.namespace, deployment = at.name, error = %problem, "what a dead run left cannot be taken up");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// Says in the objects how a release goes, to its end.
    async fn follow(
        &self,
        at: &At,
        policy: &PolicySketch,
        cluster: &Arc<Cluster>,
        key: ReleaseKey,
        ask: Option<(&str, &Started)>,
    ) {
        let mut record = match cluster.record(&key).await {
            Ok(record) => record,
            Err(problem) => {
                tracing::warn!(namespace = at.namespace, release = %key, error = %problem, "its record cannot be read");
                let _ = cluster.finished().await;
                return;
            }
        };
        let shown = match ask {
            Some((name, _)) => name.to_owned(),
            None => self.show(at, policy, &record).await,
        };
        let words = ask.map(|(_, started)| json!({ "found": started.found, "plan": started.plan }));
        let first = record.history.last().map_or(1, |entry| entry.number + 1);
        let mut told: Option<ReleaseStanding> = None;
        let mut notices = cluster.events(&key, first).await.ok();
        loop {
            let standing = ReleaseStanding::of(&record);
            let news = told.as_ref().is_none_or(|told| {
                (told.phase, &told.weight, told.outcome) != (standing.phase, &standing.weight, standing.outcome)
            });
            if news {
                let mut status = standing.object();
                if let Some(words) = &words {
                    status["found"] = words["found"].clone();
                    status["plan"] = words["plan"].clone();
                }
                self.put_status(at, Kind::Release, &shown, &status).await;
                let phase = if standing.outcome.is_some() {
                    "Idle"
                } else {
                    "Releasing"
                };
                self.say(policy, phase, standing.message.clone(), Some(standing.clone()))
                    .await;
                told = Some(standing);
            }
            let Some(following) = &mut notices else { break };
            match following.next().await {
                Ok(Some(Notice::Entry { entry, .. })) => {
                    if let Ok(state) = apply(&record.plan, &record.state, &entry.event, entry.at) {
                        record.state = state;
                    }
                    record.history.push(entry);
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => notices = None,
            }
        }
        for late in cluster.finished().await {
            tracing::warn!(namespace = at.namespace, release = %key, "{late}");
        }
        if let Ok(record) = cluster.record(&key).await {
            let standing = ReleaseStanding::of(&record);
            self.put_status(at, Kind::Release, &shown, &standing.object()).await;
            if let Some(outcome) = standing.outcome {
                tracing::info!(
                    namespace = at.namespace,
                    deployment = at.name,
                    release = key.number,
                    outcome,
                    "{}",
                    standing.message
                );
                self.say(policy, "Idle", standing.message.clone(), Some(standing)).await;
            }
        }
    }

    /// An object that shows a release which nobody asked for by one; its name.
    async fn show(&self, at: &At, policy: &PolicySketch, record: &ReleaseRecord) -> String {
        let shown = format!("{}-{}", at.name, record.key.number);
        let object = json!({
            "apiVersion": Kind::Release.api_version(), "kind": Kind::Release.name(),
            "metadata": {
                "name": shown,
                "labels": { SHOWN: "true" },
                "ownerReferences": [{ "apiVersion": Kind::Rollout.api_version(), "kind": Kind::Rollout.name(),
                    "name": policy.at.name, "uid": policy.uid }],
            },
            "spec": ReleaseSpec {
                rollout: policy.at.name.clone(),
                by: record.by.user.clone(),
                reason: record.reason.clone(),
                target: Target::Held,
                ..ReleaseSpec::default()
            },
        });
        match self.api(at).create(Kind::Release, &object).await {
            Ok(_) => {}
            Err(error) if matches!(error.fault, crate::apiserver::Fault::Exists) => {}
            Err(error) => trouble(at, "the release cannot be shown as an object", &error),
        }
        self.forget_old(at, policy).await;
        shown
    }

    /// Release objects beyond those that the record keeps too.
    async fn forget_old(&self, at: &At, policy: &PolicySketch) {
        let mut over: Vec<(u64, String)> = self
            .fleet
            .asks(at)
            .into_iter()
            .filter(|(_, ask)| ask.over && ask.rollout == policy.at.name)
            .filter_map(|(name, ask)| Some((ask.number?, name)))
            .collect();
        over.sort();
        let most = crate::store::shared::DEFAULT_KEPT_RELEASES as usize;
        let old = over.len().saturating_sub(most);
        for (_, name) in over.into_iter().take(old) {
            // One that cannot be removed now is tried again with the next release.
            let _ = self.api(at).delete(Kind::Release, &name, None).await;
        }
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

    /// Nothing runs: what there is to say is what is wrong with the Rollout, or that all is well.
    pub(super) async fn say_resting(self: Arc<Self>, at: &At) {
        let policies = self.fleet.policies(at);
        if let [one, another, ..] = policies.as_slice() {
            for policy in &policies {
                let other = if policy.at == one.at { another } else { one };
                let message = format!(
                    "rollout {} is about the same deployment {}; remove one of them",
                    other.at.name, at.name
                );
                self.say(policy, "Invalid", message, None).await;
            }
            return;
        }
        let Some(policy) = policies.into_iter().next() else {
            return;
        };
        match &policy.deployment {
            Err(faults) => self.say(&policy, "Invalid", faults.clone(), None).await,
            Ok(_) => {
                let before: Value = serde_json::from_str(&policy.status).unwrap_or_default();
                let generation = crate::apiserver::value::number(&before, "/observedGeneration");
                let settled = matches!(text(&before, "/phase"), "Idle" | "Refused" | "Releasing");
                if settled && generation == Some(policy.generation) {
                    return;
                }
                let message = format!("deployment {} is looked after", at.name);
                self.say(&policy, "Idle", message, None).await;
            }
        }
    }

    /// The Deployment is not there.
    pub(super) async fn say_missing(self: Arc<Self>, at: &At) {
        for policy in self.fleet.policies(at) {
            let (phase, message) = match &policy.deployment {
                Ok(name) => (
                    "Missing",
                    format!(
                        "there is no deployment {name} in namespace {}; create it with `kubectl apply`",
                        at.namespace
                    ),
                ),
                Err(faults) => ("Invalid", faults.clone()),
            };
            self.say(&policy, phase, message, None).await;
        }
    }

    async fn say(&self, policy: &PolicySketch, phase: &'static str, message: String, release: Option<ReleaseStanding>) {
        // The newest sketch: what stands there may be our own last word.
        let policies = self.fleet.policies(&policy.about());
        let Some(policy) = policies.iter().find(|one| one.at == policy.at) else {
            return;
        };
        let standing = Standing {
            phase,
            message,
            release,
        };
        if let Some(status) = standing.object(policy, self.clock.now()) {
            self.put_status(&policy.at, Kind::Rollout, &policy.at.name, &status)
                .await;
            self.fleet.wrote_status(&policy.at, &status.to_string());
        }
    }

    async fn put_status(&self, at: &At, kind: Kind, name: &str, status: &Value) {
        let patch = Patch::Merge(json!({ "status": status }));
        match self.api(at).patch_at(kind, name, Some("status"), &patch).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => trouble(at, "a status cannot be written", &error),
        }
    }
}

/// Says in the objects how a release goes that was begun through the API.
pub(super) fn follow_begun(
    operator: &Arc<Operator>,
    at: &At,
    policy: PolicySketch,
    cluster: Arc<Cluster>,
    key: ReleaseKey,
) {
    let what = format!("api {}", key.number);
    let working = what.clone();
    operator.begin(at, &what, true, move |operator, at| async move {
        operator.works_through(&at, &working, &cluster);
        operator.follow(&at, &policy, &cluster, key, None).await;
    });
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
