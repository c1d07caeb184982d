//! `wade judge`: the judge alone, for other programs.

use super::exit::{Exit, Failure};

/// Judge measurements from another program, line by line as JSON
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  wade judge --stdio < observations.jsonl

One JSON object a line in and one out: a configuration, then observations, verdicts in return.
The judge keeps its state until the input ends and touches nothing else.")]
pub(super) struct Args {
    /// Read from standard input and answer on standard output
    #[arg(long, required = true)]
    stdio: bool,
}

pub(super) fn run(_: &Args) -> Result<Exit, Failure> {
    crate::judge::stdio::serve(std::io::stdin().lock(), std::io::stdout().lock())
        .map(|()| Exit::Done)
        .map_err(|error| Failure::other(format!("standard input or output broke off: {error}")))
}
