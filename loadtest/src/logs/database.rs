use std::pin::pin;

use anyhow::Context;
use jiff::Timestamp;
use store::postgres::{Postgres, PostgresConfig, migrate};
use testkit::fresh_name;
use tokio::task::JoinSet;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

/// A schema of its own.
pub struct Database {
    pub config: PostgresConfig,
    connections: JoinSet<()>,
}

impl Database {
    /// Makes it and what the record needs in it.
    pub async fn new(url: &str) -> anyhow::Result<Self> {
        let schema = Some(fresh_name("logs"));
        let config = PostgresConfig { url: url.to_owned(), pool_max: 8, ca_file: None, schema };
        migrate(&config).await.context("make the schema")?;
        Ok(Self { config, connections: JoinSet::new() })
    }

    /// The record in it.
    pub async fn record(&self) -> anyhow::Result<Postgres> {
        Postgres::connect(&self.config).await.context("connect the record")
    }

    /// A connection of the bare driver.
    pub async fn client(&mut self) -> anyhow::Result<Client> {
        let (client, connection) = tokio_postgres::connect(&self.config.url, NoTls).await?;
        self.connections.spawn(async move { drop(connection.await) });
        let schema = self.config.schema.as_deref().unwrap_or("public");
        client.batch_execute(&format!("set search_path = {schema}")).await?;
        Ok(client)
    }

    /// Drops it.
    pub async fn drop(mut self) -> anyhow::Result<()> {
        let client = self.client().await?;
        let schema = self.config.schema.as_deref().unwrap_or("public");
        // Partition by partition: dropping all at once would need a lock for each.
        let sql = "select c.oid::regclass::text from pg_inherits i join pg_class c on c.oid = i.inhrelid
            where i.inhparent = 'log'::regclass";
        for row in client.query(sql, &[]).await? {
            client.batch_execute(&format!("drop table {}", row.get::<_, &str>(0))).await?;
        }
        client.batch_execute(&format!("drop schema {schema} cascade")).await?;
        Ok(())
    }
}

/// A line as it is stored.
#[derive(Clone)]
pub struct Row {
    pub execute_id: Uuid,
    pub log_id: i64,
    pub at: Timestamp,
    pub line: String,
}

/// Writes rows with one bare COPY into `table`.
pub async fn copy(client: &Client, table: &str, rows: impl Iterator<Item = Row>) -> anyhow::Result<u64> {
    let sql = format!(
        "copy {table} (execute_id, log_id, at, attempt, continues, level, line) from stdin (format binary)"
    );
    let sink = client.copy_in(&sql).await?;
    let types = [Type::UUID, Type::INT8, Type::TIMESTAMPTZ, Type::INT4, Type::BOOL, Type::TEXT, Type::TEXT];
    let mut writer = pin!(BinaryCopyInWriter::new(sink, &types));
    for row in rows {
        writer
            .as_mut()
            .write(&[&row.execute_id, &row.log_id, &row.at, &1_i32, &false, &"I", &row.line])
            .await?;
    }
    Ok(writer.finish().await?)
}
