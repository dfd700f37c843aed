//! The broker of a single process: queues in memory, with RabbitMQ's promises.
//!
//! It is what `gantry dev` runs on. Nothing is written to disk, because a message is a hint: what was accepted lies in
//! the record, and the monitor publishes again what nobody claimed. A confirm therefore means "queued", and is given
//! at once; unsettled deliveries go back in front of their queue when their consumer ends; a message for a queue that
//! nobody ever consumed goes to the unroutable ones.

mod queues;

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use domain::QueueName;
use protocol::{RawMessage, ReplyAddress};
use tokio::sync::mpsc;

use self::queues::{Queues, lock};
use crate::{Broker, BrokerError, Control, Deliveries, DeliverySource, PublishError, metrics, rejection};

/// How many messages may wait in one queue; more are refused.
const QUEUE_LENGTH_MAX: usize = 100_000;
/// How many rejected messages are kept to look at.
const REJECTED_KEPT: usize = 1_000;
/// After so many returns a message is dead: as the delivery-limit that an operator sets on RabbitMQ.
const DELIVERY_LIMIT: u32 = 20;
/// How many replies may wait for their reader; more are dropped.
const REPLIES_WAITING_MAX: usize = 100_000;
/// How many broadcasts may wait for one reader; more are dropped.
const CONTROLS_WAITING_MAX: usize = 1_000;
/// Where replies to this process go.
const REPLY_QUEUE: &str = "gantry.reply.embedded";

/// The broker of this process: make one and share it.
pub struct Embedded {
    queues: Arc<Mutex<Queues>>,
    listeners: Mutex<Listeners>,
}

/// Who hears replies and broadcasts.
#[derive(Default)]
struct Listeners {
    replies: Option<mpsc::Sender<RawMessage>>,
    controls: Vec<mpsc::Sender<Control>>,
}

impl Embedded {
    /// A broker with no queues.
    #[must_use]
    pub fn new() -> Self {
        Self { queues: Queues::new(), listeners: Mutex::default() }
    }

    /// The last rejected messages, at most 1,000, the oldest first, with their reasons in the headers.
    #[must_use]
    pub fn rejected(&self) -> Vec<RawMessage> {
        lock(&self.queues).rejected()
    }

    fn listeners(&self) -> std::sync::MutexGuard<'_, Listeners> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Embedded {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Broker for Embedded {
    async fn publish(&self, queue: &QueueName, message: RawMessage) -> Result<(), PublishError> {
        metrics::published(lock(&self.queues).publish(queue.clone(), message))
    }

    fn reply(&self, address: &ReplyAddress, mut message: RawMessage) {
        let listeners = self.listeners();
        let Some(replies) = listeners.replies.as_ref().filter(|_| address.reply_to == REPLY_QUEUE) else {
            metrics::replies_dropped("gone", 1);
            return;
        };
        message.correlation_id = Some(address.correlation_id.clone());
        if replies.try_send(message).is_err() {
            metrics::replies_dropped("full", 1);
        }
    }

    async fn reject(
        &self,
        queue: &QueueName,
        message: RawMessage,
        code: &str,
        reason: &str,
    ) -> Result<(), PublishError> {
        metrics::published(lock(&self.queues).reject(rejection::with_reason(message, queue, code, reason)))
    }

    async fn consume(&self, source: DeliverySource, prefetch: u16) -> Result<Deliveries, BrokerError> {
        Ok(lock(&self.queues).consume(source, prefetch))
    }

    fn reply_queue(&self) -> &str {
        REPLY_QUEUE
    }

    async fn replies(&self) -> Result<mpsc::Receiver<RawMessage>, BrokerError> {
        let (sender, receiver) = mpsc::channel(REPLIES_WAITING_MAX);
        if !lock(&self.queues).is_closed() {
            self.listeners().replies = Some(sender);
        }
        Ok(receiver)
    }

    fn broadcast(&self, control: Control) {
        self.listeners().controls.retain(|listener| match listener.try_send(control.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                metrics::control_dropped();
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        });
    }

    async fn controls(&self) -> Result<mpsc::Receiver<Control>, BrokerError> {
        let (sender, receiver) = mpsc::channel(CONTROLS_WAITING_MAX);
        if !lock(&self.queues).is_closed() {
            self.listeners().controls.push(sender);
        }
        Ok(receiver)
    }

    async fn depth(&self, queue: &QueueName) -> Result<Option<u64>, BrokerError> {
        Ok(lock(&self.queues).depth(queue).map(|depth| depth as u64))
    }

    fn is_ready(&self) -> bool {
        !lock(&self.queues).is_closed()
    }

    async fn close(&self) {
        lock(&self.queues).close();
        *self.listeners() = Listeners::default();
    }
}
