//! At most one writer: nothing is accepted from a lower epoch after a higher one.

use jiff::Timestamp;

use super::{Checker, Name};
use crate::sim::run::Run;
use crate::sim::seen::Seen;

/// Record and platform each accept one holder at a time.
#[derive(Clone, Copy, Debug)]
pub struct OneWriter;

impl Checker for OneWriter {
    fn name(&self) -> Name {
        Name::OneWriter
    }

    fn check(&self, run: &Run) -> Option<(Timestamp, String)> {
        let (mut record, mut platform) = (0, 0);
        run.moments.iter().find_map(|moment| {
            let (what, epoch, highest) = match &moment.seen {
                // Whoever takes over raises the record's epoch before it reads.
                Seen::Started { epoch } => {
                    record = *epoch;
                    return None;
                }
                Seen::Recorded { epoch, .. } => ("record", *epoch, &mut record),
                Seen::Applied { epoch, .. } => ("platform", *epoch, &mut platform),
                _ => return None,
            };
            let before = *highest;
            *highest = before.max(epoch);
            (epoch < before).then(|| {
                (
                    moment.at,
                    format!("the {what} took a write of epoch {epoch} after one of {before}"),
                )
            })
        })
    }
}
