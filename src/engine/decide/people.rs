//! What people ask, in the order in which it was asked; an abort comes before everything.

use super::{Case, Step, step};
use crate::engine::command::{Actor, Command, CommandKind};
use crate::engine::state::{Event, Outcome, Phase};
use crate::plan::Gate;

impl Case<'_> {
    fn pending(&self) -> impl Iterator<Item = &Command> {
        self.facts
            .commands
            .iter()
            .filter(|command| command.id > self.state.handled)
    }

    /// An abort waits for nothing; what was asked before it is void.
    pub(super) fn abort(&self) -> Option<Step> {
        let abort = self.pending().find(|command| command.kind.goes_back())?;
        let earlier = self.pending().find(|command| command.id < abort.id);
        if !self.state.phase.can_retreat() {
            // An abort that comes too late voids nothing: a `retry` before it is what gets a stuck release moving.
            if earlier.is_some() {
                return None;
            }
            return self.refuse(
                abort,
                match &self.state.phase {
                    Phase::HandingOver(_) => {
                        "the new revision has been handed over already; `wade rollback` goes back to the one before"
                    }
                    Phase::Returning(..) => "the release is going back to stable already",
                    Phase::AfterHooks(_) => "the release is over but for its hooks",
                    _ => "the release is over",
                },
            );
        }
        if let Some(earlier) = earlier {
            let reason = format!(
                "{} by {} is void: an abort came after it",
                earlier.kind, earlier.by.user
            );
            return step(Event::Refused { command: earlier.id }, reason).map(|step| step.asked_by(earlier));
        }
        let words = abort
            .reason
            .as_deref()
            .map(|why| format!(": {why}"))
            .unwrap_or_default();
        let (outcome, verb) = if abort.kind == CommandKind::Supersede {
            (Outcome::Superseded, "superseded")
        } else {
            (Outcome::Aborted, "aborted")
        };
        let reason = format!("{verb} by {}{words}", abort.by.user);
        let event = Event::Retreated {
            command: Some(abort.id),
            outcome,
            reason: reason.clone(),
        };
        Some(Step {
            event,
            reason,
            by: Some(abort.by.clone()),
            verdict: None,
        })
    }

    pub(super) fn command(&self) -> Option<Step> {
        let command = self.pending().next()?;
        let by = command.by.clone();
        let (id, user) = (command.id, &command.by.user);
        let (state, plan) = (self.state, self.plan);
        if state.outcome().is_some() {
            return self.refuse(command, "the release is over");
        }
        match command.kind {
            CommandKind::Abort | CommandKind::Supersede => None,
            CommandKind::Approve => match &state.phase {
                Phase::Gated { stage } => match self.may_open(*stage, &command.by) {
                    Ok(()) => step(Event::GateOpened { command: id, by }, format!("approved by {user}")),
                    Err(why) => return self.refuse(command, &why),
                },
                _ => {
                    return self.refuse(
                        command,
                        "no gate is waiting; `wade status` shows what the release is waiting for",
                    );
                }
            },
            CommandKind::Promote { full } => match self.may_promote(full, &command.by) {
                Ok(()) => step(
                    Event::Promoted { command: id, by, full },
                    match (&state.phase, full) {
                        (_, true) => format!("promoted to 100% by {user}"),
                        (Phase::Preparing { stage }, false) => {
                            format!("{user} answers for going on to {}", plan.stages[*stage].split)
                        }
                        (_, false) => format!("stage ended by {user}"),
                    },
                ),
                Err(why) => return self.refuse(command, &why),
            },
            CommandKind::Pause if state.paused.is_some() => {
                return self.refuse(command, "the release is paused already");
            }
            CommandKind::Pause if !state.phase.can_retreat() => {
                return self.refuse(
                    command,
                    "the release can no longer be paused: it is being handed over or going back",
                );
            }
            CommandKind::Pause => step(
                Event::Paused { command: id, by },
                format!("paused by {user}; a failing verdict still goes back"),
            ),
            CommandKind::Resume if state.paused.is_none() => return self.refuse(command, "the release is not paused"),
            CommandKind::Resume => step(Event::Resumed { command: id }, format!("resumed by {user}")),
            CommandKind::Retry if state.stuck.is_some() => {
                step(Event::Retried { command: id }, format!("tried again by {user}"))
            }
            CommandKind::Retry => {
                let why = format!(
                    "nothing is stuck in {}; `wade retry` starts a failed revision again once its release is over",
                    plan.rollout
                );
                return self.refuse(command, &why);
            }
        }
        .map(|step| step.asked_by(command))
    }

    fn refuse(&self, command: &Command, why: &str) -> Option<Step> {
        let reason = format!("{} by {} not followed: {why}", command.kind, command.by.user);
        step(Event::Refused { command: command.id }, reason).map(|step| Step {
            by: Some(command.by.clone()),
            ..step
        })
    }

    pub(super) fn gate(&self, stage: usize) -> Gate {
        // A gate that the plan does not have was asked for by a missing proof: anyone who may approve can open it.
        self.plan.stages[stage].gate.clone().unwrap_or(Gate {
            approvers: Vec::new(),
            expires: self.plan.gate_within,
        })
    }

    fn may_open(&self, stage: usize, by: &Actor) -> Result<(), String> {
        let gate = self.gate(stage);
        if by.is_among(&gate.approvers) {
            return Ok(());
        }
        Err(format!(
            "the gate before {} is opened by {}",
            self.plan.stages[stage].split,
            gate.approvers.join(" or ")
        ))
    }

    fn may_promote(&self, full: bool, by: &Actor) -> Result<(), String> {
        let from = match &self.state.phase {
            Phase::Analysing { stage } => stage + 1,
            Phase::Gated { stage } | Phase::Preparing { stage } if full => *stage,
            Phase::Gated { .. } => return Err("the release waits at a gate; `wade approve` opens it".to_owned()),
            // Nothing but doubt keeps the weight: a person may answer for it, as at a stage.
            Phase::Preparing { stage } if self.sized(*stage) && self.may_raise().is_err() => return Ok(()),
            Phase::Preparing { .. } | Phase::Shifting { .. } => {
                return Err("the next stage is just beginning; try again in a moment".to_owned());
            }
            Phase::BeforeHooks { stage: Some(_) } => {
                return Err("a hook has to end well before all traffic; `wade abort` goes back".to_owned());
            }
            Phase::Waiting | Phase::BeforeHooks { .. } | Phase::Starting | Phase::Smoking => {
                return Err("the new revision has not passed its smoke tests yet; these are never skipped".to_owned());
            }
            Phase::AfterHooks(_) => return Err("the release is over but for its hooks".to_owned()),
            Phase::HandingOver(_) => return Err("the new revision is being handed over already".to_owned()),
            Phase::Returning(..) | Phase::Done(_) => return Err("the release is going back to stable".to_owned()),
        };
        if full {
            for stage in from..self.plan.stages.len() {
                if self.plan.stages[stage].gate.is_some() {
                    self.may_open(stage, by)?;
                }
            }
        }
        Ok(())
    }
}
