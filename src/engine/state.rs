//! Where a release is, and what has happened to it.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::command::Actor;
use super::facts::NoData;
use crate::judge::Verdict;
use crate::spec::HookPoint;

/// Where a release is. A fold over its history: `replay` gives the same value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Which part of the way.
    pub phase: Phase,
    /// When the phase was entered (for `Analysing`: when the router confirmed the split, pauses not counted).
    #[schemars(with = "String")]
    pub since: Timestamp,
    /// When the release began.
    #[schemars(with = "String")]
    pub started: Timestamp,
    /// Number of the next history entry.
    pub next_entry: u64,
    /// The last command that was handled.
    pub handled: u64,
    /// A person keeps the weight.
    pub paused: Option<Paused>,
    /// Nothing has been measured since.
    pub no_data: Option<NoDataSince>,
    /// How many stages ended with a passing verdict.
    pub passes: u32,
    /// A judged stage ended without one.
    pub unproven: bool,
    /// A named person ended the last stage, and answers for going on.
    pub vouched: Option<Actor>,
    /// The last stage whose split was written; none yet means that all traffic is stable's.
    pub split_of: Option<usize>,
    /// The canary has had users' traffic.
    pub had_users: bool,
    /// Time spent waiting for people, which does not count against the release's limit.
    #[schemars(with = "String")]
    pub waited: SignedDuration,
    /// The end of the last time in which nobody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub watched_again: Option<Timestamp>,
    /// Restarts of the canary when the bake began: more than that is a fault.
    pub restarts_before_bake: u32,
    /// The way on or back does not come to an end by itself.
    pub stuck: Option<TrafficOn>,
    /// Observe mode has said what it would have done.
    pub would_have: bool,
}

impl State {
    /// A release that begins at `now`.
    pub fn new(now: Timestamp) -> Self {
        Self {
            phase: Phase::Waiting,
            since: now,
            started: now,
            next_entry: 1,
            handled: 0,
            paused: None,
            no_data: None,
            passes: 0,
            unproven: false,
            vouched: None,
            split_of: None,
            had_users: false,
            waited: SignedDuration::ZERO,
            watched_again: None,
            restarts_before_bake: 0,
            stuck: None,
            would_have: false,
        }
    }

    /// Whether every judged stage so far ended with a passing verdict, and at least one did.
    pub const fn proven(&self) -> bool {
        self.passes > 0 && !self.unproven
    }

    /// The outcome, once the release is done.
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.phase {
            Phase::Done(outcome) => Some(outcome),
            _ => None,
        }
    }
}

/// Which part of the way a release is on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Not begun: a window is closed.
    Waiting,
    /// The author's jobs run before the release goes on.
    BeforeHooks {
        /// The stage that they run before; none yet means before the start.
        stage: Option<usize>,
    },
    /// The new revision is being started, until it has been ready without a break for `settle`.
    Starting,
    /// Smoke tests run against the new revision alone.
    Smoking,
    /// A named person must say yes before this stage.
    Gated {
        /// Index into the plan's stages.
        stage: usize,
    },
    /// The canary grows to the size that this stage needs; the split is still the last stage's.
    Preparing {
        /// Index into the plan's stages.
        stage: usize,
    },
    /// This stage's split is written; the router has not confirmed it.
    Shifting {
        /// Index into the plan's stages.
        stage: usize,
    },
    /// This stage's split is in force and the canary is being judged.
    Analysing {
        /// Index into the plan's stages.
        stage: usize,
    },
    /// Past the point of no return: the canary becomes the revision that serves.
    HandingOver(HandOver),
    /// Back to stable.
    Returning(Return, Retreat),
    /// The outcome is certain; the author's jobs run after it.
    AfterHooks(Outcome),
    /// Over.
    Done(Outcome),
}

impl Phase {
    /// The stage the phase belongs to.
    pub const fn stage(&self) -> Option<usize> {
        match self {
            Self::Gated { stage }
            | Self::Preparing { stage }
            | Self::Shifting { stage }
            | Self::Analysing { stage } => Some(*stage),
            Self::BeforeHooks { stage } => *stage,
            _ => None,
        }
    }

    /// The stable label, the same in logs, metrics and UI.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::BeforeHooks { .. } => "beforeHooks",
            Self::Starting => "starting",
            Self::Smoking => "smoking",
            Self::Gated { .. } => "gated",
            Self::Preparing { .. } => "preparing",
            Self::Shifting { .. } => "shifting",
            Self::Analysing { .. } => "analysing",
            Self::HandingOver(_) => "handingOver",
            Self::Returning(..) => "returning",
            Self::AfterHooks(_) => "afterHooks",
            Self::Done(_) => "done",
        }
    }

    /// Whether the release may still be turned back.
    pub const fn can_retreat(&self) -> bool {
        !matches!(
            self,
            Self::HandingOver(_) | Self::Returning(..) | Self::AfterHooks(_) | Self::Done(_)
        )
    }

    /// Whether its time is that of looking: neither a person's, nor a job's, nor that of a way that is tried until it ends.
    pub const fn is_timed_by_looks(&self) -> bool {
        matches!(
            self,
            Self::Starting | Self::Smoking | Self::Preparing { .. } | Self::Shifting { .. } | Self::Analysing { .. }
        )
    }

    /// The point at which hooks run now, if they do.
    pub const fn hook_point(&self) -> Option<HookPoint> {
        match self {
            Self::BeforeHooks { stage: None } => Some(HookPoint::BeforeStart),
            Self::BeforeHooks { stage: Some(_) } => Some(HookPoint::BeforeFullTraffic),
            Self::AfterHooks(outcome) if outcome.is_forward() => Some(HookPoint::AfterPromotion),
            Self::AfterHooks(_) => Some(HookPoint::AfterRollback),
            _ => None,
        }
    }
}

/// The steps of the hand over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum HandOver {
    /// The platform takes the canary as its own.
    Adopt,
    /// The old revision's requests finish.
    Drain,
    /// The old revision is removed, and what the release added.
    Retire,
}

/// The steps of the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Return {
    /// All traffic to stable, with no precondition.
    Route,
    /// The canary's requests finish.
    Drain,
    /// The canary is removed.
    Remove,
    /// The platform gets back what was held.
    Restore,
}

/// Why a release goes back: what its outcome will be, and the sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retreat {
    /// What the outcome will be.
    pub outcome: Outcome,
    /// Why, in one sentence.
    pub reason: String,
}

/// How a release ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Outcome {
    /// The new revision serves.
    Promoted {
        /// Every judged stage ended with a passing verdict.
        proven: bool,
    },
    /// Health degraded: back on stable.
    RolledBack,
    /// A person ended it: back on stable.
    Aborted,
    /// Back on stable without a health verdict: no data, time, interrupted.
    Returned,
    /// Ended before any user's traffic.
    Rejected,
    /// A newer revision came.
    Superseded,
    /// The first revision of a service serves.
    FirstDeploy,
}

impl Outcome {
    /// The stable label, the same everywhere.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Promoted { .. } => "Promoted",
            Self::RolledBack => "RolledBack",
            Self::Aborted => "Aborted",
            Self::Returned => "Returned",
            Self::Rejected => "Rejected",
            Self::Superseded => "Superseded",
            Self::FirstDeploy => "FirstDeploy",
        }
    }

    /// Whether the new revision serves now.
    pub const fn is_forward(&self) -> bool {
        matches!(self, Self::Promoted { .. } | Self::FirstDeploy)
    }

    /// Whether the revision must not be tried again by itself.
    pub const fn quarantines(&self) -> bool {
        matches!(self, Self::RolledBack | Self::Rejected)
    }
}

/// Where users are, as far as that can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum TrafficOn {
    /// On the old revision.
    Stable,
    /// Some on the new one.
    Canary,
    /// The router does not say.
    Unknown,
}

/// A person keeps the weight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Paused {
    /// Who.
    pub by: Actor,
    /// Since when.
    #[schemars(with = "String")]
    pub since: Timestamp,
}

/// Nothing has been measured since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NoDataSince {
    /// Which kind.
    pub kind: NoData,
    /// Since when.
    #[schemars(with = "String")]
    pub since: Timestamp,
}

/// One line of a release's history. Append only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// 1, 2, 3 …
    pub number: u64,
    /// When it was decided.
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// What happened.
    pub event: Event,
    /// Why, in one sentence; the same on every surface.
    pub reason: String,
    /// Who or what caused it.
    pub cause: Cause,
    /// The verdict it rests on, if it rests on one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Box<Verdict>>,
}

/// What ended a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Proof {
    /// A passing verdict.
    Passed,
    /// Its time was up without one, and the plan says to go on.
    Unproven,
    /// The stage was there to wait, not to prove anything (preview, pause, bake).
    NotJudged,
}

/// Who or what caused an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Cause {
    /// Facts and the plan.
    Engine,
    /// A person, by command.
    Person(Actor),
}

/// What can happen to a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    /// It may begin.
    Admitted,
    /// The hooks at this point have ended: well, or after the outcome in whatever way.
    HooksEnded,
    /// The canary has been ready without a break for `settle`.
    Ready,
    /// Every smoke test passed.
    SmokePassed,
    /// A person opened the gate (command by number).
    GateOpened {
        /// The command.
        command: u64,
        /// Who.
        by: Actor,
    },
    /// The canary has the size that the stage needs.
    Prepared,
    /// The router confirmed the split.
    Shifted {
        /// Restarts of the canary so far.
        restarts: u32,
    },
    /// The stage is over and the next one begins (after the bake: the hand over).
    StageEnded {
        /// What ended it.
        proof: Proof,
    },
    /// A stage's time is up without a verdict, and the plan wants a person to say yes.
    AskedForProof,
    /// A person ended the stage.
    Promoted {
        /// The command.
        command: u64,
        /// Who.
        by: Actor,
        /// All further stages are skipped.
        full: bool,
    },
    /// A person keeps the weight.
    Paused {
        /// The command.
        command: u64,
        /// Who.
        by: Actor,
    },
    /// A person ended the pause.
    Resumed {
        /// The command.
        command: u64,
    },
    /// A command that could not be followed; the reason says why.
    Refused {
        /// The command.
        command: u64,
    },
    /// Nobody looked for a while; that time does not count for the stage.
    WatchedAgain {
        /// The last look before.
        #[schemars(with = "String")]
        from: Timestamp,
        /// The first look after.
        #[schemars(with = "String")]
        until: Timestamp,
    },
    /// Nothing can be measured.
    SignalsLost {
        /// Which kind of nothing.
        kind: NoData,
    },
    /// Measurements are back.
    SignalsBack,
    /// Observe mode: what would have been done.
    WouldHave,
    /// Back to stable.
    Retreated {
        /// The command, if a person asked for it.
        command: Option<u64>,
        /// What the outcome will be.
        outcome: Outcome,
        /// Why.
        reason: String,
    },
    /// All traffic is on stable, confirmed.
    RouteRestored,
    /// The canary's requests have finished.
    CanaryDrained,
    /// The canary is gone.
    CanaryRemoved,
    /// The platform has back what was held: the end of the way back.
    Restored,
    /// The platform has the canary as its own.
    Adopted,
    /// The old revision's requests have finished.
    StableDrained,
    /// The old revision is gone: the end of the way forward.
    Retired,
    /// The way on or back does not come to an end by itself.
    GotStuck {
        /// Where users are.
        traffic_on: TrafficOn,
    },
    /// A person asked to try again what is stuck.
    Retried {
        /// The command.
        command: u64,
    },
}
