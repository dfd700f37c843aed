//! The sections of `gantry.toml` that say on which servers a process stands and how it logs.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Secret;

/// On which servers a process stands.
#[derive(Debug, Clone, Default)]
pub struct PortSettings {
    /// `[record]`.
    pub record: RecordSettings,
    /// `[broker]`.
    pub broker: BrokerSettings,
    /// `[coordination]`.
    pub coordination: CoordinationSettings,
    /// `[artifacts]`.
    pub artifacts: ArtifactsSettings,
}

/// `[record]`: where the truth is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecordSettings {
    /// Which database.
    pub backend: RecordBackend,
    /// `sqlite`: the file.
    pub path: PathBuf,
    /// `postgres`: `postgres://user:password@host/database`.
    pub url: Secret,
    /// `postgres`: a file that holds the URL, readable by its owner only.
    pub url_file: Option<PathBuf>,
    /// `postgres`: the most connections of this process.
    pub pool_max: usize,
    /// `postgres`: PEM certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// `postgres`: the schema to use instead of the user's default.
    pub schema: Option<String>,
}

/// Which database the record is in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordBackend {
    /// A file, used by one process.
    #[default]
    Sqlite,
    /// A server.
    Postgres,
}

impl Default for RecordSettings {
    fn default() -> Self {
        Self {
            backend: RecordBackend::default(),
            path: "gantry.db".into(),
            url: Secret::default(),
            url_file: None,
            pool_max: 8,
            ca_file: None,
            schema: None,
        }
    }
}

/// `[broker]`: how requests and replies travel.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BrokerSettings {
    /// Which broker.
    pub backend: BrokerBackend,
    /// `rabbitmq`: `amqp://user:password@host:5672/vhost`, or `amqps://`.
    pub url: Secret,
    /// `rabbitmq`: a file that holds the URL, readable by its owner only.
    pub url_file: Option<PathBuf>,
    /// `rabbitmq`: what the names of all exchanges and queues begin with.
    pub prefix: String,
    /// `rabbitmq`: PEM certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
}

/// Which broker carries the messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BrokerBackend {
    /// Inside the process.
    #[default]
    Embedded,
    /// A server or cluster.
    Rabbitmq,
}

impl Default for BrokerSettings {
    fn default() -> Self {
        Self {
            backend: BrokerBackend::default(),
            url: Secret::default(),
            url_file: None,
            prefix: "gantry".to_owned(),
            ca_file: None,
        }
    }
}

/// `[coordination]`: who is alive, and who may.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CoordinationSettings {
    /// Which servers.
    pub backend: CoordinationBackend,
    /// `zookeeper`: `host:port,host:port,host:port`.
    pub servers: String,
    /// `zookeeper`: the znode everything is under.
    pub root: String,
    /// How long what a process announced outlives its last sign of life, in milliseconds.
    pub session_ms: u64,
    /// `zookeeper`: the user of the credential that closes everything under the root; empty for none.
    pub user: String,
    /// `zookeeper`: its password.
    pub password: Secret,
    /// `zookeeper`: a file that holds the password, readable by its owner only.
    pub password_file: Option<PathBuf>,
}

/// On what the coordination stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CoordinationBackend {
    /// On the record: no further server.
    #[default]
    Record,
    /// An ensemble.
    Zookeeper,
}

impl Default for CoordinationSettings {
    fn default() -> Self {
        Self {
            backend: CoordinationBackend::default(),
            servers: "127.0.0.1:2181".to_owned(),
            root: "/gantry".to_owned(),
            session_ms: 10_000,
            user: String::new(),
            password: Secret::default(),
            password_file: None,
        }
    }
}

/// `[artifacts]`: where bundles are kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ArtifactsSettings {
    /// Which store.
    pub backend: ArtifactsBackend,
    /// `directory`: the directory, shared by all processes.
    pub path: PathBuf,
    /// `s3`: as `https://s3.example.org`.
    pub endpoint: String,
    /// `s3`: the region.
    pub region: String,
    /// `s3`: the bucket.
    pub bucket: String,
    /// `s3`: what the keys of all objects begin with.
    pub prefix: String,
    /// `s3`: the key id.
    pub access_key: Secret,
    /// `s3`: a file that holds the key id, readable by its owner only.
    pub access_key_file: Option<PathBuf>,
    /// `s3`: the secret key.
    pub secret_key: Secret,
    /// `s3`: a file that holds the secret key, readable by its owner only.
    pub secret_key_file: Option<PathBuf>,
    /// `s3`: PEM certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
}

/// Where bundles are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArtifactsBackend {
    /// A directory that all processes see.
    #[default]
    Directory,
    /// An S3-compatible object store.
    S3,
}

impl Default for ArtifactsSettings {
    fn default() -> Self {
        Self {
            backend: ArtifactsBackend::default(),
            path: "artifacts".into(),
            endpoint: String::new(),
            region: "us-east-1".to_owned(),
            bucket: "gantry".to_owned(),
            prefix: String::new(),
            access_key: Secret::default(),
            access_key_file: None,
            secret_key: Secret::default(),
            secret_key_file: None,
            ca_file: None,
        }
    }
}

/// `[log]`: what a process says of itself, on stderr.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// How a line looks.
    pub format: LogFormat,
    /// Which lines: a level, or levels by module as `info,worker=debug`.
    pub filter: String,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { format: LogFormat::default(), filter: "info".to_owned() }
    }
}
