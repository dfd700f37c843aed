use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};
use zookeeper_client::{
    Acls, Client, CreateMode, Error, OneshotWatcher, PersistentWatcher, SessionState, Stat, StateWatcher,
};

use super::{Shared, access};
use crate::metrics::SESSIONS;
use crate::{CoordinationError, Link};

/// How long one operation may take; the crate itself has no limit, and keeps requests while it is disconnected.
const CALL_LIMIT: Duration = Duration::from_secs(2);
/// How long one try to connect may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long the end of a session may take.
const END_LIMIT: Duration = Duration::from_secs(2);
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// One connection of a session. A reconnect is another one, of the same session or of a new one.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) session: Session,
    /// Different for each.
    pub(super) epoch: u64,
}

/// A session, and the operations we need, each within [`CALL_LIMIT`].
#[derive(Clone)]
pub(super) struct Session {
    client: Client,
    root: Arc<str>,
    /// Who may do what with the znodes it makes.
    acls: Acls<'static>,
}

/// Why an operation failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server said no, and did nothing.
    Refused(Error),
    /// It may have been done.
    Unknown(Option<Error>),
}

impl Failure {
    pub(super) fn at(self, step: &'static str) -> CoordinationError {
        match self {
            Self::Refused(error) => CoordinationError::Refused { step, source: error.into() },
            Self::Unknown(error) => CoordinationError::Unknown { step, source: error.map(Into::into) },
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let refused = matches!(
            error,
            Error::NoNode
                | Error::NodeExists
                | Error::BadVersion
                | Error::NotEmpty
                | Error::NoAuth
                | Error::InvalidAcl
                | Error::BadArguments(_)
                | Error::NoChildrenForEphemerals
                | Error::QuotaExceeded
                | Error::Unimplemented
                | Error::Throttled
        );
        // Anything else, a stalled link's `Custom("no response")` included, says nothing of what was done.
        if refused { Self::Refused(error) } else { Self::Unknown(Some(error)) }
    }
}

async fn call<T>(operation: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
    match timeout(CALL_LIMIT, operation).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Failure::Unknown(None)),
    }
}

/// `None` where there is no such node.
fn if_there<T>(answer: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(Failure::Refused(Error::NoNode)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

impl Session {
    /// The path of what is at `parts` below the root.
    pub(super) fn path(&self, parts: &[&str]) -> String {
        let mut path = self.root.to_string();
        for part in parts {
            path.push('/');
            path.push_str(part);
        }
        path
    }

    /// What the ephemeral nodes of this session name as their owner.
    pub(super) fn id(&self) -> i64 {
        self.client.session_id().0
    }

    /// Is it known to be over? Nothing that it was told counts any more.
    pub(super) fn is_over(&self) -> bool {
        self.client.state().is_terminated()
    }

    /// How long the servers keep the session after its last heartbeat, as they negotiated.
    pub(super) fn lease(&self) -> Duration {
        self.client.session_timeout()
    }

    /// Makes `path` and what is above it, if it is not there.
    pub(super) async fn make_directory(&self, path: &str) -> Result<(), Failure> {
        call(self.client.mkdir(path, &CreateMode::Persistent.with_acls(self.acls))).await
    }

    /// There already is done already.
    pub(super) async fn create_persistent(&self, path: &str, data: &[u8]) -> Result<(), Failure> {
        let options = CreateMode::Persistent.with_acls(self.acls);
        match call(self.client.create(path, data, &options)).await {
            Ok(_) | Err(Failure::Refused(Error::NodeExists)) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Makes an ephemeral node; `false` if there is one already.
    pub(super) async fn create_ephemeral(&self, path: &str, data: &[u8]) -> Result<bool, Failure> {
        let options = CreateMode::Ephemeral.with_acls(self.acls);
        match call(self.client.create(path, data, &options)).await {
            Ok(_) => Ok(true),
            Err(Failure::Refused(Error::NodeExists)) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Makes a node that the servers delete once it has had children and has none any more. There already is done already.
    pub(super) async fn create_container(&self, path: &str, data: &[u8]) -> Result<(), Failure> {
        let options = CreateMode::Container.with_acls(self.acls);
        match call(self.client.create(path, data, &options)).await {
            Ok(_) | Err(Failure::Refused(Error::NodeExists)) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Makes an ephemeral node whose name begins with `path`. Returns its whole path.
    pub(super) async fn create_sequential(&self, path: &str, data: &[u8]) -> Result<(String, Stat), Failure> {
        let options = CreateMode::EphemeralSequential.with_acls(self.acls);
        let (stat, sequence) = call(self.client.create(path, data, &options)).await?;
        Ok((format!("{path}{sequence}"), stat))
    }

    pub(super) async fn find(&self, path: &str) -> Result<Option<(Vec<u8>, Stat)>, Failure> {
        if_there(call(self.client.get_data(path)).await)
    }

    pub(super) async fn find_stat(&self, path: &str) -> Result<Option<Stat>, Failure> {
        call(self.client.check_stat(path)).await
    }

    /// As [`Session::find_stat`], with a watch that fires once when the node is made, changed or deleted.
    pub(super) async fn watch_stat(&self, path: &str) -> Result<(Option<Stat>, OneshotWatcher), Failure> {
        call(self.client.check_and_watch_stat(path)).await
    }

    /// The names of what is directly below `path`; none if it is not there.
    pub(super) async fn list(&self, path: &str) -> Result<Vec<String>, Failure> {
        Ok(if_there(call(self.client.list_children(path)).await)?.unwrap_or_default())
    }

    /// As [`Session::list`], with a watch that fires once when a child is made or deleted.
    pub(super) async fn watch_list(&self, path: &str) -> Result<(Vec<String>, OneshotWatcher), Failure> {
        call(self.client.list_and_watch_children(path)).await
    }

    /// A watch on everything below `path`. It may lose events over a reconnect (ZOOKEEPER-4698).
    pub(super) async fn watch_below(&self, path: &str) -> Result<PersistentWatcher, Failure> {
        call(self.client.watch(path, zookeeper_client::AddWatchMode::PersistentRecursive)).await
    }

    /// Replaces the data of a node that still has `version`.
    pub(super) async fn replace(&self, path: &str, data: &[u8], version: i32) -> Result<(), Failure> {
        call(self.client.set_data(path, data, Some(version))).await.map(drop)
    }

    /// Writes the (empty) data of the ephemeral node at `path`, making it if need be: a majority of the servers agrees that
    /// this session lives. Returns the number of that write.
    pub(super) async fn touch(&self, path: &str) -> Result<i64, Failure> {
        if let Some(stat) = if_there(call(self.client.set_data(path, b"", None)).await)? {
            return Ok(stat.mzxid);
        }
        let options = CreateMode::Ephemeral.with_acls(self.acls);
        call(self.client.create(path, b"", &options)).await.map(|(stat, _)| stat.mzxid)
    }

    /// Gone already is done already.
    pub(super) async fn delete(&self, path: &str, version: Option<i32>) -> Result<(), Failure> {
        if_there(call(self.client.delete(path, version)).await).map(drop)
    }
}

/// Has a connection made whenever there is none, for ever; then ends the session.
///
/// After an expiry the client is dead for good: nothing of it is kept.
pub(super) async fn supervise(shared: Arc<Shared>) {
    let root: Arc<str> = shared.config.root.trim_end_matches('/').into();
    let mut epoch = 0;
    let mut failures = 0;
    loop {
        let connected = tokio::select! {
            connected = connect(&shared) => connected,
            () = shared.ending.cancelled() => return,
        };
        match connected {
            Ok(client) => {
                failures = 0;
                counter!(SESSIONS).increment(1);
                let session = Session {
                    client,
                    root: Arc::clone(&root),
                    acls: access::acls(shared.config.credential.as_ref()),
                };
                shared.session_id.send_replace(session.id());
                if serve(&shared, session, &mut epoch).await == Served::Ended {
                    return;
                }
                warn!("the ZooKeeper session is over: beginning another");
            }
            Err(reason) => {
                failures += 1;
                warn!(
                    reason,
                    failures,
                    servers = shared.config.servers,
                    "cannot connect to ZooKeeper; trying on"
                );
            }
        }
        let pause = (PAUSE_MIN * (1 << failures.min(5))).min(PAUSE_MAX).mul_f64(rand::random());
        tokio::select! {
            () = sleep(pause.max(PAUSE_MIN)) => {}
            () = shared.ending.cancelled() => return,
        }
    }
}

async fn connect(shared: &Shared) -> Result<Client, String> {
    let config = &shared.config;
    let mut connector = Client::connector().with_session_timeout(Duration::from_millis(config.session_ms));
    if let Some(credential) = &config.credential {
        let proof = format!("{}:{}", credential.user, credential.password);
        connector = connector.with_auth("digest", proof.as_bytes());
    }
    let connected = async {
        let client = connector.connect(&config.servers).await.map_err(|error| {
            if error == Error::AuthFailed {
                "the servers refuse the credential".to_owned()
            } else {
                error.to_string()
            }
        })?;
        access::check(&client, config.root.trim_end_matches('/'), config.credential.as_ref()).await?;
        Ok(client)
    };
    match timeout(CONNECT_LIMIT, connected).await {
        Ok(connected) => connected,
        Err(_) => Err(format!("no session after {} s", CONNECT_LIMIT.as_secs())),
    }
}

#[derive(PartialEq, Eq)]
enum Served {
    Expired,
    Ended,
}

/// Tells everyone when `session` is connected, until it is over.
async fn serve(shared: &Shared, session: Session, epoch: &mut u64) -> Served {
    let mut states = session.client.state_watcher();
    let asked = shared.config.session_ms;
    let lease_ms = session.lease().as_millis() as u64;
    info!(
        session = format!("{:x}", session.id()),
        lease_ms,
        asked_ms = asked,
        "a ZooKeeper session has begun"
    );
    let mut state = states.state();
    loop {
        match state {
            SessionState::SyncConnected => {
                *epoch += 1;
                shared.connection.send_replace(Some(Connection { session: session.clone(), epoch: *epoch }));
            }
            // A server without a majority behind it knows nothing: read-only is as good as away.
            SessionState::Disconnected | SessionState::ConnectedReadOnly => lose(shared),
            // Terminal: the watcher would never return again.
            SessionState::Expired | SessionState::AuthFailed | SessionState::Closed => {
                lose(shared);
                shared.session_id.send_replace(0);
                return Served::Expired;
            }
        }
        state = tokio::select! {
            state = states.changed() => state,
            () = shared.ending.cancelled() => {
                lose(shared);
                drop(session);
                end(states).await;
                return Served::Ended;
            }
        };
    }
}

fn lose(shared: &Shared) {
    // In this order: whoever calls the view current looks at the connection afterwards.
    shared.connection.send_replace(None);
    if shared.view.set_link(Link::Down) {
        warn!("the link to ZooKeeper is down: the view of the nodes may be old");
    }
}

/// The last client is dropped: the session is closed in the background, and this waits for it.
async fn end(mut states: StateWatcher) {
    let closed = async { while !states.changed().await.is_terminated() {} };
    if timeout(END_LIMIT, closed).await.is_err() {
        warn!("ZooKeeper did not confirm the end of the session");
    }
}
