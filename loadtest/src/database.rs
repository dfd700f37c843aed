//! A bare connection to the record's PostgreSQL.

use anyhow::Context;
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};

/// A connection; it ends when this is dropped.
pub struct Database {
    /// What asks.
    pub client: Client,
    /// Drives it.
    _connection: JoinSet<()>,
}

impl Database {
    /// Connects, without TLS: it is meant for servers of this machine.
    ///
    /// # Errors
    /// The server is not there or refuses.
    pub async fn connect(url: &str) -> anyhow::Result<Self> {
        let (client, connection) =
            tokio_postgres::connect(url, NoTls).await.context("connect to PostgreSQL")?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // A connection that breaks is seen by whoever asks.
            let _broken = connection.await;
        });
        Ok(Self { client, _connection: tasks })
    }
}
