//! What the sync counts.

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// Transfers that ended, by outcome.
pub(crate) const TRANSFERS: &str = "gantry_sync_transfers_total";
/// Transfers under way.
pub(crate) const TRANSFERS_RUNNING: &str = "gantry_sync_transfers_running";
/// How long a transfer took, unpacking included.
pub(crate) const TRANSFER_SECONDS: &str = "gantry_sync_transfer_seconds";
/// Requests refused because too many transfers were under way.
pub(crate) const REFUSED: &str = "gantry_sync_refused_total";
/// Bytes that transfers received.
pub(crate) const RECEIVED: &str = "gantry_sync_received_bytes_total";
/// Bytes that transfers received and threw away, because they did not make the bundle.
pub(crate) const DISCARDED: &str = "gantry_sync_discarded_bytes_total";
/// Unpacked bundles in the cache.
pub(crate) const CACHE_BYTES: &str = "gantry_sync_cache_bytes";
/// Bundles taken out of the cache to make room.
pub(crate) const EVICTED: &str = "gantry_sync_evicted_total";

pub(crate) fn describe() {
    describe_counter!(TRANSFERS, "Transfers that ended, by outcome");
    describe_gauge!(TRANSFERS_RUNNING, "Transfers under way");
    describe_histogram!(TRANSFER_SECONDS, "How long a transfer took, unpacking included");
    describe_counter!(REFUSED, "Requests refused because too many transfers were under way");
    describe_counter!(RECEIVED, "Bytes that transfers received");
    describe_counter!(
        DISCARDED,
        "Bytes that transfers received and threw away, because they did not make the bundle"
    );
    describe_gauge!(CACHE_BYTES, "Bytes of unpacked bundles in the cache");
    describe_counter!(EVICTED, "Bundles taken out of the cache to make room");
}
