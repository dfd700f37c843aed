use std::time::Duration;

use domain::{ExecuteId, ModelName, NodeId, QueueName};
use jiff::Timestamp;
use protocol::{NodeInfo, NodeState};

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

/// Something happened to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEvent {
    /// Its number: later ones are higher.
    pub event_id: i64,
    /// Which life of which node.
    pub node: NodeId,
    /// What happened.
    pub kind: NodeEventKind,
    /// When it was recorded.
    pub at: Timestamp,
    /// How many slots it had then.
    pub slots: u32,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $label:literal,)*) => {
        /// What happened to a node.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum NodeEventKind {
            $($(#[$doc])* $kind,)*
        }

        impl NodeEventKind {
            /// The name it has in the record.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$kind => $label,)* }
            }

            pub(crate) fn of(label: &str) -> Option<Self> {
                match label { $($label => Some(Self::$kind),)* _ => None }
            }
        }
    };
}

kinds! {
    /// It announced itself.
    Joined = "joined",
    /// It takes no new work.
    Draining = "draining",
    /// It takes work again, or is there again after it was lost.
    Back = "back",
    /// It has another number of slots.
    Resized = "resized",
    /// It went by itself.
    Left = "left",
    /// It is gone and had not said so before.
    Lost = "lost",
}

/// How a node was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeSeen {
    /// It is announced.
    Present,
    /// It is no longer announced.
    Gone,
    /// It says itself that it goes.
    Leaving,
}

/// A life of a node as it was last recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLife {
    /// What it said of itself.
    pub info: NodeInfo,
    /// What it was doing.
    pub state: NodeState,
    /// Since when.
    pub changed_at: Timestamp,
}

/// An execution that a node runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningRow {
    /// Which execution.
    pub execute_id: ExecuteId,
    /// Which attempt at it.
    pub attempt: i32,
    /// What it runs.
    pub model: ModelName,
    /// The queue it came by.
    pub queue: QueueName,
    /// The node that holds its lease.
    pub node: NodeId,
    /// Since when.
    pub claimed_at: Timestamp,
}

/// What waits in a queue, and how long its executions take.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueLoad {
    /// Which queue.
    pub queue: QueueName,
    /// How many wait: queued, or delayed and due. Counted up to the limit that was asked for.
    pub waiting: u64,
    /// How long ago the one that has waited longest was accepted.
    pub oldest: Option<Duration>,
    /// How long those that were started last and have ended took, on average; `None` if none have.
    pub mean_run: Option<Duration>,
}

/// What an execution that waits for its turn waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Since when its message is in the queue; `None`: nobody is known to have published it.
    pub dispatched_at: Option<Timestamp>,
    /// How many were dispatched to its queue before it and still wait, counted up to [`Turn::AHEAD_MAX`].
    pub ahead: u64,
}

impl Turn {
    /// So far it is counted.
    pub const AHEAD_MAX: u32 = 10_000;
}

/// What was last known of a life.
pub(crate) struct LastKnown {
    pub state: NodeState,
    pub slots: u32,
}

/// The event that follows when a life is seen so, and what it is doing after; `None` if nothing is new.
///
/// A life that left never comes back: whoever sees it has an old view.
pub(crate) fn follows(
    last: Option<&LastKnown>,
    info: &NodeInfo,
    seen: NodeSeen,
) -> Option<(NodeEventKind, NodeState)> {
    use NodeEventKind as Kind;
    use NodeState as State;
    match (last.map(|last| last.state), seen) {
        (None, NodeSeen::Present) => Some((Kind::Joined, State::Up)),
        (Some(State::Lost), NodeSeen::Present) => Some((Kind::Back, State::Up)),
        (Some(State::Up), NodeSeen::Present) if info.draining => Some((Kind::Draining, State::Draining)),
        (Some(State::Draining), NodeSeen::Present) if !info.draining => Some((Kind::Back, State::Up)),
        (Some(state @ (State::Up | State::Draining)), NodeSeen::Present) => {
            let is_resized = last.is_some_and(|last| last.slots != info.slots);
            is_resized.then_some((Kind::Resized, state))
        }
        (Some(State::Up), NodeSeen::Gone) => Some((Kind::Lost, State::Lost)),
        (Some(State::Draining), NodeSeen::Gone) => Some((Kind::Left, State::Left)),
        (None | Some(State::Up | State::Draining | State::Lost), NodeSeen::Leaving) => {
            Some((Kind::Left, State::Left))
        }
        (None | Some(State::Lost), NodeSeen::Gone) | (Some(State::Left), _) => None,
    }
}

/// Is the event one that an operator is to be told of: a node was lost, or one that was lost is back?
pub(crate) const fn is_alarm(kind: NodeEventKind, last_of_name: Option<NodeEventKind>) -> bool {
    match kind {
        NodeEventKind::Lost => true,
        NodeEventKind::Joined | NodeEventKind::Back => matches!(last_of_name, Some(NodeEventKind::Lost)),
        NodeEventKind::Draining | NodeEventKind::Resized | NodeEventKind::Left => false,
    }
}

pub(crate) fn state_of(label: &str) -> Option<NodeState> {
    NodeState::ALL.into_iter().find(|state| state.label() == label)
}
