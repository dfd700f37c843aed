use std::time::{Duration, Instant};

use domain::State;
use futures::future::join_all;
use protocol::{NodeState, http};
use rustix::process::Signal;
use serde_json::json;
use testkit::{eventually, fresh_name};

use crate::harness::{PATIENCE, Shape, System, count_processes, id_of};

/// Which `worker-n` process the node with this id is.
fn process_of(node: &str) -> &'static str {
    if node.starts_with("t_worker1") { "worker-1" } else { "worker-2" }
}

fn survivors() -> Shape {
    Shape { workers: 2, slots: 64, lease_ms: 6_000, renew_ms: 1_500, ..Shape::small() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_s_execution_succeeds_on_the_other_one() {
    let mut system = System::start(survivors()).await;
    let marker = fresh_name("marker");
    let script = format!(
        "cat >/dev/null; echo attempt $GANTRY_ATTEMPT; python3 -c 'import time; time.sleep(4)' {marker}; echo $GANTRY_ATTEMPT >&3\n"
    );
    system.push_script("four", &script, "");
    let id = system.submit("four", &json!({})).await;
    system.executing(id).await;
    let first = system.execution(id).await.node.unwrap();
    system.kill(process_of(&first));
    eventually("nothing of the dead worker's tree is alive", Duration::from_secs(10), async || {
        count_processes(&marker) == 0
    })
    .await;
    let execution = system.ended(id, PATIENCE).await;
    assert_eq!((execution.state, execution.attempt, execution.failures), (State::Succeeded, 2, 1));
    assert_ne!(execution.node.as_deref().map(process_of), Some(process_of(&first)));
    let result: i32 = system.get(&format!("/v1/executions/{id}/result")).await.unwrap();
    assert_eq!(result, 2);
    let lines: Vec<_> = system.log_lines(id).await.into_iter().map(|row| (row.log_id, row.attempt)).collect();
    assert_eq!(lines, [(1, 1), (2, 2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_of_a_killed_gateway_repeat_with_their_key_and_have_their_results() {
    let mut system = System::start(survivors()).await;
    let file = system.path("runs");
    let script =
        format!("cat >/dev/null; echo $GANTRY_EXECUTE_ID >> {}; sleep 2; echo 1 >&3\n", file.display());
    system.push_script("two", &script, "");
    let keys: Vec<String> = (0..50).map(|_| fresh_name("key")).collect();
    let call = |key: &String| system.post("two", &json!({}), 60).header("Idempotency-Key", key).send();
    let waiting = join_all(keys.iter().map(call));
    let all_run = eventually("all 50 run", PATIENCE, async || {
        std::fs::read_to_string(&file).unwrap_or_default().lines().count() == 50
    });
    tokio::select! {
        _ = waiting => panic!("no answer comes before all have run"),
        () = all_run => {}
    }
    system.kill("gateway-1");
    system.start_again("gateway-1");
    system.ready(&system.urls[0].clone()).await;
    for (key, answer) in keys.iter().zip(
        join_all(
            keys.iter().map(|key| system.post("two", &json!({}), 60).header("Idempotency-Key", key).send()),
        )
        .await,
    ) {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 200, "{key}");
        let execution = system.execution(id_of(&answer)).await;
        assert_eq!((execution.state, execution.attempt), (State::Succeeded, 1));
    }
    let runs = std::fs::read_to_string(&file).unwrap();
    assert_eq!(runs.lines().count(), 50, "each ran once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_worker_s_attempt_is_dead_and_writes_nothing_when_it_wakes() {
    let system = System::start(survivors()).await;
    let marker = fresh_name("marker");
    let script = format!(
        "cat >/dev/null; python3 -u -c 'import time\nfor n in range(120): print(\"tick\", n); time.sleep(0.1)' \
         {marker}; echo $GANTRY_ATTEMPT >&3\n"
    );
    system.push_script("ticking", &script, "");
    let id = system.submit("ticking", &json!({})).await;
    system.executing(id).await;
    let first = system.execution(id).await.node.unwrap();
    let frozen = process_of(&first);
    system.signal(frozen, Signal::STOP);
    eventually("attempt 2 is running", PATIENCE, async || {
        let execution = system.execution(id).await;
        execution.attempt == 2 && execution.state == State::Running
    })
    .await;
    eventually("only the second tree is alive", PATIENCE, async || count_processes(&marker) == 1).await;
    let second_begins = system.log_lines(id).await.iter().filter(|row| row.attempt == 1).count();
    system.signal(frozen, Signal::CONT);
    let execution = system.ended(id, PATIENCE).await;
    assert_eq!((execution.state, execution.attempt), (State::Succeeded, 2));
    let lines = system.log_lines(id).await;
    assert_eq!(
        lines.iter().filter(|row| row.attempt == 1).count(),
        second_begins,
        "no row of attempt 1 was added"
    );
    let ids: Vec<_> = lines.iter().map(|row| row.log_id).collect();
    assert_eq!(ids, (1..=i64::try_from(ids.len()).unwrap()).collect::<Vec<_>>());
    assert!(lines.is_sorted_by_key(|row| row.attempt), "attempts do not interleave");
    assert_eq!(count_processes(&marker), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_is_listed_as_lost_and_its_executions_begin_again() {
    let shape = Shape {
        workers: 2,
        slots: 8,
        lease_ms: 30_000,
        renew_ms: 5_000,
        session_ms: 10_000,
        ..Shape::small()
    };
    let mut system = System::start(shape).await;
    system.push_script("long", "cat >/dev/null; echo attempt $GANTRY_ATTEMPT; sleep 60; echo 1 >&3\n", "");
    let id = system.submit("long", &json!({})).await;
    system.executing(id).await;
    let first = system.execution(id).await.node.unwrap();
    let name = first.split_once('@').unwrap().0.to_owned();
    let killed_at = Instant::now();
    system.kill(process_of(&first));
    let path = format!("/v1/nodes/{name}");
    let node = async |system: &System| system.get::<http::NodeDetail>(&path).await.unwrap();
    eventually("it is lost", PATIENCE, async || node(&system).await.node.state == NodeState::Lost).await;
    let lost_after = killed_at.elapsed();
    eventually("attempt 2 is running", PATIENCE, async || {
        let execution = system.execution(id).await;
        execution.attempt == 2 && execution.state == State::Running
    })
    .await;
    let again_after = killed_at.elapsed();
    eprintln!("with a session of 10 s: lost after {lost_after:?}, attempt 2 after {again_after:?}");
    eventually("its history says so", PATIENCE, async || {
        node(&system).await.history.first().is_some_and(|event| event.event == "lost")
    })
    .await;
    // Long before its lease ran out.
    assert!(again_after < Duration::from_secs(25), "{again_after:?}");
    system.start_again(process_of(&first));
    eventually("it is back", PATIENCE, async || node(&system).await.node.state == NodeState::Up).await;
}
