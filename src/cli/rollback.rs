//! `wade rollback`: back to a revision that has served before.

use super::commands::back;
use super::connect::{Connection, answered};
use super::deploy::begin;
use super::exit::{Exit, Failure};
use super::follow::FollowArgs;
use super::pipeline::{environment, pipeline};
use super::retry::runs;
use super::screen::{OutputArg, Screen};
use crate::daemon::api::{ReleaseRequest, ReleaseTarget};

/// Release the revision that served before; in mid-release the same as abort
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wade rollback checkout --reason \"wrong prices\"
  wade rollback checkout --to 54        the revision that release 54 promoted

Deploy windows do not apply. It is a release of its own: started, smoke-tested and watched, in fewer steps.")]
pub(super) struct Args {
    /// The rollout's name
    name: String,
    /// The release whose revision is to serve again, from `wade history`
    #[arg(long, value_name = "RELEASE")]
    to: Option<u64>,
    /// Why, for the record
    #[arg(long, value_name = "WORDS")]
    reason: Option<String>,
    #[command(flatten)]
    follow: FollowArgs,
    #[command(flatten)]
    pub(super) output: OutputArg,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let (client, name) = args.connection.open(Some(&args.name)).await?;
    let name = name.as_str();
    let screen = Screen::new(args.output.output);
    if runs(&answered(client.rollout(name)).await?) {
        return match args.to {
            None => back(&client, name, args.reason, args.follow.detach, screen).await,
            Some(number) => Err(Failure::usage(format!(
                "a release of {name} is running, which a rollback would abort; run `wade abort {name}` first and then `wade rollback {name} --to {number}`"
            ))),
        };
    }
    let request = ReleaseRequest {
        target: ReleaseTarget::Rollback { number: args.to },
        reason: args.reason,
        pipeline: pipeline(environment),
        ..ReleaseRequest::default()
    };
    begin(&client, name, &request, args.follow, screen).await
}
