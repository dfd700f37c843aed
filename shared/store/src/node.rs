use domain::NodeId;
use jiff::Timestamp;

/// The right to lead something until it runs out, as the record grants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leadership {
    /// Grows with each change of leader; required by everything the leader writes.
    pub fence: i64,
    /// Is it the one who asked?
    pub is_leader: bool,
    /// Who leads.
    pub holder: String,
}

/// A node came or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEvent {
    /// Which life of which node.
    pub node: NodeId,
    /// What happened.
    pub kind: NodeEventKind,
    /// When it was recorded.
    pub at: Timestamp,
}

/// What happened to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeEventKind {
    /// It announced itself.
    Up,
    /// It is gone.
    Down,
}

impl NodeEventKind {
    /// The name it has in the record.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}
