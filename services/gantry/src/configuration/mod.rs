//! `gantry.toml`: the sections of all services and adapters, put together.

mod keys;
mod reference;

use std::path::Path;

use bootstrap::settings::{
    ArtifactsSettings, BrokerBackend, BrokerSettings, CoordinationSettings, LogSettings, PortSettings,
    RecordBackend, RecordSettings,
};
use bootstrap::{ConfigurationError, Loaded, load};
use serde::{Deserialize, Serialize};

use keys::KEYS;
pub use reference::reference;

/// Everything that can be configured. Each process reads its own section and those of the adapters.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Configuration {
    /// The HTTP side.
    pub gateway: gateway::Config,
    /// What runs executions.
    pub worker: worker::Config,
    /// What fetches bundles.
    pub sync: sync::Config,
    /// What rescues and dispatches.
    pub monitor: monitor::Config,
    /// Where the truth is kept.
    pub record: RecordSettings,
    /// How requests and replies travel.
    pub broker: BrokerSettings,
    /// Who is alive.
    pub coordination: CoordinationSettings,
    /// Where bundles are kept.
    pub artifacts: ArtifactsSettings,
    /// What a process says of itself.
    pub log: LogSettings,
}

impl Configuration {
    /// Reads the configuration from `file` and this process's environment, and checks the range of every number.
    ///
    /// # Errors
    /// [`ConfigurationError`], which names the place, the key and what would be right.
    pub fn load(file: Option<&Path>) -> Result<Loaded<Self>, ConfigurationError> {
        let loaded = load::<Self>(file, std::env::vars_os())?;
        check_ranges(&loaded)?;
        Ok(loaded)
    }

    /// On which servers the process stands.
    pub fn ports(&self) -> PortSettings {
        PortSettings {
            record: self.record.clone(),
            broker: self.broker.clone(),
            coordination: self.coordination.clone(),
            artifacts: self.artifacts.clone(),
        }
    }

    /// What a sync is told: it is of the worker's node.
    pub fn sync(&self) -> sync::Config {
        let mut sync = self.sync.clone();
        sync.name.get_or_insert_with(|| self.worker.name.clone());
        sync
    }

    /// Refuses adapters that live in one process, for a service that is one of several.
    ///
    /// # Errors
    /// [`ConfigurationError`] that says what to set.
    pub fn check_shared(&self) -> Result<(), ConfigurationError> {
        let alone = "it serves one process alone, as `gantry dev`; services of their own need";
        if self.record.backend == RecordBackend::Sqlite {
            let needs = "record.backend = \"postgres\" with record.url";
            return Err(ConfigurationError::new(format!("record.backend is \"sqlite\": {alone} {needs}")));
        }
        if self.broker.backend == BrokerBackend::Embedded {
            let needs = "broker.backend = \"rabbitmq\" with broker.url";
            return Err(ConfigurationError::new(format!("broker.backend is \"embedded\": {alone} {needs}")));
        }
        Ok(())
    }
}

fn check_ranges(loaded: &Loaded<Configuration>) -> Result<(), ConfigurationError> {
    for entry in loaded.entries() {
        let range = KEYS.iter().find(|key| key.name == entry.key).and_then(|key| key.range.as_ref());
        if let (Some(range), Ok(number)) = (range, entry.value.parse::<i128>())
            && !range.contains(&number)
        {
            let rule = format!("must be {} to {}, not {number}", range.start(), range.end());
            return Err(loaded.complaint(&entry.key, &rule));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(name: &str, value: &str) -> String {
        let environment = [(name.into(), value.into())];
        let loaded = load::<Configuration>(None, environment);
        loaded.and_then(|loaded| check_ranges(&loaded)).unwrap_err().to_string()
    }

    #[test]
    fn numbers_out_of_range_are_refused_with_the_range() {
        for value in ["0", "1000000000"] {
            let found = complaint("GANTRY_WORKER__SLOTS", value);
            assert!(
                found.contains("environment variable GANTRY_WORKER__SLOTS: worker.slots must be"),
                "{found}"
            );
        }
        for value in ["-1", "eight"] {
            assert!(complaint("GANTRY_WORKER__SLOTS", value).contains("must be a whole number"));
        }
    }

    #[test]
    fn a_service_of_its_own_needs_servers() {
        let complaint = Configuration::default().check_shared().unwrap_err().to_string();
        assert!(complaint.contains("record.backend = \"postgres\""), "{complaint}");
    }

    #[test]
    fn a_worker_and_its_sync_share_a_cache_if_nobody_says_otherwise() {
        let defaults = Configuration::default();
        assert_eq!(defaults.worker.cache_dir, defaults.sync.cache_dir);
    }
}
