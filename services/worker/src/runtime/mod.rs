//! How a version is run: inside the worker, or as a process tree of its own.

pub(crate) mod builtin;
pub(crate) mod process;

use std::time::Duration;

use crate::output::Printed;
use crate::settlement::Outcome;

/// What a runtime brings back.
pub(crate) struct Ran {
    /// How it came out.
    pub(crate) outcome: Outcome,
    /// What is still to be stored of its output.
    pub(crate) printed: Printed,
    /// How long it ran.
    pub(crate) run: Duration,
}
