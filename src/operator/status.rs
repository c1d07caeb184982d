//! What a Rollout and a Release object say of themselves: written only when it is something else than what stands there.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::fleet::PolicySketch;
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
            message: last.map(|entry| entry.reason.clone()).unwrap_or_default(),
            started: record.created,
            finished: outcome.and(last).map(|entry| entry.at),
        }
    }

    /// The status of a Release object.
    pub fn object(&self) -> Value {
        json!({
            "number": self.number, "phase": self.phase, "weight": self.weight, "stable": self.stable,
            "canary": self.canary, "outcome": self.outcome, "proven": self.proven, "message": self.message,
            "startedAt": self.started.to_string(), "finishedAt": self.finished.map(|at| at.to_string()),
        })
    }
}

impl Standing {
    /// The status of the Rollout object, `None` if it stands there already.
    pub fn object(&self, policy: &PolicySketch, now: Timestamp) -> Option<Value> {
        let before: Value = serde_json::from_str(&policy.status).unwrap_or(Value::Null);
        let mut status = json!({
            "observedGeneration": policy.generation,
            "phase": self.phase,
            "message": self.message,
        });
        if let Some(release) = &self.release {
            status["release"] = json!(release.number);
            status["canary"] = json!(release.canary);
            status["weight"] = json!(release.weight);
            status["stable"] = json!(release.stable);
            if release
                .outcome
                .is_some_and(|outcome| outcome == "Promoted" || outcome == "FirstDeploy")
            {
                status["stable"] = json!(release.canary);
            }
            status["outcome"] = json!(release.outcome);
        } else {
            // What is not said now has been said before: the last release stays in sight.
            for key in ["release", "canary", "weight", "stable", "outcome"] {
                if let Some(value) = before.get(key) {
                    status[key] = value.clone();
                }
            }
        }
        let truth = |yes: bool| if yes { "True" } else { "False" };
        let wanted = [
            (
                "Valid",
                truth(policy.deployment.is_ok()),
                if policy.deployment.is_ok() {
                    "Accepted"
                } else {
                    "Invalid"
                },
            ),
            ("Releasing", truth(self.phase == "Releasing"), self.phase),
            // As Argo CD, Flux and `kubectl wait` understand it: nothing is under way, and nothing is wrong.
            ("Ready", truth(self.phase == "Idle"), self.phase),
        ];
        let conditions: Vec<Value> = wanted
            .iter()
            .map(|(kind, is, reason)| {
                let old = before["conditions"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .find(|condition| condition["type"] == *kind && condition["status"] == *is);
                let since = old
                    .and_then(|condition| condition["lastTransitionTime"].as_str())
                    .map_or_else(|| whole(now), str::to_owned);
                json!({
                    "type": kind, "status": is, "reason": reason, "message": self.message,
                    "lastTransitionTime": since, "observedGeneration": policy.generation,
                })
            })
            .collect();
        status["conditions"] = json!(conditions);
        (without_null(&before) != without_null(&status)).then_some(status)
    }
}

/// Kubernetes' own precision.
fn whole(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The server does not keep what is null.
fn without_null(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key.clone(), without_null(value)))
            .collect(),
        Value::Array(items) => items.iter().map(without_null).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fleet::At;
    use super::*;

    #[test]
    fn what_stands_there_is_not_written_again() {
        let now: Timestamp = "2026-03-02T10:00:00Z".parse().expect("a literal");
        let standing = Standing {
            phase: "Idle",
            message: "1.0 serves".to_owned(),
            release: None,
        };
        let mut policy = PolicySketch {
            at: At {
                namespace: "shop".to_owned(),
                name: "app".to_owned(),
            },
            uid: "u".to_owned(),
            generation: 3,
            deployment: Ok("app".to_owned()),
            status: String::new(),
            leaving: false,
        };
        let written = standing.object(&policy, now).expect("nothing stood there");
        assert_eq!(written["conditions"][2]["status"], json!("True"));
        policy.status = without_null(&written).to_string();
        let later = "2026-03-02T11:00:00Z".parse().expect("a literal");
        assert_eq!(standing.object(&policy, later), None, "time alone is no news");
        policy.generation = 4;
        let again = standing.object(&policy, later).expect("another spec was looked at");
        assert_eq!(
            again["conditions"][2]["lastTransitionTime"],
            json!("2026-03-02T10:00:00Z"),
            "it has been so since then"
        );
    }
}
