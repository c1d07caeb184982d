//! `wade judge --replay`: from words to a recording and a plan, with every fault of the words at once.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::exit::{Exit, Failure};
use super::files::{rollout, strategies};
use super::render::replay::{answer, page};
use super::screen::{OutputArg, Screen};
use crate::clock::{Clock, SystemClock};
use crate::plan::{Circumstances, Plan, lower};
use crate::replay::{MAX_LOOKS, Period, Recording, Replayed, file, read, replay, usual_plan};
use crate::signals::http::http_client;
use crate::signals::source::asked_of;
use crate::spec::{PrometheusSource, Source, Span};

/// From one look to the next when nobody says.
const STEP: SignedDuration = SignedDuration::from_secs(5);

/// What is replayed, and by which settings.
#[derive(Debug, Default, clap::Args)]
#[group(id = "past")]
pub(super) struct Args {
    /// Judge a past period again
    #[arg(long)]
    pub(super) replay: bool,
    /// The Prometheus server that has it; the rollout's own if left out
    #[arg(long, value_name = "URL", requires = "replay")]
    prometheus: Option<String>,
    /// Label matchers of the canary's series, like 'pod=~"checkout-7f.*"'
    #[arg(long, value_name = "MATCHERS", requires = "replay")]
    canary: Option<String>,
    /// Label matchers of stable's series
    #[arg(long, value_name = "MATCHERS", requires = "replay")]
    stable: Option<String>,
    /// The period's begin: a moment like 2026-11-22T10:00:00Z, or how long ago, like 40m
    #[arg(long, value_name = "WHEN", requires = "replay", allow_hyphen_values = true)]
    from: Option<String>,
    /// Its end; now if left out
    #[arg(long, value_name = "WHEN", requires = "replay", allow_hyphen_values = true)]
    to: Option<String>,
    /// From one look to the next, 5s if left out
    #[arg(long, value_name = "TIME", requires = "replay")]
    step: Option<String>,
    /// A file with the server's bearer token
    #[arg(long, value_name = "FILE", requires = "replay")]
    token_file: Option<String>,
    /// The label that names a pod; pod or instance if left out
    #[arg(long, value_name = "LABEL", requires = "replay")]
    pod_label: Option<String>,
    /// Read a recording (JSON lines of --stdio) instead of asking a server
    #[arg(long, value_name = "FILE", requires = "replay")]
    file: Option<PathBuf>,
    /// Write what was read from the server, to replay it again with --file
    #[arg(long, value_name = "FILE", requires = "replay")]
    record: Option<PathBuf>,
    /// The rollout whose settings judge; without it those of the recording, or the usual ones
    #[arg(long, short = 'f', value_name = "FILE", requires = "replay")]
    rollout: Option<PathBuf>,
    /// A folder with strategies of your own
    #[arg(long, value_name = "FOLDER", requires = "rollout")]
    strategies: Option<PathBuf>,
    #[command(flatten)]
    pub(super) output: OutputArg,
}

/// A replay as JSON has it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    answer: String,
    from: Option<Timestamp>,
    strategy: &'a str,
    sources: &'a std::collections::BTreeMap<String, String>,
    notes: &'a [String],
    #[serde(flatten)]
    replayed: &'a Replayed,
}

/// Where the measurements come from.
enum From {
    File(PathBuf),
    Server(Box<PrometheusSource>, Period),
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let mut faults = Vec::new();
    let plan = plan_of(args, &mut faults);
    let from = source(args, plan.as_ref(), SystemClock.now(), &mut faults);
    let (Some(from), true) = (from, faults.is_empty()) else {
        return Err(Failure::usage(faults.join("\n")));
    };
    let (recording, plan, own_stages) = match from {
        From::File(path) => from_file(&path, plan)?,
        From::Server(source, period) => {
            let plan = plan.unwrap_or_else(usual_plan);
            let recording = from_server(&source, period, &plan)?;
            if let Some(path) = &args.record {
                record(path, &recording, &plan)?;
            }
            (recording, plan, false)
        }
    };
    let replayed = replay(&plan, &recording, own_stages);
    let screen = Screen::new(args.output.output);
    if screen.is_json() {
        screen.json(&Shown {
            answer: answer(&replayed, &recording, &TimeZone::system()),
            from: recording.from,
            strategy: &plan.strategy,
            sources: &recording.sources,
            notes: &recording.notes,
            replayed: &replayed,
        });
    } else {
        screen.text(&page(
            &replayed,
            &recording,
            &plan,
            &TimeZone::system(),
            Screen::colours(),
        ));
    }
    Ok(Exit::Done)
}

/// The rollout's plan, if one is named.
fn plan_of(args: &Args, faults: &mut Vec<String>) -> Option<Plan> {
    let path = args.rollout.as_deref()?;
    let read = strategies(args.strategies.as_deref()).and_then(|known| rollout(path, &known));
    match read {
        Ok(read) => {
            let (rollout, resolved) = (&read.rollout, &read.resolved);
            Some(lower(
                &rollout.metadata.name,
                &rollout.spec,
                &resolved.strategy,
                &resolved.analysis,
                &resolved.limits,
                &Circumstances::default(),
            ))
        }
        Err(failure) => {
            faults.push(failure.problem.message);
            None
        }
    }
}

fn source(args: &Args, plan: Option<&Plan>, now: Timestamp, faults: &mut Vec<String>) -> Option<From> {
    if let Some(path) = &args.file {
        let given = [
            ("--prometheus", args.prometheus.is_some()),
            ("--canary", args.canary.is_some()),
            ("--stable", args.stable.is_some()),
            ("--from", args.from.is_some()),
            ("--to", args.to.is_some()),
            ("--step", args.step.is_some()),
            ("--token-file", args.token_file.is_some()),
            ("--pod-label", args.pod_label.is_some()),
            ("--record", args.record.is_some()),
        ];
        for (word, _) in given.iter().filter(|(_, given)| *given) {
            faults.push(format!("{word} says nothing about a recording; leave it or --file out"));
        }
        return Some(From::File(path.clone()));
    }
    let own = plan.and_then(|plan| match &plan.measure.source {
        Some(Source::Prometheus(source)) => Some(source),
        _ => None,
    });
    let url = args.prometheus.clone().or_else(|| own.map(|own| own.url.clone()));
    if url.is_none() {
        faults.push(
            "no server is named: give --prometheus URL (or a --rollout whose analysis names one), or --file RECORDING"
                .to_owned(),
        );
    }
    let mut matchers = |word: &str, given: Option<&String>, own: Option<&String>| {
        let text = given
            .or(own)
            .map(|text| text.trim().trim_matches(['{', '}']).to_owned());
        match text {
            Some(text) if text.contains("${") => {
                faults.push(format!(
                    "{word} is {text:?} in the rollout, which a release fills in; give {word} with the labels of that time"
                ));
                None
            }
            None => {
                faults.push(format!("{word} is missing: label matchers like 'version=\"1.4.2\"'"));
                None
            }
            text => text,
        }
    };
    let canary = matchers("--canary", args.canary.as_ref(), own.map(|own| &own.canary));
    let stable = matchers("--stable", args.stable.as_ref(), own.map(|own| &own.stable));
    if canary.is_some() && canary == stable {
        faults.push("--canary and --stable select the same series, so nothing can be compared".to_owned());
    }
    let period = period(args, now, faults);
    let source = PrometheusSource {
        url: url?,
        every: None,
        token_file: args
            .token_file
            .clone()
            .or_else(|| own.and_then(|own| own.token_file.clone())),
        canary: canary?,
        stable: stable?,
        pod_label: args
            .pod_label
            .clone()
            .or_else(|| own.and_then(|own| own.pod_label.clone())),
    };
    Some(From::Server(Box::new(source), period?))
}

fn period(args: &Args, now: Timestamp, faults: &mut Vec<String>) -> Option<Period> {
    let mut moment = |word: &str, text: Option<&String>| match text.map(|text| when(text, now)) {
        Some(Ok(at)) => Some(at),
        Some(Err(fault)) => {
            faults.push(format!("{word}: {fault}"));
            None
        }
        None => None,
    };
    let from = moment("--from", args.from.as_ref());
    let to = match &args.to {
        None => Some(now),
        Some(_) => moment("--to", args.to.as_ref()),
    };
    if args.from.is_none() {
        faults.push("--from is missing: a moment like 2026-11-22T10:00:00Z, or how long ago, like 40m".to_owned());
    }
    let step = match args.step.as_ref().map(|text| text.parse::<Span>()) {
        None => Some(STEP),
        Some(Ok(span)) if span.0.is_zero() => {
            faults.push("--step is nothing; the judge looks every 1 to 30 s".to_owned());
            None
        }
        Some(Ok(span)) => Some(span.signed()),
        Some(Err(fault)) => {
            faults.push(format!("--step: {fault}"));
            None
        }
    };
    let (from, to) = (from?, to?);
    if from >= to {
        faults.push(format!("the period ends ({to}) before it begins ({from})"));
        return None;
    }
    let period = Period { from, to, step: step? };
    if period.looks() > MAX_LOOKS as f64 {
        faults.push(format!(
            "{:.0} looks are too many, the limit is {MAX_LOOKS}: a shorter period or a longer --step",
            period.looks()
        ));
        return None;
    }
    Some(period)
}

/// A moment, or how long ago.
fn when(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let text = text.trim();
    if text == "now" {
        return Ok(now);
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    if let Ok(ago) = text.trim_start_matches('-').parse::<Span>() {
        return now
            .checked_sub(ago.signed())
            .map_err(|_| format!("{text:?} is too long ago"));
    }
    match text.parse::<i64>().map(Timestamp::from_second) {
        Ok(Ok(at)) => Ok(at),
        _ => Err(format!(
            "{text:?} is no time; write a moment like 2026-11-22T10:00:00Z or how long ago, like 40m or 2h"
        )),
    }
}

fn from_file(path: &Path, plan: Option<Plan>) -> Result<(Recording, Plan, bool), Failure> {
    let shown = path.display();
    let opened = File::open(path).map_err(|error| Failure::usage(format!("--file {shown}: {error}")))?;
    let contents = file::read(BufReader::new(opened)).map_err(|faults| {
        let lines: Vec<String> = faults.iter().map(|fault| format!("{shown}: {fault}")).collect();
        Failure::usage(lines.join("\n"))
    })?;
    let file::Contents {
        recording,
        plan: own,
        config,
        has_stages,
    } = contents;
    // Whoever names a rollout asks what that would have done, whatever the recording was made for.
    let own_stages = has_stages && plan.is_none();
    let plan = plan.unwrap_or_else(|| {
        let mut plan = own.map_or_else(usual_plan, |own| *own);
        if let Some(config) = config {
            plan.judge = config;
        }
        plan
    });
    Ok((recording, plan, own_stages))
}

fn from_server(source: &PrometheusSource, period: Period, plan: &Plan) -> Result<Recording, Failure> {
    let client = http_client().map_err(|error| Failure::other(error.to_string()))?;
    let (api, config) = asked_of(source, &plan.measure.metrics, &client).map_err(Failure::usage)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::other(format!("no runtime could be started: {error}")))?;
    runtime
        .block_on(read(&api, &config, period, &plan.history))
        .map_err(|failure| Failure {
            exit: Exit::Unreachable,
            ..Failure::other(failure.reason)
        })
}

fn record(path: &Path, recording: &Recording, plan: &Plan) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::other(format!("--record {}: {error}", path.display()));
    let out = BufWriter::new(File::create(path).map_err(failed)?);
    file::write(recording, plan, out).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(args: &Args) -> Vec<String> {
        let mut faults = Vec::new();
        let now = "2026-11-22T10:00:00Z".parse().unwrap();
        let plan = plan_of(args, &mut faults);
        source(args, plan.as_ref(), now, &mut faults);
        faults
    }

    fn words(words: &[&str]) -> Option<String> {
        words.first().map(|word| (*word).to_owned())
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let args = Args {
            from: words(&["tomorrow"]),
            step: words(&["0s"]),
            rollout: Some("no/such/file.yaml".into()),
            stable: words(&["{version=\"${stable}\"}"]),
            ..Args::default()
        };
        let said = faults(&args).join("\n");
        for part in [
            "no/such/file.yaml",
            "no server",
            "--canary is missing",
            "--stable is",
            "--from: \"tomorrow\"",
            "--step",
        ] {
            assert!(said.contains(part), "{part} should be in:\n{said}");
        }
        let both = Args {
            file: Some("a.jsonl".into()),
            record: Some("b.jsonl".into()),
            to: words(&["now"]),
            ..Args::default()
        };
        assert_eq!(faults(&both).len(), 2);
        let backwards = Args {
            prometheus: words(&["http://127.0.0.1:9090"]),
            canary: words(&["a=\"b\""]),
            stable: words(&["a=\"b\""]),
            from: words(&["10m"]),
            to: words(&["20m"]),
            ..Args::default()
        };
        let said = faults(&backwards);
        assert!(
            said.len() == 2 && said[0].contains("same series") && said[1].contains("before it begins"),
            "{said:?}"
        );
    }

    #[test]
    fn times_are_moments_or_how_long_ago() {
        let now: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
        let at = |text| when(text, now).unwrap().to_string();
        assert_eq!(
            ["now", "40m", "-40m", "2026-11-22T09:20:00Z", "1795425600"].map(at),
            [
                "2026-11-22T10:00:00Z",
                "2026-11-22T09:20:00Z",
                "2026-11-22T09:20:00Z",
                "2026-11-22T09:20:00Z",
                "2026-11-23T09:20:00Z"
            ]
        );
        assert!(when("soon", now).is_err());
    }
}
