//! A whole release record as a person reads it: what was released by whom, what happened and why, and the evidence.

use std::fmt::Write as _;

use jiff::tz::TimeZone;

use super::chart::{chart, since_start};
use super::evidence::whole;
use super::numbers::{clean, length, moment, wrapped};
use super::timeline::{headline, record_lines, users};
use crate::plan::{Comparison, Lane};
use crate::store::ReleaseRecord;

/// The record in words. `colour` puts the tones' escape sequences in.
pub fn why(record: &ReleaseRecord, zone: &TimeZone, colour: bool) -> String {
    let mut out = String::new();
    head(&mut out, record, zone);
    let _ = writeln!(out, "\nwhat happened   00:00 is {}", moment(record.created, zone));
    let lines = record_lines(record);
    if lines.is_empty() {
        out.push_str("  nothing yet\n");
    }
    for line in lines {
        let line = line.fitted();
        let _ = writeln!(out, "{}", if colour { line.styled() } else { line.to_string() });
    }
    if let Some(traffic_on) = record.state.stuck {
        let _ = writeln!(
            out,
            "it is stuck: {}; Wade keeps trying, `wade retry {}` starts its clock again",
            users(traffic_on),
            record.key.rollout
        );
    }
    if let Some(verdict) = &record.verdict {
        let _ = write!(out, "\nlast verdict   {}", whole(verdict));
        let chart = chart(&record.course, verdict.needed, since_start);
        if !chart.is_empty() {
            let _ = write!(out, "\n{chart}");
        }
    }
    out
}

fn head(out: &mut String, record: &ReleaseRecord, zone: &TimeZone) {
    let from = record
        .stable
        .as_ref()
        .map(|stable| format!("{} → ", stable.version))
        .unwrap_or_default();
    let state = record
        .state
        .outcome()
        .map_or_else(|| record.state.phase.label(), headline);
    let mut say = |label: &str, text: String| {
        let text = clean(&text).replace('\n', " ");
        let at = label.chars().count().max(9) + 1;
        let _ = writeln!(out, "{label:<9} {}", wrapped(&text, at, ""));
    };
    say(
        &record.key.rollout,
        format!(
            "release {}   {from}{}   {state}",
            record.key.number, record.canary.version
        ),
    );
    let words = record
        .reason
        .as_ref()
        .map(|reason| format!(": {reason}"))
        .unwrap_or_default();
    say(
        "asked for",
        format!("{} by {}{words}", moment(record.created, zone), record.by.user),
    );
    if let Some(ended) = record.ended {
        say(
            "ended",
            format!(
                "{}, after {}",
                moment(ended, zone),
                length(ended.duration_since(record.created))
            ),
        );
    }
    let pipeline = &record.pipeline;
    let commit = pipeline.commit.as_ref().map(|commit| format!("commit {commit}"));
    let author = pipeline.author.as_ref().map(|author| format!("by {author}"));
    let source: Vec<String> = [commit, author, pipeline.url.clone()].into_iter().flatten().collect();
    if !source.is_empty() {
        say("source", source.join(", "));
    }
    let set: Vec<String> = record
        .canary
        .variables
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    say(
        "revision",
        format!("{}   {}", record.canary.id, set.join(" "))
            .trim_end()
            .to_owned(),
    );
    let weights: Vec<String> = record.plan.stages.iter().map(|stage| stage.split.to_string()).collect();
    let lane = match &record.plan.lane {
        Lane::Normal => String::new(),
        Lane::FirstDeploy => ", first deploy".to_owned(),
        Lane::Rollback => ", fast lane back".to_owned(),
        Lane::Emergency { reason } => format!(", EMERGENCY ({reason})"),
    };
    say(
        "plan",
        format!("{}{lane}: {}", record.plan.strategy, weights.join(" → ")),
    );
    if let Comparison::LimitsOnly { reason } = &record.plan.comparison {
        say("compared", format!("with fixed limits only: {reason}"));
    }
}
