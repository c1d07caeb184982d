//! The folder that one daemon owns.
//!
//! ```text
//! <data>/        0700 when Wade makes it; never writable by others
//!   lock         held (flock) while a daemon lives; says who holds it and since when
//!   wade.db      0600; SQLite keeps wade.db-wal and wade.db-shm beside it with the same mode
//! ```
//!
//! The lock is the kernel's, so it cannot be left behind: it ends with the process, `kill -9` included, and is not
//! inherited by the processes that Wade starts. The text in the file is only for people. Each open raises the *epoch*;
//! whatever an earlier daemon still has under way is refused by its lower one.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::Connection;

use super::SqliteStore;
use super::fault::{Fault, execute, signed};
use super::schema::{MIGRATIONS, migrate};
use crate::store::StoreError;

/// How long a write waits for another program that has the file locked (a backup, a curious `sqlite3`).
const BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
/// The write-ahead log is cut back to this after a checkpoint, bytes.
const MAX_WAL_BYTES: i64 = 16 << 20;

/// A daemon's folder, locked, with the store in it.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    epoch: u64,
    store: SqliteStore,
}

/// Why a folder cannot be used. Nothing in it was changed, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another daemon has it.
    #[error("the data folder {} is in use by wade {holder}; stop it or use another folder (--data)", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
        /// `(pid 4711) since 2026-11-22T01:58:46Z`, as far as it is known.
        holder: String,
    },
    /// It cannot be made or read.
    #[error("the data folder {} cannot be {what}; make it a folder that Wade's user may write, or use another one (--data)", path.display())]
    Folder {
        /// The folder, or the file in it.
        path: PathBuf,
        /// What was tried: `made`, `locked`.
        what: &'static str,
        /// What came back.
        #[source]
        source: io::Error,
    },
    /// Others could put files of their own into it.
    #[error("others may write into the data folder {} (mode {mode:o}); run `chmod go-w {}` or use another folder (--data)", path.display(), path.display())]
    Exposed {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A newer Wade has written it.
    #[error(
        "{} was written by a newer wade (format {found}, this one knows {known}); use that version again, or put back the \
         copy of the file from before the upgrade", file.display()
    )]
    Newer {
        /// The database.
        file: PathBuf,
        /// Its format.
        found: usize,
        /// The newest that this binary knows.
        known: usize,
    },
    /// It is a database, and not Wade's.
    #[error("{} is another program's database; move it away or use another folder (--data)", file.display())]
    NotOurs {
        /// The database.
        file: PathBuf,
    },
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl DataDir {
    /// Makes the folder if there is none, locks it, brings its database to the newest format and raises the epoch.
    ///
    /// # Errors
    /// See [`OpenError`]; each says what to do.
    pub fn open(path: &Path, now: Timestamp) -> Result<Self, OpenError> {
        let folder = |what| {
            move |source| OpenError::Folder {
                path: path.to_owned(),
                what,
                source,
            }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(folder("made"))?;
        let metadata = path.metadata().map_err(folder("read"))?;
        // An existing folder's mode is the user's choice (it may be shared or made by systemd), as long as it is safe.
        if metadata.mode() & 0o022 != 0 {
            return Err(OpenError::Exposed {
                path: path.to_owned(),
                mode: metadata.mode() & 0o7777,
            });
        }
        let lock = lock(path, now)?;
        let file = path.join("wade.db");
        private(&file).map_err(|source| OpenError::Folder {
            path: file.clone(),
            what: "made",
            source,
        })?;
        let (connection, epoch) = open(&file)?;
        Ok(Self {
            path: path.to_owned(),
            epoch,
            store: SqliteStore::new(connection, &file, Some(lock)),
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// This daemon's epoch: higher than any before it in this folder.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The store in the folder; the folder stays locked as long as a clone of it lives.
    pub const fn store(&self) -> &SqliteStore {
        &self.store
    }
}

/// Opens the database, brings it to the newest format and raises the epoch.
pub(super) fn open(file: &Path) -> Result<(Connection, u64), OpenError> {
    let read = |error: rusqlite::Error| OpenError::Store(Fault::from(error).into_error("read", file));
    let mut connection = Connection::open(file).map_err(read)?;
    settings(&connection).map_err(read)?;
    migrate(&mut connection, file, MIGRATIONS)?;
    let found: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(read)?;
    if found != "ok" {
        return Err(OpenError::Store(StoreError::Damaged {
            what: file.display().to_string(),
            why: format!("{found}; put a copy of the file back, or move it away to begin anew"),
        }));
    }
    let epoch = raise_epoch(&mut connection).map_err(|fault| fault.into_error("written", file))?;
    Ok((connection, epoch))
}

fn settings(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // Every commit reaches the disk before it is answered: in a log that is read after a power cut, later is never.
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "journal_size_limit", MAX_WAL_BYTES)
}

fn raise_epoch(connection: &mut Connection) -> Result<u64, Fault> {
    let transaction = connection.transaction()?;
    let highest: i64 = transaction.query_row(
        "SELECT max(epoch, (SELECT coalesce(max(epoch), 0) FROM releases)) FROM meta",
        [],
        |row| row.get(0),
    )?;
    let epoch = u64::try_from(highest).unwrap_or(0) + 1;
    execute(&transaction, "UPDATE meta SET epoch = ?1", [signed(epoch)?])?;
    transaction.commit()?;
    Ok(epoch)
}

/// A file that only its owner may read: made so, and made so again if somebody was generous.
fn private(file: &Path) -> io::Result<()> {
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(file)?;
    opened.set_permissions(Permissions::from_mode(0o600))
}

fn lock(folder: &Path, now: Timestamp) -> Result<File, OpenError> {
    let path = folder.join("lock");
    let failed = |source| OpenError::Folder {
        path: folder.to_owned(),
        what: "locked",
        source,
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::Error(source)) => return Err(failed(source)),
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // Who it is would be good to know; that somebody is there is enough.
            let _ = file.read_to_string(&mut text);
            return Err(OpenError::InUse {
                path: folder.to_owned(),
                holder: match text.trim() {
                    "" => "(it is just starting)".to_owned(),
                    text => text.to_owned(),
                },
            });
        }
    }
    file.set_len(0).map_err(failed)?;
    // For people only, so a full disk must not keep the daemon down: its first write will say so better.
    let _ = writeln!(file, "(pid {}) since {now}", std::process::id());
    Ok(file)
}
