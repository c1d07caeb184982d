//! What is counted of releases. Gauges are of the release that runs and go with it; counters stay.
//!
//! Counters of a rollout begin at 0 when its release does: a counter that first appears with 1 has not increased, as
//! Prometheus sees it, so the first rollback of a rollout would set off no alarm.

use jiff::Timestamp;

use super::list::{self, Metric};
use super::numbers::OTHER;
use super::progress::{Progress, Seen, Step, call, evidence, weight};
use super::{Numbers, Telemetry};
use crate::engine::{Event, NoData, Outcome, Phase, Return, State};
use crate::plan::Plan;

/// The gauges of one release.
const GAUGES: [Metric; 11] = [
    list::NUMBER,
    list::STARTED,
    list::PHASE,
    list::PHASE_SINCE,
    list::STAGE,
    list::STAGES,
    list::WEIGHT,
    list::EVIDENCE,
    list::PAUSED,
    list::STUCK,
    list::NO_DATA_NOW,
];

/// One release that is counted; dropping it removes what says that it runs.
pub(super) struct Counted<'a> {
    telemetry: &'a Telemetry,
    labels: [String; 2],
    /// It has no series of its own: many would write the same gauge, so it has none.
    shared: bool,
    /// Since when nothing has been measured, as far as that is counted.
    no_data: Option<(NoData, Timestamp)>,
    /// When it turned back, if users were on the canary.
    retreated: Option<Timestamp>,
}

impl<'a> Counted<'a> {
    /// Counts a release that goes on from `progress`.
    pub(super) fn begin(telemetry: &'a Telemetry, namespace: &str, progress: &Progress) -> Self {
        let labels = telemetry.labels(namespace, &progress.key.rollout);
        let state = &progress.state;
        let returning = matches!(state.phase, Phase::Returning(Return::Route, _)) && state.had_users;
        let counted = Self {
            telemetry,
            shared: labels[1] == OTHER,
            labels,
            no_data: state.no_data.map(|lost| (lost.kind, lost.since)),
            retreated: returning.then_some(state.since),
        };
        let numbers = counted.numbers();
        let own = counted.own();
        numbers.begin(list::BEGUN, &own);
        numbers.begin(list::UNPROVEN, &own);
        numbers.begin(list::TROUBLES, &own);
        for word in list::OUTCOMES {
            numbers.begin(list::ENDED, &counted.with(word));
        }
        for word in list::NO_DATA {
            numbers.begin(list::NO_DATA_SECONDS, &counted.with(word));
        }
        for word in list::CALLS {
            numbers.begin(list::VERDICTS, &counted.with(word));
        }
        numbers.add(list::RUNNING, &[], 1.0);
        if counted.shared {
            return counted;
        }
        numbers.set(list::NUMBER, &own, progress.key.number as f64);
        numbers.set(list::STARTED, &own, seconds(state.started));
        numbers.set(list::STAGES, &own, progress.plan.stages.len() as f64);
        numbers.set(list::EVIDENCE, &own, 0.0);
        counted.show(&progress.plan, state);
        counted
    }

    /// Counts what was seen.
    pub(super) fn see(&mut self, seen: &Seen<'_>) {
        match seen {
            Seen::Step(step) => self.step(step),
            Seen::Look { at, state, verdict } => {
                if let Some(verdict) = verdict {
                    self.numbers().count(list::VERDICTS, &self.with(call(verdict)));
                    if !self.shared {
                        self.numbers().set(list::EVIDENCE, &self.own(), evidence(verdict));
                    }
                }
                self.count_no_data(state, *at);
            }
            Seen::Trouble { .. } => self.numbers().count(list::TROUBLES, &self.own()),
        }
    }

    fn step(&mut self, step: &Step<'_>) {
        let numbers = self.numbers();
        let (entry, before, after) = (step.entry, step.before, step.after);
        if let Some(kind) = command(&entry.event) {
            numbers.count(list::COMMANDS_SEEN, &[kind]);
        }
        if entry.event == Event::Admitted {
            numbers.count(list::BEGUN, &self.own());
        }
        if before.phase != after.phase {
            let spent = between(before.since, entry.at);
            numbers.observe(list::PHASE_SECONDS, &[before.phase.label()], spent);
        }
        if matches!(entry.event, Event::Retreated { .. }) && before.had_users {
            self.retreated = Some(entry.at);
        }
        let away = |phase: &Phase| matches!(phase, Phase::Returning(Return::Route, _));
        if !away(&after.phase)
            && away(&before.phase)
            && let Some(retreated) = self.retreated.take()
        {
            let numbers = self.numbers();
            numbers.observe(list::RESTORED_SECONDS, &[], between(retreated, entry.at));
        }
        self.count_no_data(after, entry.at);
        match after.outcome() {
            None => self.show(step.plan, after),
            Some(outcome) => self.end(outcome, between(after.started, entry.at)),
        }
    }

    fn end(&self, outcome: &Outcome, seconds: f64) {
        let numbers = self.numbers();
        numbers.count(list::ENDED, &self.with(outcome.label()));
        numbers.observe(list::DURATION, &[outcome.label()], seconds);
        if *outcome == (Outcome::Promoted { proven: false }) {
            numbers.count(list::UNPROVEN, &self.own());
        }
    }

    /// The time without data until now, added as it passes: an alarm must not wait for the end of the silence.
    fn count_no_data(&mut self, state: &State, now: Timestamp) {
        if let Some((kind, since)) = self.no_data {
            let word = no_data(kind);
            self.numbers()
                .add(list::NO_DATA_SECONDS, &self.with(word), between(since, now));
        }
        self.no_data = state.no_data.map(|lost| (lost.kind, now.max(lost.since)));
    }

    /// The gauges of where the release is.
    fn show(&self, plan: &Plan, state: &State) {
        if self.shared {
            return;
        }
        let (numbers, own) = (self.numbers(), self.own());
        let flag = |is: bool| f64::from(u8::from(is));
        numbers.remove(list::PHASE, &own);
        numbers.set(list::PHASE, &self.with(state.phase.label()), 1.0);
        numbers.set(list::PHASE_SINCE, &own, seconds(state.since));
        let stage = state.phase.stage().or(state.split_of).map_or(0, |stage| stage + 1);
        numbers.set(list::STAGE, &own, stage as f64);
        numbers.set(list::WEIGHT, &own, weight(plan, state));
        numbers.set(list::PAUSED, &own, flag(state.paused.is_some()));
        numbers.set(list::STUCK, &own, flag(state.stuck.is_some()));
        numbers.set(list::NO_DATA_NOW, &own, flag(state.no_data.is_some()));
    }

    fn numbers(&self) -> &'a Numbers {
        &self.telemetry.numbers
    }

    fn own(&self) -> [&str; 2] {
        [&self.labels[0], &self.labels[1]]
    }

    fn with<'b>(&'b self, word: &'b str) -> [&'b str; 3] {
        [&self.labels[0], &self.labels[1], word]
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.numbers().add(list::RUNNING, &[], -1.0);
        for gauge in GAUGES.iter().filter(|_| !self.shared) {
            self.numbers().remove(*gauge, &self.own());
        }
    }
}

/// What a person asked for, if the event says that it was followed or refused.
const fn command(event: &Event) -> Option<&'static str> {
    match event {
        Event::GateOpened { .. } => Some("approve"),
        Event::Promoted { .. } => Some("promote"),
        Event::Paused { .. } => Some("pause"),
        Event::Resumed { .. } => Some("resume"),
        Event::Retreated { command: Some(_), .. } => Some("abort"),
        Event::Retried { .. } => Some("retry"),
        Event::Refused { .. } => Some("refused"),
        _ => None,
    }
}

const fn no_data(kind: NoData) -> &'static str {
    match kind {
        NoData::SourceDown => "sourceDown",
        NoData::CanarySilent => "canarySilent",
        NoData::BothSilent => "bothSilent",
        NoData::Unmeasured => "unmeasured",
    }
}

fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1e3
}

fn between(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64().max(0.0)
}
