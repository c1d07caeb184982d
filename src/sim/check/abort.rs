//! An abort reaches the router within two passes, from any state in which a release can go back.
//!
//! Passes count in which the commands could be read and the platform took writes. That nothing could be observed or
//! recorded is no excuse.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{Checker, Name, turns};
use crate::engine::{Action, CommandKind, Phase};
use crate::plan::ALL_STABLE;
use crate::sim::run::Run;
use crate::sim::seen::{Call, Seen};

/// An abort is followed by the write of 0 %, soon.
#[derive(Clone, Copy, Debug)]
pub struct AbortIsPrompt;

/// Passes that an abort may take.
const PASSES: u32 = 2;

impl Checker for AbortIsPrompt {
    fn name(&self) -> Name {
        Name::AbortIsPrompt
    }

    fn check(&self, run: &Run) -> Option<(Timestamp, String)> {
        let turns = turns(run);
        let state_at = |index: usize| {
            turns
                .iter()
                .rev()
                .find(|turn| turn.index < index)
                .map(|turn| &turn.after)
        };
        run.moments.iter().enumerate().find_map(|(index, moment)| {
            let Seen::Asked(command) = &moment.seen else {
                return None;
            };
            let phase = &state_at(index)?.phase;
            if command.kind != CommandKind::Abort || !phase.can_retreat() || *phase == Phase::Waiting {
                return None;
            }
            let ignored = ignored_at(run, index)?;
            Some((
                ignored,
                format!(
                    "the abort of {} had not reached the router after {PASSES} passes",
                    moment.at
                ),
            ))
        })
    }
}

/// When the abort at `index` had been ignored for too long, if it was.
fn ignored_at(run: &Run, index: usize) -> Option<Timestamp> {
    // Only passes that began after the abort can know of it, and only the holder's.
    let mut begun = BTreeSet::new();
    let mut hindered = BTreeSet::new();
    let mut passes = 0;
    let started = |seen: &Seen| {
        if let Seen::Started { epoch } = seen {
            Some(*epoch)
        } else {
            None
        }
    };
    let mut holder = run.moments[..index]
        .iter()
        .filter_map(|moment| started(&moment.seen))
        .max()
        .unwrap_or(0);
    for moment in &run.moments[index..] {
        match &moment.seen {
            Seen::Started { epoch } => holder = *epoch,
            Seen::PassBegan { epoch } => {
                begun.insert(*epoch);
                hindered.remove(epoch);
            }
            Seen::Failed {
                epoch,
                call: Call::Apply | Call::Commands,
            } => {
                hindered.insert(*epoch);
            }
            Seen::Applied {
                epoch,
                action: Action::Route(split),
            } if *epoch == holder && *split == ALL_STABLE => {
                return None;
            }
            // A pass that was under way went past the point of no return.
            Seen::Recorded { epoch, update }
                if !begun.contains(epoch) && matches!(update.state.phase, Phase::HandingOver(_)) =>
            {
                return None;
            }
            Seen::PassEnded { epoch, .. } if *epoch == holder && begun.contains(epoch) && !hindered.contains(epoch) => {
                passes += 1;
                if passes >= PASSES {
                    return Some(moment.at);
                }
            }
            _ => {}
        }
    }
    None
}
