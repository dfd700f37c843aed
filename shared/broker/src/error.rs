/// The driver's error, without its type.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why something other than a publication failed.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// There is no connection now; it is being rebuilt.
    #[error("the broker is away: {0}")]
    Away(&'static str),
    /// The broker refused or broke off.
    #[error("{step}")]
    Failed {
        /// What was being done.
        step: &'static str,
        /// The driver's error.
        #[source]
        source: Source,
    },
    /// No answer in time.
    #[error("{step} took longer than {limit_ms} ms")]
    Timeout {
        /// What was being done.
        step: &'static str,
        /// The limit.
        limit_ms: u64,
    },
    /// The broker's topology is not what we need, and a retry cannot cure that.
    #[error("{what}: {advice}")]
    Topology {
        /// What was found.
        what: String,
        /// What an operator must do.
        advice: &'static str,
    },
}

/// Why a publication was not confirmed.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The broker refused it (its queue is full): it is not there.
    #[error("the broker refused the message")]
    Refused,
    /// There is no connection now: it was not sent.
    #[error("the broker is away: {0}")]
    Away(&'static str),
    /// It was sent and no confirm came: it may be there.
    #[error("no confirm within {limit_ms} ms, or the connection was lost: the message may be there")]
    Unknown {
        /// The limit.
        limit_ms: u64,
    },
}
