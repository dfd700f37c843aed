use std::time::Duration;

use serde::{Deserialize, Serialize};
use store::LogRetention;

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
    /// For how many days log lines are kept, counted from the end of the day their execution's id is dated; 0: for ever.
    pub keep_logs_days: u32,
    /// How many bytes on the disk the whole log may have before its oldest days are dropped; 0: any number.
    pub keep_logs_bytes: u64,
    /// For how many days an execution that ended is kept, with its input and result; 0: for ever.
    pub keep_executions_days: u32,
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
            keep_logs_days: 30,
            keep_logs_bytes: 0,
            keep_executions_days: 90,
            alarm_command: Vec::new(),
            alarm_url: None,
            alone: false,
        }
    }
}

const fn days(days: u32) -> Duration {
    Duration::from_secs(86_400 * days as u64)
}

impl Config {
    pub(crate) const fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    pub(crate) const fn renew_every(&self) -> Duration {
        Duration::from_millis(self.renew_ms)
    }

    pub(crate) const fn keep_node_events(&self) -> Duration {
        days(self.node_events_days)
    }

    /// How much of the log is kept: no longer than the executions, without which nobody reaches it.
    pub(crate) fn keep_logs(&self) -> LogRetention {
        let kept = [self.keep_logs_days, self.keep_executions_days].into_iter().filter(|days| *days > 0);
        LogRetention {
            age_max: kept.min().map(days),
            bytes_max: (self.keep_logs_bytes > 0).then_some(self.keep_logs_bytes),
        }
    }

    /// For how long executions that ended are kept; `None`: for ever.
    pub(crate) fn keep_executions(&self) -> Option<Duration> {
        (self.keep_executions_days > 0).then(|| days(self.keep_executions_days))
    }

    /// How long to wait before the next look: several monitors spread by themselves.
    pub(crate) fn pause(&self) -> Duration {
        Duration::from_millis(self.sweep_ms).mul_f64(0.5 + rand::random::<f64>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_kept_no_longer_than_executions() {
        let kept = |keep_logs_days, keep_executions_days| {
            let config = Config { keep_logs_days, keep_executions_days, ..Config::default() };
            config.keep_logs().age_max.map(|age| age.as_secs() / 86_400)
        };
        assert_eq!(kept(30, 90), Some(30));
        assert_eq!(kept(90, 30), Some(30));
        assert_eq!(kept(0, 30), Some(30));
        assert_eq!(kept(30, 0), Some(30));
        assert_eq!(kept(0, 0), None);
    }
}
