//! What SQLite says, in the store's words: one sentence that names the file and what to do.

use std::path::Path;

use jiff::Timestamp;
use rusqlite::types::FromSql;
use rusqlite::{ErrorCode, Row};
use serde::de::DeserializeOwned;

use crate::store::StoreError;
use crate::store::codec;

/// An error on its way out; it becomes a [`StoreError`] where file and direction are known.
#[derive(Debug)]
pub(super) enum Fault {
    Sqlite(rusqlite::Error),
    Store(StoreError),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Fault {
    /// `what`: `read` or `written`.
    pub(super) fn into_error(self, what: &'static str, file: &Path) -> StoreError {
        let error = match self {
            Self::Store(error) => return error,
            Self::Sqlite(error) => error,
        };
        let file = file.display();
        let unavailable = |why: String| StoreError::Unavailable { what, why };
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => unavailable(format!(
                "no space is left for {file}: free some on its disk, Wade then goes on by itself"
            )),
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => unavailable(format!(
                "{file} is read-only ({error}): make its folder writable for Wade's user, and see whether the disk was \
                 remounted read-only after a fault"
            )),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => unavailable(format!(
                "another program keeps {file} locked: end it (`fuser {file}` names it); Wade tries again"
            )),
            Some(ErrorCode::CannotOpen | ErrorCode::SystemIoFailure) => unavailable(format!(
                "the disk did not do what {file} needs ({error}): look at the machine's log"
            )),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Damaged {
                what: file.to_string(),
                why: format!("{error}; stop Wade, then put a copy of the file back or move it away to begin anew"),
            },
            Some(ErrorCode::ConstraintViolation) => StoreError::Damaged {
                what: file.to_string(),
                why: format!("its tables contradict each other ({error})"),
            },
            Some(_) | None => unavailable(format!("{file} answered: {error}")),
        }
    }
}

/// One row that is being read; what does not fit is reported with table, row and column.
pub(super) struct Cells<'a> {
    table: &'static str,
    /// The row as a person would name it.
    name: String,
    row: &'a Row<'a>,
}

impl<'a> Cells<'a> {
    pub(super) fn new(table: &'static str, name: impl Into<String>, row: &'a Row<'a>) -> Self {
        Self {
            table,
            name: name.into(),
            row,
        }
    }

    /// A plain value.
    pub(super) fn plain<T: FromSql>(&self, column: &'static str) -> Result<T, Fault> {
        self.row.get(column).map_err(|error| match error {
            rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..) => self.damaged(column, &error.to_string()),
            other => Fault::Sqlite(other),
        })
    }

    /// A number that cannot be negative.
    pub(super) fn number(&self, column: &'static str) -> Result<u64, Fault> {
        let value: i64 = self.plain(column)?;
        u64::try_from(value).map_err(|_| self.damaged(column, &format!("{value} is negative")))
    }

    /// A value in words.
    pub(super) fn value<T: DeserializeOwned>(&self, column: &'static str) -> Result<T, Fault> {
        let text: String = self.plain(column)?;
        codec::decode(&text).map_err(|why| self.damaged(column, &why))
    }

    /// A value in words, or none.
    pub(super) fn value_or_none<T: DeserializeOwned>(&self, column: &'static str) -> Result<Option<T>, Fault> {
        let text: Option<String> = self.plain(column)?;
        text.map(|text| codec::decode(&text).map_err(|why| self.damaged(column, &why)))
            .transpose()
    }

    /// A moment.
    pub(super) fn time(&self, column: &'static str) -> Result<Timestamp, Fault> {
        let text: String = self.plain(column)?;
        self.parse_time(column, &text)
    }

    /// A moment, or none.
    pub(super) fn time_or_none(&self, column: &'static str) -> Result<Option<Timestamp>, Fault> {
        let text: Option<String> = self.plain(column)?;
        text.map(|text| self.parse_time(column, &text)).transpose()
    }

    fn parse_time(&self, column: &'static str, text: &str) -> Result<Timestamp, Fault> {
        text.parse()
            .map_err(|error: jiff::Error| self.damaged(column, &error.to_string()))
    }

    pub(super) fn damaged(&self, column: &str, why: &str) -> Fault {
        damaged(self.table, &self.name, &format!("column {column}: {why}"))
    }
}

/// A row that makes no sense.
pub(super) fn damaged(table: &str, row: &str, why: &str) -> Fault {
    Fault::Store(StoreError::Damaged {
        what: format!("{row} (table {table})"),
        why: why.to_owned(),
    })
}

/// The words for a value of ours.
pub(super) fn encode<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    codec::encode(value).map_err(|why| StoreError::Unavailable {
        what: "written",
        why: format!("a value has no form on disk, a bug in Wade: {why}"),
    })
}

/// SQLite's numbers are signed.
pub(super) fn signed(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number).map_err(|_| StoreError::Unavailable {
        what: "written",
        why: format!("the number {number} is too large for the record, a bug in Wade"),
    })
}

/// Every row of a query through `read`, which may fail with words of its own.
pub(super) fn rows<T>(
    connection: &rusqlite::Connection,
    sql: &str,
    params: impl rusqlite::Params,
    mut read: impl FnMut(&Row<'_>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        all.push(read(row)?);
    }
    Ok(all)
}

/// As [`rows`], for a query that has one row at most.
pub(super) fn row<T>(
    connection: &rusqlite::Connection,
    sql: &str,
    params: impl rusqlite::Params,
    read: impl FnOnce(&Row<'_>) -> Result<T, Fault>,
) -> Result<Option<T>, Fault> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    rows.next()?.map(read).transpose()
}

/// Carries out one change; answers how many rows it touched.
pub(super) fn execute(
    connection: &rusqlite::Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> Result<usize, Fault> {
    Ok(connection.prepare_cached(sql)?.execute(params)?)
}
