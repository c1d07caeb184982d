//! Runs of the smoke tests in the background: begun once per release, or again and again where the plan says so.
//!
//! An adapter asks for a run with every pass; this knows whether one is due and keeps the last report. It decides
//! nothing about what a failure means.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::clock::stopwatch;
use crate::engine::SmokeReport;
use crate::plan::SmokePlan;
use crate::smoke::{self, SmokeTarget};
use crate::spec::Span;

/// The runs of one release.
#[derive(Clone, Debug, Default)]
pub struct SmokeRuns(Arc<Mutex<Progress>>);

#[derive(Debug, Default)]
enum Progress {
    #[default]
    NotStarted,
    Running {
        /// What the run before said, while it is being repeated.
        before: Option<SmokeReport>,
    },
    Done {
        report: SmokeReport,
        at: Instant,
    },
}

impl Progress {
    fn report(&self) -> Option<&SmokeReport> {
        match self {
            Self::NotStarted => None,
            Self::Running { before } => before.as_ref(),
            Self::Done { report, .. } => Some(report),
        }
    }

    /// Whether a run is due: none has been made, or the plan wants it again.
    fn is_due(&self, again: Option<Span>) -> bool {
        match self {
            Self::NotStarted => true,
            Self::Running { .. } => false,
            Self::Done { at, .. } => again.is_some_and(|again| at.elapsed() >= again.0),
        }
    }
}

impl SmokeRuns {
    /// What the last run said.
    pub fn report(&self) -> Option<SmokeReport> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).report().cloned()
    }

    /// Whether a run is due.
    pub fn is_due(&self, plan: &SmokePlan) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_due(plan.again)
    }

    /// Begins a run against `targets` if one is due; `wake` is told when it has ended. `wanted` is how many instances
    /// there should be. Must be called inside a tokio runtime.
    pub fn begin(
        &self,
        plan: &SmokePlan,
        targets: Vec<SmokeTarget>,
        wanted: u32,
        client: &reqwest::Client,
        wake: &Arc<Notify>,
    ) {
        let mut progress = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !progress.is_due(plan.again) {
            return;
        }
        let before = progress.report().cloned();
        // They were all ready once, or nobody would ask. After a restart of Wade that has to be seen again: testing
        // nobody would reject a version that nothing is known against.
        if before.is_none() && (targets.len() as u64) < u64::from(wanted) {
            return;
        }
        *progress = Progress::Running { before };
        let (plan, client, shared, wake) = (plan.clone(), client.clone(), Arc::clone(&self.0), Arc::clone(wake));
        tokio::spawn(async move {
            let report = smoke::run(&plan, &targets, &Default::default(), &client).await;
            *shared.lock().unwrap_or_else(PoisonError::into_inner) = Progress::Done {
                report,
                at: stopwatch(),
            };
            wake.notify_one();
        });
    }
}
