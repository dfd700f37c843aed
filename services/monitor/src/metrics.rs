//! What is counted.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use protocol::NodeState;
use store::NodeEventKind;

const TAKEN: &str = "gantry_monitor_taken_total";
const SWEEP_SECONDS: &str = "gantry_monitor_sweep_seconds";
const SWEEP_FAILURES: &str = "gantry_monitor_sweep_failures_total";
const PUBLISHED: &str = "gantry_monitor_published_total";
const LETTERS: &str = "gantry_monitor_letters_total";
const NODES: &str = "gantry_monitor_nodes";
const NODE_EVENTS: &str = "gantry_monitor_node_events_total";
const ALARMS: &str = "gantry_monitor_alarms_total";
const UPKEEPS: &str = "gantry_monitor_upkeeps_total";
const LOG_DAYS: &str = "gantry_monitor_log_days_total";
const FORGOTTEN: &str = "gantry_monitor_executions_forgotten_total";

/// Names what this service counts, for whoever reads the metrics.
pub fn describe() {
    describe_counter!(TAKEN, "Executions a sweep took, by sweep");
    describe_histogram!(SWEEP_SECONDS, "How long one look took with all that followed from it, by sweep");
    describe_counter!(SWEEP_FAILURES, "Looks that failed and are repeated, by sweep");
    describe_counter!(PUBLISHED, "Publications of what sweeps took, by outcome");
    describe_counter!(LETTERS, "Messages found unroutable or dead, by source and outcome");
    describe_gauge!(NODES, "Nodes that are there, and those lost in the last day, by state");
    describe_counter!(NODE_EVENTS, "Events of nodes that were recorded here, by kind");
    describe_counter!(ALARMS, "Calls of the alarm hook, by outcome");
    describe_counter!(UPKEEPS, "Upkeeps of the record, by outcome");
    describe_counter!(LOG_DAYS, "Days of the log that were sealed or dropped, by outcome");
    describe_counter!(FORGOTTEN, "Executions that ended long ago and were forgotten");
}

pub(crate) fn swept(sweep: &'static str, took: Duration, taken: usize) {
    histogram!(SWEEP_SECONDS, "sweep" => sweep).record(took.as_secs_f64());
    counter!(TAKEN, "sweep" => sweep).increment(taken as u64);
}

pub(crate) fn sweep_failed(sweep: &'static str) {
    counter!(SWEEP_FAILURES, "sweep" => sweep).increment(1);
}

pub(crate) fn published(confirmed: usize, failed: usize) {
    counter!(PUBLISHED, "outcome" => "confirmed").increment(confirmed as u64);
    counter!(PUBLISHED, "outcome" => "failed").increment(failed as u64);
}

pub(crate) fn letter(source: &'static str, outcome: &'static str) {
    counter!(LETTERS, "source" => source, "outcome" => outcome).increment(1);
}

pub(crate) fn nodes(state: NodeState, count: usize) {
    gauge!(NODES, "state" => state.label()).set(count as f64);
}

pub(crate) fn alarm(outcome: &'static str) {
    counter!(ALARMS, "outcome" => outcome).increment(1);
}

pub(crate) fn node_event(kind: NodeEventKind) {
    counter!(NODE_EVENTS, "kind" => kind.label()).increment(1);
}

pub(crate) fn upkeep(outcome: &'static str) {
    counter!(UPKEEPS, "outcome" => outcome).increment(1);
}

pub(crate) fn log_day(outcome: &'static str) {
    counter!(LOG_DAYS, "outcome" => outcome).increment(1);
}

pub(crate) fn executions_forgotten(count: u32) {
    counter!(FORGOTTEN).increment(u64::from(count));
}
