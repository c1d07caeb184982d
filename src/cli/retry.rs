//! `wade retry`: what is stuck, or the revision that failed last.

use super::commands::command;
use super::connect::{Connection, answered};
use super::deploy::begin;
use super::exit::{Exit, Failure};
use super::follow::FollowArgs;
use super::pipeline::{deploy_window, environment, pipeline};
use super::screen::{OutputArg, Screen};
use crate::daemon::api::{ReleaseRequest, ReleaseTarget, RolloutView};
use crate::engine::CommandKind;

/// Try again what is stuck, or the revision that failed last
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wade retry checkout
  wade retry checkout --reason \"the database was away\"

A revision that failed is not released again by itself; this is how a person says that it may be.")]
pub(super) struct Args {
    /// The rollout's name
    name: String,
    /// Why, for the record
    #[arg(long, value_name = "WORDS")]
    reason: Option<String>,
    /// A stage that ends without proof asks a person; if the release ends unproven, exit 10
    #[arg(long)]
    require_proof: bool,
    #[command(flatten)]
    follow: FollowArgs,
    #[command(flatten)]
    pub(super) output: OutputArg,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let (client, name) = args.connection.open(Some(&args.name)).await?;
    let screen = Screen::new(args.output.output);
    if runs(&answered(client.rollout(&name)).await?) {
        return command(&client, &name, CommandKind::Retry, args.reason, &screen).await;
    }
    let request = ReleaseRequest {
        target: ReleaseTarget::Retry,
        reason: args.reason,
        require_proof: args.require_proof,
        deploy_window: deploy_window(environment)?,
        pipeline: pipeline(environment),
        ..ReleaseRequest::default()
    };
    begin(&client, &name, &request, args.follow, screen).await
}

/// Whether a release of the service is not over.
pub(super) fn runs(view: &RolloutView) -> bool {
    view.release.as_ref().is_some_and(|release| release.outcome.is_none())
}
