//! `wade wait`: until a Deployment waits for nothing.

use std::time::Duration;

use super::connect::{Connection, answered};
use super::exit::{Exit, Failure};
use super::screen::{OutputArg, Screen};
use crate::cluster::wait::Waiting;
use crate::cluster::{Cluster, Options};
use crate::daemon::api::ProblemKind;
use crate::spec::Span;

/// How often to look.
const LOOK: Duration = Duration::from_secs(1);

/// Wait until no release of a Deployment runs and it is rolled out
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wade wait deployment/checkout -n shop
  wade wait deployment/checkout -n shop --wait 30m

For whoever only wants to know: nothing is touched. The exit code is that of the last release (0 promoted, 3 rolled
back, 4 aborted, 5 rejected, 8 superseded, 10 returned), 6 when --wait has ended before, 9 when a release is stuck.
`helm --wait` cannot tell: Helm 3 counts a Deployment that is held as ready.")]
pub(super) struct Args {
    /// The Deployment, as deployment/NAME
    name: String,
    /// How long to wait, like 30m
    #[arg(long, value_name = "TIME", default_value = "60m")]
    wait: Span,
    #[command(flatten)]
    pub(super) output: OutputArg,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let (cluster, name) = args.connection.cluster(&args.name, Options::default()).await?;
    let screen = Screen::new(args.output.output);
    match tokio::time::timeout(args.wait.0, Box::pin(until(&cluster, &name, &screen))).await {
        Ok(end) => end,
        Err(_) => {
            if !screen.is_json() {
                screen.text(&format!("still waiting after {}", args.wait));
            }
            Ok(Exit::Waiting)
        }
    }
}

async fn until(cluster: &Cluster, name: &str, screen: &Screen) -> Result<Exit, Failure> {
    let mut said = String::new();
    loop {
        let what = match Box::pin(answered(cluster.waits_for(name))).await {
            Ok(Waiting::Nothing { last: None }) => {
                if !screen.is_json() {
                    screen.text(&format!(
                        "deployment {name} is rolled out; no release of it is recorded"
                    ));
                }
                return Ok(Exit::Done);
            }
            Ok(Waiting::Nothing { last: Some(last) }) => {
                let (release, outcome) = *last;
                if screen.is_json() {
                    screen.json(&release);
                } else {
                    screen.text(&format!(
                        "deployment {name} is rolled out; {} of {} ended {}: {}",
                        release.key,
                        release.version,
                        outcome.label(),
                        release.summary
                    ));
                }
                return Ok(Exit::of(&outcome, false));
            }
            Ok(Waiting::Release { what, stuck: true }) => {
                if !screen.is_json() {
                    screen.text(&what);
                }
                return Ok(Exit::Stuck);
            }
            Ok(Waiting::Release { what, .. } | Waiting::Rollout(what)) => what,
            // An API server that restarts is no answer.
            Err(failure) if failure.problem.kind == ProblemKind::Unavailable => failure.problem.message,
            Err(failure) => return Err(failure),
        };
        if what != said && !screen.is_json() {
            screen.text(&what);
        }
        said = what;
        tokio::time::sleep(LOOK).await;
    }
}
