use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::epoch::{Epoch, Settings, ask};
use super::replier::{Outgoing, Replier};
use super::supervisor::Service;
use super::topology;
use crate::{BrokerError, CONFIRM_TIMEOUT, PublishError};

/// Unconfirmed publications: the driver looks through all of them at each confirm of several.
const UNCONFIRMED_MAX: usize = 2_048;
/// Publications that wait to be sent.
const WAITING_MAX: usize = 2_048;
/// Replies and broadcasts that wait to be sent; more are dropped.
const REPLIES_WAITING_MAX: usize = 16_384;
/// How many are taken at once.
const CHUNK: usize = 64;
/// So many publications without a confirm in time, and the connection is given up: each holds memory in the driver.
const UNKNOWN_MAX: usize = 1_000;
const WATCHDOG: Duration = Duration::from_secs(10);

/// The publishing side of a process, for any number of callers.
pub(super) struct Publisher {
    orders: mpsc::Sender<Box<Order>>,
    replies: mpsc::Sender<Outgoing>,
    unknown: Arc<AtomicUsize>,
    link: watch::Receiver<Link>,
}

/// A message that is to be published, and who waits for its confirm.
pub(super) struct Order {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
    answer: oneshot::Sender<Result<(), PublishError>>,
}

/// What the tasks publish on, as long as there is a connection.
pub(super) type Link = Option<Arc<Channels>>;

/// The channels of one epoch. Each is used by one task only: two publishers on one channel can swap their confirms.
pub(super) struct Channels {
    pub(super) epoch: Arc<Epoch>,
    confirmed: Channel,
    pub(super) replies: Channel,
}

impl Publisher {
    /// The publisher, and the service that gives it connections. Its tasks run until it is dropped.
    pub(super) fn new(settings: &Arc<Settings>, tasks: &TaskTracker) -> (Self, PublishService) {
        let (sender, link) = watch::channel(None);
        let unknown = Arc::new(AtomicUsize::new(0));
        let (orders, receiver) = mpsc::channel(WAITING_MAX);
        tasks.spawn(OrderTask { orders: receiver, link: link.clone() }.run());
        let (replies, receiver) = mpsc::channel(REPLIES_WAITING_MAX);
        tasks.spawn(Replier::new(receiver, link.clone()).run());
        let service = PublishService { settings: settings.clone(), link: sender, unknown: unknown.clone() };
        (Self { orders, replies, unknown, link }, service)
    }

    /// Publishes and waits for the confirm, at most [`CONFIRM_TIMEOUT`].
    pub(super) fn publish(
        &self,
        exchange: &str,
        routing_key: &str,
        (properties, body): (BasicProperties, Bytes),
    ) -> impl Future<Output = Result<(), PublishError>> {
        let (answer, confirmed) = oneshot::channel();
        let (exchange, routing_key) = (exchange.into(), routing_key.into());
        let order = Box::new(Order { exchange, routing_key, properties, body, answer });
        // Apart from what is above, so that thousands of callers who wait do not keep room for a message each.
        self.confirmed(order, confirmed)
    }

    async fn confirmed(
        &self,
        order: Box<Order>,
        confirmed: oneshot::Receiver<Result<(), PublishError>>,
    ) -> Result<(), PublishError> {
        self.check()?;
        let deadline = Instant::now() + CONFIRM_TIMEOUT;
        match timeout_at(deadline, self.orders.send(order)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(PublishError::Away("closed")),
            Err(_) => return Err(PublishError::Away("too many publications wait to be sent")),
        }
        let unknown = PublishError::Unknown { limit_ms: CONFIRM_TIMEOUT.as_millis() as u64 };
        match timeout_at(deadline, confirmed).await {
            Ok(answer) => answer.unwrap_or(Err(unknown)),
            Err(_) => {
                self.unknown.fetch_add(1, Ordering::Relaxed);
                Err(unknown)
            }
        }
    }

    /// Sends without waiting. Gives the reason if it was dropped.
    pub(super) fn send(&self, outgoing: Outgoing) -> Result<(), &'static str> {
        self.check().map_err(|_| "away")?;
        self.replies.try_send(outgoing).map_err(|_| "full")
    }

    /// Waits until everything that was to be sent without waiting is on its way.
    pub(super) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.check().is_ok() && self.replies.send(Outgoing::Flush(done)).await.is_ok() {
            // Dropped when the connection is lost: then there is nothing to wait for.
            drop(flushed.await);
        }
    }

    /// May a publication be expected to succeed?
    pub(super) fn check(&self) -> Result<(), PublishError> {
        match &*self.link.borrow() {
            Some(channels) if !channels.epoch.is_standing() => {
                Err(PublishError::Away("the connection is lost"))
            }
            Some(channels) if channels.epoch.is_blocked() => {
                Err(PublishError::Away("it is short of memory or disk, and takes nothing"))
            }
            Some(_) => Ok(()),
            None => Err(PublishError::Away("there is no connection")),
        }
    }
}

/// Opens the publishing connection and its channels, and watches them.
pub(super) struct PublishService {
    settings: Arc<Settings>,
    link: watch::Sender<Link>,
    unknown: Arc<AtomicUsize>,
}

#[async_trait]
impl Service for PublishService {
    const ROLE: &'static str = "publish";

    async fn begin(&mut self, epoch: &Arc<Epoch>) -> Result<(), BrokerError> {
        topology::declare(epoch, &topology::base(&self.settings.names)).await?;
        let confirmed = epoch.channel().await?;
        ask("ask for confirms", confirmed.confirm_select(ConfirmSelectOptions::default())).await?;
        let replies = epoch.channel().await?;
        self.unknown.store(0, Ordering::Relaxed);
        self.link.send_replace(Some(Arc::new(Channels { epoch: epoch.clone(), confirmed, replies })));
        Ok(())
    }

    async fn serve(&mut self, epoch: &Arc<Epoch>, closed: &CancellationToken) -> Result<(), BrokerError> {
        let watched = epoch.channel().await?;
        let mut events = std::pin::pin!(epoch.events());
        let mut watchdog = interval(WATCHDOG);
        watchdog.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = closed.cancelled() => return Ok(()),
                () = epoch.over().cancelled() => return Err(BrokerError::Away("a channel was closed")),
                Some(error) = events.next() => return Err(error),
                _ = watchdog.tick() => {
                    // A blocked connection sends nothing, and is left to the broker.
                    if !epoch.is_blocked() {
                        self.watch(&watched).await?;
                    }
                }
            }
        }
    }

    async fn end(&mut self, epoch: &Arc<Epoch>) {
        epoch.over().cancel();
        self.link.send_replace(None);
    }
}

impl PublishService {
    /// Without these queues a confirm would mean nothing: what is routed nowhere is confirmed too.
    async fn watch(&self, channel: &Channel) -> Result<(), BrokerError> {
        if self.unknown.load(Ordering::Relaxed) > UNKNOWN_MAX {
            return Err(BrokerError::Away("too many publications were not confirmed in time"));
        }
        for queue in [self.settings.names.unroutable(), self.settings.names.rejected()] {
            if topology::look_up(channel, &queue).await?.is_none() {
                return Err(BrokerError::Away("a queue was deleted"));
            }
        }
        Ok(())
    }
}

/// The one task that publishes with confirms.
struct OrderTask {
    orders: mpsc::Receiver<Box<Order>>,
    link: watch::Receiver<Link>,
}

impl OrderTask {
    async fn run(mut self) {
        loop {
            let link = self.link.borrow_and_update().clone();
            if let Some(channels) = link.filter(|channels| channels.epoch.is_standing()) {
                self.serve(&channels).await;
            }
            tokio::select! {
                changed = self.link.changed() => if changed.is_err() { return },
                order = self.orders.recv() => match order {
                    Some(order) => drop(order.answer.send(Err(PublishError::Away("there is no connection")))),
                    None => return,
                },
            }
        }
    }

    /// Publishes everything that comes without waiting for the confirm of what came before. When the epoch is over,
    /// dropping what is unconfirmed tells its callers that its outcome is unknown.
    async fn serve(&mut self, channels: &Channels) {
        let channel = &channels.confirmed;
        let mut over = std::pin::pin!(channels.epoch.over().cancelled());
        let mut unconfirmed = FuturesUnordered::new();
        let mut chunk = Vec::with_capacity(CHUNK);
        loop {
            let room = UNCONFIRMED_MAX.saturating_sub(unconfirmed.len()).min(CHUNK);
            tokio::select! {
                biased;
                () = &mut over => return,
                Some(first) = unconfirmed.next() => {
                    let mut alive: bool = first;
                    while let Some(Some(next)) = unconfirmed.next().now_or_never() {
                        alive &= next;
                    }
                    if !alive {
                        channels.epoch.over().cancel();
                    }
                }
                taken = self.orders.recv_many(&mut chunk, room), if room > 0 => {
                    if taken == 0 {
                        return;
                    }
                    for order in chunk.drain(..).filter(|order| !order.answer.is_closed()) {
                        if channel.status().connected() {
                            unconfirmed.push(publish(channel, order));
                        } else {
                            drop(order.answer.send(Err(PublishError::Away("the connection is lost"))));
                            channels.epoch.over().cancel();
                        }
                    }
                }
            }
        }
    }
}

/// Publishes at the first poll, then waits for the confirm. Says whether the channel is alive.
///
/// It is never dropped before it ends, except with its channel: the driver would keep an abandoned confirm for ever.
async fn publish(channel: &Channel, order: Box<Order>) -> bool {
    let Order { exchange, routing_key, properties, body, answer } = *order;
    let options = BasicPublishOptions::default();
    let sent = channel.basic_publish(exchange, routing_key, options, &body, properties).await;
    let confirmation = match sent {
        Ok(confirm) => confirm.await,
        Err(error) => Err(error),
    };
    let unknown = PublishError::Unknown { limit_ms: CONFIRM_TIMEOUT.as_millis() as u64 };
    let (outcome, alive) = match confirmation {
        Ok(Confirmation::Ack(None)) => (Ok(()), true),
        Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(_)) => (Err(PublishError::Refused), true),
        Ok(Confirmation::NotRequested) | Err(_) => (Err(unknown), false),
    };
    // The caller may have given up.
    drop(answer.send(outcome));
    alive
}
