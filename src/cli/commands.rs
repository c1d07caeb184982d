//! `wade approve | promote | pause | resume | abort`: what people ask of the release that runs.

use super::connect::{Connection, answered};
use super::exit::{Exit, Failure};
use super::follow::{Codes, FollowArgs, OnInterrupt, follow};
use super::screen::{OutputArg, Screen};
use crate::daemon::api::{Acknowledged, CommandRequest};
use crate::daemon::client::Client;
use crate::engine::CommandKind;

/// What every command takes.
#[derive(Debug, clap::Args)]
pub(super) struct Common {
    /// The rollout's name
    name: String,
    /// Why, for the record
    #[arg(long, value_name = "WORDS")]
    reason: Option<String>,
    #[command(flatten)]
    pub(super) output: OutputArg,
    #[command(flatten)]
    connection: Connection,
}

/// Open the gate that the release waits at
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wade approve checkout
  wade approve checkout --reason \"looked at the dashboards with Bob\"

Exit code 5 if no gate is waiting or its list of approvers does not name you.")]
pub(super) struct ApproveArgs {
    #[command(flatten)]
    pub(super) common: Common,
}

/// End the present stage now; you answer for going on
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wade promote checkout          on to the next stage
  wade promote checkout --full   to 100 % and the bake, past all stages that are left

Smoke tests are never skipped, and a failing verdict still goes back. The outcome says `unproven`.")]
pub(super) struct PromoteArgs {
    /// Skip all stages that are left, up to the bake
    #[arg(long)]
    full: bool,
    #[command(flatten)]
    pub(super) common: Common,
}

/// Keep the weight until `wade resume`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  wade pause checkout --reason \"lunch\"

A failing verdict still goes back, and a pause that nobody ends does so as well after a while (4 h if not said).")]
pub(super) struct PauseArgs {
    #[command(flatten)]
    pub(super) common: Common,
}

/// End a pause
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  wade resume checkout")]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    pub(super) common: Common,
}

/// Put all traffic back on stable, and end the release
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wade abort checkout --reason \"customers call\"
  wade abort checkout --detach

Works at any moment before the hand over and waits for nothing: not for readiness, metrics or the record.
Exit code 0 once the release has ended on stable, 5 if there is nothing to abort (any more), 9 if it is stuck.")]
pub(super) struct AbortArgs {
    /// The rollout's name
    name: String,
    /// Why, for the record
    #[arg(long, value_name = "WORDS")]
    reason: Option<String>,
    /// Return once the abort is acknowledged
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    pub(super) output: OutputArg,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn approve(args: ApproveArgs) -> Result<Exit, Failure> {
    args.common.ask(CommandKind::Approve).await
}

pub(super) async fn promote(args: PromoteArgs) -> Result<Exit, Failure> {
    args.common.ask(CommandKind::Promote { full: args.full }).await
}

pub(super) async fn pause(args: PauseArgs) -> Result<Exit, Failure> {
    args.common.ask(CommandKind::Pause).await
}

pub(super) async fn resume(args: ResumeArgs) -> Result<Exit, Failure> {
    args.common.ask(CommandKind::Resume).await
}

pub(super) async fn abort(args: AbortArgs) -> Result<Exit, Failure> {
    let (client, name) = args.connection.open(Some(&args.name)).await?;
    back(
        &client,
        &name,
        args.reason,
        args.detach,
        Screen::new(args.output.output),
    )
    .await
}

/// Asks for an abort and tells the way back to its end; what `rollback` in mid-release means as well.
pub(super) async fn back(
    client: &Client,
    name: &str,
    reason: Option<String>,
    detach: bool,
    mut screen: Screen,
) -> Result<Exit, Failure> {
    // Asked first and looked up afterwards: nothing may stand between a person and the way back.
    let request = CommandRequest {
        kind: CommandKind::Abort,
        reason,
    };
    let answer = answered(client.command(name, &request)).await?;
    let exit = say(&screen, &answer);
    if detach || exit != Exit::Done {
        return Ok(exit);
    }
    let record = answered(client.record(&answer.release)).await?;
    let retreat = record.history.iter().rev().find(|entry| entry.reason == answer.message);
    let from = retreat.map_or(record.state.next_entry, |entry| entry.number + 1);
    screen = screen.with_live();
    let args = FollowArgs {
        on_interrupt: Some(OnInterrupt::Detach),
        ..FollowArgs::default()
    };
    let end = follow(client, &answer.release, from, args, Codes::Hidden, &mut screen).await?;
    client.finished().await.iter().for_each(|late| super::warn(late));
    Ok(match end.exit(false) {
        // Asked for and done; whichever reason came first, users are on stable.
        Exit::Aborted | Exit::RolledBack | Exit::Rejected | Exit::Superseded | Exit::NoVerdict => Exit::Done,
        exit => exit,
    })
}

impl Common {
    async fn ask(self, kind: CommandKind) -> Result<Exit, Failure> {
        let (client, name) = self.connection.open(Some(&self.name)).await?;
        command(&client, &name, kind, self.reason, &Screen::new(self.output.output)).await
    }
}

/// Sends a command and says what came of it.
pub(super) async fn command(
    client: &Client,
    name: &str,
    kind: CommandKind,
    reason: Option<String>,
    screen: &Screen,
) -> Result<Exit, Failure> {
    let answer = answered(client.command(name, &CommandRequest { kind, reason })).await?;
    let exit = say(screen, &answer);
    if client.is_carrying() {
        // Nobody carried the release any more; this process does now, so it stays until the end.
        if !screen.is_json() {
            screen.text(&format!(
                "{} had been left by a run that is gone; this command carries it to its end now",
                answer.release
            ));
        }
        let mut own = Screen::new(if screen.is_json() {
            super::screen::Format::Json
        } else {
            super::screen::Format::Text
        });
        follow(
            client,
            &answer.release,
            1,
            FollowArgs::default(),
            Codes::Hidden,
            &mut own,
        )
        .await?;
        client.finished().await.iter().for_each(|late| super::warn(late));
    }
    Ok(exit)
}

fn say(screen: &Screen, answer: &Acknowledged) -> Exit {
    if screen.is_json() {
        screen.json(answer);
    } else {
        screen.text(&format!(
            "{}: {}",
            answer.release,
            super::render::numbers::clean(&answer.message)
        ));
    }
    if answer.followed == Some(false) {
        Exit::Rejected
    } else {
        Exit::Done
    }
}
