//! `wade history`: releases, newest first.

use jiff::tz::TimeZone;

use super::connect::{Connection, answered};
use super::exit::{Exit, Failure};
use super::render::status::history;
use super::screen::{OutputArg, Screen};

/// List the releases of a service, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wade history checkout
  wade history checkout -o json | jq -r 'select(.outcome == \"RolledBack\") | .version'

`wade why NAME RELEASE` tells one of them whole.")]
pub(super) struct Args {
    /// The rollout's name
    name: String,
    #[command(flatten)]
    pub(super) output: OutputArg,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let (client, name) = args.connection.open(Some(&args.name)).await?;
    let releases = answered(client.releases(&name)).await?;
    let screen = Screen::new(args.output.output);
    if screen.is_json() {
        releases.iter().for_each(|release| screen.json(release));
    } else {
        screen.text(&history(&releases, &TimeZone::system()));
    }
    Ok(Exit::Done)
}
