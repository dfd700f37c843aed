//! Takes deliveries as slots are free, and refuses them when none is for too long.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use bootstrap::chain;
use broker::{Deliveries, Delivery};
use futures::FutureExt as _;
use futures::future::join_all;
use store::Requeue;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{info, warn};

use crate::Worker;
use crate::claim::{is_quick, note, parse, refuse_later, take_chunk};
use crate::metrics;
use crate::settings::Standing;
use crate::slots::Slot;

/// The most deliveries that are claimed in one statement.
const CHUNK_MAX: usize = 64;
/// After so many builtins in a row the node holds more deliveries: what waits for no slot keeps nothing from other nodes.
const QUICK_IN_ROW: u32 = 1_000;
/// How many it holds then.
const QUICK_PREFETCH: u16 = 256;
/// How long builtins are gathered then at most, if so many come in a second that it is worth it: what a chunk costs by itself,
/// here, in the broker and in the record, is more than what a few of it cost. Never longer than a claim takes, so that nobody
/// waits long for what is quick.
const GATHER_MAX: Duration = Duration::from_millis(3);
const GATHER_FROM_PER_SECOND: f64 = 1_000.0;
/// How soon what a full node gives back may be dispatched again.
const REQUEUE_DELAY: Duration = Duration::from_secs(1);

/// The one who takes deliveries.
pub(crate) struct Consumer {
    worker: Arc<Worker>,
    deliveries: Deliveries,
    /// Taken from the broker and neither settled nor given a slot.
    waiting: VecDeque<Delivery>,
    is_paused: bool,
    /// As the broker has it.
    prefetch: u16,
    /// How many builtins came since the last delivery that was none.
    quick_in_row: u32,
    /// Builtins that will be claimed together.
    gathered: Vec<(Delivery, Slot)>,
    arrivals: Arrivals,
}

impl Consumer {
    pub(crate) fn new(worker: Arc<Worker>, deliveries: Deliveries, prefetch: u16) -> Self {
        Self {
            worker,
            deliveries,
            waiting: VecDeque::new(),
            is_paused: false,
            prefetch,
            quick_in_row: 0,
            gathered: Vec::new(),
            arrivals: Arrivals::new(),
        }
    }

    /// Takes deliveries while the node is to take any, until the future is dropped (which loses nothing).
    ///
    /// # Errors
    /// The broker was closed.
    pub(crate) async fn run(&mut self) -> anyhow::Result<()> {
        let mut standing = self.worker.standing.subscribe();
        loop {
            let now = standing.borrow_and_update().clone();
            if now.drain.is_some() {
                self.rest(&mut standing).await?;
                continue;
            }
            self.adjust_prefetch().await;
            // What was being gathered when something changed.
            self.take_gathered();
            tokio::select! {
                biased;
                // The sender is the worker's own.
                Ok(()) = standing.changed() => {}
                ended = self.take() => return ended,
            }
        }
    }

    /// Takes no deliveries, and gives those back that were not claimed, until the node is to take work again.
    async fn rest(&mut self, standing: &mut watch::Receiver<Standing>) -> anyhow::Result<()> {
        self.pause().await;
        self.waiting.extend(self.gathered.drain(..).map(|(delivery, _slot)| delivery));
        self.take_waiting();
        loop {
            self.give_back().await;
            let most = usize::from(self.prefetch);
            tokio::select! {
                _ = standing.wait_for(|now| now.drain.is_none()) => break,
                // What was on its way when the consumer was paused.
                late = self.deliveries.next_chunk(most) => {
                    if late.is_empty() {
                        bail!("the broker closed the consumer");
                    }
                    self.waiting.extend(late);
                }
            }
        }
        Ok(())
    }

    /// Takes chunks of deliveries, beside the builtins never more than slots are free, until the future is dropped (which
    /// loses nothing).
    async fn take(&mut self) -> anyhow::Result<()> {
        loop {
            let slot = self.slot().await?;
            self.record_is_back().await;
            self.resume().await;
            if self.waiting.is_empty() {
                // Whoever has his lock and lacks only a slot goes before what may come: this one may be the last.
                tokio::select! {
                    biased;
                    () = self.worker.waiting.wants_slot() => {
                        drop(slot);
                        continue;
                    }
                    chunk = self.deliveries.next_chunk(CHUNK_MAX) => {
                        if chunk.is_empty() {
                            bail!("the broker closed the consumer");
                        }
                        self.receive(chunk).await;
                    }
                }
            }
            // All were quick: the slot is for the next.
            let Some(first) = self.waiting.pop_front() else { continue };
            let mut chunk = vec![(first, slot)];
            while chunk.len() < CHUNK_MAX && !self.waiting.is_empty() {
                let Some(slot) = self.worker.slots.try_take() else { break };
                chunk.extend(self.waiting.pop_front().map(|delivery| (delivery, slot)));
            }
            self.worker.tasks.spawn(take_chunk(Arc::clone(&self.worker), chunk));
        }
    }

    /// Waits for a slot, and gives deliveries back for which none came free in time.
    async fn slot(&mut self) -> anyhow::Result<Slot> {
        let full_wait = Duration::from_millis(self.worker.config.full_wait_ms);
        let most = usize::from(self.prefetch);
        let mut waits_since = Instant::now();
        loop {
            let worker = Arc::clone(&self.worker);
            let somebody_waits = !self.waiting.is_empty();
            tokio::select! {
                biased;
                slot = worker.slots.take() => return Ok(slot),
                () = sleep_until(waits_since + full_wait), if somebody_waits => {
                    self.refuse().await;
                    waits_since = Instant::now();
                }
                delivered = self.deliveries.next_chunk(most) => {
                    if delivered.is_empty() {
                        bail!("the broker closed the consumer");
                    }
                    if !somebody_waits {
                        waits_since = Instant::now();
                    }
                    self.receive(delivered).await;
                }
            }
        }
    }

    /// Takes the builtins among what came: they start no process and wait for no slot. All else waits for one.
    async fn receive(&mut self, delivered: Vec<Delivery>) {
        self.sort(delivered);
        if self.quick_in_row >= QUICK_IN_ROW && self.arrivals.per_second >= GATHER_FROM_PER_SECOND {
            let until = Instant::now() + self.worker.record_link.claim_takes().min(GATHER_MAX);
            while self.gathered.len() < CHUNK_MAX {
                let Ok(more) = timeout_at(until, self.deliveries.next_chunk(CHUNK_MAX)).await else { break };
                if more.is_empty() {
                    // It is closed, and will say so again.
                    break;
                }
                self.sort(more);
            }
        }
        self.take_gathered();
        self.adjust_prefetch().await;
    }

    /// Tells the builtins from all else.
    fn sort(&mut self, delivered: Vec<Delivery>) {
        let is_away = self.worker.record_link.is_away();
        self.arrivals.note(delivered.len());
        for delivery in delivered {
            let is_quick = is_quick(&self.worker, &delivery);
            self.quick_in_row = if is_quick { self.quick_in_row.saturating_add(1) } else { 0 };
            match (is_quick && !is_away).then(|| self.worker.quick.try_take()).flatten() {
                Some(slot) => self.gathered.push((delivery, slot)),
                None => self.waiting.push_back(delivery),
            }
        }
    }

    /// Claims and runs what was gathered.
    fn take_gathered(&mut self) {
        while !self.gathered.is_empty() {
            let rest = self.gathered.split_off(self.gathered.len().min(CHUNK_MAX));
            let chunk = std::mem::replace(&mut self.gathered, rest);
            self.worker.tasks.spawn(take_chunk(Arc::clone(&self.worker), chunk));
        }
    }

    /// Holds as many deliveries as the slots are worth, or more while all of them are builtins.
    async fn adjust_prefetch(&mut self) {
        let mut prefetch = self.worker.standing.borrow().prefetch();
        if self.quick_in_row >= QUICK_IN_ROW {
            prefetch = prefetch.max(QUICK_PREFETCH);
        }
        if self.prefetch != prefetch {
            self.prefetch = prefetch;
            self.deliveries.set_prefetch(prefetch).await;
        }
    }

    async fn record_is_back(&mut self) {
        if self.worker.record_link.is_away() {
            warn!("the record is away: no further deliveries are taken until it is back");
            self.pause().await;
            self.worker.record_link.is_back().await;
        }
    }

    /// A full node refuses: what waits goes back through the record (never to the broker, which would count it), and no
    /// more is taken until a slot is free.
    async fn refuse(&mut self) {
        self.pause().await;
        self.take_waiting();
        let mut requeued = Vec::with_capacity(self.waiting.len());
        let mut kept = Vec::with_capacity(self.waiting.len());
        for delivery in self.waiting.drain(..) {
            match parse(&self.worker, &delivery) {
                Ok(claim) => {
                    requeued.push(claim);
                    kept.push(delivery);
                }
                Err(invalid) => refuse_later(&self.worker, delivery, invalid.code(), invalid.to_string()),
            }
        }
        // From here on they are only taken out once the record has them: the future may be dropped.
        self.waiting.extend(kept);
        let mut batch = Vec::with_capacity(requeued.len());
        for claim in requeued {
            let request = claim.request;
            let version = self.worker.versions.find(&claim.tenant, &request.model, &request.version).await;
            let version = match version {
                Ok(version) => version.map(|version| version.version),
                Err(error) => return warn!("deliveries are not given back: {}", chain(&error)),
            };
            batch.push(Requeue { tenant: claim.tenant, request, input_digest: claim.input_digest, version });
        }
        if let Err(error) = self.worker.record.requeue(&batch, REQUEUE_DELAY).await {
            return warn!("deliveries are not given back: {}", chain(&error));
        }
        info!(deliveries = batch.len(), "every slot is taken: deliveries were given back");
        metrics::requeued(batch.len());
        join_all(self.waiting.drain(..).map(Delivery::ack)).await.into_iter().for_each(note);
    }

    /// Takes what the broker has delivered already, without waiting.
    fn take_waiting(&mut self) {
        let most = usize::from(self.prefetch);
        while let Some(chunk) = self.deliveries.next_chunk(most).now_or_never().filter(|c| !c.is_empty()) {
            self.waiting.extend(chunk);
        }
    }

    async fn pause(&mut self) {
        if !self.is_paused {
            self.is_paused = true;
            self.deliveries.pause().await;
        }
    }

    async fn resume(&mut self) {
        if self.is_paused {
            self.deliveries.resume().await;
            self.is_paused = false;
        }
    }

    /// Takes no more, and gives what was not claimed back to the broker for others.
    pub(crate) async fn close(mut self) {
        self.pause().await;
        self.waiting.extend(self.gathered.drain(..).map(|(delivery, _slot)| delivery));
        self.take_waiting();
        self.give_back().await;
    }

    async fn give_back(&mut self) {
        join_all(self.waiting.drain(..).map(Delivery::requeue)).await.into_iter().for_each(note);
    }
}

/// How many deliveries come in a second, over the last 100 ms or since the one before if that is longer ago.
struct Arrivals {
    since: Instant,
    count: usize,
    per_second: f64,
}

impl Arrivals {
    const WINDOW: Duration = Duration::from_millis(100);

    fn new() -> Self {
        Self { since: Instant::now(), count: 0, per_second: 0.0 }
    }

    fn note(&mut self, count: usize) {
        let elapsed = self.since.elapsed();
        if elapsed >= Self::WINDOW {
            self.per_second = self.count as f64 / elapsed.as_secs_f64();
            (self.since, self.count) = (Instant::now(), 0);
        }
        self.count += count;
    }
}
