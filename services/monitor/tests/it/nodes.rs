use domain::NodeId;
use store::{NodeEvent, NodeEventKind};
use testkit::eventually;

use crate::env::{Env, LIMIT, config, info, node};

async fn events(env: &Env) -> Vec<(NodeId, NodeEventKind)> {
    let events = env.record.list_node_events(100).await.unwrap();
    events.into_iter().rev().map(|NodeEvent { node, kind, .. }| (node, kind)).collect()
}

async fn until(env: &Env, expected: &[(NodeId, NodeEventKind)]) {
    let what = format!("the events are {expected:?}");
    eventually(&what, LIMIT, async || events(env).await.len() >= expected.len()).await;
    assert_eq!(events(env).await, expected);
}

#[tokio::test]
async fn who_comes_and_goes_is_recorded_once_however_many_monitors_watch() {
    let mut env = Env::new().await;
    env.start(config());
    env.start(config());
    let up = (node("one"), NodeEventKind::Up);
    let membership = env.ports.coordination.join(info("one")).await.unwrap();
    until(&env, std::slice::from_ref(&up)).await;
    let other = env.ports.coordination.join(info("two")).await.unwrap();
    until(&env, &[up.clone(), (node("two"), NodeEventKind::Up)]).await;
    membership.leave().await;
    let all = [up, (node("two"), NodeEventKind::Up), (node("one"), NodeEventKind::Down)];
    until(&env, &all).await;
    other.leave().await;
    env.end().await;
}

#[tokio::test]
async fn who_went_while_no_monitor_looked_is_recorded_by_the_next() {
    let mut env = Env::new().await;
    env.record.record_node_event(&node("gone"), NodeEventKind::Up).await.unwrap();
    env.record.record_node_event(&node("long-gone"), NodeEventKind::Up).await.unwrap();
    env.record.record_node_event(&node("long-gone"), NodeEventKind::Down).await.unwrap();
    env.start(config());
    let event = |name, kind| (node(name), kind);
    until(
        &env,
        &[
            event("gone", NodeEventKind::Up),
            event("long-gone", NodeEventKind::Up),
            event("long-gone", NodeEventKind::Down),
            event("gone", NodeEventKind::Down),
        ],
    )
    .await;
    env.end().await;
}
