use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use artifacts::{Artifacts, DirectoryConfig, S3Config};
use broker::Broker;
use broker::embedded::Embedded;
use broker::rabbitmq::{RabbitMq, RabbitMqConfig};
use coordination::Coordination;
use coordination::record::{RecordCoordination, RecordCoordinationConfig};
use coordination::zookeeper::{ZooKeeper, ZooKeeperConfig, ZooKeeperCredential};
use store::postgres::{Postgres, PostgresConfig};
use store::sqlite::{Sqlite, SqliteConfig};
use store::{Record, Recovery};
use tracing::{info, warn};
use url::{Host, Url};

use crate::settings::{
    ArtifactsBackend, ArtifactsSettings, BrokerBackend, BrokerSettings, CoordinationBackend,
    CoordinationSettings, PortSettings, RecordBackend, RecordSettings,
};
use crate::{ConfigurationError, Ports, chain};

/// The first pause before another try to connect; it doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(250);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Passwords that are no secret.
const WELL_KNOWN: [&str; 6] = ["", "guest", "postgres", "password", "changeme", "admin"];

impl Ports {
    /// Connects to the servers that `settings` name; `name` (as `gateway-0198c2`) tells this process's connections apart.
    ///
    /// A server that is not there yet is waited for, for as long as it takes. Dropping the future gives up.
    ///
    /// # Errors
    /// [`ConfigurationError`] if waiting cannot help.
    pub async fn connect(settings: &PortSettings, name: &str) -> Result<Self, ConfigurationError> {
        store::metrics::describe();
        broker::metrics::describe();
        let artifacts = connect_artifacts(&settings.artifacts)?;
        let record = connect_record(&settings.record).await?;
        let broker = connect_broker(&settings.broker, name).await?;
        let coordination = connect_coordination(&settings.coordination, &record).await?;
        Ok(Self { record, broker, coordination, artifacts })
    }

    /// Ends every connection, in bounded time: what was announced is withdrawn, what was not settled goes back.
    pub async fn close(&self) {
        self.coordination.close().await;
        self.broker.close().await;
    }
}

async fn connect_record(settings: &RecordSettings) -> Result<Arc<dyn Record>, ConfigurationError> {
    match settings.backend {
        RecordBackend::Sqlite => {
            let config = SqliteConfig { path: settings.path.clone() };
            let opened = tokio::task::spawn_blocking(move || Sqlite::open(&config)).await;
            match opened {
                Ok(Ok(sqlite)) => Ok(Arc::new(sqlite)),
                Ok(Err(error)) => Err(wrong(&format!("record.path {}", settings.path.display()), &error)),
                Err(panicked) => Err(wrong("open the record", &panicked)),
            }
        }
        RecordBackend::Postgres => {
            let config = postgres_config(settings)?;
            let connect = || async {
                Postgres::connect(&config).await.map_err(|error| match error.recovery() {
                    Recovery::Permanent => Failed::ForGood(wrong("the record", &error)),
                    Recovery::Repeat | Recovery::Unknown => Failed::ForNow(chain(&error)),
                })
            };
            Ok(Arc::new(patiently("PostgreSQL", connect).await?))
        }
    }
}

/// The configuration of the adapter that `settings` stand for.
///
/// # Errors
/// [`ConfigurationError`] if the URL is missing, cannot be read, or goes to another machine with a well-known password.
pub fn postgres_config(settings: &RecordSettings) -> Result<PostgresConfig, ConfigurationError> {
    let url = settings.url.or_file("record.url", settings.url_file.as_deref())?;
    check_password("record.url", &url, "postgres://user:password@host:5432/database")?;
    check_readable("record.ca_file", settings.ca_file.as_deref())?;
    Ok(PostgresConfig {
        url,
        pool_max: settings.pool_max,
        ca_file: settings.ca_file.clone(),
        schema: settings.schema.clone(),
    })
}

async fn connect_broker(
    settings: &BrokerSettings,
    name: &str,
) -> Result<Arc<dyn Broker>, ConfigurationError> {
    match settings.backend {
        BrokerBackend::Embedded => Ok(Arc::new(Embedded::new())),
        BrokerBackend::Rabbitmq => {
            let url = settings.url.or_file("broker.url", settings.url_file.as_deref())?;
            check_password("broker.url", &url, "amqp://user:password@host:5672/vhost")?;
            check_readable("broker.ca_file", settings.ca_file.as_deref())?;
            let config =
                RabbitMqConfig { url, prefix: settings.prefix.clone(), ca_file: settings.ca_file.clone() };
            match RabbitMq::connect(&config, name).await {
                Ok(rabbitmq) => Ok(Arc::new(rabbitmq)),
                Err(error) => Err(wrong("the broker", &error)),
            }
        }
    }
}

async fn connect_coordination(
    settings: &CoordinationSettings,
    record: &Arc<dyn Record>,
) -> Result<Arc<dyn Coordination>, ConfigurationError> {
    match settings.backend {
        CoordinationBackend::Record => {
            let config = RecordCoordinationConfig {
                lease_ms: settings.session_ms,
                ..RecordCoordinationConfig::default()
            };
            Ok(Arc::new(RecordCoordination::new(Arc::clone(record), &config)))
        }
        CoordinationBackend::Zookeeper => {
            let config = ZooKeeperConfig {
                servers: settings.servers.clone(),
                root: settings.root.clone(),
                session_ms: settings.session_ms,
                credential: zookeeper_credential(settings)?,
            };
            Ok(Arc::new(ZooKeeper::connect(&config)))
        }
    }
}

fn zookeeper_credential(
    settings: &CoordinationSettings,
) -> Result<Option<ZooKeeperCredential>, ConfigurationError> {
    let CoordinationSettings { user, password, password_file, .. } = settings;
    if user.is_empty() {
        if password.is_empty() && password_file.is_none() {
            return Ok(None);
        }
        return Err(ConfigurationError::new("coordination.password is set: set coordination.user as well"));
    }
    if user.contains(':') {
        return Err(ConfigurationError::new("coordination.user: it must not contain a colon"));
    }
    let password = password.or_file("coordination.password", password_file.as_deref())?;
    Ok(Some(ZooKeeperCredential { user: user.clone(), password }))
}

fn connect_artifacts(settings: &ArtifactsSettings) -> Result<Artifacts, ConfigurationError> {
    match settings.backend {
        ArtifactsBackend::Directory => {
            Ok(Artifacts::directory(&DirectoryConfig { path: settings.path.clone() }))
        }
        ArtifactsBackend::S3 => {
            check_readable("artifacts.ca_file", settings.ca_file.as_deref())?;
            let config = S3Config {
                endpoint: settings.endpoint.clone(),
                region: settings.region.clone(),
                bucket: settings.bucket.clone(),
                access_key: settings
                    .access_key
                    .or_file("artifacts.access_key", settings.access_key_file.as_deref())?,
                secret_key: settings
                    .secret_key
                    .or_file("artifacts.secret_key", settings.secret_key_file.as_deref())?,
                prefix: settings.prefix.clone(),
                ca_file: settings.ca_file.clone(),
            };
            Artifacts::s3(&config).map_err(|error| wrong("the artifact store", &error))
        }
    }
}

/// Why one try to connect failed.
enum Failed {
    ForNow(String),
    ForGood(ConfigurationError),
}

/// Tries until it succeeds or never will, with growing pauses, and says so.
async fn patiently<T, F>(server: &str, connect: impl Fn() -> F) -> Result<T, ConfigurationError>
where
    F: Future<Output = Result<T, Failed>>,
{
    let mut pause = PAUSE;
    let mut waited = false;
    loop {
        match connect().await {
            Ok(connected) => {
                if waited {
                    info!("{server} is there");
                }
                return Ok(connected);
            }
            Err(Failed::ForGood(error)) => return Err(error),
            Err(Failed::ForNow(why)) => {
                waited = true;
                // Between half and all of the pause: processes that lost one server do not come back as one.
                let jittered = pause.mul_f64(rand::random_range(0.5..=1.0));
                warn!("{server} is away, trying again in {} ms: {why}", jittered.as_millis());
                tokio::time::sleep(jittered).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

/// `error` as a complaint about `what`.
fn wrong(what: &str, error: &(dyn std::error::Error + 'static)) -> ConfigurationError {
    ConfigurationError::new(format!("{what}: {}", chain(error)))
}

/// Refuses a URL that cannot be one, and a well-known password on the way to another machine.
fn check_password(key: &str, url: &str, example: &str) -> Result<(), ConfigurationError> {
    // The text itself may hold a password: a complaint never shows it.
    let url = Url::parse(url)
        .map_err(|error| ConfigurationError::new(format!("{key} is no URL ({error}), as {example}")))?;
    let is_loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.parse().is_ok_and(is_loopback),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        // A socket of this machine.
        None => true,
    };
    let has_name = !url.username().is_empty();
    if has_name && !is_loopback && WELL_KNOWN.contains(&url.password().unwrap_or_default()) {
        return Err(ConfigurationError::new(format!(
            "{key} goes to another machine with an empty or well-known password: give the user one of its own"
        )));
    }
    Ok(())
}

fn is_loopback(address: std::net::IpAddr) -> bool {
    address.is_loopback()
}

fn check_readable(key: &str, file: Option<&Path>) -> Result<(), ConfigurationError> {
    let Some(file) = file else { return Ok(()) };
    match std::fs::File::open(file) {
        Ok(_) => Ok(()),
        Err(error) => Err(ConfigurationError::new(format!("{key} {}: {error}", file.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_well_known_password_is_for_this_machine_only() {
        let check = |url| check_password("broker.url", url, "amqp://...");
        assert!(check("amqp://guest:guest@127.0.0.1:5672/").is_ok());
        assert!(check("amqp://guest:guest@localhost/").is_ok());
        assert!(check("amqp://gantry:long-and-random@mq.example.org/").is_ok());
        for url in
            ["amqp://guest:guest@mq.example.org/", "amqp://gantry@10.0.0.7/", "amqp://a:changeme@[fe80::1]/"]
        {
            assert!(check(url).unwrap_err().to_string().contains("well-known"), "{url}");
        }
        let complaint = check("hunter2@nowhere").unwrap_err().to_string();
        assert!(complaint.contains("broker.url is no URL") && !complaint.contains("hunter2"), "{complaint}");
    }
}
