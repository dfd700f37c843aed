use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::ExecuteId;
use store::Record;
use store::postgres::{Postgres, PostgresConfig, migrate};
use testkit::{fresh_name, servers};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

use super::Fixture;

/// A schema of one test's own, dropped at its end.
pub struct OnPostgres {
    pub record: Arc<Postgres>,
    pub config: PostgresConfig,
    /// Another way to the same schema.
    pub client: Client,
    connection: JoinHandle<()>,
}

impl OnPostgres {
    pub async fn new() -> Self {
        Self::with_pool(4).await
    }

    pub async fn with_pool(pool_max: usize) -> Self {
        let schema = fresh_name("store");
        let config =
            PostgresConfig { url: servers().postgres(), pool_max, ca_file: None, schema: Some(schema) };
        migrate(&config).await.unwrap();
        let record = Arc::new(Postgres::connect(&config).await.unwrap());
        let (client, connection) = connect(&config).await;
        Self { record, config, client, connection }
    }
}

/// A plain connection to the schema of `config`.
pub async fn connect(config: &PostgresConfig) -> (Client, JoinHandle<()>) {
    let (client, connection) = tokio_postgres::connect(&config.url, NoTls).await.unwrap();
    let connection = tokio::runtime::Handle::current().spawn(async move { connection.await.unwrap() });
    let schema = config.schema.as_deref().unwrap();
    client.batch_execute(&format!("set search_path = {schema}")).await.unwrap();
    (client, connection)
}

impl Drop for OnPostgres {
    fn drop(&mut self) {
        self.connection.abort();
        let url = self.config.url.clone();
        let schema = self.config.schema.clone().unwrap();
        // The runtime of the test is ending: a thread with its own tidies up.
        let dropped = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
                let sql = format!("set lock_timeout = '2s'; drop schema if exists {schema} cascade");
                tokio::select! {
                    result = client.batch_execute(&sql) => result.map_err(|error| error.to_string()),
                    result = connection => Err(format!("connection ended: {result:?}")),
                }
            })
        });
        if let Ok(Err(error)) = dropped.join() {
            eprintln!("the schema of a test was left behind: {error}");
        }
    }
}

#[async_trait]
impl Fixture for OnPostgres {
    fn record(&self) -> Arc<dyn Record> {
        self.record.clone()
    }

    async fn pass(&self, by: Duration) {
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
            ("idempotency_key", &["expires_at"]),
            ("lock_fence", &["taken_at"]),
            ("node_life", &["changed_at"]),
            ("node_event", &["at"]),
            ("node", &["leased_until"]),
            ("leadership", &["leased_until"]),
            ("contender", &["leased_until"]),
            ("bundle_announcer", &["leased_until"]),
        ] {
            let by = format!("make_interval(secs => {})", by.as_secs_f64());
            let moved: Vec<_> = columns.iter().map(|column| format!("{column} = {column} - {by}")).collect();
            let sql = format!("update {table} set {}", moved.join(", "));
            self.client.execute(sql.as_str(), &[]).await.unwrap();
        }
    }
    async fn redate(&self, from: ExecuteId, to: ExecuteId) {
        let sql = "update execution set execute_id = $2 where execute_id = $1";
        self.client.execute(sql, &[&from.as_uuid(), &to.as_uuid()]).await.unwrap();
        let at = jiff::Timestamp::from_millisecond(to.unix_ms().try_into().unwrap()).unwrap();
        let sql = "select make_log_partitions(($1::timestamptz at time zone 'UTC')::date, 1)";
        self.client.query_one(sql, &[&at]).await.unwrap();
    }
}
