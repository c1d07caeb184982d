//! The one write that matters: what a pass of the controller decided.
//!
//! Everything that follows from an entry is written with it, in the same transaction: which revision is stable, which
//! must not be tried again, which command has been answered. So nothing has to be remembered between two writes, and a
//! crash can only leave "before" or "after".

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::SqliteStore;
use super::fault::{Cells, Fault, damaged, encode, execute, row, signed};
use super::releases::release_name;
use super::{retention, rollouts};
use crate::engine::{Entry, Event, Outcome};
use crate::store::{ReleaseKey, Revision, StoreError, Update};

/// An update, put into words before the connection is asked for.
#[derive(Debug)]
pub(super) struct Words {
    phase: &'static str,
    ending: Option<Ending>,
    next_entry: u64,
    state: String,
    judge: Option<String>,
    verdict: Option<String>,
    course: Option<String>,
    entries: Vec<EntryWords>,
}

#[derive(Debug)]
struct Ending {
    outcome: String,
    label: &'static str,
    quarantines: bool,
}

#[derive(Debug)]
struct EntryWords {
    number: u64,
    at: Timestamp,
    text: String,
    /// The command that it answers, and whether by a refusal.
    answers: Option<(u64, bool)>,
    adopted: bool,
    retreat: Option<String>,
}

impl Words {
    pub(super) fn of(update: &Update) -> Result<Self, StoreError> {
        let state = &update.state;
        Ok(Self {
            phase: state.phase.label(),
            ending: state.outcome().map(Ending::of).transpose()?,
            next_entry: state.next_entry,
            state: encode(state)?,
            judge: update.judge.as_ref().map(encode).transpose()?,
            verdict: update.verdict.as_ref().map(encode).transpose()?,
            course: update.course.as_ref().map(encode).transpose()?,
            entries: update.entries.iter().map(EntryWords::of).collect::<Result<_, _>>()?,
        })
    }
}

impl Ending {
    fn of(outcome: &Outcome) -> Result<Self, StoreError> {
        Ok(Self {
            outcome: encode(outcome)?,
            label: outcome.label(),
            quarantines: outcome.quarantines(),
        })
    }
}

impl EntryWords {
    fn of(entry: &Entry) -> Result<Self, StoreError> {
        Ok(Self {
            number: entry.number,
            at: entry.at,
            text: encode(entry)?,
            answers: answers(&entry.event),
            adopted: entry.event == Event::Adopted,
            retreat: matches!(entry.event, Event::Retreated { .. }).then(|| entry.reason.clone()),
        })
    }
}

/// The command that an event answers, and whether by a refusal.
fn answers(event: &Event) -> Option<(u64, bool)> {
    match event {
        Event::GateOpened { command, .. }
        | Event::Promoted { command, .. }
        | Event::Paused { command, .. }
        | Event::Resumed { command }
        | Event::Retried { command }
        | Event::Retreated {
            command: Some(command), ..
        } => Some((*command, false)),
        Event::Refused { command } => Some((*command, true)),
        Event::Admitted
        | Event::HooksEnded
        | Event::Ready
        | Event::SmokePassed
        | Event::Prepared
        | Event::Shifted { .. }
        | Event::StageEnded { .. }
        | Event::AskedForProof
        | Event::WatchedAgain { .. }
        | Event::SignalsLost { .. }
        | Event::SignalsBack
        | Event::WouldHave
        | Event::Retreated { command: None, .. }
        | Event::RouteRestored
        | Event::CanaryDrained
        | Event::CanaryRemoved
        | Event::Restored
        | Event::Adopted
        | Event::StableDrained
        | Event::Retired
        | Event::GotStuck { .. } => None,
    }
}

impl SqliteStore {
    /// See [`Store::record`](crate::store::Store::record) of this store.
    pub(super) fn record_words(&self, key: &ReleaseKey, epoch: u64, words: &Words) -> Result<(), StoreError> {
        let ended = self.write(|transaction| record(transaction, key, epoch, words))?;
        if ended && let Err(error) = self.prune(&key.rollout) {
            // What is kept too long hurts nobody, and the next release that ends tries again; the record is written.
            tracing::warn!(rollout = key.rollout, %error, "old releases could not be removed");
        }
        Ok(())
    }
}

/// Answers whether this was the update with which the release ended.
fn record(connection: &Connection, key: &ReleaseKey, epoch: u64, words: &Words) -> Result<bool, Fault> {
    let number = signed(key.number)?;
    let had_ended = admit(connection, key, epoch)?;
    let last = last_entry(connection, key)?;
    let mut end = last;
    for entry in &words.entries {
        if entry.number > end + 1 {
            let why = format!(
                "entry {} was to follow entry {end}; those between are missing",
                entry.number
            );
            return Err(damaged("entries", &release_name(key), &why));
        }
        if entry.number <= end {
            same(connection, key, entry)?;
            continue;
        }
        execute(
            connection,
            "INSERT INTO entries (rollout, number, seq, entry) VALUES (?1, ?2, ?3, ?4)",
            params![key.rollout, number, signed(entry.number)?, entry.text],
        )?;
        end = entry.number;
        follow(connection, key, entry)?;
    }
    if words.next_entry <= end {
        // An older write that was repeated, or arrives late: what came after it stands.
        return if end == last {
            Ok(false)
        } else {
            Err(next_entry_is_off(key, words.next_entry, end))
        };
    }
    if words.next_entry != end + 1 {
        return Err(next_entry_is_off(key, words.next_entry, end));
    }
    let ends = words.ending.as_ref().filter(|_| !had_ended);
    let ended_at = ends.and(words.entries.last()).map(|entry| entry.at.to_string());
    execute(
        connection,
        "UPDATE releases SET epoch = ?3, phase = ?4, state = ?5, judge = coalesce(?6, judge),
            verdict = coalesce(?7, verdict), outcome = coalesce(outcome, ?8), ended = coalesce(ended, ?9),
            course = coalesce(?10, course)
         WHERE rollout = ?1 AND number = ?2",
        params![
            key.rollout,
            number,
            signed(epoch)?,
            words.phase,
            words.state,
            words.judge,
            words.verdict,
            words.ending.as_ref().map(|ending| &ending.outcome),
            ended_at,
            words.course
        ],
    )?;
    if let (Some(ending), Some(entry)) = (ends, words.entries.last())
        && ending.quarantines
    {
        quarantine(connection, key, ending.label, entry.at)?;
    }
    Ok(ends.is_some())
}

fn next_entry_is_off(key: &ReleaseKey, next: u64, end: u64) -> Fault {
    let why = format!("its history ends with entry {end} and its state expects entry {next} next");
    damaged("releases", &release_name(key), &why)
}

/// Whether this epoch may write; answers whether the release has ended.
fn admit(connection: &Connection, key: &ReleaseKey, epoch: u64) -> Result<bool, Fault> {
    let found = row(
        connection,
        "SELECT max(releases.epoch, meta.epoch) AS epoch, outcome IS NOT NULL AS ended FROM releases, meta
         WHERE rollout = ?1 AND number = ?2",
        params![key.rollout, signed(key.number)?],
        |row| {
            let cells = Cells::new("releases", release_name(key), row);
            Ok((cells.number("epoch")?, cells.plain::<bool>("ended")?))
        },
    )?;
    match found {
        None => Err(StoreError::Unknown(key.clone()).into()),
        Some((theirs, _)) if theirs > epoch => Err(StoreError::Fenced {
            key: key.clone(),
            ours: epoch,
            theirs,
        }
        .into()),
        Some((_, ended)) => Ok(ended),
    }
}

fn last_entry(connection: &Connection, key: &ReleaseKey) -> Result<u64, Fault> {
    let last = row(
        connection,
        "SELECT coalesce(max(seq), 0) AS last FROM entries WHERE rollout = ?1 AND number = ?2",
        params![key.rollout, signed(key.number)?],
        |row| Cells::new("entries", release_name(key), row).number("last"),
    )?;
    Ok(last.unwrap_or(0))
}

/// An entry that is there already must be this one.
fn same(connection: &Connection, key: &ReleaseKey, entry: &EntryWords) -> Result<(), Fault> {
    let name = format!("{key} entry {}", entry.number);
    let stored: Option<String> = row(
        connection,
        "SELECT entry FROM entries WHERE rollout = ?1 AND number = ?2 AND seq = ?3",
        params![key.rollout, signed(key.number)?, signed(entry.number)?],
        |row| Cells::new("entries", name.clone(), row).plain("entry"),
    )?;
    match stored {
        Some(text) if text == entry.text => Ok(()),
        Some(_) => Err(damaged(
            "entries",
            &name,
            "another entry is recorded under this number; two controllers have written, or this is a bug in Wade",
        )),
        None => Err(damaged("entries", &name, "it is missing and later ones are there")),
    }
}

/// What follows from an entry that is new.
fn follow(connection: &Connection, key: &ReleaseKey, entry: &EntryWords) -> Result<(), Fault> {
    let number = signed(key.number)?;
    if let Some((command, refused)) = entry.answers {
        execute(
            connection,
            "UPDATE commands SET entry = ?4, refused = ?5 WHERE rollout = ?1 AND number = ?2 AND id = ?3",
            params![key.rollout, number, signed(command)?, signed(entry.number)?, refused],
        )?;
    }
    if let Some(reason) = &entry.retreat {
        execute(
            connection,
            "UPDATE releases SET retreat = ?3 WHERE rollout = ?1 AND number = ?2",
            params![key.rollout, number, reason],
        )?;
    }
    if entry.adopted {
        let canary: Revision = row(
            connection,
            "SELECT canary FROM releases WHERE rollout = ?1 AND number = ?2",
            params![key.rollout, number],
            |row| Cells::new("releases", release_name(key), row).value("canary"),
        )?
        .ok_or_else(|| Fault::Store(StoreError::Unknown(key.clone())))?;
        rollouts::serve(connection, &key.rollout, &canary, entry.at)?;
    }
    Ok(())
}

fn quarantine(connection: &Connection, key: &ReleaseKey, label: &str, at: Timestamp) -> Result<(), Fault> {
    execute(
        connection,
        "INSERT INTO quarantine (rollout, revision, release, reason, at)
         SELECT rollout, revision, number, coalesce(retreat, ?3), ?4 FROM releases WHERE rollout = ?1 AND number = ?2
         ON CONFLICT (rollout, revision) DO UPDATE SET release = excluded.release, reason = excluded.reason,
            at = excluded.at",
        params![key.rollout, signed(key.number)?, label, at.to_string()],
    )?;
    retention::bound_quarantine(connection, &key.rollout)
}
