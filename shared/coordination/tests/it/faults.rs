//! ZooKeeper going away, in every way it does. Each test owns its server, with ticks of 1 s and sessions of 4 s.

mod locks;
mod record;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coordination::zookeeper::ZooKeeper;
use coordination::{Coordination, CoordinationError, Lead, Link};
use protocol::NodeInfo;
use testkit::{Fault, Proxy, Server, ServerKind};
use tokio::task::JoinSet;

use crate::env::{Env, OnZooKeeper, is_up, leads, node, notice, see, sees_nodes};

async fn server() -> (Server, OnZooKeeper) {
    let server = Server::start(ServerKind::ZooKeeper).await;
    let env = OnZooKeeper::on(server.url());
    (server, env)
}

/// `env` through a link of its own.
async fn linked(env: &OnZooKeeper) -> (Proxy, Arc<dyn Coordination>) {
    let link = Proxy::start(&env.servers).await;
    let mut config = env.config();
    config.servers = link.address().to_string();
    (link, Arc::new(ZooKeeper::connect(&config)))
}

/// The ephemeral znodes, each with the session that owns it, as the server says.
async fn ephemerals(server: &Server) -> Vec<(String, String)> {
    let dump = server.admin(&["dump"]).await;
    let (_, dump) = dump.split_once("Sessions with Ephemerals").unwrap();
    let (dump, _) = dump.split_once("Connections dump").unwrap();
    let mut session = String::new();
    let mut found = Vec::new();
    for line in dump.lines() {
        match line.strip_prefix('\t') {
            Some(path) => found.push((session.clone(), path.to_owned())),
            None => session = line.to_owned(),
        }
    }
    found
}

/// The one session that owns all ephemeral znodes.
async fn owner(server: &Server) -> String {
    let owners: BTreeSet<String> = ephemerals(server).await.into_iter().map(|(session, _)| session).collect();
    assert_eq!(owners.len(), 1, "{owners:?}");
    owners.into_iter().next().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_shorter_than_the_session_keeps_node_and_lead() {
    let (server, env) = server().await;
    let worker = env.process();
    let member = worker.join(node("one", 1)).await.unwrap();
    let mut lead = worker.lead("upkeep", "one");
    let fence = leads(&mut lead, "the only one").await;
    sees_nodes(&worker, &["one"]).await;
    let before = owner(&server).await;
    let mut link = worker.link();
    server.kill().await;
    server.start_again().await;
    see(&mut link, "the link is up again", |link| *link == Link::Up).await;
    sees_nodes(&worker, &["one"]).await;
    assert_eq!(leads(&mut lead, "the same one").await, fence);
    assert_eq!(owner(&server).await, before, "disconnected is not expired");
    member.leave().await;
    worker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_expiry_everything_is_made_again_under_a_new_session() {
    let (server, env) = server().await;
    let watcher = env.process();
    let (link, worker) = linked(&env).await;
    let member = worker.join(node("one", 1)).await.unwrap();
    let mut lead = worker.lead("upkeep", "one");
    let fence = leads(&mut lead, "the only one").await;
    sees_nodes(&watcher, &["one"]).await;
    let before = owner(&server).await;
    // Silent for longer than the session: the server gives the node up, and the worker learns it later.
    link.set(Fault::Blackhole);
    see(&mut worker.link(), "the worker is cut off", |link| *link == Link::Down).await;
    see(&mut lead, "who cannot ask does not lead", |lead| *lead == Lead::No).await;
    sees_nodes(&watcher, &[]).await;
    assert!(matches!(
        member.update(NodeInfo { draining: true, ..node("one", 1) }).await,
        Err(CoordinationError::Away(_) | CoordinationError::Unknown { .. })
    ));
    assert!(worker.publish_version(&notice("iris", 1)).await.is_err());
    // While it is cut off, its last view stays.
    assert_eq!(worker.nodes().borrow().len(), 1);
    link.set(Fault::Pass);
    link.cut();
    see(&mut watcher.nodes(), "it is back, with what it wanted to say", |nodes| {
        nodes.len() == 1 && nodes[0].id == node("one", 1).id && nodes[0].draining
    })
    .await;
    assert!(leads(&mut lead, "it").await > fence);
    is_up(&worker).await;
    assert_ne!(owner(&server).await, before);
    member.leave().await;
    sees_nodes(&watcher, &[]).await;
    worker.close().await;
    watcher.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_loses_nobody_for_good() {
    let (server, env) = server().await;
    let [worker, watcher] = [env.process(), env.process()];
    let member = worker.join(node("one", 1)).await.unwrap();
    sees_nodes(&watcher, &["one"]).await;
    server.pause().await;
    for process in [&worker, &watcher] {
        see(&mut process.link(), "it is cut off", |link| *link == Link::Down).await;
    }
    // Longer than the client waits until it calls its session expired (7/5 of it).
    tokio::time::sleep(Duration::from_secs(8)).await;
    server.resume().await;
    for process in [&worker, &watcher] {
        is_up(process).await;
        sees_nodes(process, &["one"]).await;
    }
    member.leave().await;
    sees_nodes(&watcher, &[]).await;
    worker.close().await;
    watcher.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_joins_while_the_server_is_down_waits_for_it() {
    let (server, env) = server().await;
    server.stop().await;
    let worker = env.process();
    let mut link = worker.link();
    let came = async {
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(*link.borrow_and_update(), Link::Down);
        server.start_again().await;
    };
    let (member, ()) = tokio::join!(worker.join(node("one", 1)), came);
    let member = member.unwrap();
    sees_nodes(&worker, &["one"]).await;
    member.leave().await;
    worker.close().await;
}

/// Z8: a persistent watch may miss what happens while its client is away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happened_while_the_link_was_cut_is_seen_afterwards() {
    let (_server, env) = server().await;
    let (link, watcher) = linked(&env).await;
    let worker = env.process();
    let mut versions = watcher.versions();
    let one = worker.join(node("one", 1)).await.unwrap();
    sees_nodes(&watcher, &["one"]).await;
    for n in 2..6 {
        link.set(Fault::Reset);
        see(&mut watcher.link(), "the watcher is cut off", |link| *link == Link::Down).await;
        let name = format!("n{n}");
        let two = worker.join(node(&name, 1)).await.unwrap();
        worker.publish_version(&notice("iris", n)).await.unwrap();
        link.set(Fault::Pass);
        sees_nodes(&watcher, &[&name, "one"]).await;
        see(&mut versions, "the version", |versions| versions.contains(&notice("iris", n))).await;
        link.cut();
        two.leave().await;
        sees_nodes(&watcher, &["one"]).await;
    }
    one.leave().await;
    worker.close().await;
    watcher.close().await;
}

/// Z6: a create whose answer is lost was done all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_lost_makes_neither_a_second_node_nor_none() {
    let (server, env) = server().await;
    let (link, worker) = linked(&env).await;
    let watcher = env.process();
    is_up(&worker).await;
    link.set_to_client(Fault::DropAnswers { probability: 0.3, seed: 11 });
    for boot in 1..4 {
        let member = worker.join(node("one", boot)).await.unwrap();
        let mut lead = worker.lead("upkeep", "one");
        leads(&mut lead, "the only one").await;
        see(&mut watcher.nodes(), "it is there", |nodes| **nodes == [node("one", boot)]).await;
        let found = ephemerals(&server).await;
        assert_eq!(found.len(), 2, "{found:?}");
        drop(lead);
        member.leave().await;
    }
    link.set_to_client(Fault::Pass);
    testkit::eventually("nothing is left", Duration::from_secs(30), async || {
        ephemerals(&server).await.is_empty()
    })
    .await;
    assert!(link.dropped_answers() > 0);
    worker.close().await;
    watcher.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_and_leaving_end_in_time_though_nobody_answers() {
    let (server, env) = server().await;
    let worker = env.process();
    let member = worker.join(node("one", 1)).await.unwrap();
    let _lead = worker.lead("upkeep", "one");
    server.pause().await;
    let began = Instant::now();
    member.leave().await;
    worker.close().await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    server.resume().await;
}

/// A leader whose link is cut is deposed by the servers, and the next one's fence is higher.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_is_followed_by_another() {
    let (_server, env) = server().await;
    let (link, first) = linked(&env).await;
    let second = env.process();
    let mut lead = first.lead("upkeep", "first");
    let before = leads(&mut lead, "the first").await;
    let mut next = second.lead("upkeep", "second");
    link.set(Fault::Blackhole);
    let after = leads(&mut next, "the second").await;
    assert!(after > before);
    assert_eq!(*lead.borrow(), Lead::No, "the old one knew before");
    link.set(Fault::Pass);
    link.cut();
    is_up(&first).await;
    assert_eq!(*next.borrow(), Lead::Yes { fence: after });
    second.close().await;
    assert!(leads(&mut lead, "the first again").await > after);
    first.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_20_nodes_that_come_and_go_200_times_a_view_with_a_cut_link_is_right_within_35_s() {
    const NODES: usize = 20;
    const TURNS: usize = 10;
    let (server, env) = server().await;
    let (link, monitor) = linked(&env).await;
    is_up(&monitor).await;
    let mut nodes = JoinSet::new();
    for number in 0..NODES {
        let worker = env.process();
        nodes.spawn(async move {
            let name = format!("node-{number}");
            for turn in 0..TURNS {
                let boot = u32::try_from(turn).unwrap();
                let member = worker.join(node(&name, boot)).await.unwrap();
                tokio::time::sleep(Duration::from_millis(rand::random_range(100..500))).await;
                member.leave().await;
            }
            // Every other one is there at the end.
            if number % 2 == 0 {
                drop(worker.join(node(&name, 99)).await.unwrap());
            }
            worker
        });
    }
    let mut workers = Vec::new();
    let mut faults = 0;
    while workers.len() < NODES {
        tokio::select! {
            Some(ended) = nodes.join_next() => workers.push(ended.unwrap()),
            () = tokio::time::sleep(Duration::from_millis(300)) => {
                faults += 1;
                match faults % 4 {
                    0 => link.set(Fault::Blackhole),
                    2 => link.set(Fault::Pass),
                    _ => link.cut(),
                }
            }
        }
    }
    assert!(faults > 2, "the link was cut while nodes came and went: {faults}");
    link.set(Fault::Pass);
    link.cut();
    let there = ephemerals(&server).await;
    let mut there: Vec<_> =
        there.iter().filter_map(|(_, path)| path.rsplit_once("/nodes/")).map(|p| p.1).collect();
    there.sort_unstable();
    assert_eq!(there.len(), NODES / 2, "{there:?}");
    let since = Instant::now();
    sees_nodes(&monitor, &there).await;
    assert!(since.elapsed() < Duration::from_secs(35), "{:?}", since.elapsed());
    for worker in workers {
        worker.close().await;
    }
    monitor.close().await;
}
