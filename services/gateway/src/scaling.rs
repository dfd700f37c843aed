//! How many nodes there should be.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use domain::QueueName;
use jiff::Timestamp;
use protocol::NodeState;
use protocol::http::{Node, QueueScaling, Scaling};
use store::{QueueLoad, RunningRow, StoreError};

use crate::gateway::Gateway;
use crate::nodes;

/// So far what waits is counted.
const WAITING_MAX: u32 = 100_000;
/// What an execution is taken to last if none of its queue has ended.
const RUN_DEFAULT: Duration = Duration::from_secs(1);
/// What one is taken to last at least: a builtin ends with its claim, in no time by the row, but a node is busy with it.
const RUN_MIN: Duration = Duration::from_millis(10);

/// For each queue that a model names or a node serves: how much there is to do, and with how many nodes it would be done.
pub(crate) async fn scaling(gateway: &Gateway) -> Result<Scaling, StoreError> {
    let record = &gateway.ports.record;
    let nodes: Vec<_> =
        nodes::list(gateway).await?.into_iter().filter(|n| n.state == NodeState::Up).collect();
    let versions = record.list_versions(&gateway.tenant, None).await?;
    let running = record.list_running(None).await?;
    let queues: BTreeSet<QueueName> = versions
        .into_iter()
        .map(|version| version.manifest.queue)
        .chain(nodes.iter().flat_map(|node| node.info.queues.clone()))
        .collect();
    let queues: Vec<_> = queues.into_iter().collect();
    let loads = record.queue_loads(&queues, WAITING_MAX).await?;
    let means: BTreeMap<_, _> = loads.iter().map(|load| (&load.queue, mean_run(load))).collect();
    let left = |node: &Node| work_left(node, &running, &means, Timestamp::now());
    let target = gateway.config.scaling_target_seconds;
    let scaled = loads
        .iter()
        .map(|load| (load.queue.to_string(), of_queue(load, &nodes, &running, f64::from(target), left)));
    Ok(Scaling { queues: scaled.collect(), target_seconds: target })
}

fn mean_run(load: &QueueLoad) -> Duration {
    load.mean_run.unwrap_or(RUN_DEFAULT).max(RUN_MIN)
}

/// How many seconds a node still needs for what it runs, if everything takes as long as it does on average.
fn work_left(
    node: &Node,
    running: &[RunningRow],
    means: &BTreeMap<&QueueName, Duration>,
    now: Timestamp,
) -> f64 {
    let left = |row: &RunningRow| {
        let mean = means.get(&row.queue).copied().unwrap_or(RUN_DEFAULT);
        let gone: Duration = now.duration_since(row.claimed_at).try_into().unwrap_or_default();
        mean.saturating_sub(gone).as_secs_f64()
    };
    running.iter().filter(|row| row.node == node.info.id).map(left).sum()
}

fn of_queue(
    load: &QueueLoad,
    nodes: &[Node],
    running: &[RunningRow],
    target_seconds: f64,
    left: impl Fn(&Node) -> f64,
) -> QueueScaling {
    let serving: Vec<_> = nodes.iter().filter(|node| node.info.queues.contains(&load.queue)).collect();
    let slots: u32 = serving.iter().map(|node| node.info.slots).sum();
    let taken: u32 = serving.iter().map(|node| node.running.min(node.info.slots)).sum();
    let runs = running.iter().filter(|row| row.queue == load.queue).count();
    let mean = mean_run(load).as_secs_f64();
    let backlog = load.waiting as f64 * mean;
    // Without a node to go by, the others tell how large one is.
    let like = if serving.is_empty() { nodes.iter().collect() } else { serving.clone() };
    let each = like.iter().map(|node| f64::from(node.info.slots)).sum::<f64>() / (like.len().max(1) as f64);
    let needed = (runs as f64 + backlog / target_seconds) / each.max(1.0);
    let at_least = u32::from(load.waiting > 0 || runs > 0);
    let order = |a: &&&Node, b: &&&Node| {
        a.running
            .min(1)
            .cmp(&b.running.min(1))
            .then(left(a).total_cmp(&left(b)))
            .then(a.running.cmp(&b.running))
    };
    QueueScaling {
        waiting: load.waiting,
        running: runs as u64,
        backlog_seconds: backlog,
        oldest_wait_seconds: load.oldest.unwrap_or_default().as_secs_f64(),
        mean_run_seconds: mean,
        utilisation: if slots == 0 { 0.0 } else { f64::from(taken) / f64::from(slots) },
        nodes: u32::try_from(serving.len()).unwrap_or(u32::MAX),
        desired_nodes: (needed.ceil() as u32).max(at_least),
        remove_first: serving.iter().min_by(order).map(|node| node.info.id.name().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builtins_that_wait_are_work_although_each_takes_no_time() {
        let load = QueueLoad {
            queue: QueueName::default(),
            waiting: 50_000,
            oldest: None,
            mean_run: Some(Duration::ZERO),
        };
        let scaling = of_queue(&load, &[], &[], 60.0, |_| 0.0);
        assert_eq!((scaling.mean_run_seconds, scaling.backlog_seconds), (0.01, 500.0));
        assert_eq!(scaling.desired_nodes, 9);
    }
}
