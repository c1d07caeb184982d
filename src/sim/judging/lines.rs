//! The same releases as lines of the `--stdio` protocol, for judging them elsewhere and for measuring what a look costs.
//!
//! Nobody answers while lines are written, so every stage runs its full time.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::scenarios::Scenario;
use super::service::BOUNDS;
use super::trial::{Look, Stage, Trial};
use crate::judge::Call;

/// Writes `releases` of a scenario; returns how many looks that were.
///
/// # Errors
/// Only those of the writer.
pub fn write(
    scenario: &Scenario,
    stages: &[Stage],
    releases: std::ops::Range<u64>,
    seed: u64,
    out: &mut impl Write,
) -> io::Result<u64> {
    let mut looks = 0;
    for number in releases {
        let run = format!("{}-{number}", scenario.name.replace([' ', ',', '/', '%', ':'], ""));
        let mut trial = Trial::new(scenario, seed.wrapping_mul(1_000_003).wrapping_add(number));
        let history = trial.history().map_or(
            Value::Null,
            |history| json!({"block_s": history.block_s, "pods": history.pods}),
        );
        let mut metrics = vec![json!({"kind": "errors"}), json!({"kind": "latency"})];
        if scenario.gauge.is_some() {
            metrics.push(json!({"kind": "gauge"}));
        }
        let start = json!({"type": "start", "run": run, "config": {"metrics": metrics}, "history": history});
        writeln!(out, "{start}")?;
        let mut broken = Ok(());
        let end = trial.play(stages, |look| {
            if broken.is_ok() {
                broken = writeln!(out, "{}", line(&run, look));
            }
            Call::Undecided
        });
        broken?;
        looks += end.looks;
        writeln!(out, "{}", json!({"type": "end", "run": run}))?;
    }
    writeln!(out, "{}", json!({"type": "flush"}))?;
    Ok(looks)
}

fn line(run: &str, look: &Look<'_>) -> Value {
    let (canary_gauge, stable_gauge) = look.gauge.unzip();
    let side = |sums: Option<&[f64]>, gauge: Option<f64>| {
        let Some(sums) = sums else { return Value::Null };
        let mut below = 0.0;
        let cumulative: Vec<u64> = sums[2..]
            .iter()
            .map(|count| {
                below += count;
                below as u64
            })
            .collect();
        let mut side = json!({
            "requests": sums[0] as u64,
            "errors": sums[1] as u64,
            "latency": {"le": BOUNDS, "counts": cumulative},
        });
        if let Some(gauge) = gauge {
            side["gauge"] = json!(gauge);
        }
        side
    };
    json!({
        "type": "look",
        "run": run,
        "t": look.t_s,
        "step": look.stage,
        "step_start": look.stage_at_s,
        "weight": look.plan.weight,
        "next_weight": look.plan.next_weight,
        "canary": side(look.canary, canary_gauge),
        "stable": side(look.stable, stable_gauge),
    })
}
