use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bootstrap::chain;
use domain::{ExecuteId, NodeId};
use store::Record;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::metrics;
use crate::shim::Lease;
use coordination::Boottime;

/// For how long after the end of its lease an attempt's settlement is still offered to the record: nobody may have taken
/// it (the database was away for everybody), and if somebody has, the record says so.
const SETTLE_PATIENCE: Duration = Duration::from_secs(300);
/// How soon a failed renewal is repeated.
const RENEW_AGAIN: Duration = Duration::from_secs(1);

/// Why an attempt must end before its script does. The greater one stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stop {
    /// The drain's time is up: SIGTERM, grace, kill, and give it back.
    Yield,
    /// The worker must end now: kill, and give it back.
    YieldAtOnce,
    /// The lease, the lock or a limit was not renewed in time: what could end gently has, give it back if it is still
    /// ours.
    LeaseEnd,
    /// Its caller took it back: SIGTERM, grace, kill.
    Cancel,
    /// Its lock or one of its limits is lost: kill, and give it back without another word. (If a cancel was asked for as
    /// well, the record knows.)
    RightLost,
    /// It is no longer ours: kill, and write nothing.
    Lost,
}

/// What an attempt must know of its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hold {
    /// When the claim or the last granted renewal was sent.
    sent_at: Boottime,
    /// For how long its lock and its limits are certain, if it has any.
    rights: Option<Lease>,
    stop: Option<Stop>,
}

/// The leases this worker holds. One statement renews them all.
pub(crate) struct Leases {
    record: Arc<dyn Record>,
    node: NodeId,
    lease: Duration,
    held: Mutex<HashMap<(ExecuteId, i32), watch::Sender<Hold>>>,
    /// What every attempt that begins is told. Held while the registry changes, so that none is missed.
    order: Mutex<Option<Stop>>,
    abandoned: CancellationToken,
}

/// One lease, held until it is dropped.
pub(crate) struct Held(Watch);

/// What is seen of one lease.
#[derive(Clone)]
pub(crate) struct Watch {
    leases: Arc<Leases>,
    key: (ExecuteId, i32),
    hold: watch::Receiver<Hold>,
}

impl Leases {
    pub(crate) fn new(record: Arc<dyn Record>, node: NodeId, lease: Duration) -> Arc<Self> {
        let abandoned = CancellationToken::new();
        Arc::new(Self { record, node, lease, held: Mutex::default(), order: Mutex::default(), abandoned })
    }

    /// Holds the lease on an attempt whose claim was sent at `sent_at`.
    pub(crate) fn hold(self: &Arc<Self>, execute_id: ExecuteId, attempt: i32, sent_at: Boottime) -> Held {
        let order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let (sender, hold) = watch::channel(Hold { sent_at, rights: None, stop: *order });
        let key = (execute_id, attempt);
        self.held().insert(key, sender);
        Held(Watch { leases: Arc::clone(self), key, hold })
    }

    /// Renews all leases every `every`, until the future is dropped.
    pub(crate) async fn renew_every(&self, every: Duration) {
        let mut wait = every;
        loop {
            tokio::time::sleep(wait).await;
            let held: Vec<_> = self.held().keys().copied().collect();
            wait = if self.renew(&held).await { every } else { every.min(RENEW_AGAIN) };
        }
    }

    /// Renews these leases, and tells those that are lost or cancelled. Returns whether the record answered.
    pub(crate) async fn renew(&self, held: &[(ExecuteId, i32)]) -> bool {
        if held.is_empty() {
            return true;
        }
        let sent_at = Boottime::now();
        let renewed = match self.record.renew(&self.node, held, self.lease).await {
            Ok(renewed) => renewed,
            Err(error) => {
                metrics::renewal_failed();
                warn!(leases = held.len(), "leases were not renewed: {}", chain(&error));
                return false;
            }
        };
        let renewed: HashMap<_, _> = renewed
            .into_iter()
            .map(|renewal| ((renewal.execute_id, renewal.attempt), renewal.cancel_requested))
            .collect();
        let registry = self.held();
        for key in held {
            // What is settled meanwhile is no longer held.
            let Some(sender) = registry.get(key) else { continue };
            match renewed.get(key) {
                Some(cancel_requested) => sender.send_modify(|hold| {
                    hold.sent_at = hold.sent_at.max(sent_at);
                    if *cancel_requested {
                        hold.stop = hold.stop.max(Some(Stop::Cancel));
                    }
                }),
                None => sender.send_modify(|hold| hold.stop = Some(Stop::Lost)),
            }
        }
        true
    }

    /// Stops every attempt at `execute_id` that runs here.
    pub(crate) fn stop(&self, execute_id: ExecuteId, stop: Stop) {
        for (_, sender) in self.held().iter().filter(|((id, _), _)| *id == execute_id) {
            debug!(%execute_id, "stopping: {stop:?}");
            sender.send_modify(|hold| hold.stop = hold.stop.max(Some(stop)));
        }
    }

    /// Stops everything that runs here, and everything that begins until there is another order.
    pub(crate) fn order(&self, stop: Option<Stop>) {
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        *order = stop;
        if let Some(stop) = stop {
            self.stop_all(stop);
        }
    }

    /// Stops everything that runs here.
    pub(crate) fn stop_all(&self, stop: Stop) {
        for sender in self.held().values() {
            sender.send_modify(|hold| hold.stop = hold.stop.max(Some(stop)));
        }
    }

    /// Lets go of what could not be settled: the worker ends, and others will rescue it.
    pub(crate) fn abandon(&self) {
        self.abandoned.cancel();
    }

    /// How many are held.
    pub(crate) fn count(&self) -> usize {
        self.held().len()
    }

    fn held(&self) -> MutexGuard<'_, HashMap<(ExecuteId, i32), watch::Sender<Hold>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for Held {
    type Target = Watch;

    fn deref(&self) -> &Watch {
        &self.0
    }
}

impl Watch {
    /// Until when it is ours without a further renewal, by our own clock: its lease, its lock and its limits.
    pub(crate) fn lease(&self) -> Lease {
        let Hold { sent_at, rights, .. } = *self.hold.borrow();
        let lease = Lease::granted(sent_at, self.leases.lease);
        rights.map_or(lease, |rights| lease.min(rights))
    }

    /// Until when the record takes it for ours without a further renewal.
    fn lease_in_record(&self) -> Lease {
        Lease::granted(self.hold.borrow().sent_at, self.leases.lease)
    }

    /// Says for how long its lock and its limits are certain.
    pub(crate) fn bound(&self, rights: Lease) {
        if let Some(sender) = self.leases.held().get(&self.key) {
            sender.send_if_modified(|hold| hold.rights.replace(rights) != Some(rights));
        }
    }

    /// Has the certainty of its lock or its limits ended, so that it may write nothing?
    pub(crate) fn is_past_rights(&self) -> bool {
        self.hold.borrow().rights.is_some_and(|rights| rights.stop_at.has_passed())
    }

    /// Waits until the lease in the record has ended, as far as we know.
    pub(crate) async fn lease_ended(&self) {
        let mut hold = self.hold.clone();
        while !self.lease_in_record().kill_at.has_passed() {
            tokio::select! {
                changed = hold.changed() => if changed.is_err() { return },
                () = self.lease_in_record().kill_at.passed() => {}
            }
        }
    }

    /// Why it must end, if it must: said by somebody, or by our own clock.
    pub(crate) fn stop(&self) -> Option<Stop> {
        let ended = self.lease().kill_at.has_passed().then_some(Stop::LeaseEnd);
        self.ordered().max(ended)
    }

    /// Why it must end, if somebody said so.
    pub(crate) fn ordered(&self) -> Option<Stop> {
        self.hold.borrow().stop
    }

    /// Waits until something about it has changed.
    pub(crate) async fn changed(&mut self) {
        if self.hold.changed().await.is_err() {
            // Its registry entry is only removed by ourselves.
            std::future::pending().await
        }
    }

    /// Waits until it must end, and says why.
    pub(crate) async fn stopped(&self) -> Stop {
        let mut hold = self.hold.clone();
        loop {
            if let Some(stop) = self.stop() {
                return stop;
            }
            tokio::select! {
                changed = hold.changed() => if changed.is_err() { return Stop::Lost },
                () = self.lease().kill_at.passed() => {}
            }
        }
    }

    /// Ends the attempt.
    pub(crate) fn end(&self, stop: Stop) {
        if let Some(sender) = self.leases.held().get(&self.key) {
            sender.send_modify(|hold| hold.stop = hold.stop.max(Some(stop)));
        }
    }

    /// Waits until it makes no sense any more to offer its settlement to the record. That a renewal calls it lost is no
    /// reason: it may be the settlement itself that the renewal met, and the record answers that one too.
    pub(crate) async fn given_up(&self) {
        let mut hold = self.hold.clone();
        loop {
            let until = self.lease_in_record().kill_at.after(SETTLE_PATIENCE);
            if until.has_passed() {
                return;
            }
            tokio::select! {
                changed = hold.changed() => if changed.is_err() { return },
                () = until.passed() => {}
                () = self.leases.abandoned.cancelled() => return,
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.leases.held().remove(&self.0.key);
    }
}
