use domain::Digest;

/// The driver's error, without its type.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a bundle could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// The bytes do not have this digest.
    #[error("the bytes do not match digest {0}")]
    Corrupt(Digest),
    /// Trying again later may help.
    #[error("the artifact store is away")]
    Unavailable(#[source] Source),
}

/// Why a bundle could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The store has no such object.
    #[error("there is no bundle {0}")]
    Missing(Digest),
    /// The bytes in the store do not match the digest; nothing is left behind.
    #[error("the stored bytes do not match digest {0}")]
    Corrupt(Digest),
    /// The disk of the destination is full; nothing is left behind.
    #[error("there is no room for it on this disk")]
    NoSpace(#[source] std::io::Error),
    /// Trying again later may help; a part may be left in the destination.
    #[error("the artifact store is away")]
    Unavailable(#[source] Source),
}

impl FetchError {
    /// What an error of the destination means.
    pub(crate) fn of_destination(error: std::io::Error) -> Self {
        if is_full(&error) { Self::NoSpace(error) } else { Self::Unavailable(error.into()) }
    }
}

/// Does `error` say that there is no room?
pub(crate) fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}
