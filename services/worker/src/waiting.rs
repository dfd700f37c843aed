//! The waiting room: where claimed executions wait for their lock and their limits, without a slot.
//!
//! The order is the same for all: the lock, the limits by name, a slot. So nobody waits for one that waits for him. The
//! fence is taken last, when nothing but the start is to come.

use std::sync::Arc;
use std::time::Duration;

use bootstrap::chain;
use coordination::{Contended, Contender, Lost, Refused};
use domain::limits::EXCLUSIVE_WAITERS_MAX;
use domain::{LimitName, LockKey, Manifest, ModelName, Payload};
use jiff::Timestamp;
use store::{Fence, FenceTaken};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tracing::{debug, error, warn};

use crate::Worker;
use crate::backoff::Backoff;
use crate::execution::Execution;
use crate::fencing::Verdict;
use crate::leases::Stop;
use crate::metrics;
use crate::rights::Rights;
use crate::settlement::Outcome;
use crate::slots::Slot;
use coordination::Boottime;

/// How long it is waited for the first comparison of the fences.
const VERDICT_WAIT: Duration = Duration::from_secs(5);

/// When who still waits says so to the record.
const NOTE_AFTER: Duration = Duration::from_secs(1);

/// When one that cannot wait here, or whose lock cannot be had now, is dispatched again: far enough apart that those that
/// were refused together do not come back together.
pub(crate) fn later() -> Duration {
    Duration::from_secs(1) + Duration::from_secs(4).mul_f64(rand::random())
}

/// The places of this node. Cheap to ask, also for those who need none.
pub(crate) struct WaitingRoom {
    places: Arc<Semaphore>,
    slots_wanted: watch::Sender<usize>,
}

/// A place, until it is dropped.
struct InRoom {
    _place: OwnedSemaphorePermit,
}

/// Somebody who has all but a slot waits for one, until this is dropped.
struct Wanted<'a>(&'a watch::Sender<usize>);

impl WaitingRoom {
    pub(crate) fn new(places: u32) -> Self {
        let places = Arc::new(Semaphore::new(usize::try_from(places).unwrap_or(Semaphore::MAX_PERMITS)));
        Self { places, slots_wanted: watch::Sender::new(0) }
    }

    fn enter(&self) -> Option<InRoom> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        metrics::waiting_entered();
        Some(InRoom { _place: place })
    }

    /// Waits until somebody who was claimed without a slot wants one: who has one and nothing to run gives it back.
    pub(crate) async fn wants_slot(&self) {
        // The sender is ours, so this cannot fail.
        let _ = self.slots_wanted.subscribe().wait_for(|count| *count > 0).await;
    }

    /// A slot of the node for what was claimed without one, and lacks nothing else.
    pub(crate) async fn slot(&self, worker: &Worker) -> Slot {
        if let Some(slot) = worker.slots.try_take() {
            return slot;
        }
        self.slots_wanted.send_modify(|count| *count += 1);
        let _wanted = Wanted(&self.slots_wanted);
        worker.slots.take().await
    }
}

impl Drop for InRoom {
    fn drop(&mut self) {
        metrics::waiting_left();
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// What an execution needs beside a slot: at least one of both.
pub(crate) struct Needs {
    lock: Option<LockKey>,
    limits: Vec<(LimitName, u32)>,
}

impl Needs {
    /// Could an execution of this model need anything?
    pub(crate) const fn may_be_of(manifest: &Manifest) -> bool {
        manifest.exclusive.is_some() || manifest.max_running.is_some() || !manifest.named_limits.is_empty()
    }

    /// What an execution with this input needs; `None` if that is nothing.
    ///
    /// # Errors
    /// A sentence for the caller if the input lacks a part of a name.
    pub(crate) fn of(
        manifest: &Manifest,
        model: &ModelName,
        input: &Payload,
    ) -> Result<Option<Self>, String> {
        if !Self::may_be_of(manifest) {
            return Ok(None);
        }
        Ok(Some(Self { lock: manifest.lock_key(input)?, limits: manifest.limits_of(model, input)? }))
    }
}

/// Why a step of the wait did not come to its end.
enum Ended {
    /// One that it had was lost: from the beginning, at the end of every queue.
    Again,
    /// The wait is over.
    Over(Outcome),
}

impl From<Outcome> for Ended {
    fn from(outcome: Outcome) -> Self {
        Self::Over(outcome)
    }
}

/// Gives the slot of `execution` back, waits for all that it needs, and takes a slot again.
///
/// # Errors
/// How the attempt comes out without having been started: it holds nothing then.
///
/// If the future is dropped, its places in queues are left, and what it holds is released, in the background.
pub(crate) async fn wait(
    execution: &mut Execution,
    worker: &Worker,
    manifest: &Manifest,
    needs: &Needs,
) -> Result<Rights, Outcome> {
    execution.slot = None;
    let Some(_in_room) = worker.waiting.enter() else {
        debug!(execute_id = %execution.request.execute_id, "as many wait here as may");
        return Err(Outcome::Waiting(later()));
    };
    let waited = execution.claim.waited;
    let budget = manifest.exclusive_wait_timeout();
    let until = Boottime::now().after(budget.saturating_sub(waited));
    let is_noted = !waited.is_zero();
    let mut wait = Wait { execution, worker, needs, until, budget, is_noted };
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        match wait.once().await {
            Ok(rights) => return Ok(rights),
            Err(Ended::Over(outcome)) => return Err(outcome),
            Err(Ended::Again) => {
                debug!(execute_id = %wait.execution.request.execute_id, "a place in a queue was lost");
            }
        }
        let pause = tokio::time::sleep(backoff.next());
        if let Err(Ended::Over(outcome)) = wait.step("its turn", &Rights::default(), pause).await {
            return Err(outcome);
        }
    }
}

struct Wait<'a> {
    execution: &'a mut Execution,
    worker: &'a Worker,
    needs: &'a Needs,
    until: Boottime,
    budget: Duration,
    /// The record knows that it only waits.
    is_noted: bool,
}

impl Wait<'_> {
    /// Waits for everything, in order.
    async fn once(&mut self) -> Result<Rights, Ended> {
        if self.worker.is_uncoordinated() {
            return Err(Outcome::Waiting(later()).into());
        }
        let mut rights = Rights::default();
        let mut fence = None;
        if let Some(key) = &self.needs.lock {
            self.may_be_exclusive(&rights).await?;
            self.execution.timeline.add("waiting_lock");
            fence = Some(self.enter(&mut rights, &Contended::Lock(key.clone())).await?);
        }
        if !self.needs.limits.is_empty() {
            self.execution.timeline.add("waiting_limit");
        }
        for (name, max) in &self.needs.limits {
            let limit = Contended::Limit { name: name.clone(), max: *max };
            self.enter(&mut rights, &limit).await?;
        }
        let full_wait = Duration::from_millis(self.worker.config.full_wait_ms);
        let slot = timeout(full_wait, self.worker.waiting.slot(self.worker));
        let Ok(slot) = self.step("a slot", &rights, slot).await? else {
            rights.release().await;
            return Err(Outcome::Waiting(later()).into());
        };
        if let (Some(key), Some(number)) = (&self.needs.lock, fence) {
            let fence = Fence { key: key.clone(), generation: self.worker.fencing.generation(), number };
            rights = self.fence(rights, fence).await?;
        }
        if self.is_noted {
            self.note_begin(&rights).await?;
        }
        if !rights.are_valid() {
            // Its clock stood still while it waited for the rest: as good as lost.
            rights.release().await;
            return Err(Outcome::Waiting(later()).into());
        }
        self.execution.slot = Some(slot);
        Ok(rights)
    }

    /// Waits for a lock or a limit, adds it, and returns its fence.
    async fn enter(&mut self, rights: &mut Rights, what: &Contended) -> Result<i64, Ended> {
        let name = match what {
            Contended::Lock(key) => format!("its lock {key:?}", key = key.as_str()),
            Contended::Limit { name, .. } => format!("its limit {name:?}", name = name.as_str()),
        };
        let contender = Contender {
            tenant: self.worker.tenant.clone(),
            execute_id: self.execution.request.execute_id,
            attempt: self.execution.claim.attempt,
            node: self.worker.node.clone(),
            since: Timestamp::now(),
        };
        let enter = self.worker.coordination.enter(what, &contender, EXCLUSIVE_WAITERS_MAX);
        let place = match self.step(&name, rights, enter).await? {
            Ok(place) => place,
            Err(Refused::Full(count)) => {
                debug!(count, "as many wait for {name} as may");
                return Err(Outcome::Waiting(later()).into());
            }
            Err(Refused::Failed(error)) => {
                warn!(execute_id = %contender.execute_id, "{name} cannot be waited for now: {}", chain(&error));
                return Err(Outcome::Waiting(later()).into());
            }
        };
        let mut granted = Box::pin(place.granted());
        let soon = self.step(&name, rights, timeout(NOTE_AFTER, &mut granted)).await?;
        let granted = match soon {
            Ok(granted) => granted,
            Err(_) => {
                self.note_waiting(&name, rights).await?;
                self.step(&name, rights, granted).await?
            }
        };
        match granted {
            Ok(grant) => {
                let fence = grant.fence();
                rights.add(grant);
                Ok(fence)
            }
            Err(Lost) => Err(Ended::Again),
        }
    }

    /// Says to the record that it only waits, so that a lost node costs it no failure. What cannot be said now costs one at
    /// most.
    async fn note_waiting(&mut self, what: &str, rights: &Rights) -> Result<(), Ended> {
        let (execute_id, attempt) = self.execution.key();
        let note = self.worker.record.note_waiting(execute_id, attempt, true);
        match self.step(what, rights, note).await? {
            Ok(_) => self.is_noted = true,
            Err(error) => debug!(%execute_id, attempt, "its wait is not noted: {}", chain(&error)),
        }
        Ok(())
    }

    /// Says to the record that it no longer only waits.
    async fn note_begin(&mut self, rights: &Rights) -> Result<(), Ended> {
        let (execute_id, attempt) = self.execution.key();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        loop {
            let note = self.worker.record.note_waiting(execute_id, attempt, false);
            match self.step("the record", rights, note).await? {
                Ok(true) => {
                    self.is_noted = false;
                    return Ok(());
                }
                Ok(false) => return Err(Outcome::Stopped(Stop::Lost).into()),
                Err(error) => {
                    warn!(%execute_id, attempt, "its start is not noted yet: {}", chain(&error));
                    self.step("the record", rights, tokio::time::sleep(backoff.next())).await?;
                }
            }
        }
    }

    /// Waits for `next` unless the wait ends before.
    async fn step<T>(&self, what: &str, rights: &Rights, next: impl Future<Output = T>) -> Result<T, Ended> {
        let execution = &self.execution;
        let deadline = async {
            match execution.deadline {
                Some(deadline) => deadline.passed().await,
                None => std::future::pending().await,
            }
        };
        let asked_to_drain = async {
            // The sender is the worker's own, so this cannot fail.
            let _ = self.worker.standing.subscribe().wait_for(|now| now.drain.is_some()).await;
        };
        tokio::select! {
            biased;
            stop = execution.held.stopped() => Err(Outcome::Stopped(stop).into()),
            () = self.worker.shutdown.draining() => Err(Outcome::Waiting(Duration::ZERO).into()),
            () = asked_to_drain => Err(Outcome::Waiting(Duration::ZERO).into()),
            () = deadline => {
                let message = format!("its deadline passed while it waited for {what}");
                Err(Outcome::Expired(message).into())
            }
            () = self.until.passed() => {
                let message = format!("it waited {} ms for {what}, as long as it may", self.budget.as_millis());
                Err(Outcome::Expired(message).into())
            }
            () = rights.lost() => Err(Ended::Again),
            value = next => Ok(value),
        }
    }

    /// Nothing exclusive runs while the fences that would be dealt are too low.
    async fn may_be_exclusive(&self, rights: &Rights) -> Result<(), Ended> {
        let known = timeout(VERDICT_WAIT, self.worker.fencing.known());
        let verdict = self.step("its lock", rights, known).await?.unwrap_or(Verdict::Unknown);
        if verdict == Verdict::Clear { Ok(()) } else { Err(Outcome::Waiting(later()).into()) }
    }

    /// Has the record take the fence of its lock.
    async fn fence(&self, mut rights: Rights, fence: Fence) -> Result<Rights, Ended> {
        let (execute_id, attempt) = self.execution.key();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        loop {
            let take = self.worker.record.take_fence(&self.worker.tenant, &fence, execute_id, attempt);
            match self.step("the record", &rights, take).await? {
                Ok(FenceTaken::Taken) => {
                    rights.fenced(fence);
                    return Ok(rights);
                }
                Ok(FenceTaken::TooOld { generation, number }) => {
                    metrics::fence_refused();
                    error!(
                        %execute_id, attempt, key = fence.key.as_str(), own_generation = fence.generation,
                        own_number = fence.number, generation, number,
                        "the record has seen a higher fence of this lock: if ZooKeeper was rebuilt or restored, raise \
                         worker.fence_generation of all workers"
                    );
                    rights.release().await;
                    return Err(Outcome::Waiting(later()).into());
                }
                Err(error) => {
                    warn!(%execute_id, attempt, "its fence is not taken yet: {}", chain(&error));
                    self.step("the record", &rights, tokio::time::sleep(backoff.next())).await?;
                }
            }
        }
    }
}
