//! The judge: what clients and workers saw, and what the record holds in the end, against what Gantry promises.
//!
//! While faults rain, clients and workers note [`Event`]s with a [`Recorder`]; an event says what somebody *knows*: a claim that
//! was answered, a finish the record confirmed. What was sent and never answered is no event: it may have happened or not.
//! When all is quiet a [`Dump`] of the record is taken, and [`check()`] names each broken promise with the events that led to
//! it. Every check looks at one execution or one worker in the order of its events, so a history of millions is sorted once
//! and walked once. A history with too little in it fails as well ([`AtLeast`]): a judge who saw nothing has shown nothing.

mod check;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use domain::{ExecuteId, State};

pub use check::check;

/// SHA-256 of a result, or whatever stands for its bytes in a test; `None` where there is none.
pub type ResultHash = Option<String>;

/// What somebody knows since a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds on the recorder's clock, after the thing happened.
    pub at_ns: u64,
    /// Who knows it: a process by its boot, so that a worker that was killed and its successor are two.
    pub process: String,
    /// What.
    pub what: What,
}

/// See [`Event`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A caller holds a 2xx with the id, or a producer its confirm.
    Accepted(ExecuteId),
    /// A worker's claim was granted.
    Claimed {
        /// Of which execution.
        execute_id: ExecuteId,
        /// As which attempt.
        attempt: u32,
    },
    /// A batch of log lines was stored.
    Logged {
        /// Of which execution.
        execute_id: ExecuteId,
        /// By which attempt.
        attempt: u32,
        /// When it was sent, on the recorder's clock.
        sent_ns: u64,
    },
    /// The record confirmed a finish.
    Finished {
        /// Of which execution.
        execute_id: ExecuteId,
        /// Of which attempt.
        attempt: u32,
        /// The terminal state.
        state: State,
        /// The result that was stored.
        result: ResultHash,
    },
    /// A caller was told how it ended.
    Answered {
        /// Which execution.
        execute_id: ExecuteId,
        /// The terminal state.
        state: State,
        /// The result as the caller received it.
        result: ResultHash,
    },
    /// A worker began to use one of its slots.
    SlotTaken,
    /// And ended to use one: the process tree that ran in it is dead.
    SlotFreed,
}

impl What {
    /// The execution it is about.
    #[must_use]
    pub const fn execute_id(&self) -> Option<ExecuteId> {
        match self {
            Self::Accepted(execute_id)
            | Self::Claimed { execute_id, .. }
            | Self::Logged { execute_id, .. }
            | Self::Finished { execute_id, .. }
            | Self::Answered { execute_id, .. } => Some(*execute_id),
            Self::SlotTaken | Self::SlotFreed => None,
        }
    }
}

/// Notes events of one test from any number of tasks.
#[derive(Debug)]
pub struct Recorder {
    start: Instant,
    events: Mutex<Vec<Event>>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self { start: Instant::now(), events: Mutex::default() }
    }
}

impl Recorder {
    /// Now, on the clock of the events.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Notes that `process` knows `what`, now.
    pub fn note(&self, process: &str, what: What) {
        let event = Event { at_ns: self.now_ns(), process: process.to_owned(), what };
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    /// Everything noted so far.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The record after everything has become quiet.
#[derive(Debug, Clone, Default)]
pub struct Dump {
    /// All rows.
    pub executions: BTreeMap<ExecuteId, Row>,
    /// All log rows, in any order.
    pub logs: Vec<LogRow>,
    /// How many slots each process may use at once, for those that took slots.
    pub slots: BTreeMap<String, u32>,
}

/// An execution's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its state.
    pub state: State,
    /// Its last attempt; 0 if it was never claimed.
    pub attempt: u32,
    /// Its result.
    pub result: ResultHash,
    /// How many log lines the row says it has.
    pub last_log_id: u64,
}

/// A log row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogRow {
    /// Of which execution.
    pub execute_id: ExecuteId,
    /// Its number, from 1.
    pub log_id: u64,
    /// The attempt that wrote it.
    pub attempt: u32,
}

/// How much must have happened for the verdict to mean something.
#[derive(Debug, Clone, Copy, Default)]
pub struct AtLeast {
    /// Executions accepted.
    pub accepted: usize,
    /// Claims of an attempt above the first: executions that changed hands.
    pub takeovers: usize,
}

/// A promise that can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// What was accepted is terminal in the end.
    AcceptedIsFinished,
    /// An attempt is granted once, and one attempt finishes: the row's last.
    OneAttemptFinishes,
    /// What a worker stored and what a caller was told is what the record holds.
    ResultIsKept,
    /// An attempt that was overtaken writes no log line, nor does anyone after the finish.
    StaleAttemptWritesNothing,
    /// Log lines are numbered 1 to n.
    LogHasNoGaps,
    /// A worker uses no more slots than it has.
    CapHolds,
    /// The history is long enough to mean something.
    EnoughHappened,
}

/// A broken promise.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Which.
    pub promise: Promise,
    /// How.
    pub how: String,
    /// The events of the execution or worker concerned, in order; of a worker only the last.
    pub chain: Vec<Event>,
}

/// The verdict.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Executions accepted.
    pub accepted: usize,
    /// Of these, terminal in the end.
    pub terminal: usize,
    /// Finishes confirmed.
    pub finished: usize,
    /// Claims of an attempt above the first.
    pub takeovers: usize,
    /// Log rows.
    pub log_rows: usize,
    /// What was broken.
    pub violations: Vec<Violation>,
}

impl Report {
    /// Accepted and not terminal in the end.
    #[must_use]
    pub const fn lost(&self) -> usize {
        self.accepted - self.terminal
    }

    /// # Panics
    /// If a promise was broken, showing all of them.
    pub fn assert_kept(&self) {
        assert!(self.violations.is_empty(), "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { accepted, terminal, finished, takeovers, log_rows, violations } = self;
        writeln!(
            f,
            "accepted {accepted}, terminal {terminal}, lost {}, finished {finished}, takeovers {takeovers}, log rows {log_rows}, \
             violations {}",
            self.lost(),
            violations.len()
        )?;
        for violation in violations.iter().take(10) {
            writeln!(f, "{:?}: {}", violation.promise, violation.how)?;
            for Event { at_ns, process, what } in &violation.chain {
                writeln!(f, "    {:>12} us  {process}  {what:?}", at_ns / 1000)?;
            }
        }
        Ok(())
    }
}
