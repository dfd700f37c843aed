use std::time::Instant;

use bytes::Bytes;
use domain::{ExecuteId, State};

/// One call to make.
#[derive(Debug, Clone)]
pub struct Call {
    /// Counted from 0.
    pub number: u64,
    /// Its input.
    pub input: Bytes,
    /// Its result must be its input.
    pub is_echo: bool,
    /// When to give up on it.
    pub until: Instant,
}

/// What became of a call.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The id it was accepted under, if it was.
    pub execute_id: Option<ExecuteId>,
    /// How it ended.
    pub end: End,
    /// How often it was sent again.
    pub retried: u32,
    /// One key was answered with two ids.
    pub has_two_ids: bool,
}

/// How a call ended, as its caller knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With its result.
    Succeeded,
    /// With a result that is not its own.
    Wrong,
    /// Without success, in this state.
    Ended(State),
    /// Accepted; nobody knows how it ended.
    Open,
    /// It was refused for good.
    Refused(String),
    /// Nobody knows whether it was accepted.
    Unresolved(String),
}
