//! The weight is never raised while suspicious, at a bad look, or while blind.
//!
//! What was measured is the truth of the world, not what the controller was told.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Checker, Name, turns};
use crate::engine::{Event, Proof};
use crate::judge::Call;
use crate::plan::{ALL_STABLE, StageKind};
use crate::signals::Condition;
use crate::sim::run::Run;
use crate::sim::seen::Seen;
use crate::spec::{Mode, NoDataAction};

/// A canary that sees requests gets more only at a look that was measured and not bad, by policy, or by a person.
#[derive(Clone, Copy, Debug)]
pub struct NeverRaisedInDoubt;

impl Checker for NeverRaisedInDoubt {
    fn name(&self) -> Name {
        Name::NeverRaisedInDoubt
    }

    fn check(&self, run: &Run) -> Option<(Timestamp, String)> {
        let plan = &run.case.plan;
        if plan.mode == Mode::Observe {
            return None;
        }
        // A person who promoted answers for it until the router has confirmed.
        let mut vouched = false;
        for turn in turns(run) {
            match &turn.entry.event {
                Event::Promoted { .. } => vouched = true,
                Event::Shifted { .. } => vouched = false,
                _ => {}
            }
            let raises = match turn.entry.event {
                Event::Prepared => true,
                Event::StageEnded { proof } => proof == Proof::Passed,
                _ => false,
            };
            let split = turn
                .before
                .split_of
                .map_or(ALL_STABLE, |stage| plan.stages[stage].split.clone());
            if !raises || vouched || !split.reaches_canary() {
                continue;
            }
            let verdict = turn.update.verdict.as_ref();
            if let Some(bad) = verdict.filter(|verdict| verdict.suspicious || verdict.call == Call::Fail) {
                return Some((
                    turn.entry.at,
                    format!("the weight was raised at this look: {}", bad.reason),
                ));
            }
            let mut looks = BTreeMap::new();
            for moment in &run.moments[..turn.index] {
                if let Seen::Measured { epoch, condition } = &moment.seen {
                    looks.insert(*epoch, condition);
                }
            }
            let preview = turn
                .before
                .split_of
                .is_some_and(|stage| plan.stages[stage].kind == StageKind::Preview);
            let rule = match looks.get(&turn.epoch) {
                None => return Some((turn.entry.at, "the weight was raised without a look".to_owned())),
                Some(Condition::Measured) => continue,
                Some(Condition::BothSilent) if preview => continue,
                Some(Condition::SourceDown { .. }) => plan.no_data.source_down,
                Some(Condition::CanarySilent) => plan.no_data.canary_silent,
                Some(Condition::BothSilent | Condition::Unmeasured { .. }) => plan.no_data.both_silent,
            };
            if rule.action != NoDataAction::Advance || turn.entry.event == (Event::StageEnded { proof: Proof::Passed })
            {
                let condition = looks.get(&turn.epoch);
                return Some((turn.entry.at, format!("the weight was raised while {condition:?}")));
            }
        }
        None
    }
}
