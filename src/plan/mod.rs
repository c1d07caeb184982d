//! From a Rollout to a flat list of stages: everything defaulted, nothing implied.
//!
//! The engine never looks at a spec. It walks a [`Plan`], which is recorded with the release, so that a restart, a
//! replay or another machine decides by the same words whatever has happened to the file since. Each strategy is
//! lowered by one function to the same stages; canary, blue/green, A/B and shadow differ only in the list.
//!
//! Next: `lower` (spec to plan), `text` (how a plan is shown), then `engine`.

mod lower;
mod text;

#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::judge::{self, History, HistoryRecorder};
use crate::spec::{
    HookPoint, HookSpec, MetricSpec, Mode, NoDataRule, NotifySpec, OnNewRevision, OnUndecided, SmokeTest, Source, Span,
    TracesSpec, TrafficMatch, Weight, Windows,
};

pub use lower::{Circumstances, Found, LIMIT, history_plan, judge_config, lower, measure};
pub use text::{Outlook, early_pass, render, smallest_rise};

/// One release's way, with nothing left to look up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The rollout's name.
    pub rollout: String,
    /// The strategy by name, or `inline`.
    pub strategy: String,
    /// What kind of release this is, which decides what is skipped.
    pub lane: Lane,
    /// Whether a bad verdict acts or is only reported.
    pub mode: Mode,
    /// What the canary is compared with.
    pub comparison: Comparison,
    /// Stages in order; the last one is always the bake.
    pub stages: Vec<Stage>,
    /// The platform's own rolling update makes the last shift, at the size of the stages before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rolling: bool,
    /// Smoke tests, and how often and how long they may be tried.
    pub smoke: SmokePlan,
    /// For the new revision to become ready.
    pub ready_within: Span,
    /// Ready without a break before the first weight.
    pub settle: Span,
    /// For a removed revision's requests to finish.
    pub drain_within: Span,
    /// For a router to confirm a weight before that is worth a warning, and for the way back before it is stuck.
    pub confirm_within: Span,
    /// How long a gate or a pause waits for a person when the gate does not say.
    pub gate_within: Span,
    /// The whole release, gates and pauses not counted.
    pub release_within: Span,
    /// How often to look.
    pub look: Span,
    /// What is measured, and from where.
    pub measure: Measure,
    /// The judge's settings.
    #[schemars(with = "serde_json::Value")]
    pub judge: judge::Config,
    /// How much of stable's own behaviour is enough for an early pass.
    pub history: HistoryPlan,
    /// When a stage's time is up without a verdict.
    pub on_undecided: OnUndecided,
    /// When nothing can be measured.
    pub no_data: NoDataPlan,
    /// When a newer revision arrives.
    pub on_new_revision: OnNewRevision,
    /// When a release may begin.
    pub windows: Windows,
    /// Jobs of the author's own, in the order in which they run at each point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<HookSpec>,
    /// Who is told; addresses are only referred to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<NotifySpec>,
}

/// What kind of release this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Lane {
    /// A new revision beside a stable one.
    Normal,
    /// No stable yet: start, ready, smoke, serve.
    FirstDeploy,
    /// Back to a revision that has served before: fewer stages, the same safety.
    Rollback,
    /// A person takes the responsibility: no windows, gates or comparison; smoke tests all the same.
    Emergency {
        /// Why, for the audit.
        reason: String,
    },
}

/// What the canary is compared with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Comparison {
    /// With stable, at the same time.
    WithStable,
    /// With fixed limits only.
    LimitsOnly {
        /// Why there is no fair comparison.
        reason: String,
    },
}

/// One stage: a split of traffic, and what ends it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stage {
    /// What it is for.
    pub kind: StageKind,
    /// The split while it lasts.
    pub split: Split,
    /// How much of the full size the canary needs for it.
    pub capacity: Weight,
    /// Who must say yes before it begins.
    pub gate: Option<Gate>,
    /// It never ends before this, except by a person or a fail.
    pub min: Span,
    /// It never lasts longer than this; then `on_undecided`.
    pub max: Span,
    /// The weight that follows: a pass must be proof enough for it.
    pub next_weight: Weight,
}

/// What a stage is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum StageKind {
    /// The canary stands there without users.
    Preview,
    /// Some traffic, compared with stable.
    Judge,
    /// As `Judge`, but it lasts its full time even when the canary is proven.
    Pause,
    /// All traffic, the old revision warm, absolute guards.
    Bake,
}

/// How requests are divided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Split {
    /// The canary's share of what no match catches.
    pub weight: Weight,
    /// Requests that go to the canary whatever the weight.
    #[serde(rename = "match", default, skip_serializing_if = "Option::is_none")]
    pub matching: Option<TrafficMatch>,
    /// The share of stable's requests that is copied to the canary; its answers are dropped.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mirror: Weight,
}

fn is_zero(weight: &Weight) -> bool {
    weight.is_zero()
}

/// Everything to stable.
pub const ALL_STABLE: Split = Split {
    weight: Weight::ZERO,
    matching: None,
    mirror: Weight::ZERO,
};

impl Split {
    /// A plain weight.
    pub const fn weight(weight: Weight) -> Self {
        Self {
            weight,
            matching: None,
            mirror: Weight::ZERO,
        }
    }

    /// Whether the canary answers any user.
    pub const fn serves_users(&self) -> bool {
        !self.weight.is_zero() || self.matching.is_some()
    }

    /// Whether the canary sees any request, its own or copied.
    pub const fn reaches_canary(&self) -> bool {
        self.serves_users() || !self.mirror.is_zero()
    }
}

impl std::fmt::Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.matching {
            Some(TrafficMatch::Header(m)) => write!(f, "requests with header {}, else ", m.name)?,
            Some(TrafficMatch::Cookie(m)) => write!(f, "requests with cookie {}, else ", m.name)?,
            None => {}
        }
        write!(f, "{}", self.weight)?;
        if !self.mirror.is_zero() {
            write!(f, " (copies of {})", self.mirror)?;
        }
        Ok(())
    }
}

/// A point where a named person must say yes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gate {
    /// `user:NAME`, `group:NAME` or a plain user name; empty for anyone who may approve.
    pub approvers: Vec<String>,
    /// How long it waits.
    pub expires: Span,
}

/// Smoke tests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SmokePlan {
    /// In order; every one must pass.
    pub tests: Vec<SmokeTest>,
    /// Tries per test.
    pub tries: u32,
    /// All of them together.
    pub within: Span,
    /// How often they are run again while the canary has users: where there is too little traffic to judge by, they
    /// are what is left. `None` for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<Span>,
}

/// What is measured, and from where, besides the router's own counters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Measure {
    /// Where numbers come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Which ones; errors and latency if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<MetricSpec>,
    /// Traces beside them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traces: Option<TracesSpec>,
}

/// How much of stable's own behaviour is enough for an early pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryPlan {
    /// How long stable must have been watched.
    pub least: Span,
    /// Length of one block.
    pub block: Span,
    /// How much of it, in minutes times pods; 0 where the rollout says how long is enough.
    #[serde(default)]
    pub pod_minutes: u32,
}

/// How far back a metrics server is asked where the rollout does not say: enough of two pods.
const ASKED: Span = Span::secs(3600);

impl HistoryPlan {
    /// How far back a metrics server is asked.
    pub fn asked(&self) -> Span {
        if self.pod_minutes == 0 { self.least } else { ASKED }
    }

    /// Whether what a metrics server remembers is enough for an early pass.
    pub fn is_met_by(&self, history: &History) -> bool {
        // Who says how long is enough is not held to it by the second: a server floors to whole blocks.
        self.pod_minutes == 0
            || (history.pod_minutes() >= f64::from(self.pod_minutes) && history.span_s() >= self.least.as_secs_f64())
    }

    /// What was recorded of stable, if it is enough for an early pass.
    pub fn enough(&self, recorded: &HistoryRecorder) -> Option<History> {
        let history = recorded.enough(self.blocks()).then(|| recorded.history())?;
        self.is_met_by(&history).then_some(history)
    }

    /// How many whole blocks that is.
    pub fn blocks(&self) -> usize {
        let blocks = self.least.as_secs_f64() / self.block.as_secs_f64().max(1e-3);
        (blocks.ceil() as usize).max(1)
    }
}

/// What follows when nothing can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NoDataPlan {
    /// The source of measurements is down.
    pub source_down: NoDataRule,
    /// Stable has traffic and the canary shows none.
    pub canary_silent: NoDataRule,
    /// Neither side has traffic.
    pub both_silent: NoDataRule,
}

impl Plan {
    /// The number of the bake, which is always the last stage.
    pub fn bake(&self) -> usize {
        self.stages.len() - 1
    }

    /// The hooks at this point, in order.
    pub fn hooks_at(&self, at: HookPoint) -> impl Iterator<Item = &HookSpec> {
        self.hooks.iter().filter(move |hook| hook.at() == at)
    }

    /// How long the hooks at this point may take in all; nothing if there are none.
    pub fn hooks_within(&self, at: HookPoint) -> Option<Span> {
        let mut all = self.hooks_at(at).map(|hook| hook.within().0).peekable();
        all.peek().is_some().then(|| Span(all.sum()))
    }

    /// Whether the split of this stage is the first to leave stable without users.
    pub fn is_first_full(&self, stage: usize) -> bool {
        let full = |stage: &Stage| stage.split.weight.is_full();
        full(&self.stages[stage]) && !self.stages[..stage].iter().any(full)
    }

    /// The longest that the release may take, gates not counted: the sum of all stages and limits.
    pub fn longest(&self) -> Duration {
        let stages: Duration = self.stages.iter().map(|stage| stage.max.0).sum();
        let before = [HookPoint::BeforeStart, HookPoint::BeforeFullTraffic];
        let hooks: Duration = before
            .iter()
            .filter_map(|at| self.hooks_within(*at))
            .map(|span| span.0)
            .sum();
        hooks + stages + self.ready_within.0 + self.settle.0 + self.smoke.within.0 + self.drain_within.0
    }
}
