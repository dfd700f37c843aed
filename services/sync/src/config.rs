use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[sync]`: the cache of a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The directory of the cache, shared with the worker of this node and with nobody else.
    pub cache_dir: PathBuf,
    /// How many bundles are transferred at once at most; one more is refused and asked for again.
    pub transfers_max: usize,
    /// How many bytes of unpacked bundles are kept; beyond it those that were not used for longest go, but none that is
    /// in use or was within `cache_keep_ms`.
    pub cache_bytes_max: u64,
    /// How long a bundle is safe after it was last used, in milliseconds.
    pub cache_keep_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cache_dir: "/var/lib/gantry/cache".into(),
            transfers_max: 10,
            cache_bytes_max: 20 << 30,
            cache_keep_ms: 600_000,
        }
    }
}
