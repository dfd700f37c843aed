use std::sync::Arc;
use std::time::Duration;

use bootstrap::chain;
use coordination::{Coordination, CoordinationError, Membership};
use store::NodeSeen;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::Worker;

/// How long the record has to hear that the node leaves.
const FAREWELL: Duration = Duration::from_secs(2);

/// Announces the node, keeps what it says current, and takes the announcement back on `leave`.
///
/// A coordination that is away is waited for: plain executions do without.
///
/// # Errors
/// [`CoordinationError::NameTaken`] if another life of the node is there and stays.
pub(crate) async fn announce(
    worker: Arc<Worker>,
    coordination: Arc<dyn Coordination>,
    leave: CancellationToken,
) -> Result<(), CoordinationError> {
    let mut standing = worker.standing.subscribe();
    standing.mark_unchanged();
    let membership = tokio::select! {
        membership = coordination.join(worker.info()) => membership?,
        () = leave.cancelled() => return Ok(()),
    };
    info!(node = %worker.node, "announced");
    let mut is_draining = false;
    loop {
        tokio::select! {
            () = leave.cancelled() => break,
            () = worker.shutdown.draining(), if !is_draining => is_draining = true,
            // The sender is the worker's own.
            Ok(()) = standing.changed() => {}
        }
        say(&worker, &membership).await;
    }
    // Whoever sees it go should know that it went by itself, whichever of the two they see first.
    say(&worker, &membership).await;
    let info = worker.info();
    let farewell = worker.record.note_node(&info, NodeSeen::Leaving);
    if !matches!(timeout(FAREWELL, farewell).await, Ok(Ok(_))) {
        warn!("that this node leaves is not recorded; the monitors see it go");
    }
    membership.leave().await;
    Ok(())
}

async fn say(worker: &Worker, membership: &Membership) {
    if let Err(error) = membership.update(worker.info()).await {
        warn!("what changed of this node is not announced yet: {}", chain(&error));
    }
}
