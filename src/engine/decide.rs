//! Which event the facts call for, and why in words.
//!
//! Order is safety: what people ask that goes back, then what health demands, then what people ask that goes on, then
//! progress. Every rule returns the event *and* the sentence; the sentence is what every surface shows.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::command::{Actor, Command, CommandKind};
use super::desired::{Action, desired, instances, split_now};
use super::facts::{Facts, NoData, Presence, Reading, SmokeReport, World};
use super::moves::{IllegalMove, apply};
use super::state::{Cause, Entry, Event, HandOver, Outcome, Phase, Proof, Return, State, TrafficOn};
use crate::judge::{Call, Verdict};
use crate::plan::{ALL_STABLE, Gate, Lane, Plan, Split, Stage, StageKind};
use crate::spec::windows::WindowVerdict;
use crate::spec::{Mode, NoDataAction, OnNewRevision, OnUndecided, Outside, Span};

/// How many events one decision may chain; more would be a loop in the table.
const MAX_EVENTS: usize = 32;
/// A canary without any ready instance may be given this long before the release goes back.
const NONE_READY_GRACE: Span = Span::secs(3);
/// How many times `confirm_within` the way on or back may take at one step before it is called stuck.
const STUCK_AFTER: i32 = 6;
/// How long at most between two looks at a release where nothing is due.
const IDLE_LOOK: SignedDuration = SignedDuration::from_secs(1);

/// What follows from the facts.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// Where the release is now.
    pub state: State,
    /// What happened, to be recorded before anything is done.
    pub entries: Vec<Entry>,
    /// What should hold now.
    pub actions: Vec<Action>,
    /// When to look again at the latest; `None` when the release is over.
    pub wake: Option<Timestamp>,
    /// What the release is waiting for, in one sentence.
    pub waiting_for: String,
}

/// Moves a release as far as the facts allow.
///
/// Calling it again with the same facts changes nothing (but for time that has passed). It performs nothing.
///
/// # Errors
/// [`IllegalMove`] if a rule proposed an event that the table does not have: a bug, after which the caller goes back
/// to stable.
pub fn decide(plan: &Plan, state: &State, facts: &Facts, now: Timestamp) -> Result<Decision, IllegalMove> {
    let begun_in = &state.phase;
    let mut state = state.clone();
    let mut entries = Vec::new();
    while entries.len() < MAX_EVENTS {
        let case = Case {
            plan,
            state: &state,
            facts,
            now,
            applied: !facts.unapplied && state.phase == *begun_in,
        };
        let Some(step) = case.next() else { break };
        let next = apply(plan, &state, &step.event, now)?;
        entries.push(Entry {
            number: state.next_entry,
            at: now,
            event: step.event,
            reason: step.reason,
            cause: step.by.map_or(Cause::Engine, Cause::Person),
            verdict: step.verdict,
        });
        state = next;
    }
    let case = Case {
        plan,
        state: &state,
        facts,
        now,
        applied: false,
    };
    let (waiting_for, due) = case.waiting();
    let wake = (state.outcome().is_none()).then(|| {
        let poll = now + case.cadence();
        due.filter(|due| *due > now).map_or(poll, |due| due.min(poll))
    });
    Ok(Decision {
        actions: desired(plan, &state),
        state,
        entries,
        wake,
        waiting_for,
    })
}

/// An event with its sentence.
struct Step {
    event: Event,
    reason: String,
    by: Option<Actor>,
    verdict: Option<Box<Verdict>>,
}

fn step(event: Event, reason: impl Into<String>) -> Option<Step> {
    Some(Step {
        event,
        reason: reason.into(),
        by: None,
        verdict: None,
    })
}

fn back(outcome: Outcome, reason: impl Into<String>) -> Option<Step> {
    let reason = reason.into();
    step(
        Event::Retreated {
            command: None,
            outcome,
            reason: reason.clone(),
        },
        reason,
    )
}

impl Step {
    fn with_verdict(mut self, verdict: Option<&Verdict>) -> Self {
        self.verdict = verdict.map(|verdict| Box::new(verdict.clone()));
        self
    }

    fn asked_by(mut self, command: &Command) -> Self {
        self.by = Some(command.by.clone());
        if let Some(words) = &command.reason {
            self.reason = format!("{} ({words})", self.reason);
        }
        self
    }
}

/// One question: what does this call for?
struct Case<'a> {
    plan: &'a Plan,
    state: &'a State,
    facts: &'a Facts,
    now: Timestamp,
    /// What this phase wants was accepted before these facts were seen.
    applied: bool,
}

impl Case<'_> {
    fn next(&self) -> Option<Step> {
        self.abort()
            .or_else(|| self.health())
            .or_else(|| self.command())
            .or_else(|| self.progress())
    }

    // ---- people ----

    fn pending(&self) -> impl Iterator<Item = &Command> {
        self.facts
            .commands
            .iter()
            .filter(|command| command.id > self.state.handled)
    }

    /// An abort waits for nothing; what was asked before it is void.
    fn abort(&self) -> Option<Step> {
        let abort = self.pending().find(|command| command.kind == CommandKind::Abort)?;
        if let Some(earlier) = self.pending().find(|command| command.id < abort.id) {
            let reason = format!(
                "{} by {} is void: an abort came after it",
                earlier.kind, earlier.by.user
            );
            return step(Event::Refused { command: earlier.id }, reason).map(|step| step.asked_by(earlier));
        }
        if !self.state.phase.can_retreat() {
            return self.refuse(
                abort,
                match &self.state.phase {
                    Phase::HandingOver(_) => {
                        "the new revision has been handed over already; `wade rollback` goes back to the one before"
                    }
                    Phase::Returning(..) => "the release is going back to stable already",
                    _ => "the release is over",
                },
            );
        }
        let words = abort
            .reason
            .as_deref()
            .map(|why| format!(": {why}"))
            .unwrap_or_default();
        let reason = format!("aborted by {}{words}", abort.by.user);
        let event = Event::Retreated {
            command: Some(abort.id),
            outcome: Outcome::Aborted,
            reason: reason.clone(),
        };
        Some(Step {
            event,
            reason,
            by: Some(abort.by.clone()),
            verdict: None,
        })
    }

    fn command(&self) -> Option<Step> {
        let command = self.pending().next()?;
        let by = command.by.clone();
        let (id, user) = (command.id, &command.by.user);
        let (state, plan) = (self.state, self.plan);
        if state.outcome().is_some() {
            return self.refuse(command, "the release is over");
        }
        match command.kind {
            CommandKind::Abort => None,
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
                    if full {
                        format!("promoted to 100% by {user}")
                    } else {
                        format!("stage ended by {user}")
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

    fn gate(&self, stage: usize) -> Gate {
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
            Phase::Preparing { .. } | Phase::Shifting { .. } => {
                return Err("the next stage is just beginning; try again in a moment".to_owned());
            }
            Phase::Waiting | Phase::Starting | Phase::Smoking => {
                return Err("the new revision has not passed its smoke tests yet; these are never skipped".to_owned());
            }
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

    // ---- health: everything that goes back by itself ----

    fn health(&self) -> Option<Step> {
        if !self.state.phase.can_retreat() {
            return None;
        }
        if self.state.phase == Phase::Waiting {
            // Nothing runs yet that could be ill; but nobody waits for ever, and not for what is out of date.
            return self.superseded().or_else(|| self.pause_over());
        }
        self.superseded()
            .or_else(|| self.broken())
            .or_else(|| self.failed())
            .or_else(|| self.blind())
            .or_else(|| self.late())
    }

    /// A bad canary is rolled back if users have met it, and rejected if none has.
    fn bad(&self) -> Outcome {
        if self.state.had_users {
            Outcome::RolledBack
        } else {
            Outcome::Rejected
        }
    }

    fn unfinished(&self) -> Outcome {
        if self.state.had_users {
            Outcome::Returned
        } else {
            Outcome::Rejected
        }
    }

    fn superseded(&self) -> Option<Step> {
        let newer = self
            .facts
            .newer
            .as_deref()
            .filter(|_| self.plan.on_new_revision == OnNewRevision::Supersede)?;
        back(Outcome::Superseded, format!("superseded by {newer}"))
    }

    fn broken(&self) -> Option<Step> {
        let canary = &self.facts.world.as_ref()?.canary;
        if let Some(diagnosis) = canary.diagnosis.as_ref().filter(|diagnosis| diagnosis.fatal) {
            return back(self.bad(), diagnosis.message.clone());
        }
        if !self.state.had_users {
            return None;
        }
        if canary.exists == 0 {
            return back(self.bad(), "every instance of the canary is gone");
        }
        if let Some(since) = canary
            .none_ready_since
            .filter(|since| *since + NONE_READY_GRACE.signed() <= self.now)
        {
            let words = canary
                .diagnosis
                .as_ref()
                .map(|d| format!(": {}", d.message))
                .unwrap_or_default();
            return back(
                self.bad(),
                format!(
                    "no instance of the canary has been ready for {}{words}",
                    whole(self.now.duration_since(since))
                ),
            );
        }
        let baking = self.state.phase
            == Phase::Analysing {
                stage: self.plan.bake(),
            };
        if baking && canary.restarts > self.state.restarts_before_bake {
            let count = canary.restarts - self.state.restarts_before_bake;
            return back(
                self.bad(),
                format!("instances of the new revision were restarted {count} times during the bake"),
            );
        }
        None
    }

    fn verdict(&self) -> Option<(usize, &Verdict)> {
        match self.facts.reading.as_ref()? {
            Reading::Verdict { stage, verdict } => Some((*stage, verdict)),
            Reading::NoData { .. } => None,
        }
    }

    fn failed(&self) -> Option<Step> {
        let (_, verdict) = self.verdict().filter(|(_, verdict)| verdict.call == Call::Fail)?;
        self.state.split_of?;
        match self.plan.mode {
            Mode::Enforce => back(self.bad(), verdict.reason.clone()).map(|step| step.with_verdict(Some(verdict))),
            Mode::Observe if self.state.would_have => None,
            Mode::Observe => step(Event::WouldHave, format!("would have rolled back: {}", verdict.reason))
                .map(|step| step.with_verdict(Some(verdict))),
        }
    }

    /// No data is kept track of while a split that reaches the canary is in force, and has its own policies.
    fn blind(&self) -> Option<Step> {
        let state = self.state;
        let watched = matches!(
            state.phase,
            Phase::Analysing { .. } | Phase::Gated { .. } | Phase::Preparing { .. }
        ) && split_now(self.plan, state).reaches_canary();
        if !watched {
            return None;
        }
        match (self.facts.reading.as_ref(), &state.no_data) {
            (Some(Reading::NoData { kind, detail }), since) if since.as_ref().map(|s| s.kind) != Some(*kind) => step(
                Event::SignalsLost { kind: *kind },
                format!("{kind}: {detail}; the weight is kept"),
            ),
            (Some(Reading::Verdict { .. }), Some(_)) => step(Event::SignalsBack, "measurements are back"),
            (Some(Reading::NoData { .. }), Some(lost)) if state.paused.is_none() && self.plan.mode == Mode::Enforce => {
                let rule = self.no_data_rule(lost.kind);
                let lasted = self.now.duration_since(lost.since);
                if lasted < rule.after.signed() {
                    return None;
                }
                let reason = format!("{} for {}", lost.kind, whole(lasted));
                match rule.action {
                    NoDataAction::Hold | NoDataAction::Advance => None,
                    NoDataAction::Return => back(self.unfinished(), reason),
                    NoDataAction::Rollback => back(self.bad(), reason),
                }
            }
            _ => None,
        }
    }

    fn no_data_rule(&self, kind: NoData) -> crate::spec::NoDataRule {
        match kind {
            NoData::SourceDown => self.plan.no_data.source_down,
            NoData::CanarySilent => self.plan.no_data.canary_silent,
            NoData::BothSilent => self.plan.no_data.both_silent,
        }
    }

    fn late(&self) -> Option<Step> {
        let (state, plan) = (self.state, self.plan);
        let spent = self.now.duration_since(state.since);
        if state.paused.is_some() {
            return self.pause_over();
        }
        let over = |limit: Span| spent >= limit.signed();
        match &state.phase {
            Phase::Starting if over(plan.ready_within) => {
                let words = self.diagnosis().map(|d| format!(": {d}")).unwrap_or_default();
                return back(
                    self.unfinished(),
                    format!("the new revision was not ready within {}{words}", plan.ready_within),
                );
            }
            Phase::Smoking if spent >= plan.smoke.within.signed() + SignedDuration::from_secs(30) => {
                return back(
                    self.unfinished(),
                    format!("the smoke tests gave no result within {}", plan.smoke.within),
                );
            }
            Phase::Preparing { stage } if over(plan.ready_within) => {
                let words = self.diagnosis().map(|d| format!(": {d}")).unwrap_or_default();
                let share = plan.stages[*stage].capacity;
                return back(
                    self.unfinished(),
                    format!(
                        "the canary did not reach {share} of its full size within {}{words}",
                        plan.ready_within
                    ),
                );
            }
            Phase::Shifting { .. } if spent >= plan.confirm_within.signed() * STUCK_AFTER => {
                return back(self.unfinished(), "the router did not take the weight");
            }
            Phase::Gated { stage } => {
                let gate = self.gate(*stage);
                return over(gate.expires).then(|| {
                    back(
                        self.unfinished(),
                        format!("nobody opened the gate within {}", gate.expires),
                    )
                })?;
            }
            _ => {}
        }
        let used = self.now.duration_since(state.started) - state.waited;
        (used >= plan.release_within.signed()).then(|| {
            back(
                self.unfinished(),
                format!("the release was not finished within {}", plan.release_within),
            )
        })?
    }

    fn pause_over(&self) -> Option<Step> {
        let limit = self.plan.gate_within;
        let paused = self.state.paused.as_ref()?;
        (self.now.duration_since(paused.since) >= limit.signed()).then(|| {
            back(
                self.unfinished(),
                format!("the pause by {} was not ended within {limit}", paused.by.user),
            )
        })?
    }

    fn diagnosis(&self) -> Option<&str> {
        Some(self.facts.world.as_ref()?.canary.diagnosis.as_ref()?.message.as_str())
    }

    // ---- progress ----

    fn progress(&self) -> Option<Step> {
        if self.state.paused.is_some() {
            return None;
        }
        match &self.state.phase {
            Phase::Waiting => self.admit(),
            Phase::Starting => {
                let canary = &self.facts.world.as_ref()?.canary;
                self.settled(canary, 0).then(|| {
                    step(
                        Event::Ready,
                        format!("{} ready for {}", counted(canary.ready, "instance"), self.plan.settle),
                    )
                })?
            }
            Phase::Smoking if self.plan.smoke.tests.is_empty() => {
                step(Event::SmokePassed, "no smoke tests are declared")
            }
            Phase::Smoking => match self.facts.world.as_ref()?.smoke.as_ref()? {
                SmokeReport { passed: true, summary } => step(Event::SmokePassed, summary.clone()),
                SmokeReport { passed: false, summary } => back(Outcome::Rejected, summary.clone()),
            },
            Phase::Gated { .. } => None,
            Phase::Preparing { stage } => {
                let canary = &self.facts.world.as_ref()?.canary;
                (self.settled(canary, *stage) && self.may_raise().is_ok()).then(|| {
                    let split = &self.plan.stages[*stage].split;
                    step(
                        Event::Prepared,
                        format!("{} ready for {split}", counted(canary.ready, "instance")),
                    )
                })?
            }
            Phase::Shifting { stage } => {
                let world = self.facts.world.as_ref()?;
                let split = &self.plan.stages[*stage].split;
                (world.route.split.as_ref() == Some(split)).then(|| {
                    step(
                        Event::Shifted {
                            restarts: world.canary.restarts,
                        },
                        format!("{split} confirmed by the router"),
                    )
                })?
            }
            Phase::Analysing { stage } => self.stage_over(*stage),
            Phase::HandingOver(part) => self.hand_over(*part),
            Phase::Returning(part, _) => self.go_back(*part),
            Phase::Done(_) => None,
        }
    }

    fn admit(&self) -> Option<Step> {
        match self.closed() {
            None => step(
                Event::Admitted,
                match &self.plan.lane {
                    Lane::Normal => "release begins".to_owned(),
                    Lane::FirstDeploy => "first deploy: there is no stable revision yet".to_owned(),
                    Lane::Rollback => "going back to a revision that has served before".to_owned(),
                    Lane::Emergency { reason } => format!("emergency: no window, gate or comparison ({reason})"),
                },
            ),
            Some((why, _)) if self.plan.windows.outside == Outside::Reject => back(Outcome::Rejected, why),
            Some(_) => None,
        }
    }

    /// Why no release may begin now, and when one may.
    fn closed(&self) -> Option<(String, Option<Timestamp>)> {
        if matches!(self.plan.lane, Lane::Rollback | Lane::Emergency { .. }) {
            return None;
        }
        if self.facts.deploy_window == Some(false) {
            return Some((
                "DEPLOY_WINDOW is not true: the pipeline says that no release may begin now".to_owned(),
                None,
            ));
        }
        match self.plan.windows.verdict(self.now) {
            WindowVerdict::Open => None,
            WindowVerdict::Closed { why, opens } => {
                let when = opens
                    .map(|at| format!("; the next window opens at {}", whole_second(at)))
                    .unwrap_or_default();
                Some((format!("{why}{when}"), opens))
            }
        }
    }

    fn settled(&self, canary: &Presence, stage: usize) -> bool {
        let need = instances(self.plan.stages[stage].capacity, canary.full);
        canary.ready >= need
            && canary
                .ready_since
                .is_some_and(|since| since + self.plan.settle.signed() <= self.now)
    }

    /// Never raise the weight while suspicious, blind or after a bad look. A person who promoted answers for it.
    fn may_raise(&self) -> Result<(), String> {
        if self.state.vouched.is_some() || !split_now(self.plan, self.state).reaches_canary() {
            return Ok(());
        }
        // What is known against the canary stays known while nothing can be measured, whatever the policy for that.
        if let Some(reason) = self
            .facts
            .suspicion
            .as_ref()
            .filter(|_| self.plan.mode == Mode::Enforce)
        {
            return Err(format!("suspicious: {reason}"));
        }
        match self.facts.reading.as_ref() {
            Some(Reading::Verdict { verdict, .. }) if verdict.suspicious || verdict.call == Call::Fail => {
                if self.plan.mode == Mode::Observe {
                    Ok(())
                } else {
                    Err(format!("suspicious: {}", verdict.reason))
                }
            }
            Some(Reading::Verdict { .. }) => Ok(()),
            Some(Reading::NoData { kind, .. }) if self.no_data_rule(*kind).action == NoDataAction::Advance => Ok(()),
            Some(Reading::NoData { kind, .. }) if self.plan.mode == Mode::Enforce => Err(kind.to_string()),
            Some(Reading::NoData { .. }) => Ok(()),
            None => Err("nothing has been measured yet".to_owned()),
        }
    }

    fn stage_over(&self, index: usize) -> Option<Step> {
        let stage = &self.plan.stages[index];
        let spent = self.now.duration_since(self.state.since);
        let next = if index == self.plan.bake() {
            "hand over".to_owned()
        } else {
            self.plan.stages[index + 1].split.to_string()
        };
        // A split that somebody else has changed proves nothing; the action puts it back first.
        self.facts
            .world
            .as_ref()
            .filter(|world| world.route.split.as_ref() == Some(&stage.split))?;
        match stage.kind {
            StageKind::Preview | StageKind::Pause | StageKind::Bake => {
                // Without stages that reach the canary there is nothing to be suspicious of.
                let clear = !stage.split.reaches_canary() || stage.max.0.is_zero() || self.may_raise().is_ok();
                (spent >= stage.max.signed() && clear).then(|| {
                    let what = if stage.kind == StageKind::Bake { "bake" } else { "pause" };
                    step(
                        Event::StageEnded {
                            proof: Proof::NotJudged,
                        },
                        format!("{what} over after {}; next: {next}", whole(spent)),
                    )
                    .map(|step| step.with_verdict(self.verdict().map(|(_, verdict)| verdict)))
                })?
            }
            StageKind::Judge => self.judged_stage_over(index, stage, spent, &next),
        }
    }

    fn judged_stage_over(&self, index: usize, stage: &Stage, spent: SignedDuration, next: &str) -> Option<Step> {
        let verdict = self
            .verdict()
            .filter(|(of, _)| *of == index)
            .map(|(_, verdict)| verdict);
        if let Some(verdict) = verdict
            .filter(|verdict| verdict.call == Call::Pass && spent >= stage.min.signed() && self.may_raise().is_ok())
        {
            let reason = format!("proven after {}: {}; next: {next}", whole(spent), verdict.reason);
            return step(Event::StageEnded { proof: Proof::Passed }, reason)
                .map(|step| step.with_verdict(Some(verdict)));
        }
        if spent < stage.max.signed() || self.may_raise().is_err() {
            return None;
        }
        let why = match (verdict, &self.facts.reading) {
            (Some(verdict), _) => verdict.reason.clone(),
            (None, Some(Reading::NoData { kind, .. })) => kind.to_string(),
            (None, _) => "nothing was measured".to_owned(),
        };
        let time = whole(spent);
        match self.plan.on_undecided {
            OnUndecided::Advance => step(
                Event::StageEnded { proof: Proof::Unproven },
                format!("time is up after {time} without proof ({why}); going on, unproven; next: {next}"),
            ),
            OnUndecided::Gate => step(
                Event::AskedForProof,
                format!("time is up after {time} without proof ({why}); a person has to approve {next}"),
            ),
            OnUndecided::Return => back(
                self.unfinished(),
                format!("time is up after {time} without proof ({why})"),
            ),
        }
        .map(|step| step.with_verdict(verdict))
    }

    fn hand_over(&self, part: HandOver) -> Option<Step> {
        let world = self.facts.world.as_ref();
        let late = self.now.duration_since(self.state.since);
        match (part, world) {
            (HandOver::Adopt, Some(world)) if world.adopted => {
                step(Event::Adopted, "the new revision is the one that serves now")
            }
            (HandOver::Drain, Some(world)) if world.stable.drained || world.stable.exists == 0 => {
                step(Event::StableDrained, "the old revision's requests have finished")
            }
            (HandOver::Drain, _) if late >= self.plan.drain_within.signed() => step(
                Event::StableDrained,
                format!(
                    "the old revision's last requests did not finish within {}",
                    self.plan.drain_within
                ),
            ),
            (HandOver::Retire, Some(world))
                if self.applied
                    && world.stable.exists == 0
                    && world.restored
                    && !self.meddled(world, &self.plan.stages[self.plan.bake()].split) =>
            {
                step(
                    Event::Retired,
                    match self.plan.lane {
                        Lane::FirstDeploy => "serving".to_owned(),
                        _ if self.state.proven() => "promoted, proven".to_owned(),
                        _ => "promoted, unproven".to_owned(),
                    },
                )
            }
            _ => self.stuck_after(TrafficOn::Canary, "the hand over"),
        }
    }

    fn go_back(&self, part: Return) -> Option<Step> {
        let world = self.facts.world.as_ref();
        let late = self.now.duration_since(self.state.since);
        match (part, world) {
            (Return::Route, Some(world)) if world.route.split.as_ref() == Some(&ALL_STABLE) => step(
                Event::RouteRestored,
                "all traffic is on stable, confirmed by the router",
            ),
            (Return::Route, Some(world)) if world.route.split.is_some() => {
                self.stuck_after(TrafficOn::Canary, "the way back")
            }
            (Return::Route, _) => self.stuck_after(TrafficOn::Unknown, "the way back"),
            (Return::Drain, Some(world)) if world.canary.drained || world.canary.exists == 0 => {
                step(Event::CanaryDrained, "the canary's requests have finished")
            }
            (Return::Drain, _) if late >= self.plan.drain_within.signed() => step(
                Event::CanaryDrained,
                format!(
                    "the canary's last requests did not finish within {}",
                    self.plan.drain_within
                ),
            ),
            (Return::Remove, Some(world)) if world.canary.exists == 0 => {
                step(Event::CanaryRemoved, "the canary is gone")
            }
            (Return::Restore, Some(world)) if self.applied && world.restored && !self.meddled(world, &ALL_STABLE) => {
                step(Event::Restored, "everything is as it was before the release")
            }
            _ => self.stuck_after(TrafficOn::Stable, "cleaning up"),
        }
    }

    /// Whether somebody else has changed the split since it was confirmed; the action puts it back first, so that a
    /// release never ends with users where it says they are not.
    fn meddled(&self, world: &World, split: &Split) -> bool {
        world.route.split.as_ref().is_some_and(|seen| seen != split)
    }

    /// Says once that a step does not end by itself; the actions go on being tried.
    fn stuck_after(&self, traffic_on: TrafficOn, what: &str) -> Option<Step> {
        let limit = self.plan.confirm_within.signed() * STUCK_AFTER + self.plan.drain_within.signed();
        let late = self.now.duration_since(self.state.since);
        (self.state.stuck.is_none() && late >= limit).then(|| {
            let seen = if self.facts.world.is_none() { "; the platform cannot be observed" } else { "" };
            step(Event::GotStuck { traffic_on }, format!("{what} does not come to an end after {}{seen}; Wade keeps trying, `wade retry` starts its clock again", whole(late)))
        })?
    }

    // ---- what is being waited for ----

    fn cadence(&self) -> SignedDuration {
        let look = self.plan.look.signed();
        match self.state.phase {
            Phase::Waiting => SignedDuration::from_secs(30),
            Phase::Analysing { .. } | Phase::Preparing { .. } | Phase::Gated { .. } => look.min(IDLE_LOOK.max(look)),
            _ => IDLE_LOOK.min(look),
        }
    }

    fn waiting(&self) -> (String, Option<Timestamp>) {
        let (state, plan) = (self.state, self.plan);
        let by = |limit: Span| state.since.checked_add(limit.signed()).ok();
        if let Some(paused) = &state.paused {
            let end = paused.since.checked_add(plan.gate_within.signed()).ok();
            return (format!("paused by {}; `wade resume` goes on", paused.by.user), end);
        }
        match &state.phase {
            Phase::Waiting => self.closed().map_or_else(
                || ("beginning".to_owned(), None),
                |(why, opens)| (format!("waiting: {why}"), opens),
            ),
            Phase::Starting => {
                let settle = self
                    .facts
                    .world
                    .as_ref()
                    .and_then(|world| world.canary.ready_since)
                    .map(|since| since + plan.settle.signed());
                ("starting the new revision".to_owned(), settle.or(by(plan.ready_within)))
            }
            Phase::Smoking => (
                format!("running {}", counted(plan.smoke.tests.len() as u32, "smoke test")),
                None,
            ),
            Phase::Gated { stage } => {
                let gate = self.gate(*stage);
                let who = if gate.approvers.is_empty() {
                    "anyone who may approve".to_owned()
                } else {
                    gate.approvers.join(" or ")
                };
                (
                    format!(
                        "gate before {}: waiting for {who} (`wade approve`)",
                        plan.stages[*stage].split
                    ),
                    by(gate.expires),
                )
            }
            Phase::Preparing { stage } => {
                let words = self
                    .may_raise()
                    .err()
                    .map(|why| format!(" ({why})"))
                    .unwrap_or_default();
                let settle = self
                    .facts
                    .world
                    .as_ref()
                    .and_then(|world| world.canary.ready_since)
                    .map(|since| since + plan.settle.signed());
                (
                    format!("preparing for {}{words}", plan.stages[*stage].split),
                    settle.filter(|at| *at > self.now).or(by(plan.ready_within)),
                )
            }
            Phase::Shifting { stage } => (
                format!("waiting for the router to confirm {}", plan.stages[*stage].split),
                None,
            ),
            Phase::Analysing { stage } => {
                let at = &plan.stages[*stage];
                let words = match (at.kind, &self.facts.reading) {
                    (StageKind::Preview, _) => "preview without users".to_owned(),
                    (_, Some(Reading::Verdict { verdict, .. })) => verdict.reason.clone(),
                    (_, Some(Reading::NoData { kind, detail })) => format!("{kind} ({detail}); the weight is kept"),
                    (_, None) => "judging".to_owned(),
                };
                // Both ends of the stage are worth a look at once.
                let due = [by(at.min), by(at.max)].into_iter().flatten().find(|at| *at > self.now);
                (words, due)
            }
            Phase::HandingOver(_) => ("handing over".to_owned(), by(plan.drain_within)),
            Phase::Returning(_, why) => (format!("going back to stable: {}", why.reason), by(plan.drain_within)),
            Phase::Done(outcome) => (outcome.label().to_owned(), None),
        }
    }
}

/// A duration as a person says it: whole seconds, or milliseconds under one second.
fn whole(duration: SignedDuration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(0);
    let rounded = if millis < 1000 { millis } else { millis / 1000 * 1000 };
    Span::millis(rounded).to_string()
}

fn whole_second(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

fn counted(count: u32, noun: &str) -> String {
    if count == 1 {
        format!("1 {noun}")
    } else {
        format!("{count} {noun}s")
    }
}
