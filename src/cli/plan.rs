//! `wade plan`: what a release would do, from the file alone.

use std::path::PathBuf;

use super::exit::{Exit, Failure};
use super::files::{rollout, strategies};
use super::screen::{OutputArg, Screen};
use crate::plan::{Circumstances, Lane, Outlook, lower, render};
use crate::spec::{Percent, notes};

/// Show what a release would do: its stages, their times, and what each could see
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wade plan -f rollouts/checkout.yaml
  wade plan -f rollouts/checkout.yaml --rps 200 --error-rate 0.1%
  wade plan -f rollouts/checkout.yaml --emergency

With --rps each stage says what rise in errors it could see: a stage that sees nothing is no safety.
`wade deploy NAME --dry-run` asks the daemon instead, which knows the real traffic.")]
pub(super) struct Args {
    /// The rollout's file
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// Requests per second on the whole service
    #[arg(long, value_name = "N", value_parser = rate)]
    rps: Option<f64>,
    /// The share of requests that fails on stable
    #[arg(long, value_name = "SHARE", requires = "rps", default_value = "0%")]
    error_rate: Percent,
    /// As if nothing served yet
    #[arg(long, conflicts_with = "emergency")]
    first_deploy: bool,
    /// As an emergency release
    #[arg(long)]
    emergency: bool,
    /// A folder with strategies of your own
    #[arg(long, value_name = "FOLDER")]
    strategies: Option<PathBuf>,
    #[command(flatten)]
    pub(super) output: OutputArg,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let read = rollout(&args.file, &strategies(args.strategies.as_deref())?)?;
    let lane = if args.first_deploy {
        Lane::FirstDeploy
    } else if args.emergency {
        Lane::Emergency {
            reason: "as asked for with --emergency".to_owned(),
        }
    } else {
        Lane::Normal
    };
    let around = Circumstances {
        lane,
        stable_unfit: None,
        requests_per_second: args.rps,
        found: None,
    };
    let (rollout, resolved) = (&read.rollout, &read.resolved);
    let plan = lower(
        &rollout.metadata.name,
        &rollout.spec,
        &resolved.strategy,
        &resolved.analysis,
        &resolved.limits,
        &around,
    );
    let screen = Screen::new(args.output.output);
    if screen.is_json() {
        screen.json(&plan);
        return Ok(Exit::Done);
    }
    let outlook = args.rps.map(|requests_per_second| Outlook {
        requests_per_second,
        error_rate: args.error_rate.fraction(),
    });
    screen.text(&render(&plan, outlook));
    notes(rollout)
        .iter()
        .for_each(|note| screen.text(&format!("  note     {note}")));
    Ok(Exit::Done)
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.0..=1e9).contains(&rate) => Ok(rate),
        _ => Err("write requests per second as a number, like 200 or 0.5".to_owned()),
    }
}
