//! What is shown of services and releases: one place that turns the record and the present into the API's words.

use super::api::{InstanceView, Problem, ReleaseSummary, RevisionView, RolloutView};
use super::{Daemon, Managed};
use crate::engine::desired::split_now;
use crate::engine::{Event, Outcome, Phase, Proof};
use crate::plan::{ALL_STABLE, Split};
use crate::platforms::local::Running;
use crate::platforms::local::process::State;
use crate::spec::Weight;
use crate::store::ReleaseRecord;

impl Daemon {
    /// Every service as it is now, by name.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn rollout_views(&self) -> Result<Vec<RolloutView>, Problem> {
        self.all_managed()
            .iter()
            .map(|managed| self.rollout_view(managed))
            .collect()
    }

    pub(crate) fn rollout_view(&self, managed: &Managed) -> Result<RolloutView, Problem> {
        let service = &managed.service;
        let name = service.name();
        let (sides, traffic, processes) = (service.sides(), service.traffic(), service.processes());
        let revision = |running: &Running| {
            let counters = traffic.revisions.get(&running.id);
            let instances: Vec<InstanceView> = processes
                .iter()
                .filter(|processes| processes.revision == running.id)
                .flat_map(|processes| &processes.instances)
                .map(|instance| InstanceView {
                    slot: instance.slot,
                    pid: instance.pid,
                    port: instance.port,
                    state: state_label(&instance.state).to_owned(),
                    restarts: instance.restarts,
                    diagnosis: instance.diagnosis.as_ref().map(ToString::to_string),
                })
                .collect();
            RevisionView {
                id: running.id.clone(),
                version: running.version.clone(),
                ready: instances.iter().filter(|instance| instance.state == "ready").count() as u32,
                wanted: running.wanted,
                requests: counters.map_or(0, |counters| counters.users.requests),
                errors: counters.map_or(0, |counters| counters.users.errors),
                instances,
            }
        };
        let rollout = self.store().rollout(name).map_err(Problem::unavailable)?;
        let latest = self.store().latest(name).map_err(Problem::unavailable)?;
        Ok(RolloutView {
            name: name.to_owned(),
            listen: service.address().map(|address| address.to_string()),
            split: service.split(),
            stable: sides.stable.as_ref().map(revision),
            canary: sides.canary.as_ref().map(revision),
            release: latest.as_ref().map(summary),
            quarantined: rollout
                .map(|rollout| {
                    rollout
                        .quarantined
                        .into_iter()
                        .map(|failed| (failed.revision, failed.reason))
                        .collect()
                })
                .unwrap_or_default(),
        })
    }

    /// The releases that are kept, newest first.
    pub(crate) fn summaries(&self, name: &str) -> Result<Vec<ReleaseSummary>, Problem> {
        let list = self.store().list(name, LISTED).map_err(Problem::unavailable)?;
        list.iter()
            .map(|listed| {
                self.store()
                    .release(&listed.key)
                    .map(|record| summary(&record))
                    .map_err(Problem::unavailable)
            })
            .collect()
    }
}

/// Releases in one list.
const LISTED: u32 = 1000;

/// One release in a line.
pub fn summary(record: &ReleaseRecord) -> ReleaseSummary {
    let state = &record.state;
    let outcome = state.outcome();
    ReleaseSummary {
        key: record.key.clone(),
        version: record.canary.version.clone(),
        revision: record.canary.id.clone(),
        from: record.stable.as_ref().map(|stable| stable.version.clone()),
        phase: state.phase.label().to_owned(),
        split: split_of(record),
        summary: reason(record),
        outcome: outcome.map(|outcome| outcome.label().to_owned()),
        proven: match outcome {
            Some(Outcome::Promoted { proven }) => Some(*proven),
            _ => None,
        },
        stuck: state.stuck.is_some(),
        by: record.by.user.clone(),
        created: record.created,
        ended: record.ended,
    }
}

/// Why a release ended as it did, or what happened last: one sentence.
pub fn reason(record: &ReleaseRecord) -> String {
    let retreat = record
        .history
        .iter()
        .rev()
        .find(|entry| matches!(entry.event, Event::Retreated { .. }));
    retreat
        .or(record.history.last())
        .map_or_else(|| "not begun yet".to_owned(), |entry| entry.reason.clone())
}

/// What a promotion rests on: the reason of the last stage that ended with a passing verdict.
pub fn proof(record: &ReleaseRecord) -> Option<String> {
    let passed = |event: &Event| matches!(event, Event::StageEnded { proof: Proof::Passed });
    let entry = record.history.iter().rev().find(|entry| passed(&entry.event))?;
    entry.verdict.as_ref().map(|verdict| verdict.reason.clone())
}

fn split_of(record: &ReleaseRecord) -> Split {
    match &record.state.phase {
        Phase::Done(outcome) if outcome.is_forward() => Split::weight(Weight::FULL),
        Phase::HandingOver(_) => Split::weight(Weight::FULL),
        Phase::Done(_) | Phase::Returning(..) => ALL_STABLE,
        _ => split_now(&record.plan, &record.state),
    }
}

const fn state_label(state: &State) -> &'static str {
    match state {
        State::Starting { .. } => "starting",
        State::Ready { .. } => "ready",
        State::Unready { .. } => "unready",
        State::Backoff { .. } => "backoff",
        State::Stopping { .. } => "stopping",
        State::Exited => "exited",
    }
}
