//! RabbitMQ, through a driver whose traps stay in here.
//!
//! Two connections per process, one that publishes and one that consumes, because the broker blocks a publishing
//! connection when it is short of memory, acknowledgements included. Each has a supervisor (`supervisor`) that lives
//! through *epochs* (`epoch`): a connection is opened, everything is declared and built on it, and at the first sign that
//! anything is wrong with it (an error, the end of a consumer's stream, an answer that does not come, a queue that is not
//! there) it is thrown away whole and the next one is opened, after a pause with full jitter. The driver's own recovery
//! is not used: it turns a closed channel into a consumer that is silent for ever.
//!
//! Publishing (`publisher`): a few channels, each owned by one task, since two publishers on one channel can get each
//! other's confirms; nothing is `mandatory`, since returned messages are reported to the wrong publisher; what no queue
//! takes goes to an alternate exchange. Replies (`replier`) have a channel without confirms; those that are sent to one process at
//! the same time are one message (`batch`).
//!
//! Consuming (`subscription`, `listener`): a channel per stream; `settlements` turns many acknowledgements into one
//! frame. `topology` declares what must exist; limits are policies, which operators set (`docs/operations-rabbitmq.md`).

mod backoff;
mod batch;
mod consumer;
mod depths;
mod epoch;
mod listener;
mod message;
mod names;
mod publisher;
mod replier;
mod settlements;
mod subscription;
mod supervisor;
mod topology;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use domain::QueueName;
use lapin::BasicProperties;
use lapin::types::ShortString;
use protocol::{RawMessage, ReplyAddress};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::batch::Batch;
use self::consumer::{Consumers, Subscriber};
use self::depths::Depths;
use self::epoch::{CLOSE_LIMIT, Settings};
use self::listener::{Ear, Listener};
use self::message::Kept;
use self::names::Names;
use self::publisher::Publisher;
use self::replier::{Message, Outgoing};
use self::subscription::Subscription;
use self::supervisor::{Common, supervise};
use crate::error::Source;
use crate::{Broker, BrokerError, Control, Deliveries, DeliverySource, PublishError, metrics, rejection};

/// Replies that wait to be read; more are dropped.
const REPLIES_WAITING_MAX: usize = 100_000;
/// Broadcasts that wait to be read; more are dropped.
const CONTROLS_WAITING_MAX: usize = 1_000;
/// For the tasks to end after both connections were closed, each step of which has its own limit.
const TASKS_LIMIT: Duration = Duration::from_secs(8);
/// A part of a name; RabbitMQ allows 255 bytes for the whole.
const NAME_LENGTH_MAX: usize = 100;

/// Which broker, and what our things in it are called.
#[derive(Clone)]
pub struct RabbitMqConfig {
    /// `amqp://user:password@host:port/vhost`, or `amqps://` for TLS.
    pub url: String,
    /// Begins the name of every exchange and queue of one installation.
    pub prefix: String,
    /// Certificates to trust beside the system's, a PEM file.
    pub ca_file: Option<PathBuf>,
}

impl Default for RabbitMqConfig {
    fn default() -> Self {
        Self { url: String::new(), prefix: "gantry".to_owned(), ca_file: None }
    }
}

/// A process's connections to RabbitMQ. Dropping it without [`Broker::close`] closes them in the background.
pub struct RabbitMq {
    names: Names,
    reply_queue: String,
    publisher: Publisher,
    consumers: Consumers,
    depths: Depths,
    closed: CancellationToken,
    tasks: TaskTracker,
}

impl RabbitMq {
    /// Connects. If the broker is away that is no error: it is tried again for as long as this exists.
    ///
    /// `name` must be different at each boot of each process, as `gateway-1f0c9a6b`: it names the connections and the reply queue.
    ///
    /// # Errors
    /// [`BrokerError::Failed`] if the configuration cannot be used, [`BrokerError::Topology`] if the broker has other
    /// things under our names.
    pub async fn connect(config: &RabbitMqConfig, name: &str) -> Result<Self, BrokerError> {
        let settings = Arc::new(settings(config, name).map_err(invalid)?);
        let common = Common::default();
        let closed = common.closed.clone();
        let tasks = TaskTracker::new();
        let (publisher, publishing) = Publisher::new(&settings, &tasks);
        let (consumers, consuming) = Consumers::new(&settings);
        let (published, first_publish) = oneshot::channel();
        let (consumed, first_consume) = oneshot::channel();
        tasks.spawn(supervise(settings.clone(), publishing, published, common.clone()));
        tasks.spawn(supervise(settings.clone(), consuming, consumed, common));
        let depths = Depths::new(&settings);
        let names = settings.names.clone();
        let reply_queue = names.reply_queue();
        let this = Self { names, reply_queue, publisher, consumers, depths, closed, tasks };
        for first in [first_publish, first_consume] {
            if let Ok(Err(error @ BrokerError::Topology { .. })) = first.await {
                this.close().await;
                return Err(error);
            }
        }
        Ok(this)
    }

    fn send_reply(&self, queue: &str, properties: BasicProperties, body: Bytes, replies: u64) {
        let Ok(routing_key) = ShortString::try_new(queue) else {
            return metrics::replies_dropped("forbidden", replies);
        };
        let message = Message { exchange: "".into(), routing_key, properties, body, replies };
        if let Err(reason) = self.publisher.send(Outgoing::Message(Box::new(message))) {
            metrics::replies_dropped(reason, replies);
        }
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

fn settings(config: &RabbitMqConfig, name: &str) -> Result<Settings, Source> {
    for (what, text) in [("prefix", config.prefix.as_str()), ("name of the process", name)] {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if !(1..=NAME_LENGTH_MAX).contains(&text.len()) || !text.bytes().all(plain) {
            return Err(format!("the {what} {text:?} must be 1 to 100 of A-Z a-z 0-9 . _ -").into());
        }
    }
    let ca_pem = match &config.ca_file {
        Some(path) => {
            let pem = std::fs::read_to_string(path);
            Some(pem.map_err(|error| format!("read the certificates in {}: {error}", path.display()))?)
        }
        None => None,
    };
    Ok(Settings {
        uri: Settings::parse_uri(&config.url)?,
        ca_pem,
        process: name.to_owned(),
        names: Names::new(config.prefix.clone(), name.to_owned()),
    })
}

fn invalid(source: Source) -> BrokerError {
    BrokerError::Failed { step: "read the broker's configuration", source }
}

#[async_trait]
impl Broker for RabbitMq {
    async fn publish(&self, queue: &QueueName, message: RawMessage) -> Result<(), PublishError> {
        let message = message::to_amqp(message, Kept::OnDisk);
        metrics::published(self.publisher.publish(&self.names.execute(), queue.as_str(), message).await)
    }

    fn reply(&self, address: &ReplyAddress, mut message: RawMessage) {
        if !self.names.may_be_replied_to(&address.reply_to) {
            return metrics::replies_dropped("forbidden", 1);
        }
        message.correlation_id = Some(address.correlation_id.clone());
        let (properties, body) = message::to_amqp(message, Kept::InMemory);
        self.send_reply(&address.reply_to, properties, body, 1);
    }

    fn reply_all(&self, replies: Vec<(ReplyAddress, RawMessage)>) {
        let mut of_processes: HashMap<String, Vec<RawMessage>> = HashMap::new();
        let is_alone = replies.len() == 1;
        for (address, message) in replies {
            if is_alone || !self.names.is_of_a_process(&address.reply_to) {
                self.reply(&address, message);
            } else {
                let message = RawMessage { correlation_id: Some(address.correlation_id), ..message };
                of_processes.entry(address.reply_to).or_default().push(message);
            }
        }
        for (queue, replies) in of_processes {
            for Batch { properties, body, replies } in batch::to_amqp(&replies) {
                self.send_reply(&queue, properties, body, replies);
            }
        }
    }

    async fn reject(
        &self,
        queue: &QueueName,
        message: RawMessage,
        code: &str,
        reason: &str,
    ) -> Result<(), PublishError> {
        let message = rejection::with_reason(message, queue, code, reason);
        let message = message::to_amqp(message, Kept::OnDisk);
        metrics::published(self.publisher.publish("", &self.names.rejected(), message).await)
    }

    async fn consume(&self, source: DeliverySource, prefetch: u16) -> Result<Deliveries, BrokerError> {
        let (subscription, deliveries, started) = Subscription::new(source, prefetch, self.names.clone());
        self.consumers.register(Subscriber::Work(subscription), started).await?;
        Ok(deliveries)
    }

    fn reply_queue(&self) -> &str {
        &self.reply_queue
    }

    async fn replies(&self) -> Result<mpsc::Receiver<RawMessage>, BrokerError> {
        let (sink, replies) = mpsc::channel(REPLIES_WAITING_MAX);
        let (listener, started) = Listener::new(Ear::Replies(sink), self.names.clone());
        self.consumers.register(Subscriber::Listener(listener), started).await?;
        Ok(replies)
    }

    fn broadcast(&self, control: Control) {
        let properties = message::control_to_amqp(&control);
        let exchange = self.names.control().into();
        let message =
            Message { exchange, routing_key: "".into(), properties, body: Bytes::new(), replies: 0 };
        if self.publisher.send(Outgoing::Message(Box::new(message))).is_err() {
            metrics::control_dropped();
        }
    }

    async fn controls(&self) -> Result<mpsc::Receiver<Control>, BrokerError> {
        let (sink, controls) = mpsc::channel(CONTROLS_WAITING_MAX);
        let (listener, started) = Listener::new(Ear::Controls(sink), self.names.clone());
        self.consumers.register(Subscriber::Listener(listener), started).await?;
        Ok(controls)
    }

    async fn depth(&self, queue: &QueueName) -> Result<Option<u64>, BrokerError> {
        self.depths.of(&self.names.queue(queue)).await
    }

    fn is_ready(&self) -> bool {
        self.publisher.check().is_ok()
    }

    async fn close(&self) {
        drop(timeout(CLOSE_LIMIT, self.publisher.flush()).await);
        self.closed.cancel();
        self.tasks.close();
        drop(timeout(TASKS_LIMIT, async { tokio::join!(self.tasks.wait(), self.depths.close()) }).await);
    }
}
