//! Nothing forward is done that was not recorded before.

use jiff::Timestamp;

use super::{Checker, Name};
use crate::engine::{Action, State, desired};
use crate::sim::run::Run;
use crate::sim::seen::Seen;

/// A write that brings users towards the canary is wanted by the state that was recorded last. It asks the engine what
/// a state wants. A controller that has lost the release and does not know it yet may repeat what once was wanted.
#[derive(Clone, Copy, Debug)]
pub struct RecordedBeforeDone;

impl Checker for RecordedBeforeDone {
    fn name(&self) -> Name {
        Name::RecordedBeforeDone
    }

    fn check(&self, run: &Run) -> Option<(Timestamp, String)> {
        let plan = &run.case.plan;
        let mut wanted: Vec<Action> = desired(plan, &State::new(run.case.start));
        let mut once = wanted.clone();
        let mut holder = 0;
        for moment in &run.moments {
            match &moment.seen {
                Seen::Started { epoch } => holder = *epoch,
                Seen::Recorded { update, .. } => {
                    wanted = desired(plan, &update.state);
                    once.extend(
                        wanted
                            .iter()
                            .filter(|action| !once.contains(action))
                            .cloned()
                            .collect::<Vec<_>>(),
                    );
                }
                Seen::Applied { epoch, action } if action.is_forward() => {
                    let among = if *epoch == holder { &wanted } else { &once };
                    if !among.contains(action) {
                        return Some((moment.at, format!("{action:?} was done, and no record said so")));
                    }
                }
                _ => {}
            }
        }
        None
    }
}
