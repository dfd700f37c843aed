use std::fmt;

use protocol::{Problem, ProblemCode};

/// Why a client command did not do what it was asked to, with the exit code that says so.
#[derive(Debug)]
pub struct ClientError {
    /// The kind: programs go by its exit code.
    pub exit: Exit,
    /// What, where, and what to do, for people.
    pub message: String,
    /// What the gateway answered, if it did.
    pub problem: Option<Box<Problem>>,
}

/// What the exit code of a client command says. Those from 64 on are those of sysexits.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The script failed, or the execution is dead.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// What was sent was refused: it would be refused again.
    Data = 65,
    /// There is no such model, version or execution.
    NotFound = 66,
    /// Gantry cannot be reached.
    Away = 69,
    /// Gantry failed.
    Internal = 70,
    /// Not now: too busy, or not ended yet.
    Later = 75,
    /// Whoever read the output went away; nothing is said.
    PipeClosed = 141,
    /// Not allowed.
    Denied = 77,
    /// The execution ran out of time.
    TimedOut = 124,
    /// The execution was cancelled.
    Cancelled = 130,
}

impl ClientError {
    /// An error of this kind.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), problem: None }
    }

    /// The command line is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// What `problem`, an answer of the gateway, means for the command.
    pub fn of_problem(problem: Problem) -> Self {
        let exit = [
            (ProblemCode::ExecutionFailed, Exit::Failed),
            (ProblemCode::ExecutionDead, Exit::Failed),
            (ProblemCode::ExecutionTimedOut, Exit::TimedOut),
            (ProblemCode::ExecutionExpired, Exit::TimedOut),
            (ProblemCode::ExecutionCancelled, Exit::Cancelled),
        ]
        .into_iter()
        .find_map(|(code, exit)| (code == problem.code).then_some(exit))
        .unwrap_or(Exit::of_status(problem.status));
        let mut message = format!("{}: {}", problem.title, problem.detail);
        if let Some(id) = problem.execute_id {
            message.push_str(&format!("\n  execution {id}"));
            if let Some(attempt) = problem.attempt {
                message.push_str(&format!(", attempt {attempt}"));
            }
            if let Some(class) = problem.error_class {
                message.push_str(&format!(", error class {class}"));
            }
        }
        for line in &problem.last_lines {
            message.push_str(&format!("\n  | {}", super::screen::plain(line)));
        }
        Self { exit, message, problem: Some(Box::new(problem)) }
    }
}

impl Exit {
    /// What an answer with this HTTP status and no problem of ours means.
    pub const fn of_status(status: u16) -> Self {
        match status {
            401 | 403 => Self::Denied,
            404 => Self::NotFound,
            409 | 429 | 503 => Self::Later,
            400..=499 => Self::Data,
            _ => Self::Internal,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ClientError {}
