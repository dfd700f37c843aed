use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::QueueName;
use futures::stream::{self, SelectAll};
use futures::{Stream, StreamExt};
use lapin::Channel;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_util::sync::CancellationToken;

use super::epoch::{Epoch, ask, close_channel, failed};
use super::message;
use super::names::Names;
use super::settlements::{Settlement, Settlements};
use super::topology::{self, Thing};
use crate::port::StopConsuming;
use crate::{BrokerError, Deliveries, Delivery, DeliverySource, Settle, Settled, metrics};

/// How many deliveries or settlements are taken at once.
const CHUNK: usize = 64;
/// How often it is checked that the broker still knows us.
const WATCHDOG: Duration = Duration::from_secs(10);
/// So long without a delivery, although messages wait and we have room, and something is wrong.
const STARVED: Duration = Duration::from_secs(30);
const PAUSE_LIMIT: Duration = Duration::from_secs(5);

/// Why a subscription stopped running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// Nobody listens any more.
    Gone,
    /// The epoch is over.
    Over,
}

/// One consumer of requests. It outlives connections: on each it runs anew.
pub(super) struct Subscription {
    source: DeliverySource,
    names: Names,
    sink: mpsc::Sender<Delivery>,
    wanted: watch::Receiver<Wanted>,
    applied: watch::Sender<Applied>,
    /// Hears how the first start went.
    ready: Option<oneshot::Sender<Result<(), BrokerError>>>,
}

/// What the holder of the stream asks for; numbered, so that the answer can be told from an older one.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    number: u64,
    paused: bool,
    prefetch: u16,
}

/// Which wish was carried out, while the subscription runs.
#[derive(Debug, Clone, Copy, Default)]
struct Applied {
    number: u64,
    running: bool,
}

impl Subscription {
    /// The subscription, the stream it feeds, and how its first start will have gone.
    pub(super) fn new(
        source: DeliverySource,
        prefetch: u16,
        names: Names,
    ) -> (Self, Deliveries, oneshot::Receiver<Result<(), BrokerError>>) {
        let prefetch = prefetch.max(1);
        let queues = match &source {
            DeliverySource::Queues(queues) => queues.len().max(1),
            DeliverySource::Unroutable | DeliverySource::Dead => 1,
        };
        let (sink, receiver) = mpsc::channel(usize::from(prefetch) * queues);
        let (wants, wanted) = watch::channel(Wanted { number: 0, paused: false, prefetch });
        let (applied, applies) = watch::channel(Applied::default());
        let (ready, started) = oneshot::channel();
        let stop = Box::new(Stop { wants, applies });
        let subscription = Self { source, names, sink, wanted, applied, ready: Some(ready) };
        (subscription, Deliveries::new(receiver, stop), started)
    }

    /// Delivers until nobody listens or the epoch is over.
    ///
    /// # Errors
    /// Any sign that something is wrong; the epoch must end. [`BrokerError::Topology`] at the first start concerns only
    /// this subscription, and is told to whoever waits for it.
    pub(super) async fn run(&mut self, epoch: &Epoch) -> Result<Stopped, BrokerError> {
        let outcome = self.start_and_deliver(epoch).await;
        self.applied.send_modify(|applied| applied.running = false);
        match (outcome, self.ready.take()) {
            (Err(error @ BrokerError::Topology { .. }), Some(ready)) => {
                drop(ready.send(Err(error)));
                Ok(Stopped::Gone)
            }
            (outcome, _) => outcome,
        }
    }

    async fn start_and_deliver(&mut self, epoch: &Epoch) -> Result<Stopped, BrokerError> {
        let queues = self.queues();
        if let DeliverySource::Queues(_) = self.source {
            topology::declare(epoch, &self.things()).await?;
        }
        let channel = epoch.channel().await?;
        let wanted = *self.wanted.borrow_and_update();
        let mut consuming = Consuming::new(channel, queues, epoch.over().clone());
        consuming.follow(wanted).await?;
        self.applied.send_replace(Applied { number: wanted.number, running: true });
        if let Some(ready) = self.ready.take() {
            drop(ready.send(Ok(())));
        }
        let stopped = self.deliver(&mut consuming, epoch).await?;
        consuming.settle_the_rest().await;
        close_channel(&consuming.channel).await;
        Ok(stopped)
    }

    async fn deliver(&mut self, consuming: &mut Consuming, epoch: &Epoch) -> Result<Stopped, BrokerError> {
        let mut watchdog = interval_at(Instant::now() + WATCHDOG, WATCHDOG);
        watchdog.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut over = std::pin::pin!(epoch.over().cancelled());
        let sink = self.sink.clone();
        let mut gone = std::pin::pin!(sink.closed());
        let mut settled = Vec::with_capacity(CHUNK);
        loop {
            tokio::select! {
                biased;
                () = &mut over => return Ok(Stopped::Over),
                () = &mut gone => return Ok(Stopped::Gone),
                _ = consuming.settled.recv_many(&mut settled, CHUNK) => {
                    consuming.settlements.send(&consuming.channel, &settled).await?;
                    settled.clear();
                }
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return Ok(Stopped::Gone);
                    }
                    let wanted = *self.wanted.borrow_and_update();
                    consuming.follow(wanted).await?;
                    self.applied.send_replace(Applied { number: wanted.number, running: true });
                }
                room = sink.reserve(), if !consuming.held.is_empty() => {
                    if let (Ok(room), Some(delivery)) = (room, consuming.held.pop_front()) {
                        room.send(delivery);
                    }
                }
                Some(chunk) = consuming.streams.next(), if consuming.held.is_empty() => {
                    for received in chunk {
                        let delivery = self.read(consuming, received)?;
                        consuming.hand_over(&sink, delivery);
                    }
                }
                _ = watchdog.tick() => consuming.watch().await?,
            }
        }
    }

    fn read(&self, consuming: &mut Consuming, received: Received) -> Result<Delivery, BrokerError> {
        let (queue, delivery) = match received {
            (queue, Some(Ok(delivery))) => (queue, delivery),
            (_, Some(Err(error))) => return Err(failed("receive")(error)),
            // The queue was deleted, or its leader is gone: the driver says no more than this.
            (_, None) => return Err(BrokerError::Away("the broker cancelled a consumer")),
        };
        consuming.delivered = consuming.delivered.max(delivery.delivery_tag);
        consuming.last_delivery = Instant::now();
        metrics::delivered(delivery.redelivered);
        let queue = match &self.source {
            DeliverySource::Queues(_) => self.names.parse_queue(queue.as_str()),
            DeliverySource::Unroutable => delivery.routing_key.as_str().parse().ok(),
            DeliverySource::Dead => message::queue_of_death(&delivery.properties, &self.names),
        };
        let settle = Tag { tag: delivery.delivery_tag, channel: consuming.link.clone() };
        Ok(Delivery {
            queue: queue.unwrap_or_default(),
            message: message::from_amqp(&delivery.properties, delivery.data),
            redelivered: delivery.redelivered,
            settle: Box::new(settle),
        })
    }

    /// What RabbitMQ calls the queues of the source.
    fn queues(&self) -> Vec<ShortString> {
        let queues = match &self.source {
            DeliverySource::Queues(queues) => queues.iter().map(|queue| self.names.queue(queue)).collect(),
            DeliverySource::Unroutable => vec![self.names.unroutable()],
            DeliverySource::Dead => vec![self.names.dead()],
        };
        queues.into_iter().map(ShortString::from).collect()
    }

    /// The queues to make: those of the work, each bound under its name.
    fn things(&self) -> Vec<Thing> {
        let quorum = |queue: &QueueName| Thing::Quorum {
            name: self.names.queue(queue),
            bound_to: Some((self.names.execute(), queue.to_string())),
        };
        match &self.source {
            DeliverySource::Queues(queues) => queues.iter().map(quorum).collect(),
            DeliverySource::Unroutable | DeliverySource::Dead => Vec::new(),
        }
    }
}

/// What a consumer's stream gave, and of which queue: the end of a stream is a sign too.
type Received = (ShortString, Option<lapin::Result<lapin::message::Delivery>>);

/// The channel of a subscription, for one epoch.
struct Consuming {
    channel: Channel,
    queues: Vec<ShortString>,
    /// Their consumers' tags; none while paused.
    tags: Vec<ShortString>,
    streams: SelectAll<Pin<Box<dyn Stream<Item = Vec<Received>> + Send + Sync>>>,
    /// Deliveries for which the stream had no room: it is full of those of a former epoch.
    held: VecDeque<Delivery>,
    settlements: Settlements,
    /// Holds at most as many as there are unsettled deliveries, which the prefetch bounds.
    settled: mpsc::UnboundedReceiver<Settlement>,
    link: Arc<ChannelLink>,
    delivered: u64,
    last_delivery: Instant,
    /// As the channel has it; 0 before it has any.
    prefetch: u16,
}

/// What a delivery needs to be settled.
struct ChannelLink {
    settled: mpsc::UnboundedSender<Settlement>,
    over: CancellationToken,
}

impl Consuming {
    fn new(channel: Channel, queues: Vec<ShortString>, over: CancellationToken) -> Self {
        let (sender, settled) = mpsc::unbounded_channel();
        Self {
            channel,
            queues,
            tags: Vec::new(),
            streams: SelectAll::new(),
            held: VecDeque::new(),
            settlements: Settlements::default(),
            settled,
            link: Arc::new(ChannelLink { settled: sender, over }),
            delivered: 0,
            last_delivery: Instant::now(),
            prefetch: 0,
        }
    }

    async fn follow(&mut self, wanted: Wanted) -> Result<(), BrokerError> {
        if wanted.prefetch != self.prefetch {
            // It holds for consumers that begin from here on (a quorum queue knows no other).
            if !self.tags.is_empty() {
                self.pause().await?;
            }
            let per_consumer = BasicQosOptions { global: false };
            ask("set the prefetch", self.channel.basic_qos(wanted.prefetch, per_consumer)).await?;
            self.prefetch = wanted.prefetch;
        }
        match (wanted.paused, self.tags.is_empty()) {
            (true, false) => self.pause().await,
            (false, true) => self.start().await,
            (true, true) | (false, false) => Ok(()),
        }
    }

    async fn start(&mut self) -> Result<(), BrokerError> {
        for queue in &self.queues {
            let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
            let consume = self.channel.basic_consume(queue.clone(), "".into(), options, none);
            let consumer = ask("consume", consume).await?;
            self.tags.push(consumer.tag());
            let named = queue.clone();
            let received = consumer.map(Some).chain(stream::iter([None])).map(move |r| (named.clone(), r));
            self.streams.push(Box::pin(received.ready_chunks(CHUNK)));
        }
        self.last_delivery = Instant::now();
        Ok(())
    }

    /// Cancels the consumers. What they received until then is still in their streams, whose end is no sign now.
    async fn pause(&mut self) -> Result<(), BrokerError> {
        for tag in self.tags.drain(..) {
            ask("cancel", self.channel.basic_cancel(tag, BasicCancelOptions::default())).await?;
        }
        let streams = std::mem::take(&mut self.streams);
        let rest = streams
            .map(|chunk| chunk.into_iter().filter(|(_, received)| received.is_some()).collect::<Vec<_>>());
        self.streams.push(Box::pin(rest));
        Ok(())
    }

    /// To the stream if it has room, else held back.
    fn hand_over(&mut self, sink: &mpsc::Sender<Delivery>, delivery: Delivery) {
        if !self.held.is_empty() {
            self.held.push_back(delivery);
            return;
        }
        match sink.try_send(delivery) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(delivery) | mpsc::error::TrySendError::Closed(delivery)) => {
                self.held.push_back(delivery);
            }
        }
    }

    /// Looks whether the broker still has our queues and knows us as their consumer, and feeds us.
    async fn watch(&self) -> Result<(), BrokerError> {
        let room = self.settlements.unsettled(self.delivered) < u64::from(self.prefetch);
        let starved = room && self.held.is_empty() && self.last_delivery.elapsed() >= STARVED;
        for queue in &self.queues {
            let Some(found) = topology::look_up(&self.channel, queue.as_str()).await? else {
                return Err(BrokerError::Away("a queue was deleted"));
            };
            if !self.tags.is_empty() && found.consumer_count() == 0 {
                return Err(BrokerError::Away("the broker has forgotten a consumer"));
            }
            if !self.tags.is_empty() && starved && found.message_count() > 0 {
                return Err(BrokerError::Away("messages wait and none is delivered"));
            }
        }
        Ok(())
    }

    async fn settle_the_rest(&mut self) {
        // Whoever settles from now on is told that it is lost.
        self.settled.close();
        let mut rest = Vec::new();
        while let Ok(settlement) = self.settled.try_recv() {
            rest.push(settlement);
        }
        if let Err(error) = self.settlements.send(&self.channel, &rest).await {
            tracing::debug!("the last settlements are lost: {error}");
        }
    }
}

/// What settles one delivery.
struct Tag {
    tag: u64,
    channel: Arc<ChannelLink>,
}

impl Tag {
    fn settle(&self, requeue: bool) -> Settled {
        let settlement = Settlement { tag: self.tag, requeue };
        let lost = self.channel.over.is_cancelled() || self.channel.settled.send(settlement).is_err();
        let settled = if lost { Settled::Lost } else { Settled::Sent };
        metrics::settled(settled);
        settled
    }
}

#[async_trait]
impl Settle for Tag {
    async fn ack(&mut self) -> Settled {
        self.settle(false)
    }

    async fn requeue(&mut self) -> Settled {
        self.settle(true)
    }
}

/// What pauses one subscription.
struct Stop {
    wants: watch::Sender<Wanted>,
    applies: watch::Receiver<Applied>,
}

impl Stop {
    /// While there is no connection nothing is delivered, and there is nothing to wait for.
    async fn want(&self, wish: impl FnOnce(&mut Wanted)) {
        self.wants.send_modify(|wanted| {
            wanted.number += 1;
            wish(wanted);
        });
        let number = self.wants.borrow().number;
        let mut applies = self.applies.clone();
        let done = applies.wait_for(|applied| !applied.running || applied.number >= number);
        // Past the limit the connection is about to end.
        drop(timeout(PAUSE_LIMIT, done).await);
    }
}

#[async_trait]
impl StopConsuming for Stop {
    async fn pause(&self) {
        self.want(|wanted| wanted.paused = true).await;
    }

    async fn resume(&self) {
        self.want(|wanted| wanted.paused = false).await;
    }

    async fn set_prefetch(&self, prefetch: u16) {
        self.want(|wanted| wanted.prefetch = prefetch).await;
    }
}
