//! What is counted.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_histogram, histogram};

use crate::Recovery;

const BATCH_ROWS: &str = "gantry_store_batch_rows";
const BATCH_SECONDS: &str = "gantry_store_batch_seconds";
const BATCH_FAILURES: &str = "gantry_store_batch_failures_total";

/// Names what this crate counts, for whoever reads the metrics.
pub fn describe() {
    describe_histogram!(BATCH_ROWS, "Rows in one batch of a hot write, by kind");
    describe_histogram!(BATCH_SECONDS, "How long one batch of a hot write took, by kind");
    describe_counter!(BATCH_FAILURES, "Batches that failed, by kind and by what can be done about it");
}

pub(crate) fn batch(kind: &'static str, rows: usize) {
    histogram!(BATCH_ROWS, "kind" => kind).record(rows as f64);
}

pub(crate) fn batch_took(kind: &'static str, took: Duration) {
    histogram!(BATCH_SECONDS, "kind" => kind).record(took.as_secs_f64());
}

pub(crate) fn batch_failed(kind: &'static str, recovery: Recovery) {
    let recovery = match recovery {
        Recovery::Repeat => "repeat",
        Recovery::Unknown => "unknown",
        Recovery::Permanent => "permanent",
    };
    counter!(BATCH_FAILURES, "kind" => kind, "recovery" => recovery).increment(1);
}
