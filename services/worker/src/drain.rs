//! How a worker ends: it takes nothing more, finishes what it holds, and gives back what does not finish in time.

use std::time::Duration;

use bootstrap::Shutdown;
use domain::limits::GRACE_DEFAULT;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::Worker;
use crate::leases::Stop;

/// How long the record has to hear of what is given back, once the scripts are dead.
const SETTLE: Duration = Duration::from_secs(10);
/// The longest grace a manifest may ask for.
const GRACE_MAX: Duration = Duration::from_secs(60);

/// Waits for what runs, at most `patience`; then ends it gently and gives it back; a second shutdown signal skips to the
/// kill.
pub(crate) async fn drain(worker: &Worker, shutdown: &Shutdown, patience: Duration) {
    worker.tasks.close();
    info!(running = worker.leases.count(), "draining");
    tokio::select! {
        finished = timeout(patience, worker.tasks.wait()) => if finished.is_ok() { return },
        () = shutdown.stopping() => {}
    }
    warn!(running = worker.leases.count(), "giving back what runs");
    worker.leases.stop_all(Stop::Yield);
    tokio::select! {
        finished = timeout(GRACE_MAX + SETTLE, worker.tasks.wait()) => if finished.is_ok() { return },
        () = shutdown.stopping() => {}
    }
    worker.leases.stop_all(Stop::YieldAtOnce);
    if timeout(GRACE_DEFAULT + SETTLE, worker.tasks.wait()).await.is_ok() {
        return;
    }
    warn!(running = worker.leases.count(), "leaving what could not be settled to be rescued");
    worker.leases.abandon();
    // What is left cannot wait for the record any more.
    let _ = timeout(SETTLE, worker.tasks.wait()).await;
}
