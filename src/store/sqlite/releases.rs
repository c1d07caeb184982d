//! Releases: asked for, read back, listed.

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};

use super::SqliteStore;
use super::fault::{Cells, Fault, damaged, encode, execute, row, rows, signed};
use super::rollouts;
use crate::engine::{Actor, Entry, Outcome, State};
use crate::store::shared::{CreateError, NewRelease};
use crate::store::{ReleaseKey, ReleaseRecord, StoreError};

/// Whether a release may be asked for while another one is not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// Only if none is running.
    Nothing,
    /// In any case: the caller keeps it waiting, or ends the other one.
    Running,
}

/// A release in one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Which release.
    pub key: ReleaseKey,
    /// The revision that is released.
    pub revision: String,
    /// What people call it.
    pub version: String,
    /// The revision that served when it began.
    pub stable_revision: Option<String>,
    /// What people call it.
    pub stable_version: Option<String>,
    /// The phase's label.
    pub phase: String,
    /// How it ended, if it has.
    pub outcome: Option<Outcome>,
    /// Why it went back, if it did.
    pub retreat: Option<String>,
    /// Who asked for it.
    pub by: Actor,
    /// When it was asked for.
    pub created: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
}

/// A release that is not over, as far as it can be read.
pub type Unfinished = (ReleaseKey, Result<ReleaseRecord, StoreError>);

/// A release's name in messages about the record.
pub(super) fn release_name(key: &ReleaseKey) -> String {
    key.to_string()
}

impl SqliteStore {
    /// Makes the record of a new release, from the stable revision as it is at this moment. Numbers grow by one and are
    /// never used again.
    ///
    /// # Errors
    /// [`CreateError::Running`] unless `beside` allows it.
    pub fn create_release(&self, new: &NewRelease, beside: Beside, now: Timestamp) -> Result<ReleaseKey, CreateError> {
        let words = NewWords::of(new, now)?;
        self.write(|transaction| create(transaction, new, &words, beside, now))?
    }

    /// The whole record of a release.
    ///
    /// # Errors
    /// `Unknown`, or `Damaged` with the row that makes no sense.
    pub fn release(&self, key: &ReleaseKey) -> Result<ReleaseRecord, StoreError> {
        self.read(|connection| load(connection, key))
    }

    /// The rollout's release that is not over; the oldest one if several are not, since that one holds the platform.
    ///
    /// # Errors
    /// As [`Self::release`].
    pub fn running(&self, rollout: &str) -> Result<Option<ReleaseRecord>, StoreError> {
        self.read(|connection| {
            let running = first_running(connection, rollout)?;
            running.map(|(key, _)| load(connection, &key)).transpose()
        })
    }

    /// The rollout's newest release, over or not.
    ///
    /// # Errors
    /// As [`Self::release`].
    pub fn latest(&self, rollout: &str) -> Result<Option<ReleaseRecord>, StoreError> {
        self.read(|connection| {
            let newest = row(
                connection,
                "SELECT rollout, number FROM releases WHERE rollout = ?1 ORDER BY number DESC LIMIT 1",
                [rollout],
                key_of,
            )?;
            newest.map(|key| load(connection, &key)).transpose()
        })
    }

    /// Every release that is not over, in the order of rollouts and numbers. One that cannot be read does not hide the
    /// others.
    ///
    /// # Errors
    /// Only if the list itself cannot be read.
    pub fn all_running(&self) -> Result<Vec<Unfinished>, StoreError> {
        self.read(|connection| {
            let keys = rows(
                connection,
                "SELECT rollout, number FROM releases WHERE outcome IS NULL ORDER BY rollout, number",
                [],
                key_of,
            )?;
            let with_record = keys.into_iter().map(|key| {
                let record = load(connection, &key).map_err(|fault| fault.into_error("read", self.file()));
                (key, record)
            });
            Ok(with_record.collect())
        })
    }

    /// The rollout's newest releases, newest first, at most `limit`.
    ///
    /// # Errors
    /// If the rows cannot be read.
    pub fn list(&self, rollout: &str, limit: u32) -> Result<Vec<Summary>, StoreError> {
        self.read(|connection| {
            rows(
                connection,
                "SELECT rollout, number, revision, version, stable_revision, stable_version, phase, outcome, retreat,
                    asked_by, created, ended
                 FROM releases WHERE rollout = ?1 ORDER BY number DESC LIMIT ?2",
                params![rollout, limit],
                summary,
            )
        })
    }
}

/// What a new release's row holds, in words.
struct NewWords {
    canary: String,
    plan: String,
    state: State,
    state_text: String,
    by: String,
    pipeline: String,
}

impl NewWords {
    fn of(new: &NewRelease, now: Timestamp) -> Result<Self, StoreError> {
        let state = State::new(now);
        Ok(Self {
            canary: encode(&new.canary)?,
            plan: encode(&new.plan)?,
            state_text: encode(&state)?,
            state,
            by: encode(&new.by)?,
            pipeline: encode(&new.pipeline)?,
        })
    }
}

fn create(
    connection: &Connection,
    new: &NewRelease,
    words: &NewWords,
    beside: Beside,
    now: Timestamp,
) -> Result<Result<ReleaseKey, CreateError>, Fault> {
    let running = first_running(connection, &new.rollout)?;
    if let (Beside::Nothing, Some((key, phase))) = (beside, running) {
        return Ok(Err(CreateError::Running { key, phase }));
    }
    rollouts::ensure(connection, &new.rollout, now)?;
    let number = row(
        connection,
        "UPDATE rollouts SET next_number = next_number + 1, updated = ?2 WHERE name = ?1
         RETURNING next_number - 1 AS number",
        params![new.rollout, now.to_string()],
        |row| Cells::new("rollouts", new.rollout.as_str(), row).number("number"),
    )?;
    let key = ReleaseKey {
        rollout: new.rollout.clone(),
        number: number.ok_or_else(|| damaged("rollouts", &new.rollout, "its row has gone"))?,
    };
    let stable = rollouts::stable(connection, &new.rollout)?;
    execute(
        connection,
        "INSERT INTO releases (rollout, number, epoch, phase, revision, version, stable_revision, stable_version,
            canary, stable, plan, state, asked_by, reason, deploy_window, pipeline, created)
         SELECT ?1, ?2, epoch, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16 FROM meta",
        params![
            key.rollout,
            signed(key.number)?,
            words.state.phase.label(),
            new.canary.id,
            new.canary.version,
            stable.as_ref().map(|stable| &stable.id),
            stable.as_ref().map(|stable| &stable.version),
            words.canary,
            stable.as_ref().map(encode).transpose()?,
            words.plan,
            words.state_text,
            words.by,
            new.reason,
            new.deploy_window,
            words.pipeline,
            now.to_string()
        ],
    )?;
    Ok(Ok(key))
}

fn first_running(connection: &Connection, rollout: &str) -> Result<Option<(ReleaseKey, String)>, Fault> {
    row(
        connection,
        "SELECT rollout, number, phase FROM releases WHERE rollout = ?1 AND outcome IS NULL ORDER BY number LIMIT 1",
        [rollout],
        |row| Ok((key_of(row)?, Cells::new("releases", rollout, row).plain("phase")?)),
    )
}

fn key_of(row: &Row<'_>) -> Result<ReleaseKey, Fault> {
    let cells = Cells::new("releases", "a row", row);
    Ok(ReleaseKey {
        rollout: cells.plain("rollout")?,
        number: cells.number("number")?,
    })
}

fn load(connection: &Connection, key: &ReleaseKey) -> Result<ReleaseRecord, Fault> {
    let number = signed(key.number)?;
    let record = row(
        connection,
        "SELECT canary, stable, plan, state, judge, verdict, course, asked_by, reason, deploy_window, pipeline, created,
            ended
         FROM releases WHERE rollout = ?1 AND number = ?2",
        params![key.rollout, number],
        |row| {
            let cells = Cells::new("releases", release_name(key), row);
            Ok(ReleaseRecord {
                key: key.clone(),
                canary: cells.value("canary")?,
                stable: cells.value_or_none("stable")?,
                plan: cells.value("plan")?,
                state: cells.value("state")?,
                history: Vec::new(),
                judge: cells.value_or_none("judge")?,
                verdict: cells.value_or_none("verdict")?,
                course: cells.value_or_none("course")?.unwrap_or_default(),
                by: cells.value("asked_by")?,
                reason: cells.plain("reason")?,
                deploy_window: cells.plain("deploy_window")?,
                pipeline: cells.value("pipeline")?,
                created: cells.time("created")?,
                ended: cells.time_or_none("ended")?,
            })
        },
    )?;
    let record = record.ok_or_else(|| StoreError::Unknown(key.clone()))?;
    let history = history(connection, key)?;
    let next = history.len() as u64 + 1;
    if record.state.next_entry != next {
        let why = format!(
            "its history has {} entries and its state expects entry {} next",
            history.len(),
            record.state.next_entry
        );
        return Err(damaged("releases", &release_name(key), &why));
    }
    Ok(ReleaseRecord { history, ..record })
}

fn history(connection: &Connection, key: &ReleaseKey) -> Result<Vec<Entry>, Fault> {
    let mut next = 1;
    rows(
        connection,
        "SELECT seq, entry FROM entries WHERE rollout = ?1 AND number = ?2 ORDER BY seq",
        params![key.rollout, signed(key.number)?],
        |row| {
            let cells = Cells::new("entries", format!("{key} entry {next}"), row);
            let seq = cells.number("seq")?;
            let entry: Entry = cells.value("entry")?;
            if seq != next || entry.number != next {
                let why = format!("found number {seq}, which calls itself {}", entry.number);
                return Err(cells.damaged("seq", &why));
            }
            next += 1;
            Ok(entry)
        },
    )
}

fn summary(row: &Row<'_>) -> Result<Summary, Fault> {
    let key = key_of(row)?;
    let cells = Cells::new("releases", release_name(&key), row);
    Ok(Summary {
        revision: cells.plain("revision")?,
        version: cells.plain("version")?,
        stable_revision: cells.plain("stable_revision")?,
        stable_version: cells.plain("stable_version")?,
        phase: cells.plain("phase")?,
        outcome: cells.value_or_none("outcome")?,
        retreat: cells.plain("retreat")?,
        by: cells.value("asked_by")?,
        created: cells.time("created")?,
        ended: cells.time_or_none("ended")?,
        key,
    })
}
