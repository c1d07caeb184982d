//! What is known of the world at one moment. "Not known" is a value of its own everywhere.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::command::Command;
use crate::judge::Verdict;
use crate::plan::Split;
use crate::spec::HookPoint;

/// Everything one decision is made from, besides plan, state and time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// The platform as observed; `None` if it could not be observed just now.
    pub world: Option<World>,
    /// What the judge says about now; `None` where nothing is judged.
    pub reading: Option<Reading>,
    /// What the judge holds against the canary so far, if that is enough to be suspicious; it outlives the moment at
    /// which nothing can be measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspicion: Option<String>,
    /// Not everything that the present phase wants has been accepted by the platform yet. A release does not end before:
    /// an earlier write may still be under way, and only a later one to the same object overtakes it.
    #[serde(default)]
    pub unapplied: bool,
    /// Commands that are not handled yet, oldest first.
    pub commands: Vec<Command>,
    /// A newer revision that wants to be released, by name.
    pub newer: Option<String>,
    /// From when to when nobody looked, if that has just ended: a holder had died, or nothing could be observed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unwatched: Option<(Timestamp, Timestamp)>,
    /// What the pipeline's `DEPLOY_WINDOW` says, if it says anything.
    pub deploy_window: Option<bool>,
}

/// The platform as observed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct World {
    /// The new revision's instances.
    pub canary: Presence,
    /// The old revision's instances.
    pub stable: Presence,
    /// What the router does.
    pub route: RouteFact,
    /// The platform has taken the canary over as the revision that serves.
    pub adopted: bool,
    /// The smoke tests' result, once they have ended.
    pub smoke: Option<SmokeReport>,
    /// How the hooks ended that were asked for last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<HookReport>,
    /// Nothing of the release is left on the platform: hold lifted, template and router as before.
    pub restored: bool,
    /// Somebody else has taken the workload into their own hands in mid-release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interference: Option<Interference>,
}

/// What somebody else did to the workload while a release was running on it. Going on would be a fight, or would hand
/// over something that nobody has judged; so the release goes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interference {
    /// They wrote another revision: this release is superseded by it.
    pub newer: bool,
    /// One sentence: who, what, and what follows for them.
    pub message: String,
}

/// One revision's instances.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Presence {
    /// Instances that exist, in whatever state.
    pub exists: u32,
    /// Instances at full size.
    pub full: u32,
    /// Instances that are ready.
    pub ready: u32,
    /// Since when all instances that are wanted now have been ready without a break.
    pub ready_since: Option<Timestamp>,
    /// Since when none has been ready, if none is.
    pub none_ready_since: Option<Timestamp>,
    /// How often instances have been restarted since the revision was started.
    pub restarts: u32,
    /// No request is under way on it.
    pub drained: bool,
    /// What is wrong with it, if something is.
    pub diagnosis: Option<Diagnosis>,
}

/// What is wrong, in words a person can act on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnosis {
    /// A stable short name, `commandNotFound`, `crashLoop`, `imagePull`.
    pub kind: String,
    /// One sentence: the object, what happened, what to try.
    pub message: String,
    /// It will not get better by waiting.
    pub fatal: bool,
}

/// What the router does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteFact {
    /// The split in force; `None` if it cannot be told.
    pub split: Option<Split>,
    /// Somebody else has changed it since: who, and what.
    pub conflict: Option<String>,
}

/// What the judge says about now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reading {
    /// Something was measured, now or lately.
    Verdict {
        /// The stage that the verdict belongs to.
        stage: usize,
        /// The verdict.
        verdict: Box<Verdict>,
    },
    /// Nothing could be measured: never a verdict.
    NoData {
        /// Which kind.
        kind: NoData,
        /// What was tried and what came back.
        detail: String,
    },
}

/// The kinds of no data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum NoData {
    /// The source of measurements is down.
    SourceDown,
    /// Stable has traffic and the canary shows none.
    CanarySilent,
    /// Neither side has traffic.
    BothSilent,
    /// There is nothing to measure by: no metrics are shown and no server is named.
    Unmeasured,
}

impl std::fmt::Display for NoData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::SourceDown => "the source of measurements is down",
            Self::CanarySilent => "the canary is silent while stable has traffic",
            Self::BothSilent => "neither revision has traffic",
            Self::Unmeasured => "nothing can be measured",
        })
    }
}

/// How the hooks at one point ended: all of them, or the first that did not end well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HookReport {
    /// Which point.
    pub at: HookPoint,
    /// Every one ended well.
    pub passed: bool,
    /// One sentence: which, how, and where to look.
    pub summary: String,
}

/// How the smoke tests ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SmokeReport {
    /// Every test passed.
    pub passed: bool,
    /// One sentence: how many passed, or which failed and what it answered.
    pub summary: String,
}
