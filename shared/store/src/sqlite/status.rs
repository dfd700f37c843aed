//! How the log lies in the file.

use rusqlite::{Connection, OpenFlags};

use super::SqliteConfig;
use super::fail::Fail;
use super::log_day::bytes;
use super::row::value;
use crate::{LogStatus, StoreError};

/// How the log lies in the file: one part, which is its own index, so that it always is in the order of its key. A process
/// that has the database open is not disturbed.
///
/// # Errors
/// [`StoreError`] if there is no such file or it cannot be read.
pub fn log_status(config: &SqliteConfig) -> Result<Vec<LogStatus>, StoreError> {
    let read = || -> Result<LogStatus, Fail> {
        let connection = Connection::open_with_flags(&config.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(std::time::Duration::from_secs(2))?;
        let lines = value::<i64>(&connection, "select count(*) from log", [])?.unwrap_or(0);
        Ok(LogStatus {
            day: None,
            sealed_at: None,
            lines: lines.unsigned_abs(),
            is_estimate: false,
            bytes: bytes(&connection)?,
            correlation: (lines > 0).then_some(1.0),
            reads: None,
        })
    };
    Ok(vec![read().map_err(|fail| fail.at("log_status"))?])
}
