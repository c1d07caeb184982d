//! `wade simulate`: a release in virtual time.

use std::path::PathBuf;

use super::exit::{Exit, Failure};

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
    let _texts = (super::files::text(&args.file)?, super::files::text(&args.scenario)?);
    // Waits for `crate::sim::cli_text`.
    Err(Failure::other("this build has no simulator yet"))
}
