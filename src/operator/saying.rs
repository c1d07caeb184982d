//! Saying in the objects' own status what goes on: how a release goes, or why nothing does.
//!
//! What is said is worked out from what is known ([`super::status`]) and handed to the writer ([`super::writer`]): nothing
//! here waits for a status to be written. A release is followed by its own notices, whoever asked for it.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::Operator;
use super::fleet::{At, Fleet, PolicySketch, SHOWN};
use super::status::{ReleaseStanding, Standing, plain, standing_there, without_null};
use super::work::AGAIN;
use super::writer::{Pen, Target as Of, Voice};
use crate::apiserver::{ApiError, ApiServer, Fault, Kind, Patch};
use crate::cluster::Cluster;
use crate::controller::Notice;
use crate::crd::release::{ReleaseSpec, Target};
use crate::crd::{ReleaseStatus, RolloutStatus};
use crate::daemon::api::{Problem, Started};
use crate::daemon::client::Door;
use crate::engine::apply;
use crate::store::configmap::ConfigMapStore;
use crate::store::{ReleaseKey, ReleaseRecord};

impl Operator {
    /// Says in the objects how a release goes, to its end.
    pub(super) async fn follow(
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
        // Said once: what is written later is laid over it.
        let mut words = ask.map(|(_, started)| started);
        let first = record.history.last().map_or(1, |entry| entry.number + 1);
        let mut told: Option<ReleaseStanding> = None;
        let mut notices = cluster.events(&key, first).await.ok();
        loop {
            let standing = ReleaseStanding::of(&record);
            let news = told.as_ref().is_none_or(|told| {
                (told.phase, &told.weight, told.outcome) != (standing.phase, &standing.weight, standing.outcome)
            });
            if news {
                self.tell(at, policy, &shown, &standing, words.take());
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
        let last = cluster
            .record(&key)
            .await
            .map(|record| ReleaseStanding::of(&record))
            .ok();
        let Some((standing, outcome)) = last.and_then(|last| Some((last.clone(), last.outcome?))) else {
            // It goes on in other hands, which say how.
            self.writer.forget(&of_release(at, &shown));
            self.writer.forget(&of_rollout(&policy.at));
            return;
        };
        tracing::info!(
            namespace = at.namespace,
            deployment = at.name,
            release = key.number,
            outcome,
            "{}",
            standing.message
        );
        if told.as_ref() != Some(&standing) {
            self.tell(at, policy, &shown, &standing, None);
        }
    }

    /// Says in both objects how a release stands; `words` are those of its beginning.
    fn tell(&self, at: &At, policy: &PolicySketch, shown: &str, standing: &ReleaseStanding, words: Option<&Started>) {
        let mut status = standing.status();
        if let Some(words) = words {
            status.found.clone_from(&words.found);
            status.plan = Some(words.plan.clone());
        }
        self.show_release(at, shown, &status, Voice::Carrier);
        let phase = match standing.outcome {
            Some(_) => "Idle",
            None => "Releasing",
        };
        self.say(
            policy,
            phase,
            standing.message.clone(),
            Some(standing.clone()),
            Voice::Carrier,
        );
    }

    /// An object that shows a release which nobody asked for by one; its name.
    async fn show(&self, at: &At, policy: &PolicySketch, record: &ReleaseRecord) -> String {
        let asked = self.fleet.asks(at).into_iter();
        let mut begun = asked.filter(|(_, ask)| ask.number == Some(record.key.number) && !ask.over);
        if let Some((name, _)) = begun.next() {
            // Somebody asked for it, and whoever began it is gone.
            return name;
        }
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
            Err(error) if matches!(error.fault, Fault::Exists) => {}
            Err(error) => self.grumble(at, "the release cannot be shown as an object", &error),
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

    /// Nothing runs: what there is to say is what is wrong with the Rollout, or that all is well.
    pub(super) fn say_resting(self: &Arc<Self>, at: &At) {
        let policies = self.fleet.policies(at);
        if let [one, another, ..] = policies.as_slice() {
            for policy in &policies {
                let other = if policy.at == one.at { another } else { one };
                let message = format!(
                    "rollout {} is about the same deployment {}; remove one of them",
                    other.at.name, at.name
                );
                self.say(policy, "Invalid", message, None, Voice::Leader);
            }
            return;
        }
        let Some(policy) = policies.into_iter().next() else {
            return;
        };
        if let Err(faults) = &policy.deployment {
            self.say(&policy, "Invalid", faults.clone(), None, Voice::Leader);
            return;
        }
        let before = self.stands(&policy);
        let mut asks = self.fleet.asks(at).into_iter();
        let unfinished = asks.any(|(name, ask)| {
            ask.number.is_some() && ask.number == before.release && !ask.over && !self.is_answered(at, &name)
        });
        let same = before.observed_generation == i64::try_from(policy.generation).ok();
        if before.phase.as_deref() == Some("Releasing") || unfinished {
            // Whoever carried it did not come to say how it ended.
            self.begin(at, "last release", false, |operator, at| async move {
                operator.say_last(&at).await;
            });
            return;
        }
        let phase = match before.phase.as_deref() {
            Some("Idle") if same => "Idle",
            Some("Refused") if same => "Refused",
            _ => {
                self.say_idle(&policy, at);
                return;
            }
        };
        // The same again: whether a change is held may be news.
        self.say(&policy, phase, before.message.unwrap_or_default(), None, Voice::Leader);
    }

    fn say_idle(&self, policy: &PolicySketch, at: &At) {
        let message = format!("deployment {} is looked after", at.name);
        self.say(policy, "Idle", message, None, Voice::Leader);
    }

    /// Says how the last release ended, as its record has it.
    pub(super) async fn say_last(&self, at: &At) {
        let policies = self.fleet.policies(at);
        let [policy] = policies.as_slice() else { return };
        match ConfigMapStore::open(&self.api(at), &at.name).latest().await {
            Ok(Some(record)) => {
                let standing = ReleaseStanding::of(&record);
                if standing.outcome.is_some() {
                    for (name, ask) in self.fleet.asks(at) {
                        if ask.number == Some(standing.number) && !ask.over && !self.is_answered(at, &name) {
                            self.show_release(at, &name, &standing.status(), Voice::Leader);
                        }
                    }
                    self.say(policy, "Idle", standing.message.clone(), Some(standing), Voice::Leader);
                } else {
                    self.take_up_unheld(at, policy, "last release").await;
                }
            }
            Ok(None) => self.say_idle(policy, at),
            Err(error) => {
                self.complain(
                    at,
                    "how the last release ended cannot be read",
                    &Problem::unavailable(error),
                );
                tokio::time::sleep(AGAIN).await;
                self.fleet.mark([at.clone()]);
            }
        }
    }

    /// The Deployment is not there.
    pub(super) fn say_missing(&self, at: &At) {
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
            self.say(&policy, phase, message, None, Voice::Leader);
        }
    }

    pub(super) fn say(
        &self,
        policy: &PolicySketch,
        phase: &'static str,
        message: String,
        release: Option<ReleaseStanding>,
        voice: Voice,
    ) {
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
        let deployment = self.fleet.deployment(&policy.about());
        let before = self.stands(policy);
        if let Some(patch) = standing.patch(policy, deployment.as_ref(), &before, self.clock.now()) {
            self.writer.say(of_rollout(&policy.at), patch, voice);
        }
    }

    /// The Rollout's status as it stands there, or will as soon as it is written.
    fn stands(&self, policy: &PolicySketch) -> RolloutStatus {
        match self.writer.unwritten(&of_rollout(&policy.at)) {
            Some(patch) => serde_json::from_value(without_null(patch)).unwrap_or_default(),
            None => standing_there(&policy.status),
        }
    }

    pub(super) fn show_release(&self, at: &At, name: &str, status: &ReleaseStatus, voice: Voice) {
        self.writer.say(of_release(at, name), plain(status), voice);
    }

    /// Whether what came of a Release object has been said, if not written yet.
    pub(super) fn is_answered(&self, at: &At, ask: &str) -> bool {
        self.writer.unwritten(&of_release(at, ask)).is_some()
    }
}

fn of_rollout(at: &At) -> Of {
    Of {
        kind: Kind::Rollout,
        at: at.clone(),
    }
}

fn of_release(at: &At, name: &str) -> Of {
    Of {
        kind: Kind::Release,
        at: at.beside(name),
    }
}

/// Writes statuses on the API server.
pub(super) struct OnServer {
    place: ApiServer,
    fleet: Arc<Fleet>,
}

impl OnServer {
    /// On this server; what is known of the objects follows at once.
    pub(super) fn new(place: ApiServer, fleet: Arc<Fleet>) -> Self {
        Self { place, fleet }
    }
}

#[async_trait]
impl Pen for OnServer {
    async fn write(&self, target: &Of, status: &Value) -> Result<(), ApiError> {
        let api = self.place.in_namespace(&target.at.namespace);
        let patch = Patch::Merge(json!({ "status": status }));
        let written = api.patch_at(target.kind, &target.at.name, Some("status"), &patch).await;
        written.map(|_| ())
    }

    fn written(&self, target: &Of, status: &Value) {
        if target.kind == Kind::Release {
            let over = status.get("outcome").is_some_and(|outcome| !outcome.is_null());
            self.fleet.answered(&target.at, over);
        } else {
            let there = without_null(status.clone()).to_string();
            self.fleet.wrote_status(&target.at, &there);
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
