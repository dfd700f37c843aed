//! What is special about PostgreSQL: its races, its schema, its links.

mod attributes;
mod contention;
mod faults;
mod fences;
mod links;
mod log_days;
mod migrations;
mod races;
mod tls;

use std::time::Duration;

use store::postgres::{Postgres, PostgresConfig, migrate};
use store::{Recovery, StoreError};
use testkit::fresh_name;

/// More than a call may take in all: a connection to be had, the call itself, the request to cancel it.
const LIMIT: Duration = Duration::from_secs(12);

/// A schema of one test's own in the database at `url`, reached over one connection.
async fn on(url: &str) -> (Postgres, PostgresConfig) {
    let config =
        PostgresConfig { url: url.to_owned(), pool_max: 1, ca_file: None, schema: Some(fresh_name("link")) };
    migrate(&config).await.unwrap();
    (Postgres::connect(&config).await.unwrap(), config)
}

/// Repeats what the record says may be repeated, as a writer does.
async fn until_known<T>(mut call: impl AsyncFnMut() -> Result<T, StoreError>) -> T {
    for _ in 0..1_000 {
        match call().await {
            Ok(answer) => return answer,
            Err(error) => assert_ne!(error.recovery(), Recovery::Permanent, "{error:?}"),
        }
    }
    panic!("no answer in a thousand calls");
}
