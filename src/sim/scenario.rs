//! A case written by hand: what `wade simulate -f rollout.yaml --scenario scenario.yaml` reads.
//!
//! The scenario says how the service and the new revision behave and what happens when; the rollout says what Wade
//! does about it. Read as strictly as a rollout, every fault at once. What is not said is healthy.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::faults::{Fault, Faults, Happening, Window};
use super::generate::{START, healthy};
use super::run::{Case, run};
use super::timeline::{Timeline, timeline};
use super::world::{Behaviour, Start};
use crate::engine::{Actor, CommandKind};
use crate::plan::{Circumstances, Lane, lower};
use crate::spec::{self, Percent, Rollout, Span, Workload};

/// A scenario, as the user writes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scenario {
    /// Draws requests and errors; the same seed gives the same timeline. 1 if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// When the release begins, `2026-03-02T10:00:00Z` (a Monday) if not said. Matters for windows only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// What kind of release it is; `normal` if not said.
    #[serde(default)]
    pub lane: LaneWord,
    /// Why, for `lane: emergency`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Instances at full size; the rollout's if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub instances: Option<u32>,
    /// Stable was watched long enough before the release, so that stages may pass early; true if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watched: Option<bool>,
    /// What users do.
    pub traffic: Load,
    /// How the old revision behaves.
    #[serde(default)]
    pub stable: Side,
    /// How the new revision behaves.
    #[serde(default)]
    pub canary: Side,
    /// What happens when.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
    /// The simulation is given up after this; 12 h if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Span>,
}

/// What users do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Load {
    /// Requests per second on the whole service.
    #[schemars(range(min = 0, max = 1000000))]
    pub rps: f64,
}

/// How a revision behaves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Side {
    /// The share of its answers that are errors; 0.1 % if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_rate: Option<Percent>,
    /// The median answer time; 40 ms if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Span>,
    /// Multiplies the answer time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 1000))]
    pub slow_factor: Option<f64>,
    /// How long an instance takes to get ready; 2 s if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_after: Option<Span>,
    /// An instance never gets ready and exits after this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exits_after: Option<Span>,
    /// A ready instance crashes after this, again and again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crash_after: Option<Span>,
    /// How the smoke tests end.
    #[serde(default)]
    pub smoke: Smoke,
}

/// How the smoke tests end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Smoke {
    #[default]
    Pass,
    Fail,
}

/// What kind of release it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum LaneWord {
    /// A new revision beside a stable one.
    #[default]
    Normal,
    /// There is no stable revision yet.
    FirstDeploy,
    /// Back to a revision that has served before.
    Rollback,
    /// A hotfix; `reason` says why.
    Emergency,
}

/// Something that happens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Event {
    /// When, counted from the beginning.
    pub at: Span,
    /// What.
    #[serde(rename = "do")]
    pub what: What,
    /// How long it lasts, for everything that lasts.
    #[serde(rename = "for", default, skip_serializing_if = "Option::is_none")]
    pub lasts: Option<Span>,
    /// Who asks, for everything that people ask; `you` if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The groups of whoever asks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Why, in their words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How the new revision behaves from now on, for `canaryTurns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Side>,
    /// The newer revision's name, for `newRevision`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum What {
    /// Somebody opens the gate.
    Approve,
    /// Somebody ends the stage.
    Promote,
    /// Somebody goes to 100 %.
    PromoteFull,
    /// Somebody keeps the weight.
    Pause,
    /// Somebody ends the pause.
    Resume,
    /// Somebody goes back to stable.
    Abort,
    /// Somebody tries again what is stuck.
    Retry,
    /// Nothing can be measured (lasts).
    SourceDown,
    /// The canary gets no requests (lasts).
    CanarySilent,
    /// Nobody sends requests (lasts).
    BothSilent,
    /// Both revisions fail many requests (lasts).
    Incident,
    /// The record can be neither read nor written (lasts).
    StoreDown,
    /// The record can be read and not written (lasts).
    StoreFull,
    /// The platform does not answer (lasts).
    PlatformDown,
    /// Wade dies; another starts after `for`.
    KillController,
    /// A newer revision wants to be released.
    NewRevision,
    /// The new revision behaves differently from now on.
    CanaryTurns,
}

impl What {
    fn command(self) -> Option<CommandKind> {
        Some(match self {
            Self::Approve => CommandKind::Approve,
            Self::Promote => CommandKind::Promote { full: false },
            Self::PromoteFull => CommandKind::Promote { full: true },
            Self::Pause => CommandKind::Pause,
            Self::Resume => CommandKind::Resume,
            Self::Abort => CommandKind::Abort,
            Self::Retry => CommandKind::Retry,
            _ => return None,
        })
    }

    fn fault(self) -> Option<Fault> {
        Some(match self {
            Self::SourceDown => Fault::SourceDown,
            Self::CanarySilent => Fault::CanarySilent,
            Self::BothSilent => Fault::BothSilent,
            Self::Incident => Fault::Incident,
            Self::StoreDown => Fault::StoreDown,
            Self::StoreFull => Fault::StoreFull,
            Self::PlatformDown => Fault::PlatformDown,
            _ => return None,
        })
    }
}

const MINIMAL: &str = "a minimal scenario is `traffic: {rps: 100}`";
/// The most that a simulation may run.
const LIMIT: Span = Span::secs(12 * 3600);

/// Reads a scenario.
///
/// # Errors
/// Every fault at once, each with its line.
pub fn read_scenario(text: &str, source_name: &str) -> Result<Scenario, spec::Faults> {
    spec::read_as(text, source_name, MINIMAL, meaning)
}

fn meaning(scenario: &Scenario) -> Vec<spec::Fault> {
    let mut faults = Vec::new();
    let mut fault = |path: spec::Path, problem: &str, help: &str| {
        faults.push(spec::Fault::new(path, problem).help(help));
    };
    if scenario
        .start
        .as_ref()
        .is_some_and(|start| start.parse::<Timestamp>().is_err())
    {
        fault(
            spec::Path::of("start"),
            "this is not a time",
            "write it in UTC, like `2026-03-02T10:00:00Z`",
        );
    }
    if scenario.lane == LaneWord::Emergency && scenario.reason.is_none() {
        fault(
            spec::Path::of("reason"),
            "an emergency needs a reason",
            "add `reason: …`, as `wade deploy --emergency` asks",
        );
    }
    for (index, event) in scenario.events.iter().enumerate() {
        let path = spec::Path::of("events").index(index);
        if event.what.fault().is_some() && event.lasts.is_none() {
            fault(path.key("for"), "it is not said how long this lasts", "add `for: 5m`");
        }
        if event.what == What::CanaryTurns && event.canary.is_none() {
            fault(
                path.key("canary"),
                "it is not said how the canary behaves then",
                "add `canary: {errorRate: 5%}`",
            );
        }
    }
    faults
}

/// Simulates a release.
///
/// # Errors
/// What is wrong with the rollout's strategy; the scenario has been checked by [`read_scenario`].
pub fn run_scenario(rollout: &Rollout, scenario: &Scenario) -> Result<Timeline, spec::Faults> {
    let case = case(rollout, scenario)?;
    Ok(timeline(&run(&case)))
}

/// Both files as text to the timeline as text, for the command line.
///
/// # Errors
/// Every fault of the file that has some, as text.
pub fn cli_text(rollout_yaml: &str, scenario_yaml: &str) -> Result<String, String> {
    let rollout = spec::read_rollout(rollout_yaml, "rollout.yaml").map_err(|faults| faults.to_string())?;
    let scenario = read_scenario(scenario_yaml, "scenario.yaml").map_err(|faults| faults.to_string())?;
    let timeline = run_scenario(&rollout, &scenario);
    timeline
        .map(|timeline| timeline.to_string())
        .map_err(|faults| faults.located_in(rollout_yaml, "rollout.yaml").to_string())
}

/// The case that a scenario makes of a rollout.
///
/// # Errors
/// What is wrong with the strategy.
pub fn case(rollout: &Rollout, scenario: &Scenario) -> Result<Case, spec::Faults> {
    let resolved = spec::resolve(rollout, &BTreeMap::new())?;
    let lane = match (scenario.lane, &scenario.reason) {
        (LaneWord::Normal, _) => Lane::Normal,
        (LaneWord::FirstDeploy, _) => Lane::FirstDeploy,
        (LaneWord::Rollback, _) => Lane::Rollback,
        (LaneWord::Emergency, reason) => Lane::Emergency {
            reason: reason.clone().unwrap_or_default(),
        },
    };
    let around = Circumstances {
        lane,
        stable_unfit: None,
        requests_per_second: Some(scenario.traffic.rps),
        found: None,
    };
    let plan = lower(
        &rollout.metadata.name,
        &rollout.spec,
        &resolved.strategy,
        &resolved.analysis,
        &resolved.limits,
        &around,
    );
    let written = match &rollout.spec.workload {
        Workload::Process(process) => process.instances,
        Workload::Deployment(_) => None,
    };
    let start: Timestamp = scenario
        .start
        .as_deref()
        .unwrap_or(START)
        .parse()
        .expect("checked when the scenario was read");
    Ok(Case {
        seed: scenario.seed.unwrap_or(1),
        start,
        plan,
        full: scenario.instances.or(written).unwrap_or(1),
        rps: scenario.traffic.rps,
        stable: behaviour(&scenario.stable),
        canary: behaviour(&scenario.canary),
        watched: scenario.watched.unwrap_or(true),
        deploy_window: None,
        faults: faults(start, scenario),
        jitter: false,
        dies_at_poll: None,
        limit: scenario.limit.unwrap_or(LIMIT).signed(),
        sabotage: None,
    })
}

fn behaviour(side: &Side) -> Behaviour {
    let well = healthy();
    let start = match (side.exits_after, side.ready_after) {
        (Some(after), _) => Start::Crash(after.signed()),
        (None, Some(after)) => Start::Ready(after.signed()),
        (None, None) => well.start,
    };
    let latency = side.latency.map_or(well.latency_secs, Span::as_secs_f64);
    Behaviour {
        error_rate: side.error_rate.map_or(well.error_rate, Percent::fraction),
        latency_secs: latency * side.slow_factor.unwrap_or(1.0),
        latency_sigma: well.latency_sigma,
        start,
        crash_after: side.crash_after.map(Span::signed),
        smoke_passes: side.smoke == Smoke::Pass,
    }
}

fn faults(start: Timestamp, scenario: &Scenario) -> Faults {
    let mut faults = Faults::default();
    for event in &scenario.events {
        let at = start + event.at.signed();
        let lasts = event.lasts.map_or(SignedDuration::ZERO, Span::signed);
        if let Some(fault) = event.what.fault() {
            faults.windows.push(Window {
                fault,
                from: at,
                to: at + lasts,
            });
            continue;
        }
        let happening = match event.what {
            What::KillController => Happening::Kill {
                for_secs: u32::try_from(lasts.as_secs()).unwrap_or(u32::MAX),
            },
            What::NewRevision => Happening::Newer(event.name.clone().unwrap_or_else(|| "v3".to_owned())),
            What::CanaryTurns => Happening::Turn(behaviour(event.canary.as_ref().unwrap_or(&Side::default()))),
            asked => Happening::Ask {
                kind: asked.command().expect("every other kind is named above"),
                by: Actor {
                    user: event.by.clone().unwrap_or_else(|| "you".to_owned()),
                    groups: event.groups.clone(),
                    from: None,
                },
                reason: event.why.clone(),
            },
        };
        faults.happenings.push((at, happening));
    }
    faults.happenings.sort_by_key(|(at, _)| *at);
    faults
}
