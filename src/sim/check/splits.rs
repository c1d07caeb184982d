//! Weights are valid, both sides' shares make up the whole, and only planned splits are ever written.

use jiff::Timestamp;

use super::{Checker, Name};
use crate::engine::Action;
use crate::plan::{ALL_STABLE, Split};
use crate::sim::faults::Happening;
use crate::sim::run::Run;
use crate::sim::seen::Seen;

/// What is in force is a split of the plan, nothing but stable, or what somebody else wrote.
#[derive(Clone, Copy, Debug)]
pub struct SplitsAsPlanned;

impl Checker for SplitsAsPlanned {
    fn name(&self) -> Name {
        Name::SplitsAsPlanned
    }

    fn check(&self, run: &Run) -> Option<(Timestamp, String)> {
        let planned = |split: &Split| *split == ALL_STABLE || run.case.plan.stages.iter().any(|s| s.split == *split);
        let foreign = |split: &Split| {
            let theirs =
                |(_, one): &(Timestamp, Happening)| matches!(one, Happening::Meddle(theirs) if theirs == split);
            run.case.faults.happenings.iter().any(theirs)
        };
        run.moments.iter().find_map(|moment| {
            let split = match &moment.seen {
                Seen::World(truth) if !foreign(&truth.split) => &truth.split,
                Seen::Applied {
                    action: Action::Route(split),
                    ..
                } => split,
                _ => return None,
            };
            let whole = u32::from(split.weight.permille()) + u32::from(split.weight.rest().permille());
            if whole != 1000 {
                return Some((moment.at, format!("the shares of {split} add up to {whole} permille")));
            }
            (!planned(split)).then(|| (moment.at, format!("{split} is in no stage of the plan")))
        })
    }
}
