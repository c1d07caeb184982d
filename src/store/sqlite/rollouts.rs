//! What outlives a release: which revision serves, which must not be tried again, how requests were divided last.
//!
//! The stable revision changes in two ways only: by the entry that hands a canary over (see `update`), or by
//! [`SqliteStore::set_stable`], when Wade is told about a service that runs already.

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};

use super::SqliteStore;
use super::fault::{Cells, Fault, encode, execute, row, rows};
use super::retention;
use crate::plan::Split;
use crate::store::shared::{DEFAULT_KEPT_RELEASES, Quarantine, RolloutState, ServedRevision};
use crate::store::{Revision, StoreError};

/// How requests were divided last. Revisions are named, because "stable" may mean another one by now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// The revision that got what the split leaves.
    pub stable: Option<String>,
    /// The revision that got the split's weight.
    pub canary: Option<String>,
    /// The split.
    pub split: Split,
    /// When it was written.
    pub at: Timestamp,
}

impl SqliteStore {
    /// Every rollout's name, in order.
    ///
    /// # Errors
    /// If the rows cannot be read.
    pub fn rollouts(&self) -> Result<Vec<String>, StoreError> {
        self.read(|connection| {
            rows(connection, "SELECT name FROM rollouts ORDER BY name", [], |row| {
                Cells::new("rollouts", "a row", row).plain("name")
            })
        })
    }

    /// What is known of a rollout; `None` if there is no such rollout.
    ///
    /// # Errors
    /// If the rows cannot be read.
    pub fn rollout(&self, name: &str) -> Result<Option<RolloutState>, StoreError> {
        self.read(|connection| {
            let found = row(
                connection,
                "SELECT kept, updated FROM rollouts WHERE name = ?1",
                [name],
                |row| {
                    let cells = Cells::new("rollouts", name, row);
                    Ok((cells.plain("kept")?, cells.time("updated")?))
                },
            )?;
            let Some((kept, updated)) = found else {
                return Ok(None);
            };
            Ok(Some(RolloutState {
                name: name.to_owned(),
                stable: stable(connection, name)?,
                quarantined: rows(
                    connection,
                    "SELECT revision, release, reason, at FROM quarantine WHERE rollout = ?1 ORDER BY release DESC",
                    [name],
                    |row| quarantine(name, row),
                )?,
                kept,
                updated,
            }))
        })
    }

    /// The revision that serves.
    ///
    /// # Errors
    /// If the rows cannot be read.
    pub fn stable(&self, rollout: &str) -> Result<Option<Revision>, StoreError> {
        self.read(|connection| stable(connection, rollout))
    }

    /// Takes note of a revision that serves without a release of Wade's; it is no longer quarantined.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn set_stable(&self, rollout: &str, revision: &Revision, now: Timestamp) -> Result<(), StoreError> {
        self.write(|transaction| {
            ensure(transaction, rollout, now)?;
            serve(transaction, rollout, revision, now)
        })
    }

    /// Revisions that have served and are still kept, the latest first.
    ///
    /// # Errors
    /// If the rows cannot be read.
    pub fn revisions(&self, rollout: &str) -> Result<Vec<ServedRevision>, StoreError> {
        let mut served = self.read(|connection| {
            rows(
                connection,
                "SELECT id, version, variables, workload, first_served, last_served FROM revisions WHERE rollout = ?1
                 ORDER BY id",
                [rollout],
                |row| served(rollout, row),
            )
        })?;
        served.sort_by_key(|served| std::cmp::Reverse(served.last_served));
        Ok(served)
    }

    /// Why this revision must not be tried again by itself; `None` if it may.
    ///
    /// # Errors
    /// If the row cannot be read.
    pub fn quarantined(&self, rollout: &str, revision: &str) -> Result<Option<Quarantine>, StoreError> {
        self.read(|connection| {
            row(
                connection,
                "SELECT revision, release, reason, at FROM quarantine WHERE rollout = ?1 AND revision = ?2",
                [rollout, revision],
                |row| quarantine(rollout, row),
            )
        })
    }

    /// Lets a revision be tried again (`wade retry`); answers whether it was quarantined.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn clear_quarantine(&self, rollout: &str, revision: &str) -> Result<bool, StoreError> {
        self.write(|transaction| clear_quarantine(transaction, rollout, revision))
    }

    /// How many finished releases the rollout keeps, at least one; older ones go at once.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn set_kept_releases(&self, rollout: &str, kept: u32, now: Timestamp) -> Result<(), StoreError> {
        self.write(|transaction| {
            ensure(transaction, rollout, now)?;
            execute(
                transaction,
                "UPDATE rollouts SET kept = ?2, updated = ?3 WHERE name = ?1",
                params![rollout, kept.max(1), now.to_string()],
            )?;
            retention::prune(transaction, rollout)
        })
    }

    /// Writes down how requests are divided now, so that a restart divides them the same way.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn set_route(&self, rollout: &str, route: &Route) -> Result<(), StoreError> {
        let split = encode(&route.split)?;
        self.write(|transaction| {
            ensure(transaction, rollout, route.at)?;
            execute(
                transaction,
                "INSERT INTO routes (rollout, stable, canary, split, at) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (rollout) DO UPDATE SET stable = excluded.stable, canary = excluded.canary,
                    split = excluded.split, at = excluded.at",
                params![rollout, route.stable, route.canary, split, route.at.to_string()],
            )?;
            Ok(())
        })
    }

    /// How requests were divided last; `None` if that was never written.
    ///
    /// # Errors
    /// If the row cannot be read.
    pub fn route(&self, rollout: &str) -> Result<Option<Route>, StoreError> {
        self.read(|connection| {
            row(
                connection,
                "SELECT stable, canary, split, at FROM routes WHERE rollout = ?1",
                [rollout],
                |row| {
                    let cells = Cells::new("routes", rollout, row);
                    Ok(Route {
                        stable: cells.plain("stable")?,
                        canary: cells.plain("canary")?,
                        split: cells.value("split")?,
                        at: cells.time("at")?,
                    })
                },
            )
        })
    }
}

/// Makes the rollout's row if there is none.
pub(super) fn ensure(connection: &Connection, rollout: &str, now: Timestamp) -> Result<(), Fault> {
    execute(
        connection,
        "INSERT INTO rollouts (name, kept, updated) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        params![rollout, DEFAULT_KEPT_RELEASES, now.to_string()],
    )?;
    Ok(())
}

/// Makes `revision` the one that serves. Serving ends a quarantine: somebody has seen it work.
pub(super) fn serve(connection: &Connection, rollout: &str, revision: &Revision, at: Timestamp) -> Result<(), Fault> {
    execute(
        connection,
        "INSERT INTO revisions (rollout, id, version, variables, workload, first_served, last_served)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)
         ON CONFLICT (rollout, id) DO UPDATE SET version = excluded.version, variables = excluded.variables,
            workload = excluded.workload, last_served = excluded.last_served",
        params![
            rollout,
            revision.id,
            revision.version,
            encode(&revision.variables)?,
            encode(&revision.workload)?,
            at.to_string()
        ],
    )?;
    execute(
        connection,
        "UPDATE rollouts SET stable = ?2, updated = ?3 WHERE name = ?1",
        params![rollout, revision.id, at.to_string()],
    )?;
    clear_quarantine(connection, rollout, &revision.id)?;
    Ok(())
}

/// The revision that serves.
pub(super) fn stable(connection: &Connection, rollout: &str) -> Result<Option<Revision>, Fault> {
    row(
        connection,
        "SELECT id, version, variables, workload, first_served, last_served FROM revisions, rollouts
         WHERE rollouts.name = ?1 AND revisions.rollout = ?1 AND revisions.id = rollouts.stable",
        [rollout],
        |row| Ok(served(rollout, row)?.revision),
    )
}

fn clear_quarantine(connection: &Connection, rollout: &str, revision: &str) -> Result<bool, Fault> {
    let cleared = execute(
        connection,
        "DELETE FROM quarantine WHERE rollout = ?1 AND revision = ?2",
        [rollout, revision],
    )?;
    Ok(cleared > 0)
}

fn served(rollout: &str, row: &Row<'_>) -> Result<ServedRevision, Fault> {
    let id: String = Cells::new("revisions", rollout, row).plain("id")?;
    let cells = Cells::new("revisions", format!("{rollout} revision {id}"), row);
    Ok(ServedRevision {
        revision: Revision {
            version: cells.plain("version")?,
            variables: cells.value("variables")?,
            workload: cells.value("workload")?,
            id,
        },
        first_served: cells.time("first_served")?,
        last_served: cells.time("last_served")?,
    })
}

fn quarantine(rollout: &str, row: &Row<'_>) -> Result<Quarantine, Fault> {
    let revision: String = Cells::new("quarantine", rollout, row).plain("revision")?;
    let cells = Cells::new("quarantine", format!("{rollout} revision {revision}"), row);
    Ok(Quarantine {
        release: cells.number("release")?,
        reason: cells.plain("reason")?,
        at: cells.time("at")?,
        revision,
    })
}
