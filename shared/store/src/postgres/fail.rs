//! What the server's and the driver's errors mean to a caller.

use std::error::Error as _;

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use crate::error::Source;
use crate::{Recovery, StoreError};

/// The error of a statement, classified.
pub(super) fn statement(statement: &'static str, error: Error) -> StoreError {
    StoreError::Statement { statement, recovery: recovery(&error), source: Box::new(error) }
}

/// What the configuration says cannot be used: trying again will not help.
pub(super) fn misconfigured(source: impl Into<Source>) -> StoreError {
    StoreError::Statement { statement: "connect", recovery: Recovery::Permanent, source: source.into() }
}

/// A row of `table` that no program of ours writes.
pub(super) fn corrupt(table: &'static str, what: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt { table, what: what.to_string() }
}

/// May the session's plan be out of date (after a migration)? Nothing was done then.
pub(super) fn is_stale_plan(error: &Error) -> bool {
    error.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED)
}

pub(super) fn recovery(error: &Error) -> Recovery {
    let Some(state) = error.code() else { return recovery_of_driver(error) };
    match state.code() {
        // Serialization failure, deadlock, lock timeout, read-only (a server about to be replaced), statement timeout.
        "40001" | "40P01" | "55P03" | "25006" | "57014" => Recovery::Repeat,
        // Shutting down, crashed, starting up.
        "57P01" | "57P02" | "57P03" => Recovery::Repeat,
        // A connection exception; no disk, no memory, no connection left; an I/O error.
        code if ["08", "53", "58"].iter().any(|class| code.starts_with(class)) => Recovery::Repeat,
        _ => Recovery::Permanent,
    }
}

/// The driver's own errors: the connection is gone, or we passed what cannot be passed.
fn recovery_of_driver(error: &Error) -> Recovery {
    let is_io = error.source().is_some_and(|source| source.is::<std::io::Error>());
    if error.is_closed() || is_io { Recovery::Unknown } else { Recovery::Permanent }
}
