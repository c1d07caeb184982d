//! `wade status`: services as they are now.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::connect::{Connection, answered};
use super::exit::{Exit, Failure};
use super::follow::{Codes, FollowArgs, Interrupts, follow};
use super::render::status::{change, service, services};
use super::retry::runs;
use super::screen::{OutputArg, Screen};
use crate::daemon::api::{Problem, RolloutView};
use crate::daemon::client::Client;

/// How often `-w` looks at all services.
const LOOK: Duration = Duration::from_secs(1);

/// Show what serves, what is being released and what it waits for
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wade status                  every service, one line each
  wade status checkout         one service with its instances
  wade status -w checkout      follow the release that runs, to its end
  wade status -o json | jq .   the same for programs

With -w and no name, changes of all services are told until Ctrl-C.")]
pub(super) struct Args {
    /// The rollout's name; all of them if left out
    name: Option<String>,
    /// Go on telling what happens
    #[arg(long, short)]
    watch: bool,
    #[command(flatten)]
    pub(super) output: OutputArg,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let (client, own) = args.connection.open(args.name.as_deref()).await?;
    let mut screen = Screen::new(args.output.output);
    let Some(name) = args.name.map(|_| own) else {
        let views = answered(client.rollouts()).await?;
        if screen.is_json() {
            views.iter().for_each(|view| screen.json(view));
        } else {
            screen.text(&services(&views));
        }
        return if args.watch {
            watch(&client, &screen, views).await
        } else {
            Ok(Exit::Done)
        };
    };
    let view = answered(client.rollout(&name)).await?;
    if screen.is_json() {
        screen.json(&view);
    } else {
        screen.text(&service(&view, &TimeZone::system()));
    }
    if let Some(release) = view.release.as_ref().filter(|_| args.watch && runs(&view)) {
        screen = screen.with_live();
        follow(
            &client,
            &release.key,
            1,
            FollowArgs::default(),
            Codes::Hidden,
            &mut screen,
        )
        .await?;
    }
    Ok(Exit::Done)
}

/// Tells changes of all services until interrupted. A daemon that is gone for a while is said once and waited for.
async fn watch(client: &Client, screen: &Screen, seen: Vec<RolloutView>) -> Result<Exit, Failure> {
    let mut interrupts = Interrupts::new()?;
    let mut told: BTreeMap<String, String> = seen.iter().map(|view| (view.name.clone(), change(view))).collect();
    let mut gone: Option<Problem> = None;
    loop {
        tokio::select! {
            () = interrupts.next() => return Ok(Exit::Done),
            () = tokio::time::sleep(LOOK) => {}
        }
        match answered(client.rollouts()).await {
            Ok(views) => {
                gone = None;
                for view in views {
                    let now = change(&view);
                    if told.insert(view.name.clone(), now.clone()).as_ref() != Some(&now) {
                        if screen.is_json() {
                            screen.json(&view);
                        } else {
                            screen.text(&now);
                        }
                    }
                }
            }
            Err(failure) if gone.is_none() => {
                super::complain(&failure.problem.message);
                gone = Some(failure.problem);
            }
            Err(_) => {}
        }
    }
}
