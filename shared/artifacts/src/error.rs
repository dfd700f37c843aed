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
    /// Trying again later may help; a part may be left in the destination.
    #[error("the artifact store is away")]
    Unavailable(#[source] Source),
}
