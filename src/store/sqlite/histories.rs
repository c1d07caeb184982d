//! What the daemon has recorded of stable, per service, so that a restart of Wade does not cost half an hour of releases
//! that nobody can prove.
//!
//! One row per service, replaced as a whole; the recorder itself is bounded. A service that is gone keeps its row, which is
//! too old to be used when it comes back.

use jiff::Timestamp;
use rusqlite::params;

use super::SqliteStore;
use super::fault::{Cells, encode, execute, row};
use crate::judge::HistoryRecorder;
use crate::store::StoreError;

impl SqliteStore {
    /// Keeps what was recorded of a service's stable revision, in place of what was kept before.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep_history(&self, service: &str, recorder: &HistoryRecorder, now: Timestamp) -> Result<(), StoreError> {
        let text = encode(recorder)?;
        self.write(|transaction| {
            execute(
                transaction,
                "INSERT INTO histories (service, recorder, updated) VALUES (?1, ?2, ?3)
                 ON CONFLICT (service) DO UPDATE SET recorder = excluded.recorder, updated = excluded.updated",
                params![service, text, now.to_string()],
            )?;
            Ok(())
        })
    }

    /// What was kept of a service, as it was.
    ///
    /// # Errors
    /// If it cannot be read, or makes no sense.
    pub fn kept_history(&self, service: &str) -> Result<Option<HistoryRecorder>, StoreError> {
        self.read(|connection| {
            row(
                connection,
                "SELECT recorder FROM histories WHERE service = ?1",
                params![service],
                |row| Cells::new("histories", service, row).value("recorder"),
            )
        })
    }
}
