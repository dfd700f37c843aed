//! Workers that die, freeze, come back or lose what they hold: nothing they started outlives their right to it.

use std::path::Path;
use std::time::Duration;

use domain::State;
use rustix::process::{Pid, Signal, kill_process};
use testkit::{eventually, eventually_some};
use tokio::process::{Child, Command};

use crate::support::{BOUND, World, is_alive, lines_of, until_dead};

const LEASE: Duration = Duration::from_millis(6_000);
const RENEW: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_was_rescued_elsewhere_is_killed_and_writes_nothing() {
    let world = World::new().await;
    let pid = world.path("pid");
    world.push_script("long", "", &format!("trap '' TERM; echo $$ >> {}; sleep 600", pid.display())).await;
    let worker = world.start(world.config("n1")).await;
    let request = world.request("long", "1");
    world.publish(&request).await;
    let pids = lines_of(&pid).await;
    // As if it had been silent: taken back early, because its node is not there.
    let rescued = eventually_some("its lease is stolen", BOUND, async || {
        world.record.rescue(Some(&[]), LEASE, Duration::ZERO, 10).await.unwrap().pop()
    })
    .await;
    assert_eq!((rescued.execute_id, rescued.attempt), (request.execute_id, 1));
    until_dead(&pids[0]).await;
    worker.trigger.drain();
    worker.ended().await.unwrap();
    let row = world.find(request.execute_id).await.unwrap();
    assert_eq!((row.state, row.failures), (State::Delayed, 1));
    assert_eq!(row.timeline.last().unwrap().event, "rescued", "the lost attempt wrote something");
    assert_eq!(world.heard(&request.execute_id.to_string()).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_restarted_under_its_name_does_not_take_over_its_old_leases() {
    let world = World::new().await;
    let pid = world.path("pid");
    world.push_script("long", "", &format!("echo $$ >> {}; sleep 600", pid.display())).await;
    let first = world.start(world.config("n1")).await;
    let request = world.request("long", "1");
    world.publish(&request).await;
    let pids = lines_of(&pid).await;
    let old = world.find(request.execute_id).await.unwrap().node.unwrap();
    drop(first);
    until_dead(&pids[0]).await;

    let _second = world.start(world.config("n1")).await;
    // Its message comes again: the old life's lease is not this one's.
    world.publish(&request).await;
    let present = eventually_some("the new life is announced", BOUND, async || {
        let nodes = world.record.list_nodes().await.unwrap();
        nodes.into_iter().map(|node| node.id).find(|id| id.to_string() != old)
    })
    .await;
    assert!(old.starts_with("n1@") && present.name().as_str() == "n1");
    let row = world.find(request.execute_id).await.unwrap();
    assert_eq!((row.attempt, row.node.as_deref()), (1, Some(old.as_str())));
    // So it is rescued early, though a node of that name is there.
    let rescued = eventually_some("the old life's lease is stolen", BOUND, async || {
        world.record.rescue(Some(std::slice::from_ref(&present)), LEASE, RENEW, 10).await.unwrap().pop()
    })
    .await;
    assert_eq!((rescued.execute_id, rescued.node.to_string()), (request.execute_id, old));
}

/// A process of its own that runs a worker on `dir`, with one execution of a script that writes its pid to `pid`.
fn worker_process(dir: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_worker-under-test"))
        .arg("worker")
        .arg(dir)
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

fn signal(process: &Child, signal: Signal) {
    let pid = Pid::from_raw(process.id().unwrap().try_into().unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_a_worker_started_survives_its_kill() {
    let dir = tempfile::tempdir().unwrap();
    let worker = worker_process(dir.path());
    let pids = lines_of(&dir.path().join("pids")).await;
    assert!(pids.iter().all(|pid| is_alive(pid)));
    signal(&worker, Signal::KILL);
    for pid in &pids {
        until_dead(pid).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_a_frozen_worker_started_outlives_its_lease() {
    let dir = tempfile::tempdir().unwrap();
    let worker = worker_process(dir.path());
    let pids = lines_of(&dir.path().join("pids")).await;
    // Renewals keep it alive for longer than one lease.
    tokio::time::sleep(Duration::from_millis(3_000)).await;
    assert!(pids.iter().all(|pid| is_alive(pid)), "a renewed lease did not hold");
    signal(&worker, Signal::STOP);
    for pid in &pids {
        until_dead(pid).await;
    }
    signal(&worker, Signal::CONT);
    // Awake again it finds the tree dead, and gives the execution back: nobody had taken it.
    eventually("the execution is given back", BOUND, async || dir.path().join("yielded").exists()).await;
}
