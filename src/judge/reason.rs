//! The one sentence of a verdict: what was compared, with the numbers, and how sure the judge is.
//!
//! The same sentence goes to the terminal, the API, events, logs and notifications, so it has no colour, no line break
//! and nothing that needs the reader to know e-values: evidence is told as odds.

use super::observation::{CountsDiffer, Sides};
use super::terms::Tripped;
use super::verdict::{Counts, MetricEvidence, OperationEvidence, Seen, SignatureEvidence};

/// Why an undecided stage does not pass although nothing speaks against it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Waiting {
    /// More has to be seen.
    ForEvidence,
    /// Enough was seen, but a stage never passes before this many seconds.
    ForTime { min_stage_s: f64 },
    /// Enough was seen, but nothing is known about how bursty stable is.
    ForHistory,
    /// Enough was seen, but stages run their time by configuration.
    ByChoice,
    /// All traffic is the canary's; nothing passes early.
    WhileBaking,
    /// Nothing but traces is judged, which prove nothing.
    ForCounts,
    /// Two who count the same requests do not agree.
    ForAgreement(CountsDiffer),
}

/// A metric has failed the canary, or makes it suspicious.
pub(crate) fn against(metric: &MetricEvidence, ln_e: f64, needed: f64) -> String {
    format!(
        "{}: {}; evidence {}, needed {}",
        metric.name,
        figures(&metric.seen),
        odds(ln_e),
        odds(needed)
    )
}

/// A tripwire has failed the canary.
pub(crate) fn tripped(name: &str, wire: &Tripped<'_>) -> String {
    let share = Counts::new(wire.total, wire.bad);
    let looks = match wire.rule.looks {
        0 | 1 => "one look".to_owned(),
        looks => format!("{looks} looks in a row"),
    };
    format!(
        "{name}: canary {} in the last look, tripwire at {} for {looks}",
        counts(&share),
        percent(wire.rule.max_ratio)
    )
}

/// Every metric has shown that the canary is within its tolerance.
pub(crate) fn pass(metrics: &[MetricEvidence]) -> String {
    format!("no worse than allowed: {}", all_figures(metrics))
}

/// Nothing is known yet.
pub(crate) fn undecided(metrics: &[MetricEvidence], waiting: Waiting) -> String {
    match waiting {
        Waiting::ForEvidence => format!("undecided: {}", sight(metrics)),
        Waiting::ForTime { min_stage_s } => {
            format!(
                "undecided: a stage passes after {min_stage_s} s at the earliest, so far {}",
                all_figures(metrics)
            )
        }
        Waiting::ForHistory => format!(
            "undecided: without history of stable's pods a stage runs its full time, so far {}",
            all_figures(metrics)
        ),
        Waiting::ByChoice => format!(
            "undecided: this stage runs its full time, so far {}",
            all_figures(metrics)
        ),
        Waiting::ForAgreement(differ) => format!(
            "undecided: of {} requests in {:.0} s the router counted {} and the pods {}, more than a fifth apart; so far {}",
            if differ.of_canary { "the canary's" } else { "stable's" },
            differ.over_s,
            number(differ.router),
            number(differ.pods),
            all_figures(metrics)
        ),
        Waiting::ForCounts => format!("undecided: traces alone prove nothing, so far {}", all_figures(metrics)),
        Waiting::WhileBaking => format!("undecided: baking, so far {}", all_figures(metrics)),
    }
}

/// What could have been seen by now, told by the first metric that can tell.
fn sight(metrics: &[MetricEvidence]) -> String {
    let counted = metrics.iter().find_map(|metric| match &metric.seen {
        Seen::Errors { release, .. } | Seen::Objective { release, .. } => {
            Some((release.canary.total, metric.smallest_ratio))
        }
        Seen::Latency { .. } | Seen::Gauge { .. } | Seen::Operations { .. } => None,
    });
    match counted {
        Some((requests, _)) if requests <= 0.0 => "no canary requests yet".to_owned(),
        Some((requests, Some(ratio))) => {
            format!(
                "{} canary requests, could only have seen a rise to {} or more",
                number(requests),
                times(ratio)
            )
        }
        Some((requests, None)) => format!("{} canary requests, too few to see any rise", number(requests)),
        None if metrics.is_empty() => "no metric is configured".to_owned(),
        None => all_figures(metrics),
    }
}

fn all_figures(metrics: &[MetricEvidence]) -> String {
    let each = metrics.iter().map(|metric| match &metric.seen {
        // Nothing speaks against the canary here, so the stage that is about to end is what counts.
        Seen::Errors {
            release,
            stage,
            max_ratio,
        } => {
            let shown = if stage.canary.total > 0.0 { stage } else { release };
            format!("{} {}", metric.name, compared(shown, *max_ratio, "expected"))
        }
        Seen::Latency {
            p99_s: Sides {
                canary: Some(canary),
                stable: Some(stable),
            },
            ..
        } => {
            format!(
                "{} p99 canary {}, stable {}",
                metric.name,
                seconds(*canary),
                seconds(*stable)
            )
        }
        Seen::Operations {
            requests,
            known,
            signatures,
            ..
        } => format!("{} {}", metric.name, traced(requests, *known, signatures)),
        seen @ (Seen::Objective { .. } | Seen::Latency { .. } | Seen::Gauge { .. }) => {
            format!("{} {}", metric.name, figures(seen))
        }
    });
    each.collect::<Vec<_>>().join("; ")
}

/// The figures that speak most against the canary.
fn figures(seen: &Seen) -> String {
    match seen {
        Seen::Errors {
            release,
            stage,
            max_ratio,
        } => compared(clearest(release, stage), *max_ratio, "expected"),
        Seen::Objective {
            release,
            stage,
            max_ratio,
        } => {
            let canary_only = |sides: &Sides<Counts>| Sides {
                canary: sides.canary,
                stable: Counts::default(),
            };
            compared(
                clearest(&canary_only(release), &canary_only(stage)),
                Some(*max_ratio),
                "allowed",
            )
        }
        Seen::Latency { thresholds, .. } => {
            let worst = thresholds.iter().max_by(|a, b| f64::total_cmp(&a.ln_e, &b.ln_e));
            let Some(worst) = worst else {
                return "still warming up".to_owned();
            };
            let share = |side: &Counts| format!("{} of {}", rate(side), number(side.total));
            format!(
                "canary {} slower than {}, stable {}",
                share(&worst.slower.canary),
                seconds(worst.above_s),
                share(&worst.slower.stable)
            )
        }
        Seen::Gauge { last, pairs, above } => format!(
            "canary {}, stable {}, above what is allowed in {above} of {pairs} pairs",
            last.canary.map_or("unknown".to_owned(), figure),
            last.stable.map_or("unknown".to_owned(), figure)
        ),
        Seen::Operations {
            requests,
            known,
            operations,
            signatures,
        } => {
            worst_traced(operations.first(), signatures.first()).unwrap_or_else(|| traced(requests, *known, signatures))
        }
    }
}

/// What traces say when nothing speaks against the canary.
fn traced(requests: &Sides<f64>, known: usize, signatures: &[SignatureEvidence]) -> String {
    let operations = if known == 1 { "operation" } else { "operations" };
    let news = match signatures.len() {
        0 => "no new error".to_owned(),
        _ => {
            let count: f64 = signatures.iter().map(|signature| signature.shown.canary.bad).sum();
            format!("{} new errors, none often", number(count))
        }
    };
    format!(
        "{known} {operations}, {} canary requests, {news}",
        number(requests.canary)
    )
}

/// The operation or the new error that speaks most against the canary, then the other if it speaks against it as well,
/// then a trace to look at.
fn worst_traced(operation: Option<&OperationEvidence>, signature: Option<&SignatureEvidence>) -> Option<String> {
    let operation = operation.filter(|operation| operation.worst() > 0.0);
    let signature = signature.filter(|signature| signature.ln_e > 0.0);
    let new = signature.map(|signature| {
        let alone = operation.is_none_or(|operation| operation.operation != signature.operation);
        let colon = if signature.message.is_empty() { "" } else { ": " };
        let place = if alone {
            format!(" in {}", signature.operation)
        } else {
            String::new()
        };
        format!(
            "new error {}{colon}{}{place} on {}, stable {}",
            signature.error,
            signature.message,
            counts(&signature.shown.canary),
            out_of(&signature.shown.stable)
        )
    });
    let trace = signature
        .and_then(|signature| signature.examples.first())
        .map(|example| format!("trace {example}"));
    let mut parts: Vec<String> = [operation.map(operation_words), new].into_iter().flatten().collect();
    if signature.map(|signature| signature.ln_e) > operation.map(OperationEvidence::worst) {
        parts.reverse();
    }
    parts.extend(trace);
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn operation_words(evidence: &OperationEvidence) -> String {
    let name = &evidence.operation;
    match &evidence.slower {
        Some(slower) if slower.ln_e > evidence.ln_e => {
            let share = |side: &Counts| format!("{} of {}", rate(side), number(side.total));
            format!(
                "{name} canary {} slower than {}, stable {}",
                share(&slower.slower.canary),
                seconds(slower.above_s),
                share(&slower.slower.stable)
            )
        }
        Some(_) | None => format!(
            "{name} canary {} failed, stable {}",
            counts(&evidence.release.canary),
            out_of(&evidence.release.stable)
        ),
    }
}

/// `0 of 310`
fn out_of(side: &Counts) -> String {
    format!("{} of {}", number(side.bad), number(side.total))
}

/// This stage's figures or the whole release's, whichever show the difference better.
fn clearest<'a>(release: &'a Sides<Counts>, stage: &'a Sides<Counts>) -> &'a Sides<Counts> {
    let gap = |sides: &Sides<Counts>| sides.canary.rate.map(|rate| rate - sides.stable.rate.unwrap_or(0.0));
    match (gap(stage), gap(release)) {
        (Some(in_stage), Some(in_release)) if in_stage >= in_release => stage,
        _ => release,
    }
}

fn compared(sides: &Sides<Counts>, max_ratio: Option<f64>, most: &str) -> String {
    match max_ratio {
        None => format!("canary {}, stable {}", counts(&sides.canary), counts(&sides.stable)),
        Some(max_ratio) => format!(
            "canary {}, at most {} {most}",
            counts(&sides.canary),
            percent(max_ratio)
        ),
    }
}

fn counts(side: &Counts) -> String {
    format!("{} of {} ({})", number(side.bad), number(side.total), rate(side))
}

fn rate(side: &Counts) -> String {
    side.rate.map_or("no requests".to_owned(), percent)
}

/// `30.3 %`, `0.05 %`, `100 %`.
fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let digits = match percent {
        p if p >= 1.0 || p <= 0.0 => 1,
        p if p >= 0.005 => 2,
        _ => 4,
    };
    format!("{} %", trimmed(format!("{percent:.digits$}")))
}

/// ln E as odds, cut (not rounded) to two digits so that it never reads as enough when it is not.
fn odds(ln_e: f64) -> String {
    // exp(ln(100)) may fall a hair below 100.
    let e = ln_e.exp() * (1.0 + 1e-9);
    if e >= 1e6 {
        return "over a million to 1".to_owned();
    }
    if e < 10.0 {
        return format!("{} to 1", trimmed(format!("{:.1}", (e * 10.0).floor() / 10.0)));
    }
    let unit = 10f64.powi(e.log10().floor() as i32 - 1);
    format!("{} to 1", number((e / unit).floor() * unit))
}

/// `x1.5`, `x12`
fn times(ratio: f64) -> String {
    if ratio < 10.0 {
        format!("x{}", trimmed(format!("{ratio:.1}")))
    } else {
        format!("x{ratio:.0}")
    }
}

/// `250 ms`, `2.5 s`
fn seconds(s: f64) -> String {
    if s < 1.0 {
        format!("{} ms", figure(s * 1000.0))
    } else {
        format!("{} s", figure(s))
    }
}

/// Three digits that count.
fn figure(value: f64) -> String {
    let digits = if value == 0.0 {
        0.0
    } else {
        2.0 - value.abs().log10().floor()
    };
    trimmed(format!("{value:.0$}", digits.clamp(0.0, 9.0) as usize))
}

/// A whole number with separators: `25,900`.
fn number(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn trimmed(decimal: String) -> String {
    if decimal.contains('.') {
        decimal.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        decimal
    }
}
