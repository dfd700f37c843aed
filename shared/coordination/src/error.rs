/// The driver's error, without its type.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why an operation of the coordination failed.
#[derive(Debug, thiserror::Error)]
pub enum CoordinationError {
    /// The servers are away; the session is being rebuilt.
    #[error("the coordination is away: {0}")]
    Away(&'static str),
    /// The operation failed; it may have been done.
    #[error("{step}; its outcome is unknown")]
    Unknown {
        /// What was being done.
        step: &'static str,
        /// The driver's error, if there was an answer.
        #[source]
        source: Option<Source>,
    },
    /// The servers refused it.
    #[error("{step}")]
    Refused {
        /// What was being done.
        step: &'static str,
        /// The driver's error.
        #[source]
        source: Source,
    },
    /// Another life of this node is there.
    #[error("node {name} is there already, with boot id {boot}: two workers must not share a name")]
    NameTaken {
        /// The name.
        name: String,
        /// The other's boot id.
        boot: String,
    },
}

/// An error with everything that caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
