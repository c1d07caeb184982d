//! A past period judged again: what the present settings would have done, and when.
//!
//! A team tunes `allow`, `falseRollback` and the stages' times before it trusts them, on releases that happened: a good one
//! must pass, a bad one must be found in time. The idea: a [`Recording`] is what a source would have handed out, look by
//! look, read from a Prometheus server (the same reader as live, [`crate::signals::prometheus::past`]) or from a
//! [`file`]; [`judged`] walks the stages of a plan over it with the judge alone.
//!
//! What it cannot do: change the past. Each stage is judged on the traffic that the canary had then, not on its own
//! weight; gates are taken as opened, instances as ready, and the bake (which has no stable beside it) is not played.

pub mod file;
pub mod judged;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::judge::{History, Increment, Observation, Sides};
use crate::plan::{Circumstances, HistoryPlan, Plan, lower};
use crate::signals::prometheus::api::Api;
use crate::signals::prometheus::{PrometheusConfig, history_before, past};
use crate::signals::{NoMeasurement, Sample};
use crate::spec::{read_rollout, resolve};

pub use judged::{End, Moment, Replayed, replay};

/// The most looks of one recording.
pub const MAX_LOOKS: usize = 100_000;

/// What was measured in a period.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recording {
    /// When it begins, where that is known.
    pub from: Option<Timestamp>,
    /// How stable's pods behaved before.
    pub history: Option<History>,
    /// What each metric was read from.
    pub sources: BTreeMap<String, String>,
    /// What was measured in it, in order.
    pub looks: Vec<Look>,
    /// What could not be measured, in words; each once.
    pub notes: Vec<String>,
}

/// One look of a recording.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// Seconds since the recording begins.
    pub t_s: f64,
    /// The stage that ran, where the recording says: its number, when it began, and the weight after it.
    pub stage: Option<(u32, f64, f64)>,
    /// What both sides did since the look before.
    pub seen: Observation,
}

impl Look {
    /// Requests of both sides, by whatever metric counts them.
    pub fn requests(&self) -> Sides<f64> {
        let total = |increment: &Option<Increment>| match increment {
            Some(Increment::Counts { total, .. }) => *total,
            Some(Increment::Histogram { counts, .. }) => counts.iter().sum(),
            // Traces may be samples; they do not count requests.
            Some(Increment::Value(_) | Increment::Operations(_)) | None => 0.0,
        };
        self.seen
            .metrics
            .values()
            .fold(Sides::default(), |most: Sides<f64>, sides| Sides {
                canary: most.canary.max(total(&sides.canary)),
                stable: most.stable.max(total(&sides.stable)),
            })
    }
}

/// A period to be read from a Prometheus server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// Its begin.
    pub from: Timestamp,
    /// Its end.
    pub to: Timestamp,
    /// From one look to the next.
    pub step: SignedDuration,
}

impl Period {
    /// How many looks that is.
    pub fn looks(&self) -> f64 {
        self.to.duration_since(self.from).as_secs_f64() / self.step.as_secs_f64()
    }
}

/// Reads a period and stable's behaviour before it.
///
/// # Errors
/// [`NoMeasurement`] if the server does not answer or stable is not in it. A server without history of stable gives a
/// recording without.
pub async fn read(
    api: &Api,
    config: &PrometheusConfig,
    period: Period,
    history: &HistoryPlan,
) -> Result<Recording, NoMeasurement> {
    let samples = past::samples(api, config, period.from, period.to, period.step).await?;
    let before = history_before(api, config, period.from, history.least.signed()).await;
    let mut recording = Recording {
        from: Some(period.from),
        ..Recording::default()
    };
    match before {
        Ok(pods) => {
            let pods = pods.into_iter().map(|pod| pod.blocks).collect();
            recording.history = Some(History { block_s: 300.0, pods });
        }
        Err(failure) => recording.notes.push(format!("no history of stable: {failure}")),
    }
    for (at, sample) in samples {
        let Sample {
            observation,
            notes,
            sources,
            ..
        } = sample;
        recording.looks.push(Look {
            t_s: at.duration_since(period.from).as_secs_f64(),
            stage: None,
            seen: observation,
        });
        recording.sources.extend(sources);
        for note in notes {
            if !recording.notes.contains(&note.reason) {
                recording.notes.push(note.reason);
            }
        }
    }
    Ok(recording)
}

/// The settings where nobody gives a rollout: errors and latency, by the strategy `careful`.
pub fn usual_plan() -> Plan {
    const ROLLOUT: &str = "\
apiVersion: wade.dev/v1alpha1
kind: Rollout
metadata: {name: replay}
spec:
  workload: {process: {command: [replay], port: auto}}
  traffic: {listen: 127.0.0.1:0}
  strategy: {use: careful}
";
    let rollout = read_rollout(ROLLOUT, "the usual settings").expect("a constant, tested");
    let resolved = resolve(&rollout, &BTreeMap::new()).expect("careful is a strategy of Wade's own");
    lower(
        "replay",
        &rollout.spec,
        &resolved.strategy,
        &resolved.analysis,
        &resolved.limits,
        &Circumstances::default(),
    )
}

#[cfg(test)]
mod tests;
