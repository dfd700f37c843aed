//! Who came and who went, as events in the record.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bootstrap::{Ports, Shutdown, chain};
use coordination::Link;
use domain::NodeId;
use store::{NodeEventKind, StoreError};
use tracing::{info, warn};

use crate::metrics;

/// How many events are read back to learn who was there before.
const EVENTS_READ: u32 = 1_000;
/// How long a failed write waits; also how often the view is compared if nothing wakes us.
const AGAIN: Duration = Duration::from_secs(5);

/// Records what changes until the drain. Several monitors record it once.
pub(crate) async fn run(ports: Ports, shutdown: Shutdown) {
    let (mut nodes, mut link) = (ports.coordination.nodes(), ports.coordination.link());
    // Those whose last event says that they are there; not known until it was read.
    let mut recorded: Option<BTreeSet<NodeId>> = None;
    let mut is_failing = false;
    loop {
        let is_current = *link.borrow_and_update() == Link::Up;
        let present: BTreeSet<_> = nodes.borrow_and_update().iter().map(|node| node.id.clone()).collect();
        if is_current {
            metrics::nodes(present.len());
            match record(&ports, &present, &mut recorded).await {
                Ok(()) => is_failing = false,
                Err(error) => {
                    if !is_failing {
                        warn!(error = %chain(&error), "events of nodes wait for the record");
                    }
                    is_failing = true;
                }
            }
        }
        // The coordination outlives its views, but if it should not, there is the clock.
        tokio::select! {
            () = shutdown.draining() => return,
            Ok(()) = nodes.changed(), if !is_failing => {}
            Ok(()) = link.changed(), if !is_failing => {}
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

/// Writes the difference between who is there and who is known to be.
async fn record(
    ports: &Ports,
    present: &BTreeSet<NodeId>,
    recorded: &mut Option<BTreeSet<NodeId>>,
) -> Result<(), StoreError> {
    let known = match recorded {
        Some(known) => known,
        None => recorded.insert(read_back(ports).await?),
    };
    let went: Vec<_> = known.difference(present).cloned().collect();
    let came: Vec<_> = present.difference(known).cloned().collect();
    for (node, kind) in went
        .into_iter()
        .map(|node| (node, NodeEventKind::Down))
        .chain(came.into_iter().map(|node| (node, NodeEventKind::Up)))
    {
        if ports.record.record_node_event(&node, kind).await? {
            metrics::node_event(kind);
            info!(%node, kind = kind.label(), "a node came or went");
        }
        match kind {
            NodeEventKind::Up => known.insert(node),
            NodeEventKind::Down => known.remove(&node),
        };
    }
    Ok(())
}

/// Those whose last event says that they are there: who went while no monitor looked is among them.
async fn read_back(ports: &Ports) -> Result<BTreeSet<NodeId>, StoreError> {
    let mut last = BTreeMap::new();
    for event in ports.record.list_node_events(EVENTS_READ).await? {
        last.entry(event.node).or_insert(event.kind);
    }
    Ok(last.into_iter().filter(|(_, kind)| *kind == NodeEventKind::Up).map(|(node, _)| node).collect())
}
