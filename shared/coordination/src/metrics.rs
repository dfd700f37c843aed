//! What this crate counts.

use metrics::{describe_counter, describe_gauge};

/// 1 while the view of the cluster is current.
pub(crate) const LINK_UP: &str = "gantry_coordination_link_up";
/// How many nodes are announced.
pub(crate) const NODES: &str = "gantry_coordination_nodes";
/// How many ZooKeeper sessions this process has begun.
pub(crate) const SESSIONS: &str = "gantry_coordination_sessions_total";

/// Says what they mean, once a recorder is there.
pub(crate) fn describe() {
    describe_gauge!(LINK_UP, "1 while the view of the cluster is current");
    describe_gauge!(NODES, "Nodes that are announced, as this process sees them");
    describe_counter!(SESSIONS, "ZooKeeper sessions this process has begun");
}
