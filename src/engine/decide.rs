//! Which event the facts call for, and why in words.
//!
//! Order is safety: what people ask that goes back, then what health demands, then what people ask that goes on, then
//! progress. Every rule returns the event *and* the sentence; the sentence is what every surface shows.
//!
//! The loop is here; the rules lie beside it: `people` (commands), `health` (everything that goes back by itself),
//! `progress` (the way on, and the end of the way back), `waiting` (the sentence of a look in which nothing happens).

mod health;
mod people;
mod progress;
mod waiting;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::command::{Actor, Command};
use super::desired::{Action, desired};
use super::facts::Facts;
use super::moves::{IllegalMove, apply};
use super::state::{Cause, Entry, Event, Outcome, State};
use crate::judge::Verdict;
use crate::plan::Plan;
use crate::spec::Span;

/// How many events one decision may chain besides one per command; more would be a loop in the table.
const MAX_EVENTS: usize = 32;
/// A canary without any ready instance may be given this long before the release goes back.
const NONE_READY_GRACE: Span = Span::secs(3);
/// The smoke tests keep their own time; a result that is this much later was lost.
const SMOKE_GRACE: Span = Span::secs(30);
/// Hooks keep their own time, and starting a pod takes some besides; a result that is this much later was lost.
const HOOKS_GRACE: Span = Span::secs(120);
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
    // Each command is handled by one event, so that an abort behind a hundred others is still followed at once.
    while entries.len() < MAX_EVENTS + facts.commands.len() {
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
        let soonest = due.into_iter().chain(case.deadlines()).filter(|due| *due > now).min();
        soonest.map_or(poll, |due| due.min(poll))
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
}

/// A duration as a person says it: whole seconds, or milliseconds under one second.
fn whole(duration: SignedDuration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(0);
    let rounded = if millis < 1000 { millis } else { millis / 1000 * 1000 };
    Span::millis(rounded).to_string()
}

fn counted(count: u32, noun: &str) -> String {
    if count == 1 {
        format!("1 {noun}")
    } else {
        format!("{count} {noun}s")
    }
}
