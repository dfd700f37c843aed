use std::time::Duration;

use metrics::counter;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tracing::{debug, warn};
use uuid::Uuid;
use zookeeper_client::Error;

use super::Shared;
use super::place::End;
use super::queue::{self, Place};
use super::session::{Connection, Failure, Session};
use crate::metrics::RELEASES_REPEATED;
use crate::{Boottime, Lost, Refused};

/// How often who waits for a lease counts them again, whatever the watch says.
const RECHECK: Duration = Duration::from_secs(5);
/// How long a holder waits for the answer whether its entry is there.
const CHECK_LIMIT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(100);

/// One ephemeral sequential znode in a queue, from before it is made until it is certainly gone.
pub(super) struct Entry {
    pub(super) directory: String,
    /// What its name begins with. It is found by it when the answer to its making was lost.
    name: String,
    /// Its path, once it is known to have been made.
    path: Option<String>,
    /// Its `czxid`.
    pub(super) fence: i64,
}

/// The connection of `session`, once there is one.
pub(super) async fn alive(shared: &Shared, session: i64) -> Result<Connection, Lost> {
    tokio::select! {
        connection = shared.connected() => {
            if connection.session.id() == session { Ok(connection) } else { Err(Lost) }
        }
        () = shared.session_over(session) => Err(Lost),
    }
}

/// The answer; or after a pause `None`: ask again.
pub(super) async fn answered<T>(operation: impl Future<Output = Result<T, Failure>>) -> Option<T> {
    match operation.await {
        Ok(answer) => Some(answer),
        Err(failure) => {
            debug!(?failure, "ZooKeeper gave no answer about a queue; asking again");
            sleep(PAUSE.mul_f64(rand::random_range(0.5..1.0))).await;
            None
        }
    }
}

impl Entry {
    /// Not made yet.
    pub(super) fn new(directory: String, kind: &str) -> Self {
        Self { directory, name: format!("_c_{}-{kind}-", Uuid::now_v7()), path: None, fence: 0 }
    }

    /// Where it is among `names`.
    pub(super) fn find_in(&self, names: &[String]) -> Option<usize> {
        names.iter().position(|name| name.starts_with(&self.name))
    }

    /// Makes it, once; if the answer is lost, looks whether it was made.
    pub(super) async fn make(
        &mut self,
        shared: &Shared,
        session_id: i64,
        place: &Place,
        data: &[u8],
    ) -> Result<(), End> {
        let path = format!("{}/{}", self.directory, self.name);
        loop {
            let session = alive(shared, session_id).await?.session;
            let sent_at = Boottime::now();
            let made = session.create_sequential(&path, data).await;
            let failure = match made {
                Ok((path, stat)) => {
                    shared.lease.answered(&session, sent_at);
                    (self.path, self.fence) = (Some(path), stat.czxid);
                    return Ok(());
                }
                Err(Failure::Refused(Error::NoNode)) => match place.make(&session).await {
                    Ok(()) => continue,
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            match failure {
                Failure::Refused(_) => {
                    return Err(End::Refused(Refused::Failed(failure.at("make an entry in a queue"))));
                }
                Failure::Unknown(error) => debug!(?error, "was an entry made in a queue?"),
            }
            if self.look(shared, session_id).await? {
                return Ok(());
            }
        }
    }

    /// Was it made?
    async fn look(&mut self, shared: &Shared, session_id: i64) -> Result<bool, Lost> {
        loop {
            let session = alive(shared, session_id).await?.session;
            let look = async {
                let names = session.list(&self.directory).await?;
                let Some(at) = self.find_in(&names) else { return Ok(None) };
                let path = format!("{}/{}", self.directory, names[at]);
                Ok::<_, Failure>(session.find_stat(&path).await?.map(|stat| (path, stat)))
            };
            match answered(look).await {
                Some(Some((path, stat))) => {
                    (self.path, self.fence) = (Some(path), stat.czxid);
                    return Ok(true);
                }
                Some(None) => return Ok(false),
                None => {}
            }
        }
    }

    /// Waits until it is among the first `max` of its directory.
    pub(super) async fn wait_below(&self, shared: &Shared, session: i64, max: u32) -> Result<(), Lost> {
        loop {
            let connection = alive(shared, session).await?;
            let Some((names, changed)) = answered(connection.session.watch_list(&self.directory)).await
            else {
                continue;
            };
            let at = self.find_in(&queue::in_order(names)).ok_or(Lost)?;
            if u32::try_from(at).is_ok_and(|at| at < max) {
                return Ok(());
            }
            tokio::select! {
                _ = changed.changed() => {}
                () = sleep(RECHECK) => {}
                () = shared.disconnected(&connection) => {}
            }
        }
    }

    /// Ends when it is not there any more, as when somebody deleted it. That it cannot be asked about says nothing.
    pub(super) async fn watch_over(&self, shared: &Shared, session: i64) {
        let Some(path) = &self.path else { return };
        let Ok(connection) = alive(shared, session).await else { return };
        // It was in the list that granted it just now.
        let every = connection.session.lease() / 6;
        let mut checks = interval_at(Instant::now() + every, every);
        drop(connection);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            checks.tick().await;
            let Ok(connection) = alive(shared, session).await else { return };
            match timeout(CHECK_LIMIT, connection.session.find_stat(path)).await {
                Ok(Ok(Some(stat))) if stat.ephemeral_owner == session => {}
                Ok(Ok(_)) => return,
                Ok(Err(_)) | Err(_) => debug!(path, "whether an entry is there was not answered"),
            }
        }
    }

    /// Takes it out, again and again until that is certain. An entry of a session that is over is taken out all the same:
    /// the servers may not know yet that it is.
    pub(super) async fn remove(&self, shared: &Shared) {
        loop {
            let session = shared.connected().await.session;
            match self.delete(&session).await {
                Ok(()) => return,
                Err(Failure::Refused(error)) => {
                    return warn!(%error, name = self.name, "an entry in a queue stays until its session ends");
                }
                Err(Failure::Unknown(error)) => {
                    debug!(?error, name = self.name, "was an entry in a queue deleted? Deleting it again");
                }
            }
            counter!(RELEASES_REPEATED).increment(1);
            sleep(PAUSE).await;
        }
    }

    async fn delete(&self, session: &Session) -> Result<(), Failure> {
        if let Some(path) = &self.path {
            return session.delete(path, None).await;
        }
        for name in session.list(&self.directory).await? {
            if name.starts_with(&self.name) {
                session.delete(&format!("{}/{name}", self.directory), None).await?;
            }
        }
        Ok(())
    }
}
