//! Strategies by name: the ones that come with Wade, and what `strategy: {use: NAME, with: …}` resolves to.
//!
//! The ready strategies are files in `strategies/`, written for people and read like anybody's; nothing about them is
//! special but that they are embedded. A rollout's own words win over its strategy's, field by field; overrides that
//! the strategy has no place for are faults, never ignored. Defaults are not filled in here: `plan` does that.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::fault::{Fault, Faults, Path, did_you_mean};
use super::read::read_strategy;
use super::rollout::{AnalysisSpec, Limits, Rollout, Strategy, StrategyChoice, StrategyFile, StrategyOverrides};
use super::validate::{check_analysis, check_fit, check_limits, check_sources, check_strategy};

/// Name and text of every strategy that comes with Wade.
pub const SOURCES: [(&str, &str); 6] = [
    ("careful", include_str!("../../strategies/careful.yaml")),
    ("quick", include_str!("../../strategies/quick.yaml")),
    ("blue-green", include_str!("../../strategies/blue-green.yaml")),
    ("ab-header", include_str!("../../strategies/ab-header.yaml")),
    ("shadow", include_str!("../../strategies/shadow.yaml")),
    ("demo", include_str!("../../strategies/demo.yaml")),
];

static BUILTIN: LazyLock<BTreeMap<&'static str, StrategyFile>> = LazyLock::new(|| {
    let read = |(name, text): (&'static str, &str)| {
        (
            name,
            read_strategy(text, name).expect("the embedded strategies are read by a test"),
        )
    };
    SOURCES.into_iter().map(read).collect()
});

/// The strategy called `name` that comes with Wade.
pub fn builtin(name: &str) -> Option<&'static StrategyFile> {
    BUILTIN.get(name)
}

/// The names of the strategies that come with Wade.
pub fn names() -> impl Iterator<Item = &'static str> {
    BUILTIN.keys().copied()
}

/// A rollout's strategy with its overrides, and the analysis and limits of both laid together.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// How traffic is shifted.
    pub strategy: Strategy,
    /// The rollout's words over the strategy's; silence is still silence.
    pub analysis: AnalysisSpec,
    /// The rollout's words over the strategy's; silence is still silence.
    pub limits: Limits,
}

/// Finds the rollout's strategy, among `extra` (by name, from the user's files) first and then among Wade's own, and
/// lays the rollout's words over it.
///
/// # Errors
/// An unknown name with the nearest known, overrides that the strategy has no place for, and what only shows when
/// both are laid together. Faults carry paths into the rollout; [`Faults::located_in`] adds the lines.
pub fn resolve(rollout: &Rollout, extra: &BTreeMap<String, StrategyFile>) -> Result<Resolved, Faults> {
    let spec = &rollout.spec;
    let source = format!("rollout {}", rollout.metadata.name);
    let path = Path::of("spec.strategy");
    let mut faults = Vec::new();
    let resolved = match &spec.strategy {
        StrategyChoice::Inline(strategy) => Resolved {
            strategy: strategy.clone(),
            analysis: spec.analysis.clone(),
            limits: spec.limits.clone(),
        },
        StrategyChoice::Named(named) => {
            let Some(file) = extra.get(&named.name).or_else(|| builtin(&named.name)) else {
                let mut known: Vec<&str> = extra.keys().map(String::as_str).collect();
                known.extend::<Vec<&str>>(names().collect());
                let fault = Fault::new(path.key("use"), "there is no strategy of this name")
                    .found(format!("`{}`", named.name))
                    .help(did_you_mean(&named.name, &known));
                return Err(Faults::new(source, vec![fault]));
            };
            let mut strategy = file.spec.strategy.clone();
            if let Some(with) = &named.with {
                faults.extend(apply(&mut strategy, with, &named.name, &path.key("with")));
            }
            check_fit(&path, rollout, &strategy, &mut faults);
            Resolved {
                strategy,
                analysis: spec.analysis.clone().over(file.spec.analysis.clone()),
                limits: spec.limits.clone().over(&file.spec.limits),
            }
        }
    };
    // Each half is fine by itself; together they may not be (the rollout's `look`, the strategy's `burstWindow`).
    check_strategy(&path, &resolved.strategy, &mut faults);
    check_analysis(&Path::of("spec.analysis"), &resolved.analysis, &mut faults);
    check_sources(&Path::of("spec.analysis"), rollout, &resolved.analysis, &mut faults);
    check_limits(&Path::of("spec.limits"), &resolved.limits, &mut faults);
    Faults::check(&source, faults)?;
    Ok(resolved)
}

/// Puts `with` into `strategy`; what has no place there is a fault.
fn apply(strategy: &mut Strategy, with: &StrategyOverrides, name: &str, path: &Path) -> Vec<Fault> {
    let (steps, bake, matching) = match strategy {
        Strategy::Canary(canary) => (Some(&mut canary.steps), &mut canary.bake, None),
        Strategy::BlueGreen(blue_green) => (None, &mut blue_green.bake, None),
        Strategy::Ab(ab) => (Some(&mut ab.steps), &mut ab.bake, Some(&mut ab.matching)),
        Strategy::Shadow(shadow) => (Some(&mut shadow.steps), &mut shadow.bake, None),
    };
    *bake = with.bake.or(*bake);
    let mut faults = Vec::new();
    let mut misplaced = |field: &str, help: &str| {
        let fault = Fault::new(
            path.key(field),
            format!("`{name}` has no `{field}` that could be changed"),
        );
        faults.push(fault.help(help));
    };
    match (steps, &with.steps) {
        (Some(place), Some(steps)) => place.clone_from(steps),
        (None, Some(_)) => misplaced("steps", "it switches all at once; use `careful` or `quick` for steps"),
        (_, None) => {}
    }
    match (matching, &with.matching) {
        (Some(place), Some(matching)) => place.clone_from(matching),
        (None, Some(_)) => misplaced("match", "use `ab-header` to choose requests by header or cookie"),
        (_, None) => {}
    }
    faults
}

#[cfg(test)]
mod tests;
