use std::time::Duration;

use tokio::time::Instant;

/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(20);

/// Waits until `condition` holds, looking every 20 ms and at least twice.
///
/// # Panics
/// After `limit`, naming `what` was awaited.
pub async fn eventually(what: &str, limit: Duration, mut condition: impl AsyncFnMut() -> bool) {
    eventually_some(what, limit, async || condition().await.then_some(())).await;
}

/// Waits until `look` finds something, and returns it; as [`eventually`].
///
/// # Panics
/// After `limit`, naming `what` was awaited.
pub async fn eventually_some<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        // Taken before the look: whatever was true within the limit is seen, however long this task slept.
        let late = start.elapsed() >= limit;
        if let Some(found) = look().await {
            return found;
        }
        assert!(!late, "waited {limit:?} in vain: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}
