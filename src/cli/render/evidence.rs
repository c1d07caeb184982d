//! Evidence in figures: short for a live line, whole for `wade why` and `wade judge --replay`.

use std::fmt::Write as _;

use super::numbers::{clean, count, counted, figure, odds, percent, seconds, times, wrapped};
use crate::judge::verdict::{Counts, MetricEvidence, Seen, ThresholdEvidence};
use crate::judge::{Call, Interval, Sides, Verdict};

/// Canary against stable, metric by metric: `errors 0.09 % : 0.1 %   p99 212 ms : 208 ms`. Empty before anything was seen.
pub fn figures(verdict: &Verdict) -> String {
    let each =
        verdict.metrics.iter().filter_map(|metric| match &metric.seen {
            Seen::Errors {
                release,
                stage,
                max_ratio: None,
            } => {
                let sides = if stage.canary.total > 0.0 { stage } else { release };
                pair(
                    &metric.name,
                    sides.canary.rate.map(percent),
                    sides.stable.rate.map(percent),
                )
            }
            Seen::Errors {
                release,
                stage,
                max_ratio: Some(most),
            } => limit(&metric.name, release, stage, *most),
            Seen::Objective {
                release,
                stage,
                max_ratio,
            } => limit(&metric.name, release, stage, *max_ratio),
            Seen::Latency { p99_s, .. } => {
                let name = if metric.name == "latency" {
                    "p99".to_owned()
                } else {
                    format!("{} p99", metric.name)
                };
                pair(&name, p99_s.canary.map(seconds), p99_s.stable.map(seconds))
            }
            Seen::Gauge { last, .. } => pair(&metric.name, last.canary.map(figure), last.stable.map(figure)),
            Seen::Operations { operations, .. } => operations
                .first()
                .filter(|operation| operation.worst() > 0.0)
                .and_then(|operation| {
                    let Sides { canary, stable } = &operation.release;
                    pair(&operation.operation, canary.rate.map(percent), stable.rate.map(percent))
                }),
        });
    each.collect::<Vec<_>>().join("   ")
}

fn pair(name: &str, canary: Option<String>, stable: Option<String>) -> Option<String> {
    let unknown = || "–".to_owned();
    (canary.is_some() || stable.is_some()).then(|| {
        format!(
            "{name} {} : {}",
            canary.unwrap_or_else(unknown),
            stable.unwrap_or_else(unknown)
        )
    })
}

fn limit(name: &str, release: &Sides<Counts>, stage: &Sides<Counts>, most: f64) -> Option<String> {
    let canary = if stage.canary.total > 0.0 {
        &stage.canary
    } else {
        &release.canary
    };
    canary
        .rate
        .map(|rate| format!("{name} {} of at most {}", percent(rate), percent(most)))
}

/// The requests that the canary answered and how many of them failed, over the release; `None` if nobody counted.
pub fn canary_counts(verdict: &Verdict) -> Option<Counts> {
    verdict.metrics.iter().find_map(|metric| match &metric.seen {
        Seen::Errors { release, .. } => Some(release.canary),
        Seen::Objective { .. } | Seen::Latency { .. } | Seen::Gauge { .. } | Seen::Operations { .. } => None,
    })
}

/// A call in a word.
pub const fn call(call: Call) -> &'static str {
    match call {
        Call::Pass => "pass",
        Call::Fail => "fail",
        Call::Undecided => "undecided",
    }
}

/// A verdict as `wade why` tells it: how strong, then metric by metric both sides' counts and rates, the ratio with its
/// range, the evidence, what could have been seen, and where it was read.
pub fn whole(verdict: &Verdict) -> String {
    let mut out = format!(
        "{}; evidence {}, needed {}\n",
        call(verdict.call),
        odds(verdict.evidence),
        odds(verdict.needed)
    );
    if verdict.tripped {
        out.push_str("a tripwire ended it, which has no false-alarm bound\n");
    }
    out.push_str(&wrapped(&clean(&verdict.reason), 0, ""));
    out.push('\n');
    for metric in &verdict.metrics {
        out.push('\n');
        metric_lines(&mut out, metric, verdict.blame.as_deref() == Some(&metric.name));
    }
    out
}

/// Where the columns of a metric begin.
const CANARY_AT: usize = 17;
const STABLE_AT: usize = 41;
const RATIO_AT: usize = 65;

/// `label`, the canary's and stable's words under each other, and how many times as much.
fn row(out: &mut String, label: &str, canary: &str, stable: &str, ratio: Option<f64>) {
    let mut line = format!("  {label}");
    let words = ratio.map(times).unwrap_or_default();
    for (at, words) in [(CANARY_AT, canary), (STABLE_AT, stable), (RATIO_AT, words.as_str())] {
        let length = line.chars().count();
        // A long one pushes the next ones on instead of running into them.
        line.push_str(&" ".repeat(at.saturating_sub(length).max(2)));
        line.push_str(words);
    }
    let _ = writeln!(out, "{}", line.trim_end());
}

/// `label` and a sentence, in several lines if it is long.
fn say(out: &mut String, label: &str, sentence: &str) {
    let first = format!("  {label}");
    let gap = CANARY_AT.saturating_sub(first.chars().count()).max(2);
    let _ = writeln!(
        out,
        "{first}{}{}",
        " ".repeat(gap),
        wrapped(&clean(sentence), CANARY_AT, "")
    );
}

fn metric_lines(out: &mut String, metric: &MetricEvidence, blamed: bool) {
    let known = |value: Option<f64>, words: fn(f64) -> String| value.map_or_else(|| "unknown".to_owned(), words);
    let head = |out: &mut String, canary: &str, stable: &str| {
        let name = clean(&metric.name);
        let gap = CANARY_AT.saturating_sub(name.chars().count()).max(2);
        let gap_stable = STABLE_AT - CANARY_AT - canary.len();
        let _ = writeln!(
            out,
            "{}",
            format!("{name}{}{canary}{}{stable}", " ".repeat(gap), " ".repeat(gap_stable)).trim_end()
        );
    };
    match &metric.seen {
        Seen::Errors {
            release,
            stage,
            max_ratio: None,
        } => {
            head(out, "canary", "stable");
            row(
                out,
                "release",
                &side(&release.canary),
                &side(&release.stable),
                metric.ratio,
            );
            let ratio = stage
                .canary
                .rate
                .zip(stage.stable.rate)
                .map(|(canary, stable)| canary / stable);
            let ratio = ratio.filter(|ratio| ratio.is_finite() && *ratio > 0.0);
            if stage != release {
                row(out, "stage", &side(&stage.canary), &side(&stage.stable), ratio);
            }
        }
        Seen::Errors {
            release,
            stage,
            max_ratio: Some(most),
        } => {
            head(out, "canary", "may have");
            row(out, "release", &side(&release.canary), "", None);
            row(out, "bake", &side(&stage.canary), &percent(*most), metric.ratio);
        }
        Seen::Objective {
            release,
            stage,
            max_ratio,
        } => {
            head(out, "canary", "may have");
            row(
                out,
                "release",
                &side(&release.canary),
                &percent(*max_ratio),
                metric.ratio,
            );
            if stage != release {
                row(out, "stage", &side(&stage.canary), &percent(*max_ratio), None);
            }
        }
        Seen::Latency {
            release,
            p50_s,
            p99_s,
            thresholds,
            ..
        } => {
            head(out, "canary", "stable");
            row(out, "requests", &count(release.canary), &count(release.stable), None);
            for (name, quantile, ratio) in [("p50", p50_s, None), ("p99", p99_s, metric.ratio)] {
                let (canary, stable) = (known(quantile.canary, seconds), known(quantile.stable, seconds));
                row(out, name, &canary, &stable, ratio);
            }
            if thresholds.is_empty() {
                say(
                    out,
                    "warming up",
                    "what is compared is chosen when the canary has served for a minute",
                );
            }
            for threshold in thresholds {
                let slower = &threshold.slower;
                let label = format!("> {}", seconds(threshold.above_s));
                row(
                    out,
                    &label,
                    &side(&slower.canary),
                    &side(&slower.stable),
                    threshold.ratio,
                );
                say(out, "", &threshold_words(threshold));
            }
        }
        Seen::Operations {
            requests,
            known,
            operations,
            signatures,
        } => {
            head(out, "canary", "stable");
            row(out, "spans", &count(requests.canary), &count(requests.stable), None);
            say(out, "operations", &format!("{known} known; those that say most:"));
            for operation in operations {
                let (Sides { canary, stable }, shown) = (&operation.release, clean(&operation.operation));
                say(out, "", &shown);
                row(out, "  failed", &side(canary), &side(stable), None);
                if let Some(slower) = &operation.slower {
                    let label = format!("  > {}", seconds(slower.above_s));
                    row(
                        out,
                        &label,
                        &side(&slower.slower.canary),
                        &side(&slower.slower.stable),
                        slower.ratio,
                    );
                }
            }
            for new in signatures {
                let colon = if new.message.is_empty() { "" } else { ": " };
                let words = format!("{}{colon}{} in {}", new.error, new.message, new.operation);
                say(out, "new error", &words);
                row(out, "  seen", &side(&new.shown.canary), &side(&new.shown.stable), None);
                if !new.examples.is_empty() {
                    let examples: Vec<String> = new.examples.iter().map(ToString::to_string).collect();
                    say(out, "  traces", &examples.join(", "));
                }
            }
        }
        Seen::Gauge { last, pairs, above } => {
            head(out, "canary", "stable");
            row(
                out,
                "last value",
                &known(last.canary, figure),
                &known(last.stable, figure),
                metric.ratio,
            );
            say(
                out,
                "above",
                &format!("what is allowed in {above} of {pairs} pairs of values"),
            );
        }
    }
    if let Some(interval) = &metric.interval {
        say(out, "true ratio", &format!("{}{}", range(interval), sure(interval)));
    }
    let mut evidence = format!("{} against the canary", odds(metric.ln_e));
    if blamed {
        evidence.push_str(", the most of all metrics");
    }
    if let Some(ln_p) = metric.pass_ln_p.filter(|ln_p| *ln_p > 0.0) {
        evidence.push_str(&format!("; {} that it may go on", odds(ln_p)));
    }
    say(out, "evidence", &evidence);
    if let Some(sight) = sight(metric) {
        say(out, "sight", &sight);
    }
    if metric.phi > 1.05 {
        say(
            out,
            "bursts",
            &format!(
                "errors come in bursts, so each counts {} times less",
                figure(metric.phi)
            ),
        );
    }
    if metric.dropped > 0 {
        let dropped = counted(metric.dropped, "measurement");
        say(out, "left out", &format!("{dropped} that made no sense"));
    }
    if let Some(source) = &metric.source {
        say(out, "read from", source);
    }
    // Those of operations stand beside what they show.
    if !metric.examples.is_empty() && !matches!(metric.seen, Seen::Operations { .. }) {
        say(out, "traces", &metric.examples.join(", "));
    }
}

/// What could have been seen by now, where that is known.
fn sight(metric: &MetricEvidence) -> Option<String> {
    match (metric.smallest_ratio, &metric.seen) {
        (Some(ratio), _) => Some(format!(
            "a rise to {} or more would have been found by now",
            times(ratio)
        )),
        (None, Seen::Errors { .. } | Seen::Objective { .. }) => {
            Some("no rise could have been found yet, there is too little to go by".to_owned())
        }
        (None, Seen::Gauge { .. }) => {
            Some("not known: single values have no counts behind them, so there is no range either".to_owned())
        }
        // Told threshold by threshold, where there are any.
        (None, _) => None,
    }
}

fn threshold_words(threshold: &ThresholdEvidence) -> String {
    let mut parts = Vec::new();
    parts.extend(
        threshold
            .interval
            .as_ref()
            .map(|interval| format!("true ratio {}", range(interval))),
    );
    parts.extend(
        threshold
            .smallest_ratio
            .map(|ratio| format!("would see {}", times(ratio))),
    );
    parts.push(format!("evidence {}", odds(threshold.ln_e)));
    parts.join("; ")
}

/// Where a ratio lies, rounded outwards: what is told never excludes more than what was shown.
pub fn range(interval: &Interval) -> String {
    let outwards = |value: f64, round: fn(f64) -> f64| {
        let unit = 10f64.powf(1.0 - value.log10().floor());
        let cut = round(value * unit) / unit;
        if cut >= 100.0 {
            format!("x{}", count(cut))
        } else {
            format!("x{}", figure(cut))
        }
    };
    match (interval.low, interval.high) {
        (Some(low), Some(high)) => format!("{} to {}", outwards(low, f64::floor), outwards(high, f64::ceil)),
        (Some(low), None) => format!("{} or more", outwards(low, f64::floor)),
        (None, Some(high)) => format!("at most {}", outwards(high, f64::ceil)),
        (None, None) => "nothing is excluded yet".to_owned(),
    }
}

/// How sure a range is, where it says anything.
fn sure(interval: &Interval) -> String {
    if interval.low.is_none() && interval.high.is_none() {
        return String::new();
    }
    format!(", with {} confidence at every look", percent(interval.confidence))
}

fn side(counts: &Counts) -> String {
    match counts.rate {
        Some(rate) => format!("{} of {} ({})", count(counts.bad), count(counts.total), percent(rate)),
        None => "no requests".to_owned(),
    }
}
