use std::time::Duration;

use domain::{ExecuteId, limits};
use jiff::civil::Date;

/// A day (UTC) of the log: the lines of executions whose ids are dated in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogDay {
    /// Which day.
    pub day: Date,
    /// How many lines, as far as that is known.
    pub lines: u64,
    /// How many bytes on the disk, as far as that is known.
    pub bytes: u64,
}

impl LogDay {
    /// How long after its end a day is still written: until no id dated in it can be new, and the clock's tolerance.
    pub const OPEN: Duration = limits::EXECUTE_ID_AGE_MAX.saturating_add(limits::EXECUTE_ID_AHEAD_MAX);
}

/// How much of the log is kept. Days are dropped whole, the oldest first; one that is still written, or in which an
/// execution has not ended, is kept whatever its age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogRetention {
    /// Drop days that ended longer ago than this.
    pub age_max: Option<Duration>,
    /// Drop days until the log has at most so many bytes on the disk.
    pub bytes_max: Option<u64>,
}

/// What came of one step of the upkeep of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogStep {
    /// A higher fence was taken: nothing was done.
    Stale,
    /// There is nothing to do now.
    Nothing,
    /// This day was done; there may be more.
    Done(LogDay),
}

/// What came of one step through the executions that ended long ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgotten {
    /// A higher fence was taken: nothing was done.
    Stale,
    /// So many were forgotten, up to `last`; none: there are no more.
    Executions {
        /// How many.
        count: u32,
        /// Where to go on.
        last: Option<ExecuteId>,
    },
}
