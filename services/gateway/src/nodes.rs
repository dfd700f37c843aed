//! Which nodes there are, by what is seen now and by what is recorded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coordination::Link;
use domain::NodeName;
use jiff::Timestamp;
use protocol::{NodeInfo, NodeSettings, NodeState, ProblemCode, http};
use store::{NodeLife, StoreError};
use tokio::time::timeout;

use crate::gateway::Gateway;
use crate::problem::Refusal;

/// For how long a node that is gone is listed.
const GONE_FOR: Duration = Duration::from_secs(86_400);
/// How long a change waits to be seen by this gateway, so that the next one builds on it.
const SEEN_MAX: Duration = Duration::from_secs(5);

/// Is the view of the cluster current?
pub(crate) fn is_current(gateway: &Gateway) -> bool {
    *gateway.ports.coordination.link().borrow() == Link::Up
}

/// The nodes that are there, and those that went or were lost lately, by name.
pub(crate) async fn list(gateway: &Gateway) -> Result<Vec<http::Node>, StoreError> {
    let lives = gateway.ports.record.list_node_lives(GONE_FOR).await?;
    let running = gateway.ports.record.count_running().await?;
    let present = gateway.nodes.borrow().clone();
    let settings = gateway.settings.borrow().clone();
    let known = merge(&present, lives, is_current(gateway), Timestamp::now());
    let node = |(info, state, last_seen): (NodeInfo, NodeState, Timestamp)| {
        let running = running.iter().find(|(id, _)| *id == info.id).map_or(0, |(_, count)| *count);
        let settings = settings.get(info.id.name()).cloned().unwrap_or_default();
        http::Node { info, state, running, last_seen, settings }
    };
    Ok(known.into_iter().map(node).collect())
}

/// One life of each name: the one that is there, else the last one. Who is recorded as there and is not seen is gone,
/// whether or not a monitor has noted it yet.
fn merge(
    present: &[NodeInfo],
    lives: Vec<NodeLife>,
    is_current: bool,
    now: Timestamp,
) -> Vec<(NodeInfo, NodeState, Timestamp)> {
    let mut known = BTreeMap::new();
    for info in present {
        let state = if info.draining { NodeState::Draining } else { NodeState::Up };
        let noted = lives.iter().find(|life| life.info.id == info.id).map(|life| life.changed_at);
        let last_seen = if is_current { now } else { noted.unwrap_or(info.since) };
        known.insert(info.id.name().clone(), (info.clone(), state, last_seen));
    }
    for life in lives {
        let name = life.info.id.name().clone();
        let state = match life.state {
            NodeState::Up if is_current => NodeState::Lost,
            NodeState::Draining if is_current => NodeState::Left,
            state @ (NodeState::Up | NodeState::Draining | NodeState::Left | NodeState::Lost) => state,
        };
        match known.get(&name) {
            Some((_, other, _)) if other.is_present() => {}
            Some((_, _, seen)) if *seen >= life.changed_at => {}
            Some(_) | None => drop(known.insert(name, (life.info, state, life.changed_at))),
        }
    }
    known.into_values().collect()
}

/// The node of this name.
pub(crate) async fn get(gateway: &Gateway, name: &NodeName) -> Result<http::Node, Refusal> {
    let found = list(gateway).await?.into_iter().find(|node| node.info.id.name() == name);
    found.ok_or_else(|| {
        let detail = format!("no node {name} is there, or was in the last 24 hours; /v1/nodes lists them");
        Refusal::new(ProblemCode::NodeNotFound, detail)
    })
}

/// Changes what is asked of a node, one change at a time, and waits until this gateway sees it.
pub(crate) async fn change(
    gateway: &Gateway,
    name: &NodeName,
    wish: impl FnOnce(&mut NodeSettings),
) -> Result<http::Node, Refusal> {
    let _one_at_a_time = gateway.changing_nodes.lock().await;
    let mut node = get(gateway, name).await?;
    let before = node.settings.clone();
    wish(&mut node.settings);
    if node.settings == before {
        return Ok(node);
    }
    let wanted = node.settings.clone();
    gateway.ports.coordination.set_node(name, &wanted).await.map_err(|error| {
        tracing::warn!(node = %name, error = bootstrap::chain(&error), "a node's settings are not changed");
        let detail = "the coordination is away: whether the node was told is not known; try again";
        Refusal::new(ProblemCode::Unavailable, detail)
    })?;
    tracing::info!(node = %name, ?wanted, "a node's settings were changed");
    let mut settings = gateway.settings.clone();
    let is_seen = |settings: &Arc<BTreeMap<NodeName, NodeSettings>>| {
        settings.get(name).cloned().unwrap_or_default() == wanted
    };
    drop(timeout(SEEN_MAX, settings.wait_for(is_seen)).await);
    Ok(node)
}

#[cfg(test)]
mod tests {
    use domain::NodeId;

    use super::*;

    fn info(name: &str, boot: u64, draining: bool) -> NodeInfo {
        NodeInfo {
            id: NodeId::new(name.parse().unwrap(), boot, 0),
            address: String::new(),
            pid: 1,
            version: String::new(),
            slots: 1,
            queues: Vec::new(),
            labels: BTreeMap::new(),
            draining,
            since: at(0),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_node_is_lost_as_soon_as_it_is_not_seen_and_its_last_life_counts() {
        let life = |name, boot, state, second| NodeLife {
            info: info(name, boot, false),
            state,
            changed_at: at(second),
        };
        let lives = vec![
            life("gone", 1, NodeState::Up, 5),
            life("drained", 1, NodeState::Draining, 5),
            life("back", 1, NodeState::Lost, 6),
            life("back", 2, NodeState::Up, 7),
            life("twice", 2, NodeState::Lost, 9),
            life("twice", 1, NodeState::Left, 8),
        ];
        let present = [info("back", 2, false), info("new", 1, true)];
        let states = |is_current| {
            let known = merge(&present, lives.clone(), is_current, at(10)).into_iter();
            known.map(|(info, state, _)| (info.id.name().to_string(), state)).collect::<Vec<_>>()
        };
        let name = |name: &str, state| (name.to_owned(), state);
        use NodeState::{Draining, Left, Lost, Up};
        assert_eq!(
            states(true),
            [
                name("back", Up),
                name("drained", Left),
                name("gone", Lost),
                name("new", Draining),
                name("twice", Lost)
            ]
        );
        // Who is blind believes what is recorded.
        assert_eq!(states(false)[1..3], [name("drained", Draining), name("gone", Up)]);
    }
}
