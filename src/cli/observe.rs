//! `wade observe`: judge an ordinary rolling update, and touch nothing.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::connect::{ClusterArgs, deployment};
use super::exit::{Exit, Failure};
use super::files::policy;
use super::render::{Line, Tone};
use super::screen::{OutputArg, Screen};
use crate::clock::SystemClock;
use crate::cluster::observe::Told;
use crate::cluster::{Cluster, Options};
use crate::spec::Span;

/// In a log, a look is told at least this often.
const LOOK_EVERY: SignedDuration = SignedDuration::from_secs(15);

/// Judge an ordinary rolling update while it rolls, and touch nothing
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wade observe deployment/checkout -n shop & kubectl -n shop set image deployment/checkout app=checkout:1.4.2
  wade observe deployment/checkout -n shop -f rollout.yaml --exit-code

Says what a release would have done: that is how a team starts. It needs permission to read and nothing else.")]
pub(super) struct Args {
    /// The Deployment, deployment/NAME
    name: String,
    /// The policy whose analysis is used; the default one if left out
    #[arg(long, short, value_name = "FILE")]
    file: Option<std::path::PathBuf>,
    /// How long to wait for a rolling update to begin
    #[arg(long, value_name = "TIME", default_value = "10m")]
    wait: Span,
    /// Exit with 3 if a release would have been rolled back
    #[arg(long)]
    exit_code: bool,
    #[command(flatten)]
    pub(super) output: OutputArg,
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let own = deployment(&args.name).unwrap_or(&args.name).to_owned();
    let options = Options {
        rollout: args.file.as_deref().map(policy).transpose()?,
        ..Options::default()
    };
    let cluster = Arc::new(Cluster::new(args.cluster.api().await?, options, Arc::new(SystemClock))?);
    let screen = Screen::new(args.output.output);
    if !screen.is_json() {
        screen.text(&format!(
            "waiting for a rolling update of deployment {own} to begin; nothing is touched"
        ));
    }
    let mut teller = Teller {
        screen,
        began: None,
        told: None,
    };
    let watching = cluster.observe(&own, args.wait.0, |at, told| teller.tell(at, &told));
    let seen = Box::pin(watching).await?;
    let Teller { screen, began, .. } = teller;
    if screen.is_json() {
        screen.json(&serde_json::json!({
            "event": "observed",
            "wouldHaveRolledBack": seen.would_have.as_ref().map(|(at, _)| at),
            "reason": seen.would_have.as_ref().or(seen.last.as_ref().map(|last| (Timestamp::UNIX_EPOCH, last.clone())).as_ref()).map(|(_, verdict)| verdict.reason.clone()),
        }));
    } else {
        screen.text(&match (&seen.would_have, &seen.last) {
            (Some((at, verdict)), _) => format!(
                "a release would have been rolled back {} s after it began: {}",
                began.map_or(0, |began| at.duration_since(began).as_secs()),
                verdict.reason
            ),
            (None, Some(verdict)) => format!("a release would not have been rolled back: {}", verdict.reason),
            (None, None) => "nothing was seen".to_owned(),
        });
    }
    Ok(if args.exit_code && seen.would_have.is_some() {
        Exit::RolledBack
    } else {
        Exit::Done
    })
}

struct Teller {
    screen: Screen,
    began: Option<Timestamp>,
    told: Option<Timestamp>,
}

impl Teller {
    fn tell(&mut self, at: Timestamp, told: &Told) {
        let began = *self.began.get_or_insert(at);
        let since = at.duration_since(began);
        if self.screen.is_json() {
            if let Told::Look { verdict, .. } | Told::WouldHave(verdict) = told {
                let event = if matches!(told, Told::WouldHave(_)) {
                    "wouldHave"
                } else {
                    "look"
                };
                self.screen
                    .json(&serde_json::json!({ "event": event, "at": at, "verdict": verdict }));
            }
            return;
        }
        let line = match told {
            Told::Began { old, new } => {
                Line::new(since, Tone::Plain, "rolling", format!("{old} → {new}, by Kubernetes"))
            }
            Told::Look { pods, verdict, blind } => {
                if self.told.is_some_and(|last| at.duration_since(last) < LOOK_EVERY) {
                    return;
                }
                self.told = Some(at);
                let words = blind.as_ref().unwrap_or(&verdict.reason);
                Line::new(
                    since,
                    Tone::Plain,
                    "watching",
                    format!("{} new and {} old pods ready; {words}", pods.0, pods.1),
                )
            }
            Told::WouldHave(verdict) => Line::new(
                since,
                Tone::Bad,
                "FAIL",
                format!("{}; a release would go back now", verdict.reason),
            ),
            Told::RolledOut => Line::new(
                since,
                Tone::Plain,
                "all new",
                "every pod is of the new version; watching on".to_owned(),
            ),
        };
        self.screen.line(&line);
    }
}
