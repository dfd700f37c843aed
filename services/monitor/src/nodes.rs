//! Who came, who went and what else became of nodes, as events in the record.

use std::collections::BTreeMap;
use std::time::Duration;

use bootstrap::{Ports, Shutdown, chain};
use coordination::Link;
use domain::NodeId;
use protocol::{NodeInfo, NodeState};
use store::{NodeEventKind, NodeSeen, StoreError};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::metrics;
use crate::sweeps::Sweeps;

/// How long a failed write waits; also how often the view is compared if nothing wakes us.
const AGAIN: Duration = Duration::from_secs(5);
/// A node may join, drain and be resized between two looks.
const EVENTS_AT_ONCE: usize = 3;
/// From the moment when two renewals are missed to the sweep that takes what was lost.
const SLACK: Duration = Duration::from_millis(100);

/// Records what changes until the drain, and has the executions of who went rescued. Several monitors record it once.
pub(crate) async fn run(ports: Ports, sweeps: Sweeps, missed: Duration, shutdown: Shutdown) {
    let (mut nodes, mut link) = (ports.coordination.nodes(), ports.coordination.link());
    // What is recorded of those that are there; not known until it was read.
    let mut recorded: Option<BTreeMap<NodeId, NodeInfo>> = None;
    let mut is_failing = false;
    let mut rescue_at = None;
    loop {
        let is_current = *link.borrow_and_update() == Link::Up;
        let present: BTreeMap<_, _> =
            nodes.borrow_and_update().iter().map(|node| (node.id.clone(), node.clone())).collect();
        if is_current {
            if has_lost(recorded.as_ref(), &present) {
                // At once, if its renewals were missed before it was seen to be gone; else when they will have been.
                sweeps.rescue();
                rescue_at = Some(Instant::now() + missed + SLACK);
            }
            match record(&ports, &present, &mut recorded).await {
                Ok(()) => is_failing = false,
                Err(error) => {
                    if !is_failing {
                        warn!(error = %chain(&error), "events of nodes wait for the record");
                    }
                    is_failing = true;
                }
            }
            count(&present);
        }
        // The coordination outlives its views, but if it should not, there is the clock.
        tokio::select! {
            () = shutdown.draining() => return,
            Ok(()) = nodes.changed(), if !is_failing => {}
            Ok(()) = link.changed(), if !is_failing => {}
            () = sleep_until(rescue_at.unwrap_or_else(Instant::now)), if rescue_at.is_some() => {
                rescue_at = None;
                sweeps.rescue();
            }
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

fn has_lost(recorded: Option<&BTreeMap<NodeId, NodeInfo>>, present: &BTreeMap<NodeId, NodeInfo>) -> bool {
    recorded.is_some_and(|recorded| recorded.keys().any(|node| !present.contains_key(node)))
}

/// Writes the difference between what is there and what is recorded.
async fn record(
    ports: &Ports,
    present: &BTreeMap<NodeId, NodeInfo>,
    recorded: &mut Option<BTreeMap<NodeId, NodeInfo>>,
) -> Result<(), StoreError> {
    let known = match recorded {
        Some(known) => known,
        None => recorded.insert(read_back(ports).await?),
    };
    let gone: Vec<_> = known.values().filter(|info| !present.contains_key(&info.id)).cloned().collect();
    for info in gone {
        note(ports, &info, NodeSeen::Gone).await?;
        known.remove(&info.id);
    }
    let is_new = |info: &&NodeInfo| known.get(&info.id) != Some(*info);
    let changed: Vec<_> = present.values().filter(is_new).cloned().collect();
    for info in changed {
        note(ports, &info, NodeSeen::Present).await?;
        known.insert(info.id.clone(), info);
    }
    Ok(())
}

async fn note(ports: &Ports, info: &NodeInfo, seen: NodeSeen) -> Result<(), StoreError> {
    for _ in 0..EVENTS_AT_ONCE {
        let Some(kind) = ports.record.note_node(info, seen).await? else { return Ok(()) };
        metrics::node_event(kind);
        match kind {
            NodeEventKind::Lost => warn!(node = %info.id, "a node is lost"),
            NodeEventKind::Joined
            | NodeEventKind::Draining
            | NodeEventKind::Back
            | NodeEventKind::Resized
            | NodeEventKind::Left => {
                info!(node = %info.id, kind = kind.label(), slots = info.slots, "a node changed");
            }
        }
    }
    Ok(())
}

/// Those that are recorded as there: who went while no monitor looked is among them.
async fn read_back(ports: &Ports) -> Result<BTreeMap<NodeId, NodeInfo>, StoreError> {
    let lives = ports.record.list_node_lives(Duration::ZERO).await?;
    let there = lives.into_iter().filter(|life| life.state.is_present());
    Ok(there.map(|life| (life.info.id.clone(), life.info)).collect())
}

fn count(present: &BTreeMap<NodeId, NodeInfo>) {
    let draining = present.values().filter(|info| info.draining).count();
    metrics::nodes(NodeState::Up, present.len() - draining);
    metrics::nodes(NodeState::Draining, draining);
}
