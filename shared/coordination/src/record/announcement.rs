use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::NodeId;
use protocol::NodeInfo;
use store::StoreError;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Shared, failed};
use crate::CoordinationError;
use crate::error::chain;
use crate::namesake;
use crate::port::Announcement;

const LEAVE_LIMIT: Duration = Duration::from_secs(2);

/// A node's row, renewed by a task until it is left.
pub(super) struct Announced {
    shared: Arc<Shared>,
    id: NodeId,
    /// `None` once it is left. Held across each write, so that an old text never overwrites a new one.
    info: Arc<Mutex<Option<NodeInfo>>>,
    left: CancellationToken,
}

impl Announced {
    /// Announces `own` once no other life of the node is there.
    pub(super) async fn join(shared: &Arc<Shared>, own: NodeInfo) -> Result<Self, CoordinationError> {
        let mut other_since: Option<(NodeId, Instant)> = None;
        loop {
            match try_join(shared, &own).await {
                Ok(None) => break,
                Ok(Some(other)) => {
                    let since = match other_since.take() {
                        Some((id, since)) if id == other.id => since,
                        _ => {
                            info!(node = %other.id, "an earlier life of this node is announced: waiting for it to run out");
                            Instant::now()
                        }
                    };
                    if since.elapsed() > shared.lease + shared.lease / 2 {
                        let boot = other.id.boot().to_owned();
                        return Err(CoordinationError::NameTaken { name: other.id.name().to_string(), boot });
                    }
                    other_since = Some((other.id, since));
                }
                Err(error) => warn!(error = %chain(&error), "cannot announce this node yet"),
            }
            sleep(shared.poll.mul_f64(0.25 + 0.5 * rand::random::<f64>())).await;
        }
        let announced = Self {
            shared: Arc::clone(shared),
            id: own.id.clone(),
            info: Arc::new(Mutex::new(Some(own))),
            left: shared.closing.child_token(),
        };
        let (node, info, left) = (announced.id.clone(), Arc::clone(&announced.info), announced.left.clone());
        shared.tasks.spawn(keep(Arc::clone(shared), node, info, left));
        shared.wake.notify_one();
        Ok(announced)
    }
}

/// Announces `own` unless another life is there, which is returned.
///
/// Two lives that begin at the same moment both see nobody, then each other, and both go back; chance decides next time.
async fn try_join(shared: &Shared, own: &NodeInfo) -> Result<Option<NodeInfo>, StoreError> {
    if let Some(other) = other_life(shared, own).await? {
        return Ok(Some(other));
    }
    shared.record.announce_node(own, shared.lease).await?;
    let other = other_life(shared, own).await?;
    if other.is_some() {
        shared.record.withdraw_node(&own.id).await?;
    }
    Ok(other)
}

async fn other_life(shared: &Shared, own: &NodeInfo) -> Result<Option<NodeInfo>, StoreError> {
    for other in shared.record.list_nodes().await? {
        if other.id.name() != own.id.name() || other.id == own.id {
            continue;
        }
        if !namesake::is_over(&other, own) {
            return Ok(Some(other));
        }
        shared.record.withdraw_node(&other.id).await?;
    }
    Ok(None)
}

/// Renews until it is left, then takes the announcement back.
async fn keep(
    shared: Arc<Shared>,
    node: NodeId,
    info: Arc<Mutex<Option<NodeInfo>>>,
    left: CancellationToken,
) {
    let mut failing = false;
    while left.run_until_cancelled(sleep(shared.lease / 3)).await.is_some() {
        let announced = info.lock().await;
        let Some(own) = announced.as_ref() else { return };
        match shared.record.announce_node(own, shared.lease).await {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                warn!(%node, error = %chain(&error), "cannot renew this node's announcement; trying on");
            }
            Err(_) => {}
        }
    }
    withdraw(&shared, &node, &info).await;
}

async fn withdraw(shared: &Shared, node: &NodeId, info: &Mutex<Option<NodeInfo>>) {
    let withdrawn = timeout(LEAVE_LIMIT, async {
        if info.lock().await.take().is_some() {
            shared.record.withdraw_node(node).await?;
        }
        Ok::<(), StoreError>(())
    });
    if !matches!(withdrawn.await, Ok(Ok(()))) {
        warn!(%node, "cannot take this node's announcement back; it runs out by itself");
    }
    shared.wake.notify_one();
}

#[async_trait]
impl Announcement for Announced {
    async fn update(&self, info: NodeInfo) -> Result<(), CoordinationError> {
        let mut announced = self.info.lock().await;
        if announced.is_none() {
            return Ok(());
        }
        let info = announced.insert(info);
        let step = "announce what changed of this node";
        self.shared
            .record
            .announce_node(info, self.shared.lease)
            .await
            .map_err(|error| failed(step, error))?;
        self.shared.wake.notify_one();
        Ok(())
    }

    async fn leave(&self) {
        self.left.cancel();
        withdraw(&self.shared, &self.id, &self.info).await;
    }
}
