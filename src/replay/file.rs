//! A recording as a file: the JSON lines of `wade judge --stdio`, with a few words more.
//!
//! So what was recorded here can be judged by any program that speaks the protocol, and what a bench made can be replayed
//! here. Words of ours, which others ignore: in `start`, `from` (when the period began), `plan` (the settings), `sources`;
//! in each side of a `look`, `own` with metrics that are neither requests nor latency:
//! `{"jobs":{"total":9,"bad":1},"queue":{"value":3}}`. What is written here has `"counts":"increments"`; what is read may
//! have sums as well.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Look, MAX_LOOKS, Recording};
use crate::judge::stdio::config;
use crate::judge::{Config, Counter, History, Increment, Observation, Sides};
use crate::plan::Plan;
use crate::signals::{ERRORS, LATENCY, Side};

/// Bytes of a line.
const MAX_LINE: u64 = 16 << 20;
/// Faults of a file that are told; a file of another kind has one in each line.
const MAX_FAULTS: usize = 20;

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// The measurements.
    pub recording: Recording,
    /// The settings that it was recorded with, where it says.
    pub plan: Option<Box<Plan>>,
    /// The judge's settings alone, where it says.
    pub config: Option<Config>,
    /// Whether its looks name their stages.
    pub has_stages: bool,
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    run: Option<String>,
    #[serde(flatten)]
    rest: Value,
}

#[derive(Deserialize)]
struct Start {
    #[serde(default)]
    config: Value,
    history: Option<History>,
    from: Option<Timestamp>,
    plan: Option<Box<Plan>>,
    #[serde(default)]
    sources: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct WireLook {
    t: f64,
    step: Option<u32>,
    step_start: Option<f64>,
    next_weight: Option<f64>,
    canary: Option<Arm>,
    stable: Option<Arm>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Arm {
    #[serde(default)]
    requests: f64,
    #[serde(default)]
    errors: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    latency: Option<Buckets>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gauge: Option<f64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    own: BTreeMap<String, Own>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Buckets {
    le: Vec<f64>,
    /// Cumulative over `le`; the last is all of them.
    counts: Vec<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Own {
    Counts { total: f64, bad: f64 },
    Value { value: f64 },
    Buckets(Buckets),
}

/// Writes a recording with the settings that it is meant for.
///
/// # Errors
/// Those of the writer.
pub fn write(recording: &Recording, plan: &Plan, mut out: impl Write) -> io::Result<()> {
    let start = json!({
        "type": "start",
        "run": "replay",
        "config": {"counts": "increments", "metrics": [{"kind": "errors"}, {"kind": "latency"}]},
        "history": recording.history,
        "from": recording.from,
        "plan": plan,
        "sources": recording.sources,
    });
    writeln!(out, "{start}")?;
    for look in &recording.looks {
        let arm = |side: Side| arm(&look.seen, side).map(|arm| json!(arm));
        let line = json!({
            "type": "look",
            "run": "replay",
            "t": look.t_s,
            "canary": arm(Side::Canary),
            "stable": arm(Side::Stable),
        });
        writeln!(out, "{line}")?;
    }
    writeln!(out, "{}", json!({"type": "end", "run": "replay"}))?;
    out.flush()
}

/// One side of an observation; `None` if nothing of it was measured.
fn arm(seen: &Observation, side: Side) -> Option<Arm> {
    let mut arm = Arm::default();
    let mut measured = false;
    for (metric, sides) in &seen.metrics {
        let Some(increment) = side.of(sides) else { continue };
        measured = true;
        match (metric.as_str(), increment) {
            (ERRORS, Increment::Counts { total, bad }) => (arm.requests, arm.errors) = (*total, *bad),
            (LATENCY, Increment::Histogram { le, counts }) => arm.latency = Some(Buckets::of(le, counts)),
            (_, increment) => {
                let own = match increment {
                    Increment::Counts { total, bad } => Own::Counts {
                        total: *total,
                        bad: *bad,
                    },
                    Increment::Value(value) => Own::Value { value: *value },
                    Increment::Histogram { le, counts } => Own::Buckets(Buckets::of(le, counts)),
                    // No source of recordings has traces.
                    Increment::Operations(_) => continue,
                };
                arm.own.insert(metric.clone(), own);
            }
        }
    }
    measured.then_some(arm)
}

impl Buckets {
    fn of(le: &[f64], counts: &[f64]) -> Self {
        let mut sum = 0.0;
        let cumulative = counts.iter().map(|count| {
            sum += count;
            sum
        });
        Self {
            counts: cumulative.collect(),
            le: le.to_vec(),
        }
    }
}

/// Reads a recording.
///
/// # Errors
/// Every fault of the file with its line, or that it cannot be read.
pub fn read(reader: impl BufRead) -> Result<Contents, Vec<String>> {
    let mut read = Reader::default();
    let mut reader = reader;
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        match reader.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut line) {
            Err(error) => return Err(vec![format!("line {number} cannot be read: {error}")]),
            Ok(0) => break,
            Ok(_) if line.len() as u64 > MAX_LINE => {
                read.faults
                    .push(format!("line {number} is longer than {MAX_LINE} bytes"));
                break;
            }
            Ok(_) if line.trim_ascii().is_empty() => {}
            Ok(_) => {
                if let Err(fault) = read.line(&line) {
                    read.faults.push(format!("line {number}: {fault}"));
                }
            }
        }
        if read.faults.len() >= MAX_FAULTS {
            read.faults.push("and more; is it a recording?".to_owned());
            break;
        }
    }
    read.over()
}

#[derive(Default)]
struct Reader {
    contents: Contents,
    run: Option<String>,
    sums: bool,
    counters: BTreeMap<(Side, String), Counter>,
    faults: Vec<String>,
}

impl Reader {
    fn line(&mut self, line: &[u8]) -> Result<(), String> {
        let Line { kind, run, rest } = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        if !matches!(kind.as_str(), "start" | "look") {
            return Ok(());
        }
        let run = run.ok_or("it names no \"run\"")?;
        match &self.run {
            Some(first) if *first != run => {
                return Err(format!("run {run:?} beside {first:?}; a recording holds one run"));
            }
            Some(_) if kind == "start" => return Err(format!("run {run:?} starts a second time")),
            None if kind == "look" => return Err(format!("run {run:?} has not started")),
            _ => self.run = Some(run),
        }
        let words = |error: serde_json::Error| error.to_string();
        if kind == "start" {
            self.start(serde_json::from_value(rest).map_err(words)?)
        } else {
            self.look(serde_json::from_value(rest).map_err(words)?)
        }
    }

    fn start(&mut self, start: Start) -> Result<(), String> {
        self.sums = start.config["counts"] != "increments";
        // What Wade wrote itself has the whole plan, and a config for others.
        if start.plan.is_none() && !start.config.is_null() {
            let read = config(&start.config).map_err(|error| format!("config: {error}"))?;
            self.contents.config = Some(read);
        }
        self.contents.plan = start.plan;
        let recording = &mut self.contents.recording;
        recording.from = start.from;
        recording.history = start.history;
        recording.sources = start.sources;
        Ok(())
    }

    fn look(&mut self, look: WireLook) -> Result<(), String> {
        let looks = &self.contents.recording.looks;
        if looks.len() >= MAX_LOOKS {
            return Err(format!("more than {MAX_LOOKS} looks; cut the recording"));
        }
        if !look.t.is_finite() || looks.last().is_some_and(|last| look.t < last.t_s) {
            return Err(format!("t is {}, which does not follow the look before", look.t));
        }
        let stage = look.step.map(|step| {
            let (began, next) = (look.step_start.unwrap_or(look.t), look.next_weight.unwrap_or(1.0));
            (step, began, next)
        });
        self.contents.has_stages |= stage.is_some();
        let mut seen = Observation::default();
        for (side, arm) in [(Side::Canary, look.canary), (Side::Stable, look.stable)] {
            for (metric, increment) in arm.into_iter().flat_map(|arm| self.increments(side, arm)) {
                let sides: &mut Sides<Option<Increment>> = seen.metrics.entry(metric).or_default();
                *side.of_mut(sides) = Some(increment);
            }
        }
        self.contents.recording.looks.push(Look {
            t_s: look.t,
            stage,
            seen,
        });
        Ok(())
    }

    fn increments(&mut self, side: Side, arm: Arm) -> Vec<(String, Increment)> {
        let mut all = Vec::new();
        let mut counted = |metric: &str, sums: Vec<f64>| {
            if !self.sums {
                return Some(sums);
            }
            let counter = self.counters.entry((side, metric.to_owned())).or_default();
            counter.increments(Some(&sums))
        };
        let mut counts = |metric: &str, total: f64, bad: f64| {
            let added = counted(metric, vec![total, bad])?;
            Some((
                metric.to_owned(),
                Increment::Counts {
                    total: added[0],
                    bad: added[1],
                },
            ))
        };
        all.extend(counts(ERRORS, arm.requests, arm.errors));
        let mut buckets = Vec::new();
        buckets.extend(arm.latency.map(|latency| (LATENCY.to_owned(), latency)));
        all.extend(arm.gauge.map(|gauge| ("gauge".to_owned(), Increment::Value(gauge))));
        for (metric, own) in arm.own {
            match own {
                Own::Counts { total, bad } => all.extend(counts(&metric, total, bad)),
                Own::Value { value } => all.push((metric, Increment::Value(value))),
                Own::Buckets(own) => buckets.push((metric, own)),
            }
        }
        for (metric, Buckets { le, counts }) in buckets {
            let Some(sums) = counted(&metric, counts) else { continue };
            let mut below = 0.0;
            let counts = sums
                .iter()
                .map(|sum| sum - std::mem::replace(&mut below, *sum))
                .collect();
            let le: Arc<[f64]> = le.into();
            all.push((metric, Increment::Histogram { le, counts }));
        }
        all
    }

    fn over(mut self) -> Result<Contents, Vec<String>> {
        if self.faults.is_empty() && self.contents.recording.looks.is_empty() {
            let fault = "there is no look in it; `wade judge --replay --record FILE` writes a recording";
            self.faults.push(fault.to_owned());
        }
        if self.faults.is_empty() {
            Ok(self.contents)
        } else {
            Err(self.faults)
        }
    }
}
