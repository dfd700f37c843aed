//! What a worker and the sync of its node say to each other over `sync.sock` in the node's cache directory.
//!
//! One connection, one request as a line of JSON, one answer as a line of JSON. The cache holds each bundle unpacked and
//! read-only as `bundles/<digest>/`; the directory appears complete or not at all, so a worker that finds it need not ask.
//!
//! When the cache is full, bundles go by the time they were last used. Who runs from a bundle therefore opens its
//! directory, holds a shared `flock(2)` on it while it runs and sets its modification time; sync takes out only what it
//! can lock exclusively, by renaming it first. Whoever has the lock looks once more that the path is still there.

use std::path::{Path, PathBuf};

use domain::Digest;
use serde::{Deserialize, Serialize};

/// Asks for a bundle to be in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FetchRequest {
    /// The bundle.
    pub fetch: Digest,
}

/// The answer, given once the bundle is there or cannot be had now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum FetchAnswer {
    /// It is in the cache.
    Ready,
    /// Too many transfers are under way: ask again after this many milliseconds.
    Refused {
        /// When to ask again.
        retry_after_ms: u64,
    },
    /// The artifact store has no such bundle.
    Missing,
    /// What the artifact store has is not the bundle, or cannot be unpacked safely.
    Corrupt {
        /// Why.
        reason: String,
    },
    /// The artifact store is away: asking again later may help.
    Unavailable {
        /// Why.
        reason: String,
    },
}

/// Where the cache at `cache_dir` has the bundle `digest`, unpacked.
#[must_use]
pub fn bundle_dir(cache_dir: &Path, digest: Digest) -> PathBuf {
    cache_dir.join("bundles").join(digest.to_string())
}

/// Where the sync of the cache at `cache_dir` listens.
#[must_use]
pub fn socket(cache_dir: &Path) -> PathBuf {
    cache_dir.join("sync.sock")
}
