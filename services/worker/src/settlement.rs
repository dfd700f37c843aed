//! What becomes of an attempt, by how its script ended: rules only.

use std::time::Duration;

use domain::{Ending, ErrorClass, Failure, Payload, RetryPolicy};
use store::{Claim, Settlement};

use crate::leases::Stop;

/// How an attempt came out, before its model's policy has its say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It produced this.
    Succeeded(Payload),
    /// The script's fault.
    Failed(Failure),
    /// It ran longer than its `run_timeout`.
    TimedOut(Failure),
    /// Its deadline, or the time it may wait, passed before it started; a sentence that says so.
    Expired(String),
    /// It could not wait any longer for its lock or its limits here and now: due again after this time.
    Waiting(Duration),
    /// It had to end, and its tree is dead.
    Stopped(Stop),
    /// Our own fault.
    Broken {
        /// What kind.
        class: ErrorClass,
        /// What happened, as one sentence.
        message: String,
    },
}

/// How `outcome` is settled, with `random` in `0.0..1.0` for the wait before another attempt; `None` if there is nothing
/// to settle, because the attempt is no longer ours.
pub(crate) fn settle(
    outcome: Outcome,
    claim: &Claim,
    retry: Option<&RetryPolicy>,
    random: f64,
) -> Option<Settlement> {
    let again = |class| {
        let failed = u32::try_from(claim.retries).unwrap_or(0).saturating_add(1);
        retry?.delay(failed, class, random).map(Settlement::Retried)
    };
    let ended = Settlement::Ended;
    Some(match outcome {
        Outcome::Succeeded(payload) => ended(Ending::Succeeded(payload)),
        Outcome::Failed(failure) => again(failure.class).unwrap_or_else(|| ended(Ending::Failed(failure))),
        Outcome::TimedOut(failure) => {
            again(failure.class).unwrap_or_else(|| ended(Ending::TimedOut(failure)))
        }
        Outcome::Expired(message) => ended(Ending::Expired(Failure::new(ErrorClass::Deadline, message))),
        Outcome::Waiting(delay) => Settlement::Yielded { delay, is_waiting: true },
        Outcome::Stopped(Stop::Cancel) => {
            let message = "its caller took it back after it was claimed";
            ended(Ending::Cancelled(Failure::new(ErrorClass::Cancelled, message)))
        }
        Outcome::Stopped(Stop::Yield | Stop::YieldAtOnce | Stop::LeaseEnd | Stop::RightLost) => {
            Settlement::YIELDED
        }
        Outcome::Stopped(Stop::Lost) => return None,
        Outcome::Broken { class, message } => {
            Settlement::Failed { delay: failure_delay(claim.failures), class, message }
        }
    })
}

/// How long to wait after our own side failed, having failed `failures` times before.
const fn failure_delay(failures: i32) -> Duration {
    Duration::from_secs(match failures {
        ..=0 => 1,
        1 => 10,
        2.. => 60,
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn claim(retries: i32) -> Claim {
        Claim {
            waited: std::time::Duration::ZERO,
            attempt: 1,
            last_log_id: 0,
            version: None,
            retries,
            failures: 1,
            deadline_in: None,
            claimed_at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_failure_is_retried_as_often_as_the_policy_grants() {
        let policy = RetryPolicy { attempts: 3, backoff_ms: 100, ..RetryPolicy::default() };
        let outcome = Outcome::Failed(Failure::new(ErrorClass::Script, "exit code 1"));
        let settled = |retries| settle(outcome.clone(), &claim(retries), Some(&policy), 1.0);
        assert_eq!(settled(0), Some(Settlement::Retried(Duration::from_millis(100))));
        assert_eq!(settled(1), Some(Settlement::Retried(Duration::from_millis(200))));
        assert!(matches!(settled(2), Some(Settlement::Ended(Ending::Failed(_)))));
        assert!(matches!(settle(outcome, &claim(0), None, 1.0), Some(Settlement::Ended(Ending::Failed(_)))));
    }

    #[test]
    fn what_is_not_ours_is_not_settled_and_what_is_given_back_spends_nothing() {
        let stopped = |stop| settle(Outcome::Stopped(stop), &claim(0), None, 0.5);
        assert_eq!(stopped(Stop::Lost), None);
        for stop in [Stop::Yield, Stop::YieldAtOnce, Stop::LeaseEnd, Stop::RightLost] {
            assert_eq!(stopped(stop), Some(Settlement::YIELDED));
        }
        assert!(matches!(stopped(Stop::Cancel), Some(Settlement::Ended(Ending::Cancelled(_)))));
    }

    #[test]
    fn our_own_failures_wait_longer_each_time() {
        let broken = Outcome::Broken { class: ErrorClass::Artifact, message: "no bundle".to_owned() };
        let Some(Settlement::Failed { delay, class, .. }) = settle(broken, &claim(0), None, 0.0) else {
            panic!("not a failure of ours");
        };
        assert_eq!((delay.as_secs(), class), (10, ErrorClass::Artifact));
    }
}
