//! For how long this process's session is certain to live: the clock that every lock and limit it holds runs by.
//!
//! All of them are ephemeral znodes of the one session, so one proof serves all. A read proves nothing: a server that has
//! lost the majority answers reads for some ticks more, while the majority ends the session. So the heartbeat is a
//! *write* to an ephemeral znode of the session; its answer says that a majority still had the session when it was made.
//!
//! That is not yet how long it lives on. The leader ends a session one session time after it last heard of it, and it
//! hears of a client of another server only with that server's next ping, half a tick later. A session lasts two ticks at
//! least, so half a tick is a quarter of it at most: what was sent a quarter before a heartbeat that was answered is known
//! to the leader, and the lease runs from *that* sending. Before there were two heartbeats, the client's own pings (every
//! fifth of the session) stand in for the first.
//!
//! What is left to trust: that the clocks of leader and client run at the same rate, that servers answer their leader's
//! pings, and that a process that needs no lease is not frozen just before it does. Where that fails, the record still
//! refuses the writes of the older fence.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::debug;

use super::Shared;
use super::session::{Connection, Failure, Session};
use crate::{Boottime, Validity};

/// Parts of the session time.
const BEATS: u32 = 10;
const KNOWN_TO_LEADER: f64 = 0.25;
const FIRST: f64 = 0.5;
/// Between two tries when there is no connection to try on.
const PAUSE: Duration = Duration::from_millis(100);

/// What is proven of the present session.
pub(super) struct Lease {
    proofs: Mutex<Proofs>,
    proven: watch::Sender<Proven>,
    /// How many need it; nobody beats for nobody.
    users: watch::Sender<usize>,
}

/// Until when a session is certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proven {
    pub(super) session: i64,
    pub(super) validity: Validity,
}

/// One who needs the lease, until it is dropped.
pub(super) struct User(Arc<Shared>);

impl Drop for User {
    fn drop(&mut self) {
        self.0.lease.users.send_modify(|users| *users = users.saturating_sub(1));
    }
}

impl Lease {
    pub(super) fn new() -> Self {
        Self {
            proofs: Mutex::new(Proofs { session: 0, sent: VecDeque::new() }),
            proven: watch::Sender::new(Proven { session: 0, validity: Validity::Lost }),
            users: watch::Sender::new(0),
        }
    }

    pub(super) fn user(shared: &Arc<Shared>) -> User {
        shared.lease.users.send_modify(|users| {
            if *users == 0 {
                // How long nobody needed it says nothing about the process, which must not look frozen after it.
                shared.lease.lock().sent.clear();
            }
            *users += 1;
        });
        User(Arc::clone(shared))
    }

    fn lock(&self) -> MutexGuard<'_, Proofs> {
        self.proofs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn watch(&self) -> watch::Receiver<Proven> {
        self.proven.subscribe()
    }

    /// A write of `session` that was sent at `sent_at` was answered.
    pub(super) fn answered(&self, session: &Session, sent_at: Boottime) {
        // An answer that is read late must not take the place of what the next session was told.
        if *self.users.borrow() == 0 || session.is_over() {
            return;
        }
        let mut proofs = self.lock();
        if proofs.session != session.id() {
            *proofs = Proofs { session: session.id(), sent: VecDeque::new() };
        }
        let from = proofs.answered(sent_at, session.lease());
        let now = Proven { session: session.id(), validity: Validity::granted(from, session.lease()) };
        self.proven.send_if_modified(|known| std::mem::replace(known, now) != now);
    }
}

/// When the latest answered writes of a session were sent.
struct Proofs {
    session: i64,
    sent: VecDeque<Boottime>,
}

impl Proofs {
    /// Notes one more, and returns from when on the lease runs.
    fn answered(&mut self, sent_at: Boottime, lease: Duration) -> Boottime {
        let spacing = lease / (2 * BEATS);
        if self.sent.back().is_none_or(|last| sent_at.since(*last) >= spacing) {
            self.sent.push_back(sent_at);
        }
        // Answers may overtake each other.
        let latest = self.sent.back().map_or(sent_at, |last| sent_at.max(*last));
        let is_known = |sent: &Boottime| latest.since(*sent) >= lease.mul_f64(KNOWN_TO_LEADER);
        while self.sent.get(1).is_some_and(is_known) {
            self.sent.pop_front();
        }
        self.sent.front().copied().filter(is_known).unwrap_or_else(|| latest.before(lease.mul_f64(FIRST)))
    }
}

/// Beats while somebody needs it, for ever.
pub(super) async fn keep(shared: Arc<Shared>) {
    let mut users = shared.lease.users.subscribe();
    loop {
        drop(users.wait_for(|users| *users > 0).await);
        let connection = shared.connected().await;
        tokio::select! {
            () = beat_on(&shared, &connection) => {}
            () = shared.disconnected(&connection) => {}
            _ = users.wait_for(|users| *users == 0) => {}
        }
        drop(connection);
        sleep(PAUSE).await;
    }
}

async fn beat_on(shared: &Shared, connection: &Connection) {
    let mut beats = interval(connection.session.lease() / BEATS);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        if let Err(failure) = beat(shared, &connection.session).await {
            debug!(?failure, "a heartbeat was not answered");
        }
    }
}

/// One heartbeat. Returns its number: everything written later has a higher one.
pub(super) async fn beat(shared: &Shared, session: &Session) -> Result<i64, Failure> {
    let directory = session.path(&["sessions"]);
    let path = format!("{directory}/{:016x}", session.id());
    let mut sent_at = Boottime::now();
    let mut answer = session.touch(&path).await;
    if let Err(Failure::Refused(zookeeper_client::Error::NoNode)) = answer {
        session.make_directory(&directory).await?;
        sent_at = Boottime::now();
        answer = session.touch(&path).await;
    }
    let number = answer?;
    shared.lease.answered(session, sent_at);
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lease_runs_from_what_the_leader_is_sure_to_know() {
        let lease = Duration::from_secs(10);
        let start = Boottime::now();
        let at = |ms: u64| start.after(Duration::from_millis(ms));
        let mut proofs = Proofs { session: 1, sent: VecDeque::new() };
        // Nothing is known of the time before the first but the client's own pings.
        assert_eq!(proofs.answered(at(0), lease), start.before(Duration::from_secs(5)));
        assert_eq!(proofs.answered(at(1_000), lease), start.before(Duration::from_secs(4)));
        assert_eq!(proofs.answered(at(2_000), lease), start.before(Duration::from_secs(3)));
        // The first was sent a quarter of the session before this one.
        assert_eq!(proofs.answered(at(3_000), lease), at(0));
        assert_eq!(proofs.answered(at(4_000), lease), at(1_000));
        // An answer that comes late takes nothing back.
        assert_eq!(proofs.answered(at(3_500), lease), at(1_000));
        // A process that was frozen sent no pings either.
        assert_eq!(proofs.answered(at(12_000), lease), at(4_000));
        for ms in (12_000..20_000).step_by(100) {
            proofs.answered(at(ms), lease);
        }
        assert!(proofs.sent.len() <= 2 * BEATS as usize);
    }
}
