use std::time::Duration;

use async_trait::async_trait;
use domain::{ExecuteId, QueueName};
use protocol::{RawMessage, ReplyAddress};
use tokio::sync::mpsc;

use crate::{BrokerError, PublishError};

/// Dispatch and reply.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// Publishes a request to `queue` and waits for the confirm. Safe to call from any number of tasks at once; that is
    /// what makes it fast. If the future is dropped the message may be there.
    ///
    /// # Errors
    /// [`PublishError`], which says whether the message may be there.
    async fn publish(&self, queue: &QueueName, message: RawMessage) -> Result<(), PublishError>;

    /// Sends a reply without waiting: it is dropped if the broker is away, its queue is gone, or too many are waiting
    /// to be sent (the row has the answer).
    fn reply(&self, address: &ReplyAddress, message: RawMessage);

    /// [`Broker::reply`] for several that are sent at the same time: cheaper than one by one.
    fn reply_all(&self, replies: Vec<(ReplyAddress, RawMessage)>) {
        for (address, message) in replies {
            self.reply(&address, message);
        }
    }

    /// Puts a message that can never be run into the rejected queue, and waits for the confirm.
    ///
    /// # Errors
    /// [`PublishError`]: do not acknowledge the delivery it came with.
    async fn reject(
        &self,
        queue: &QueueName,
        message: RawMessage,
        code: &str,
        reason: &str,
    ) -> Result<(), PublishError>;

    /// Begins to receive from `source`, with at most `prefetch` unsettled deliveries at once (on RabbitMQ: of each of its
    /// queues). The stream survives the
    /// loss of the connection: deliveries that were not settled come again, with `redelivered` set, here or elsewhere.
    ///
    /// # Errors
    /// [`BrokerError::Topology`] if the source cannot be what it must be. The broker being away is no error: the stream
    /// begins when it is back.
    async fn consume(&self, source: DeliverySource, prefetch: u16) -> Result<Deliveries, BrokerError>;

    /// The address replies to this process go to, with `correlation_id` left to the caller; different at each boot.
    fn reply_queue(&self) -> &str;

    /// Begins to receive the replies to this process; called at most once. Replies sent while the connection is down may
    /// be lost.
    ///
    /// # Errors
    /// [`BrokerError::Topology`] as for [`Broker::consume`].
    async fn replies(&self) -> Result<mpsc::Receiver<RawMessage>, BrokerError>;

    /// Tells every worker something, without waiting. It may get lost.
    fn broadcast(&self, control: Control);

    /// Begins to receive what is broadcast.
    ///
    /// # Errors
    /// [`BrokerError::Topology`] as for [`Broker::consume`].
    async fn controls(&self) -> Result<mpsc::Receiver<Control>, BrokerError>;

    /// How many messages wait in `queue`, not counting those delivered and not settled. `None` if nobody has made it yet: what is
    /// published to it goes to the unroutable ones.
    ///
    /// # Errors
    /// [`BrokerError`].
    async fn depth(&self, queue: &QueueName) -> Result<Option<u64>, BrokerError>;

    /// May a publication be expected to succeed now?
    fn is_ready(&self) -> bool;

    /// Closes everything, in bounded time: what was not settled goes back to its queue.
    async fn close(&self);
}

/// Where deliveries come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliverySource {
    /// Requests on these queues, which are made if they do not exist.
    Queues(Vec<QueueName>),
    /// Requests that no queue took: published with a routing key that names none.
    Unroutable,
    /// Requests that were given back too often.
    Dead,
}

/// What is told to every worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// A caller asked to take this execution back.
    Cancel(ExecuteId),
}

/// The stream of deliveries of one consumer. Dropping it gives what was not settled back.
pub struct Deliveries {
    receiver: mpsc::Receiver<Delivery>,
    stop: Box<dyn StopConsuming>,
}

/// How an adapter stops a consumer.
#[async_trait]
pub(crate) trait StopConsuming: Send + Sync {
    /// No further deliveries; those received can still be settled.
    async fn pause(&self);
    /// Deliveries again.
    async fn resume(&self);
    /// Another bound on what is unsettled.
    async fn set_prefetch(&self, prefetch: u16);
}

impl Deliveries {
    pub(crate) fn new(receiver: mpsc::Receiver<Delivery>, stop: Box<dyn StopConsuming>) -> Self {
        Self { receiver, stop }
    }

    /// The next delivery; `None` once the broker is closed.
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Delivery> {
        self.receiver.recv().await
    }

    /// Waits for at least one delivery and takes at most `limit` (at least 1) of those that are there.
    ///
    /// Returns an empty vector once the broker is closed. Dropping the future loses nothing.
    pub async fn next_chunk(&mut self, limit: usize) -> Vec<Delivery> {
        let mut chunk = Vec::new();
        self.receiver.recv_many(&mut chunk, limit.max(1)).await;
        chunk
    }

    /// Takes no further deliveries until [`Deliveries::resume`]: a full node refuses. Those already received can still
    /// be taken and settled.
    pub async fn pause(&mut self) {
        self.stop.pause().await;
    }

    /// Takes deliveries again.
    pub async fn resume(&mut self) {
        self.stop.resume().await;
    }

    /// Changes how many deliveries may be unsettled at once. What was received under the former bound stays received, and
    /// on RabbitMQ it does not count towards the new one.
    pub async fn set_prefetch(&mut self, prefetch: u16) {
        self.stop.set_prefetch(prefetch.max(1)).await;
    }
}

/// A message that must be settled. Dropped unsettled, it stays with the consumer until the stream or the connection
/// ends, and is then delivered again.
pub struct Delivery {
    /// The queue it came from (for [`DeliverySource::Unroutable`] and [`DeliverySource::Dead`]: the one it was
    /// published to, as far as its name is a queue's).
    pub queue: QueueName,
    /// The message.
    pub message: RawMessage,
    /// It was delivered before and not settled.
    pub redelivered: bool,
    pub(crate) settle: Box<dyn Settle>,
}

/// How an adapter settles one delivery.
#[async_trait]
pub trait Settle: Send + Sync {
    /// Takes the message off its queue.
    async fn ack(&mut self) -> Settled;
    /// Puts it back into its queue.
    async fn requeue(&mut self) -> Settled;
}

/// Did the broker hear it?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a lost settlement means that the message comes again"]
pub enum Settled {
    /// It was sent on the connection the message came by.
    Sent,
    /// That connection is gone: the message comes again.
    Lost,
}

impl Delivery {
    /// Takes the message off its queue: its execution is claimed, ended or refused for good.
    pub async fn ack(mut self) -> Settled {
        self.settle.ack().await
    }

    /// Puts it back into its queue: only for a consumer that stops (each time counts towards the broker's
    /// delivery limit).
    pub async fn requeue(mut self) -> Settled {
        self.settle.requeue().await
    }
}

/// How long [`Broker::publish`] waits for a confirm.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
