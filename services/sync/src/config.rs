use std::path::PathBuf;
use std::time::Duration;

use domain::NodeName;
use serde::{Deserialize, Serialize};

use crate::plan::Limits;

/// `[sync]`: the cache of a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The node's name: that of its worker. Without one the node does not say what it has, and no alias waits for it.
    pub name: Option<NodeName>,
    /// The directory of the cache, shared with the worker of this node and with nobody else.
    pub cache_dir: PathBuf,
    /// How many bundles are transferred at once at most; one more is refused and asked for again.
    pub transfers_max: usize,
    /// How many bytes per second all transfers of this node take together at most; 0: no bound.
    pub bandwidth_bytes_per_second_max: u64,
    /// How many of the youngest versions of each model are fetched before anyone asks for them, beside those that
    /// aliases point at.
    pub versions_max: usize,
    /// How many bytes of unpacked bundles are kept; beyond it those that were not used for longest go, down to nine
    /// tenths of it, but none that is in use or was within `cache_keep_ms`, and those that aliases point at last.
    pub cache_bytes_max: u64,
    /// How many bytes are kept free on the disk of the cache; below it bundles go, too.
    pub disk_free_bytes_min: u64,
    /// How long a bundle is safe after it was last used, in milliseconds.
    pub cache_keep_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: None,
            cache_dir: "/var/lib/gantry/cache".into(),
            transfers_max: 10,
            bandwidth_bytes_per_second_max: 0,
            versions_max: 50,
            cache_bytes_max: 20 << 30,
            disk_free_bytes_min: 1 << 30,
            cache_keep_ms: 600_000,
        }
    }
}

impl Config {
    /// What a plan may use.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            cache_bytes_max: self.cache_bytes_max,
            disk_free_bytes_min: self.disk_free_bytes_min,
            keep: Duration::from_millis(self.cache_keep_ms),
            // Half of the places stay free for those who need a bundle now.
            fetches_max: (self.transfers_max / 2).max(1),
        }
    }
}
