//! What is written down about a release.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::engine::{Actor, Entry, State};
use crate::judge::{Course, Judge, Verdict};
use crate::plan::Plan;

/// A release by rollout and number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseKey {
    /// The rollout's name.
    pub rollout: String,
    /// 1, 2, 3 … per rollout.
    pub number: u64,
}

impl fmt::Display for ReleaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} release {}", self.rollout, self.number)
    }
}

/// One version of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Revision {
    /// The hash of what defines it.
    pub id: String,
    /// What people call it.
    pub version: String,
    /// The variables it was made with.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
    /// What the platform needs to start it again, as it was: the platform's own form.
    pub workload: serde_json::Value,
}

/// Where a release was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pipeline {
    /// The commit that is released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Who wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// The pipeline's page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The pipeline's span, as W3C trace context writes it: the release becomes a part of its trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// Everything known about one release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseRecord {
    /// Which release.
    pub key: ReleaseKey,
    /// The revision that is released.
    pub canary: Revision,
    /// The revision that served when it began.
    pub stable: Option<Revision>,
    /// The way, as planned when it began.
    pub plan: Plan,
    /// Where it is.
    pub state: State,
    /// What has happened, oldest first.
    pub history: Vec<Entry>,
    /// The judge with its evidence, so that a restart does not reset the error budget.
    #[schemars(with = "Option<serde_json::Value>")]
    pub judge: Option<JudgeRecord>,
    /// The last verdict, for `why`.
    pub verdict: Option<Box<Verdict>>,
    /// How the evidence went, in a bounded number of points.
    #[serde(default, skip_serializing_if = "Course::is_empty")]
    pub course: Course,
    /// Who asked for it.
    pub by: Actor,
    /// Why, if they said.
    pub reason: Option<String>,
    /// What `DEPLOY_WINDOW` said where it was asked for.
    pub deploy_window: Option<bool>,
    /// Where it was asked for.
    pub pipeline: Pipeline,
    /// When it was asked for.
    #[schemars(with = "String")]
    pub created: Timestamp,
    /// When it ended.
    #[schemars(with = "Option<String>")]
    pub ended: Option<Timestamp>,
}

/// The judge and the stage that it is judging.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JudgeRecord {
    /// The judge, whole.
    pub judge: Judge,
    /// Index of the stage that was begun last.
    pub stage: usize,
}

/// What one pass of the controller adds to the record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Update {
    /// Where the release is now.
    pub state: State,
    /// What has happened since the last update; numbered on from there.
    pub entries: Vec<Entry>,
    /// The judge, if it has learned something.
    pub judge: Option<JudgeRecord>,
    /// The last verdict.
    pub verdict: Option<Box<Verdict>>,
    /// How the evidence went until now, if something was judged.
    pub course: Option<Course>,
}
