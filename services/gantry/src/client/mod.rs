//! The commands that talk to a gateway over HTTP.
//!
//! A command prints what was asked for on stdout, and everything else on stderr. Its exit code says what happened
//! ([`Exit`]), its error what, where and what to do. A link that breaks, or a gateway that says it is busy, is tried again
//! for a while: every request is harmless to repeat, because `run` always sends an idempotency key.

mod aliases;
mod api;
mod bundle;
mod contests;
mod error;
mod events;
mod executions;
mod input;
mod logs;
mod models;
mod nodes;
mod run;
pub mod screen;
mod search;

pub use aliases::{alias, aliases, readiness};
pub use api::Api;
pub use bundle::pack;
pub use contests::{explain, limits};
pub use error::{ClientError, Exit};
pub use executions::{cancel, ps, show};
pub use input::Input;
pub use logs::{follow, logs};
pub use models::{models, push, upload};
pub use nodes::nodes;
pub use run::{Ended, Prefer, Submission, Submitted, result, run, submit};
pub use search::search;

use std::io::{IsTerminal, Write};

use screen::Style;

/// Where a command's words go.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    /// What was asked for.
    pub stdout: Style,
    /// Everything else.
    pub stderr: Style,
}

impl Terminal {
    /// The process's own streams; colours where they are a terminal and `NO_COLOR` is not set.
    pub fn detect() -> Self {
        let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let style = |is_terminal| Style { colours: colours && is_terminal, raw: false };
        Self {
            stdout: style(std::io::stdout().is_terminal()),
            stderr: style(std::io::stderr().is_terminal()),
        }
    }

    /// Writes `text` and a line end to stdout.
    ///
    /// # Errors
    /// [`Exit::PipeClosed`] if nobody reads it any more.
    pub fn say(self, text: &str) -> Result<(), ClientError> {
        self.write(format!("{text}\n").as_bytes())
    }

    /// Writes `bytes` to stdout.
    ///
    /// # Errors
    /// [`Exit::PipeClosed`] if nobody reads it any more.
    pub fn write(self, bytes: &[u8]) -> Result<(), ClientError> {
        let mut stdout = std::io::stdout().lock();
        stdout
            .write_all(bytes)
            .and_then(|()| stdout.flush())
            .map_err(|_| ClientError::new(Exit::PipeClosed, String::new()))
    }

    /// Writes `text` and a line end to stderr; if nobody reads it, that is no reason to stop.
    pub fn note(self, text: &str) {
        let _unread = writeln!(std::io::stderr(), "{text}");
    }

    /// Writes `value` as JSON in one line.
    ///
    /// # Errors
    /// [`Exit::PipeClosed`] if nobody reads it any more.
    pub fn json(self, value: &impl serde::Serialize) -> Result<(), ClientError> {
        let text = serde_json::to_string(value)
            .map_err(|error| ClientError::new(Exit::Internal, format!("write JSON: {error}")))?;
        self.say(&text)
    }
}
