use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use artifacts::{Artifacts, DirectoryConfig};
use async_trait::async_trait;
use bootstrap::{Ports, Shutdown};
use broker::embedded::Embedded;
use broker::{Broker, BrokerError, Control, Deliveries, DeliverySource, PublishError};
use coordination::record::{RecordCoordination, RecordCoordinationConfig};
use domain::{Manifest, QueueName};
use protocol::{RawMessage, ReplyAddress};
use store::sqlite::{Sqlite, SqliteConfig};
use store::{PushVersion, Record};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::*;
use crate::Config;

/// The embedded broker, seen through: at each publication it notes how many callers wait.
#[derive(Default)]
struct Observed {
    broker: Embedded,
    gateway: OnceLock<Gateway>,
    waiting_at_publication: AtomicUsize,
    is_away: AtomicBool,
}

#[async_trait]
impl Broker for Observed {
    async fn publish(&self, queue: &QueueName, message: RawMessage) -> Result<(), PublishError> {
        let waiting = self.gateway.get().map_or(0, |gateway| gateway.waiters.count());
        self.waiting_at_publication.store(waiting, Ordering::SeqCst);
        if self.is_away.load(Ordering::SeqCst) {
            return Err(PublishError::Away("its link is cut"));
        }
        self.broker.publish(queue, message).await
    }

    fn reply(&self, address: &ReplyAddress, message: RawMessage) {
        self.broker.reply(address, message);
    }

    async fn reject(
        &self,
        queue: &QueueName,
        message: RawMessage,
        code: &str,
        reason: &str,
    ) -> Result<(), PublishError> {
        self.broker.reject(queue, message, code, reason).await
    }

    async fn consume(&self, source: DeliverySource, prefetch: u16) -> Result<Deliveries, BrokerError> {
        self.broker.consume(source, prefetch).await
    }

    fn reply_queue(&self) -> &str {
        self.broker.reply_queue()
    }

    async fn replies(&self) -> Result<mpsc::Receiver<RawMessage>, BrokerError> {
        self.broker.replies().await
    }

    fn broadcast(&self, control: Control) {
        self.broker.broadcast(control);
    }

    async fn controls(&self) -> Result<mpsc::Receiver<Control>, BrokerError> {
        self.broker.controls().await
    }

    async fn depth(&self, queue: &QueueName) -> Result<Option<u64>, BrokerError> {
        self.broker.depth(queue).await
    }

    fn is_ready(&self) -> bool {
        self.broker.is_ready()
    }

    async fn close(&self) {
        self.broker.close().await;
    }
}

/// A gateway with one model, nobody who works, and a caller who waits for 200 ms.
struct House {
    gateway: Gateway,
    observed: Arc<Observed>,
    version: Arc<VersionRow>,
    _background: JoinSet<()>,
    _directory: tempfile::TempDir,
}

impl House {
    async fn new() -> Self {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("gantry.db");
        let record: Arc<dyn Record> = Arc::new(Sqlite::open(&SqliteConfig { path }).unwrap());
        let observed = Arc::new(Observed::default());
        let ports = Ports {
            record: record.clone(),
            broker: observed.clone(),
            coordination: Arc::new(RecordCoordination::new(
                record.clone(),
                &RecordCoordinationConfig::default(),
            )),
            artifacts: Artifacts::directory(&DirectoryConfig { path: directory.path().join("artifacts") }),
        };
        let (_trigger, shutdown) = Shutdown::new();
        let (gateway, writer) = Gateway::new(Config::default(), ports, shutdown);
        let mut background = JoinSet::new();
        background.spawn(writer.run());
        assert!(observed.gateway.set(gateway.clone()).is_ok());
        let push = PushVersion {
            tenant: gateway.tenant.clone(),
            model: "echo".parse().unwrap(),
            digest: domain::Digest::of(b""),
            bytes: 0,
            manifest: Manifest::parse("runtime = \"builtin\"\nbuiltin = \"echo\"").unwrap(),
        };
        let version = Arc::new(record.push_version(&push).await.unwrap().version);
        Self { gateway, observed, version, _background: background, _directory: directory }
    }

    fn submission(&self) -> Submission {
        Submission {
            model: self.version.model.clone(),
            version: self.version.clone(),
            input: Payload::new(Payload::JSON, &b"1"[..]),
            idempotency_key: None,
            deadline: None,
            traceparent: None,
            attributes: domain::Attributes::default(),
            wait: Duration::from_millis(200),
            room: self.gateway.bodies.clone().try_acquire_owned().unwrap(),
        }
    }
}

// On one thread the task that records and publishes runs to its publication before the caller runs again.
#[tokio::test(flavor = "current_thread")]
async fn the_caller_has_its_place_before_anything_is_published() {
    let house = House::new().await;
    let submitted = submit(&house.gateway, house.submission()).await.unwrap();
    assert!(submitted.reply.is_none(), "nobody works here");
    house.gateway.finish_tasks().await;
    assert_eq!(house.observed.waiting_at_publication.load(Ordering::SeqCst), 1);
    assert_eq!(house.gateway.waiters.count(), 0, "and gives it up");
}

#[tokio::test]
async fn what_is_recorded_is_accepted_although_the_broker_is_away() {
    let house = House::new().await;
    house.observed.is_away.store(true, Ordering::SeqCst);
    let submitted = submit(&house.gateway, house.submission()).await.unwrap();
    assert_eq!((submitted.state, submitted.timing.publish), (State::Queued, None));
    let row = house.gateway.ports.record.find_execution(&house.gateway.tenant, submitted.execute_id).await;
    assert_eq!(row.unwrap().unwrap().execution.state, State::Queued);
    house.gateway.finish_tasks().await;
    assert_eq!(house.gateway.bodies.available_permits(), 256 << 10, "its room is given back");
}

#[tokio::test]
async fn what_is_answered_soon_costs_the_gateway_no_row() {
    let house = House::new().await;
    let requests = DeliverySource::Queues(vec![QueueName::default()]);
    let mut deliveries = house.observed.consume(requests, 1).await.unwrap();
    let (gateway, submission) = (house.gateway.clone(), house.submission());
    let worker = async {
        let delivery = deliveries.next().await.unwrap();
        let request = protocol::Request::parse(delivery.message.clone(), delivery.queue.clone()).unwrap();
        assert!(!request.recorded, "its claim is to make the row");
        let ending = domain::Ending::Succeeded(request.input.clone());
        let reply = Reply { execute_id: request.execute_id, attempt: 1, ending, run: Duration::ZERO };
        assert!(gateway.waiters.wake(reply));
        let _ = delivery.ack().await;
    };
    let (submitted, ()) = tokio::join!(submit(&house.gateway, submission), worker);
    let submitted = submitted.unwrap();
    assert!(submitted.reply.is_some());
    assert_eq!(submitted.timing.record, None);
    house.gateway.finish_tasks().await;
    let row = house.gateway.ports.record.find_execution(&house.gateway.tenant, submitted.execute_id).await;
    assert_eq!(row.unwrap(), None);
    assert_eq!(house.gateway.bodies.available_permits(), 256 << 10, "its room is given back");
}

#[tokio::test]
async fn whoever_gets_a_handle_instead_of_an_answer_finds_the_execution() {
    let house = House::new().await;
    let submitted = submit(&house.gateway, house.submission()).await.unwrap();
    assert!(submitted.reply.is_none() && submitted.timing.publish.is_some());
    let row = house.gateway.ports.record.find_execution(&house.gateway.tenant, submitted.execute_id).await;
    assert_eq!(row.unwrap().unwrap().execution.state, State::Queued);
}

#[tokio::test]
async fn whoever_hangs_up_leaves_an_execution_that_is_recorded() {
    let house = House::new().await;
    let submission = Submission { wait: Duration::from_secs(30), ..house.submission() };
    let hung_up = tokio::time::timeout(Duration::from_millis(50), submit(&house.gateway, submission)).await;
    assert!(hung_up.is_err());
    house.gateway.finish_tasks().await;
    let filter = store::ExecutionFilter { limit: 10, ..store::ExecutionFilter::default() };
    let listed = house.gateway.ports.record.list_executions(&house.gateway.tenant, &filter).await.unwrap();
    assert_eq!(listed.executions.len(), 1);
}

#[tokio::test]
async fn a_key_is_recorded_before_anything_is_published() {
    let house = House::new().await;
    let requests = DeliverySource::Queues(vec![QueueName::default()]);
    let mut deliveries = house.observed.consume(requests, 1).await.unwrap();
    let submission = Submission { idempotency_key: Some("once".to_owned()), ..house.submission() };
    let submitted = submit(&house.gateway, submission).await.unwrap();
    assert!(submitted.timing.record.unwrap() < Duration::from_millis(200), "it did not wait for that");
    let delivery = deliveries.next().await.unwrap();
    assert!(protocol::Request::parse(delivery.message.clone(), delivery.queue.clone()).unwrap().recorded);
}
