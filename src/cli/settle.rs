//! `wade settle`: wait until no release is unfinished.

use std::time::Duration;

use super::connect::{Connection, answered};
use super::exit::{Exit, Failure};
use super::follow::{Codes, FollowArgs, follow};
use super::retry::runs;
use super::screen::{OutputArg, Screen};
use crate::clock::stopwatch;
use crate::daemon::api::RolloutView;
use crate::daemon::client::Client;
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
    let (client, own) = args.connection.open(args.name.as_deref()).await?;
    let screen = Screen::new(args.output.output);
    let name = args.name.as_ref().map(|_| own);
    let look = || async {
        match &name {
            Some(name) => Ok(vec![answered(client.rollout(name)).await?]),
            None => answered(client.rollouts()).await,
        }
    };
    let watch = stopwatch();
    let mut said = false;
    let end: Result<(), RolloutView> = loop {
        // Every time anew: a run that was killed a moment ago still looks alive, until its Lease goes stale.
        if !client.is_carried() {
            settle_here(&client, name.as_deref(), &screen).await?;
        }
        let unfinished: Vec<RolloutView> = look().await?.into_iter().filter(runs).collect();
        if let Some(stuck) = unfinished
            .iter()
            .find(|view| view.release.as_ref().is_some_and(|release| release.stuck))
        {
            break Err(stuck.clone());
        }
        if unfinished.is_empty() {
            break Ok(());
        }
        if watch.elapsed() > args.wait.0 {
            if !screen.is_json() {
                screen.text(&format!(
                    "a release is still unfinished; {} goes on with it: `wade status`",
                    whoever(&client)
                ));
            }
            return last(&look().await?, &screen, Exit::Waiting);
        }
        if !said && !screen.is_json() {
            said = true;
            let names: Vec<&str> = unfinished.iter().map(|view| view.name.as_str()).collect();
            screen.text(&format!(
                "{} is finishing {}; waiting for at most {}",
                whoever(&client),
                names.join(", "),
                args.wait
            ));
        }
        tokio::time::sleep(LOOK).await;
    };
    match end {
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

/// Who goes on with a release while this process waits.
fn whoever(client: &Client) -> &'static str {
    if client.is_carried() {
        "the daemon"
    } else {
        "the run that holds its Lease"
    }
}

/// Where nobody else does it, what a dead run left is finished or undone by this process.
async fn settle_here(client: &Client, name: Option<&str>, screen: &Screen) -> Result<(), Failure> {
    let names: Vec<String> = match name {
        Some(name) => vec![name.to_owned()],
        None => answered(client.rollouts())
            .await?
            .into_iter()
            .map(|view| view.name)
            .collect(),
    };
    for name in names {
        if let Some(key) = client.settle(&name).await? {
            if !screen.is_json() {
                screen.text(&format!("{key} was left unfinished by a run that is gone; settling it"));
            }
            let mut own = Screen::new(if screen.is_json() {
                super::screen::Format::Json
            } else {
                super::screen::Format::Text
            });
            follow(client, &key, 1, FollowArgs::default(), Codes::Hidden, &mut own).await?;
            client.finished().await.iter().for_each(|late| super::warn(late));
        }
    }
    Ok(())
}

/// With `--output json` the services as they are at the end.
fn last(views: &[RolloutView], screen: &Screen, exit: Exit) -> Result<Exit, Failure> {
    if screen.is_json() {
        views.iter().for_each(|view| screen.json(view));
    }
    Ok(exit)
}
