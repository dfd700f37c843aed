use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::{gauge, histogram};
use store::{NewContender, Standing, StoreError};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::warn;
use uuid::Uuid;

use super::Shared;
use crate::error::chain;
use crate::metrics::{LOCK_WAIT_SECONDS, LOCKS_HELD};
use crate::{Boottime, Validity};

/// For how long this process tries to leave all queues when it closes.
const LEAVE_LIMIT: Duration = Duration::from_secs(2);
/// After a failure.
const PAUSE: Duration = Duration::from_millis(200);

/// The places that this process has in queues.
///
/// One task renews them, all that are due with one statement, asks more often for those that wait, and takes out those
/// that were dropped. Where there are none it asks nothing.
#[derive(Default)]
pub(super) struct Tickets {
    held: Mutex<HashMap<Uuid, Entry>>,
    /// Dropped at that time, and not known to be out of their queues yet.
    leaving: Mutex<HashMap<Uuid, Instant>>,
    /// Something left a queue: whoever waits in this process may have it now.
    looks: AtomicBool,
    changed: Notify,
}

struct Entry {
    ticket: Arc<Ticket>,
    /// When the record was asked for it last, with an answer.
    asked: Instant,
}

/// A place in a queue, as far as it is known.
pub(super) struct Ticket {
    pub(super) id: Uuid,
    kind: &'static str,
    running_max: u32,
    since: Instant,
    pub(super) position: watch::Sender<u32>,
    pub(super) state: watch::Sender<State>,
    pub(super) validity: watch::Sender<Validity>,
    /// There is nothing to take out of a queue.
    left: AtomicBool,
    /// As one that is held.
    is_counted: AtomicBool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Waits,
    Has { fence: i64 },
    Lost,
}

impl Ticket {
    pub(super) fn of(new: &NewContender) -> Self {
        Self {
            id: new.ticket,
            kind: new.kind.label(),
            running_max: new.running_max,
            since: Instant::now(),
            position: watch::Sender::new(0),
            state: watch::Sender::new(State::Waits),
            validity: watch::Sender::new(Validity::Lost),
            left: AtomicBool::new(false),
            is_counted: AtomicBool::new(false),
        }
    }

    /// There is nothing to take out of a queue.
    pub(super) fn left(&self) {
        self.left.store(true, Ordering::Relaxed);
    }

    /// Takes up what the record answered to what was sent at `sent_at`.
    pub(super) fn stands(&self, standing: &Standing, sent_at: Boottime, lease: Duration) {
        let before = standing.before.saturating_sub(self.running_max);
        self.position.send_if_modified(|known| std::mem::replace(known, before) != before);
        if let Some(fence) = standing.fence {
            self.validity.send_replace(Validity::granted(sent_at, lease));
            let has = State::Has { fence };
            if self.state.send_if_modified(|known| std::mem::replace(known, has) != has) {
                histogram!(LOCK_WAIT_SECONDS, "kind" => self.kind).record(self.since.elapsed());
                gauge!(LOCKS_HELD, "kind" => self.kind).increment(1.0);
                self.is_counted.store(true, Ordering::Relaxed);
            }
        }
    }

    /// It is known not to be ours.
    pub(super) fn lost(&self) {
        self.validity.send_replace(Validity::Lost);
        self.state.send_replace(State::Lost);
    }

    fn waits(&self) -> bool {
        *self.state.borrow() == State::Waits
    }

    /// How often it is asked for: a sixth of the lease if it has what it came for, sooner if it is next.
    fn every(&self, shared: &Shared) -> Duration {
        let beat = shared.lease / 6;
        if !self.waits() {
            return beat;
        }
        let is_next = *self.position.borrow() == 0;
        beat.min(if is_next { shared.poll / 5 } else { shared.poll })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.is_counted.load(Ordering::Relaxed) {
            gauge!(LOCKS_HELD, "kind" => self.kind).decrement(1.0);
        }
    }
}

impl Tickets {
    /// From now on it is kept up. It was asked for just now.
    pub(super) fn insert(&self, ticket: &Arc<Ticket>) {
        let entry = Entry { ticket: Arc::clone(ticket), asked: Instant::now() };
        lock(&self.held).insert(ticket.id, entry);
        self.changed.notify_one();
    }

    /// It is kept up no more.
    pub(super) fn forget(&self, id: Uuid) {
        lock(&self.held).remove(&id);
    }

    /// It is taken out of its queue in the background, until that is answered.
    pub(super) fn leave_later(&self, ticket: &Ticket) {
        self.forget(ticket.id);
        if !ticket.left.load(Ordering::Relaxed) {
            lock(&self.leaving).insert(ticket.id, Instant::now());
            self.changed.notify_one();
        }
    }

    /// Asks for those who wait at once.
    pub(super) fn look(&self) {
        self.looks.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// When the next of them is due.
    fn due(&self, shared: &Shared) -> Option<Instant> {
        lock(&self.held).values().map(|entry| entry.asked + entry.ticket.every(shared)).min()
    }

    /// Those to be asked for now: if any is due all that are half-way there, or those who wait.
    fn to_ask(&self, shared: &Shared) -> Vec<Arc<Ticket>> {
        let (now, looks) = (Instant::now(), self.looks.swap(false, Ordering::Relaxed));
        let is_due = self.due(shared).is_some_and(|due| due <= now);
        let wanted = |entry: &&Entry| {
            let half = entry.asked + entry.ticket.every(shared) / 2;
            (is_due && half <= now) || (looks && entry.ticket.waits())
        };
        lock(&self.held).values().filter(wanted).map(|entry| Arc::clone(&entry.ticket)).collect()
    }

    /// Takes up the answer, except for those that were dropped meanwhile.
    fn answered(&self, asked: &[Arc<Ticket>], answer: &[Standing], sent_at: Boottime, lease: Duration) {
        let answer: HashMap<Uuid, &Standing> =
            answer.iter().map(|standing| (standing.ticket, standing)).collect();
        let mut held = lock(&self.held);
        for ticket in asked {
            let Some(entry) = held.get_mut(&ticket.id) else { continue };
            entry.asked = Instant::now();
            match answer.get(&ticket.id) {
                Some(standing) => ticket.stands(standing, sent_at, lease),
                None => {
                    held.remove(&ticket.id);
                    ticket.left();
                    ticket.lost();
                }
            }
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the tickets up until this is closed, then takes them all out.
pub(super) async fn keep(shared: Arc<Shared>) {
    let tickets = &shared.tickets;
    let mut failing = false;
    loop {
        let due = tickets.due(&shared);
        tokio::select! {
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            () = tickets.changed.notified() => {}
            () = shared.closing.cancelled() => break,
        }
        match round(&shared).await {
            Ok(()) => failing = false,
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    let error = error.as_ref().map_or_else(|| "no answer in time".to_owned(), |e| chain(e));
                    warn!(error, "cannot renew locks, limits and places in their queues; trying on");
                }
                tickets.changed.notify_one();
                sleep(PAUSE.mul_f64(rand::random_range(0.5..1.0))).await;
            }
        }
    }
    let gone = timeout(LEAVE_LIMIT, async { while leave_all(&shared).await.is_err() {} });
    if gone.await.is_err() {
        warn!("places in queues of locks and limits could not be left; they run out by themselves");
    }
}

/// Asks for what is due and leaves what was dropped; neither waits for the other. `None` as an error is no answer in time.
async fn round(shared: &Shared) -> Result<(), Option<StoreError>> {
    let (stood, left) = tokio::join!(stand(shared), leave(shared));
    stood.and(left)
}

async fn stand(shared: &Shared) -> Result<(), Option<StoreError>> {
    let tickets = &shared.tickets;
    let asked = tickets.to_ask(shared);
    if asked.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = asked.iter().map(|ticket| ticket.id).collect();
    let sent_at = Boottime::now();
    let answer = call(shared, shared.record.stand(&ids, shared.lease)).await?;
    tickets.answered(&asked, &answer, sent_at, shared.lease);
    Ok(())
}

async fn leave(shared: &Shared) -> Result<(), Option<StoreError>> {
    let tickets = &shared.tickets;
    let leaving: Vec<Uuid> = {
        let mut leaving = lock(&tickets.leaving);
        // Nobody renews them, so after two leases they have run out.
        leaving.retain(|_, since| since.elapsed() < shared.lease * 2);
        leaving.keys().copied().collect()
    };
    if leaving.is_empty() {
        return Ok(());
    }
    call(shared, shared.record.leave(&leaving)).await?;
    lock(&tickets.leaving).retain(|id, _| !leaving.contains(id));
    // Whoever waits in this process may have it now.
    tickets.look();
    Ok(())
}

async fn leave_all(shared: &Shared) -> Result<(), Option<StoreError>> {
    let held: Vec<Entry> = lock(&shared.tickets.held).drain().map(|(_, entry)| entry).collect();
    for Entry { ticket, .. } in held {
        ticket.lost();
        lock(&shared.tickets.leaving).insert(ticket.id, Instant::now());
    }
    let left = leave(shared).await;
    if left.is_err() {
        sleep(PAUSE / 2).await;
    }
    left
}

/// A call that does not wait so long for its answer that there is no time for another.
async fn call<T>(
    shared: &Shared,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, Option<StoreError>> {
    match timeout(shared.call_limit(), call).await {
        Ok(answer) => answer.map_err(Some),
        Err(_) => Err(None),
    }
}
