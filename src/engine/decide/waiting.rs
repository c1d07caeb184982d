//! What a release is waiting for, in one sentence, and when it is worth another look.

use jiff::{SignedDuration, Timestamp};

use super::{Case, IDLE_LOOK, NONE_READY_GRACE, counted};
use crate::engine::facts::Reading;
use crate::engine::state::Phase;
use crate::plan::{Split, StageKind};
use crate::spec::{HookPoint, Span};

impl Case<'_> {
    pub(super) fn cadence(&self) -> SignedDuration {
        let look = self.plan.look.signed();
        match self.state.phase {
            Phase::Waiting => SignedDuration::from_secs(30),
            Phase::Analysing { .. } | Phase::Preparing { .. } | Phase::Gated { .. } => look,
            Phase::BeforeHooks { stage: Some(_) } => look.min(IDLE_LOOK),
            _ => IDLE_LOOK.min(look),
        }
    }

    /// When health would send the release back if nothing changed: worth a look at that very moment.
    pub(super) fn deadlines(&self) -> impl Iterator<Item = Timestamp> {
        let canary = self.facts.world.as_ref().map(|world| &world.canary);
        let none_ready = canary.and_then(|canary| canary.none_ready_since);
        let blind = self.state.no_data;
        let none_ready = none_ready.map(|since| since + NONE_READY_GRACE.signed());
        let blind = blind.and_then(|lost| lost.since.checked_add(self.no_data_rule(lost.kind).after.signed()).ok());
        none_ready.into_iter().chain(blind)
    }

    /// What the router does instead of what it should, if that can be told.
    fn overwritten(&self, wanted: &Split) -> Option<String> {
        let route = &self.facts.world.as_ref()?.route;
        let seen = route.split.as_ref().filter(|seen| *seen != wanted)?;
        let who = route
            .conflict
            .as_ref()
            .map(|who| format!(" ({who})"))
            .unwrap_or_default();
        Some(format!(
            "the router does {seen} instead of {wanted}{who}; the stage waits until it is put back"
        ))
    }

    pub(super) fn waiting(&self) -> (String, Option<Timestamp>) {
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
            Phase::BeforeHooks { .. } | Phase::AfterHooks(_) => {
                let at = state.phase.hook_point();
                let hooks: Vec<&str> = at
                    .into_iter()
                    .flat_map(|at| plan.hooks_at(at))
                    .map(|hook| hook.name())
                    .collect();
                let words = at.map_or("", HookPoint::label);
                (format!("hooks {words}: {}", hooks.join(", ")), None)
            }
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
            Phase::Shifting { stage } if plan.rolling && *stage == plan.bake() => {
                ("the Deployment rolls the rest".to_owned(), None)
            }
            Phase::Shifting { stage } => (
                format!("waiting for the router to confirm {}", plan.stages[*stage].split),
                None,
            ),
            Phase::Analysing { stage } => {
                let at = &plan.stages[*stage];
                let words = self
                    .overwritten(&at.split)
                    .unwrap_or_else(|| match (at.kind, &self.facts.reading) {
                        (StageKind::Preview, _) => "preview without users".to_owned(),
                        (_, Some(Reading::Verdict { verdict, .. })) => verdict.reason.clone(),
                        (_, Some(Reading::NoData { kind, detail })) => format!("{kind} ({detail}); the weight is kept"),
                        (_, None) => "judging".to_owned(),
                    });
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
