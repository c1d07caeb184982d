//! No promotion without a passing verdict, a named person, or a policy in the plan (and then it is unproven).

use jiff::Timestamp;

use super::{Checker, Name, Turn, turns};
use crate::engine::{Actor, CommandKind, Event, Outcome, Phase, Proof};
use crate::judge::Call;
use crate::plan::{Plan, StageKind};
use crate::sim::run::Run;
use crate::sim::seen::Seen;
use crate::spec::OnUndecided;

/// Each step towards the canary is earned by what its entry says it is.
#[derive(Clone, Copy, Debug)]
pub struct PromotionIsEarned;

impl Checker for PromotionIsEarned {
    fn name(&self) -> Name {
        Name::PromotionIsEarned
    }

    fn check(&self, run: &Run) -> Option<(Timestamp, String)> {
        let plan = &run.case.plan;
        let mut proofs = Vec::new();
        let mut opened = vec![false; plan.stages.len()];
        for turn in turns(run) {
            if let Err(what) = step(run, plan, &turn, &mut proofs, &mut opened) {
                return Some((turn.entry.at, what));
            }
        }
        None
    }
}

fn step(run: &Run, plan: &Plan, turn: &Turn<'_>, proofs: &mut Vec<Proof>, opened: &mut [bool]) -> Result<(), String> {
    let entry = turn.entry;
    let stage = turn.before.phase.stage();
    match (&entry.event, stage) {
        (Event::StageEnded { proof }, Some(stage)) => {
            proofs.push(*proof);
            let of = &plan.stages[stage];
            let spent = entry.at.duration_since(turn.before.since);
            let time_is_up = spent >= of.max.signed();
            let verdict = entry.verdict.as_ref().map(|verdict| (verdict.call, verdict.suspicious));
            match (proof, of.kind) {
                (Proof::Passed, StageKind::Judge) if verdict == Some((Call::Pass, false)) => {
                    if spent < of.min.signed() {
                        return Err(format!("stage {stage} passed after {spent:#}, before its least time"));
                    }
                }
                (Proof::Unproven, StageKind::Judge) if plan.on_undecided == OnUndecided::Advance && time_is_up => {}
                (Proof::NotJudged, StageKind::Preview | StageKind::Pause | StageKind::Bake) if time_is_up => {}
                _ => {
                    return Err(format!(
                        "stage {stage} ({:?}) ended as {proof:?} with verdict {verdict:?}",
                        of.kind
                    ));
                }
            }
        }
        (Event::AskedForProof, _) if plan.on_undecided != OnUndecided::Gate => {
            return Err("a person was asked for proof, and the plan does not say so".to_owned());
        }
        (Event::GateOpened { command, by }, Some(stage)) => {
            asked(run, *command, by, &[CommandKind::Approve])?;
            may_open(plan, stage, by)?;
            opened[stage] = true;
        }
        (Event::Promoted { command, by, full }, Some(stage)) => {
            asked(run, *command, by, &[CommandKind::Promote { full: *full }])?;
            if *full {
                let from = if matches!(turn.before.phase, Phase::Analysing { .. }) {
                    stage + 1
                } else {
                    stage
                };
                for (skipped, open) in opened.iter_mut().enumerate().skip(from) {
                    may_open(plan, skipped, by)?;
                    *open = true;
                }
            }
            proofs.push(Proof::Unproven);
        }
        (Event::Prepared, Some(stage)) if plan.stages[stage].gate.is_some() && !opened[stage] => {
            return Err(format!("stage {stage} began and nobody had opened its gate"));
        }
        _ => {}
    }
    match turn.after.outcome() {
        Some(Outcome::Promoted { proven: true })
            if !proofs.contains(&Proof::Passed) || proofs.contains(&Proof::Unproven) =>
        {
            Err(format!("called proven after {proofs:?}"))
        }
        _ => Ok(()),
    }
}

fn asked(run: &Run, command: u64, by: &Actor, kinds: &[CommandKind]) -> Result<(), String> {
    let same = |seen: &Seen| matches!(seen, Seen::Asked(asked) if asked.id == command && asked.by == *by && kinds.contains(&asked.kind));
    if run.moments.iter().any(|moment| same(&moment.seen)) {
        Ok(())
    } else {
        Err(format!(
            "{} is said to have asked for it (command {command}), and has not",
            by.user
        ))
    }
}

fn may_open(plan: &Plan, stage: usize, by: &Actor) -> Result<(), String> {
    match &plan.stages[stage].gate {
        Some(gate) if !by.is_among(&gate.approvers) => {
            Err(format!("{} opened the gate of stage {stage} and may not", by.user))
        }
        _ => Ok(()),
    }
}
