//! Once nothing goes wrong any more, a release ends within a bound that follows from its plan.

use jiff::{SignedDuration, Timestamp};

use super::{Checker, Name};
use crate::plan::Plan;
use crate::sim::run::Run;

/// After the faults stop, a release ends, and does not stay stuck.
#[derive(Clone, Copy, Debug)]
pub struct SettlesWhenQuiet;

/// For passes, and for what was under way.
const SLACK: SignedDuration = SignedDuration::from_secs(60);
/// The way back or the hand over, in multiples of `confirm_within`.
const CONFIRMATIONS: i32 = 8;

/// The longest that a release may still take from a quiet moment: its own limit, every gate, one pause, and the way back.
pub fn bound(plan: &Plan) -> SignedDuration {
    let gates: SignedDuration = plan
        .stages
        .iter()
        .map(|stage| {
            stage
                .gate
                .as_ref()
                .map_or(plan.gate_within, |gate| gate.expires)
                .signed()
        })
        .sum();
    plan.release_within.signed()
        + gates
        + plan.gate_within.signed()
        + plan.drain_within.signed() * 2
        + plan.confirm_within.signed() * CONFIRMATIONS
        + SLACK
}

impl Checker for SettlesWhenQuiet {
    fn name(&self) -> Name {
        Name::SettlesWhenQuiet
    }

    fn check(&self, run: &Run) -> Option<(Timestamp, String)> {
        let due = run.quiet_from + bound(&run.case.plan);
        let state = &run.record.state;
        match run.over_at {
            Some(over) if over <= due && state.outcome().is_some() => None,
            Some(over) if state.outcome().is_none() => Some((
                over,
                format!("the release was called over, and recorded is {}", state.phase.label()),
            )),
            late => Some((
                due,
                format!(
                    "quiet since {}, ended {late:?}, now {}",
                    run.quiet_from,
                    state.phase.label()
                ),
            )),
        }
    }
}
