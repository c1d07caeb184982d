//! `wade why`: one release, whole.

use jiff::tz::TimeZone;

use super::connect::{Connection, answered};
use super::exit::{Exit, Failure};
use super::render::why::why;
use super::screen::{OutputArg, Screen};
use crate::store::ReleaseKey;

/// Tell a release: who released what, what happened, why, and the evidence
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wade why checkout        the release that runs, or the last one
  wade why checkout 57
  wade why checkout 57 -o json | jq .verdict")]
pub(super) struct Args {
    /// The rollout's name
    name: String,
    /// The release, from `wade history`; the newest if left out
    release: Option<u64>,
    #[command(flatten)]
    pub(super) output: OutputArg,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let (client, name) = args.connection.open(Some(&args.name)).await?;
    let key = match args.release {
        Some(number) => ReleaseKey {
            rollout: name.clone(),
            number,
        },
        None => {
            let view = answered(client.rollout(&name)).await?;
            view.release.map(|release| release.key).ok_or_else(|| {
                Failure::usage(format!(
                    "nothing of {name} has been released yet; `wade deploy {name}` does"
                ))
            })?
        }
    };
    let record = answered(client.record(&key)).await?;
    let screen = Screen::new(args.output.output);
    if screen.is_json() {
        screen.json(&record);
    } else {
        screen.text(&why(&record, &TimeZone::system(), Screen::colours()));
    }
    Ok(Exit::Done)
}
