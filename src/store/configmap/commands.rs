//! What people ask of a release, from any shell with rights on the ConfigMap.

use jiff::Timestamp;

use super::texts::{Commands, Key, Texts};
use super::{ConfigMapStore, Sent, TRIES, overtaken};
use crate::engine::{Actor, Command, CommandKind, State};
use crate::store::shared::{CommandError, MAX_PENDING_ABORTS, MAX_PENDING_COMMANDS};
use crate::store::{ReleaseKey, StoreError};

/// All waiting commands, bytes; half as much again if they are aborts.
const MOST_BYTES: usize = 64 << 10;
/// To so many characters a person's reason is cut.
const REASON: usize = 1000;

impl ConfigMapStore {
    /// Writes down what somebody asks of a release; needs no Lease. Whoever drives the release is woken by its watch.
    ///
    /// # Errors
    /// If the release is over, or too many commands wait.
    pub async fn add_command(
        &self,
        key: &ReleaseKey,
        kind: CommandKind,
        by: &Actor,
        reason: Option<&str>,
        now: Timestamp,
    ) -> Result<Command, CommandError> {
        let command = Command {
            id: 0,
            kind,
            by: by.clone(),
            reason: reason.map(|reason| reason.chars().take(REASON).collect()),
            at: now,
        };
        // Others write at the same time: a shell each, and the holder.
        for _ in 0..4 * TRIES {
            let there = self.read().await?;
            let there = there.ok_or_else(|| StoreError::Unknown(key.clone()))?;
            let (to, command) = add(&there, key, command.clone())?;
            // The release must not end in between; nobody would answer.
            match self
                .send(Some(&there), &to, &[Key::Number, Key::Next, Key::Commands])
                .await
            {
                Ok(Sent::Done) => return Ok(command),
                Ok(Sent::Overtaken) => {}
                Err(error) => return self.arrived(key, command, error).await,
            }
        }
        Err(overtaken().into())
    }

    /// A write without an answer is a question.
    async fn arrived(&self, key: &ReleaseKey, command: Command, error: StoreError) -> Result<Command, CommandError> {
        let waiting = match self.read().await {
            Ok(Some(texts)) => texts.get::<Commands>(Key::Commands)?.unwrap_or_default(),
            _ => return Err(error.into()),
        };
        if waiting.release == key.number && waiting.waiting.contains(&command) {
            Ok(command)
        } else {
            Err(error.into())
        }
    }
}

fn add(texts: &Texts, key: &ReleaseKey, command: Command) -> Result<(Texts, Command), CommandError> {
    let kind = command.kind;
    let over = |outcome| CommandError::Over {
        key: key.clone(),
        kind,
        outcome,
    };
    if texts.number(Key::Number)? != key.number {
        let record = texts.release(key)?;
        let outcome = record.state.outcome().cloned();
        return Err(outcome.map_or_else(|| StoreError::Unknown(key.clone()).into(), over));
    }
    let state: State = texts.get(Key::State)?.ok_or_else(|| StoreError::Unknown(key.clone()))?;
    if let Some(outcome) = state.outcome() {
        return Err(over(outcome.clone()));
    }
    let mut commands: Commands = texts.get(Key::Commands)?.unwrap_or_default();
    if commands.release != key.number {
        commands = Commands {
            release: key.number,
            last: state.handled,
            waiting: Vec::new(),
        };
    }
    commands.waiting.retain(|waiting| waiting.id > state.handled);
    let waiting = commands.waiting.len() as u64;
    let (most, bytes) = match kind {
        CommandKind::Abort | CommandKind::Supersede => (MAX_PENDING_COMMANDS + MAX_PENDING_ABORTS, MOST_BYTES * 3 / 2),
        CommandKind::Approve
        | CommandKind::Promote { .. }
        | CommandKind::Pause
        | CommandKind::Resume
        | CommandKind::Retry => (MAX_PENDING_COMMANDS, MOST_BYTES),
    };
    let command = Command {
        id: commands.last.max(state.handled) + 1,
        ..command
    };
    commands.last = command.id;
    commands.waiting.push(command.clone());
    let mut to = texts.clone();
    to.put_readable(Key::Commands, &commands)?;
    if waiting >= most || to.text(Key::Commands).len() > bytes {
        let key = key.clone();
        return Err(CommandError::TooMany { key, kind, waiting });
    }
    Ok((to, command))
}
