//! A place in the queue of a lock or a limit, from entering it to leaving it.
//!
//! One task owns all of it: it makes the entry, waits, holds, and takes the entry out again. What the caller has in hand,
//! [`Waiting`] and [`Held`], only listens to it; dropping that, at any instant, tells the task to leave. So there is no
//! instant at which an entry has nobody who takes it out. An entry has a uuid of ours in its name: whatever became of the
//! request that made it, listing the directory afterwards tells, because a session's requests are answered in order.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use metrics::{gauge, histogram};
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::warn;
use zookeeper_client::WatchedEvent;

use super::Shared;
use super::entry::{Entry, alive, answered};
use super::lease::Lease;
use super::queue::{self, LEASE, LOCK};
use crate::contention::{GrantInner, PlaceInner};
use crate::metrics::{LOCK_WAIT_SECONDS, LOCKS_HELD};
use crate::{Contended, Contender, CoordinationError, Lost, Place, Refused, Validity};

/// How many places a process has at most, those that are being left included.
pub(super) const PLACES_MAX: usize = 8_192;
/// How long entering a queue may take.
const ENTER_LIMIT: Duration = Duration::from_secs(10);
/// How long whoever releases waits for it.
const RELEASE_LIMIT: Duration = Duration::from_secs(3);
/// How often a waiter looks whether all is as it seems, whatever the watches say; longer far back in a long queue.
const RECHECK: Duration = Duration::from_secs(5);
const RECHECK_EACH: u32 = 100;

/// Enters the queue of `what`.
pub(super) async fn enter(
    shared: &Arc<Shared>,
    what: &Contended,
    contender: &Contender,
    waiters_max: u32,
) -> Result<Place, Refused> {
    const STEP: &str = "wait for a connection to ZooKeeper, or for its answer";
    let permit = Arc::clone(&shared.places).try_acquire_owned().map_err(|_| {
        Refused::Failed(CoordinationError::Away("this process has too many places in queues to leave"))
    })?;
    let (entered, is_entered) = oneshot::channel();
    let (granted, is_granted) = oneshot::channel();
    let (left, gone) = (shared.closing.child_token(), CancellationToken::new());
    let seat = Seat {
        shared: Arc::clone(shared),
        what: what.clone(),
        place: queue::Place::of(&contender.tenant, what),
        data: queue::entry(what, contender),
        waiters_max,
        position: watch::Sender::new(0),
        validity: watch::Sender::new(Validity::Lost),
        session: 0,
        queued: None,
        lease: None,
    };
    let waiting = Waiting {
        position: seat.position.subscribe(),
        granted: Some(is_granted),
        validity: seat.validity.clone(),
        left: left.clone(),
        gone: gone.clone(),
        guard: Some(left.clone().drop_guard()),
    };
    let gone = gone.drop_guard();
    shared.tasks.spawn(async move {
        seat.occupy(left, Entered(Some(entered)), granted).await;
        drop((gone, permit));
    });
    match timeout(ENTER_LIMIT, is_entered).await {
        Ok(Ok(Ok(()))) => Ok(Place { inner: Box::new(waiting) }),
        Ok(Ok(Err(refused))) => Err(refused),
        Ok(Err(_)) => Err(Refused::Failed(CoordinationError::Away("this process leaves ZooKeeper"))),
        Err(_) => Err(Refused::Failed(CoordinationError::Unknown { step: STEP, source: None })),
    }
}

/// A place that is not granted yet, as its caller has it.
struct Waiting {
    position: watch::Receiver<u32>,
    granted: Option<oneshot::Receiver<i64>>,
    validity: watch::Sender<Validity>,
    left: CancellationToken,
    gone: CancellationToken,
    /// Leaves the queue when dropped.
    guard: Option<DropGuard>,
}

#[async_trait]
impl PlaceInner for Waiting {
    fn position(&self) -> watch::Receiver<u32> {
        self.position.clone()
    }

    async fn granted(&mut self) -> Result<Arc<dyn GrantInner>, Lost> {
        let granted = self.granted.take().ok_or(Lost)?;
        let fence = granted.await.map_err(|_| Lost)?;
        Ok(Arc::new(Held {
            fence,
            validity: self.validity.clone(),
            left: self.left.clone(),
            gone: self.gone.clone(),
            _guard: self.guard.take(),
        }))
    }
}

/// What was granted, as its caller has it.
struct Held {
    fence: i64,
    validity: watch::Sender<Validity>,
    left: CancellationToken,
    gone: CancellationToken,
    /// Releases it when dropped.
    _guard: Option<DropGuard>,
}

#[async_trait]
impl GrantInner for Held {
    fn fence(&self) -> i64 {
        self.fence
    }

    fn validity(&self) -> watch::Receiver<Validity> {
        self.validity.subscribe()
    }

    async fn release(&self) {
        self.left.cancel();
        if timeout(RELEASE_LIMIT, self.gone.cancelled()).await.is_err() {
            warn!(fence = self.fence, "a lock or lease is not given back yet; trying on");
        }
    }
}

/// Ends when something happens to an entry.
type Gone = Pin<Box<dyn Future<Output = WatchedEvent> + Send>>;

/// Why a task ends before it is told to leave.
pub(super) enum End {
    Refused(Refused),
    Lost,
}

impl From<Lost> for End {
    fn from(Lost: Lost) -> Self {
        Self::Lost
    }
}

/// Told once whether there is a place.
struct Entered(Option<oneshot::Sender<Result<(), Refused>>>);

impl Entered {
    fn tell(&mut self, answer: Result<(), Refused>) {
        if let Some(sender) = self.0.take() {
            // Whoever asked may have gone.
            drop(sender.send(answer));
        }
    }
}

/// A place as its task has it.
struct Seat {
    shared: Arc<Shared>,
    what: Contended,
    place: queue::Place,
    data: Vec<u8>,
    waiters_max: u32,
    position: watch::Sender<u32>,
    validity: watch::Sender<Validity>,
    /// The session that makes the entries; with it they are gone.
    session: i64,
    queued: Option<Entry>,
    /// Of a limit.
    lease: Option<Entry>,
}

impl Seat {
    /// Enters, waits, holds, until `left`; then takes out what it put there.
    async fn occupy(mut self, left: CancellationToken, mut entered: Entered, granted: oneshot::Sender<i64>) {
        let user = Lease::user(&self.shared);
        let end = left.run_until_cancelled(self.pursue(&mut entered, granted)).await;
        drop(user);
        self.validity.send_replace(Validity::Lost);
        let shared = Arc::clone(&self.shared);
        shared.take_back("a place in a queue", self.leave()).await;
        entered.tell(Err(match end {
            Some(End::Refused(refused)) => refused,
            Some(End::Lost) => Refused::Failed(CoordinationError::Away("the session has ended meanwhile")),
            None => Refused::Failed(CoordinationError::Away("this process leaves ZooKeeper")),
        }));
    }

    /// Ends only early.
    async fn pursue(&mut self, entered: &mut Entered, granted: oneshot::Sender<i64>) -> End {
        let since = Instant::now();
        if let Err(end) = self.wait(entered).await {
            return end;
        }
        let (kind, entry) = match (&self.lease, &self.queued) {
            (Some(lease), _) => ("limit", lease),
            (None, Some(queued)) => ("lock", queued),
            (None, None) => return End::Lost,
        };
        histogram!(LOCK_WAIT_SECONDS, "kind" => kind).record(since.elapsed());
        let _counted = Counted::new(kind);
        self.position.send_replace(0);
        if granted.send(entry.fence).is_err() {
            return End::Lost;
        }
        // Who has a lease lets the next one try for another.
        let make_way = async {
            if let (Some(_), Some(queued)) = (&self.lease, &self.queued) {
                queued.remove(&self.shared).await;
            }
        };
        tokio::join!(self.hold(entry), make_way);
        End::Lost
    }

    /// Until it is granted.
    async fn wait(&mut self, entered: &mut Entered) -> Result<(), End> {
        let connection = self.shared.connected().await;
        self.session = connection.session.id();
        let queued = self.queued.insert(Entry::new(self.place.queue(&connection.session), LOCK));
        queued.make(&self.shared, self.session, &self.place, &self.data).await?;
        self.wait_turn(entered).await?;
        if let Contended::Limit { max, .. } = self.what {
            let lease = self.lease.insert(Entry::new(self.place.leases(&connection.session), LEASE));
            drop(connection);
            lease.make(&self.shared, self.session, &self.place, &self.data).await?;
            lease.wait_below(&self.shared, self.session, max).await?;
        }
        Ok(self.wait_valid().await?)
    }

    /// Waits until the entry is the first of the queue.
    async fn wait_turn(&mut self, entered: &mut Entered) -> Result<(), End> {
        let queued = self.queued.as_ref().ok_or(Lost)?;
        let mut before: Option<(String, Gone)> = None;
        loop {
            let connection = alive(&self.shared, self.session).await?;
            let Some(names) = answered(connection.session.list(&queued.directory)).await else { continue };
            let names = queue::in_order(names);
            let at = queued.find_in(&names).ok_or(Lost)?;
            // The first of a lock has it; the first of a limit waits for the next lease.
            let waiting = if self.place.is_limit() { at } else { at.saturating_sub(1) };
            let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
            if waiting > self.waiters_max && entered.0.is_some() {
                return Err(End::Refused(Refused::Full(waiting)));
            }
            self.position.send_if_modified(|known| std::mem::replace(known, waiting) != waiting);
            entered.tell(Ok(()));
            let Some(next) = at.checked_sub(1).map(|at| &names[at]) else { return Ok(()) };
            if before.as_ref().is_none_or(|(name, _)| name != next) {
                let path = format!("{}/{next}", queued.directory);
                match answered(connection.session.watch_stat(&path)).await {
                    Some((Some(_), gone)) => before = Some((next.clone(), Box::pin(gone.changed()))),
                    Some((None, _)) | None => continue,
                }
            }
            let Some((_, gone)) = &mut before else { continue };
            tokio::select! {
                _ = gone => before = None,
                () = sleep(RECHECK * (1 + waiting / RECHECK_EACH)) => {}
                () = self.shared.disconnected(&connection) => {}
            }
        }
    }

    /// Waits until the session is proven to live for a while.
    async fn wait_valid(&self) -> Result<(), Lost> {
        let mut proven = self.shared.lease.watch();
        let valid = async {
            let valid = proven.wait_for(|now| now.session == self.session && now.validity.is_valid()).await;
            valid.map(|now| now.validity).map_err(|_| Lost)
        };
        tokio::select! {
            valid = valid => {
                self.validity.send_replace(valid?);
                Ok(())
            }
            () = self.shared.session_over(self.session) => Err(Lost),
        }
    }

    /// Keeps the validity current; and once it is lost for good, says so and waits to be told to leave: until then the
    /// holder may still be stopping what it did.
    async fn hold(&self, entry: &Entry) {
        let mut proven = self.shared.lease.watch();
        let follow = async {
            loop {
                let now = *proven.borrow_and_update();
                if now.session != self.session {
                    return;
                }
                self.validity
                    .send_if_modified(|known| std::mem::replace(known, now.validity) != now.validity);
                if proven.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = follow => {}
            () = entry.watch_over(&self.shared, self.session) => {}
            () = self.shared.session_over(self.session) => {}
        }
        self.validity.send_replace(Validity::Lost);
        warn!(fence = entry.fence, "a lock or lease is lost");
        std::future::pending::<()>().await;
    }

    /// Takes out whatever may be there. A lease first: who sees it gone must find the queue as it was.
    async fn leave(&self) {
        for entry in [&self.lease, &self.queued].into_iter().flatten() {
            entry.remove(&self.shared).await;
        }
    }
}

/// One more that is held, until it is dropped.
struct Counted(&'static str);

impl Counted {
    fn new(kind: &'static str) -> Self {
        gauge!(LOCKS_HELD, "kind" => kind).increment(1.0);
        Self(kind)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        gauge!(LOCKS_HELD, "kind" => self.0).decrement(1.0);
    }
}
