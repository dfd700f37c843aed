use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where an execution is in its life. The last six are terminal and written once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Accepted, waiting for a worker to claim it.
    Queued,
    /// Waiting in the record for its `not_before`.
    Delayed,
    /// Claimed: a worker holds its lease.
    Running,
    /// It produced a result.
    Succeeded,
    /// An attempt failed and no further one is due.
    Failed,
    /// An attempt ran longer than its `run_timeout`.
    TimedOut,
    /// A caller took it back.
    Cancelled,
    /// Its deadline passed before it could start.
    Expired,
    /// Our own side failed too often.
    Dead,
}

/// What can happen to an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A worker took its lease and begins the next attempt.
    Claimed,
    /// The worker gives it back without having failed: a drain, a lost lock, a full waiting room.
    Yielded,
    /// Its lease ran out or its node is gone: a monitor took it back.
    Rescued,
    /// Its `not_before` has come.
    Due,
    /// The attempt produced a result.
    Succeeded,
    /// The attempt failed; `retry` if the model's policy grants another.
    AttemptFailed {
        /// Another attempt is due later.
        retry: bool,
    },
    /// The attempt ran longer than its `run_timeout`; `retry` if the model's policy grants another.
    RunTimeoutPassed {
        /// Another attempt is due later.
        retry: bool,
    },
    /// A caller took it back.
    Cancelled,
    /// Its deadline passed before the script was started.
    DeadlinePassed,
    /// The budget of `failures` is used up.
    FailuresExhausted,
}

/// The event cannot happen in this state: the caller lost a race and must read the row again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} cannot happen to an execution that is {from}")]
pub struct IllegalTransition {
    /// The state it is in.
    pub from: State,
    /// What was to happen.
    pub event: Event,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 9] = [
        Self::Queued,
        Self::Delayed,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::TimedOut,
        Self::Cancelled,
        Self::Expired,
        Self::Dead,
    ];

    /// The state that follows `event`.
    ///
    /// # Errors
    /// [`IllegalTransition`] if it cannot happen here: the caller lost a race and must read the row again.
    pub fn on(self, event: Event) -> Result<Self, IllegalTransition> {
        match (self, event) {
            (Self::Queued, Event::Claimed) => Ok(Self::Running),
            (Self::Running, Event::Succeeded) => Ok(Self::Succeeded),
            (
                Self::Running,
                Event::Yielded
                | Event::Rescued
                | Event::AttemptFailed { retry: true }
                | Event::RunTimeoutPassed { retry: true },
            ) => Ok(Self::Delayed),
            (Self::Running, Event::AttemptFailed { retry: false }) => Ok(Self::Failed),
            (Self::Running, Event::RunTimeoutPassed { retry: false }) => Ok(Self::TimedOut),
            (Self::Delayed, Event::Due) => Ok(Self::Queued),
            (Self::Queued | Self::Delayed | Self::Running, Event::Cancelled) => Ok(Self::Cancelled),
            (Self::Queued | Self::Delayed | Self::Running, Event::DeadlinePassed) => Ok(Self::Expired),
            // `queued` when a message of it was found among the dead letters.
            (Self::Queued | Self::Running, Event::FailuresExhausted) => Ok(Self::Dead),
            (from, event) => Err(IllegalTransition { from, event }),
        }
    }

    /// Is this the end of its life?
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        !matches!(self, Self::Queued | Self::Delayed | Self::Running)
    }

    /// The name it has in the API, the record, the metrics and the documentation.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Delayed => "delayed",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// The text names no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a state is one of queued, delayed, running, succeeded, failed, timed_out, cancelled, expired, dead")]
pub struct InvalidState;

impl FromStr for State {
    type Err = InvalidState;

    fn from_str(text: &str) -> Result<Self, InvalidState> {
        Self::ALL.into_iter().find(|state| state.label() == text).ok_or(InvalidState)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Event; 12] = [
        Event::Claimed,
        Event::Rescued,
        Event::Yielded,
        Event::Due,
        Event::Succeeded,
        Event::AttemptFailed { retry: true },
        Event::AttemptFailed { retry: false },
        Event::RunTimeoutPassed { retry: true },
        Event::RunTimeoutPassed { retry: false },
        Event::Cancelled,
        Event::DeadlinePassed,
        Event::FailuresExhausted,
    ];

    #[test]
    fn a_terminal_state_is_final() {
        for state in State::ALL.into_iter().filter(|state| state.is_terminal()) {
            for event in EVENTS {
                assert_eq!(state.on(event), Err(IllegalTransition { from: state, event }));
            }
        }
    }

    #[test]
    fn every_state_can_be_reached_and_every_label_reads_back() {
        let mut reached = vec![State::Queued];
        let mut next = 0;
        while next < reached.len() {
            let state = reached[next];
            for after in EVENTS.into_iter().filter_map(|event| state.on(event).ok()) {
                if !reached.contains(&after) {
                    reached.push(after);
                }
            }
            next += 1;
        }
        assert_eq!(reached.len(), State::ALL.len());
        for state in State::ALL {
            assert_eq!(state.label().parse(), Ok(state));
        }
    }

    #[test]
    fn a_yield_goes_back_through_delayed() {
        let back = State::Running.on(Event::Yielded).and_then(|s| s.on(Event::Due));
        assert_eq!(back, Ok(State::Queued));
    }
}
