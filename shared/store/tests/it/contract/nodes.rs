use std::time::Duration;

use domain::NodeId;
use futures::future::join_all;
use protocol::NodeInfo;
use store::{Leadership, NodeEventKind};

use super::{Env, claim_of, claimed, node, succeeded};

const LEASE: Duration = Duration::from_secs(10);

fn info(id: NodeId, slots: u32) -> NodeInfo {
    NodeInfo {
        labels: std::collections::BTreeMap::new(),
        id,
        address: "10.0.0.1".to_owned(),
        pid: 42,
        version: "0.1.0".to_owned(),
        slots,
        queues: vec!["default".parse().unwrap(), "slow".parse().unwrap()],
        draining: false,
        since: "2026-11-22T10:00:00Z".parse().unwrap(),
    }
}

async fn leading(env: &Env, holder: &str) -> (bool, i64, String) {
    let Leadership { fence, is_leader, holder } = env.record.lead("upkeep", holder, LEASE).await.unwrap();
    (is_leader, fence, holder)
}

pub async fn an_announcement_runs_out_unless_it_is_renewed(env: Env) {
    let (one, two) = (info(node("one"), 4), info(node("two"), 8));
    env.record.announce_node(&two, LEASE).await.unwrap();
    env.record.announce_node(&one, LEASE).await.unwrap();
    assert_eq!(env.record.list_nodes().await.unwrap(), [one.clone(), two.clone()]);
    env.pass(Duration::from_secs(6)).await;
    let draining = NodeInfo { draining: true, ..two };
    env.record.announce_node(&draining, LEASE).await.unwrap();
    env.pass(Duration::from_secs(6)).await;
    assert_eq!(env.record.list_nodes().await.unwrap(), std::slice::from_ref(&draining));
    env.record.withdraw_node(&draining.id).await.unwrap();
    env.record.withdraw_node(&draining.id).await.unwrap();
    assert_eq!(env.record.list_nodes().await.unwrap(), []);
}

pub async fn a_restarted_node_is_another_one(env: Env) {
    let before = info(NodeId::new("one".parse().unwrap(), 1, 1), 4);
    let after = info(NodeId::new("one".parse().unwrap(), 2, 2), 4);
    env.record.announce_node(&before, LEASE).await.unwrap();
    env.record.announce_node(&after, LEASE).await.unwrap();
    env.record.withdraw_node(&before.id).await.unwrap();
    assert_eq!(env.record.list_nodes().await.unwrap(), [after]);
}

pub async fn one_holder_leads_at_a_time_and_each_change_raises_the_fence(env: Env) {
    let answers = join_all(["a", "b", "c", "d"].map(|holder| leading(&env, holder))).await;
    let leader = answers[0].2.clone();
    assert_eq!(answers.iter().filter(|(leads, ..)| *leads).count(), 1);
    assert!(
        answers.iter().all(|(_, fence, holder)| (*fence, holder) == (answers[0].1, &leader)),
        "{answers:?}"
    );

    let fence = answers[0].1;
    env.pass(LEASE - Duration::from_secs(2)).await;
    assert_eq!(leading(&env, &leader).await, (true, fence, leader.clone()));
    env.pass(LEASE - Duration::from_secs(2)).await;
    assert_eq!(leading(&env, "z").await, (false, fence, leader.clone()));
    env.pass(Duration::from_secs(3)).await;
    let (leads, next, holder) = leading(&env, "z").await;
    assert!(leads && next > fence && holder == "z");
    assert_eq!(leading(&env, &leader).await, (false, next, "z".to_owned()));
    let other = env.record.lead("something else", &leader, LEASE).await.unwrap();
    assert!(other.is_leader);
}

pub async fn upkeep_is_refused_to_a_stale_fence(env: Env) {
    let (_, fence, _) = leading(&env, "a").await;
    assert!(env.record.upkeep(fence, 3).await.unwrap());
    assert!(env.record.upkeep(fence, 3).await.unwrap(), "repeating it is harmless");
    // ZooKeeper's leader brings a fence of its own.
    assert!(env.record.take_upkeep_fence(fence + 10).await.unwrap());
    assert!(env.record.take_upkeep_fence(fence + 10).await.unwrap());
    assert!(!env.record.take_upkeep_fence(fence + 9).await.unwrap());
    assert!(!env.record.upkeep(fence, 3).await.unwrap());
    assert!(env.record.upkeep(fence + 10, 3).await.unwrap());
    env.pass(LEASE + Duration::from_secs(1)).await;
    let (leads, next, _) = leading(&env, "b").await;
    assert!(leads && next > fence + 10, "the next leader's fence is above all that were taken");
    assert!(!env.record.upkeep(fence + 10, 3).await.unwrap());
}

pub async fn a_node_event_is_recorded_when_something_changed(env: Env) {
    let (one, two) = (node("one"), node("two"));
    for (node, kind, is_new) in [
        (&one, NodeEventKind::Up, true),
        (&one, NodeEventKind::Up, false),
        (&two, NodeEventKind::Up, true),
        (&one, NodeEventKind::Down, true),
        (&one, NodeEventKind::Down, false),
        (&two, NodeEventKind::Up, false),
        (&one, NodeEventKind::Up, true),
    ] {
        assert_eq!(env.record.record_node_event(node, kind).await.unwrap(), is_new, "{node} {kind:?}");
    }
    let events = env.record.list_node_events(3).await.unwrap();
    let events: Vec<_> = events.into_iter().map(|event| (event.node, event.kind)).collect();
    let (up, down) = (NodeEventKind::Up, NodeEventKind::Down);
    assert_eq!(events, [(one.clone(), up), (one.clone(), down), (two.clone(), up)]);
    let monitors = (0..8).map(|_| env.record.record_node_event(&two, NodeEventKind::Down));
    let recorded = join_all(monitors).await;
    assert_eq!(recorded.into_iter().filter(|new| *new.as_ref().unwrap()).count(), 1);
}

pub async fn the_running_are_counted_by_node(env: Env) {
    for (n, name) in [(0, "one"), (1, "two"), (2, "two")] {
        let new = env.recorded().await;
        let mut request = claim_of(&new);
        request.node = node(name);
        let claim = claimed(env.claim(&request).await);
        if n == 2 {
            env.settle(&new, &claim, succeeded("done")).await;
        }
    }
    let mut counted = env.record.count_running().await.unwrap();
    counted.sort();
    assert_eq!(counted, [(node("one"), 1), (node("two"), 1)]);
}
