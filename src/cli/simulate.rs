//! `wade simulate`: a release in virtual time.

use std::path::PathBuf;

use super::exit::{Exit, Failure};
use super::files::text;
use super::screen::{Format, Screen};
use crate::sim::{read_scenario, run_scenario};
use crate::spec::read_rollout;

/// Play a release through in virtual time: what would Wade do if …?
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  wade simulate -f examples/errors-rolled-back/rollout.yaml --scenario examples/errors-rolled-back/scenario.yaml

The engine and judge are the real ones; traffic, faults and people are the scenario's. Nothing is started.")]
pub(super) struct Args {
    /// The rollout's file
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// What happens meanwhile
    #[arg(long, value_name = "FILE")]
    scenario: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let (file, scenario) = (args.file.display().to_string(), args.scenario.display().to_string());
    let (rollout_text, scenario_text) = (text(&args.file)?, text(&args.scenario)?);
    let faulty = |faults: crate::spec::Faults| Failure::usage(faults.to_string());
    let rollout = read_rollout(&rollout_text, &file).map_err(faulty)?;
    let scenario = read_scenario(&scenario_text, &scenario).map_err(faulty)?;
    let timeline =
        run_scenario(&rollout, &scenario).map_err(|faults| faulty(faults.located_in(&rollout_text, &file)))?;
    Screen::new(Format::Text).text(&timeline.to_string());
    Ok(Exit::Done)
}
