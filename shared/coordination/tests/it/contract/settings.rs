//! What operators ask of nodes, and what nodes have of bundles.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coordination::{BundleNotice, Coordination};
use domain::Digest;
use protocol::{BundleState, Drain, DrainMode, NodeSettings};

use crate::env::{Env, LIMIT, OnPostgres, OnRecord, OnZooKeeper, is_up, see};

contract! {
    what_is_asked_of_a_node_is_seen_by_all_and_stays,
    a_node_is_asked_nothing_any_more,
    the_newest_settings_win_and_sameness_wakes_nobody,
    what_a_node_has_of_a_bundle_is_seen_until_it_is_withdrawn,
    a_process_that_closes_takes_what_it_said_of_bundles_with_it,
    of_fast_progress_the_newest_is_told,
    another_life_of_a_node_says_it_anew,
    many_bundles_of_many_nodes_are_all_seen,
}

fn slots(slots: u16) -> NodeSettings {
    NodeSettings { slots: Some(slots), drain: None }
}

fn drains() -> NodeSettings {
    let drain = Drain {
        mode: DrainMode::Requeue,
        until: Some("2026-01-01T01:00:00Z".parse().unwrap()),
        since: "2026-01-01T00:00:00Z".parse().unwrap(),
    };
    NodeSettings { slots: None, drain: Some(drain) }
}

async fn sees_settings(of: &Arc<dyn Coordination>, wanted: &[(&str, NodeSettings)]) {
    let wanted: BTreeMap<_, _> =
        wanted.iter().map(|(node, settings)| (node.parse().unwrap(), settings.clone())).collect();
    see(&mut of.settings(), "the settings", |settings| **settings == wanted).await;
}

async fn sees_bundles(of: &Arc<dyn Coordination>, wanted: &[BundleNotice]) {
    let mut wanted = wanted.to_vec();
    wanted.sort_unstable();
    see(&mut of.bundles(), "the bundles", |bundles| **bundles == *wanted).await;
}

fn notice(bundle: &str, node: &str, state: BundleState) -> BundleNotice {
    BundleNotice { digest: Digest::of(bundle.as_bytes()), node: node.parse().unwrap(), state }
}

fn tell(by: &Arc<dyn Coordination>, notice: &BundleNotice) {
    by.announce_bundle(&notice.node, notice.digest, Some(notice.state.clone()));
}

fn ready(bytes: u64) -> BundleState {
    BundleState::Ready { bytes }
}

async fn what_is_asked_of_a_node_is_seen_by_all_and_stays(env: &dyn Env) {
    let [operator, early] = [env.process(), env.process()];
    is_up(&operator).await;
    sees_settings(&early, &[]).await;
    let [one, two] = [("one", slots(16)), ("two", drains())];
    operator.set_node(&"one".parse().unwrap(), &one.1).await.unwrap();
    sees_settings(&early, std::slice::from_ref(&one)).await;
    operator.set_node(&"two".parse().unwrap(), &two.1).await.unwrap();
    sees_settings(&early, &[one.clone(), two.clone()]).await;
    operator.close().await;
    early.close().await;
    let late = env.process();
    sees_settings(&late, &[one, two]).await;
    late.close().await;
}

async fn a_node_is_asked_nothing_any_more(env: &dyn Env) {
    let [operator, node] = [env.process(), env.process()];
    is_up(&operator).await;
    let one = "one".parse().unwrap();
    // Nothing was asked, and nothing is.
    operator.set_node(&one, &NodeSettings::default()).await.unwrap();
    operator.set_node(&one, &drains()).await.unwrap();
    sees_settings(&node, &[("one", drains())]).await;
    for _ in 0..2 {
        operator.set_node(&one, &NodeSettings::default()).await.unwrap();
    }
    sees_settings(&node, &[]).await;
    operator.close().await;
    node.close().await;
}

async fn the_newest_settings_win_and_sameness_wakes_nobody(env: &dyn Env) {
    let [operator, other, node] = [env.process(), env.process(), env.process()];
    is_up(&operator).await;
    is_up(&other).await;
    let one = "one".parse().unwrap();
    let mut seen = node.settings();
    for n in 1..6 {
        let by = if n % 2 == 0 { &operator } else { &other };
        by.set_node(&one, &slots(n)).await.unwrap();
    }
    sees_settings(&node, &[("one", slots(5))]).await;
    seen.mark_unchanged();
    operator.set_node(&one, &slots(5)).await.unwrap();
    operator.set_node(&one, &slots(6)).await.unwrap();
    tokio::time::timeout(LIMIT, seen.changed()).await.unwrap().unwrap();
    assert_eq!(seen.borrow_and_update()[&one], slots(6), "only what changed wakes");
    for process in [operator, other, node] {
        process.close().await;
    }
}

async fn what_a_node_has_of_a_bundle_is_seen_until_it_is_withdrawn(env: &dyn Env) {
    let [one, two, watcher] = [env.process(), env.process(), env.process()];
    sees_bundles(&watcher, &[]).await;
    let fetching = BundleState::Fetching { bytes: 3, bytes_total: 9 };
    let failed = BundleState::Failed { message: "the disk is full".to_owned() };
    let mut notices =
        [notice("a", "one", fetching), notice("b", "one", ready(4)), notice("a", "two", failed)];
    tell(&one, &notices[0]);
    tell(&one, &notices[1]);
    tell(&two, &notices[2]);
    sees_bundles(&watcher, &notices).await;
    notices[0].state = ready(9);
    tell(&one, &notices[0]);
    sees_bundles(&watcher, &notices).await;
    // What another process said is not this one's to withdraw.
    two.announce_bundle(&notices[0].node, notices[0].digest, None);
    two.announce_bundle(&notices[2].node, notices[2].digest, None);
    sees_bundles(&watcher, &notices[..2]).await;
    one.announce_bundle(&notices[0].node, notices[0].digest, None);
    sees_bundles(&watcher, &notices[1..2]).await;
    // It is kept up for longer than it would last by itself.
    tokio::time::sleep(env.lease() * 3 / 2).await;
    sees_bundles(&two, &notices[1..2]).await;
    for process in [one, two, watcher] {
        process.close().await;
    }
}

async fn a_process_that_closes_takes_what_it_said_of_bundles_with_it(env: &dyn Env) {
    let [one, two] = [env.process(), env.process()];
    let notices = [notice("a", "one", ready(1)), notice("a", "two", ready(1))];
    tell(&one, &notices[0]);
    tell(&two, &notices[1]);
    sees_bundles(&two, &notices).await;
    let closed = tokio::time::Instant::now();
    one.close().await;
    sees_bundles(&two, &notices[1..]).await;
    assert!(closed.elapsed() < env.lease(), "it ran out instead");
    two.close().await;
}

async fn of_fast_progress_the_newest_is_told(env: &dyn Env) {
    let [node, watcher] = [env.process(), env.process()];
    let mut seen = watcher.bundles();
    let fetching = |bytes: u64| notice("a", "one", BundleState::Fetching { bytes, bytes_total: 1_000_000 });
    let begun = tokio::time::Instant::now();
    for bytes in 1..=100_000 {
        tell(&node, &fetching(bytes));
    }
    let mut views = 0;
    while **seen.borrow_and_update() != [fetching(100_000)] {
        tokio::time::timeout(LIMIT, seen.changed()).await.unwrap().unwrap();
        views += 1;
    }
    let seconds = begun.elapsed().as_secs();
    assert!(views <= seconds + 2, "{views} views in {seconds} s");
    node.close().await;
    watcher.close().await;
}

async fn another_life_of_a_node_says_it_anew(env: &dyn Env) {
    let [before, after, watcher] = [env.process(), env.process(), env.process()];
    tell(&before, &notice("a", "one", ready(1)));
    sees_bundles(&watcher, &[notice("a", "one", ready(1))]).await;
    let fetching = BundleState::Fetching { bytes: 0, bytes_total: 1 };
    tell(&after, &notice("a", "one", fetching.clone()));
    sees_bundles(&watcher, &[notice("a", "one", fetching.clone())]).await;
    // The end of the earlier life does not take what the later one said.
    before.close().await;
    tell(&after, &notice("b", "one", ready(2)));
    sees_bundles(&watcher, &[notice("a", "one", fetching), notice("b", "one", ready(2))]).await;
    after.close().await;
    watcher.close().await;
}

async fn many_bundles_of_many_nodes_are_all_seen(env: &dyn Env) {
    let nodes: Vec<_> = (0..4).map(|_| env.process()).collect();
    let watcher = env.process();
    let notices: Vec<_> = (0..200)
        .map(|n| notice(&format!("bundle {}", n / 4), &format!("node-{}", n % 4), ready(n)))
        .collect();
    for (n, notice) in notices.iter().enumerate() {
        tell(&nodes[n % 4], notice);
        if n % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    }
    sees_bundles(&watcher, &notices).await;
    nodes[0].close().await;
    let left: Vec<_> = notices.iter().filter(|notice| notice.node.as_str() != "node-0").cloned().collect();
    sees_bundles(&watcher, &left).await;
    for process in nodes.into_iter().skip(1).chain([watcher]) {
        process.close().await;
    }
}
