//! `wade check`: everything that is known before a release, and nothing touched.

use std::path::PathBuf;

use super::connect::{Connection, answered};
use super::deploy::{RevisionArgs, options};
use super::exit::{Exit, Failure};
use super::pipeline::{deploy_window, environment};
use super::render::check::check;
use super::screen::{OutputArg, Screen};
use crate::cluster::Options;
use crate::cluster::check::Standing;
use crate::daemon::api::ReleaseRequest;

/// Say what a release in a cluster would meet, and touch nothing
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wade check deployment/checkout -n shop
  wade check deployment/checkout -n shop -f rollout.yaml --image registry.example/checkout:1.4.2
  wade check deployment/checkout -n shop -o json | jq .writers

It tells every Service and route, who else writes them and what stops the fight, how the canary is isolated and why,
which traffic is not canaried, quota and room, missing permissions, and whether the judge can prove anything at this
traffic. `wade deploy` asks the same first. Exit code 0: a release may begin; 5: it would be refused; 7: permissions
are missing.")]
pub(super) struct Args {
    /// The Deployment, as deployment/NAME
    name: String,
    /// The policy; the default if left out
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    revision: RevisionArgs,
    #[command(flatten)]
    pub(super) output: OutputArg,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let options = Options {
        any: true,
        ..options(args.file.as_deref(), &args.revision)?
    };
    let request = ReleaseRequest {
        deploy_window: deploy_window(environment)?,
        ..ReleaseRequest::default()
    };
    let (cluster, name) = args.connection.cluster(&args.name, options).await?;
    let seen = Box::pin(answered(cluster.check(&name, &request))).await?;
    let screen = Screen::new(args.output.output);
    if screen.is_json() {
        screen.json(&seen);
    } else {
        screen.text(&check(&seen));
    }
    Ok(match seen.standing() {
        Standing::Ready => Exit::Done,
        Standing::Refused => Exit::Rejected,
        Standing::NotPermitted => Exit::Unreachable,
    })
}
