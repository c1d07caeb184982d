//! Evidence in figures: short for a live line, whole for `wade why`.

use std::fmt::Write as _;

use super::numbers::{count, figure, odds, percent, seconds, times};
use crate::judge::verdict::{Counts, MetricEvidence, Seen};
use crate::judge::{Call, Sides, Verdict};

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

/// A verdict as `wade why` tells it: the sentence, then per metric both sides' counts and rates, the evidence against
/// its bound, and what could have been seen.
pub fn whole(verdict: &Verdict) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}: {}", call(verdict.call), verdict.reason);
    let _ = writeln!(
        out,
        "  evidence against the canary {}, needed {}",
        odds(verdict.evidence),
        odds(verdict.needed)
    );
    if verdict.tripped {
        let _ = writeln!(out, "  a tripwire ended it, which has no false-alarm bound");
    }
    for metric in &verdict.metrics {
        metric_lines(&mut out, metric);
    }
    out
}

fn metric_lines(out: &mut String, metric: &MetricEvidence) {
    let _ = writeln!(out, "  {}", metric.name);
    let mut say = |text: String| {
        let _ = writeln!(out, "    {text}");
    };
    match &metric.seen {
        Seen::Errors {
            release,
            stage,
            max_ratio,
        } => {
            say(format!("release  {}", both(release)));
            say(format!("stage    {}", both(stage)));
            if let Some(most) = max_ratio {
                say(format!(
                    "at most  {} while baking: there is no stable beside it",
                    percent(*most)
                ));
            }
        }
        Seen::Objective {
            release,
            stage,
            max_ratio,
        } => {
            say(format!("release  canary {}", side(&release.canary)));
            say(format!("stage    canary {}", side(&stage.canary)));
            say(format!("at most  {}", percent(*max_ratio)));
        }
        Seen::Latency {
            release,
            p50_s,
            p99_s,
            thresholds,
            ..
        } => {
            let known = |value: Option<f64>| value.map_or("unknown".to_owned(), seconds);
            say(format!(
                "requests canary {}, stable {}",
                count(release.canary),
                count(release.stable)
            ));
            for (name, quantile) in [("p50     ", p50_s), ("p99     ", p99_s)] {
                say(format!(
                    "{name} canary {}, stable {}",
                    known(quantile.canary),
                    known(quantile.stable)
                ));
            }
            for threshold in thresholds {
                let slower = &threshold.slower;
                say(format!("slower than {}: {}", seconds(threshold.above_s), both(slower)));
            }
        }
        Seen::Operations {
            requests,
            known,
            operations,
            signatures,
        } => {
            say(format!(
                "requests canary {}, stable {}, in {known} operations",
                count(requests.canary),
                count(requests.stable)
            ));
            for operation in operations {
                say(format!("{}  {}", operation.operation, both(&operation.release)));
                if let Some(slower) = &operation.slower {
                    say(format!(
                        "  slower than {}  {}",
                        seconds(slower.above_s),
                        both(&slower.slower)
                    ));
                }
            }
            for new in signatures {
                let colon = if new.message.is_empty() { "" } else { ": " };
                say(format!(
                    "new error {}{colon}{} in {}",
                    new.error, new.message, new.operation
                ));
                say(format!("  {}", both(&new.shown)));
                for example in &new.examples {
                    say(format!("  trace {example}"));
                }
            }
        }
        Seen::Gauge { last, pairs, above } => {
            let known = |value: Option<f64>| value.map_or("unknown".to_owned(), figure);
            say(format!(
                "last     canary {}, stable {}",
                known(last.canary),
                known(last.stable)
            ));
            say(format!("above what is allowed in {above} of {pairs} pairs"));
        }
    }
    say(strength(metric));
}

fn both(sides: &Sides<Counts>) -> String {
    format!("canary {}, stable {}", side(&sides.canary), side(&sides.stable))
}

fn side(counts: &Counts) -> String {
    match counts.rate {
        Some(rate) => format!("{} of {} ({})", count(counts.bad), count(counts.total), percent(rate)),
        None => "no requests".to_owned(),
    }
}

/// How strong the evidence of one metric is, and how much it could have been.
fn strength(metric: &MetricEvidence) -> String {
    let mut parts = vec![format!("evidence {}", odds(metric.ln_e))];
    parts.extend(metric.ratio.map(|ratio| format!("seen {}", times(ratio))));
    match (metric.smallest_ratio, &metric.seen) {
        (Some(ratio), _) => parts.push(format!(
            "a rise to {} or more would have been found by now",
            times(ratio)
        )),
        // What could have been seen is only known of counts.
        (None, Seen::Latency { .. } | Seen::Gauge { .. } | Seen::Operations { .. }) => {}
        (None, _) => parts.push("no rise could have been found yet".to_owned()),
    }
    if metric.phi > 1.05 {
        parts.push(format!("bursts count {} times less", figure(metric.phi)));
    }
    if metric.dropped > 0 {
        parts.push(format!(
            "{} measurements made no sense and were left out",
            metric.dropped
        ));
    }
    parts.join("; ")
}
