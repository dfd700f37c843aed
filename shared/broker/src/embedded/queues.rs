use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use domain::QueueName;
use protocol::RawMessage;
use tokio::sync::mpsc;

use super::{DELIVERY_LIMIT, QUEUE_LENGTH_MAX, REJECTED_KEPT};
use crate::port::StopConsuming;
use crate::{Deliveries, Delivery, DeliverySource, PublishError, Settle, Settled, metrics};

/// All queues of the process and who consumes them. Every method is one step under the broker's lock and waits for
/// nothing.
///
/// Between two steps this holds: where a consumer has room, the queues it serves have nothing ready.
pub(super) struct Queues {
    /// For settling: a delivery does not keep a broker alive that is gone.
    this: Weak<Mutex<Self>>,
    queues: HashMap<Place, Queue>,
    consumers: HashMap<u64, Consumer>,
    rejected: VecDeque<RawMessage>,
    last_id: u64,
    closed: bool,
}

/// Where a message lies.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Place {
    Named(QueueName),
    Unroutable,
    Dead,
}

#[derive(Default)]
struct Queue {
    ready: VecDeque<Stored>,
    /// Their ids; the one whose turn it is comes first.
    consumers: VecDeque<u64>,
}

struct Stored {
    queue: QueueName,
    message: RawMessage,
    /// How often it was given back.
    returns: u32,
}

struct Consumer {
    /// Holds as many deliveries as any prefetch allows, so that sending never fails for want of room.
    sender: mpsc::Sender<Delivery>,
    places: Vec<Place>,
    prefetch: usize,
    paused: bool,
    /// By tag, which is the order of delivery.
    unsettled: BTreeMap<u64, (Place, Stored)>,
}

impl Consumer {
    fn has_room(&self) -> bool {
        !self.paused && self.unsettled.len() < self.prefetch
    }
}

/// A step never panics half-way, so a poisoned lock is as good as any.
pub(super) fn lock(queues: &Mutex<Queues>) -> MutexGuard<'_, Queues> {
    queues.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Queues {
    pub(super) fn new() -> Arc<Mutex<Self>> {
        Arc::new_cyclic(|this| {
            Mutex::new(Self {
                this: this.clone(),
                queues: HashMap::new(),
                consumers: HashMap::new(),
                rejected: VecDeque::new(),
                last_id: 0,
                closed: false,
            })
        })
    }

    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Stores the message in `queue`, or with the unroutable ones if nobody ever consumed that queue.
    pub(super) fn publish(&mut self, queue: QueueName, message: RawMessage) -> Result<(), PublishError> {
        if self.closed {
            return Err(PublishError::Away("closed"));
        }
        let named = Place::Named(queue.clone());
        let place = if self.queues.contains_key(&named) { named } else { Place::Unroutable };
        let ready = &mut self.queues.entry(place.clone()).or_default().ready;
        if ready.len() >= QUEUE_LENGTH_MAX {
            return Err(PublishError::Refused);
        }
        ready.push_back(Stored { queue, message, returns: 0 });
        self.deliver(&place);
        Ok(())
    }

    /// Keeps the message among the last rejected ones.
    pub(super) fn reject(&mut self, message: RawMessage) -> Result<(), PublishError> {
        if self.closed {
            return Err(PublishError::Away("closed"));
        }
        if self.rejected.len() >= REJECTED_KEPT {
            self.rejected.pop_front();
        }
        self.rejected.push_back(message);
        Ok(())
    }

    pub(super) fn rejected(&self) -> Vec<RawMessage> {
        self.rejected.iter().cloned().collect()
    }

    pub(super) fn depth(&self, queue: &QueueName) -> Option<usize> {
        self.queues.get(&Place::Named(queue.clone())).map(|queue| queue.ready.len())
    }

    /// Makes the queues of `source` and a consumer of them. Once closed, the stream ends at once.
    pub(super) fn consume(&mut self, source: DeliverySource, prefetch: u16) -> Deliveries {
        let prefetch = usize::from(prefetch.max(1));
        let (sender, receiver) = mpsc::channel(usize::from(u16::MAX));
        self.last_id += 1;
        let id = self.last_id;
        let stop = Box::new(Stop { queues: self.this.clone(), consumer: id });
        if self.closed {
            return Deliveries::new(receiver, stop);
        }
        let places: Vec<Place> = match source {
            DeliverySource::Queues(names) => names.into_iter().map(Place::Named).collect(),
            DeliverySource::Unroutable => vec![Place::Unroutable],
            DeliverySource::Dead => vec![Place::Dead],
        };
        for place in &places {
            self.queues.entry(place.clone()).or_default().consumers.push_back(id);
        }
        let unsettled = BTreeMap::new();
        self.consumers.insert(id, Consumer { sender, places, prefetch, paused: false, unsettled });
        self.fill(id);
        Deliveries::new(receiver, stop)
    }

    /// Ends everything: streams end, nothing is taken any more.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.consumers.clear();
        self.queues.clear();
    }

    /// Takes the delivery from its consumer, if that still holds it.
    fn settle(&mut self, consumer: u64, tag: u64, back: bool) -> Settled {
        let holder = self.consumers.get_mut(&consumer);
        let Some((place, stored)) = holder.and_then(|holder| holder.unsettled.remove(&tag)) else {
            return Settled::Lost;
        };
        if back {
            let place = self.give_back(place, stored);
            self.deliver(&place);
        }
        self.fill(consumer);
        Settled::Sent
    }

    fn pause(&mut self, consumer: u64, paused: bool) {
        if let Some(holder) = self.consumers.get_mut(&consumer) {
            holder.paused = paused;
            self.fill(consumer);
        }
    }

    fn set_prefetch(&mut self, consumer: u64, prefetch: u16) {
        if let Some(holder) = self.consumers.get_mut(&consumer) {
            holder.prefetch = prefetch.into();
            self.fill(consumer);
        }
    }

    /// Ends the consumer: what it did not settle goes back in front of its queue, in order.
    fn cancel(&mut self, consumer: u64) {
        let Some(gone) = self.consumers.remove(&consumer) else { return };
        for place in &gone.places {
            if let Some(queue) = self.queues.get_mut(place) {
                queue.consumers.retain(|id| *id != consumer);
            }
        }
        let mut changed = Vec::new();
        for (place, stored) in gone.unsettled.into_values().rev() {
            let place = self.give_back(place, stored);
            if !changed.contains(&place) {
                changed.push(place);
            }
        }
        for place in changed {
            self.deliver(&place);
        }
    }

    /// Puts the message in front of its queue, or with the dead ones when it was given back too often. Says where.
    fn give_back(&mut self, place: Place, mut stored: Stored) -> Place {
        stored.returns += 1;
        let dead = stored.returns > DELIVERY_LIMIT && matches!(place, Place::Named(_));
        let place = if dead { Place::Dead } else { place };
        let ready = &mut self.queues.entry(place.clone()).or_default().ready;
        if dead {
            stored.returns = 0;
            ready.push_back(stored);
        } else {
            ready.push_front(stored);
        }
        place
    }

    /// Hands out what lies ready at `place`, in turn to its consumers that have room.
    fn deliver(&mut self, place: &Place) {
        let Some(queue) = self.queues.get_mut(place) else { return };
        while !queue.ready.is_empty() {
            let consumers = &self.consumers;
            let free = |id: &u64| consumers.get(id).is_some_and(Consumer::has_room);
            let Some(turn) = queue.consumers.iter().position(free) else { return };
            let id = queue.consumers[turn];
            queue.consumers.rotate_left(turn + 1);
            if let (Some(consumer), Some(stored)) = (self.consumers.get_mut(&id), queue.ready.pop_front()) {
                self.last_id += 1;
                hand_over(&self.this, (id, consumer), self.last_id, place, stored);
            }
        }
    }

    /// Gives the consumer what it has room for, one from each of its queues in turn.
    fn fill(&mut self, id: u64) {
        let Some(consumer) = self.consumers.get_mut(&id) else { return };
        let mut empty = 0;
        let mut turn = 0;
        while consumer.has_room() && empty < consumer.places.len() {
            let place = consumer.places[turn % consumer.places.len()].clone();
            turn += 1;
            match self.queues.get_mut(&place).and_then(|queue| queue.ready.pop_front()) {
                None => empty += 1,
                Some(stored) => {
                    empty = 0;
                    self.last_id += 1;
                    hand_over(&self.this, (id, consumer), self.last_id, &place, stored);
                }
            }
        }
    }
}

/// If the stream's receiver is just being dropped the delivery stays unsettled, and its consumer's end gives it back.
fn hand_over(
    queues: &Weak<Mutex<Queues>>,
    (id, consumer): (u64, &mut Consumer),
    tag: u64,
    place: &Place,
    stored: Stored,
) {
    let redelivered = stored.returns > 0;
    metrics::delivered(redelivered);
    let settle = Box::new(Tag { queues: queues.clone(), consumer: id, tag });
    let delivery =
        Delivery { queue: stored.queue.clone(), message: stored.message.clone(), redelivered, settle };
    consumer.unsettled.insert(tag, (place.clone(), stored));
    drop(consumer.sender.try_send(delivery));
}

/// What settles one delivery.
struct Tag {
    queues: Weak<Mutex<Queues>>,
    consumer: u64,
    tag: u64,
}

impl Tag {
    fn settle(&self, back: bool) -> Settled {
        let settled = match self.queues.upgrade() {
            Some(queues) => lock(&queues).settle(self.consumer, self.tag, back),
            None => Settled::Lost,
        };
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

/// What stops one consumer; dropping it ends the consumer.
struct Stop {
    queues: Weak<Mutex<Queues>>,
    consumer: u64,
}

#[async_trait]
impl StopConsuming for Stop {
    async fn pause(&self) {
        if let Some(queues) = self.queues.upgrade() {
            lock(&queues).pause(self.consumer, true);
        }
    }

    async fn resume(&self) {
        if let Some(queues) = self.queues.upgrade() {
            lock(&queues).pause(self.consumer, false);
        }
    }

    async fn set_prefetch(&self, prefetch: u16) {
        if let Some(queues) = self.queues.upgrade() {
            lock(&queues).set_prefetch(self.consumer, prefetch);
        }
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        if let Some(queues) = self.queues.upgrade() {
            lock(&queues).cancel(self.consumer);
        }
    }
}
