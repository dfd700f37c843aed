use std::sync::LazyLock;
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

const REQUEST_SECONDS: &str = "gantry_gateway_request_seconds";
const EXECUTIONS_ACCEPTED: &str = "gantry_gateway_executions_accepted_total";
const EXECUTIONS_REFUSED: &str = "gantry_gateway_executions_refused_total";
const PUBLICATIONS_FAILED: &str = "gantry_gateway_publications_failed_total";
const WAITERS: &str = "gantry_gateway_waiters";
const FOLLOWERS: &str = "gantry_gateway_followers";
const REPLIES_LATE: &str = "gantry_gateway_replies_late_total";
const ANSWERED_BY_LOOK_UP: &str = "gantry_gateway_answered_by_look_up_total";
const CONNECTIONS: &str = "gantry_gateway_connections";
const CONNECTIONS_REFUSED: &str = "gantry_gateway_connections_refused_total";

pub(crate) fn describe() {
    describe_histogram!(REQUEST_SECONDS, "Time from the header of a request to the header of its answer.");
    describe_counter!(EXECUTIONS_ACCEPTED, "Executions recorded.");
    describe_counter!(
        EXECUTIONS_REFUSED,
        "Submissions refused because too much was going on or a server was away."
    );
    describe_counter!(PUBLICATIONS_FAILED, "Recorded executions whose publication was not confirmed.");
    describe_gauge!(WAITERS, "Callers that wait for a result.");
    describe_gauge!(FOLLOWERS, "Readers that follow a log.");
    describe_counter!(REPLIES_LATE, "Replies nobody waited for any more.");
    describe_counter!(
        ANSWERED_BY_LOOK_UP,
        "Executions whose waiters were answered by the look-up instead of a reply."
    );
    describe_gauge!(CONNECTIONS, "Open connections.");
    describe_counter!(CONNECTIONS_REFUSED, "Connections refused because there were too many.");
}

/// Handles of what is counted per execution: no registry look-up there.
struct Hot {
    accepted: Counter,
    late: Counter,
    looked_up: Counter,
    waiters: Gauge,
    followers: Gauge,
    connections: Gauge,
    request: [Histogram; 5],
}

static HOT: LazyLock<Hot> = LazyLock::new(|| Hot {
    accepted: counter!(EXECUTIONS_ACCEPTED),
    late: counter!(REPLIES_LATE),
    looked_up: counter!(ANSWERED_BY_LOOK_UP),
    waiters: gauge!(WAITERS),
    followers: gauge!(FOLLOWERS),
    connections: gauge!(CONNECTIONS),
    request: ["1xx", "2xx", "3xx", "4xx", "5xx"].map(|class| histogram!(REQUEST_SECONDS, "status" => class)),
});

pub(crate) fn request(status: u16, elapsed: Duration) {
    let class = usize::from(status / 100).clamp(1, 5) - 1;
    HOT.request[class].record(elapsed);
}

pub(crate) fn accepted() {
    HOT.accepted.increment(1);
}

pub(crate) fn refused() {
    counter!(EXECUTIONS_REFUSED).increment(1);
}

pub(crate) fn publication_failed() {
    counter!(PUBLICATIONS_FAILED).increment(1);
}

pub(crate) fn replies_late() {
    HOT.late.increment(1);
}

pub(crate) fn answered_by_look_up() {
    HOT.looked_up.increment(1);
}

pub(crate) fn waiting(waiters: usize, followers: usize) {
    HOT.waiters.set(waiters as f64);
    HOT.followers.set(followers as f64);
}

/// An open connection.
pub(crate) struct Connected(());

pub(crate) fn connected() -> Connected {
    HOT.connections.increment(1.0);
    Connected(())
}

impl Drop for Connected {
    fn drop(&mut self) {
        HOT.connections.decrement(1.0);
    }
}

pub(crate) fn connection_refused() {
    counter!(CONNECTIONS_REFUSED).increment(1);
}
