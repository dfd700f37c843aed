use domain::{NodeId, QueueName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a node says of itself where all can see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Which life of which node.
    pub id: NodeId,
    /// Name or address of its machine.
    pub address: String,
    /// The worker's process id on that machine.
    pub pid: u32,
    /// The version of Gantry it runs.
    pub version: String,
    /// How many executions it runs at once at most.
    pub slots: u32,
    /// The queues it serves.
    pub queues: Vec<QueueName>,
    /// It takes no new work.
    pub draining: bool,
    /// When this life began, by the node's clock.
    pub since: Timestamp,
}
