//! `wade judge simulate`: the numbers behind the judge's promises, counted anew.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write as _};

use serde::Serialize;

use super::exit::{Exit, Failure};
use super::screen::{OutputArg, Screen};
use crate::plan::{Circumstances, StageKind, lower};
use crate::sim::judging::count::{Row, STAGES, Summary, play, summary};
use crate::sim::judging::early::{Early, early};
use crate::sim::judging::promote::{Promotion, promotions};
use crate::sim::judging::scenarios::{SCENARIOS, Scenario, Truth};
use crate::sim::judging::settings::Settings;
use crate::sim::judging::speed::{Speed, speeds};
use crate::sim::judging::trial::Stage;
use crate::sim::judging::{early, lines};
use crate::spec::{Limits, resolve, strategies::builtin};

/// Try the judge on made-up releases: false alarms, speed, and how fast a good release gets through
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wade judge simulate alarms --releases 300
  wade judge simulate speed
  wade judge simulate promote --strategy careful
  wade judge simulate early-pass
  wade judge simulate lines --releases 10 | wade judge --stdio

Seeded: the same seed plays the same releases before every kind of settings. Nothing is started or asked.")]
pub(super) struct Args {
    /// What to find out
    #[arg(value_enum)]
    what: What,
    /// Releases of each scenario
    #[arg(long, value_name = "N", default_value = "100")]
    releases: u64,
    /// Another seed plays other releases
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,
    /// Only scenarios whose name contains this
    #[arg(long, value_name = "WORDS", default_value = "")]
    only: String,
    /// The strategy whose stages `promote` and `early-pass` use
    #[arg(long, value_name = "NAME", default_value = "careful")]
    strategy: String,
    #[command(flatten)]
    output: OutputArg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// False rollbacks and detection, scenario by scenario, for each kind of settings
    Alarms,
    /// Seconds until a canary is found that fails outright
    Speed,
    /// Seconds until a healthy release has reached everybody
    Promote,
    /// How much of stable's past is enough for an early pass
    EarlyPass,
    /// The releases as lines for `wade judge --stdio`
    Lines,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let screen = Screen::new(args.output.output);
    match args.what {
        What::Alarms => alarms(args, &screen),
        What::Speed => table(&screen, &speeds(args.releases, args.seed), SPEED, speed),
        What::Promote => {
            let rows = promotions(&stages(&args.strategy)?, 2.0, args.releases, args.seed);
            table(&screen, &rows, PROMOTION, promotion);
        }
        What::EarlyPass => {
            let stages = stages(&args.strategy)?;
            let rows = early::AMOUNTS
                .iter()
                .map(|(pods, blocks, block_s)| early(*pods, *blocks, *block_s, &stages, args.releases, args.seed));
            table(&screen, &rows.collect::<Vec<_>>(), EARLY, early_row);
        }
        What::Lines => write_lines(args)?,
    }
    Ok(Exit::Done)
}

fn alarms(args: &Args, screen: &Screen) {
    let chosen: Vec<&Scenario> = SCENARIOS
        .iter()
        .filter(|scenario| scenario.name.contains(&args.only))
        .collect();
    if !screen.is_json() {
        let names: Vec<String> = Settings::ALL.map(|settings| format!("{:>21}", settings.name())).into();
        screen.text(&format!("{:<42}{}", "", names.concat()));
    }
    let mut rows: Vec<(Truth, Row)> = Vec::new();
    for scenario in chosen {
        let mut line = format!("{:<42}", scenario.name);
        for settings in Settings::ALL {
            let row = play(scenario, settings, &STAGES, args.releases, args.seed);
            let share = percent(row.rolled_back as f64 / row.releases as f64);
            let seconds = match (scenario.truth, row.median_s) {
                (Truth::Bad, Some(median)) => format!("{median:.0} s"),
                _ => String::new(),
            };
            line += &format!("{share:>12} {seconds:>8}");
            if screen.is_json() {
                screen.json(&row);
            }
            rows.push((scenario.truth, row));
        }
        if !screen.is_json() {
            screen.text(line.trim_end());
        }
    }
    for settings in Settings::ALL {
        let summary = summary(settings, &rows);
        if screen.is_json() {
            screen.json(&summary);
        } else {
            screen.text(&summed(&summary));
        }
    }
}

fn summed(summary: &Summary) -> String {
    format!(
        "{:<10} false rollbacks {} in the mean, {} at worst ({}); detected {} at worst ({})",
        summary.settings,
        percent(summary.false_mean),
        percent(summary.false_worst),
        summary.false_where,
        percent(summary.detected_worst),
        summary.detected_where,
    )
}

/// The judged stages of a strategy that comes with Wade, as a release of it has them.
fn stages(strategy: &str) -> Result<Vec<Stage>, Failure> {
    let found = builtin(strategy).ok_or_else(|| {
        Failure::usage(format!(
            "there is no strategy {strategy} in Wade; `wade strategies` lists those that are"
        ))
    })?;
    let text = format!(
        "apiVersion: wade.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: simulated}}\nspec:\n  workload: \
         {{process: {{command: [service], port: auto}}}}\n  traffic: {{listen: \"127.0.0.1:8080\"}}\n  strategy: {{use: {}}}\n",
        found.metadata.name
    );
    let faulty = |faults: crate::spec::Faults| Failure::other(format!("strategy {strategy}: {faults}"));
    let rollout = crate::spec::read_rollout(&text, "simulated").map_err(faulty)?;
    let resolved = resolve(&rollout, &BTreeMap::new()).map_err(faulty)?;
    let plan = lower(
        "simulated",
        &rollout.spec,
        &resolved.strategy,
        &resolved.analysis,
        &Limits::default(),
        &Circumstances::default(),
    );
    let judged: Vec<Stage> = plan
        .stages
        .iter()
        .filter(|stage| stage.kind == StageKind::Judge && !stage.split.weight.is_zero())
        .map(|stage| Stage {
            weight: stage.split.weight.fraction(),
            next_weight: stage.next_weight.fraction(),
            min_s: stage.min.as_secs_f64(),
            max_s: stage.max.as_secs_f64(),
        })
        .collect();
    if judged.is_empty() {
        return Err(Failure::usage(format!(
            "strategy {strategy} has no stage with a share of the traffic to judge by"
        )));
    }
    Ok(judged)
}

fn write_lines(args: &Args) -> Result<(), Failure> {
    let broken = |error: std::io::Error| Failure::other(format!("standard output broke off: {error}"));
    let mut out = BufWriter::with_capacity(1 << 20, std::io::stdout().lock());
    for scenario in SCENARIOS.iter().filter(|scenario| scenario.name.contains(&args.only)) {
        lines::write(scenario, &STAGES, 0..args.releases, args.seed, &mut out).map_err(broken)?;
    }
    out.flush().map_err(broken)
}

fn table<T: Serialize>(screen: &Screen, rows: &[T], head: &str, text: fn(&T) -> String) {
    if !screen.is_json() {
        screen.text(head);
    }
    for row in rows {
        if screen.is_json() {
            screen.json(row);
        } else {
            screen.text(&text(row));
        }
    }
}

const SPEED: &str = "requests/s   fails  scraped every  settings     found  median     95 %";

fn speed(speed: &Speed) -> String {
    format!(
        "{:>10}  {:>6}  {:>11} s  {:<10} {:>7}  {:>6}  {:>7}",
        speed.requests_per_second,
        percent(speed.fails),
        speed.every_s,
        speed.row.settings,
        percent(speed.row.rolled_back as f64 / speed.row.releases as f64),
        seconds(speed.row.median_s),
        seconds(speed.row.p95_s),
    )
}

const PROMOTION: &str = "requests/s  settings     median     95 %   proven  rolled back  median of each stage";

fn promotion(promotion: &Promotion) -> String {
    let each: Vec<String> = promotion.stages_s.iter().map(|taken| format!("{taken:.0} s")).collect();
    let share = |count: u64| percent(count as f64 / promotion.releases as f64);
    format!(
        "{:>10}  {:<10} {:>7}  {:>7}  {:>7}  {:>11}  {}",
        promotion.requests_per_second,
        promotion.settings,
        seconds(promotion.median_s),
        seconds(promotion.p95_s),
        share(promotion.proven),
        share(promotion.rolled_back),
        each.join(", "),
    )
}

const EARLY: &str = "pods  minutes  pod-minutes  false passes at worst, in the mean  healthy passes  worst where";

fn early_row(early: &Early) -> String {
    let minutes = early.blocks as f64 * early.block_s / 60.0;
    format!(
        "{:>4}  {:>7}  {:>11}  {:>21}  {:>11}  {:>14}  {} at {}",
        early.pods,
        minutes,
        minutes * f64::from(early.pods),
        percent(early.worst),
        percent(early.mean),
        percent(early.healthy),
        early.scenario,
        percent(early.weight),
    )
}

fn seconds(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1} s"))
}

fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    if percent == percent.round() {
        format!("{percent:.0} %")
    } else {
        format!("{percent:.2} %")
    }
}
