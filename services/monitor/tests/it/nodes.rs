use std::fs;

use domain::NodeId;
use protocol::NodeInfo;
use store::{NodeEvent, NodeEventKind, NodeSeen};
use testkit::{eventually, eventually_some};

use crate::env::{Env, HOUR, LIMIT, config, info, node};

use NodeEventKind::{Back, Draining, Joined, Left, Lost, Resized};

async fn events(env: &Env) -> Vec<(NodeId, NodeEventKind)> {
    let events = env.record.list_node_events(None, 100).await.unwrap();
    events.into_iter().rev().map(|NodeEvent { node, kind, .. }| (node, kind)).collect()
}

async fn until(env: &Env, expected: &[(&str, NodeEventKind)]) {
    let expected: Vec<_> = expected.iter().map(|(name, kind)| (node(name), *kind)).collect();
    let what = format!("the events are {expected:?}");
    eventually(&what, LIMIT, async || events(env).await.len() >= expected.len()).await;
    assert_eq!(events(env).await, expected);
}

#[tokio::test]
async fn what_becomes_of_nodes_is_recorded_once_however_many_monitors_watch() {
    let mut env = Env::new().await;
    env.start(config());
    env.start(config());
    let membership = env.ports.coordination.join(info("one")).await.unwrap();
    let mut expected = vec![("one", Joined)];
    until(&env, &expected).await;
    let other = env.ports.coordination.join(info("two")).await.unwrap();
    expected.push(("two", Joined));
    until(&env, &expected).await;
    for (change, kind) in [
        (NodeInfo { slots: 16, ..info("one") }, Resized),
        (NodeInfo { slots: 16, draining: true, ..info("one") }, Draining),
        (NodeInfo { slots: 16, ..info("one") }, Back),
        (NodeInfo { slots: 16, draining: true, ..info("one") }, Draining),
    ] {
        membership.update(change).await.unwrap();
        expected.push(("one", kind));
        until(&env, &expected).await;
    }
    membership.leave().await;
    expected.push(("one", Left));
    until(&env, &expected).await;
    // It says nothing before it goes.
    other.leave().await;
    expected.push(("two", Lost));
    until(&env, &expected).await;
    env.end().await;
}

#[tokio::test]
async fn who_went_while_no_monitor_looked_is_recorded_by_the_next() {
    let mut env = Env::new().await;
    for (name, seen) in
        [("gone", NodeSeen::Present), ("long-gone", NodeSeen::Present), ("long-gone", NodeSeen::Gone)]
    {
        env.record.note_node(&info(name), seen).await.unwrap();
    }
    env.start(config());
    until(&env, &[("gone", Joined), ("long-gone", Joined), ("long-gone", Lost), ("gone", Lost)]).await;
    env.end().await;
}

#[tokio::test]
async fn what_a_lost_node_ran_is_rescued_as_soon_as_two_renewals_were_missed() {
    let mut env = Env::new().await;
    // The sweeps by themselves look once an hour.
    env.start(monitor::Config { sweep_ms: 3_600_000, renew_ms: 200, ..config() });
    let membership = env.ports.coordination.join(info("one")).await.unwrap();
    until(&env, &[("one", Joined)]).await;
    let id = env.accepted().await;
    env.claim(id, &node("one"), HOUR).await;
    membership.leave().await;
    let row =
        eventually_some("it is rescued", LIMIT, async || env.find(id).await.filter(|row| row.failures == 1))
            .await;
    assert_eq!(row.timeline.last().unwrap().event, "rescued");
    env.end().await;
}

#[tokio::test]
async fn the_leader_calls_the_alarm_command_once_for_a_loss_and_once_for_the_return() {
    let mut env = Env::new().await;
    let directory = tempfile::tempdir().unwrap();
    let (said, failed) = (directory.path().join("said"), directory.path().join("failed"));
    // The first call fails: it is repeated.
    let script = format!(
        "if [ ! -e {1} ]; then touch {1}; exit 1; fi; cat >> {0}; echo >> {0}",
        said.display(),
        failed.display()
    );
    let alarm_command = vec!["sh".to_owned(), "-c".to_owned(), script];
    for _ in 0..3 {
        env.start(monitor::Config { alarm_command: alarm_command.clone(), ..config() });
    }
    let membership = env.ports.coordination.join(info("one")).await.unwrap();
    until(&env, &[("one", Joined)]).await;
    membership.leave().await;
    until(&env, &[("one", Joined), ("one", Lost)]).await;
    let _again = env.ports.coordination.join(info("one")).await.unwrap();
    until(&env, &[("one", Joined), ("one", Lost), ("one", Back)]).await;
    eventually("both are told and settled", LIMIT, async || {
        env.record.list_node_alarms(10).await.unwrap().is_empty()
    })
    .await;
    let said = fs::read_to_string(&said).unwrap();
    let events: Vec<serde_json::Value> =
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let events: Vec<_> = events
        .iter()
        .map(|alarm| (alarm["event"].as_str().unwrap(), alarm["node"].as_str().unwrap()))
        .collect();
    assert_eq!(events, [("node_lost", "one"), ("node_back", "one")]);
    env.end().await;
}
