//! What the API answers beyond the daemon's own words: a rollout with its place, a timeline, evidence; and the record
//! without what may be secret.
//!
//! Who may read a release need not be allowed to read the Deployment: pod templates have variables with values, smoke
//! tests have headers with tokens. None of that is needed to understand a release, so it stays here.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::daemon::api::{ReleaseSummary, RolloutView};
use crate::engine::{Actor, Cause, Event, Phase, State, apply};
use crate::judge::{Course, Verdict};
use crate::plan::{ALL_STABLE, Split};
use crate::spec::{SmokeTest, Source};
use crate::store::{ReleaseKey, ReleaseRecord};

/// What stands in place of what is not shown.
pub const HIDDEN: &str = "(hidden)";

/// A rollout and where it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Placed {
    /// Its namespace.
    pub namespace: String,
    /// The rollout.
    #[serde(flatten)]
    pub rollout: RolloutView,
}

/// A rollout in a few words, as the fleet's events tell of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Outline {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The split in force.
    pub split: Split,
    /// The version that serves.
    pub stable: Option<String>,
    /// The version that is being released.
    pub canary: Option<String>,
    /// The release that runs, or the last one.
    pub release: Option<ReleaseSummary>,
    /// How many revisions failed and are not tried again by themselves.
    pub quarantined: usize,
}

impl Outline {
    /// Of a rollout.
    pub fn of(namespace: &str, rollout: &RolloutView) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: rollout.name.clone(),
            split: rollout.split.clone(),
            stable: rollout.stable.as_ref().map(|revision| revision.version.clone()),
            canary: rollout.canary.as_ref().map(|revision| revision.version.clone()),
            release: rollout.release.clone(),
            quarantined: rollout.quarantined.len(),
        }
    }
}

/// A rollout that is not there any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gone {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What happened in a release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timeline {
    /// Which release.
    pub key: ReleaseKey,
    /// The version that served before.
    pub from: Option<String>,
    /// The version that is released.
    pub version: String,
    /// Who asked for it.
    pub by: Actor,
    /// Why, if they said.
    pub reason: Option<String>,
    /// When.
    #[schemars(with = "String")]
    pub created: Timestamp,
    /// When it ended.
    #[schemars(with = "Option<String>")]
    pub ended: Option<Timestamp>,
    /// How it ended.
    pub outcome: Option<String>,
    /// Oldest first.
    pub entries: Vec<Moment>,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Moment {
    /// 1, 2, 3 …
    pub number: u64,
    /// When.
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// What.
    pub event: Event,
    /// Why, in one sentence.
    pub reason: String,
    /// Who asked for it, if a person did.
    pub by: Option<Actor>,
    /// Where the release was after it: `waiting`, `starting`, …
    pub phase: String,
    /// The split that held from then on.
    pub split: Split,
}

/// What was measured and judged in a release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// Which release.
    pub key: ReleaseKey,
    /// The last verdict.
    pub verdict: Option<Box<Verdict>>,
    /// The verdicts that something rested on, oldest first.
    pub decided: Vec<Decided>,
    /// How the evidence went, for a chart.
    pub course: Course,
}

/// A verdict that something rested on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Decided {
    /// The timeline's entry.
    pub number: u64,
    /// When.
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// The verdict.
    pub verdict: Box<Verdict>,
}

/// The timeline of a record.
pub fn timeline(record: &ReleaseRecord) -> Timeline {
    let mut state = State::new(record.created);
    let entries = record
        .history
        .iter()
        .map(|entry| {
            // Old entries may have been pruned; then the phase is the record's own.
            state = apply(&record.plan, &state, &entry.event, entry.at).unwrap_or_else(|_| record.state.clone());
            Moment {
                number: entry.number,
                at: entry.at,
                event: entry.event.clone(),
                reason: entry.reason.clone(),
                by: match &entry.cause {
                    Cause::Person(actor) => Some(actor.clone()),
                    Cause::Engine => None,
                },
                phase: state.phase.label().to_owned(),
                split: match &state.phase {
                    Phase::Waiting | Phase::Returning(..) => ALL_STABLE,
                    Phase::Done(outcome) if !outcome.is_forward() => ALL_STABLE,
                    _ => crate::engine::desired::split_now(&record.plan, &state),
                },
            }
        })
        .collect();
    Timeline {
        key: record.key.clone(),
        from: record.stable.as_ref().map(|stable| stable.version.clone()),
        version: record.canary.version.clone(),
        by: record.by.clone(),
        reason: record.reason.clone(),
        created: record.created,
        ended: record.ended,
        outcome: record.state.outcome().map(|outcome| outcome.label().to_owned()),
        entries,
    }
}

/// The evidence of a record.
pub fn evidence(record: &ReleaseRecord) -> Evidence {
    Evidence {
        key: record.key.clone(),
        verdict: record.verdict.clone(),
        decided: record
            .history
            .iter()
            .filter_map(|entry| {
                Some(Decided {
                    number: entry.number,
                    at: entry.at,
                    verdict: entry.verdict.clone()?,
                })
            })
            .collect(),
        course: record.course.clone(),
    }
}

/// The record as it may leave: without templates, the judge's inner state, and what smoke tests and sources send along.
pub fn shown(mut record: ReleaseRecord) -> ReleaseRecord {
    record.canary.workload = Value::Null;
    if let Some(stable) = &mut record.stable {
        stable.workload = Value::Null;
    }
    record.judge = None;
    for test in &mut record.plan.smoke.tests {
        match test {
            SmokeTest::Http(test) => {
                test.headers.values_mut().for_each(|value| HIDDEN.clone_into(value));
                test.expect_headers
                    .values_mut()
                    .for_each(|value| HIDDEN.clone_into(value));
                test.body = test.body.take().map(|_| HIDDEN.to_owned());
                if let Some((path, _)) = test.http.split_once('?') {
                    test.http = format!("{path}?{HIDDEN}");
                }
            }
            SmokeTest::Command(test) => test.command.iter_mut().skip(1).for_each(|word| HIDDEN.clone_into(word)),
            SmokeTest::Grpc(_) => {}
        }
    }
    if let Some(Source::Prometheus(source)) = &mut record.plan.measure.source {
        source.url = without_user(&source.url);
        source.token_file = source.token_file.take().map(|_| HIDDEN.to_owned());
    }
    record
}

/// An address without the name and password that it may have.
fn without_user(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let host = rest[..end].rsplit_once('@').map_or(&rest[..end], |(_, host)| host);
            format!("{scheme}://{host}{}", &rest[end..])
        }
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        assert_eq!(without_user("http://ann:secret@prom:9090/a@b"), "http://prom:9090/a@b");
        assert_eq!(without_user("http://prom:9090"), "http://prom:9090");
    }
}
