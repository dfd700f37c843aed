//! What the worker counts. Labels are names from enums, never ids or texts.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use store::Settlement;

const SLOTS: &str = "gantry_worker_slots";
const ACTIVE: &str = "gantry_worker_active_slots";
const CLAIMS: &str = "gantry_worker_claims_total";
const CLAIM_FAILURES: &str = "gantry_worker_claim_failures_total";
const ACKS_LOST: &str = "gantry_worker_acks_lost_total";
const REJECTED: &str = "gantry_worker_rejected_messages_total";
const REQUEUED: &str = "gantry_worker_requeued_deliveries_total";
const SETTLED: &str = "gantry_worker_settled_attempts_total";
const LOST: &str = "gantry_worker_lost_attempts_total";
const RUN: &str = "gantry_worker_run_seconds";
const FETCH: &str = "gantry_worker_fetch_seconds";
const RENEWAL_FAILURES: &str = "gantry_worker_renewal_failures_total";
const LOG_LINES: &str = "gantry_worker_log_lines_total";
const WAITING: &str = "gantry_worker_waiting_executions";
const FENCES_REFUSED: &str = "gantry_worker_fences_refused_total";
const BLOCKED: &str = "gantry_worker_exclusive_blocked";
const DROPPED: &str = "gantry_worker_dropped_output_bytes_total";

/// Says what each metric is.
pub(crate) fn describe() {
    describe_gauge!(SLOTS, "How many executions run at once at most.");
    describe_gauge!(ACTIVE, "How many slots are taken.");
    describe_counter!(CLAIMS, "Claims by their answer.");
    describe_counter!(CLAIM_FAILURES, "Claims the record did not answer.");
    describe_counter!(ACKS_LOST, "Acknowledgements whose connection was gone: the messages come again.");
    describe_counter!(REJECTED, "Messages put into the rejected queue, by the code of the reason.");
    describe_counter!(REQUEUED, "Deliveries a full node gave back through the record.");
    describe_counter!(SETTLED, "Attempts settled in the record, by how.");
    describe_counter!(LOST, "Attempts that were no longer ours when they were to be settled.");
    describe_histogram!(RUN, "How long scripts ran.");
    describe_histogram!(FETCH, "How long bundles took that were not in the cache.");
    describe_counter!(RENEWAL_FAILURES, "Renewals the record did not answer.");
    describe_counter!(LOG_LINES, "Log rows handed to the record.");
    describe_gauge!(WAITING, "How many executions wait here for their lock or their limits, without a slot.");
    describe_counter!(FENCES_REFUSED, "Locks whose fence was lower than one the record had seen.");
    describe_gauge!(BLOCKED, "1 while nothing exclusive runs because new fences would be too low, else 0.");
    describe_counter!(DROPPED, "Bytes scripts printed beyond what an attempt may print.");
}

pub(crate) fn slots(count: u16) {
    gauge!(SLOTS).set(f64::from(count));
}

pub(crate) fn slot_taken() {
    gauge!(ACTIVE).increment(1.0);
}

pub(crate) fn slot_freed() {
    gauge!(ACTIVE).decrement(1.0);
}

pub(crate) fn claimed(answer: &'static str) {
    counter!(CLAIMS, "answer" => answer).increment(1);
}

pub(crate) fn claim_failed() {
    counter!(CLAIM_FAILURES).increment(1);
}

pub(crate) fn ack_lost() {
    counter!(ACKS_LOST).increment(1);
}

pub(crate) fn rejected(code: &'static str) {
    counter!(REJECTED, "code" => code).increment(1);
}

pub(crate) fn requeued(count: usize) {
    counter!(REQUEUED).increment(count as u64);
}

/// The name of a settlement, also in the timeline.
pub(crate) const fn settlement(settlement: &Settlement) -> &'static str {
    match settlement {
        Settlement::Ended(ending) => ending.state().label(),
        Settlement::Yielded { .. } => "yielded",
        Settlement::Retried(_) => "retried",
        Settlement::Failed { .. } => "gave_up",
    }
}

pub(crate) fn settled(name: &'static str, run: Duration) {
    counter!(SETTLED, "settlement" => name).increment(1);
    histogram!(RUN).record(run.as_secs_f64());
}

pub(crate) fn lost() {
    counter!(LOST).increment(1);
}

pub(crate) fn fetched(took: Duration) {
    histogram!(FETCH).record(took.as_secs_f64());
}

pub(crate) fn renewal_failed() {
    counter!(RENEWAL_FAILURES).increment(1);
}

pub(crate) fn log_lines(count: usize) {
    counter!(LOG_LINES).increment(count as u64);
}

pub(crate) fn waiting_entered() {
    gauge!(WAITING).increment(1.0);
}

pub(crate) fn waiting_left() {
    gauge!(WAITING).decrement(1.0);
}

pub(crate) fn fence_refused() {
    counter!(FENCES_REFUSED).increment(1);
}

pub(crate) fn exclusive_blocked(is_blocked: bool) {
    gauge!(BLOCKED).set(f64::from(u8::from(is_blocked)));
}

pub(crate) fn output_dropped(bytes: u64) {
    counter!(DROPPED).increment(bytes);
}
