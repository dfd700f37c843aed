use std::sync::Arc;
use std::time::Duration;

use store::{BundleChange, StoreError};
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;
use uuid::Uuid;

use super::Shared;
use crate::error::chain;

const PAUSE: Duration = Duration::from_millis(300);
const WITHDRAW_LIMIT: Duration = Duration::from_secs(2);

/// Tells the record what this process says of bundles and renews that, until it is closed.
pub(super) async fn keep(shared: Arc<Shared>) {
    let announcer = Uuid::now_v7();
    let mut told = Instant::now();
    let mut is_known = false;
    let mut failing = false;
    loop {
        tokio::select! {
            () = shared.notices.changed(told) => {}
            () = sleep(shared.lease / 3), if is_known => {}
            () = shared.closing.cancelled() => break,
        }
        match tell(&shared, announcer, is_known).await {
            Ok(()) => (told, is_known, failing) = (Instant::now(), true, false),
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    warn!(error = %chain(&error), "cannot tell what this node has of bundles; trying on");
                }
                // It may have been told.
                is_known = true;
                sleep(PAUSE).await;
            }
        }
    }
    if is_known && !shared.notices.is_empty() {
        let withdrawn = timeout(WITHDRAW_LIMIT, shared.record.withdraw_bundles(announcer)).await;
        if !matches!(withdrawn, Ok(Ok(()))) {
            warn!("what this node said of bundles could not be withdrawn; it runs out by itself");
        }
    }
}

async fn tell(shared: &Shared, announcer: Uuid, is_known: bool) -> Result<(), StoreError> {
    let untold = shared.notices.take();
    let changes: Vec<BundleChange> = untold
        .iter()
        .map(|((digest, node), state)| BundleChange {
            digest: *digest,
            node: node.clone(),
            state: state.as_ref().map(|state| serde_json::to_value(state).unwrap_or_default()),
        })
        .collect();
    match shared.record.announce_bundles(announcer, &changes, shared.lease).await {
        Ok(was_known) => {
            if is_known && !was_known {
                // The lease had run out for long: what was told before is gone.
                shared.notices.all_untold();
            }
            if !changes.is_empty() {
                shared.wake.notify_one();
            }
            Ok(())
        }
        Err(error) => {
            shared.notices.put_back(untold.into_iter().map(|(place, _)| place));
            Err(error)
        }
    }
}
