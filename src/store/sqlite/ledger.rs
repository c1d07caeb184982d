//! The processes of the local platform, in the same file: one row per slot (see the trait for what it is for).

use rusqlite::params;

use super::SqliteStore;
use super::fault::{Cells, encode, execute, rows};
use crate::platforms::local::process::ledger::{Ledger, LedgerError, ProcessRecord, SlotKey};
use crate::store::StoreError;

impl SqliteStore {
    fn ledger_error(&self, tried: &str, error: StoreError) -> LedgerError {
        LedgerError {
            what: format!("cannot {tried} in {}", self.file().display()),
            source: Box::new(error),
        }
    }
}

impl Ledger for SqliteStore {
    fn put(&self, record: &ProcessRecord) -> Result<(), LedgerError> {
        let put = || {
            let text = encode(record)?;
            self.write(|transaction| {
                execute(
                    transaction,
                    "INSERT INTO processes (service, revision, slot, record) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (service, revision, slot) DO UPDATE SET record = excluded.record",
                    params![record.key.service, record.key.revision, record.key.slot, text],
                )?;
                Ok(())
            })
        };
        put().map_err(|error| self.ledger_error(&format!("record the process of {}", record.key), error))
    }

    fn remove(&self, key: &SlotKey) -> Result<(), LedgerError> {
        self.write(|transaction| {
            execute(
                transaction,
                "DELETE FROM processes WHERE service = ?1 AND revision = ?2 AND slot = ?3",
                params![key.service, key.revision, key.slot],
            )?;
            Ok(())
        })
        .map_err(|error| self.ledger_error(&format!("remove the process of {key}"), error))
    }

    fn all(&self) -> Result<Vec<ProcessRecord>, LedgerError> {
        self.read(|connection| {
            rows(
                connection,
                "SELECT service, revision, slot, record FROM processes ORDER BY service, revision, slot",
                [],
                |row| {
                    let cells = Cells::new("processes", "a row", row);
                    let key = SlotKey {
                        service: cells.plain("service")?,
                        revision: cells.plain("revision")?,
                        slot: cells.plain("slot")?,
                    };
                    let cells = Cells::new("processes", key.to_string(), row);
                    let record: ProcessRecord = cells.value("record")?;
                    if record.key == key {
                        Ok(record)
                    } else {
                        Err(cells.damaged("record", &format!("it is about {}", record.key)))
                    }
                },
            )
        })
        .map_err(|error| self.ledger_error("read the processes", error))
    }
}
