//! Every decision carries a reason.

use jiff::Timestamp;

use super::{Checker, Name, records};
use crate::sim::run::Run;

/// No entry without words.
#[derive(Clone, Copy, Debug)]
pub struct EveryEntryHasAReason;

impl Checker for EveryEntryHasAReason {
    fn name(&self) -> Name {
        Name::EveryEntryHasAReason
    }

    fn check(&self, run: &Run) -> Option<(Timestamp, String)> {
        records(&run.moments)
            .flat_map(|(_, _, update)| &update.entries)
            .find(|entry| entry.reason.trim().is_empty())
            .map(|entry| {
                (
                    entry.at,
                    format!("entry {} ({:?}) has no reason", entry.number, entry.event),
                )
            })
    }
}
