use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coordination::record::{RecordCoordination, RecordCoordinationConfig};
use coordination::zookeeper::{ZooKeeper, ZooKeeperConfig};
use coordination::{Contended, Contender, Coordination, Lead, Link, Place, VersionNotice};
use domain::{Digest, ExecuteId, Manifest, NodeId, TenantId};
use protocol::NodeInfo;
use store::postgres::{Postgres, PostgresConfig, migrate};
use store::sqlite::{Sqlite, SqliteConfig};
use store::{PushVersion, Record};
use testkit::{fresh_name, servers};
use tokio::sync::watch;
use tokio::time::timeout;

/// Longer than anything that is awaited takes on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(40);

/// One cluster, seen by as many processes as a test wants.
#[async_trait]
pub trait Env: Send + Sync {
    /// Another process.
    fn process(&self) -> Arc<dyn Coordination>;

    /// How long what a process announced outlives it at most.
    fn lease(&self) -> Duration;

    /// Pushes a version, so far as the port's users do it before they publish it.
    async fn push(&self, notice: &VersionNotice);
}

pub struct OnRecord {
    record: Arc<dyn Record>,
    _place: tempfile::TempDir,
}

impl OnRecord {
    pub fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let record = Sqlite::open(&SqliteConfig { path: place.path().join("gantry.db") }).unwrap();
        Self { record: Arc::new(record), _place: place }
    }
}

#[async_trait]
impl Env for OnRecord {
    fn process(&self) -> Arc<dyn Coordination> {
        process(&self.record)
    }

    fn lease(&self) -> Duration {
        Duration::from_secs(3)
    }

    async fn push(&self, notice: &VersionNotice) {
        push(&self.record, notice).await;
    }
}

/// The same on PostgreSQL.
pub struct OnPostgres {
    record: Arc<dyn Record>,
}

impl OnPostgres {
    /// On the server that all tests share.
    pub async fn new() -> Self {
        Self::on(servers().postgres()).await
    }

    pub async fn on(url: String) -> Self {
        let schema = Some(fresh_name("coordination"));
        let config = PostgresConfig { url, pool_max: 8, ca_file: None, schema };
        migrate(&config).await.unwrap();
        Self { record: Arc::new(Postgres::connect(&config).await.unwrap()) }
    }
}

#[async_trait]
impl Env for OnPostgres {
    fn process(&self) -> Arc<dyn Coordination> {
        process(&self.record)
    }

    fn lease(&self) -> Duration {
        Duration::from_secs(3)
    }

    async fn push(&self, notice: &VersionNotice) {
        push(&self.record, notice).await;
    }
}

fn process(record: &Arc<dyn Record>) -> Arc<dyn Coordination> {
    let config = RecordCoordinationConfig { lease_ms: 3_000, poll_ms: 100 };
    Arc::new(RecordCoordination::new(Arc::clone(record), &config))
}

async fn push(record: &Arc<dyn Record>, notice: &VersionNotice) {
    let manifest = Manifest::parse("runtime = \"builtin\"\nbuiltin = \"echo\"\n").unwrap();
    let VersionNotice { model, digest, .. } = notice.clone();
    let version = PushVersion { tenant: TenantId::default(), model, digest, bytes: 1, manifest };
    assert_eq!(record.push_version(&version).await.unwrap().version.version, notice.version);
}

pub struct OnZooKeeper {
    pub servers: String,
    root: String,
}

impl OnZooKeeper {
    /// On the server that all tests share.
    pub fn new() -> Self {
        Self::on(servers().zookeeper())
    }

    pub fn on(servers: String) -> Self {
        Self { servers, root: format!("/{}/deep", fresh_name("coordination")) }
    }

    pub fn config(&self) -> ZooKeeperConfig {
        ZooKeeperConfig {
            servers: self.servers.clone(),
            root: self.root.clone(),
            session_ms: 4_000,
            credential: None,
        }
    }
}

#[async_trait]
impl Env for OnZooKeeper {
    fn process(&self) -> Arc<dyn Coordination> {
        Arc::new(ZooKeeper::connect(&self.config()))
    }

    fn lease(&self) -> Duration {
        Duration::from_secs(4)
    }

    async fn push(&self, _notice: &VersionNotice) {}
}

/// The `boot`-th life of node `name`, in the test's own process.
pub fn node(name: &str, boot: u32) -> NodeInfo {
    NodeInfo {
        labels: std::collections::BTreeMap::new(),
        id: NodeId::new(name.parse().unwrap(), 1_700_000_000_000, boot),
        address: "here".to_owned(),
        pid: std::process::id(),
        version: "0.1.0".to_owned(),
        slots: 4,
        queues: vec!["default".parse().unwrap()],
        draining: false,
        since: "2026-01-01T00:00:00Z".parse().unwrap(),
    }
}

pub fn notice(model: &str, version: i32) -> VersionNotice {
    let digest = Digest::of(format!("{model} {version}").as_bytes());
    VersionNotice { model: model.parse().unwrap(), version: domain::VersionNumber(version), digest }
}

/// Waits until what is watched is as wanted.
pub async fn see<T: Clone>(
    watched: &mut watch::Receiver<T>,
    what: &str,
    mut wanted: impl FnMut(&T) -> bool,
) -> T {
    match timeout(LIMIT, watched.wait_for(|now| wanted(now))).await {
        Ok(seen) => seen.unwrap().clone(),
        Err(_) => panic!("waited in vain: {what}"),
    }
}

pub async fn sees_nodes(of: &Arc<dyn Coordination>, names: &[&str]) {
    let what = format!("{names:?} are there");
    let as_wanted =
        |nodes: &Arc<[NodeInfo]>| nodes.iter().map(|node| node.id.name().as_str()).eq(names.iter().copied());
    see(&mut of.nodes(), &what, as_wanted).await;
}

pub async fn is_up(of: &Arc<dyn Coordination>) {
    see(&mut of.link(), "the link is up", |link| *link == Link::Up).await;
}

/// The fence, once it leads.
pub async fn leads(lead: &mut watch::Receiver<Lead>, who: &str) -> i64 {
    match see(lead, &format!("{who} leads"), |lead| *lead != Lead::No).await {
        Lead::Yes { fence } => fence,
        Lead::No => unreachable!(),
    }
}

/// A lock.
pub fn lock(key: &str) -> Contended {
    Contended::Lock(key.parse().unwrap())
}

/// A limit.
pub fn limit(name: &str, max: u32) -> Contended {
    Contended::Limit { name: name.parse().unwrap(), max }
}

/// An execution that nobody has seen before.
pub fn contender() -> Contender {
    Contender {
        tenant: TenantId::default(),
        execute_id: ExecuteId::new(1_700_000_000_000),
        attempt: 1,
        node: node("one", 1).id,
        since: "2026-01-01T00:00:00Z".parse().unwrap(),
    }
}

/// A place at the end of the queue.
pub async fn enter(of: &Arc<dyn Coordination>, what: &Contended) -> Place {
    of.enter(what, &contender(), 10_000).await.unwrap()
}

/// Nobody has it and nobody waits: nothing was left behind.
pub async fn settled(of: &Arc<dyn Coordination>, what: &Contended) {
    testkit::eventually("the queue is empty", LIMIT, async || {
        let queue = of.queue(&TenantId::default(), what).await;
        queue.is_ok_and(|queue| queue.holders.is_empty() && queue.waiters.is_empty())
    })
    .await;
}
