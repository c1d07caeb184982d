//! The record in one SQLite file: what `wade serve` remembers between its lives.
//!
//! One folder belongs to one daemon ([`DataDir`]), one file in it holds everything: releases with their history and
//! evidence, commands, which revision is stable, which must not be tried again, how requests were divided last, and the
//! processes that are running. One file, because these facts change together: the entry that says "handed over" and the
//! row that says which revision is stable are one transaction, so that no crash can leave them telling different
//! stories. Write-ahead log with `synchronous=FULL`: what was answered with `Ok` survives `kill -9` and a power cut.
//!
//! The idea of the write path: a [`Update`](super::Update) is put into words first, outside of any lock; then one short
//! transaction checks who writes (the epoch), whether the entries follow from those that are there, and writes all of
//! it or nothing. Whatever follows from an entry (stable, quarantine, a command's answer) is derived there and nowhere
//! else.
//!
//! What it deliberately does not do: it decides nothing and replays nothing, it has no cache (the file is the truth,
//! and a read costs microseconds), and it never repairs: content that makes no sense is an error that names table and
//! row, and other releases stay readable.
//!
//! Read on in `update` (the one write that matters), then `schema`.

mod commands;
mod data_dir;
mod fault;
mod histories;
mod ledger;
mod releases;
mod retention;
mod rollouts;
mod schema;
mod update;

#[cfg(test)]
pub(crate) mod tests;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::{ReleaseKey, ReleaseRecord, Store, StoreError, Update};
use crate::engine::Command;

pub use super::shared::{
    CommandError, CreateError, DEFAULT_KEPT_RELEASES, MAX_PENDING_ABORTS, MAX_PENDING_COMMANDS, MAX_QUARANTINED,
    NewRelease, Quarantine, RolloutState, ServedRevision,
};
pub use commands::{Answer, CommandRecord};
pub use data_dir::{DataDir, OpenError};
pub use releases::{Beside, Summary, Unfinished};
pub use rollouts::Route;

use fault::Fault;

/// The store in one file. Clones share it; the folder stays locked until the last one is dropped.
///
/// # Blocking
/// The methods of [`Store`] run on tokio's blocking threads. All others block their caller for the time of a query, or
/// for one write to disk (about a millisecond): cheap enough for a request handler, too much for a tight loop.
///
/// # Cancellation
/// A [`Store`] call that is dropped half-way may still be carried out. Calling again is harmless.
#[derive(Clone, Debug)]
pub struct SqliteStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connection: Mutex<Connection>,
    file: PathBuf,
    /// Held for as long as somebody may write; the kernel lets go of it when the process ends, however it ends.
    _lock: Option<File>,
}

impl SqliteStore {
    fn new(connection: Connection, file: &Path, lock: Option<File>) -> Self {
        Self(Arc::new(Inner {
            connection: Mutex::new(connection),
            file: file.to_owned(),
            _lock: lock,
        }))
    }

    /// The database file.
    pub fn file(&self) -> &Path {
        &self.0.file
    }

    fn read<T>(&self, question: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, StoreError> {
        question(&self.connection()).map_err(|fault| fault.into_error("read", self.file()))
    }

    /// All of `change` or nothing: an error and a panic both roll back.
    fn write<T>(&self, change: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>) -> Result<T, StoreError> {
        let mut connection = self.connection();
        let done = || -> Result<T, Fault> {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = change(&transaction)?;
            transaction.commit()?;
            Ok(value)
        }();
        done.map_err(|fault| fault.into_error("written", self.file()))
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic while it was held has rolled its transaction back; the connection is as good as before.
        self.0.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        let joined = tokio::task::spawn_blocking(move || work(&store)).await;
        joined.unwrap_or_else(|error| {
            Err(StoreError::Unavailable {
                what,
                why: format!("the thread that should have done it has ended: {error}"),
            })
        })
    }
}

#[async_trait]
impl Store for SqliteStore {
    /// # Guarantees
    /// * One transaction: entries, state, judge, verdict and everything that follows from the entries.
    /// * [`Event::Adopted`](crate::engine::Event::Adopted) makes the canary the rollout's stable revision; an outcome
    ///   that quarantines does so; an entry that answers a command marks it answered. Each happens when the entry (or
    ///   the outcome) is written for the first time, never on a repetition.
    /// * An update that lies wholly in the past (its entries are there, others follow) changes nothing.
    /// * `judge: None` and `verdict: None` mean "nothing new", and keep what is there.
    ///
    /// # Errors
    /// `Fenced` if this daemon or another writer of the release has a higher epoch; `Damaged` if an entry differs from
    /// the one that is there under its number, or leaves a gap. Nothing is written then.
    async fn record(&self, key: &ReleaseKey, epoch: u64, update: &Update) -> Result<(), StoreError> {
        let words = update::Words::of(update)?;
        let key = key.clone();
        self.blocking("written", move |store| store.record_words(&key, epoch, &words))
            .await
    }

    async fn commands(&self, key: &ReleaseKey, handled: u64) -> Result<Vec<Command>, StoreError> {
        let key = key.clone();
        self.blocking("read", move |store| store.commands_after(&key, handled))
            .await
    }

    async fn load(&self, key: &ReleaseKey) -> Result<ReleaseRecord, StoreError> {
        let key = key.clone();
        self.blocking("read", move |store| store.release(&key)).await
    }
}
