use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How much unused bandwidth may be used later, as time.
const SAVED: Duration = Duration::from_millis(250);

/// What the transfers that share it may take together: a token bucket.
#[derive(Debug, Default)]
pub struct Bandwidth {
    /// 0: no bound.
    bytes_per_second_max: u64,
    /// When what was taken so far is paid for.
    paid: Mutex<Option<Instant>>,
}

impl Bandwidth {
    /// At most so many bytes per second; 0 means no bound.
    #[must_use]
    pub fn new(bytes_per_second_max: u64) -> Self {
        Self { bytes_per_second_max, paid: Mutex::default() }
    }

    /// Waits until these bytes, which have come, are paid for. They stay taken if the future is dropped.
    async fn take(&self, bytes: u64) {
        if self.bytes_per_second_max == 0 {
            return;
        }
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second_max as f64);
        let until = {
            let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let earliest = now.checked_sub(SAVED).unwrap_or(now);
            let until = paid.map_or(earliest, |paid| paid.max(earliest)) + cost;
            *paid = Some(until);
            until
        };
        sleep_until(until).await;
    }
}

/// How far a transfer is, and how fast it may be. The default has no bound.
#[derive(Debug, Default)]
pub struct Meter {
    bandwidth: Arc<Bandwidth>,
    bytes: AtomicU64,
    bytes_total: AtomicU64,
    received: AtomicU64,
    discarded: AtomicU64,
}

impl Meter {
    /// For one transfer that shares `bandwidth` with others.
    #[must_use]
    pub fn new(bandwidth: Arc<Bandwidth>) -> Self {
        Self { bandwidth, ..Self::default() }
    }

    /// How many bytes of the bundle are there.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Of how many; 0 until the store has said so.
    #[must_use]
    pub fn bytes_total(&self) -> u64 {
        self.bytes_total.load(Ordering::Relaxed)
    }

    /// How many bytes came in all; what came twice counts twice, what an earlier transfer left does not count.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// How many bytes were thrown away because they did not make the bundle.
    #[must_use]
    pub fn discarded(&self) -> u64 {
        self.discarded.load(Ordering::Relaxed)
    }

    /// So many bytes are there, out of so many.
    pub(crate) fn is_at(&self, bytes: u64, bytes_total: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
        self.bytes_total.store(bytes_total, Ordering::Relaxed);
    }

    /// So many more have come. Waits until that is within the bandwidth.
    pub(crate) async fn came(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.received.fetch_add(bytes, Ordering::Relaxed);
        self.bandwidth.take(bytes).await;
    }

    /// What is there is thrown away.
    pub(crate) fn restarts(&self) {
        let bytes = self.bytes.swap(0, Ordering::Relaxed);
        self.discarded.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn transfers_that_share_a_bandwidth_stay_within_it_together() {
        let bandwidth = Arc::new(Bandwidth::new(1_000));
        let began = Instant::now();
        let transfer = async || {
            let meter = Meter::new(Arc::clone(&bandwidth));
            for _ in 0..50 {
                meter.came(100).await;
            }
            assert_eq!((meter.bytes(), meter.received()), (5_000, 5_000));
        };
        tokio::join!(transfer(), transfer());
        let took = began.elapsed();
        assert!((Duration::from_millis(9_700)..Duration::from_millis(10_100)).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_a_moment_of_silence_is_saved_up() {
        let bandwidth = Bandwidth::new(1_000);
        bandwidth.take(1).await;
        tokio::time::sleep(Duration::from_secs(100)).await;
        let began = Instant::now();
        bandwidth.take(1_250).await;
        assert_eq!(began.elapsed().as_millis(), 1_000);
    }
}
