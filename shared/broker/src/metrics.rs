//! What is counted.

use metrics::{counter, describe_counter};

use crate::{PublishError, Settled};

const PUBLISHED: &str = "gantry_broker_published_total";
const DELIVERED: &str = "gantry_broker_delivered_total";
const SETTLED: &str = "gantry_broker_settled_total";
const REPLIES_DROPPED: &str = "gantry_broker_replies_dropped_total";
const CONTROLS_DROPPED: &str = "gantry_broker_controls_dropped_total";
const CONNECTIONS: &str = "gantry_broker_connections_total";

/// Names what this crate counts, for whoever reads the metrics.
pub fn describe() {
    describe_counter!(PUBLISHED, "Publications that waited for a confirm, by outcome");
    describe_counter!(DELIVERED, "Deliveries received, by whether they were delivered before");
    describe_counter!(SETTLED, "Deliveries settled; lost ones come again");
    describe_counter!(REPLIES_DROPPED, "Replies that were not sent, by reason; the row has the answer");
    describe_counter!(CONTROLS_DROPPED, "Broadcasts that were not sent or not read");
    describe_counter!(
        CONNECTIONS,
        "Connections opened to RabbitMQ, by what they are for; each after the first follows a loss"
    );
}

/// Counts how a publication went, and passes it on.
pub(crate) fn published(outcome: Result<(), PublishError>) -> Result<(), PublishError> {
    let label = match &outcome {
        Ok(()) => "confirmed",
        Err(PublishError::Refused) => "refused",
        Err(PublishError::Away(_)) => "away",
        Err(PublishError::Unknown { .. }) => "unknown",
    };
    counter!(PUBLISHED, "outcome" => label).increment(1);
    outcome
}

pub(crate) fn delivered(redelivered: bool) {
    counter!(DELIVERED, "redelivered" => if redelivered { "true" } else { "false" }).increment(1);
}

pub(crate) fn settled(settled: Settled) {
    let label = match settled {
        Settled::Sent => "sent",
        Settled::Lost => "lost",
    };
    counter!(SETTLED, "outcome" => label).increment(1);
}

pub(crate) fn replies_dropped(reason: &'static str, count: u64) {
    counter!(REPLIES_DROPPED, "reason" => reason).increment(count);
}

pub(crate) fn control_dropped() {
    counter!(CONTROLS_DROPPED).increment(1);
}

pub(crate) fn connected(role: &'static str) {
    counter!(CONNECTIONS, "connection" => role).increment(1);
}
