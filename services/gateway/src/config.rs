use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::bail;
use serde::{Deserialize, Serialize};

/// `[gateway]`: the HTTP side.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The address to listen on. There is no authentication yet, so it must be a loopback address.
    pub listen: SocketAddr,
    /// Listen on another address than loopback all the same: everybody who reaches it may push and run models.
    pub insecure_bind: bool,
    /// TLS: the certificate chain, a PEM file.
    pub tls_cert_file: Option<PathBuf>,
    /// TLS: its private key, a PEM file.
    pub tls_key_file: Option<PathBuf>,
    /// The most connections at once.
    pub connections_max: usize,
    /// The most connections at once from one address.
    pub connections_per_address_max: usize,
    /// The most callers that wait for a result at once; further ones are refused with `503`.
    pub waiters_max: usize,
    /// How many percent of the nodes that serve a model's queue must have a version before an alias moves to it.
    pub ready_percent_min: u32,
    /// In how many seconds the backlog of a queue should be worked off: `GET /v1/scaling` reckons with it.
    pub scaling_target_seconds: u32,
    /// How long a connection may take to send the header of a request, in milliseconds.
    pub header_ms_max: u64,
    /// How long a drain may take, in milliseconds; callers still waiting then get their handle.
    pub drain_ms_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7070)),
            insecure_bind: false,
            tls_cert_file: None,
            tls_key_file: None,
            connections_max: 12_000,
            connections_per_address_max: 2_000,
            waiters_max: 10_000,
            ready_percent_min: 80,
            scaling_target_seconds: 30,
            header_ms_max: 10_000,
            drain_ms_max: 30_000,
        }
    }
}

impl Config {
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if !self.listen.ip().is_loopback() && !self.insecure_bind {
            bail!(
                "gateway.listen = {}: there is no authentication yet, so only a loopback address is allowed; \
                 set gateway.insecure_bind = true if everybody who reaches it may push and run models",
                self.listen
            );
        }
        if self.tls_cert_file.is_some() != self.tls_key_file.is_some() {
            bail!("gateway.tls_cert_file and gateway.tls_key_file go together: set both or none");
        }
        for (key, value) in [
            ("connections_max", self.connections_max),
            ("connections_per_address_max", self.connections_per_address_max),
            ("waiters_max", self.waiters_max),
        ] {
            if !(1..=1_000_000).contains(&value) {
                bail!("gateway.{key} = {value}: 1 to 1000000 is allowed");
            }
        }
        if self.ready_percent_min > 100 {
            bail!("gateway.ready_percent_min = {}: 0 to 100 is allowed", self.ready_percent_min);
        }
        if !(1..=86_400).contains(&self.scaling_target_seconds) {
            bail!("gateway.scaling_target_seconds = {}: 1 to 86400 is allowed", self.scaling_target_seconds);
        }
        for (key, value) in [("header_ms_max", self.header_ms_max), ("drain_ms_max", self.drain_ms_max)] {
            if !(1..=3_600_000).contains(&value) {
                bail!("gateway.{key} = {value}: 1 to 3600000 is allowed");
            }
        }
        Ok(())
    }
}
