use std::sync::Arc;

use bootstrap::{Shutdown, chain};
use coordination::{Coordination, CoordinationError};
use protocol::NodeInfo;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Announces the node, says when it drains, and takes the announcement back on `leave`.
///
/// A coordination that is away is waited for: plain executions do without.
///
/// # Errors
/// [`CoordinationError::NameTaken`] if another life of the node is there and stays.
pub(crate) async fn announce(
    coordination: Arc<dyn Coordination>,
    mut info: NodeInfo,
    shutdown: Shutdown,
    leave: CancellationToken,
) -> Result<(), CoordinationError> {
    let membership = tokio::select! {
        membership = coordination.join(info.clone()) => membership?,
        () = leave.cancelled() => return Ok(()),
    };
    info!(node = %info.id, "announced");
    tokio::select! {
        () = shutdown.draining() => {
            info.draining = true;
            if let Err(error) = membership.update(info).await {
                warn!("the drain is not announced yet: {}", chain(&error));
            }
            leave.cancelled().await;
        }
        () = leave.cancelled() => {}
    }
    membership.leave().await;
    Ok(())
}
