use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::State;
use crate::limits::JSON_DEPTH_MAX;

/// Why an execution did not succeed. Always set on a non-success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// The script ended with a non-zero exit code, or with a result that is none.
    Script,
    /// It ran longer than its `run_timeout`.
    Timeout,
    /// Its deadline passed before it started.
    Deadline,
    /// A caller took it back.
    Cancelled,
    /// The kernel killed it for its memory.
    Oom,
    /// It died of a signal.
    Signal,
    /// The node that ran it was lost.
    NodeLost,
    /// Its bundle could not be had or started.
    Artifact,
    /// The sandbox could not be built.
    Sandbox,
    /// It asked for more than it may have.
    Limit,
    /// Its result was larger than a result may be.
    TooLarge,
    /// Its input or what it names is wrong: no such model, no such version.
    Input,
    /// Gantry itself failed.
    Internal,
}

impl ErrorClass {
    /// Every class.
    pub const ALL: [Self; 13] = [
        Self::Script,
        Self::Timeout,
        Self::Deadline,
        Self::Cancelled,
        Self::Oom,
        Self::Signal,
        Self::NodeLost,
        Self::Artifact,
        Self::Sandbox,
        Self::Limit,
        Self::TooLarge,
        Self::Input,
        Self::Internal,
    ];

    /// The name it has in the API, the record, the metrics and the documentation.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Script => "script",
            Self::Timeout => "timeout",
            Self::Deadline => "deadline",
            Self::Cancelled => "cancelled",
            Self::Oom => "oom",
            Self::Signal => "signal",
            Self::NodeLost => "node_lost",
            Self::Artifact => "artifact",
            Self::Sandbox => "sandbox",
            Self::Limit => "limit",
            Self::TooLarge => "too_large",
            Self::Input => "input",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// The text names no error class.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the name of an error class")]
pub struct InvalidErrorClass;

impl FromStr for ErrorClass {
    type Err = InvalidErrorClass;

    fn from_str(text: &str) -> Result<Self, InvalidErrorClass> {
        Self::ALL.into_iter().find(|class| class.label() == text).ok_or(InvalidErrorClass)
    }
}

/// Bytes and what they are: an input or a result. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// The media type, as `application/json`.
    pub content_type: Arc<str>,
    /// The bytes as they came.
    pub bytes: Bytes,
}

impl Payload {
    /// The media type of a payload that names none.
    pub const JSON: &'static str = "application/json";

    /// `bytes` of type `content_type`.
    #[must_use]
    pub fn new(content_type: &str, bytes: impl Into<Bytes>) -> Self {
        Self { content_type: content_type.into(), bytes: bytes.into() }
    }

    /// Does it say that it is JSON (`application/json`, `...+json`)?
    #[must_use]
    pub fn is_json(&self) -> bool {
        let media_type = self.content_type.split(';').next().unwrap_or_default().trim();
        media_type.eq_ignore_ascii_case(Self::JSON) || media_type.ends_with("+json")
    }

    /// Is it one JSON text (RFC 8259) that nests at most [`JSON_DEPTH_MAX`] deep? It is read once and nothing of it is
    /// kept.
    ///
    /// # Errors
    /// What is wrong, with line and column.
    pub fn check_json(&self) -> Result<(), serde_json::Error> {
        serde_json::from_slice::<serde::de::IgnoredAny>(&self.bytes)?;
        if depth(&self.bytes) > JSON_DEPTH_MAX {
            let message = format!("arrays and objects nest more than {JSON_DEPTH_MAX} deep");
            return Err(serde::de::Error::custom(message));
        }
        Ok(())
    }
}

/// How deep the arrays and objects of a JSON text nest.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'[' | b'{') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// What went wrong, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The kind.
    pub class: ErrorClass,
    /// One sentence that reads alone.
    pub message: String,
    /// What the script exited with, if it exited.
    pub exit_code: Option<i32>,
    /// The signal it died of, if it died of one.
    pub signal: Option<i32>,
}

impl Failure {
    /// A failure without exit code or signal.
    #[must_use]
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), exit_code: None, signal: None }
    }
}

/// How an execution ended: its terminal state with the result of a success or the failure of anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It produced this.
    Succeeded(Payload),
    /// The script failed.
    Failed(Failure),
    /// It ran longer than its `run_timeout`.
    TimedOut(Failure),
    /// A caller took it back.
    Cancelled(Failure),
    /// Its deadline passed before it started.
    Expired(Failure),
    /// Our own side failed too often.
    Dead(Failure),
}

impl Ending {
    /// The terminal state.
    #[must_use]
    pub const fn state(&self) -> State {
        match self {
            Self::Succeeded(_) => State::Succeeded,
            Self::Failed(_) => State::Failed,
            Self::TimedOut(_) => State::TimedOut,
            Self::Cancelled(_) => State::Cancelled,
            Self::Expired(_) => State::Expired,
            Self::Dead(_) => State::Dead,
        }
    }

    /// The result, if it succeeded.
    #[must_use]
    pub const fn result(&self) -> Option<&Payload> {
        match self {
            Self::Succeeded(payload) => Some(payload),
            Self::Failed(_) | Self::TimedOut(_) | Self::Cancelled(_) | Self::Expired(_) | Self::Dead(_) => {
                None
            }
        }
    }

    /// The failure, if it did not succeed.
    #[must_use]
    pub const fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Succeeded(_) => None,
            Self::Failed(failure)
            | Self::TimedOut(failure)
            | Self::Cancelled(failure)
            | Self::Expired(failure)
            | Self::Dead(failure) => Some(failure),
        }
    }

    /// The ending that `state` with its result or failure is, as read from a row; `None` if `state` is not terminal
    /// or its part is missing.
    #[must_use]
    pub fn from_parts(state: State, result: Option<Payload>, failure: Option<Failure>) -> Option<Self> {
        match state {
            State::Succeeded => result.map(Self::Succeeded),
            State::Failed => failure.map(Self::Failed),
            State::TimedOut => failure.map(Self::TimedOut),
            State::Cancelled => failure.map(Self::Cancelled),
            State::Expired => failure.map(Self::Expired),
            State::Dead => failure.map(Self::Dead),
            State::Queued | State::Delayed | State::Running => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_checked_to_its_depth() {
        let check = |text: String| Payload::new(Payload::JSON, text.into_bytes()).check_json();
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(check(nested(JSON_DEPTH_MAX)).is_ok());
        assert!(check(nested(JSON_DEPTH_MAX + 1)).is_err());
        assert!(check(nested(100_000)).is_err());
        assert!(
            check(format!("[\"{}\\\"\"]", "[{".repeat(1_000))).is_ok(),
            "brackets in a string do not nest"
        );
        for text in ["{", "{\"a\":}", "[1,]", "1 2", "\u{feff}1", ""] {
            assert!(check(text.to_owned()).is_err(), "{text}");
        }
    }
}
