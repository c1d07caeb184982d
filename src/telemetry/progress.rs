//! One release as its notices tell it: each entry as a step from one state to the next, by the engine's own table.

use jiff::Timestamp;

use super::About;
use crate::controller::Notice;
use crate::engine::desired::split_now;
use crate::engine::{Entry, State, apply};
use crate::judge::Verdict;
use crate::plan::Plan;
use crate::store::ReleaseKey;

/// What a notice says about this release.
#[derive(Debug)]
pub(super) enum Seen<'a> {
    /// Something happened.
    Step(Step<'a>),
    /// A look in which nothing happened.
    Look {
        at: Timestamp,
        state: &'a State,
        verdict: Option<&'a Verdict>,
    },
    /// Something could not be done.
    Trouble { at: Timestamp, message: &'a str },
}

/// Something happened.
#[derive(Debug)]
pub(super) struct Step<'a> {
    pub(super) plan: &'a Plan,
    pub(super) entry: &'a Entry,
    pub(super) before: &'a State,
    pub(super) after: &'a State,
}

/// Where the release is, as far as it was told.
pub(super) struct Progress {
    pub(super) key: ReleaseKey,
    pub(super) plan: Plan,
    pub(super) state: State,
    /// As it was before the last step.
    before: State,
}

impl Progress {
    pub(super) fn of(about: &About) -> Self {
        Self {
            key: about.record.key.clone(),
            plan: about.record.plan.clone(),
            state: about.record.state.clone(),
            before: about.record.state.clone(),
        }
    }

    /// What the notice says; `None` if it is about another release, or known already.
    pub(super) fn see<'a>(&'a mut self, notice: &'a Notice) -> Option<Seen<'a>> {
        match notice {
            Notice::Entry { key, entry, phase } if *key == self.key => {
                if entry.number < self.state.next_entry {
                    return None;
                }
                self.before.clone_from(&self.state);
                let before = &self.before;
                // After a gap (told too fast to follow) the table may not allow the step; where it led to is known.
                self.state = apply(&self.plan, before, &entry.event, entry.at).unwrap_or_else(|_| State {
                    phase: phase.clone(),
                    since: entry.at,
                    ..before.clone()
                });
                self.state.next_entry = entry.number + 1;
                Some(Seen::Step(Step {
                    plan: &self.plan,
                    entry,
                    before,
                    after: &self.state,
                }))
            }
            Notice::Look { key, at, verdict, .. } if *key == self.key => Some(Seen::Look {
                at: *at,
                state: &self.state,
                verdict: verdict.as_deref(),
            }),
            Notice::Trouble { key, at, message } if *key == self.key => Some(Seen::Trouble { at: *at, message }),
            _ => None,
        }
    }
}

/// The share of users' traffic that was last given to the canary.
pub(super) fn weight(plan: &Plan, state: &State) -> f64 {
    use crate::engine::Phase;
    match &state.phase {
        Phase::Returning(..) | Phase::Waiting => 0.0,
        Phase::HandingOver(_) => 1.0,
        Phase::Done(outcome) => f64::from(u8::from(outcome.is_forward())),
        _ => split_now(plan, state).weight.fraction(),
    }
}

/// How close the evidence is to a fail.
pub(super) fn evidence(verdict: &Verdict) -> f64 {
    if verdict.needed > 0.0 {
        (verdict.evidence / verdict.needed).max(0.0)
    } else {
        0.0
    }
}

/// The word for a call.
pub(super) fn call(verdict: &Verdict) -> &'static str {
    match verdict.call {
        crate::judge::Call::Pass => "pass",
        crate::judge::Call::Fail => "fail",
        crate::judge::Call::Undecided => "undecided",
    }
}
