use std::time::Duration;

use rand::Rng;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(15);
/// An epoch that lived this long shows that the broker is well.
const STABLE: Duration = Duration::from_secs(30);

/// How long to wait before the next connection: a random time up to a bound that doubles with each failure, so that a
/// fleet does not come back all at once.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after an epoch that lived for `lived`.
    pub(super) fn after(&mut self, lived: Duration) -> Duration {
        if lived >= STABLE {
            self.failures = 0;
        }
        let bound = self.bound();
        self.failures = self.failures.saturating_add(1);
        rand::rng().random_range(Duration::ZERO..=bound)
    }

    fn bound(&self) -> Duration {
        FIRST.saturating_mul(2_u32.saturating_pow(self.failures)).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_fifteen_seconds_and_start_again_after_a_stable_epoch() {
        let mut backoff = Backoff::default();
        assert!(backoff.after(Duration::ZERO) <= FIRST);
        for _ in 0..100 {
            assert!(backoff.after(Duration::ZERO) <= LONGEST);
        }
        assert_eq!(backoff.bound(), LONGEST);
        assert!(backoff.after(STABLE) <= FIRST);
    }
}
