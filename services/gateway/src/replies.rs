use protocol::{RawMessage, Reply};
use tokio::sync::mpsc;

use crate::gateway::Gateway;
use crate::metrics;

/// Wakes who waits for the replies that come. A reply nobody waits for any more is dropped: the row has the answer.
pub(crate) async fn receive(gateway: Gateway, mut replies: mpsc::Receiver<RawMessage>) {
    while let Some(message) = replies.recv().await {
        match Reply::parse(message) {
            Ok(reply) => {
                gateway.dispatched.forget(reply.execute_id);
                if !gateway.waiters.wake(reply) {
                    metrics::replies_late();
                }
            }
            Err(error) => tracing::warn!(%error, "dropped a message from the reply queue"),
        }
    }
}
