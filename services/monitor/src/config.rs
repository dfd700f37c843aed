use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[monitor]`: how often it looks and how much it takes at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How long a sweep waits before it looks again, in milliseconds, give or take half of it.
    pub sweep_ms: u64,
    /// How many executions a sweep takes at once at most; when there were as many it looks again at once.
    pub sweep_rows_max: u32,
    /// The workers' `lease_ms`: so long a database must be up before a lease that ran out counts as lost.
    pub lease_ms: u64,
    /// The workers' `renew_ms`: who missed two renewals and is no longer announced is lost.
    pub renew_ms: u64,
    /// For how many days events of nodes are kept.
    pub node_events_days: u32,
    /// Program and arguments that are run when a node is lost or one that was lost is back, with what happened as JSON on
    /// stdin; none if it is empty.
    pub alarm_command: Vec<String>,
    /// Where the same is posted to.
    pub alarm_url: Option<String>,
    /// Nobody else works on the record: whoever holds a lease from before this process is dead. Set by `gantry dev`.
    #[serde(skip)]
    pub alone: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sweep_ms: 2_000,
            sweep_rows_max: 200,
            lease_ms: 30_000,
            renew_ms: 5_000,
            node_events_days: 90,
            alarm_command: Vec::new(),
            alarm_url: None,
            alone: false,
        }
    }
}

impl Config {
    pub(crate) const fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    pub(crate) const fn renew_every(&self) -> Duration {
        Duration::from_millis(self.renew_ms)
    }

    pub(crate) const fn keep_node_events(&self) -> Duration {
        Duration::from_secs(86_400 * self.node_events_days as u64)
    }

    /// How long to wait before the next look: several monitors spread by themselves.
    pub(crate) fn pause(&self) -> Duration {
        Duration::from_millis(self.sweep_ms).mul_f64(0.5 + rand::random::<f64>())
    }
}
