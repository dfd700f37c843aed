//! Locks, limits, fences and stop points, on real processes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use coordination::{Contended, Contender, Coordination as _, Grant};
use domain::{Ending, ErrorClass, ExecuteId, LimitName, LockKey, NodeId, State, TenantId};
use jiff::Timestamp;
use protocol::Request;
use store::Fence;
use testkit::eventually;

use crate::support::{BOUND, World, is_alive, lines_of, unix_ms, until_dead};

const EXCLUSIVE: &str = "exclusive = \"account:{input.id}\"\n";
const INPUT: &str = r#"{"id": 7}"#;

fn key() -> LockKey {
    "account:7".parse().unwrap()
}

/// The lock, held by somebody else.
async fn held_elsewhere(world: &World) -> Grant {
    let contender = Contender {
        tenant: TenantId::default(),
        execute_id: ExecuteId::new(unix_ms()),
        attempt: 1,
        node: NodeId::new("elsewhere".parse().unwrap(), unix_ms(), 1),
        since: Timestamp::now(),
    };
    let place = world.coordination.enter(&Contended::Lock(key()), &contender, 10).await.unwrap();
    tokio::time::timeout(BOUND, place.granted()).await.unwrap().unwrap()
}

async fn until_waiting(world: &World, count: usize) {
    eventually(&format!("{count} wait for the lock"), BOUND, async || {
        let queue = world.coordination.queue(&TenantId::default(), &Contended::Lock(key())).await;
        queue.is_ok_and(|queue| queue.waiters.len() == count)
    })
    .await;
}

async fn submit(world: &World, model: &str, input: &str) -> Request {
    let request = world.request(model, input);
    world.publish(&request).await;
    request
}

/// A script that waits for the file `go` and leaves its pid in `pid`.
fn patient(pid: &Path, go: &Path, last: &str) -> String {
    format!(
        "echo $$ > {0}.new; mv {0}.new {0}; while [ ! -e {1} ]; do sleep 0.01; done; {last}",
        pid.display(),
        go.display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn executions_of_one_key_run_one_at_a_time_in_the_order_of_their_arrival() {
    let world = World::new().await;
    let (seen, go) = (world.path("seen"), world.path("go"));
    let script = format!(
        "read -r input; echo \"begin $input\" >> {0}; while [ ! -e {1} ]; do sleep 0.01; done
         sleep 0.05; echo \"end $input\" >> {0}; echo 1 >&3",
        seen.display(),
        go.display()
    );
    world.push_script("one", EXCLUSIVE, &script).await;
    let _worker = world.start(world.config("n1")).await;
    let mut requests = Vec::new();
    for number in 0..5 {
        requests.push(submit(&world, "one", &format!("{{\"id\": 7, \"n\": {number}}}\n")).await);
        match number {
            0 => drop(lines_of(&seen).await),
            waiting => until_waiting(&world, waiting).await,
        }
    }
    fs::write(&go, "").unwrap();
    for request in &requests {
        assert_eq!(world.reply_to(request).await.ending.state(), State::Succeeded);
    }
    let expected: Vec<_> = (0..5)
        .flat_map(|n| ["begin", "end"].map(|what| format!("{what} {{\"id\": 7, \"n\": {n}}}")))
        .collect();
    assert_eq!(lines_of(&seen).await, expected);
    let events: Vec<_> =
        world.find(requests[1].execute_id).await.unwrap().timeline.into_iter().map(|e| e.event).collect();
    assert_eq!(events, ["claimed", "waiting_lock", "executing", "storing", "succeeded"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_lock_holds_no_slot_and_gets_one_when_its_turn_comes() {
    let world = World::new().await;
    world.push_script("one", EXCLUSIVE, "echo 1 >&3").await;
    world.push_script("plain", "", "echo 2 >&3").await;
    let other = held_elsewhere(&world).await;
    let _worker = world.start(worker::Config { slots: 1, ..world.config("n1") }).await;
    let mut waiting = Vec::new();
    for count in 1..=3 {
        waiting.push(submit(&world, "one", INPUT).await);
        until_waiting(&world, count).await;
    }
    assert_eq!(world.run("plain", "1").await.ending.state(), State::Succeeded);
    // The only slot is in the hands of who waits for the next delivery.
    other.release().await;
    for request in &waiting {
        assert_eq!(world.reply_to(request).await.ending.state(), State::Succeeded);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_a_deadline_and_the_longest_wait_end_the_wait_for_a_lock() {
    let world = World::new().await;
    world.push_script("one", EXCLUSIVE, "echo 1 >&3").await;
    let short = format!("{EXCLUSIVE}exclusive_wait_timeout_ms = 300\n");
    world.push_script("short", &short, "echo 1 >&3").await;
    let other = held_elsewhere(&world).await;
    let _worker = world.start(world.config("n1")).await;

    let cancelled = submit(&world, "one", INPUT).await;
    until_waiting(&world, 1).await;
    world.record.cancel(&TenantId::default(), cancelled.execute_id).await.unwrap();
    assert_eq!(world.reply_to(&cancelled).await.ending.state(), State::Cancelled);

    let mut overdue = world.request("one", INPUT);
    overdue.deadline = Some(Timestamp::now().checked_add(Duration::from_millis(500)).unwrap());
    world.publish(&overdue).await;
    let Ending::Expired(failure) = world.reply_to(&overdue).await.ending else { panic!("not expired") };
    assert_eq!(failure.class, ErrorClass::Deadline);
    assert!(failure.message.contains("deadline") && failure.message.contains("account:7"), "{failure:?}");

    let Ending::Expired(failure) = world.run("short", INPUT).await.ending else { panic!("not expired") };
    assert_eq!(failure.class, ErrorClass::Deadline);
    assert!(failure.message.contains("300 ms") && failure.message.contains("account:7"), "{failure:?}");
    until_waiting(&world, 0).await;
    other.release().await;
    assert_eq!(world.run("one", INPUT).await.ending.state(), State::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_waiting_room_gives_executions_back_without_a_failure_and_they_come_again() {
    let world = World::new().await;
    world.push_script("one", EXCLUSIVE, "echo 1 >&3").await;
    let other = held_elsewhere(&world).await;
    let _worker = world.start(worker::Config { waiting_max: 1, ..world.config("n1") }).await;
    let first = submit(&world, "one", INPUT).await;
    until_waiting(&world, 1).await;
    let second = submit(&world, "one", INPUT).await;
    let row = world.until_state(second.execute_id, State::Delayed).await;
    assert_eq!((row.attempt, row.failures), (1, 0));
    assert_eq!(row.timeline.last().unwrap().event, "yielded");
    other.release().await;
    assert_eq!(world.reply_to(&first).await.ending.state(), State::Succeeded);
    world.dispatch_due().await;
    assert_eq!(world.reply_to(&second).await.ending.state(), State::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_gives_back_what_waits_at_once() {
    let world = World::new().await;
    world.push_script("one", EXCLUSIVE, "echo 1 >&3").await;
    let other = held_elsewhere(&world).await;
    let worker = world.start(worker::Config { drain_ms_max: 600_000, ..world.config("n1") }).await;
    let request = submit(&world, "one", INPUT).await;
    until_waiting(&world, 1).await;
    worker.trigger.drain();
    worker.ended().await.unwrap();
    let row = world.until_state(request.execute_id, State::Delayed).await;
    assert_eq!((row.attempt, row.failures), (1, 0));
    until_waiting(&world, 0).await;
    other.release().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_holder_of_a_lock_gets_a_higher_token_and_the_record_has_it() {
    let world = World::new().await;
    let script = "echo \"\\\"$GANTRY_FENCING_TOKEN\\\"\" >&3; echo \"logged\"";
    world.push_script("one", EXCLUSIVE, script).await;
    world.push_script("plain", "", "echo \"\\\"${GANTRY_FENCING_TOKEN-none}\\\"\" >&3").await;
    let _worker = world.start(worker::Config { fence_generation: 3, ..world.config("n1") }).await;
    let mut tokens = Vec::new();
    for _ in 0..3 {
        let reply = world.run("one", INPUT).await;
        let Ending::Succeeded(result) = reply.ending else { panic!("{:?}", reply.ending) };
        let token: String = serde_json::from_slice(&result.bytes).unwrap();
        let (generation, number) = token.split_once('.').unwrap();
        tokens.push((generation.parse::<i64>().unwrap(), number.parse::<i64>().unwrap()));
        assert_eq!(world.record.highest_fence().await.unwrap(), tokens.last().copied());
    }
    assert!(tokens.is_sorted_by(|a, b| a < b) && tokens.iter().all(|token| token.0 == 3), "{tokens:?}");
    let Ending::Succeeded(plain) = world.run("plain", "1").await.ending else { panic!("it failed") };
    assert_eq!(&plain.bytes[..], b"\"none\"\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_with_a_higher_fence_leaves_nothing_to_write_for_the_holder_before() {
    let world = World::new().await;
    let (pid, go) = (world.path("pid"), world.path("go"));
    world.push_script("one", EXCLUSIVE, &patient(&pid, &go, "echo late; echo 1 >&3")).await;
    let _worker = world.start(world.config("n1")).await;
    let request = submit(&world, "one", INPUT).await;
    lines_of(&pid).await;
    // As after a rebuilt ensemble: somebody who runs has a higher fence than the one who holds the lock now.
    world.push_script("plain", "", &patient(&world.path("pid2"), &world.path("go2"), "echo 1 >&3")).await;
    let successor = submit(&world, "plain", "1").await;
    lines_of(&world.path("pid2")).await;
    let fence = Fence { key: key(), generation: 1, number: 1 };
    world.record.take_fence(&TenantId::default(), &fence, successor.execute_id, 1).await.unwrap();
    fs::write(&go, "").unwrap();
    let row = world.until_state(request.execute_id, State::Delayed).await;
    assert_eq!((row.attempt, row.failures, row.log_lines), (1, 0, 0));
    fs::write(world.path("go2"), "").unwrap();
    assert_eq!(world.reply_to(&successor).await.ending.state(), State::Succeeded);
    assert_eq!(world.heard(&request.execute_id.to_string()).await, 0, "a reply of a stale holder");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_exclusive_runs_while_new_fences_are_lower_than_old_ones_until_the_generation_is_raised() {
    let world = World::new().await;
    world.push_script("one", EXCLUSIVE, "echo 1 >&3").await;
    world.push_script("plain", "", &patient(&world.path("pid"), &world.path("go"), "echo 1 >&3")).await;
    let worker = world.start(world.config("n1")).await;
    let holder = submit(&world, "plain", "1").await;
    lines_of(&world.path("pid")).await;
    let fence = Fence { key: "another".parse().unwrap(), generation: 0, number: i64::MAX / 2 };
    world.record.take_fence(&TenantId::default(), &fence, holder.execute_id, 1).await.unwrap();
    fs::write(world.path("go"), "").unwrap();
    assert_eq!(world.reply_to(&holder).await.ending.state(), State::Succeeded);
    worker.trigger.drain();
    worker.ended().await.unwrap();

    let worker = world.start(world.config("n2")).await;
    let request = submit(&world, "one", INPUT).await;
    let row = world.until_state(request.execute_id, State::Delayed).await;
    assert_eq!((row.attempt, row.failures), (1, 0));
    assert!(row.timeline.iter().all(|event| event.event != "waiting_lock"), "{:?}", row.timeline);
    worker.trigger.drain();
    worker.ended().await.unwrap();

    let _worker = world.start(worker::Config { fence_generation: 1, ..world.config("n3") }).await;
    world.dispatch_due().await;
    assert_eq!(world.reply_to(&request).await.ending.state(), State::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_never_exceeded_and_its_executions_are_listed() {
    let world = World::new().await;
    let running = world.path("running");
    fs::create_dir(&running).unwrap();
    let counts = world.path("counts");
    let script = format!(
        "mkdir {0}/$$; for i in 1 2 3 4 5; do ls {0} | wc -l >> {1}; sleep 0.02; done; rmdir {0}/$$; echo 1 >&3",
        running.display(),
        counts.display()
    );
    world.push_script("two", "max_running = 2", &script).await;
    let _one = world.start(world.config("n1")).await;
    let _two = world.start(world.config("n2")).await;
    let requests: Vec<_> = (0..8).map(|_| world.request("two", "1")).collect();
    for request in &requests {
        world.publish(request).await;
    }
    for request in &requests {
        assert_eq!(world.reply_to(request).await.ending.state(), State::Succeeded);
    }
    let most = lines_of(&counts).await.iter().map(|count| count.trim().parse::<u32>().unwrap()).max();
    assert_eq!(most, Some(2), "more or fewer than the limit at once");
    let limit = Contended::Limit { name: "model:two".parse::<LimitName>().unwrap(), max: 2 };
    eventually("the limit is free again", BOUND, async || {
        let queue = world.coordination.queue(&TenantId::default(), &limit).await.unwrap();
        queue.holders.is_empty() && queue.waiters.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_without_the_key_fails_with_words_that_name_it() {
    let world = World::new().await;
    world.push_script("one", EXCLUSIVE, "echo 1 >&3").await;
    let _worker = world.start(world.config("n1")).await;
    let Ending::Failed(failure) = world.run("one", "{}").await.ending else { panic!("not failed") };
    assert_eq!(failure.class, ErrorClass::Input);
    assert!(failure.message.contains("input.id"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_looks_for_its_stop_file_leaves_cleanly_and_its_execution_goes_back() {
    let world = World::new().await;
    let (ready, left) = (world.path("ready"), world.path("left"));
    let script = format!(
        "trap '' TERM; echo $$ > {0}; while [ ! -e \"$GANTRY_STOP_FILE\" ]; do sleep 0.01; done
         echo '\"half\"' >&3; echo done > {1}; exit 0",
        ready.display(),
        left.display()
    );
    world.push_script("careful", "[limits]\ngrace_ms = 30000", &script).await;
    let worker = world.start(worker::Config { drain_ms_max: 100, ..world.config("n1") }).await;
    let request = submit(&world, "careful", "1").await;
    lines_of(&ready).await;
    worker.trigger.drain();
    worker.ended().await.unwrap();
    assert_eq!(lines_of(&left).await, ["done"]);
    let row = world.find(request.execute_id).await.unwrap();
    assert_eq!((row.state, row.failures), (State::Delayed, 0));

    // The same, taken back by its caller.
    fs::remove_file(&ready).unwrap();
    let _worker = world.start(world.config("n2")).await;
    world.dispatch_due().await;
    lines_of(&ready).await;
    world.record.cancel(&TenantId::default(), request.execute_id).await.unwrap();
    assert_eq!(world.reply_to(&request).await.ending.state(), State::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_lock_kills_the_tree_and_gives_the_execution_back_without_a_failure() {
    let world = World::new().await;
    let pid = world.path("pid");
    let script = format!("trap '' TERM; echo $$ > {}; sleep 600", pid.display());
    world.push_script("one", EXCLUSIVE, &script).await;
    let _worker = world.start(world.config("n1")).await;
    let request = submit(&world, "one", INPUT).await;
    let pids = lines_of(&pid).await;
    assert!(is_alive(&pids[0]));
    world.lose_lock(&key()).await;
    until_dead(&pids[0]).await;
    let row = world.until_state(request.execute_id, State::Delayed).await;
    assert_eq!((row.attempt, row.failures), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_lock_and_no_limit_is_asked_for_by_an_execution_that_needs_none() {
    let world = World::new().await;
    world.push_script("plain", "", "echo 1 >&3").await;
    world.push_script("one", EXCLUSIVE, "echo 1 >&3").await;
    let _worker = world.start(world.config("n1")).await;
    let before = world.coordination.calls();
    for _ in 0..10 {
        assert_eq!(world.run("plain", INPUT).await.ending.state(), State::Succeeded);
    }
    assert_eq!(world.coordination.calls(), before);
    assert_eq!(world.run("one", INPUT).await.ending.state(), State::Succeeded);
    assert_eq!(world.coordination.calls(), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_module_tells_a_script_what_it_must_know() {
    let world = World::new().await;
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sdk/python");
    let ready = world.path("ready");
    let script = format!(
        "exec python3 - <<'PYTHON'
import sys, time
sys.path.insert(0, {module:?})
import gantry
generation, number = gantry.fencing_token()
print(gantry.execute_id(), gantry.attempt(), generation, number > 0, gantry.deadline() is not None, flush=True)
open({ready:?}, 'w').write('ready\\n')
while not gantry.should_stop():
    if open({ready:?}).read() == 'go\\n':
        gantry.result({{'sum': 3}})
        sys.exit()
    time.sleep(0.01)
sys.exit(3)
PYTHON"
    );
    world.push_script("one", EXCLUSIVE, &script).await;
    let worker = world.start(worker::Config { drain_ms_max: 100, ..world.config("n1") }).await;
    let mut request = world.request("one", INPUT);
    request.deadline = Some(Timestamp::now().checked_add(Duration::from_secs(600)).unwrap());
    world.publish(&request).await;
    lines_of(&ready).await;
    worker.trigger.drain();
    worker.ended().await.unwrap();
    let row = world.find(request.execute_id).await.unwrap();
    assert_eq!((row.state, row.failures), (State::Delayed, 0));

    fs::remove_file(&ready).unwrap();
    let _worker = world.start(world.config("n2")).await;
    world.dispatch_due().await;
    lines_of(&ready).await;
    fs::write(&ready, "go\n").unwrap();
    let Ending::Succeeded(result) = world.reply_to(&request).await.ending else { panic!("it failed") };
    assert_eq!(&result.bytes[..], br#"{"sum": 3}"#);
    let log = world.log(request.execute_id).await;
    let expected: Vec<_> =
        (1..=2).map(|attempt| format!("{} {attempt} 0 True True", request.execute_id)).collect();
    assert_eq!(log.iter().map(|line| line.line.as_str()).collect::<Vec<_>>(), expected);
}
