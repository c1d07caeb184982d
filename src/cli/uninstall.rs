//! `wade uninstall`: everything out of a cluster again.

use std::sync::Arc;

use serde_json::json;

use super::connect::ClusterArgs;
use super::exit::{Exit, Failure};
use super::screen::{OutputArg, Screen};
use crate::apiserver::Kind;
use crate::clock::{Clock, SystemClock};
use crate::install::apply::Change;
use crate::install::leave::{Leaving, uninstall};
use crate::spec::Span;

/// Take the daemon out of a cluster: releases back to stable, holds lifted, nothing left
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wade uninstall --dry-run
  wade uninstall                 records of past releases stay, for `wade history`
  wade uninstall --purge         they go too
  wade uninstall --keep-crds     Rollouts and Releases stay as they are

Running releases are aborted first and waited for. A Deployment whose template is not what serves (a change that
waits, or one that has failed) stays paused, and that is said: unpausing would roll it out unjudged.")]
pub(super) struct Args {
    /// Say what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Keep the definitions, and with them every Rollout and Release
    #[arg(long)]
    keep_crds: bool,
    /// Remove records and Leases as well
    #[arg(long)]
    purge: bool,
    /// How long a running release may take to go back
    #[arg(long, value_name = "TIME", default_value = "5m")]
    wait: Span,
    #[command(flatten)]
    pub(super) output: OutputArg,
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let screen = Screen::new(args.output.output);
    let api = args.cluster.api().await?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let leaving = Leaving {
        keep_definitions: args.keep_crds,
        purge: args.purge,
        dry: args.dry_run,
        within: args.wait.0,
    };
    let would = if args.dry_run { "would be " } else { "" };
    let mut say = |kind: Kind, name: &str, change: Change| line(&screen, would, kind, name, change);
    let left = uninstall(&api, leaving, &clock, &mut say).await?;
    for (word, all) in [("ended", &left.ended), ("lifted", &left.lifted), ("stays", &left.stays)] {
        for what in all {
            if screen.is_json() {
                screen.json(&json!({ word: what }));
            } else {
                screen.text(&format!("{word:9} {what}"));
            }
        }
    }
    Ok(Exit::Done)
}

/// One object, and what came of it.
pub(super) fn line(screen: &Screen, would: &str, kind: Kind, name: &str, change: Change) {
    if screen.is_json() {
        screen.json(&json!({
            "kind": kind.name(), "name": name, "change": change.word(), "dryRun": !would.is_empty(),
        }));
    } else {
        let verb = match change {
            Change::Unchanged => change.word().to_owned(),
            _ => format!("{would}{}", change.word()),
        };
        screen.text(&format!("{verb:9} {} {name}", kind.word()));
    }
}
