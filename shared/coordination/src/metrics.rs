//! What this crate counts.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// 1 while the view of the cluster is current.
pub(crate) const LINK_UP: &str = "gantry_coordination_link_up";
/// How many nodes are announced.
pub(crate) const NODES: &str = "gantry_coordination_nodes";
/// How many ZooKeeper sessions this process has begun.
pub(crate) const SESSIONS: &str = "gantry_coordination_sessions_total";
/// How many locks and leases of limits this process holds, by `kind`.
pub(crate) const LOCKS_HELD: &str = "gantry_coordination_locks_held";
/// How long it waited for them, by `kind`.
pub(crate) const LOCK_WAIT_SECONDS: &str = "gantry_coordination_lock_wait_seconds";
/// How often it had to repeat taking an entry out of a queue, because the answer was lost.
pub(crate) const RELEASES_REPEATED: &str = "gantry_coordination_releases_repeated_total";

/// Says what they mean, once a recorder is there.
pub(crate) fn describe() {
    describe_gauge!(LINK_UP, "1 while the view of the cluster is current");
    describe_gauge!(NODES, "Nodes that are announced, as this process sees them");
    describe_counter!(SESSIONS, "ZooKeeper sessions this process has begun");
    describe_gauge!(LOCKS_HELD, "Locks and leases of limits that this process holds");
    describe_histogram!(
        LOCK_WAIT_SECONDS,
        Unit::Seconds,
        "From entering the queue of a lock or a limit to having it"
    );
    describe_counter!(
        RELEASES_REPEATED,
        "Entries in queues that had to be taken out again, the answer being lost"
    );
}
