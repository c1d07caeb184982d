//! `wade judge`: the judge alone, for other programs.

use super::exit::{Exit, Failure};
use super::judge_simulate;

/// Judge measurements from another program, line by line as JSON
#[derive(Debug, clap::Args)]
#[command(
    subcommand_negates_reqs = true,
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  wade judge --stdio < observations.jsonl
  wade judge simulate alarms

One JSON object a line in and one out: a configuration, then observations, verdicts in return.
The judge keeps its state until the input ends and touches nothing else."
)]
pub(super) struct Args {
    #[command(subcommand)]
    trial: Option<Trial>,
    /// Read from standard input and answer on standard output
    #[arg(long, required = true)]
    stdio: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Trial {
    Simulate(judge_simulate::Args),
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    if let Some(Trial::Simulate(args)) = &args.trial {
        return judge_simulate::run(args);
    }
    crate::judge::stdio::serve(std::io::stdin().lock(), std::io::stdout().lock())
        .map(|()| Exit::Done)
        .map_err(|error| Failure::other(format!("standard input or output broke off: {error}")))
}
