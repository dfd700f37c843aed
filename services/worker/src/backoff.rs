use std::time::Duration;

/// Waits between tries: full jitter under a bound that doubles (Brooker, "Exponential Backoff And Jitter", 2015).
pub(crate) struct Backoff {
    bound: Duration,
    longest: Duration,
}

impl Backoff {
    /// Waits of at most `first`, then twice that, up to `longest`.
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self { bound: first, longest }
    }

    /// The next wait: never less than a tenth of its bound, so that a loop cannot spin.
    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.bound.mul_f64(rand::random::<f64>().max(0.1));
        self.bound = (self.bound * 2).min(self.longest);
        wait
    }
}
