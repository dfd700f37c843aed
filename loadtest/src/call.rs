use std::time::{Duration, Instant};

use bytes::Bytes;
use domain::{ExecuteId, ModelName, QueueName, State};
use serde::{Deserialize, Serialize};

/// A kind of call: what is called, how, and what is sent.
#[derive(Debug, Clone)]
pub struct Kind {
    /// What the report calls it.
    pub name: String,
    /// The model.
    pub model: ModelName,
    /// Its queue, for [`Mode::Amqp`].
    pub queue: QueueName,
    /// How it is called.
    pub mode: Mode,
    /// How many of all calls are of this kind, relative to the other kinds.
    pub weight: u32,
    /// How many are made at once whenever one is due.
    pub batch: u32,
    /// The input; `None`: `{"n": N}` with the call's number.
    pub input: Option<Bytes>,
    /// Each execution must have logged the lines 1 to N.
    pub lines: Option<u32>,
}

/// How a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Over HTTP, waiting for the result.
    Sync,
    /// Over HTTP, without waiting, then asking for the end.
    Async,
    /// Over HTTP, without waiting, then following the log to its end.
    Sse,
    /// Straight over RabbitMQ, waiting for the reply.
    Amqp,
}

impl Mode {
    /// As a scenario names it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Async => "async",
            Self::Sse => "sse",
            Self::Amqp => "amqp",
        }
    }
}

impl Kind {
    /// The call of this number, to be given up at `until`.
    pub fn call(&self, number: u64, until: Instant, retries: bool) -> Call {
        Call {
            number,
            input: self.input.clone().unwrap_or_else(|| format!("{{\"n\": {number}}}").into()),
            is_echo: self.model.as_str() == "echo",
            until,
            retries,
        }
    }
}

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
    /// It is sent again when there was too much.
    pub retries: bool,
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
    /// What the gateway said of its steps.
    pub steps: Steps,
}

/// How long the gateway's steps took, as its `Server-Timing` says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Steps {
    /// From the submission's begin until its row was written.
    pub record: Option<Duration>,
    /// From there until the publication was confirmed.
    pub publish: Option<Duration>,
    /// From the row on until there was an answer.
    pub wait: Option<Duration>,
}

impl Outcome {
    /// Of a call of which nothing is known yet.
    pub fn unsent() -> Self {
        Self {
            execute_id: None,
            end: End::Unresolved("not sent".to_owned()),
            retried: 0,
            has_two_ids: false,
            steps: Steps::default(),
        }
    }
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
    /// It was turned away because there is too much, and not sent again.
    Shed,
    /// Nobody knows whether it was accepted.
    Unresolved(String),
}
