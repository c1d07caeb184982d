//! What must be remembered so that a new daemon finds the processes of the old one.
//!
//! One row per slot. It is written twice per launch: as an intent before the process exists, and with the process's
//! identity right after. Both writes replace the row of the slot. The order is the point: see
//! [`Phase::Intended`].

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::spec::StopRule;

/// The place of one instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlotKey {
    /// The service's name.
    pub service: String,
    /// The revision's name.
    pub revision: String,
    /// From 0.
    pub slot: u32,
}

impl std::fmt::Display for SlotKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} slot {}", self.service, self.revision, self.slot)
    }
}

/// One process, not to be confused with a later one of the same number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessId {
    /// Also the number of its process group.
    pub pid: u32,
    /// Clock ticks between the machine's start and the process's (`/proc/<pid>/stat`, field 22).
    pub start_ticks: u64,
    /// `/proc/sys/kernel/random/boot_id`: ticks of another boot mean nothing.
    pub boot: String,
}

/// How far a launch came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// It is about to start, or did and the daemon died before it could say so: look for the token.
    Intended,
    /// This process was started.
    Running(ProcessId),
}

/// What is written about a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessRecord {
    /// Whose process.
    pub key: SlotKey,
    /// In the process's environment as `WADE_LAUNCH`; differs for every launch.
    pub launch: String,
    /// How far the launch came.
    pub phase: Phase,
    /// The port given to it.
    pub port: Option<u16>,
    /// When the launch was recorded.
    pub started_at: Timestamp,
    /// Launches in this slot before this one.
    pub restarts: u32,
    /// How to end it, for a daemon that no longer knows its spec.
    pub stop: StopRule,
}

/// Where records live. Calls are synchronous and durable: when `put` returns, `kill -9` does not undo it.
pub trait Ledger: Send + Sync {
    /// Writes the row of the record's slot, replacing the one before.
    ///
    /// # Errors
    /// When the row is not durable.
    fn put(&self, record: &ProcessRecord) -> Result<(), LedgerError>;

    /// Removes the slot's row; absent is fine.
    ///
    /// # Errors
    /// When the removal is not durable.
    fn remove(&self, key: &SlotKey) -> Result<(), LedgerError>;

    /// Every row, in the order of the keys.
    ///
    /// # Errors
    /// When the rows cannot be read, all of them: a partial list would start processes twice.
    fn all(&self) -> Result<Vec<ProcessRecord>, LedgerError>;
}

/// The record could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct LedgerError {
    /// What was tried, on which file.
    pub what: String,
    /// Why it failed.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Rows in memory: for tests, and for services that need not survive the daemon.
#[derive(Debug, Default)]
pub struct MemoryLedger(Mutex<BTreeMap<SlotKey, ProcessRecord>>);

impl Ledger for MemoryLedger {
    fn put(&self, record: &ProcessRecord) -> Result<(), LedgerError> {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rows.insert(record.key.clone(), record.clone());
        Ok(())
    }

    fn remove(&self, key: &SlotKey) -> Result<(), LedgerError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        Ok(())
    }

    fn all(&self) -> Result<Vec<ProcessRecord>, LedgerError> {
        Ok(self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect())
    }
}

/// Rows in one JSON file, replaced as a whole: enough for a machine's few dozen processes without a database.
#[derive(Debug)]
pub struct FileLedger {
    path: PathBuf,
    /// One writer at a time; the file itself is the state.
    writing: Mutex<()>,
}

impl FileLedger {
    /// Rows in `path`; the file need not exist, its directory must.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            writing: Mutex::new(()),
        }
    }

    fn error(&self, tried: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> LedgerError {
        LedgerError {
            what: format!("cannot {tried} the process record {}", self.path.display()),
            source: source.into(),
        }
    }

    fn read(&self) -> Result<Vec<ProcessRecord>, LedgerError> {
        match fs::read(&self.path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| self.error("understand", e)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(self.error("read", e)),
        }
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<SlotKey, ProcessRecord>)) -> Result<(), LedgerError> {
        let _one_writer = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows: BTreeMap<_, _> = self.read()?.into_iter().map(|row| (row.key.clone(), row)).collect();
        change(&mut rows);
        let rows: Vec<_> = rows.into_values().collect();
        let bytes = serde_json::to_vec_pretty(&rows).map_err(|e| self.error("write", e))?;
        self.replace(&bytes).map_err(|e| self.error("write", e))
    }

    /// The file is always one of the two whole versions: written aside, made durable, renamed.
    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let aside = self.path.with_extension("new");
        let mut file = fs::File::create(&aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&aside, &self.path)?;
        match self.path.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => fs::File::open(directory)?.sync_all(),
            _ => Ok(()),
        }
    }
}

impl Ledger for FileLedger {
    fn put(&self, record: &ProcessRecord) -> Result<(), LedgerError> {
        self.change(|rows| {
            rows.insert(record.key.clone(), record.clone());
        })
    }

    fn remove(&self, key: &SlotKey) -> Result<(), LedgerError> {
        self.change(|rows| {
            rows.remove(key);
        })
    }

    fn all(&self) -> Result<Vec<ProcessRecord>, LedgerError> {
        let _one_writer = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.read()
    }
}
