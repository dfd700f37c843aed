use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ErrorClass;

/// When a failed attempt is followed by another: the `[retry]` table of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryPolicy {
    /// The most attempts that may fail, the first one included; 1 means no retry.
    pub attempts: u32,
    /// The upper bound of the first wait, in milliseconds; it doubles with each failed attempt.
    pub backoff_ms: u64,
    /// The upper bound of every wait, in milliseconds.
    pub backoff_ms_max: u64,
    /// The error classes worth another attempt.
    pub on: Vec<ErrorClass>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 1,
            backoff_ms: 1_000,
            backoff_ms_max: 300_000,
            on: vec![ErrorClass::Script, ErrorClass::Timeout, ErrorClass::Signal, ErrorClass::Oom],
        }
    }
}

impl RetryPolicy {
    /// How long to wait before the next attempt once `failed` attempts (at least 1) have failed, the last one with
    /// `class`; `None` if there is no next one.
    ///
    /// `random` in `0.0..1.0` picks the point under the bound ("full jitter": Brooker, "Exponential Backoff And
    /// Jitter", 2015).
    #[must_use]
    pub fn delay(&self, failed: u32, class: ErrorClass, random: f64) -> Option<Duration> {
        if failed >= self.attempts || !self.on.contains(&class) {
            return None;
        }
        let doubled = self.backoff_ms.saturating_mul(1_u64.checked_shl(failed - 1).unwrap_or(u64::MAX));
        let bound = Duration::from_millis(doubled.min(self.backoff_ms_max));
        Some(bound.mul_f64(random.clamp(0.0, 1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_bound_and_end_with_the_attempts() {
        let policy =
            RetryPolicy { attempts: 4, backoff_ms: 100, backoff_ms_max: 300, ..RetryPolicy::default() };
        let waits: Vec<_> = (1..=4).map(|failed| policy.delay(failed, ErrorClass::Script, 1.0)).collect();
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(waits, [ms(100), ms(200), ms(300), None]);
        assert_eq!(policy.delay(1, ErrorClass::Script, 0.0), ms(0));
    }

    #[test]
    fn only_the_named_classes_are_worth_another_attempt() {
        let policy = RetryPolicy { attempts: 2, ..RetryPolicy::default() };
        assert_eq!(policy.delay(1, ErrorClass::Input, 0.5), None);
        assert!(policy.delay(1, ErrorClass::Timeout, 0.5).is_some());
    }
}
