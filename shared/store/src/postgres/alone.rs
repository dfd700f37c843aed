//! A connection of its own, for what may take longer than the calls of the pool.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls};

use super::config::PostgresConfig;
use super::tls;
use crate::StoreError;

/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A connection outside the pool. When it is dropped it is closed, also in the middle of a statement.
pub(super) struct Alone {
    pub client: Client,
    /// Drives the connection.
    _connection: JoinSet<()>,
}

impl Alone {
    /// Connects with these settings (`-c name=value ..`).
    pub async fn connect(config: &PostgresConfig, settings: &str) -> Result<Self, StoreError> {
        let target = config.target_with(settings)?;
        let tls = tls::connector(&target, config.ca_file.as_deref())?;
        let away = |error| StoreError::Connect(Box::new(error));
        let late = |_| StoreError::Connect("the server does not answer".into());
        let mut connection = JoinSet::new();
        // What ends the connection is also what the client's calls end with.
        let client = match tls {
            Some(tls) => {
                let connecting = timeout(CONNECT_LIMIT, target.driver.connect(tls)).await.map_err(late)?;
                let (client, driver) = connecting.map_err(away)?;
                connection.spawn(async move { drop(driver.await) });
                client
            }
            None => {
                let connecting = timeout(CONNECT_LIMIT, target.driver.connect(NoTls)).await.map_err(late)?;
                let (client, driver) = connecting.map_err(away)?;
                connection.spawn(async move { drop(driver.await) });
                client
            }
        };
        Ok(Self { client, _connection: connection })
    }
}
