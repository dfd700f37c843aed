use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::ExecuteId;
use store::Record;
use store::sqlite::{Sqlite, SqliteConfig};
use tempfile::TempDir;

use super::Fixture;

/// A file of one test's own.
pub struct OnSqlite {
    record: Arc<Sqlite>,
    path: PathBuf,
    _directory: TempDir,
}

impl OnSqlite {
    pub async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record.db");
        let record = Arc::new(Sqlite::open(&SqliteConfig { path: path.clone() }).unwrap());
        Self { record, path, _directory: directory }
    }
}

#[async_trait]
impl Fixture for OnSqlite {
    fn record(&self) -> Arc<dyn Record> {
        self.record.clone()
    }

    async fn pass(&self, by: Duration) {
        let us = i64::try_from(by.as_micros()).unwrap();
        let connection = rusqlite::Connection::open(&self.path).unwrap();
        connection.busy_timeout(Duration::from_secs(5)).unwrap();
        for (table, columns) in [
            (
                "execution",
                &[
                    "accepted_at",
                    "deadline",
                    "dispatched_at",
                    "next_dispatch_at",
                    "not_before",
                    "claimed_at",
                    "renewed_at",
                    "leased_until",
                    "finished_at",
                    "waiting_since",
                ][..],
            ),
            ("queue_mark", &["dispatched_at"]),
            ("idempotency_key", &["expires_at"]),
            ("lock_fence", &["taken_at"]),
            ("node_life", &["changed_at"]),
            ("node_event", &["at"]),
            ("node_lease", &["expires_at"]),
            ("leader", &["leased_until"]),
            ("contender", &["leased_until"]),
            ("bundle_announcer", &["leased_until"]),
        ] {
            let moved: Vec<_> = columns.iter().map(|column| format!("{column} = {column} - ?1")).collect();
            connection.execute(&format!("update {table} set {}", moved.join(", ")), [us]).unwrap();
        }
        // A slot is 10 s long.
        let sql = "update queue_mark set claimed_slot = claimed_slot - ?1";
        connection.execute(sql, [us / 10_000_000]).unwrap();
    }
    async fn redate(&self, from: ExecuteId, to: ExecuteId) {
        let connection = rusqlite::Connection::open(&self.path).unwrap();
        connection.busy_timeout(Duration::from_secs(5)).unwrap();
        let sql = "update execution set execute_id = ?2 where execute_id = ?1";
        connection.execute(sql, [from.as_uuid().as_bytes(), to.as_uuid().as_bytes()]).unwrap();
    }
}
