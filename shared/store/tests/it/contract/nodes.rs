use std::time::Duration;

use domain::{NodeId, QueueName};
use futures::future::join_all;
use protocol::{NodeInfo, NodeState};
use store::{Leadership, NodeEventKind, NodeSeen};

use super::{Env, claim_of, claimed, node, succeeded};

const LEASE: Duration = Duration::from_secs(10);
const KEEP: Duration = Duration::from_secs(86_400);

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
    assert!(env.record.upkeep(fence, 3, KEEP).await.unwrap());
    assert!(env.record.upkeep(fence, 3, KEEP).await.unwrap(), "repeating it is harmless");
    // ZooKeeper's leader brings a fence of its own.
    assert!(env.record.take_upkeep_fence(fence + 10).await.unwrap());
    assert!(env.record.take_upkeep_fence(fence + 10).await.unwrap());
    assert!(!env.record.take_upkeep_fence(fence + 9).await.unwrap());
    assert!(!env.record.upkeep(fence, 3, KEEP).await.unwrap());
    assert!(env.record.upkeep(fence + 10, 3, KEEP).await.unwrap());
    env.pass(LEASE + Duration::from_secs(1)).await;
    let (leads, next, _) = leading(&env, "b").await;
    assert!(leads && next > fence + 10, "the next leader's fence is above all that were taken");
    assert!(!env.record.upkeep(fence + 10, 3, KEEP).await.unwrap());
}

pub async fn what_happens_to_a_node_is_recorded_once_whoever_sees_it(env: Env) {
    use NodeEventKind::{Back, Draining, Joined, Left, Lost, Resized};
    use NodeSeen::{Gone, Leaving, Present};
    let note = async |info: &NodeInfo, seen| env.record.note_node(info, seen).await.unwrap();
    let one = info(node("one"), 4);
    let draining = NodeInfo { draining: true, ..one.clone() };
    let larger = NodeInfo { slots: 8, ..one.clone() };
    let next = info(NodeId::new("one".parse().unwrap(), 2, 2), 8);
    for (info, seen, kind) in [
        (&one, Gone, None),
        (&one, Present, Some(Joined)),
        (&one, Present, None),
        (&larger, Present, Some(Resized)),
        (&one, Present, Some(Resized)),
        (&draining, Present, Some(Draining)),
        (&draining, Present, None),
        (&one, Present, Some(Back)),
        (&one, Gone, Some(Lost)),
        (&one, Gone, None),
        (&one, Present, Some(Back)),
        (&draining, Present, Some(Draining)),
        (&draining, Gone, Some(Left)),
        // Whoever still sees it has an old view.
        (&one, Present, None),
        (&next, Present, Some(Joined)),
        (&next, Leaving, Some(Left)),
        (&next, Gone, None),
    ] {
        assert_eq!(note(info, seen).await, kind, "{} {seen:?}", info.id);
    }
    let two = info(node("two"), 1);
    let monitors = join_all((0..8).map(|_| env.record.note_node(&two, Present))).await;
    assert_eq!(monitors.into_iter().filter(|noted| noted.as_ref().unwrap().is_some()).count(), 1);

    let events = env.record.list_node_events(Some(&"one".parse().unwrap()), 3).await.unwrap();
    let events: Vec<_> = events.into_iter().map(|event| (event.node, event.kind, event.slots)).collect();
    assert_eq!(events, [(next.id.clone(), Left, 8), (next.id.clone(), Joined, 8), (one.id.clone(), Left, 4)]);
    assert_eq!(env.record.list_node_events(None, 100).await.unwrap()[0].node, two.id);
    let lives = async |within| {
        let lives = env.record.list_node_lives(Duration::from_secs(within)).await.unwrap();
        lives.into_iter().map(|life| (life.info.id, life.state)).collect::<Vec<_>>()
    };
    let gone = [(one.id.clone(), NodeState::Left), (next.id.clone(), NodeState::Left)];
    assert_eq!(lives(3_600).await, [&gone[..], &[(two.id.clone(), NodeState::Up)]].concat());
    env.pass(Duration::from_secs(3_700)).await;
    assert_eq!(lives(3_600).await, [(two.id, NodeState::Up)]);
}

pub async fn an_operator_is_to_be_told_of_losses_and_of_who_is_back_until_it_is_settled(env: Env) {
    let (one, two) = (info(node("one"), 4), info(node("two"), 4));
    let next = info(NodeId::new("one".parse().unwrap(), 2, 2), 4);
    for (info, seen) in [
        (&one, NodeSeen::Present),
        (&two, NodeSeen::Present),
        (&one, NodeSeen::Gone),
        (&two, NodeSeen::Leaving),
        (&next, NodeSeen::Present),
    ] {
        env.record.note_node(info, seen).await.unwrap();
    }
    let alarms = env.record.list_node_alarms(10).await.unwrap();
    let kinds: Vec<_> = alarms.iter().map(|event| (event.node.clone(), event.kind)).collect();
    assert_eq!(kinds, [(one.id, NodeEventKind::Lost), (next.id, NodeEventKind::Joined)]);
    env.record.settle_node_alarm(alarms[0].event_id).await.unwrap();
    env.record.settle_node_alarm(alarms[0].event_id).await.unwrap();
    assert_eq!(env.record.list_node_alarms(10).await.unwrap(), alarms[1..]);
}

pub async fn old_events_of_nodes_are_forgotten_and_who_is_there_is_not(env: Env) {
    let (one, two) = (info(node("one"), 4), info(node("two"), 4));
    for (info, seen) in [(&one, NodeSeen::Present), (&two, NodeSeen::Present), (&two, NodeSeen::Leaving)] {
        env.record.note_node(info, seen).await.unwrap();
    }
    let (_, fence, _) = leading(&env, "a").await;
    assert!(env.record.upkeep(fence, 3, KEEP).await.unwrap());
    assert_eq!(env.record.list_node_events(None, 10).await.unwrap().len(), 3);
    env.pass(KEEP + Duration::from_secs(1)).await;
    let (_, fence, _) = leading(&env, "a").await;
    assert!(env.record.upkeep(fence, 3, KEEP).await.unwrap());
    assert_eq!(env.record.list_node_events(None, 10).await.unwrap(), []);
    let lives = env.record.list_node_lives(KEEP * 2).await.unwrap();
    assert_eq!(lives.into_iter().map(|life| life.info).collect::<Vec<_>>(), [one]);
}

pub async fn what_waits_and_how_long_it_takes_is_known_by_queue(env: Env) {
    let (default, other): (QueueName, QueueName) = ("default".parse().unwrap(), "other".parse().unwrap());
    let queues = [default.clone(), other.clone()];
    let dispatched = env.recorded().await;
    env.record.mark_dispatched(&[dispatched.execute_id]).await.unwrap();
    let second = env.recorded().await;
    env.pass(Duration::from_secs(5)).await;
    env.record.mark_dispatched(&[second.execute_id]).await.unwrap();
    let undispatched = env.recorded().await;
    let loads = env.record.queue_loads(&queues, 100).await.unwrap();
    let load = loads.iter().find(|load| load.queue == default).unwrap();
    assert_eq!((load.waiting, load.mean_run), (3, None));
    assert!(load.oldest.unwrap() >= Duration::from_secs(5), "{load:?}");
    let none = loads.iter().find(|load| load.queue == other).unwrap();
    assert_eq!((none.waiting, none.oldest, none.mean_run), (0, None, None));

    let turn = async |id| env.record.find_turn(id).await.unwrap();
    assert_eq!(turn(dispatched.execute_id).await.unwrap().ahead, 0);
    assert_eq!(turn(second.execute_id).await.unwrap().ahead, 1);
    let waits = turn(undispatched.execute_id).await.unwrap();
    assert_eq!((waits.ahead, waits.dispatched_at), (0, None));

    let claim = claimed(env.claim(&claim_of(&dispatched)).await);
    assert_eq!(turn(dispatched.execute_id).await, None, "it runs");
    let running = env.record.list_running(None).await.unwrap();
    assert_eq!(
        (running[0].execute_id, running[0].attempt, &running[0].queue),
        (dispatched.execute_id, 1, &default)
    );
    assert_eq!(env.record.list_running(Some(&running[0].node)).await.unwrap(), running);
    assert_eq!(env.record.list_running(Some(&node("nobody"))).await.unwrap(), []);
    env.pass(Duration::from_secs(3)).await;
    env.settle(&dispatched, &claim, succeeded("done")).await;
    let loads = env.record.queue_loads(&queues[..1], 100).await.unwrap();
    assert!(loads[0].mean_run.unwrap() >= Duration::from_secs(3), "{loads:?}");
    assert_eq!(loads[0].waiting, 2);
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
