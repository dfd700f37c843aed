use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_postgres::Config;

use super::fail::misconfigured;
use crate::StoreError;

/// How to reach the database.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// `postgres://user:password@host/database`. `sslmode` in it is `disable` (plain text), `prefer` (the default: TLS if
    /// the server offers it, its certificate checked only against `ca_file`) or `require` (TLS, with a certificate that
    /// `ca_file` or the system vouches for; `verify-full` says the same).
    pub url: String,
    /// The most connections of this process.
    pub pool_max: usize,
    /// PEM certificates to trust instead of the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The schema to use instead of the user's default: lower-case letters, digits and `_`.
    #[serde(default)]
    pub schema: Option<String>,
}

impl fmt::Debug for PostgresConfig {
    /// Leaves out the URL: it may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresConfig")
            .field("pool_max", &self.pool_max)
            .field("ca_file", &self.ca_file)
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

/// Limits that the server keeps on every connection of the pool. Each is shorter than the one around it: a lock wait ends
/// before its statement, a statement before [`super::client::CALL_LIMIT`].
const LIMITS: &str = "-c statement_timeout=5s -c lock_timeout=2s -c idle_in_transaction_session_timeout=10s";

/// Plans are made once per connection, maybe while the tables are still empty: they must be the right ones for full
/// tables too. All our lists are arrays of keys, so the right one is always an index.
pub(super) const PLANS: &str = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c jit=off";

/// What the driver needs to connect, and whether the certificate must be vouched for.
pub(super) struct Target {
    pub driver: Config,
    pub must_verify: bool,
}

impl PostgresConfig {
    /// For the connections of the pool.
    pub(super) fn target(&self) -> Result<Target, StoreError> {
        self.target_with(&format!("{LIMITS} {PLANS}"))
    }

    /// For a connection with other settings.
    pub(super) fn target_with(&self, settings: &str) -> Result<Target, StoreError> {
        let (url, says_verify) = ["sslmode=verify-full", "sslmode=verify-ca"]
            .into_iter()
            .find(|mode| self.url.contains(mode))
            .map_or((self.url.clone(), false), |mode| (self.url.replace(mode, "sslmode=require"), true));
        let mut driver: Config = url.parse::<Config>().map_err(misconfigured)?;
        let mut options = driver.get_options().map(|given| format!("{given} ")).unwrap_or_default();
        options.push_str(settings);
        if let Some(schema) = &self.schema {
            check_schema(schema)?;
            options.push_str(&format!(" -c search_path={schema}"));
        }
        if driver.get_application_name().is_none() {
            driver.application_name("gantry");
        }
        driver
            .options(options)
            .connect_timeout(Duration::from_secs(3))
            .tcp_user_timeout(Duration::from_secs(15))
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3);
        let requires = driver.get_ssl_mode() == tokio_postgres::config::SslMode::Require;
        Ok(Target { driver, must_verify: says_verify || requires || self.ca_file.is_some() })
    }
}

fn check_schema(schema: &str) -> Result<(), StoreError> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if !schema.is_empty() && schema.len() <= 63 && schema.bytes().all(fits) {
        return Ok(());
    }
    Err(misconfigured(format!("a schema is lower-case letters, digits and _, not {schema:?}")))
}
