//! Bundles: bytes that never change once written, named by their SHA-256.
//!
//! [`Artifacts`] is the port, over two adapters: an S3-compatible object store ([`S3Config`]) and a directory
//! ([`DirectoryConfig`]). Both run one contract suite (`tests/it/contract.rs`). What the bytes of a bundle may hold, and
//! how they become files, is the business of [`bundle`].

pub mod bundle;
mod directory;
mod error;
mod meter;
mod part;
mod s3;

use std::path::Path;

use bytes::Bytes;
use domain::Digest;

pub use directory::DirectoryConfig;
pub use error::{FetchError, PutError};
pub use meter::{Bandwidth, Meter};
pub use s3::{S3Config, S3ConfigError};

/// Bundles, on one of two adapters.
#[derive(Clone)]
pub enum Artifacts {
    /// An S3-compatible object store.
    S3(s3::Store),
    /// A directory on this machine, shared by all processes that use it.
    Directory(directory::Store),
}

impl Artifacts {
    /// Bundles in a directory, which is made when it is first needed.
    #[must_use]
    pub fn directory(config: &DirectoryConfig) -> Self {
        Self::Directory(directory::Store::new(config))
    }

    /// Bundles in an S3-compatible object store. Does not ask the server anything yet.
    ///
    /// # Errors
    /// [`S3ConfigError`]: no try later will help.
    pub fn s3(config: &S3Config) -> Result<Self, S3ConfigError> {
        s3::Store::new(config).map(Self::S3)
    }

    /// Stores `bytes` under their digest. Repeating is harmless.
    ///
    /// # Errors
    /// [`PutError`]: nothing can be seen under the digest, or all of it.
    pub async fn put(&self, digest: Digest, bytes: Bytes) -> Result<(), PutError> {
        match self {
            Self::S3(store) => store.put(digest, bytes).await,
            Self::Directory(store) => store.put(digest, bytes).await,
        }
    }

    /// Streams the bundle `digest` into the file `destination`, checked, resuming a partial file found there. `meter`
    /// shows how far it is and bounds how fast it may be.
    ///
    /// If the future is dropped, `destination` holds a part that the next fetch resumes.
    ///
    /// # Errors
    /// [`FetchError::Missing`] if the store has no such object; [`FetchError::Corrupt`] if the bytes do not match
    /// `digest` (nothing is left behind); [`FetchError::NoSpace`] if they do not fit (nothing is left behind);
    /// [`FetchError::Unavailable`] if trying again later may help.
    pub async fn fetch(&self, digest: Digest, destination: &Path, meter: &Meter) -> Result<(), FetchError> {
        match self {
            Self::S3(store) => store.fetch(digest, destination, meter).await,
            Self::Directory(store) => store.fetch(digest, destination, meter).await,
        }
    }

    /// Can it be reached?
    ///
    /// # Errors
    /// [`FetchError::Unavailable`] if not.
    pub async fn ping(&self) -> Result<(), FetchError> {
        match self {
            Self::S3(store) => store.ping().await,
            Self::Directory(store) => store.ping().await,
        }
    }
}
