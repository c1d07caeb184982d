//! `wade settle`: wait until no release is unfinished.

use std::time::Duration;

use super::connect::{Connection, answered};
use super::exit::{Exit, Failure};
use super::retry::runs;
use super::screen::{OutputArg, Screen};
use crate::daemon::api::RolloutView;
use crate::spec::Span;

/// How often to look.
const LOOK: Duration = Duration::from_secs(1);

/// Wait until no release is unfinished
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wade settle checkout
  wade settle --wait 2m      in a pipeline's after-script

With a daemon nothing is left behind by a killed `wade deploy`: the release goes on without it.
Exit code 0 when everything is settled, 6 when --wait has ended before, 9 when a release is stuck.")]
pub(super) struct Args {
    /// The rollout's name; all of them if left out
    name: Option<String>,
    /// How long to wait, like 30m
    #[arg(long, value_name = "TIME", default_value = "10m")]
    wait: Span,
    #[command(flatten)]
    pub(super) output: OutputArg,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let client = args.connection.client()?;
    let screen = Screen::new(args.output.output);
    let look = || async {
        match &args.name {
            Some(name) => Ok(vec![answered(client.rollout(name)).await?]),
            None => answered(client.rollouts()).await,
        }
    };
    let mut said = false;
    let settled = async {
        loop {
            let unfinished: Vec<RolloutView> = look().await?.into_iter().filter(runs).collect();
            if let Some(stuck) = unfinished
                .iter()
                .find(|view| view.release.as_ref().is_some_and(|release| release.stuck))
            {
                return Ok(Err(stuck.clone()));
            }
            if unfinished.is_empty() {
                return Ok(Ok(()));
            }
            if !said && !screen.is_json() {
                said = true;
                let names: Vec<&str> = unfinished.iter().map(|view| view.name.as_str()).collect();
                screen.text(&format!(
                    "the daemon is finishing {}; waiting for at most {}",
                    names.join(", "),
                    args.wait
                ));
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let end: Result<Result<(), RolloutView>, Failure> = match tokio::time::timeout(args.wait.0, settled).await {
        Ok(end) => end,
        Err(_) => {
            if !screen.is_json() {
                screen.text("a release is still unfinished; the daemon goes on with it: `wade status`");
            }
            return last(&look().await?, &screen, Exit::Waiting);
        }
    };
    match end? {
        Ok(()) => {
            if !screen.is_json() {
                screen.text("no release is unfinished");
            }
            last(&look().await?, &screen, Exit::Done)
        }
        Err(stuck) => {
            if !screen.is_json() {
                let name = &stuck.name;
                screen.text(&format!("the release of {name} is stuck: `wade why {name}` says at what, `wade retry {name}` starts its clock again"));
            }
            last(&[stuck], &screen, Exit::Stuck)
        }
    }
}

/// With `--output json` the services as they are at the end.
fn last(views: &[RolloutView], screen: &Screen, exit: Exit) -> Result<Exit, Failure> {
    if screen.is_json() {
        views.iter().for_each(|view| screen.json(view));
    }
    Ok(exit)
}
