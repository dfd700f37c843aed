use std::sync::Arc;
use std::time::Duration;

use artifacts::{Artifacts, DirectoryConfig};
use bootstrap::{Ports, Shutdown, ShutdownTrigger};
use broker::embedded::Embedded;
use broker::{Broker, Deliveries, Delivery, DeliverySource};
use coordination::record::{RecordCoordination, RecordCoordinationConfig};
use domain::{Digest, ExecuteId, Manifest, NodeId, Payload, QueueName, State, TenantId, VersionNumber};
use jiff::Timestamp;
use monitor::Config;
use protocol::{NodeInfo, RawMessage, Reply, ReplyAddress, Request};
use store::sqlite::{Sqlite, SqliteConfig};
use store::{
    Claim, ClaimAnswer, ClaimRequest, Conclusion, Finish, Finished, NewExecution, PushVersion, Record,
    Requeue, Settlement,
};
use tempfile::TempDir;
use testkit::eventually_some;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use uuid::Uuid;

pub const LIMIT: Duration = Duration::from_secs(30);
pub const HOUR: Duration = Duration::from_secs(3_600);

/// A monitor and what it stands on.
pub struct Env {
    pub record: Arc<dyn Record>,
    pub broker: Arc<Embedded>,
    pub ports: Ports,
    pub replies: mpsc::Receiver<RawMessage>,
    trigger: ShutdownTrigger,
    shutdown: Shutdown,
    monitors: JoinSet<anyhow::Result<()>>,
    _directory: TempDir,
}

/// Looks often; leases are lost only when a test says so.
pub fn config() -> Config {
    Config { sweep_ms: 50, lease_ms: 3_600_000, renew_ms: 3_600_000, ..Config::default() }
}

impl Env {
    /// Everything but a monitor.
    pub async fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let sqlite = SqliteConfig { path: directory.path().join("gantry.db") };
        let record: Arc<dyn Record> = Arc::new(Sqlite::open(&sqlite).unwrap());
        let broker = Arc::new(Embedded::new());
        let coordination = RecordCoordinationConfig { lease_ms: 5_000, poll_ms: 50 };
        let artifacts = DirectoryConfig { path: directory.path().join("artifacts") };
        let ports = Ports {
            record: Arc::clone(&record),
            broker: broker.clone(),
            coordination: Arc::new(RecordCoordination::new(Arc::clone(&record), &coordination)),
            artifacts: Artifacts::directory(&artifacts),
        };
        let replies = broker.replies().await.unwrap();
        let (trigger, shutdown) = Shutdown::new();
        let monitors = JoinSet::new();
        Self { record, broker, ports, replies, trigger, shutdown, monitors, _directory: directory }
    }

    /// Starts a monitor.
    pub fn start(&mut self, config: Config) {
        self.monitors.spawn(monitor::run(config, self.ports.clone(), self.shutdown.clone()));
    }

    /// Drains the monitors: they must end in time and without an error.
    pub async fn end(mut self) {
        self.trigger.drain();
        let ended = async {
            while let Some(ended) = self.monitors.join_next().await {
                ended.unwrap().unwrap();
            }
        };
        tokio::time::timeout(LIMIT, ended).await.expect("a monitor did not end");
    }

    pub async fn consume(&self, queue: &str) -> Deliveries {
        let queues = DeliverySource::Queues(vec![queue.parse().unwrap()]);
        self.broker.consume(queues, 10).await.unwrap()
    }

    pub fn address(&self) -> ReplyAddress {
        ReplyAddress { reply_to: self.broker.reply_queue().to_owned(), correlation_id: "caller".to_owned() }
    }

    pub async fn reply(&mut self) -> Reply {
        let message = tokio::time::timeout(LIMIT, self.replies.recv()).await.expect("no reply");
        Reply::parse(message.unwrap()).unwrap()
    }

    pub async fn accept(&self, new: NewExecution) -> ExecuteId {
        self.record.accept(std::slice::from_ref(&new)).await.unwrap();
        new.execute_id
    }

    /// Accepted by a gateway that wants a reply.
    pub async fn accepted(&self) -> ExecuteId {
        self.accept(NewExecution { reply_address: Some(self.address()), ..new_execution() }).await
    }

    pub async fn claim(&self, id: ExecuteId, node: &NodeId, lease: Duration) -> Claim {
        let claim = ClaimRequest {
            claim_id: Uuid::now_v7(),
            node: node.clone(),
            lease,
            tenant: TenantId::default(),
            input_digest: request(id).input_digest(),
            request: Request { recorded: true, ..request(id) },
            version: Some(VersionNumber(1)),
            redelivered: false,
            result: None,
        };
        match self.record.claim(&[claim]).await.unwrap().remove(0) {
            ClaimAnswer::Claimed(claim) => claim,
            other => panic!("{other:?}"),
        }
    }

    pub async fn settle(&self, id: ExecuteId, attempt: i32, settlement: Settlement) -> Conclusion {
        let (tail, timeline) = (Vec::new(), Vec::new());
        let finish = Finish { fence: None, execute_id: id, attempt, base: 0, tail, settlement, timeline };
        match self.record.finish(&[finish]).await.unwrap().remove(0) {
            Finished::Stored(conclusion) => *conclusion,
            Finished::Stale => panic!("stale"),
        }
    }

    /// One that becomes due with the next look.
    pub async fn yielded(&self) -> ExecuteId {
        let id = self.accepted().await;
        let claim = self.claim(id, &node("other"), HOUR).await;
        self.settle(id, claim.attempt, Settlement::YIELDED).await;
        id
    }

    /// One that nobody published and that is due to be taken.
    pub async fn undispatched(&self, queue: &str) -> ExecuteId {
        let id = self.accept(NewExecution { queue: queue.parse().unwrap(), ..new_execution() }).await;
        let requeue = Requeue {
            tenant: TenantId::default(),
            input_digest: request(id).input_digest(),
            request: Request { recorded: true, ..request(id) },
            version: None,
        };
        self.record.requeue(&[requeue], Duration::ZERO).await.unwrap();
        id
    }

    pub async fn row(&self, id: ExecuteId) -> protocol::http::Execution {
        self.find(id).await.unwrap()
    }

    pub async fn find(&self, id: ExecuteId) -> Option<protocol::http::Execution> {
        let row = self.record.find_execution(&TenantId::default(), id).await.unwrap();
        row.map(|row| row.execution)
    }

    pub async fn until(&self, id: ExecuteId, state: State) -> protocol::http::Execution {
        let what = format!("{id} is {state}");
        eventually_some(&what, LIMIT, async || self.find(id).await.filter(|row| row.state == state)).await
    }

    /// Makes the model `echo` known.
    pub async fn push(&self) {
        self.push_served_by("echo", "default").await;
    }

    /// A model whose executions go to `queue`.
    pub async fn push_served_by(&self, model: &str, queue: &str) {
        let manifest = format!("runtime = \"builtin\"\nbuiltin = \"echo\"\nqueue = \"{queue}\"\n");
        let version = PushVersion {
            tenant: TenantId::default(),
            model: model.parse().unwrap(),
            digest: Digest::of(b"bundle"),
            bytes: 6,
            manifest: Manifest::parse(&manifest).unwrap(),
        };
        self.record.push_version(&version).await.unwrap();
    }
}

pub async fn next(deliveries: &mut Deliveries) -> Delivery {
    tokio::time::timeout(LIMIT, deliveries.next()).await.expect("no delivery").unwrap()
}

/// Acknowledges the next delivery and says whose it is.
pub async fn delivered(deliveries: &mut Deliveries) -> ExecuteId {
    let delivery = next(deliveries).await;
    let request = Request::parse(delivery.message.clone(), delivery.queue.clone()).unwrap();
    assert!(request.recorded, "a message of a monitor says that its row is there");
    assert_eq!(delivery.ack().await, broker::Settled::Sent);
    request.execute_id
}

pub fn new_id() -> ExecuteId {
    ExecuteId::new(Timestamp::now().as_millisecond().try_into().unwrap())
}

/// A direct producer's message.
pub fn request(execute_id: ExecuteId) -> Request {
    Request {
        execute_id,
        model: "echo".parse().unwrap(),
        version: domain::VersionSelector::default(),
        queue: QueueName::default(),
        input: Payload::new(Payload::JSON, &b"{}"[..]),
        deadline: None,
        reply_address: None,
        traceparent: None,
        attributes: domain::Attributes::default(),
        recorded: false,
    }
}

pub fn new_execution() -> NewExecution {
    let request = request(new_id());
    NewExecution {
        execute_id: request.execute_id,
        tenant: TenantId::default(),
        version: VersionNumber(1),
        input_digest: request.input_digest(),
        model: request.model,
        queue: request.queue,
        input: request.input,
        reply_address: None,
        deadline: None,
        traceparent: None,
        attributes: domain::Attributes::default(),
        idempotency_key: None,
    }
}

pub fn node(name: &str) -> NodeId {
    NodeId::new(name.parse().unwrap(), 1, 1)
}

pub fn info(name: &str) -> NodeInfo {
    NodeInfo {
        labels: std::collections::BTreeMap::new(),
        id: node(name),
        address: "127.0.0.1".to_owned(),
        pid: 1,
        version: "0".to_owned(),
        slots: 1,
        queues: vec![QueueName::default()],
        draining: false,
        since: Timestamp::now(),
    }
}
