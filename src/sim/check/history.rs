//! Replaying the history gives the state, at every step.

use jiff::Timestamp;

use super::{Checker, Name, records};
use crate::engine::{State, apply};
use crate::sim::run::Run;

/// The recorded state is what the recorded history leads to. It asks the engine's table what follows.
#[derive(Clone, Copy, Debug)]
pub struct HistoryIsTheState;

impl Checker for HistoryIsTheState {
    fn name(&self) -> Name {
        Name::HistoryIsTheState
    }

    fn check(&self, run: &Run) -> Option<(Timestamp, String)> {
        let mut state = State::new(run.case.start);
        for (index, _, update) in records(&run.moments) {
            let at = run.moments[index].at;
            let fresh = state.next_entry;
            for entry in update.entries.iter().filter(|entry| entry.number >= fresh) {
                if entry.number != state.next_entry {
                    return Some((
                        at,
                        format!("entry {} came where {} was due", entry.number, state.next_entry),
                    ));
                }
                match apply(&run.case.plan, &state, &entry.event, entry.at) {
                    Ok(next) => state = next,
                    Err(illegal) => return Some((at, illegal.to_string())),
                }
            }
            if state != update.state {
                return Some((
                    at,
                    format!("history leads to {state:?}, recorded was {:?}", update.state),
                ));
            }
        }
        None
    }
}
