//! Messages that went astray: no queue took them, or they were given back too often.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use bootstrap::{Ports, Shutdown, chain};
use broker::{Deliveries, Delivery, DeliverySource, PublishError, Settled};
use domain::{ExecuteId, TenantId, VersionNumber};
use protocol::{RawMessage, Reply, ReplyAddress, Request};
use store::{Conclusion, Recovery, Requeue, StoreError};
use tracing::{info, warn};

use crate::{metrics, pause, reply};

/// How many are handled at once.
const LETTERS_MAX: u16 = 200;
/// When what no queue took is published again: its queue may be about to come, or never come. With many of them it is so many a
/// second, each after so long in any case.
const UNROUTABLE_DELAY: Duration = Duration::from_secs(5);
const UNROUTABLE_RATE: u32 = 100;
const UNROUTABLE_DELAY_MAX: Duration = Duration::from_secs(300);
/// The waits while a server is away.
const WAIT_FIRST: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Handles what comes from one of the two sources.
pub(crate) struct Letters {
    ports: Ports,
    source: DeliverySource,
    turn: Turn,
}

/// When it is the turn of the next that no queue took to be published again.
struct Turn(Instant);

impl Turn {
    /// How long `count` more of them have to wait.
    fn take(&mut self, now: Instant, count: usize) -> Duration {
        let begin = self.0.max(now + UNROUTABLE_DELAY);
        let end = begin + Duration::from_secs(1) * u32::try_from(count).unwrap_or(u32::MAX) / UNROUTABLE_RATE;
        self.0 = end.min(now + UNROUTABLE_DELAY_MAX);
        begin - now
    }
}

/// A delivery and what it says.
struct Letter {
    delivery: Delivery,
    requeue: Requeue,
}

/// What keeps a letter from being handled.
#[derive(Debug, thiserror::Error)]
enum Held {
    #[error("record a letter")]
    Record(#[source] StoreError),
    #[error("reject a letter")]
    Reject(#[source] PublishError),
}

impl Letters {
    pub fn new(ports: Ports, source: DeliverySource) -> Self {
        Self { ports, source, turn: Turn(Instant::now()) }
    }

    const fn label(&self) -> &'static str {
        match self.source {
            DeliverySource::Unroutable => "unroutable",
            DeliverySource::Dead => "dead",
            DeliverySource::Queues(_) => "queues",
        }
    }

    /// Handles letters until the drain. What is not settled then comes to another monitor, or to the next.
    pub async fn run(mut self, shutdown: Shutdown) {
        let Some(mut deliveries) = self.consume(&shutdown).await else { return };
        loop {
            let chunk = tokio::select! {
                chunk = deliveries.next_chunk(LETTERS_MAX.into()) => chunk,
                () = shutdown.draining() => return,
            };
            if chunk.is_empty() {
                // The broker is closed: the process is ending.
                return;
            }
            if !self.handle(chunk, &shutdown).await {
                return;
            }
        }
    }

    async fn consume(&self, shutdown: &Shutdown) -> Option<Deliveries> {
        let mut wait = WAIT_FIRST;
        loop {
            match self.ports.broker.consume(self.source.clone(), LETTERS_MAX).await {
                Ok(deliveries) => return Some(deliveries),
                Err(error) => warn!(source = self.label(), error = %chain(&error), "letters cannot be read"),
            }
            if !again(&mut wait, shutdown).await {
                return None;
            }
        }
    }

    /// Handles a chunk; `false` if the drain cut it short.
    async fn handle(&mut self, chunk: Vec<Delivery>, shutdown: &Shutdown) -> bool {
        let mut letters = Vec::new();
        for delivery in chunk {
            match Request::parse(delivery.message.clone(), delivery.queue.clone()) {
                Ok(request) => {
                    let input_digest = request.input_digest();
                    let tenant = TenantId::default();
                    let requeue = Requeue { tenant, request, input_digest, version: None };
                    letters.push(Letter { delivery, requeue });
                }
                Err(invalid) => {
                    if !self.reject(delivery, invalid.code(), &invalid.to_string(), shutdown).await {
                        return false;
                    }
                }
            }
        }
        while !letters.is_empty() {
            // No id twice in one statement.
            let mut ids = HashSet::new();
            let (batch, rest) =
                letters.into_iter().partition(|letter| ids.insert(letter.requeue.request.execute_id));
            letters = rest;
            if !self.record(batch, shutdown).await {
                return false;
            }
        }
        true
    }

    /// Records letters, and takes them off their queue; the one at fault is rejected. `false` if the drain came first.
    async fn record(&mut self, batch: Vec<Letter>, shutdown: &Shutdown) -> bool {
        let (mut parts, mut wait) = (vec![batch], WAIT_FIRST);
        while let Some(mut part) = parts.pop() {
            let error = match self.try_record(&mut part).await {
                Ok(()) => {
                    wait = WAIT_FIRST;
                    for letter in part {
                        self.ack(letter.delivery, "recorded").await;
                    }
                    continue;
                }
                Err(error) => error,
            };
            match error.recovery() {
                Recovery::Permanent if part.len() > 1 => parts.extend(part.into_iter().map(|one| vec![one])),
                Recovery::Permanent => {
                    let reason = chain(&error);
                    for letter in part {
                        if !self.reject(letter.delivery, "unrecordable", &reason, shutdown).await {
                            return false;
                        }
                    }
                }
                Recovery::Repeat | Recovery::Unknown => {
                    self.complain(&Held::Record(error), wait);
                    parts.push(part);
                    if !again(&mut wait, shutdown).await {
                        return false;
                    }
                }
            }
        }
        true
    }

    async fn try_record(&mut self, part: &mut [Letter]) -> Result<(), StoreError> {
        let record = &self.ports.record;
        let mut known: HashMap<_, Option<VersionNumber>> = HashMap::new();
        for Letter { requeue, .. } in &mut *part {
            let Request { model, version, .. } = &requeue.request;
            let named = (model.clone(), version.clone());
            requeue.version = match known.get(&named) {
                Some(version) => *version,
                None => {
                    let row = record.find_version(&requeue.tenant, model, version).await?;
                    *known.entry(named).or_insert(row.map(|row| row.version))
                }
            };
        }
        let mut told = HashSet::new();
        if self.source == DeliverySource::Dead {
            for Letter { requeue, .. } in &*part {
                let reason = "its message was given back too often by those who were to run it";
                if let Some(conclusion) = record.bury(requeue, reason).await? {
                    warn!(execute_id = %conclusion.execute_id, "dead: found among the dead letters");
                    reply(&self.ports, &conclusion);
                    told.insert(conclusion.execute_id);
                }
            }
        } else {
            let batch: Vec<_> = part.iter().map(|letter| letter.requeue.clone()).collect();
            record.requeue(&batch, self.turn.take(Instant::now(), batch.len())).await?;
        }
        self.answer_ended(part, &told).await
    }

    /// Whoever asked for what had ended gets its ending; those in `told` have it.
    async fn answer_ended(&self, part: &[Letter], told: &HashSet<ExecuteId>) -> Result<(), StoreError> {
        let requests = part.iter().map(|letter| &letter.requeue.request);
        let waiting: HashMap<_, _> = requests
            .filter(|request| !told.contains(&request.execute_id))
            .filter_map(|request| Some((request.execute_id, request.reply_address.as_ref()?)))
            .collect();
        if waiting.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = waiting.keys().copied().collect();
        for conclusion in self.ports.record.endings(&ids).await? {
            let reply_addresses = waiting.get(&conclusion.execute_id).map(|address| (*address).clone());
            let reply_addresses = reply_addresses.into_iter().collect();
            reply(&self.ports, &Conclusion { reply_addresses, ..conclusion });
        }
        Ok(())
    }

    /// Puts what can never be run where people look, and tells its sender. `false` if the drain came first.
    async fn reject(&self, delivery: Delivery, code: &str, reason: &str, shutdown: &Shutdown) -> bool {
        let RawMessage { message_id, reply_to, correlation_id, .. } = &delivery.message;
        info!(source = self.label(), code, reason, "a letter can never be run: rejected");
        let mut wait = WAIT_FIRST;
        while let Err(error) =
            self.ports.broker.reject(&delivery.queue, delivery.message.clone(), code, reason).await
        {
            self.complain(&Held::Reject(error), wait);
            if !again(&mut wait, shutdown).await {
                return false;
            }
        }
        if let Some(reply_to) = reply_to.clone().filter(|name| !name.is_empty()) {
            let correlation_id = correlation_id.clone().unwrap_or_default();
            let message = Reply::rejection(message_id.clone(), correlation_id.clone(), reason);
            self.ports.broker.reply(&ReplyAddress { reply_to, correlation_id }, message);
        }
        self.ack(delivery, "rejected").await;
        true
    }

    async fn ack(&self, delivery: Delivery, outcome: &'static str) {
        match delivery.ack().await {
            Settled::Sent => metrics::letter(self.label(), outcome),
            // It comes again, and recording it again changes nothing.
            Settled::Lost => metrics::letter(self.label(), "lost"),
        }
    }

    /// Says once in a series of failures why it waits.
    fn complain(&self, held: &Held, wait: Duration) {
        if wait == WAIT_FIRST {
            warn!(source = self.label(), error = %chain(held), "letters wait");
        }
    }
}

/// Waits with jitter and doubles the wait; `false` if the drain began.
async fn again(wait: &mut Duration, shutdown: &Shutdown) -> bool {
    let time = wait.mul_f64(0.5 + rand::random::<f64>() / 2.0);
    *wait = (*wait * 2).min(WAIT_MAX);
    pause(time, shutdown).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_of_what_no_queue_took_come_again_soon_and_many_one_after_the_other() {
        let now = Instant::now();
        let mut turn = Turn(now);
        assert_eq!(turn.take(now, 50), UNROUTABLE_DELAY);
        assert_eq!(turn.take(now, 200), UNROUTABLE_DELAY + Duration::from_millis(500));
        assert_eq!(turn.take(now, 100_000), UNROUTABLE_DELAY + Duration::from_millis(2_500));
        assert_eq!(turn.take(now, 1), UNROUTABLE_DELAY_MAX, "however many there are");
        assert_eq!(turn.take(now + UNROUTABLE_DELAY_MAX, 1), UNROUTABLE_DELAY);
    }
}
