use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::ensure;
use domain::{NodeName, QueueName};
use serde::{Deserialize, Serialize};

use crate::labels::Labels;

/// What a worker is told: the `[worker]` section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The node's name; the machine's if it is not given.
    pub name: NodeName,
    /// How many executions run at once at most; as many as the machine has cores if it is not given.
    pub slots: u16,
    /// The queues it serves.
    pub queues: Vec<QueueName>,
    /// What an operator wrote of the node, for those who look at it.
    pub labels: Labels,
    /// The node's cache of bundles, which its sync fills.
    pub cache_dir: PathBuf,
    /// Where scripts get a directory each while they run.
    pub scratch_dir: PathBuf,
    /// For how long a claim or a renewal makes an execution ours, in milliseconds.
    pub lease_ms: u64,
    /// How often leases are renewed, in milliseconds: at most a third of `lease_ms`.
    pub renew_ms: u64,
    /// How long a bundle may take to come into the cache, in milliseconds.
    pub fetch_timeout_ms: u64,
    /// How long deliveries wait for a slot before a full node gives them back, in milliseconds.
    pub full_wait_ms: u64,
    /// How many executions wait here for their lock or their limits at most; further ones are dispatched again later.
    pub waiting_max: u32,
    /// Raised, on all workers, after ZooKeeper was rebuilt or restored: its fences are higher than all of before.
    pub fence_generation: u32,
    /// How long a drain waits for what runs before it gives it back, in milliseconds.
    pub drain_ms_max: u64,
    /// Program and arguments that begin a shim; this program's own `shim` if it is empty.
    pub shim: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self {
            name: machine_name(),
            slots: u16::try_from(cores).unwrap_or(u16::MAX),
            queues: vec![QueueName::default()],
            labels: Labels::default(),
            cache_dir: "/var/lib/gantry/cache".into(),
            scratch_dir: "/var/lib/gantry/scratch".into(),
            lease_ms: 30_000,
            renew_ms: 5_000,
            fetch_timeout_ms: 60_000,
            full_wait_ms: 30_000,
            waiting_max: 64,
            fence_generation: 0,
            drain_ms_max: 300_000,
            shim: Vec::new(),
        }
    }
}

impl Config {
    /// For how long a claim or a renewal makes an execution ours.
    #[must_use]
    pub const fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// How often leases are renewed.
    #[must_use]
    pub const fn renew_every(&self) -> Duration {
        Duration::from_millis(self.renew_ms)
    }

    pub(crate) fn check(&self) -> anyhow::Result<()> {
        ensure!((1..=10_000).contains(&self.slots), "worker.slots is 1 to 10000");
        ensure!(!self.queues.is_empty(), "worker.queues names no queue");
        ensure!((500..=600_000).contains(&self.lease_ms), "worker.lease_ms is 500 to 600000");
        ensure!((1..=100_000).contains(&self.waiting_max), "worker.waiting_max is 1 to 100000");
        let longest = self.lease_ms / 3;
        ensure!((1..=longest).contains(&self.renew_ms), "worker.renew_ms is 1 to a third of worker.lease_ms");
        Ok(())
    }
}

/// The machine's name as far as it can be a node's.
fn machine_name() -> NodeName {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    node_name(&host)
}

fn node_name(host: &str) -> NodeName {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = host.trim().chars().map(plain).take(63).collect();
    let name = name.trim_matches('-');
    name.parse().unwrap_or_else(|_| "node".parse().unwrap_or_else(|_| unreachable!("`node` is a name")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_host_name_becomes_a_node_name() {
        for (host, name) in [
            ("box-1\n", "box-1"),
            ("Box.Example.ORG", "box-example-org"),
            ("_", "node"),
            ("", "node"),
            ("größe", "gr--e"),
        ] {
            assert_eq!(node_name(host).as_str(), name);
        }
        assert_eq!(node_name(&"x".repeat(100)).as_str().len(), 63);
    }

    #[test]
    fn the_defaults_stand() {
        Config::default().check().unwrap();
        assert!(Config { slots: 0, ..Config::default() }.check().is_err());
        assert!(Config { renew_ms: 15_000, ..Config::default() }.check().is_err());
    }
}
