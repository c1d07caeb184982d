//! Everything that goes back by itself: a newer revision, a broken canary, a failing verdict, no data, time.
//!
//! What it does not do: it never asks whether users were better off with the canary. Going back is always allowed, so
//! each rule here may be wrong only in being too late.

use jiff::Timestamp;

use super::{Case, HOOKS_GRACE, NONE_READY_GRACE, SMOKE_GRACE, STUCK_AFTER, Step, back, counted, step, whole};
use crate::engine::desired::split_now;
use crate::engine::facts::{NoData, Reading};
use crate::engine::state::{Event, Outcome, Phase};
use crate::judge::{Call, Verdict};
use crate::spec::{Mode, NoDataAction, NoDataRule, OnNewRevision, Span};

impl Case<'_> {
    pub(super) fn health(&self) -> Option<Step> {
        if !self.state.phase.can_retreat() {
            return None;
        }
        if self.state.phase == Phase::Waiting {
            return self.superseded().or_else(|| self.pause_over());
        }
        self.unwatched()
            .or_else(|| self.superseded())
            .or_else(|| self.interfered())
            .or_else(|| self.broken())
            .or_else(|| self.failed())
            .or_else(|| self.blind())
            .or_else(|| self.late())
    }

    /// A bad canary is rolled back if users have met it, and rejected if none has.
    pub(super) fn bad(&self) -> Outcome {
        if self.state.had_users {
            Outcome::RolledBack
        } else {
            Outcome::Rejected
        }
    }

    pub(super) fn unfinished(&self) -> Outcome {
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

    fn interfered(&self) -> Option<Step> {
        let interference = self.facts.world.as_ref()?.interference.as_ref()?;
        let outcome = if interference.newer {
            Outcome::Superseded
        } else {
            self.unfinished()
        };
        back(outcome, interference.message.clone())
    }

    fn broken(&self) -> Option<Step> {
        let canary = &self.facts.world.as_ref()?.canary;
        if let Some(diagnosis) = canary.diagnosis.as_ref().filter(|diagnosis| diagnosis.fatal) {
            return back(self.bad(), diagnosis.message.clone());
        }
        if !self.state.had_users {
            return None;
        }
        let smoke = self.facts.world.as_ref()?.smoke.as_ref();
        if let Some(failed) = smoke.filter(|report| self.plan.smoke.again.is_some() && !report.passed) {
            return back(
                self.bad(),
                format!(
                    "{} (repeated because there is too little traffic to judge by)",
                    failed.summary
                ),
            );
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
                format!(
                    "instances of the new revision were restarted {} during the bake",
                    counted(count, "time")
                ),
            );
        }
        None
    }

    pub(super) fn verdict(&self) -> Option<(usize, &Verdict)> {
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
            Phase::Analysing { .. } | Phase::Gated { .. } | Phase::BeforeHooks { .. } | Phase::Preparing { .. }
        ) && split_now(self.plan, state).reaches_canary();
        if !watched {
            return None;
        }
        match (self.facts.reading.as_ref(), &state.no_data) {
            (Some(Reading::NoData { kind, detail }), since) if since.as_ref().map(|s| s.kind) != Some(*kind) => step(
                Event::SignalsLost { kind: *kind },
                if self.goes_on_without(*kind) {
                    format!("{kind}: {detail}; the stage runs its time")
                } else {
                    format!("{kind}: {detail}; the weight is kept")
                },
            ),
            (Some(Reading::Verdict { .. }), Some(_)) => step(Event::SignalsBack, "measurements are back"),
            (Some(Reading::NoData { .. }), Some(lost)) if state.paused.is_none() && self.plan.mode == Mode::Enforce => {
                let rule = self.no_data_rule(lost.kind);
                let lasted = self.now.duration_since(lost.since);
                if lasted < rule.after.signed() {
                    return None;
                }
                let reason = format!("{}, for {} by now", lost.kind, whole(lasted));
                match rule.action {
                    NoDataAction::Hold | NoDataAction::Advance => None,
                    NoDataAction::Return => back(self.unfinished(), reason),
                    NoDataAction::Rollback => back(self.bad(), reason),
                }
            }
            _ => None,
        }
    }

    pub(super) fn no_data_rule(&self, kind: NoData) -> NoDataRule {
        match kind {
            NoData::SourceDown => self.plan.no_data.source_down,
            NoData::CanarySilent => self.plan.no_data.canary_silent,
            NoData::BothSilent | NoData::Unmeasured => self.plan.no_data.both_silent,
        }
    }

    fn pause_over(&self) -> Option<Step> {
        let paused = self.state.paused.as_ref()?;
        let limit = self.plan.gate_within;
        (self.now.duration_since(paused.since) >= limit.signed()).then(|| {
            back(
                self.unfinished(),
                format!("the pause by {} was not ended within {limit}", paused.by.user),
            )
        })?
    }

    /// Whether a stage may end by its time while nothing is measured.
    pub(super) fn goes_on_without(&self, kind: NoData) -> bool {
        self.plan.mode == Mode::Observe || self.no_data_rule(kind).action == NoDataAction::Advance
    }

    /// The canary is ready and only settling, or has not been looked at for long: after a restart of Wade the time
    /// that it was away must not count against a version that nobody has seen unready.
    fn is_just_seen(&self) -> bool {
        let Some(world) = &self.facts.world else { return false };
        let lately = |since: Option<Timestamp>, span: Span| since.is_some_and(|since| since + span.signed() > self.now);
        lately(world.canary.ready_since, self.plan.settle) || lately(world.canary.none_ready_since, NONE_READY_GRACE)
    }

    fn late(&self) -> Option<Step> {
        let (state, plan) = (self.state, self.plan);
        let spent = self.now.duration_since(state.since);
        if state.paused.is_some() {
            return self.pause_over();
        }
        let over = |limit: Span| spent >= limit.signed();
        // What cannot be seen is not called late; the release's own limit holds all the same.
        let seen = self.facts.world.is_some();
        match &state.phase {
            Phase::BeforeHooks { .. } => {
                let at = state.phase.hook_point()?;
                let limit = plan.hooks_within(at).unwrap_or(Span::secs(0));
                return over(Span(limit.0 + HOOKS_GRACE.0)).then(|| {
                    back(
                        self.unfinished(),
                        format!("the hooks {at} gave no result within {limit}"),
                    )
                })?;
            }
            Phase::Starting if seen && over(plan.ready_within) && !self.is_just_seen() => {
                let words = self.diagnosis().map(|d| format!(": {d}")).unwrap_or_default();
                return back(
                    self.unfinished(),
                    format!("the new revision was not ready within {}{words}", plan.ready_within),
                );
            }
            Phase::Smoking if spent >= plan.smoke.within.signed() + SMOKE_GRACE.signed() => {
                return back(
                    self.unfinished(),
                    format!("the smoke tests gave no result within {}", plan.smoke.within),
                );
            }
            // A canary that is large enough and waits for doubts to end is not late: its policies have their own times.
            Phase::Preparing { stage }
                if seen && over(plan.ready_within) && !self.sized(*stage) && !self.is_just_seen() =>
            {
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
            Phase::Shifting { .. } if seen && spent >= plan.confirm_within.signed() * STUCK_AFTER => {
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
            let words = match (&state.phase, self.may_raise()) {
                (Phase::Preparing { .. } | Phase::Analysing { .. }, Err(why)) => {
                    format!("; the weight was kept: {why}")
                }
                _ => String::new(),
            };
            back(
                self.unfinished(),
                format!("the release was not finished within {}{words}", plan.release_within),
            )
        })?
    }

    fn diagnosis(&self) -> Option<&str> {
        Some(self.facts.world.as_ref()?.canary.diagnosis.as_ref()?.message.as_str())
    }
}
