//! What a Rollout and a Release object say of themselves: written only when it is something else than what stands there.
//!
//! Plain functions over the types that the definitions are made of ([`RolloutStatus`], [`ReleaseStatus`]), so nothing can
//! be said that the API server would drop. Who writes it, and when, is [`super::writer`]'s.

use jiff::Timestamp;
use serde_json::Value;

use super::fleet::{DeploymentSketch, PolicySketch};
use crate::apiserver::MANAGER;
use crate::crd::condition::{Condition, set};
use crate::crd::{ReleaseStatus, RolloutStatus};
use crate::daemon::views::reason;
use crate::engine::desired::split_now;
use crate::engine::{Outcome, Phase};
use crate::plan::ALL_STABLE;
use crate::store::ReleaseRecord;

/// The status of a Rollout.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// `Idle`, `Releasing`, `Refused`, `Invalid`, `Missing`, `Waiting`.
    pub phase: &'static str,
    /// The phase of the release that runs, and what it waits for; or why nothing runs.
    pub message: String,
    /// The last release, if one is kept.
    pub release: Option<ReleaseStanding>,
}

/// What is shown of a release.
#[derive(Clone, Debug, PartialEq)]
pub struct ReleaseStanding {
    /// Its number.
    pub number: u64,
    /// The phase's label.
    pub phase: &'static str,
    /// The canary's share, as people write it.
    pub weight: String,
    /// The version that serves.
    pub stable: Option<String>,
    /// The version that is released.
    pub canary: String,
    /// How it ended.
    pub outcome: Option<&'static str>,
    /// Whether a promotion was proven.
    pub proven: Option<bool>,
    /// What it waits for, or how it ended, in one sentence.
    pub message: String,
    /// When it was asked for.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Option<Timestamp>,
}

impl ReleaseStanding {
    /// As the record says.
    pub fn of(record: &ReleaseRecord) -> Self {
        let state = &record.state;
        let split = match &state.phase {
            Phase::Returning(..) | Phase::Waiting => ALL_STABLE,
            Phase::Done(outcome) if !outcome.is_forward() => ALL_STABLE,
            _ => split_now(&record.plan, state),
        };
        let last = record.history.last();
        let outcome = state.outcome();
        Self {
            number: record.key.number,
            phase: state.phase.label(),
            weight: split.weight.to_string(),
            stable: record.stable.as_ref().map(|stable| stable.version.clone()),
            canary: record.canary.version.clone(),
            outcome: outcome.map(Outcome::label),
            proven: outcome.and_then(|outcome| match outcome {
                Outcome::Promoted { proven, .. } => Some(*proven),
                _ => None,
            }),
            message: reason(record),
            started: record.created,
            finished: outcome.and(last).map(|entry| entry.at),
        }
    }

    /// The status of a Release object.
    pub fn status(&self) -> ReleaseStatus {
        ReleaseStatus {
            number: Some(self.number),
            phase: Some(self.phase.to_owned()),
            weight: Some(self.weight.clone()),
            stable: self.stable.clone(),
            canary: Some(self.canary.clone()),
            outcome: self.outcome.map(str::to_owned),
            proven: self.proven,
            message: Some(self.message.clone()),
            started_at: Some(self.started),
            finished_at: self.finished,
            ..ReleaseStatus::default()
        }
    }

    /// The version that serves now, as far as this release says it.
    fn serves(&self) -> Option<String> {
        match self.outcome {
            Some("Promoted" | "FirstDeploy") => Some(self.canary.clone()),
            _ => self.stable.clone(),
        }
    }
}

impl Standing {
    /// The status of the Rollout object as a patch, `None` if it stands there already. `before` is what stands there, or
    /// will in a moment.
    pub fn patch(
        &self,
        policy: &PolicySketch,
        deployment: Option<&DeploymentSketch>,
        before: &RolloutStatus,
        now: Timestamp,
    ) -> Option<Value> {
        let status = self.status(policy, deployment, before, now);
        (*before != status).then(|| replacing(&status))
    }

    fn status(
        &self,
        policy: &PolicySketch,
        deployment: Option<&DeploymentSketch>,
        before: &RolloutStatus,
        now: Timestamp,
    ) -> RolloutStatus {
        let generation = i64::try_from(policy.generation).ok();
        let mut status = RolloutStatus {
            observed_generation: generation,
            phase: Some(self.phase.to_owned()),
            message: Some(self.message.clone()),
            // What is not said now has been said before: the last release stays in sight.
            ..before.clone()
        };
        if let Some(release) = &self.release {
            status.release = Some(release.number);
            status.canary = Some(release.canary.clone());
            status.weight = Some(release.weight.clone());
            status.stable = release.serves();
            status.outcome = release.outcome.map(str::to_owned);
        }
        let (held, why) = self.held(deployment);
        let valid = policy.deployment.is_ok();
        let aspects = [
            ("Valid", valid, if valid { "Accepted" } else { "Invalid" }),
            ("Held", held, why),
            ("Releasing", self.phase == "Releasing", self.phase),
            // As Argo CD, Flux and `kubectl wait` understand it: nothing is under way, and nothing is wrong.
            ("Ready", self.phase == "Idle", self.phase),
        ];
        status
            .conditions
            .retain(|known| aspects.iter().any(|(of, ..)| known.of == *of));
        for (of, holds, reason) in aspects {
            let condition = Condition {
                of: of.to_owned(),
                status: holds.into(),
                reason: reason.to_owned(),
                message: self.message.clone(),
                last_transition_time: whole(now),
                observed_generation: generation,
            };
            set(&mut status.conditions, condition);
        }
        status
    }

    /// Whether a change waits behind a pause, and for what.
    fn held(&self, deployment: Option<&DeploymentSketch>) -> (bool, &'static str) {
        let Some(deployment) = deployment else {
            return (false, "Missing");
        };
        match (deployment.paused, self.phase) {
            (false, _) => (false, "NotPaused"),
            (true, "Releasing") => (true, "Releasing"),
            (true, "Waiting") => (true, "Waiting"),
            (true, "Refused") => (true, "Refused"),
            (true, _) if deployment.left_paused => (true, "TakenBack"),
            (true, _) if deployment.paused_by.as_deref().is_some_and(|by| by != MANAGER) => (true, "PausedByOthers"),
            (true, _) if deployment.complete => (true, "PausedBetweenReleases"),
            (true, _) => (true, "ChangeWaits"),
        }
    }
}

/// What of a Rollout's status stands there, as it was read; nothing where it cannot be understood, which is then replaced.
pub fn standing_there(status: &str) -> RolloutStatus {
    serde_json::from_str(status).unwrap_or_default()
}

/// A whole status as a merge patch: what it does not say any more is taken away.
fn replacing(status: &RolloutStatus) -> Value {
    let mut patch = plain(status);
    for field in ROLLOUT_FIELDS {
        if patch.get(field).is_none() {
            patch[field] = Value::Null;
        }
    }
    patch
}

/// Every field of a Rollout's status; a test keeps it whole.
const ROLLOUT_FIELDS: [&str; 9] = [
    "observedGeneration",
    "phase",
    "stable",
    "canary",
    "weight",
    "release",
    "outcome",
    "message",
    "conditions",
];

/// As JSON.
pub fn plain(status: &impl serde::Serialize) -> Value {
    serde_json::to_value(status).expect("a status is text, numbers and times")
}

/// A patch as what will stand there: the server does not keep what is null.
pub fn without_null(mut patch: Value) -> Value {
    if let Value::Object(fields) = &mut patch {
        fields.retain(|_, value| !value.is_null());
    }
    patch
}

/// Kubernetes' own precision.
fn whole(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).expect("it was one before its fraction was dropped")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fleet::At;
    use super::*;

    fn policy() -> PolicySketch {
        PolicySketch {
            at: At {
                namespace: "shop".to_owned(),
                name: "app".to_owned(),
            },
            uid: "u".to_owned(),
            generation: 3,
            deployment: Ok("app".to_owned()),
            status: Box::default(),
            leaving: false,
            group: None,
        }
    }

    fn deployment(paused: bool) -> DeploymentSketch {
        DeploymentSketch {
            uid: "d".to_owned(),
            paused,
            paused_by: None,
            held: false,
            left_paused: false,
            labelled: true,
            template: "t1".to_owned(),
            writer: None,
            complete: !paused,
            replicas: 3,
        }
    }

    fn release() -> ReleaseStanding {
        ReleaseStanding {
            number: 7,
            phase: "stepping",
            weight: "20%".to_owned(),
            stable: Some("1.0".to_owned()),
            canary: "1.1".to_owned(),
            outcome: None,
            proven: None,
            message: "20 %".to_owned(),
            started: time("2026-03-02T10:00:00Z"),
            finished: None,
        }
    }

    fn time(text: &str) -> Timestamp {
        text.parse().expect("a literal")
    }

    fn stands(patch: Value) -> RolloutStatus {
        // As strictly as the API server, which drops what the definition does not have.
        let known: Vec<String> = ROLLOUT_FIELDS.iter().map(|field| (*field).to_owned()).collect();
        let fields = patch.as_object().expect("a patch").keys().cloned().collect::<Vec<_>>();
        assert!(fields.iter().all(|field| known.contains(field)), "{fields:?}");
        standing_there(&without_null(patch).to_string())
    }

    fn idle() -> Standing {
        Standing {
            phase: "Idle",
            message: "1.0 serves".to_owned(),
            release: None,
        }
    }

    #[test]
    fn what_stands_there_is_not_written_again() {
        let now = time("2026-03-02T10:00:00.123Z");
        let mut policy = policy();
        let still = deployment(false);
        let written = idle().patch(&policy, Some(&still), &RolloutStatus::default(), now);
        let there = stands(written.expect("nothing stood there"));
        let conditions: Vec<String> = there
            .conditions
            .iter()
            .map(|one| format!("{} {:?} {}", one.of, one.status, one.reason))
            .collect();
        assert_eq!(
            conditions,
            [
                "Valid True Accepted",
                "Held False NotPaused",
                "Releasing False Idle",
                "Ready True Idle"
            ]
        );
        let later = time("2026-03-02T11:00:00Z");
        assert_eq!(
            idle().patch(&policy, Some(&still), &there, later),
            None,
            "time alone is no news"
        );
        policy.generation = 4;
        let again = idle().patch(&policy, Some(&still), &there, later);
        let again = stands(again.expect("another spec was looked at"));
        assert_eq!(
            again.conditions[3].last_transition_time,
            time("2026-03-02T10:00:00Z"),
            "it has been so since then"
        );
    }

    #[test]
    fn a_new_release_takes_the_last_ones_outcome_away() {
        let before = RolloutStatus {
            outcome: Some("RolledBack".to_owned()),
            release: Some(6),
            stable: Some("0.9".to_owned()),
            ..RolloutStatus::default()
        };
        let standing = Standing {
            phase: "Releasing",
            message: "20 %".to_owned(),
            release: Some(release()),
        };
        let now = time("2026-03-02T10:00:00Z");
        let patch = standing
            .patch(&policy(), Some(&deployment(true)), &before, now)
            .expect("news");
        assert_eq!(patch["outcome"], Value::Null);
        assert_eq!((&patch["release"], &patch["stable"]), (&json!(7), &json!("1.0")));
        assert_eq!(patch["conditions"][1]["reason"], "Releasing");
        let promoted = Standing {
            phase: "Idle",
            release: Some(ReleaseStanding {
                outcome: Some("Promoted"),
                ..release()
            }),
            ..standing
        };
        let there = stands(promoted.patch(&policy(), None, &before, now).expect("news"));
        assert_eq!(
            (there.stable.as_deref(), there.outcome.as_deref()),
            (Some("1.1"), Some("Promoted"))
        );
        // And it stays in sight when nothing runs.
        let there = stands(idle().patch(&policy(), None, &there, now).expect("another sentence"));
        assert_eq!((there.release, there.outcome.as_deref()), (Some(7), Some("Promoted")));
    }

    #[test]
    fn a_change_that_waits_is_held_and_says_for_what() {
        let paused = deployment(true);
        let phase = |phase| Standing { phase, ..idle() };
        let cases = [
            (phase("Refused"), paused.clone(), "Refused"),
            (phase("Waiting"), paused.clone(), "Waiting"),
            (idle(), paused.clone(), "ChangeWaits"),
            (
                idle(),
                DeploymentSketch {
                    left_paused: true,
                    ..paused.clone()
                },
                "TakenBack",
            ),
            (
                idle(),
                DeploymentSketch {
                    paused_by: Some("kubectl".to_owned()),
                    ..paused.clone()
                },
                "PausedByOthers",
            ),
            (
                idle(),
                DeploymentSketch {
                    complete: true,
                    ..paused
                },
                "PausedBetweenReleases",
            ),
        ];
        for (standing, deployment, why) in cases {
            assert_eq!(standing.held(Some(&deployment)), (true, why));
        }
        assert_eq!(idle().held(None), (false, "Missing"));
    }

    #[test]
    fn every_field_of_the_definition_is_known() {
        let schema = crate::crd::structural::of::<RolloutStatus>();
        let mut fields: Vec<&str> = schema["properties"]
            .as_object()
            .expect("it is an object")
            .keys()
            .map(String::as_str)
            .collect();
        let mut known = ROLLOUT_FIELDS.to_vec();
        fields.sort_unstable();
        known.sort_unstable();
        assert_eq!(known, fields);
    }
}
