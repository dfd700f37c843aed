//! The one way to the database: every call has a deadline, and a connection that may still be busy never goes back.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use deadpool_postgres::{
    ClientWrapper, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime, Transaction,
};
use futures::future::BoxFuture;
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{CancelToken, Error, NoTls, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::config::PostgresConfig;
use super::{fail, tls};
use crate::{Recovery, StoreError};

/// How long a call may wait for its answer. The server ends a statement before that; this is for a server, or a network,
/// that says nothing any more.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(6);
/// How long a call may wait for a connection to be free.
const POOL_WAIT: Duration = Duration::from_secs(2);
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
const RECYCLE_LIMIT: Duration = Duration::from_secs(1);
/// How long the request to cancel a statement may take.
const CANCEL_LIMIT: Duration = Duration::from_secs(1);

/// One file of `sql/`.
pub(super) struct Statement {
    /// The name of the file.
    pub name: &'static str,
    /// What it says.
    pub sql: &'static str,
}

/// The statement in `sql/<name>.sql`.
macro_rules! statement {
    ($name:literal) => {
        $crate::postgres::client::Statement { name: $name, sql: include_str!(concat!("sql/", $name, ".sql")) }
    };
}
pub(super) use statement;

/// What a statement is given.
pub(super) type Parameters<'a> = [&'a (dyn ToSql + Sync)];

/// The connections.
pub(super) struct Database {
    pool: Pool,
    tls: Option<MakeRustlsConnect>,
}

impl Database {
    /// Connects nothing yet.
    pub fn new(config: &PostgresConfig) -> Result<Self, StoreError> {
        let target = config.target()?;
        let tls = tls::connector(&target, config.ca_file.as_deref())?;
        // `Fast` would hand out a busy connection and `Verified` would wait for it: [`Borrowed`] returns none.
        let manage = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = match &tls {
            Some(tls) => Manager::from_config(target.driver, tls.clone(), manage),
            None => Manager::from_config(target.driver, NoTls, manage),
        };
        let pool = Pool::builder(manager)
            .max_size(config.pool_max.max(1))
            .wait_timeout(Some(POOL_WAIT))
            .create_timeout(Some(CONNECT_LIMIT))
            .recycle_timeout(Some(RECYCLE_LIMIT))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| StoreError::Connect(Box::new(error)))?;
        Ok(Self { pool, tls })
    }

    /// Runs one statement by itself and returns its rows.
    pub async fn rows(
        &self,
        statement: &Statement,
        parameters: &Parameters<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        let client = self.borrow().await?;
        let answer = timeout(CALL_LIMIT, self.query(&client, statement, parameters)).await;
        self.settle(client, statement.name, answer).await
    }

    /// Runs several statements as one transaction; `name` is for errors.
    pub async fn transaction<T, F>(&self, name: &'static str, work: F) -> Result<T, StoreError>
    where
        F: for<'a> FnOnce(&'a Transaction<'a>) -> BoxFuture<'a, Result<T, Error>> + Send,
        T: Send,
    {
        let mut client = self.borrow().await?;
        let answer = timeout(CALL_LIMIT, async {
            let transaction = client.transaction().await?;
            let answer = work(&transaction).await?;
            transaction.commit().await?;
            Ok(answer)
        })
        .await;
        self.settle(client, name, answer).await
    }

    async fn borrow(&self) -> Result<Borrowed, StoreError> {
        let object = self.pool.get().await.map_err(|error| StoreError::Connect(Box::new(error)))?;
        Ok(Borrowed { object: Some(object), is_idle: false })
    }

    async fn query(
        &self,
        client: &ClientWrapper,
        statement: &Statement,
        parameters: &Parameters<'_>,
    ) -> Result<Vec<Row>, Error> {
        let prepared = client.prepare_cached(statement.sql).await?;
        match client.query(&prepared, parameters).await {
            Err(error) if fail::is_stale_plan(&error) => {
                self.pool.manager().statement_caches.clear();
                let prepared = client.prepare_cached(statement.sql).await?;
                client.query(&prepared, parameters).await
            }
            answer => answer,
        }
    }

    /// Gives the connection back if it is known to be idle, throws it away if not.
    async fn settle<T>(
        &self,
        mut client: Borrowed,
        name: &'static str,
        answer: Result<Result<T, Error>, tokio::time::error::Elapsed>,
    ) -> Result<T, StoreError> {
        match answer {
            Ok(Ok(answer)) => {
                client.is_idle = true;
                Ok(answer)
            }
            Ok(Err(error)) => {
                let error = fail::statement(name, error);
                client.is_idle = error.recovery() != Recovery::Unknown;
                Err(error)
            }
            Err(_elapsed) => {
                let cancel = client.cancel_token();
                drop(client);
                self.cancel(cancel).await;
                let limit_ms = CALL_LIMIT.as_millis() as u64;
                Err(StoreError::Timeout { statement: name, limit_ms })
            }
        }
    }

    /// Asks the server to end what a connection does that nobody waits for any more. Whether it does is not known.
    async fn cancel(&self, token: CancelToken) {
        let asked = timeout(CANCEL_LIMIT, async {
            match &self.tls {
                Some(tls) => token.cancel_query(tls.clone()).await,
                None => token.cancel_query(NoTls).await,
            }
        })
        .await;
        if !matches!(asked, Ok(Ok(()))) {
            tracing::debug!("a statement that took too long could not be cancelled; its own limit ends it");
        }
    }
}

/// A connection of the pool. Unless it is known to be idle it is thrown away when it is dropped, as by a caller that
/// went away in the middle of a call: the next one would wait for an answer that is not its own.
struct Borrowed {
    object: Option<Object>,
    is_idle: bool,
}

const OWNED: &str = "the connection is taken out only by drop";

impl Deref for Borrowed {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        self.object.as_ref().expect(OWNED)
    }
}

impl DerefMut for Borrowed {
    fn deref_mut(&mut self) -> &mut ClientWrapper {
        self.object.as_mut().expect(OWNED)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(object) = self.object.take()
            && !self.is_idle
        {
            drop(Object::take(object));
        }
    }
}
