//! What [`coordination::Coordination`] promises, on both adapters.

use std::time::Duration;

use coordination::{CoordinationError, Lead, Link};
use protocol::NodeInfo;
use tokio::time::timeout;

use crate::env::{
    Env, LIMIT, OnPostgres, OnRecord, OnZooKeeper, is_up, leads, node, notice, see, sees_nodes,
};

/// Runs each named test of the contract on each adapter.
macro_rules! contract {
    ($($name:ident,)*) => {
        mod record {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(&super::OnRecord::new()).await;
                }
            )*
        }
        mod record_on_postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(&super::OnPostgres::new().await).await;
                }
            )*
        }
        mod zookeeper {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(&super::OnZooKeeper::new()).await;
                }
            )*
        }
    };
}

mod locks;
mod settings;

contract! {
    who_joins_is_seen_by_all_until_it_leaves,
    what_a_node_says_of_itself_is_replaced,
    a_process_that_closes_takes_its_nodes_with_it,
    a_version_is_seen_by_who_watches_now_and_by_who_comes_later,
    a_name_that_another_life_keeps_is_taken,
    a_name_is_free_when_its_other_life_leaves,
    a_killed_process_on_the_same_machine_is_not_waited_for,
    two_lives_that_begin_at_once_do_not_both_join,
    one_leads_and_the_fence_grows_with_each_change,
    who_loses_interest_lets_another_lead,
    of_many_who_stand_exactly_one_leads,
    a_change_wakes_and_sameness_does_not,
}

async fn who_joins_is_seen_by_all_until_it_leaves(env: &dyn Env) {
    let [a, b, watcher] = [env.process(), env.process(), env.process()];
    sees_nodes(&watcher, &[]).await;
    let one = a.join(node("one", 1)).await.unwrap();
    let two = b.join(node("two", 1)).await.unwrap();
    for process in [&a, &b, &watcher] {
        sees_nodes(process, &["one", "two"]).await;
        is_up(process).await;
    }
    assert_eq!(*watcher.nodes().borrow().clone(), [node("one", 1), node("two", 1)]);
    one.leave().await;
    sees_nodes(&watcher, &["two"]).await;
    two.leave().await;
    sees_nodes(&watcher, &[]).await;
    for process in [a, b, watcher] {
        process.close().await;
    }
}

async fn what_a_node_says_of_itself_is_replaced(env: &dyn Env) {
    let [worker, watcher] = [env.process(), env.process()];
    let member = worker.join(node("one", 1)).await.unwrap();
    sees_nodes(&watcher, &["one"]).await;
    for slots in 5..8 {
        let now = NodeInfo { slots, draining: true, ..node("one", 1) };
        member.update(now.clone()).await.unwrap();
        see(&mut watcher.nodes(), "the new text", |nodes| **nodes == [now.clone()]).await;
    }
    member.leave().await;
    worker.close().await;
    watcher.close().await;
}

async fn a_process_that_closes_takes_its_nodes_with_it(env: &dyn Env) {
    let [worker, watcher] = [env.process(), env.process()];
    let member = worker.join(node("one", 1)).await.unwrap();
    sees_nodes(&watcher, &["one"]).await;
    let closed = tokio::time::Instant::now();
    worker.close().await;
    sees_nodes(&watcher, &[]).await;
    assert!(closed.elapsed() < env.lease(), "it ran out instead");
    drop(member);
    watcher.close().await;
}

async fn a_version_is_seen_by_who_watches_now_and_by_who_comes_later(env: &dyn Env) {
    let [gateway, early] = [env.process(), env.process()];
    is_up(&gateway).await;
    let mut seen = early.versions();
    let notices = [notice("iris", 1), notice("iris", 2), notice("wind", 1)];
    for (n, notice) in notices.iter().enumerate() {
        env.push(notice).await;
        // Its answer may have been lost: repeating is harmless.
        gateway.publish_version(notice).await.unwrap();
        gateway.publish_version(notice).await.unwrap();
        see(&mut seen, "the version", |versions| **versions == notices[..=n]).await;
    }
    let late = env.process();
    see(&mut late.versions(), "all versions", |versions| **versions == notices).await;
    for process in [gateway, early, late] {
        process.close().await;
    }
}

/// A node like `one`, in a process that is certainly alive.
fn elsewhere(boot: u32) -> NodeInfo {
    NodeInfo { pid: 1, ..node("one", boot) }
}

async fn a_name_that_another_life_keeps_is_taken(env: &dyn Env) {
    let [first, second] = [env.process(), env.process()];
    let member = first.join(elsewhere(1)).await.unwrap();
    let refused = timeout(LIMIT, second.join(node("one", 2))).await.unwrap();
    match refused.err() {
        Some(CoordinationError::NameTaken { name, boot }) => {
            assert_eq!((name.as_str(), boot.as_str()), ("one", elsewhere(1).id.boot()));
        }
        other => panic!("{other:?}"),
    }
    see(&mut first.nodes(), "the first stays", |nodes| **nodes == [elsewhere(1)]).await;
    member.leave().await;
    first.close().await;
    second.close().await;
}

async fn a_name_is_free_when_its_other_life_leaves(env: &dyn Env) {
    let [first, second] = [env.process(), env.process()];
    let member = first.join(elsewhere(1)).await.unwrap();
    let joining = second.join(node("one", 2));
    let leaving = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        member.leave().await;
    };
    let (joined, ()) = timeout(LIMIT, async { tokio::join!(joining, leaving) }).await.unwrap();
    let joined = joined.unwrap();
    see(&mut first.nodes(), "the second is there", |nodes| **nodes == [node("one", 2)]).await;
    joined.leave().await;
    first.close().await;
    second.close().await;
}

/// Its announcement is still there, but its process is not.
async fn a_killed_process_on_the_same_machine_is_not_waited_for(env: &dyn Env) {
    let [first, second] = [env.process(), env.process()];
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let dead = NodeInfo { pid: child.id(), ..node("one", 1) };
    let member = first.join(dead).await.unwrap();
    see(&mut second.nodes(), "the first is there", |nodes| nodes.len() == 1).await;
    let member_of_second = timeout(env.lease() / 2, second.join(elsewhere(2))).await.unwrap().unwrap();
    member.leave().await;
    see(&mut second.nodes(), "the second is there", |nodes| **nodes == [elsewhere(2)]).await;
    member_of_second.leave().await;
    first.close().await;
    second.close().await;
}

async fn two_lives_that_begin_at_once_do_not_both_join(env: &dyn Env) {
    let [first, second] = [env.process(), env.process()];
    is_up(&first).await;
    is_up(&second).await;
    let joins = async { tokio::join!(first.join(elsewhere(1)), second.join(elsewhere(2))) };
    let (one, two) = timeout(LIMIT, joins).await.unwrap();
    assert!(one.is_ok() != two.is_ok(), "{:?} {:?}", one.err(), two.err());
    first.close().await;
    second.close().await;
}

async fn one_leads_and_the_fence_grows_with_each_change(env: &dyn Env) {
    let mut last = 0;
    let mut current = env.process();
    let mut lead = current.lead("upkeep", "monitor-0");
    for n in 1..4 {
        let fence = leads(&mut lead, "the only one who stands").await;
        assert!(fence > last, "{fence} after {last}");
        last = fence;
        let next = env.process();
        let mut waiting = next.lead("upkeep", &format!("monitor-{n}"));
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(*waiting.borrow_and_update(), Lead::No);
        assert_eq!(*lead.borrow(), Lead::Yes { fence });
        current.close().await;
        see(&mut lead, "who closes leads no more", |lead| *lead == Lead::No).await;
        (current, lead) = (next, waiting);
    }
    current.close().await;
}

async fn who_loses_interest_lets_another_lead(env: &dyn Env) {
    let [first, second] = [env.process(), env.process()];
    let mut lead = first.lead("upkeep", "first");
    let before = leads(&mut lead, "the first").await;
    let mut next = second.lead("upkeep", "second");
    drop(lead);
    let after = leads(&mut next, "the second").await;
    assert!(after > before);
    // Leading one thing says nothing about another.
    let mut other = first.lead("other", "first");
    leads(&mut other, "the first").await;
    first.close().await;
    second.close().await;
}

async fn of_many_who_stand_exactly_one_leads(env: &dyn Env) {
    let mut processes: Vec<_> = (0..5).map(|_| env.process()).collect();
    let mut leads: Vec<_> =
        processes.iter().enumerate().map(|(n, it)| it.lead("upkeep", &format!("m{n}"))).collect();
    let mut fences = Vec::new();
    while !processes.is_empty() {
        let leader = testkit::eventually_some("somebody leads", LIMIT, async || {
            leads.iter().position(|lead| *lead.borrow() != Lead::No)
        })
        .await;
        let leading: Vec<Lead> =
            leads.iter().map(|lead| *lead.borrow()).filter(|lead| *lead != Lead::No).collect();
        assert_eq!(leading.len(), 1, "{leading:?}");
        fences.push(*leads[leader].borrow());
        processes.swap_remove(leader).close().await;
        leads.swap_remove(leader);
    }
    let numbers: Vec<i64> =
        fences.iter().map(|lead| if let Lead::Yes { fence } = lead { *fence } else { 0 }).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
}

async fn a_change_wakes_and_sameness_does_not(env: &dyn Env) {
    let [worker, watcher] = [env.process(), env.process()];
    let member = worker.join(node("one", 1)).await.unwrap();
    let mut nodes = watcher.nodes();
    see(&mut nodes, "it is there", |nodes| nodes.len() == 1).await;
    nodes.mark_unchanged();
    member.update(node("one", 1)).await.unwrap();
    member.update(NodeInfo { slots: 9, ..node("one", 1) }).await.unwrap();
    timeout(LIMIT, nodes.changed()).await.unwrap().unwrap();
    assert_eq!(nodes.borrow_and_update()[0].slots, 9, "only what changed wakes");
    assert_eq!(*watcher.link().borrow(), Link::Up);
    member.leave().await;
    worker.close().await;
    watcher.close().await;
}
