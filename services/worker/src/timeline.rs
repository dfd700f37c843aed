use std::mem;

use jiff::{SignedDuration, Timestamp};
use protocol::http::TimelineEvent;

use coordination::Boottime;

/// What happened in one attempt: times are the record's clock at the claim plus what passed here since.
pub(crate) struct Timeline {
    attempt: i32,
    node: String,
    claimed_at: Timestamp,
    since: Boottime,
    events: Vec<TimelineEvent>,
}

impl Timeline {
    /// A timeline that begins with the claim, answered just now. (The record itself notes the claim.)
    pub(crate) fn new(attempt: i32, node: &str, claimed_at: Timestamp) -> Self {
        let events = Vec::with_capacity(4);
        Self { attempt, node: node.to_owned(), claimed_at, since: Boottime::now(), events }
    }

    /// Something happens now.
    pub(crate) fn add(&mut self, event: &str) {
        let passed = SignedDuration::try_from(Boottime::now().since(self.since)).unwrap_or_default();
        self.events.push(TimelineEvent {
            attempt: self.attempt,
            event: event.to_owned(),
            at: self.claimed_at.checked_add(passed).unwrap_or(self.claimed_at),
            node: self.node.clone(),
        });
    }

    /// What happened so far; the timeline begins anew.
    pub(crate) fn take(&mut self) -> Vec<TimelineEvent> {
        mem::take(&mut self.events)
    }
}
