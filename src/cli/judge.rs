//! `wade judge`: the judge alone, for other programs, for the past and for simulations.

use super::exit::{Exit, Failure};
use super::screen::Format;
use super::{judge_replay, judge_simulate};

/// Judge measurements from another program, or a past period again
#[derive(Debug, clap::Args)]
#[command(
    subcommand_negates_reqs = true,
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  wade judge --stdio < observations.jsonl
  wade judge --replay --prometheus http://127.0.0.1:9090 --canary 'version=\"1.4.2\"' \\
      --stable 'version=\"1.4.1\"' --from 40m --rollout rollouts/checkout.yaml --record friday.jsonl
  wade judge --replay --file friday.jsonl --rollout rollouts/stricter.yaml
  wade judge simulate alarms

With --stdio, one JSON object a line in and one out: a configuration, then observations, verdicts in return.
With --replay, a past period is judged by a rollout's settings (or the usual ones): when they would have rolled back or
passed each stage, and what they could have seen. Neither touches anything."
)]
pub(super) struct Args {
    #[command(subcommand)]
    trial: Option<Trial>,
    /// Read from standard input and answer on standard output
    #[arg(long, required_unless_present = "replay", conflicts_with = "replay")]
    stdio: bool,
    #[command(flatten)]
    replay: judge_replay::Args,
}

#[derive(Debug, clap::Subcommand)]
enum Trial {
    Simulate(judge_simulate::Args),
}

impl Args {
    /// How failures are told.
    pub(super) const fn format(&self) -> Format {
        self.replay.output.output
    }
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    if let Some(Trial::Simulate(args)) = &args.trial {
        return judge_simulate::run(args);
    }
    if args.replay.replay {
        return judge_replay::run(&args.replay);
    }
    crate::judge::stdio::serve(std::io::stdin().lock(), std::io::stdout().lock())
        .map(|()| Exit::Done)
        .map_err(|error| Failure::other(format!("standard input or output broke off: {error}")))
}
