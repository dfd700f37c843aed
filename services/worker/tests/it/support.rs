//! A worker's world: the embedded ports on a directory of the test's own, models, producers, and who hears the replies.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use artifacts::{Artifacts, DirectoryConfig};
use bootstrap::{Ports, Shutdown, ShutdownTrigger};
use broker::Broker as _;
use broker::embedded::Embedded;
use coordination::Coordination;
use coordination::record::{RecordCoordination, RecordCoordinationConfig};
use domain::{
    Digest, Ending, ExecuteId, LockKey, Manifest, NodeId, Payload, QueueName, State, TenantId,
    VersionSelector,
};
use protocol::http::Execution;
use protocol::{RawMessage, Reply, ReplyAddress, Request};
use store::sqlite::{Sqlite, SqliteConfig};
use store::{LogFilter, LoggedLine, PushVersion, Record};
use tempfile::TempDir;
use testkit::{eventually, eventually_some};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use crate::counted::Counted;

/// Longer than anything here takes on a slow machine.
pub const BOUND: Duration = Duration::from_secs(30);

pub struct World {
    pub dir: TempDir,
    pub record: Arc<dyn Record>,
    pub broker: Arc<Embedded>,
    pub coordination: Arc<Counted>,
    ports: Ports,
    replies: Mutex<Replies>,
}

struct Replies {
    receiver: mpsc::Receiver<RawMessage>,
    heard: HashMap<String, Vec<RawMessage>>,
}

/// A worker that runs in the background; killed with all it runs when it is dropped.
pub struct Running {
    pub trigger: ShutdownTrigger,
    task: JoinSet<anyhow::Result<()>>,
}

impl Running {
    /// Waits for its end.
    pub async fn ended(mut self) -> anyhow::Result<()> {
        tokio::time::timeout(BOUND, self.task.join_next()).await.expect("the worker hangs").unwrap().unwrap()
    }
}

impl World {
    pub async fn new() -> Self {
        // What the worker has to say, for who asks with `RUST_LOG=worker`.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let dir = tempfile::tempdir().unwrap();
        let record: Arc<dyn Record> =
            Arc::new(Sqlite::open(&SqliteConfig { path: dir.path().join("record.db") }).unwrap());
        let broker = Arc::new(Embedded::new());
        let leases = RecordCoordinationConfig { lease_ms: 1_500, poll_ms: 100 };
        let coordination = RecordCoordination::new(Arc::clone(&record), &leases);
        let coordination = Arc::new(Counted::new(Arc::new(coordination)));
        let ports = Ports {
            record: Arc::clone(&record),
            broker: Arc::clone(&broker) as _,
            coordination: Arc::clone(&coordination) as _,
            artifacts: Artifacts::directory(&DirectoryConfig { path: dir.path().join("artifacts") }),
        };
        let receiver = broker.replies().await.unwrap();
        let replies = Mutex::new(Replies { receiver, heard: HashMap::new() });
        Self { dir, record, broker, coordination, ports, replies }
    }

    /// The configuration of a worker called `name`.
    pub fn config(&self, name: &str) -> worker::Config {
        worker::Config {
            name: name.parse().unwrap(),
            slots: 4,
            cache_dir: self.cache(),
            scratch_dir: self.dir.path().join("scratch"),
            lease_ms: 6_000,
            renew_ms: 200,
            fetch_timeout_ms: 10_000,
            shim: vec![env!("CARGO_BIN_EXE_worker-under-test").to_owned(), "shim".to_owned()],
            ..worker::Config::default()
        }
    }

    /// Starts a worker; it takes deliveries before this returns.
    pub async fn start(&self, config: worker::Config) -> Running {
        let before = self.lives().await;
        let (trigger, shutdown) = Shutdown::new();
        let mut task = JoinSet::new();
        task.spawn(worker::run(config, self.ports.clone(), shutdown));
        // It announces itself last.
        eventually("the worker is announced", BOUND, async || {
            self.lives().await.iter().any(|life| !before.contains(life))
        })
        .await;
        Running { trigger, task }
    }

    pub fn coordination(&self) -> &dyn coordination::Coordination {
        &*self.ports.coordination
    }

    async fn lives(&self) -> Vec<NodeId> {
        self.coordination.nodes().borrow().iter().map(|node| node.id.clone()).collect()
    }

    pub fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// A path scripts may write to, and its text as they know it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Pushes a version of `model` whose bundle is already in the node's cache.
    pub async fn push(&self, model: &str, manifest: &str, script: &str) -> Digest {
        let digest = self.push_uncached(model, manifest, script).await;
        self.cache_bundle(digest, script);
        digest
    }

    /// Pushes a version of `model` that the node must still fetch.
    pub async fn push_uncached(&self, model: &str, manifest: &str, script: &str) -> Digest {
        let digest = Digest::of(format!("{model}{manifest}{script}").as_bytes());
        let version = PushVersion {
            tenant: TenantId::default(),
            model: model.parse().unwrap(),
            digest,
            bytes: 1,
            manifest: Manifest::parse(manifest).unwrap(),
        };
        self.record.push_version(&version).await.unwrap();
        digest
    }

    pub fn cache_bundle(&self, digest: Digest, script: &str) {
        let dir = protocol::cache::bundle_dir(&self.cache(), digest);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("run.sh"), script).unwrap();
    }

    /// Pushes a model that runs `script` with a shell, with `more` in its manifest.
    pub async fn push_script(&self, model: &str, more: &str, script: &str) {
        let manifest = format!("runtime = \"process\"\ncommand = [\"/bin/bash\", \"run.sh\"]\n{more}");
        self.push(model, &manifest, script).await;
    }

    pub fn request(&self, model: &str, input: &str) -> Request {
        let execute_id = ExecuteId::new(unix_ms());
        Request {
            execute_id,
            model: model.parse().unwrap(),
            version: VersionSelector::default(),
            queue: QueueName::default(),
            input: Payload::new(Payload::JSON, input.to_owned().into_bytes()),
            deadline: None,
            reply_address: Some(self.address(&execute_id.to_string())),
            traceparent: None,
            attributes: domain::Attributes::default(),
            recorded: false,
        }
    }

    pub fn address(&self, correlation_id: &str) -> ReplyAddress {
        ReplyAddress {
            reply_to: self.broker.reply_queue().to_owned(),
            correlation_id: correlation_id.to_owned(),
        }
    }

    /// Publishes as a direct producer does, once a worker serves the queue.
    pub async fn publish(&self, request: &Request) {
        self.publish_raw(request.to_message()).await;
    }

    pub async fn publish_raw(&self, message: RawMessage) {
        self.broker.publish(&QueueName::default(), message).await.unwrap();
    }

    /// Publishes `model` with `input` and waits for the reply.
    pub async fn run(&self, model: &str, input: &str) -> Reply {
        let request = self.request(model, input);
        self.publish(&request).await;
        self.reply_to(&request).await
    }

    pub async fn reply_to(&self, request: &Request) -> Reply {
        let correlation_id = &request.reply_address.as_ref().unwrap().correlation_id;
        Reply::parse(self.messages(correlation_id, 1).await.remove(0)).unwrap()
    }

    /// Waits for `count` messages with this correlation id.
    pub async fn messages(&self, correlation_id: &str, count: usize) -> Vec<RawMessage> {
        let mut replies = self.replies.lock().await;
        let all_heard = async {
            while replies.heard.get(correlation_id).map_or(0, Vec::len) < count {
                let message = replies.receiver.recv().await.unwrap();
                let correlation_id = message.correlation_id.clone().unwrap();
                replies.heard.entry(correlation_id).or_default().push(message);
            }
        };
        let heard = tokio::time::timeout(BOUND, all_heard).await;
        assert!(heard.is_ok(), "no reply to {correlation_id}");
        replies.heard[correlation_id].clone()
    }

    /// The next reply to anybody.
    pub async fn next_reply(&self) -> RawMessage {
        let mut replies = self.replies.lock().await;
        tokio::time::timeout(BOUND, replies.receiver.recv()).await.expect("no reply").unwrap()
    }

    /// How many replies have come with this correlation id, of all that were sent so far.
    pub async fn heard(&self, correlation_id: &str) -> usize {
        let mut replies = self.replies.lock().await;
        while let Ok(message) = replies.receiver.try_recv() {
            let correlation_id = message.correlation_id.clone().unwrap();
            replies.heard.entry(correlation_id).or_default().push(message);
        }
        replies.heard.get(correlation_id).map_or(0, Vec::len)
    }

    pub async fn find(&self, execute_id: ExecuteId) -> Option<Execution> {
        let row = self.record.find_execution(&TenantId::default(), execute_id).await.unwrap();
        row.map(|row| row.execution)
    }

    pub async fn until_state(&self, execute_id: ExecuteId, state: State) -> Execution {
        eventually_some(&format!("the execution is {state}"), BOUND, async || {
            self.find(execute_id).await.filter(|execution| execution.state == state)
        })
        .await
    }

    pub async fn ending(&self, execute_id: ExecuteId) -> Option<(i32, Ending)> {
        self.record.find_ending(&TenantId::default(), execute_id).await.unwrap()
    }

    pub async fn log(&self, execute_id: ExecuteId) -> Vec<LoggedLine> {
        let mut log: Vec<LoggedLine> = Vec::new();
        loop {
            let after = log.last().map_or(0, |line| line.log_id);
            let page = self.record.list_log(execute_id, &LogFilter::after(after, 1_000)).await.unwrap().lines;
            if page.is_empty() {
                let ids: Vec<i64> = log.iter().map(|line| line.log_id).collect();
                let dense: Vec<i64> = (1..).take(ids.len()).collect();
                assert!(ids == dense, "the log_ids of {execute_id} are not 1..n");
                return log;
            }
            log.extend(page);
        }
    }

    /// Takes the lock from whoever has it, behind everybody's back: as a restored database or a clumsy operator would.
    pub async fn lose_lock(&self, key: &LockKey) {
        let program = "import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=10)
lost = database.execute('delete from contender where kind = ? and name = ? and fence is not null', ('lock', sys.argv[2]))
database.commit()
sys.exit(lost.rowcount != 1)";
        let database = self.path("record.db");
        let mut python = tokio::process::Command::new("python3");
        python.args(["-c", program]).arg(database).arg(key.as_str());
        assert!(python.status().await.unwrap().success(), "nobody has the lock");
    }

    /// Publishes what a monitor would, until something was due.
    pub async fn dispatch_due(&self) {
        let due = eventually_some("something is due", BOUND, async || {
            let mut due = self.record.take_due(100).await.unwrap();
            due.extend(self.record.take_undispatched(100).await.unwrap());
            Some(due).filter(|due| !due.is_empty())
        });
        for dispatch in due.await {
            self.publish_raw(dispatch.request.to_message()).await;
        }
    }
}

/// Waits for a script to have written a whole line to `file`, and returns the lines.
pub async fn lines_of(file: &Path) -> Vec<String> {
    eventually_some(&format!("{} has a line", file.display()), BOUND, async || {
        let text = fs::read_to_string(file).unwrap_or_default();
        text.ends_with('\n').then(|| text.lines().map(str::to_owned).collect())
    })
    .await
}

pub fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

pub async fn until_dead(pid: &str) {
    eventually(&format!("process {pid} is dead"), BOUND, async || !is_alive(pid)).await;
}

pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

pub const ECHO: &str = "runtime = \"builtin\"\nbuiltin = \"echo\"\n";
