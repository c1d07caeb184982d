//! A restart anywhere changes nothing but time: what is read is what was recorded.
//!
//! That the release then goes the same way is the test `a_crash_at_every_await_changes_nothing_but_time`'s to show.

use jiff::Timestamp;

use super::{Checker, Name};
use crate::engine::State;
use crate::sim::run::Run;
use crate::sim::seen::Seen;

/// Whoever takes over reads exactly what was recorded last.
#[derive(Clone, Copy, Debug)]
pub struct RestartChangesNothing;

impl Checker for RestartChangesNothing {
    fn name(&self) -> Name {
        Name::RestartChangesNothing
    }

    fn check(&self, run: &Run) -> Option<(Timestamp, String)> {
        let mut recorded = State::new(run.case.start);
        run.moments.iter().find_map(|moment| {
            match &moment.seen {
                Seen::Recorded { update, .. } => recorded = update.state.clone(),
                Seen::Loaded { whole: false, .. } => {
                    return Some((
                        moment.at,
                        "the record that was read is not the one that was written".to_owned(),
                    ));
                }
                Seen::Loaded { state, .. } if **state != recorded => {
                    let (read, written) = (state.phase.label(), recorded.phase.label());
                    return Some((
                        moment.at,
                        format!("recorded was {written}, read was {read}, or they differ within"),
                    ));
                }
                _ => {}
            }
            None
        })
    }
}
