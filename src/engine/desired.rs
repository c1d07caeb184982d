//! What the world should look like in a state. Level-triggered: the same state always wants the same things.

use serde::{Deserialize, Serialize};

use super::state::{HandOver, Phase, Return, State};
use crate::plan::{ALL_STABLE, Plan, Split, Stage};
use crate::spec::{HookPoint, Weight};

/// One thing that should hold. Adapters compare it with what is and write only the difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// The platform does not roll by itself.
    Hold,
    /// The canary exists with this share of its full size.
    Canary {
        /// Share of the full size; at least one instance.
        capacity: Weight,
    },
    /// Requests are divided like this.
    Route(Split),
    /// The smoke tests run: once per release unless the result was lost, or again and again if the plan says so.
    Smoke,
    /// The author's hooks at this point run: each once per release, one after the other.
    Hooks(HookPoint),
    /// The platform takes the canary as its own.
    Adopt,
    /// The old revision, and what the release added, is removed.
    Retire,
    /// The canary is removed.
    RemoveCanary,
    /// The platform has back what was held.
    Restore,
}

impl Action {
    /// Whether it brings users towards the canary, so that it must have been recorded before.
    pub const fn is_forward(&self) -> bool {
        match self {
            Self::Hold | Self::Canary { .. } | Self::Smoke | Self::Hooks(_) | Self::Adopt | Self::Retire => true,
            Self::Route(split) => split.reaches_canary(),
            Self::RemoveCanary | Self::Restore => false,
        }
    }
}

/// What should hold in `state`, in the order in which it should be brought about.
pub fn desired(plan: &Plan, state: &State) -> Vec<Action> {
    let canary = |stage: &Stage| Action::Canary {
        capacity: stage.capacity,
    };
    match &state.phase {
        Phase::Waiting | Phase::Done(_) => Vec::new(),
        Phase::BeforeHooks { stage: None } => vec![Action::Hold, Action::Hooks(HookPoint::BeforeStart)],
        Phase::BeforeHooks { stage: Some(_) } => {
            let now = &plan.stages[state.split_of.unwrap_or(0)];
            vec![
                Action::Hold,
                canary(now),
                Action::Route(split_now(plan, state)),
                Action::Hooks(HookPoint::BeforeFullTraffic),
            ]
        }
        // What the release did is over and undone or handed over; the platform is its owner's again.
        Phase::AfterHooks(_) => state.phase.hook_point().map(Action::Hooks).into_iter().collect(),
        Phase::Starting => vec![Action::Hold, Action::Route(ALL_STABLE), canary(&plan.stages[0])],
        Phase::Smoking => vec![
            Action::Hold,
            Action::Route(ALL_STABLE),
            canary(&plan.stages[0]),
            Action::Smoke,
        ],
        // The split is still the one of the stage before; only the instances may already be the next one's.
        Phase::Gated { .. } => {
            let now = &plan.stages[state.split_of.unwrap_or(0)];
            vec![Action::Hold, canary(now), Action::Route(split_now(plan, state))]
        }
        Phase::Preparing { stage } => {
            let now = state.split_of.map_or(Weight::ZERO, |stage| plan.stages[stage].capacity);
            let capacity = plan.stages[*stage].capacity.max(now);
            vec![
                Action::Hold,
                Action::Canary { capacity },
                Action::Route(split_now(plan, state)),
            ]
        }
        Phase::Shifting { stage } | Phase::Analysing { stage } => {
            let stage = &plan.stages[*stage];
            let mut wanted = vec![Action::Hold, canary(stage), Action::Route(stage.split.clone())];
            wanted.extend(plan.smoke.again.map(|_| Action::Smoke));
            wanted
        }
        Phase::HandingOver(step) => {
            let last = &plan.stages[plan.bake()];
            let route = Action::Route(last.split.clone());
            match step {
                HandOver::Adopt => vec![canary(last), route, Action::Adopt],
                HandOver::Drain => vec![route, Action::Adopt],
                HandOver::Retire => vec![route, Action::Adopt, Action::Retire],
            }
        }
        Phase::Returning(step, _) => {
            let route = Action::Route(ALL_STABLE);
            match step {
                Return::Route | Return::Drain => vec![route],
                Return::Remove => vec![route, Action::RemoveCanary],
                Return::Restore => vec![route, Action::RemoveCanary, Action::Restore],
            }
        }
    }
}

/// The split that was written last.
pub fn split_now(plan: &Plan, state: &State) -> Split {
    state
        .split_of
        .map_or(ALL_STABLE, |stage| plan.stages[stage].split.clone())
}

/// How many instances a share of the full size is: enough for the share, at least one.
pub fn instances(capacity: Weight, full: u32) -> u32 {
    let wanted = (u64::from(full) * u64::from(capacity.permille())).div_ceil(1000);
    u32::try_from(wanted).unwrap_or(u32::MAX).clamp(1, full.max(1))
}
