use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::NodeId;
use protocol::NodeInfo;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Shared;
use super::session::{Failure, Session};
use crate::port::Announcement;
use crate::{CoordinationError, namesake};

/// How often it is checked that the announcement is still there, besides after each connect.
const RECHECK: Duration = Duration::from_secs(30);
/// Between two looks at a name that another life has, and after a failure.
const PAUSE: Duration = Duration::from_millis(500);
const LEAVE_LIMIT: Duration = Duration::from_secs(2);

/// A node's ephemeral znode, made again under each new session until it is left.
pub(super) struct Announced {
    shared: Arc<Shared>,
    id: NodeId,
    /// `None` once it is left. Held while the znode is changed, so that an old text never overwrites a new one.
    info: Arc<Mutex<Option<NodeInfo>>>,
    left: CancellationToken,
    /// The task has ended.
    gone: CancellationToken,
}

/// Who has the name.
enum Placed {
    Ours,
    Another(NodeInfo),
}

impl Announced {
    /// Announces `own` once no other life of the node is there.
    pub(super) async fn join(shared: &Arc<Shared>, own: NodeInfo) -> Result<Self, CoordinationError> {
        let mut other_since: Option<(NodeId, Instant)> = None;
        loop {
            let session = shared.connected().await.session;
            match reconcile(&session, &own).await {
                Ok(Placed::Ours) => break,
                Ok(Placed::Another(other)) => {
                    let since = match other_since.take() {
                        Some((id, since)) if id == other.id => since,
                        _ => {
                            info!(node = %other.id, "an earlier life of this node is announced: waiting for its session to end");
                            Instant::now()
                        }
                    };
                    // A session may outlive its process by its whole timeout, and the server notices by the tick.
                    if since.elapsed() > session.lease().mul_f64(1.5) {
                        let boot = other.id.boot().to_owned();
                        return Err(CoordinationError::NameTaken { name: other.id.name().to_string(), boot });
                    }
                    other_since = Some((other.id, since));
                }
                Err(failure) => warn!(?failure, "cannot announce this node yet"),
            }
            sleep(PAUSE.mul_f64(rand::random_range(0.5..1.0))).await;
        }
        info!(node = %own.id, "this node is announced");
        let announced = Self {
            shared: Arc::clone(shared),
            id: own.id.clone(),
            info: Arc::new(Mutex::new(Some(own))),
            left: shared.closing.child_token(),
            gone: CancellationToken::new(),
        };
        let (info, left) = (Arc::clone(&announced.info), announced.left.clone());
        let kept = keep(Arc::clone(shared), announced.id.clone(), info, left);
        let gone = announced.gone.clone().drop_guard();
        shared.tasks.spawn(async move {
            kept.await;
            drop(gone);
        });
        Ok(announced)
    }
}

/// Makes the znode of the node what `own` says, if no other life has it.
///
/// The one way to make it, change it, and learn what became of an earlier try whose answer was lost.
async fn reconcile(session: &Session, own: &NodeInfo) -> Result<Placed, Failure> {
    let directory = session.path(&["nodes"]);
    let path = format!("{directory}/{}", own.id.name());
    let text = text(own);
    // What is in the way may go while we look.
    for _ in 0..3 {
        let Some((data, stat)) = session.find(&path).await? else {
            session.make_directory(&directory).await?;
            if session.create_ephemeral(&path, &text).await? {
                return Ok(Placed::Ours);
            }
            continue;
        };
        if stat.ephemeral_owner == session.id() {
            if data != text {
                session.replace(&path, &text, stat.version).await?;
            }
            return Ok(Placed::Ours);
        }
        if let Ok(other) = serde_json::from_slice::<NodeInfo>(&data)
            && other.id != own.id
            && !namesake::is_over(&other, own)
        {
            return Ok(Placed::Another(other));
        }
        // It is of an earlier session of ours, of a life that is over, or nothing that can be read.
        session.delete(&path, Some(stat.version)).await?;
    }
    Err(Failure::Unknown(None))
}

fn text(info: &NodeInfo) -> Vec<u8> {
    serde_json::to_vec(info).unwrap_or_default()
}

/// Reconciles after each connect and every [`RECHECK`] until it is left, then takes the znode away.
async fn keep(
    shared: Arc<Shared>,
    node: NodeId,
    info: Arc<Mutex<Option<NodeInfo>>>,
    left: CancellationToken,
) {
    let kept = left.run_until_cancelled(async {
        let mut taken = false;
        loop {
            let connection = shared.connected().await;
            let placed = match info.lock().await.as_ref() {
                Some(own) => reconcile(&connection.session, own).await,
                None => return,
            };
            match placed {
                Ok(Placed::Ours) => {
                    taken = false;
                    tokio::select! {
                        () = shared.disconnected(&connection) => {}
                        () = sleep(RECHECK) => {}
                    }
                    continue;
                }
                Ok(Placed::Another(other)) if !taken => {
                    taken = true;
                    warn!(%node, other = %other.id, "another life of this node has taken its name");
                }
                Ok(Placed::Another(_)) => {}
                Err(failure) => debug!(%node, ?failure, "cannot check this node's announcement"),
            }
            sleep(PAUSE).await;
        }
    });
    kept.await;
    shared.take_back("this node's announcement", withdraw(&shared, &node, &info)).await;
}

/// Deletes the znode until that is answered.
async fn withdraw(shared: &Shared, node: &NodeId, info: &Mutex<Option<NodeInfo>>) {
    info.lock().await.take();
    loop {
        let session = shared.connected().await.session;
        let path = session.path(&["nodes", node.name().as_str()]);
        let deleted = async {
            match session.find_stat(&path).await? {
                Some(stat) if stat.ephemeral_owner == session.id() => session.delete(&path, None).await,
                _ => Ok(()),
            }
        };
        match deleted.await {
            Ok(()) => return,
            Err(failure) => {
                debug!(%node, ?failure, "cannot take this node's announcement back; trying again")
            }
        }
        sleep(PAUSE / 5).await;
    }
}

#[async_trait]
impl Announcement for Announced {
    async fn update(&self, info: NodeInfo) -> Result<(), CoordinationError> {
        let mut announced = self.info.lock().await;
        if announced.is_none() {
            return Ok(());
        }
        let own = announced.insert(info);
        let connection = self.shared.connection.borrow().clone();
        let Some(connection) = connection else {
            return Err(CoordinationError::Away("there is no connection to ZooKeeper"));
        };
        match reconcile(&connection.session, own).await {
            Ok(Placed::Ours) => Ok(()),
            Ok(Placed::Another(other)) => Err(CoordinationError::NameTaken {
                name: other.id.name().to_string(),
                boot: other.id.boot().to_owned(),
            }),
            Err(failure) => Err(failure.at("announce what changed of this node")),
        }
    }

    async fn leave(&self) {
        self.left.cancel();
        if timeout(LEAVE_LIMIT, self.gone.cancelled()).await.is_err() {
            warn!(node = %self.id, "this node's announcement is not taken back yet; trying on");
        }
    }
}
