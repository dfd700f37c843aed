use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A moment on `CLOCK_BOOTTIME`: the same for every process of the machine, never set back, and it goes on while the
/// machine is suspended (which `std::time::Instant` does not). All leases are reckoned on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Boottime(u64);

impl Boottime {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        // Neither part is ever negative on this clock.
        Self(
            now.tv_sec
                .unsigned_abs()
                .saturating_mul(1_000_000_000)
                .saturating_add(now.tv_nsec.unsigned_abs()),
        )
    }

    /// The moment `later` after this one.
    #[must_use]
    pub fn after(self, later: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(later.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The moment `earlier` before this one.
    #[must_use]
    pub fn before(self, earlier: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(earlier.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` it is; zero if it is not.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// How long until it comes; zero if it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.since(Self::now())
    }

    /// Has it passed?
    #[must_use]
    pub fn has_passed(self) -> bool {
        self <= Self::now()
    }

    /// Nanoseconds after the machine's start.
    #[must_use]
    pub const fn nanoseconds(self) -> u64 {
        self.0
    }

    /// Waits until it has passed, also if the machine was suspended meanwhile.
    pub async fn passed(self) {
        while !self.has_passed() {
            // The runtime's timer stops during a suspend: look again at least every second.
            tokio::time::sleep(self.remaining().min(Duration::from_secs(1))).await;
        }
    }
}
