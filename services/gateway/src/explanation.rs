//! Why an execution is where it is.

use std::sync::Arc;

use coordination::{Contended, Contender, Queue};
use domain::{Manifest, NodeName, Payload, State, VersionSelector};
use jiff::Timestamp;
use protocol::http::{Contending, Execution, Explanation, Node, Reason, ReasonCode};
use protocol::{BundleState, NodeState};
use store::{StoreError, VersionRow};

use crate::gateway::Gateway;
use crate::nodes;
use crate::problem::Refusal;

/// Everything that keeps `execution`, what must come first first.
pub(crate) async fn explain(gateway: &Gateway, execution: &Execution) -> Result<Explanation, Refusal> {
    let mut reasons = Vec::new();
    if execution.cancel_requested && !execution.state.is_terminal() {
        reasons.push(reason(ReasonCode::CancelRequested, "somebody asked to take it back", None));
    }
    match execution.state {
        State::Queued => reasons.extend(queued(gateway, execution).await?),
        State::Delayed => reasons.extend(delayed(gateway, execution).await?),
        State::Running => reasons.extend(running(gateway, execution).await?),
        State::Succeeded
        | State::Failed
        | State::TimedOut
        | State::Cancelled
        | State::Expired
        | State::Dead => {
            let text = match &execution.error {
                Some(error) => format!("it is {}: {error}", execution.state),
                None => format!("it is {}", execution.state),
            };
            reasons.push(reason(ReasonCode::Ended, text, execution.finished_at));
        }
    }
    Ok(Explanation { execute_id: execution.execute_id, state: execution.state, reasons })
}

fn reason(code: ReasonCode, text: impl Into<String>, since: Option<Timestamp>) -> Reason {
    Reason { code, text: text.into(), since, ahead: None, name: None, holders: Vec::new() }
}

async fn queued(gateway: &Gateway, execution: &Execution) -> Result<Vec<Reason>, StoreError> {
    let queue = &execution.queue;
    let Some(turn) = gateway.ports.record.find_turn(execution.execute_id).await? else {
        return Ok(vec![reason(ReasonCode::Unknown, "it has just gone on; ask again", None)]);
    };
    let mut reasons = Vec::new();
    match turn.dispatched_at {
        None => {
            let text = match gateway.ports.broker.is_ready() {
                true => {
                    format!("its message is not known to be in queue {queue} yet; a monitor publishes it")
                }
                false => "the broker is away; its message is published when it is back".to_owned(),
            };
            reasons.push(reason(ReasonCode::NotDispatched, text, Some(execution.accepted_at)));
        }
        Some(at) => {
            let text = match turn.ahead {
                0 => format!("it is the next one in queue {queue}"),
                1 => format!("1 is before it in queue {queue}"),
                ahead => format!("{ahead} are before it in queue {queue}"),
            };
            let queued = reason(ReasonCode::Queued, text, Some(at));
            reasons.push(Reason { ahead: Some(turn.ahead), ..queued });
        }
    }
    reasons.extend(no_slot(gateway, queue).await?);
    Ok(reasons)
}

/// What is wrong with the nodes that serve a queue.
async fn no_slot(gateway: &Gateway, queue: &str) -> Result<Option<Reason>, StoreError> {
    let all = nodes::list(gateway).await?;
    let serves = |node: &&Node| node.info.queues.iter().any(|served| served.as_str() == queue);
    let serving: Vec<_> = all.iter().filter(|node| node.state == NodeState::Up).filter(serves).collect();
    if serving.is_empty() {
        let draining = all.iter().filter(|node| node.state == NodeState::Draining).filter(serves).count();
        let text = match draining {
            0 => format!("no node serves queue {queue}"),
            1 => format!("the one node that serves queue {queue} is draining"),
            count => format!("all {count} nodes that serve queue {queue} are draining"),
        };
        return Ok(Some(reason(ReasonCode::NoNode, text, None)));
    }
    let slots: u32 = serving.iter().map(|node| node.info.slots).sum();
    let is_full = serving.iter().all(|node| node.running >= node.info.slots);
    let text = || match &serving[..] {
        [node] => format!("all {slots} slots of node {} are taken", node.info.id.name()),
        nodes => format!("all {slots} slots of the {} nodes that serve queue {queue} are taken", nodes.len()),
    };
    Ok(is_full.then(|| reason(ReasonCode::SlotsFull, text(), None)))
}

async fn delayed(gateway: &Gateway, execution: &Execution) -> Result<Vec<Reason>, StoreError> {
    let since = execution.timeline.last().map(|event| event.at);
    let due = execution.not_before.filter(|due| *due > Timestamp::now());
    if let Some(due) = due {
        let why = match execution.timeline.last().map(|event| event.event.as_str()) {
            Some("retried") => "its last attempt failed; the next one",
            Some("gave_up") => "Gantry itself failed; the next attempt",
            Some("rescued") => "its node was lost; the next attempt",
            Some("yielded") => "it was given back; the next attempt",
            _ => "it",
        };
        return Ok(vec![reason(ReasonCode::Delayed, format!("{why} is not due before {due}"), since)]);
    }
    let text = "it is due; a monitor publishes its message";
    let mut reasons = vec![reason(ReasonCode::NotDispatched, text, execution.not_before)];
    reasons.extend(no_slot(gateway, &execution.queue).await?);
    Ok(reasons)
}

async fn running(gateway: &Gateway, execution: &Execution) -> Result<Vec<Reason>, Refusal> {
    let mut reasons = waiting(gateway, execution).await?;
    let version = version(gateway, execution).await?;
    let node: Option<NodeName> = execution
        .node
        .as_deref()
        .and_then(|node| node.parse::<domain::NodeId>().ok())
        .map(|node| node.name().clone());
    if let (Some(version), Some(node)) = (version, &node) {
        let bundles = gateway.ports.coordination.bundles().borrow().clone();
        let here = bundles.iter().find(|notice| notice.digest == version.digest && notice.node == *node);
        let text = match here.map(|notice| &notice.state) {
            Some(BundleState::Fetching { bytes, bytes_total }) => {
                Some(format!("its bundle is on its way to node {node}: {bytes} of {bytes_total} bytes"))
            }
            Some(BundleState::Failed { message }) => {
                Some(format!("its bundle did not come to node {node} yet: {message}"))
            }
            Some(BundleState::Ready { .. }) | None => None,
        };
        reasons.extend(text.map(|text| reason(ReasonCode::Fetching, text, execution.claimed_at)));
    }
    if reasons.is_empty() {
        let node = node.as_ref().map_or("an unknown node", |node| node.as_str());
        let text = format!("attempt {} runs on node {node}", execution.attempt);
        reasons.push(reason(ReasonCode::Executing, text, execution.claimed_at));
    }
    Ok(reasons)
}

/// The lock and the limits that a running execution still waits for.
pub(crate) async fn waiting(gateway: &Gateway, execution: &Execution) -> Result<Vec<Reason>, Refusal> {
    let Some(version) = version(gateway, execution).await? else { return Ok(Vec::new()) };
    let manifest = &version.manifest;
    if manifest.exclusive.is_none() && manifest.max_running.is_none() && manifest.named_limits.is_empty() {
        return Ok(Vec::new());
    }
    let input = gateway.ports.record.find_input(&gateway.tenant, execution.execute_id).await?;
    let Some(input) = input else { return Ok(Vec::new()) };
    let mut reasons = Vec::new();
    for contended in contended(manifest, execution, &input) {
        match gateway.ports.coordination.queue(&gateway.tenant, &contended).await {
            Ok(queue) => reasons.extend(waits(&contended, &queue, execution)),
            Err(error) => {
                tracing::debug!(error = bootstrap::chain(&error), "cannot read who waits");
                let text = "the coordination is away: whether it waits for its lock or a limit is not known";
                return Ok(vec![reason(ReasonCode::Unknown, text, None)]);
            }
        }
    }
    Ok(reasons)
}

/// What the model's manifest makes of the input; a template that does not fit is the worker's to complain of.
fn contended(manifest: &Manifest, execution: &Execution, input: &Payload) -> Vec<Contended> {
    let lock = manifest.lock_key(input).ok().flatten().map(Contended::Lock);
    let limits = manifest.limits_of(&execution.model, input).unwrap_or_default();
    let limits = limits.into_iter().map(|(name, max)| Contended::Limit { name, max });
    lock.into_iter().chain(limits).collect()
}

fn waits(contended: &Contended, queue: &Queue, execution: &Execution) -> Option<Reason> {
    let is_it = |other: &Option<Contender>| {
        other.as_ref().is_some_and(|other| other.execute_id == execution.execute_id)
    };
    let ahead = queue.waiters.iter().position(is_it)?;
    let since = queue.waiters[ahead].as_ref().map(|own| own.since);
    let (code, what, name) = match contended {
        Contended::Lock(key) => (ReasonCode::WaitingLock, "lock", key.to_string()),
        Contended::Limit { name, .. } => (ReasonCode::WaitingLimit, "limit", name.to_string()),
    };
    let holders: Vec<_> = queue.holders.iter().map(contending).collect();
    let who = holders.iter().map(|holder| match (&holder.execute_id, &holder.node) {
        (Some(id), Some(node)) => format!("execution {id} on node {node}"),
        _ => "a client that is not Gantry's".to_owned(),
    });
    let who: Vec<_> = who.take(3).collect();
    let more = holders.len().saturating_sub(who.len());
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let turn = match ahead {
        0 => "it is the next one".to_owned(),
        1 => "1 waits before it".to_owned(),
        more => format!("{more} wait before it"),
    };
    let text = match who.is_empty() {
        true => format!("it waits for {what} {name}, which nobody has now; {turn}"),
        false => format!("it waits for {what} {name}, held by {}{more}; {turn}", who.join(", ")),
    };
    let reason = reason(code, text, since);
    Some(Reason { ahead: Some(ahead as u64), name: Some(name), holders, ..reason })
}

/// Who it is, for the API.
pub(crate) fn contending(contender: &Option<Contender>) -> Contending {
    Contending {
        execute_id: contender.as_ref().map(|contender| contender.execute_id),
        node: contender.as_ref().map(|contender| contender.node.name().to_string()),
        since: contender.as_ref().map(|contender| contender.since),
    }
}

async fn version(gateway: &Gateway, execution: &Execution) -> Result<Option<Arc<VersionRow>>, Refusal> {
    let Some(number) = execution.version else { return Ok(None) };
    let selector = VersionSelector::Number(number);
    Ok(gateway.versions.find(&gateway.tenant, &execution.model, &selector).await?)
}
