//! Opening the file: its lock, its settings, its schema.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use super::fail::Fail;
use crate::StoreError;

/// `migrations/sqlite`, in order; the number of those done is the file's `user_version`.
const MIGRATIONS: [&str; 3] = [
    include_str!("../../../../migrations/sqlite/0001_first.sql"),
    include_str!("../../../../migrations/sqlite/0002_coordination.sql"),
    include_str!("../../../../migrations/sqlite/0003_log_store.sql"),
];

/// The connections to read on, beside the one to write on.
const READERS: usize = 2;

/// Takes the lock beside the database at `path`: two processes must not share it.
pub(super) fn lock(path: &Path) -> Result<File, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let told = |error: std::io::Error| StoreError::Connect(format!("{}: {error}", name.display()).into());
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(told)?;
    }
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&name).map_err(told)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Connect(
            format!("{} is in use by another process: stop that one, or name another file", path.display())
                .into(),
        )),
        Err(TryLockError::Error(error)) => Err(told(error)),
    }
}

/// Opens the connections to the database at `path`, which is made and migrated as need be.
pub(super) fn connect(path: &Path) -> Result<(Connection, Vec<Connection>), StoreError> {
    let writing = open(path).map_err(|fail| fail.at("open"))?;
    migrate(&writing)?;
    let reading = (0..READERS).map(|_| open(path)).collect::<Result<_, _>>();
    Ok((writing, reading.map_err(|fail| fail.at("open"))?))
}

fn open(path: &Path) -> Result<Connection, Fail> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(2))?;
    connection.set_prepared_statement_cache_capacity(128);
    // `full` in WAL mode: a commit is on the disk when it is answered. The WAL file shrinks again after a burst.
    connection.execute_batch(
        "pragma journal_mode = wal; pragma synchronous = full; pragma foreign_keys = on;
         pragma journal_size_limit = 67108864; pragma cache_size = -32768; pragma temp_store = memory;",
    )?;
    Ok(connection)
}

fn migrate(connection: &Connection) -> Result<(), StoreError> {
    let fail = |error: rusqlite::Error| Fail::from(error).at("migrate");
    let done = |c: &Connection| c.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
    let (found, needed) = (done(connection).map_err(fail)?, MIGRATIONS.len() as i64);
    if found > needed {
        let advice = "this database was used by a newer program: run that one";
        return Err(StoreError::Schema { found, needed, advice });
    }
    for (number, migration) in (1..).zip(MIGRATIONS).skip(found as usize) {
        let text = format!("begin immediate; {migration}\npragma user_version = {number}; commit;");
        connection.execute_batch(&text).map_err(fail)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_schema_is_refused() {
        let connection = Connection::open_in_memory().unwrap();
        migrate(&connection).unwrap();
        migrate(&connection).unwrap();
        connection.pragma_update(None, "user_version", 1_000).unwrap();
        let refused = migrate(&connection).unwrap_err();
        assert!(matches!(refused, StoreError::Schema { found: 1_000, .. }), "{refused}");
    }
}
