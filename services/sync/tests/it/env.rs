use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use artifacts::{Artifacts, S3Config};
use bootstrap::{Ports, Shutdown, ShutdownTrigger};
use broker::embedded::Embedded;
use coordination::Coordination;
use coordination::record::{RecordCoordination, RecordCoordinationConfig};
use domain::{Digest, Manifest};
use flate2::Compression;
use flate2::write::GzEncoder;
use protocol::cache::{FetchAnswer, FetchRequest, bundle_dir, socket};
use store::sqlite::{Sqlite, SqliteConfig};
use store::{PushVersion, Record};
use sync::Config;
use testkit::{Proxy, S3Server, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

pub const LIMIT: Duration = Duration::from_secs(30);

pub struct Env {
    pub config: Config,
    pub link: Proxy,
    pub ports: Ports,
    pub server: S3Server,
    /// Not through the link.
    store: Artifacts,
    place: tempfile::TempDir,
}

/// A sync that runs.
pub struct Running {
    trigger: ShutdownTrigger,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Env {
    pub async fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let server = S3Server::start().await;
        let link = Proxy::start(&server.access.endpoint).await;
        let direct = S3Config {
            endpoint: server.access.endpoint.clone(),
            region: "us-east-1".to_owned(),
            bucket: server.access.bucket.clone(),
            access_key: server.access.access_key.clone(),
            secret_key: server.access.secret_key.clone(),
            prefix: String::new(),
            ca_file: None,
        };
        let through = S3Config { endpoint: link.url(&direct.endpoint), ..direct.clone() };
        let record: Arc<dyn Record> =
            Arc::new(Sqlite::open(&SqliteConfig { path: place.path().join("gantry.db") }).unwrap());
        let pace = RecordCoordinationConfig { poll_ms: 50, ..RecordCoordinationConfig::default() };
        let coordination: Arc<dyn Coordination> =
            Arc::new(RecordCoordination::new(Arc::clone(&record), &pace));
        let ports = Ports {
            record,
            broker: Arc::new(Embedded::new()),
            coordination,
            artifacts: Artifacts::s3(&through).unwrap(),
        };
        let cache_dir = place.path().join("cache");
        // How full the disk of the tests is, is not their matter.
        let name = Some("here".parse().unwrap());
        let config = Config { name, cache_dir, disk_free_bytes_min: 0, ..Config::default() };
        Self { config, link, ports, store: Artifacts::s3(&direct).unwrap(), server, place }
    }

    /// Starts a sync and waits until it answers.
    pub async fn start(&self) -> Running {
        let (trigger, shutdown) = Shutdown::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(sync::run(self.config.clone(), self.ports.clone(), shutdown));
        let path = socket(&self.config.cache_dir);
        eventually("the sync listens", LIMIT, async || UnixStream::connect(&path).await.is_ok()).await;
        Running { trigger, tasks }
    }

    /// What becomes of a second sync on the same cache.
    pub async fn start_another(&self) -> anyhow::Result<()> {
        let (_trigger, shutdown) = Shutdown::new();
        sync::run(self.config.clone(), self.ports.clone(), shutdown).await
    }

    /// Stores a bundle with `bytes` of data that do not compress; `n` tells bundles apart.
    pub async fn put(&self, n: usize, bytes: usize) -> Digest {
        self.put_bytes(bundle(n, bytes)).await
    }

    pub async fn put_bytes(&self, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(&bytes);
        self.store.put(digest, bytes.into()).await.unwrap();
        digest
    }

    /// Makes `digest` a version of a model, as a push does.
    pub async fn publish(&self, digest: Digest) {
        let version = PushVersion {
            tenant: domain::TenantId::default(),
            model: "iris".parse().unwrap(),
            digest,
            bytes: std::fs::metadata(self.object(digest)).unwrap().len(),
            manifest: Manifest::parse(MANIFEST).unwrap(),
        };
        self.ports.record.push_version(&version).await.unwrap();
    }

    /// Asks as a worker does.
    pub async fn ask(&self, digest: Digest) -> FetchAnswer {
        let mut stream = UnixStream::connect(socket(&self.config.cache_dir)).await.unwrap();
        let mut line = serde_json::to_vec(&FetchRequest { fetch: digest }).unwrap();
        line.push(b'\n');
        stream.write_all(&line).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(2 * LIMIT, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    pub fn bundle_dir(&self, digest: Digest) -> PathBuf {
        bundle_dir(&self.config.cache_dir, digest)
    }

    pub fn part(&self, digest: Digest) -> PathBuf {
        self.place.path().join("cache/parts").join(digest.to_string())
    }

    pub fn object(&self, digest: Digest) -> PathBuf {
        self.server.bucket_directory().join(digest.to_string())
    }
}

impl Running {
    pub async fn stop(mut self) {
        self.trigger.drain();
        self.tasks.join_next().await.unwrap().unwrap().unwrap();
    }
}

const MANIFEST: &str = "runtime = \"process\"\ncommand = [\"cat\", \"data\"]\n";

/// Bytes that do not compress; `n` tells them apart.
pub fn data(n: usize, bytes: usize) -> Vec<u8> {
    (0..bytes as u64)
        .map(|at| ((at + (n as u64) * 7919).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect()
}

fn bundle(n: usize, bytes: usize) -> Vec<u8> {
    let data = data(n, bytes);
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::none()));
    for (name, content) in
        [("gantry.toml", MANIFEST.as_bytes()), ("data", &data), ("number", n.to_string().as_bytes())]
    {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}
