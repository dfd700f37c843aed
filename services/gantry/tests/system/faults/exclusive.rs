//! One holder at a time, judged from outside, while its worker dies or is cut off from ZooKeeper.

use std::time::Duration;

use domain::{ExecuteId, State};
use serde_json::json;
use testkit::{Fault, Proxy, eventually, fresh_name};
use tokio::sync::oneshot;

use crate::harness::{PATIENCE, Shape, System, count_processes};

const EXCLUSIVE: &str = "exclusive = \"account:{input.id}\"\n[limits]\nrun_timeout_ms = 120000\n";

/// Writes a line every tenth of a second until the file is there, whatever it is told.
fn ticking(marker: &str, go: &str) -> String {
    format!(
        "cat >/dev/null; trap '' TERM; python3 -u -c 'import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while not os.path.exists(sys.argv[2]): print(\"tick\"); time.sleep(0.1)' {marker} {go}
echo \"\\\"$GANTRY_FENCING_TOKEN\\\"\" >&3\n"
    )
}

/// Looks at the processes all the time, until it is told to end, and returns the most it saw at once.
async fn most_at_once(marker: &str, mut end: oneshot::Receiver<()>) -> usize {
    let mut most = 0;
    while end.try_recv().is_err() {
        most = most.max(count_processes(marker));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    most
}

fn process_of(node: &str) -> &'static str {
    if node.starts_with("t_worker1") { "worker-1" } else { "worker-2" }
}

async fn token(system: &System, id: ExecuteId) -> (u64, u64) {
    let token: String = system.get(&format!("/v1/executions/{id}/result")).await.unwrap();
    let (generation, number) = token.split_once('.').unwrap();
    (generation.parse().unwrap(), number.parse().unwrap())
}

/// Waits until one of them runs after the first holder: they are equals then.
async fn next_runs(system: &System, first: ExecuteId, second: ExecuteId) {
    eventually("the next holder runs", PATIENCE, async || {
        !system.log_lines(second).await.is_empty()
            || system.log_lines(first).await.iter().any(|row| row.attempt > 1)
    })
    .await;
}

/// The attempts wrote one after the other, each line once.
async fn check_log(system: &System, id: ExecuteId) {
    let lines = system.log_lines(id).await;
    let ids: Vec<_> = lines.iter().map(|row| row.log_id).collect();
    assert_eq!(ids, (1..=i64::try_from(ids.len()).unwrap()).collect::<Vec<_>>());
    assert!(lines.is_sorted_by_key(|row| row.attempt), "a stale attempt wrote");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_holder_s_tree_is_dead_before_the_next_holder_starts() {
    let shape = Shape { workers: 2, lease_ms: 9_000, renew_ms: 1_500, ..Shape::small() };
    let mut system = System::start(shape).await;
    let (marker, go) = (fresh_name("marker"), system.path("go"));
    system.push_script("one", &ticking(&marker, go.to_str().unwrap()), EXCLUSIVE);
    let (end, ended) = oneshot::channel();
    let (first, second) = (json!({"id": 1, "n": 1}), json!({"id": 1, "n": 2}));
    let story = async {
        let first = system.submit("one", &first).await;
        system.executing(first).await;
        let second = system.submit("one", &second).await;
        let holder = system.execution(first).await.node.unwrap();
        system.kill(process_of(&holder));
        next_runs(&system, first, second).await;
        std::fs::write(&go, "").unwrap();
        let (first, second) = (system.ended(first, PATIENCE).await, system.ended(second, PATIENCE).await);
        end.send(()).unwrap();
        (first, second)
    };
    let ((first, second), most) = tokio::join!(story, most_at_once(&marker, ended));
    assert_eq!(most, 1, "two holders at once");
    assert_eq!((first.state, second.state), (State::Succeeded, State::Succeeded));
    assert_ne!(token(&system, first.execute_id).await, token(&system, second.execute_id).await);
    check_log(&system, first.execute_id).await;
    check_log(&system, second.execute_id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_cut_off_from_zookeeper_is_dead_and_silent_before_the_next_one_starts() {
    let plain = Shape::small();
    let proxies =
        [Proxy::start(&plain.addresses.zookeeper).await, Proxy::start(&plain.addresses.zookeeper).await];
    let overrides = (1..)
        .zip(&proxies)
        .map(|(n, proxy)| {
            let server = proxy.address().to_string();
            (format!("worker-{n}"), "GANTRY_COORDINATION__SERVERS", server)
        })
        .collect();
    let system = System::start(Shape { workers: 2, overrides, ..plain }).await;
    let (marker, go) = (fresh_name("marker"), system.path("go"));
    system.push_script("one", &ticking(&marker, go.to_str().unwrap()), EXCLUSIVE);
    let (end, ended) = oneshot::channel();
    let story = async {
        let first = system.submit("one", &json!({"id": 1, "n": 1})).await;
        system.executing(first).await;
        let holder = system.execution(first).await.node.unwrap();
        let proxy = &proxies[usize::from(process_of(&holder) == "worker-2")];
        proxy.set(Fault::Blackhole);
        let second = system.submit("one", &json!({"id": 1, "n": 2})).await;
        eventually("the holder that was cut off has given back", PATIENCE, async || {
            let execution = system.execution(first).await;
            execution.timeline.iter().any(|event| event.attempt == 1 && event.event == "yielded")
        })
        .await;
        // Plain work goes on there meanwhile; the lock goes to whoever can hear ZooKeeper.
        next_runs(&system, first, second).await;
        proxy.set(Fault::Pass);
        std::fs::write(&go, "").unwrap();
        let (first, second) = (system.ended(first, PATIENCE).await, system.ended(second, PATIENCE).await);
        end.send(()).unwrap();
        (first, second)
    };
    let ((first, second), most) = tokio::join!(story, most_at_once(&marker, ended));
    assert_eq!(most, 1, "two holders at once");
    assert_eq!((first.state, first.failures), (State::Succeeded, 0), "a lost lock is no failure");
    assert_eq!((second.state, second.failures), (State::Succeeded, 0));
    assert_ne!(token(&system, first.execute_id).await, token(&system, second.execute_id).await);
    check_log(&system, first.execute_id).await;
    check_log(&system, second.execute_id).await;
}
