//! The table of legal moves: in which phase which event may happen, and what follows.
//!
//! One total match. `decide` proposes events, the record replays them; both go through here, so a history that was
//! written can be read, and a move that is not in the table is an error wherever it comes from.

use jiff::{SignedDuration, Timestamp};

use super::state::{Entry, Event, HandOver, NoDataSince, Outcome, Paused, Phase, Proof, Retreat, Return, State};
use crate::plan::{Lane, Plan};
use crate::spec::HookPoint;

/// An event that may not happen in this phase. Somebody's mistake: the engine's, or a damaged record's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{event}` is not a legal move while {phase}: the record is damaged, or this is a bug in Wade")]
pub struct IllegalMove {
    /// The phase's label.
    pub phase: &'static str,
    /// The event, as written.
    pub event: String,
}

/// The state after `event` at `at`.
///
/// # Errors
/// [`IllegalMove`] for every pair that is not in the table.
pub fn apply(plan: &Plan, state: &State, event: &Event, at: Timestamp) -> Result<State, IllegalMove> {
    let mut next = state.clone();
    next.next_entry += 1;
    let bake = plan.bake();
    let phase = match (&state.phase, event) {
        // Forward.
        (Phase::Waiting, Event::Admitted) => {
            // The release's clock starts here, and so does what does not count against it.
            next.started = at;
            next.waited = SignedDuration::ZERO;
            if plan.hooks_at(HookPoint::BeforeStart).next().is_some() {
                Phase::BeforeHooks { stage: None }
            } else {
                Phase::Starting
            }
        }
        (Phase::BeforeHooks { stage: None }, Event::HooksEnded) => Phase::Starting,
        (Phase::BeforeHooks { stage: Some(stage) }, Event::HooksEnded) => Phase::Preparing { stage: *stage },
        (Phase::Starting, Event::Ready) => Phase::Smoking,
        (Phase::Smoking, Event::SmokePassed) => enter(plan, 0),
        (Phase::Gated { stage }, Event::GateOpened { command, .. }) => {
            next.handled = *command;
            // A pause that is still on counts its own time when it ends.
            let until = state.paused.as_ref().map_or(at, |paused| paused.since);
            next.waited += passed(state.since, until);
            prepare(plan, *stage)
        }
        (Phase::Preparing { stage }, Event::Prepared) => {
            next.split_of = Some(*stage);
            next.had_users |= plan.stages[*stage].split.serves_users();
            Phase::Shifting { stage: *stage }
        }
        (Phase::Shifting { stage }, Event::Shifted { restarts }) => {
            if *stage == bake {
                next.restarts_before_bake = *restarts;
            }
            next.vouched = None;
            Phase::Analysing { stage: *stage }
        }
        (Phase::Analysing { stage }, Event::StageEnded { proof }) => {
            match proof {
                Proof::Passed => next.passes += 1,
                Proof::Unproven => next.unproven = true,
                // It was not there to prove anything, but a time in which nothing was seen is no proof either.
                Proof::NotJudged => next.unproven |= state.no_data.is_some(),
            }
            after(plan, *stage)
        }
        (Phase::Analysing { stage }, Event::AskedForProof) if *stage < bake => {
            next.unproven = true;
            Phase::Gated { stage: stage + 1 }
        }
        (
            Phase::Gated { .. } | Phase::Preparing { .. },
            Event::Promoted {
                command,
                by,
                full: true,
            },
        ) => {
            next.promoted_by(*command, by, at);
            // Whoever prepares the bake has its hooks behind them.
            if state.phase == (Phase::Preparing { stage: bake }) {
                state.phase.clone()
            } else {
                prepare(plan, bake)
            }
        }
        // Large enough, and held by doubts alone: a person answers for them.
        (
            Phase::Preparing { stage },
            Event::Promoted {
                command,
                by,
                full: false,
            },
        ) => {
            next.promoted_by(*command, by, at);
            Phase::Preparing { stage: *stage }
        }
        (Phase::Analysing { stage }, Event::Promoted { command, by, full }) => {
            next.promoted_by(*command, by, at);
            match (*stage == bake, full) {
                (true, _) => Phase::HandingOver(HandOver::Adopt),
                (false, true) => prepare(plan, bake),
                (false, false) => enter(plan, stage + 1),
            }
        }
        (Phase::HandingOver(HandOver::Adopt), Event::Adopted) => Phase::HandingOver(HandOver::Drain),
        (Phase::HandingOver(HandOver::Drain), Event::StableDrained) => Phase::HandingOver(HandOver::Retire),
        (Phase::HandingOver(HandOver::Retire), Event::Retired) => ended(
            plan,
            match plan.lane {
                Lane::FirstDeploy => Outcome::FirstDeploy,
                _ => Outcome::Promoted { proven: state.proven() },
            },
        ),
        (Phase::AfterHooks(outcome), Event::HooksEnded) => Phase::Done(outcome.clone()),

        // Back. Nothing has been touched while waiting, so there is nothing to put back.
        (Phase::Waiting, Event::Retreated { command, outcome, .. }) => {
            next.handled = command.unwrap_or(state.handled);
            next.paused = None;
            Phase::Done(outcome.clone())
        }
        // From `Adopt` `decide` never proposes it. But the record may have moved there while its writer, without an
        // answer, did not know it and went back: nothing is adopted before the answer has come.
        (
            phase,
            Event::Retreated {
                command,
                outcome,
                reason,
            },
        ) if phase.can_retreat() || *phase == Phase::HandingOver(HandOver::Adopt) => {
            next.handled = command.unwrap_or(state.handled);
            next.paused = None;
            Phase::Returning(
                Return::Route,
                Retreat {
                    outcome: outcome.clone(),
                    reason: reason.clone(),
                },
            )
        }
        (Phase::Returning(Return::Route, why), Event::RouteRestored) => Phase::Returning(Return::Drain, why.clone()),
        (Phase::Returning(Return::Drain, why), Event::CanaryDrained) => Phase::Returning(Return::Remove, why.clone()),
        (Phase::Returning(Return::Remove, why), Event::CanaryRemoved) => Phase::Returning(Return::Restore, why.clone()),
        (Phase::Returning(Return::Restore, why), Event::Restored) => ended(plan, why.outcome.clone()),

        // In place.
        (phase, Event::Paused { command, by }) if phase.can_retreat() && state.paused.is_none() => {
            next.handled = *command;
            next.paused = Some(Paused {
                by: by.clone(),
                since: at,
            });
            phase.clone()
        }
        (phase, Event::Resumed { command }) => {
            let Some(paused) = &state.paused else {
                return Err(illegal(state, event));
            };
            next.handled = *command;
            next.paused = None;
            // The pause counts neither against the stage's time nor against the release's.
            let length = passed(paused.since, at);
            next.waited += length;
            next.since = (state.since + length).min(at);
            phase.clone()
        }
        // A stage lasts as long as it is watched: time in which nobody would have gone back proves nothing, and what
        // could not be seen to happen in it is not late.
        (phase, Event::WatchedAgain { from, until })
            if phase.is_timed_by_looks()
                && state.paused.is_none()
                && state.watched_again.is_none_or(|before| before < *until) =>
        {
            let missed = passed((*from).max(state.since), *until);
            next.waited += missed;
            next.since = (state.since + missed).min(at);
            next.watched_again = Some(*until);
            phase.clone()
        }
        (phase, Event::SignalsLost { kind }) if phase.stage().is_some() => {
            next.no_data = Some(NoDataSince { kind: *kind, since: at });
            phase.clone()
        }
        (phase, Event::SignalsBack) if state.no_data.is_some() => {
            next.no_data = None;
            phase.clone()
        }
        (phase, Event::WouldHave) if phase.can_retreat() => {
            next.would_have = true;
            next.unproven = true;
            phase.clone()
        }
        (phase @ (Phase::HandingOver(_) | Phase::Returning(..)), Event::GotStuck { traffic_on }) => {
            next.stuck = Some(*traffic_on);
            phase.clone()
        }
        (phase @ (Phase::HandingOver(_) | Phase::Returning(..)), Event::Retried { command })
            if state.stuck.is_some() =>
        {
            next.handled = *command;
            next.stuck = None;
            next.since = at;
            phase.clone()
        }
        (phase, Event::Refused { command }) => {
            next.handled = *command;
            phase.clone()
        }
        _ => return Err(illegal(state, event)),
    };
    if phase != state.phase {
        next.since = at;
        next.stuck = None;
        if phase.stage() != state.phase.stage() {
            next.no_data = None;
        }
    }
    next.phase = phase;
    Ok(next)
}

/// The state that a history leads to, from a release that began at `started`.
///
/// # Errors
/// [`IllegalMove`] at the first entry that does not follow from those before.
pub fn replay<'a>(
    plan: &Plan,
    started: Timestamp,
    history: impl IntoIterator<Item = &'a Entry>,
) -> Result<State, IllegalMove> {
    history.into_iter().try_fold(State::new(started), |state, entry| {
        if entry.number != state.next_entry {
            return Err(illegal(&state, &entry.event));
        }
        apply(plan, &state, &entry.event, entry.at)
    })
}

fn enter(plan: &Plan, stage: usize) -> Phase {
    if plan.stages[stage].gate.is_some() {
        Phase::Gated { stage }
    } else {
        prepare(plan, stage)
    }
}

/// Every gate is open; hooks may stand before all traffic.
fn prepare(plan: &Plan, stage: usize) -> Phase {
    if plan.is_first_full(stage) && plan.hooks_at(HookPoint::BeforeFullTraffic).next().is_some() {
        Phase::BeforeHooks { stage: Some(stage) }
    } else {
        Phase::Preparing { stage }
    }
}

/// The outcome is certain; hooks may follow it.
fn ended(plan: &Plan, outcome: Outcome) -> Phase {
    let after = if outcome.is_forward() {
        HookPoint::AfterPromotion
    } else {
        HookPoint::AfterRollback
    };
    if plan.hooks_at(after).next().is_some() {
        Phase::AfterHooks(outcome)
    } else {
        Phase::Done(outcome)
    }
}

fn after(plan: &Plan, stage: usize) -> Phase {
    if stage == plan.bake() {
        Phase::HandingOver(HandOver::Adopt)
    } else {
        enter(plan, stage + 1)
    }
}

/// Time that has gone by; none if the clock was set back.
fn passed(from: Timestamp, to: Timestamp) -> SignedDuration {
    to.duration_since(from).max(SignedDuration::ZERO)
}

fn illegal(state: &State, event: &Event) -> IllegalMove {
    IllegalMove {
        phase: state.phase.label(),
        event: format!("{event:?}"),
    }
}

impl State {
    /// A person goes on; the time for which the release had waited for people does not count against its limit.
    fn promoted_by(&mut self, command: u64, by: &super::Actor, at: Timestamp) {
        let waiting_since = match (&self.phase, &self.paused) {
            (Phase::Gated { .. }, _) => self.since,
            (_, Some(paused)) => paused.since,
            (_, None) => at,
        };
        self.waited += passed(waiting_since, at);
        self.handled = command;
        self.paused = None;
        self.unproven = true;
        self.vouched = Some(by.clone());
    }
}
