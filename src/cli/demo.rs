//! `wade demo`, and the sample service that it runs.

use std::process::ExitCode;

use super::exit::{Exit, Failure};
use super::screen::{Format, OutputArg};
use crate::demo::{self, Options};

/// See releases work, a good one and a bad one, without any setup
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wade demo
  wade demo --fast --seed 7
  wade demo traces
  wade demo -o json")]
pub(super) struct Args {
    /// releases: five versions, good and bad; traces: errors that hide in one operation, found by its spans
    #[arg(value_enum, default_value_t = Story::Releases, value_name = "STORY", hide_possible_values = true)]
    story: Story,
    #[command(flatten)]
    pub(super) output: OutputArg,
    /// Shorter stages: the whole story in about half a minute
    #[arg(long)]
    fast: bool,
    /// The seed of the requests and of the sample service's faults
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
}

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Story {
    /// Five versions, good and bad
    Releases,
    /// A version whose errors hide in one operation, found by its spans
    Traces,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let json = args.output.output == Format::Json;
    let options = Options {
        json,
        fast: args.fast,
        seed: args.seed,
    };
    // It has told already what ended otherwise than it should.
    let as_it_should = match args.story {
        Story::Releases => demo::run(options).await?,
        Story::Traces => demo::traces::run(options).await?,
    };
    Ok(if as_it_should { Exit::Done } else { Exit::Other })
}

/// The service that the demo and the tests deploy
#[derive(Debug, clap::Args)]
pub(super) struct SampleArgs {
    #[command(flatten)]
    options: demo::sample::SampleOptions,
}

pub(super) fn sample(args: SampleArgs) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(demo::sample::run(args.options)),
        Err(error) => {
            super::complain(&format!("no runtime could be started: {error}"));
            ExitCode::FAILURE
        }
    }
}
