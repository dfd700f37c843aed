/// Why an operation of the record failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection could be had; nothing was done.
    #[error("connect to the database")]
    Connect(#[source] Source),
    /// The statement failed.
    #[error("run statement {statement}")]
    Statement {
        /// The name of its file.
        statement: &'static str,
        /// What a caller can do.
        recovery: Recovery,
        /// The driver's error.
        #[source]
        source: Source,
    },
    /// No answer in time: the outcome is unknown.
    #[error("statement {statement} took longer than {limit_ms} ms; its outcome is unknown")]
    Timeout {
        /// The name of its file.
        statement: &'static str,
        /// The limit.
        limit_ms: u64,
    },
    /// The schema is not the one this program was built for.
    #[error("the schema is at version {found}, this program needs {needed}: {advice}")]
    Schema {
        /// The version found; 0 if there is none.
        found: i64,
        /// The version needed.
        needed: i64,
        /// What an operator must do.
        advice: &'static str,
    },
    /// A row holds what no program of ours writes.
    #[error("{table} holds a row that cannot be read: {what}")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// The writer's queue is full or it has ended; nothing was done.
    #[error("the writer takes no more: {0}")]
    Overloaded(&'static str),
}

/// The driver's error, without its type.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// What a caller can do about a failed statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// Nothing was done; repeat it (serialization failure, deadlock, lock timeout, server shutting down).
    Repeat,
    /// The connection was lost after the statement was sent: it may have been done. Repeating it is harmless.
    Unknown,
    /// A repeat cannot cure it: one of the rows is at fault, or we are.
    Permanent,
}

impl StoreError {
    /// What a caller can do.
    #[must_use]
    pub const fn recovery(&self) -> Recovery {
        match self {
            Self::Connect(_) | Self::Overloaded(_) => Recovery::Repeat,
            Self::Statement { recovery, .. } => *recovery,
            Self::Timeout { .. } => Recovery::Unknown,
            Self::Schema { .. } | Self::Corrupt { .. } => Recovery::Permanent,
        }
    }
}
