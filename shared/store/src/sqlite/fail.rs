//! What goes wrong inside the threads, and what it means to a caller.

use rusqlite::ErrorCode;

use crate::{Recovery, StoreError};

/// Why some work on a connection failed.
pub(super) enum Fail {
    /// SQLite says so; nothing was done.
    Sqlite(rusqlite::Error),
    /// SQLite says so while it committed: a failed sync leaves open whether it was done.
    Commit(rusqlite::Error),
    /// A row cannot be read.
    Corrupt {
        /// The table.
        table: &'static str,
        /// What is wrong with it.
        what: String,
    },
}

impl Fail {
    /// The error as callers see it.
    pub fn at(self, statement: &'static str) -> StoreError {
        match self {
            Self::Corrupt { table, what } => StoreError::Corrupt { table, what },
            Self::Sqlite(error) => {
                StoreError::Statement { statement, recovery: recovery(&error), source: error.into() }
            }
            Self::Commit(error) => {
                let recovery = match recovery(&error) {
                    Recovery::Repeat | Recovery::Unknown => Recovery::Unknown,
                    Recovery::Permanent => Recovery::Permanent,
                };
                StoreError::Statement { statement, recovery, source: error.into() }
            }
        }
    }

    /// A row of `table` that no program of ours writes.
    pub fn corrupt(table: &'static str, what: impl std::fmt::Display) -> Self {
        Self::Corrupt { table, what: what.to_string() }
    }
}

impl From<rusqlite::Error> for Fail {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType};
        let is_about_a_row = matches!(
            error,
            FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..)
        );
        if is_about_a_row { Self::corrupt("a table", error) } else { Self::Sqlite(error) }
    }
}

/// A full disk, a lack of memory and somebody else's lock pass; a broken rule does not.
fn recovery(error: &rusqlite::Error) -> Recovery {
    match error.sqlite_error_code() {
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DiskFull
            | ErrorCode::OutOfMemory
            | ErrorCode::OperationInterrupted
            | ErrorCode::SystemIoFailure,
        ) => Recovery::Repeat,
        Some(_) | None => Recovery::Permanent,
    }
}
