//! What is forgotten, and when.
//!
//! A rollout keeps its newest finished releases with history, evidence and commands. A revision that has served is kept
//! as long as a kept release names it, and the stable one always. A release that is not over is never removed, and
//! neither is a number used again. SQLite reuses the space; the file does not grow with the number of releases.

use rusqlite::{Connection, params};

use super::SqliteStore;
use super::fault::{Fault, execute};
use crate::store::StoreError;
use crate::store::shared::MAX_QUARANTINED;

impl SqliteStore {
    /// Removes what the rollout no longer keeps. Happens by itself whenever a release ends.
    ///
    /// # Errors
    /// If it cannot be written; nothing is removed then.
    pub fn prune(&self, rollout: &str) -> Result<(), StoreError> {
        self.write(|transaction| prune(transaction, rollout))
    }
}

/// Entries and commands go with their release.
pub(super) fn prune(connection: &Connection, rollout: &str) -> Result<(), Fault> {
    execute(
        connection,
        "DELETE FROM releases WHERE rollout = ?1 AND outcome IS NOT NULL AND number NOT IN (
            SELECT number FROM releases WHERE rollout = ?1 AND outcome IS NOT NULL ORDER BY number DESC
            LIMIT (SELECT max(kept, 1) FROM rollouts WHERE name = ?1))",
        [rollout],
    )?;
    execute(
        connection,
        "DELETE FROM revisions WHERE rollout = ?1
            AND id NOT IN (SELECT stable FROM rollouts WHERE name = ?1 AND stable IS NOT NULL)
            AND id NOT IN (SELECT revision FROM releases WHERE rollout = ?1)
            AND id NOT IN (SELECT stable_revision FROM releases WHERE rollout = ?1 AND stable_revision IS NOT NULL)",
        [rollout],
    )?;
    Ok(())
}

/// Forgets the oldest quarantined revisions above the limit.
pub(super) fn bound_quarantine(connection: &Connection, rollout: &str) -> Result<(), Fault> {
    execute(
        connection,
        "DELETE FROM quarantine WHERE rollout = ?1 AND revision NOT IN (
            SELECT revision FROM quarantine WHERE rollout = ?1 ORDER BY release DESC LIMIT ?2)",
        params![rollout, MAX_QUARANTINED],
    )?;
    Ok(())
}
