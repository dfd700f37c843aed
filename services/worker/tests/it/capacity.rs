//! The cap, the full node, and the drain.

use std::collections::HashSet;
use std::fs;

use broker::Broker as _;
use domain::{QueueName, State, VersionNumber};
use jiff::Timestamp;
use protocol::{Drain, DrainMode, NodeSettings};
use testkit::eventually;

use crate::support::{BOUND, ECHO, World, is_alive, lines_of, unix_ms};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_never_runs_more_than_its_cap_counted_from_outside() {
    let world = World::new().await;
    let running = world.path("running");
    fs::create_dir(&running).unwrap();
    let counts = world.path("counts");
    // Each script counts who is there while it is.
    let script = format!(
        "mkdir {0}/$$; for i in 1 2 3 4 5; do ls {0} | wc -l >> {1}; sleep 0.01; done; rmdir {0}/$$; echo 1 >&3",
        running.display(),
        counts.display()
    );
    world.push_script("count", "", &script).await;
    let _worker = world.start(worker::Config { slots: 3, ..world.config("n1") }).await;
    let requests: Vec<_> = (0..24).map(|_| world.request("count", "1")).collect();
    for request in &requests {
        world.publish(request).await;
    }
    for request in &requests {
        assert_eq!(world.reply_to(request).await.ending.state(), State::Succeeded);
    }
    let most = lines_of(&counts).await.iter().map(|count| count.trim().parse::<u32>().unwrap()).max();
    assert_eq!(most, Some(3), "more or fewer than the cap at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_needs_a_slot_of_the_node_also_if_its_alias_named_a_builtin_before() {
    let world = World::new().await;
    world.push("moving", ECHO, "").await;
    let (running, counts, go) = (world.path("running"), world.path("counts"), world.path("go"));
    fs::create_dir(&running).unwrap();
    let counted = |work: &str| {
        let (running, counts) = (running.display(), counts.display());
        format!("mkdir {running}/$$; ls {running} | wc -l >> {counts}; {work} rmdir {running}/$$; echo 1 >&3")
    };
    let until_go = format!("while [ ! -e {} ]; do sleep 0.01; done;", go.display());
    world.push_script("wait", "", &counted(&until_go)).await;
    let _worker = world.start(worker::Config { slots: 1, ..world.config("n1") }).await;
    world.run("moving", "1").await;
    let first = world.request("wait", "1");
    world.publish(&first).await;
    lines_of(&counts).await;
    world.push_script("moving", "", &counted("")).await;
    // The worker looks at the alias again within a second; until then it runs the builtin. The first message after that is
    // still taken for one.
    let moved = testkit::eventually_some("one is of the new version", BOUND, async || {
        let request = world.request("moving", "1");
        world.publish(&request).await;
        let claimed = async || world.find(request.execute_id).await.filter(|row| row.attempt == 1);
        let row = testkit::eventually_some("it is claimed", BOUND, claimed).await;
        (row.version == Some(VersionNumber(2))).then_some(request)
    })
    .await;
    fs::write(&go, "").unwrap();
    for request in [&first, &moved] {
        assert_eq!(world.reply_to(request).await.ending.state(), State::Succeeded);
    }
    let counts = lines_of(&counts).await;
    assert_eq!(counts.len(), 2);
    assert!(counts.iter().all(|count| count.trim() == "1"), "more than the cap at once: {counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_node_gives_what_waits_back_through_the_record_and_takes_no_more_until_a_slot_is_free() {
    let world = World::new().await;
    let (pid, go) = (world.path("pid"), world.path("go"));
    let script = format!(
        "echo $$ > {}; while [ ! -e {} ]; do sleep 0.01; done; echo 1 >&3",
        pid.display(),
        go.display()
    );
    world.push_script("wait", "", &script).await;
    let _worker = world.start(worker::Config { slots: 1, full_wait_ms: 300, ..world.config("n1") }).await;
    let first = world.request("wait", "1");
    world.publish(&first).await;
    lines_of(&pid).await;
    let second = world.request("wait", "1");
    world.publish(&second).await;
    let row = world.until_state(second.execute_id, State::Queued).await;
    assert_eq!(row.attempt, 0);
    // The consumer is paused now: a further message stays in its queue.
    let third = world.request("wait", "1");
    world.publish(&third).await;
    eventually("the third message waits in its queue", BOUND, async || {
        world.broker.depth(&QueueName::default()).await.unwrap() == Some(1)
    })
    .await;
    assert!(world.find(third.execute_id).await.is_none());
    fs::write(&go, "").unwrap();
    assert_eq!(world.reply_to(&first).await.ending.state(), State::Succeeded);
    assert_eq!(world.reply_to(&third).await.ending.state(), State::Succeeded);
    // The record has it, due to be dispatched again, with the address of who waits.
    world.dispatch_due().await;
    assert_eq!(world.reply_to(&second).await.ending.state(), State::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_runs_and_leaves_what_waits_to_others() {
    let world = World::new().await;
    let (pid, go) = (world.path("pid"), world.path("go"));
    let script = format!(
        "echo $$ > {}; while [ ! -e {} ]; do sleep 0.01; done; echo 1 >&3",
        pid.display(),
        go.display()
    );
    world.push_script("wait", "", &script).await;
    let worker = world.start(worker::Config { slots: 1, ..world.config("n1") }).await;
    let (running, waiting) = (world.request("wait", "1"), world.request("wait", "1"));
    world.publish(&running).await;
    lines_of(&pid).await;
    world.publish(&waiting).await;
    worker.trigger.drain();
    eventually("what waits is back in its queue", BOUND, async || {
        world.broker.depth(&QueueName::default()).await.unwrap() == Some(1)
    })
    .await;
    fs::write(&go, "").unwrap();
    worker.ended().await.unwrap();
    assert_eq!(world.reply_to(&running).await.ending.state(), State::Succeeded);
    let _other = world.start(world.config("n2")).await;
    assert_eq!(world.reply_to(&waiting).await.ending.state(), State::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_takes_too_long_gives_back_without_a_failure() {
    for stop_at_once in [false, true] {
        let world = World::new().await;
        let pid = world.path("pid");
        world
            .push_script(
                "long",
                "[limits]\ngrace_ms = 100",
                &format!("trap '' TERM; echo $$ > {}; sleep 600", pid.display()),
            )
            .await;
        let drain_ms_max = if stop_at_once { 600_000 } else { 100 };
        let worker = world.start(worker::Config { drain_ms_max, ..world.config("n1") }).await;
        let request = world.request("long", "1");
        world.publish(&request).await;
        let pids = lines_of(&pid).await;
        if stop_at_once {
            worker.trigger.stop();
        } else {
            worker.trigger.drain();
        }
        worker.ended().await.unwrap();
        assert!(!is_alive(&pids[0]));
        let row = world.find(request.execute_id).await.unwrap();
        assert_eq!((row.state, row.attempt, row.failures), (State::Delayed, 1, 0));
        assert_eq!(row.timeline.last().unwrap().event, "yielded");
        assert_eq!(world.heard(&request.execute_id.to_string()).await, 0, "a reply before the end");
    }
}

fn settings(slots: Option<u16>, drain: Option<DrainMode>) -> NodeSettings {
    let now = Timestamp::now();
    NodeSettings { slots, drain: drain.map(|mode| Drain { mode, until: None, since: now }) }
}

/// What the node says of itself, once it says this.
async fn until_said(world: &World, name: &str, slots: u32, draining: bool) {
    eventually(&format!("{name} has {slots} slots, draining: {draining}"), BOUND, async || {
        let nodes = world.record.list_nodes().await.unwrap();
        let said = nodes.iter().find(|info| info.id.name().as_str() == name);
        said.is_some_and(|info| (info.slots, info.draining) == (slots, draining))
    })
    .await;
}

/// From when to when a script ran, in seconds, by itself.
type Ran = (f64, f64);

/// The most that ran at the moment when any of `ran` started that `counts`.
fn most_at_starts(ran: &[Ran], counts: impl Fn(f64) -> bool) -> usize {
    let at = |start: f64| ran.iter().filter(|(from, to)| (*from..*to).contains(&start)).count();
    ran.iter().map(|(start, _)| *start).filter(|start| counts(*start)).map(at).max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_go_from_4_to_16_to_2_under_load_and_the_cap_holds_at_each_instant() {
    let world = World::new().await;
    let file = world.path("ran");
    let script = format!(
        "from=$EPOCHREALTIME; sleep 0.1; echo $GANTRY_EXECUTE_ID $from $EPOCHREALTIME >> {}; echo 1 >&3",
        file.display()
    );
    world.push_script("count", "", &script).await;
    let _worker = world.start(worker::Config { slots: 4, ..world.config("n1") }).await;
    let requests: Vec<_> = (0..140).map(|_| world.request("count", "1")).collect();
    for request in &requests {
        world.publish(request).await;
    }
    let until_ran = async |count: usize| {
        eventually(&format!("{count} ran"), BOUND, async || lines_of(&file).await.len() >= count).await;
    };
    let now = || unix_ms() as f64 / 1_000.0;
    until_ran(12).await;
    let name = "n1".parse().unwrap();
    let grown_at = now();
    world.coordination().set_node(&name, &settings(Some(16), None)).await.unwrap();
    until_said(&world, "n1", 16, false).await;
    until_ran(90).await;
    world.coordination().set_node(&name, &settings(Some(2), None)).await.unwrap();
    // It is said after it is done.
    until_said(&world, "n1", 2, false).await;
    let shrunk_at = Timestamp::now();
    let mut before_it = HashSet::new();
    for request in &requests {
        assert_eq!(world.reply_to(request).await.ending.state(), State::Succeeded);
        let row = world.find(request.execute_id).await.unwrap();
        assert_eq!(row.attempt, 1);
        if row.claimed_at.unwrap() <= shrunk_at {
            before_it.insert(request.execute_id.to_string());
        }
    }
    let (mut ran, mut excess_until) = (Vec::<Ran>::new(), 0.0_f64);
    for line in lines_of(&file).await {
        let parts: Vec<_> = line.split(' ').collect();
        let (from, to): Ran = (parts[1].parse().unwrap(), parts[2].parse().unwrap());
        if before_it.contains(parts[0]) {
            excess_until = excess_until.max(to);
        }
        ran.push((from, to));
    }
    assert_eq!(ran.len(), requests.len());
    assert_eq!(most_at_starts(&ran, |start| start < grown_at), 4);
    let most = most_at_starts(&ran, |_| true);
    assert!((5..=16).contains(&most), "{most} ran at once");
    // What had its slot before runs to its end; nothing else begins until it has.
    assert_eq!(most_at_starts(&ran, |start| start > excess_until), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_asked_to_drain_takes_nothing_until_it_is_asked_back() {
    let world = World::new().await;
    let (pid, go) = (world.path("pid"), world.path("go"));
    let script = format!(
        "echo $$ > {}; while [ ! -e {} ]; do sleep 0.01; done; echo 1 >&3",
        pid.display(),
        go.display()
    );
    world.push_script("wait", "", &script).await;
    let _worker = world.start(worker::Config { slots: 1, ..world.config("n1") }).await;
    let (running, waiting) = (world.request("wait", "1"), world.request("wait", "1"));
    world.publish(&running).await;
    lines_of(&pid).await;
    world.publish(&waiting).await;
    let name = "n1".parse().unwrap();
    world.coordination().set_node(&name, &settings(None, Some(DrainMode::Finish))).await.unwrap();
    eventually("what waits is back in its queue", BOUND, async || {
        world.broker.depth(&QueueName::default()).await.unwrap() == Some(1)
    })
    .await;
    until_said(&world, "n1", 1, true).await;
    fs::write(&go, "").unwrap();
    assert_eq!(world.reply_to(&running).await.ending.state(), State::Succeeded);
    assert_eq!(world.broker.depth(&QueueName::default()).await.unwrap(), Some(1), "its slot is free");
    world.coordination().set_node(&name, &settings(None, None)).await.unwrap();
    assert_eq!(world.reply_to(&waiting).await.ending.state(), State::Succeeded);
    until_said(&world, "n1", 1, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_on_a_node_that_is_drained_at_once_is_given_back_without_a_failure() {
    for mode in [DrainMode::Requeue, DrainMode::Kill] {
        let world = World::new().await;
        let pid = world.path("pid");
        let grace_ms = if mode == DrainMode::Kill { 60_000 } else { 100 };
        let script = format!("trap '' TERM; echo $$ > {}; sleep 600", pid.display());
        world.push_script("long", &format!("[limits]\ngrace_ms = {grace_ms}"), &script).await;
        let worker = world.start(world.config("n1")).await;
        let request = world.request("long", "1");
        world.publish(&request).await;
        let pids = lines_of(&pid).await;
        let name = "n1".parse().unwrap();
        world.coordination().set_node(&name, &settings(None, Some(mode))).await.unwrap();
        let row = world.until_state(request.execute_id, State::Delayed).await;
        assert_eq!((row.attempt, row.failures), (1, 0), "{mode:?}");
        assert!(!is_alive(&pids[0]));
        until_said(&world, "n1", 4, true).await;
        // The process is still there, and ends as always.
        worker.trigger.drain();
        worker.ended().await.unwrap();
        // What was asked holds across its restart.
        let _again = world.start(world.config("n1")).await;
        until_said(&world, "n1", 4, true).await;
        world.dispatch_due().await;
        eventually("nobody takes it", BOUND, async || {
            world.broker.depth(&QueueName::default()).await.unwrap() == Some(1)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_with_8_running_and_8_prefetched_fails_nothing_and_doubles_nothing() {
    let world = World::new().await;
    let (ran, go) = (world.path("ran"), world.path("go"));
    let script = format!(
        "echo $GANTRY_EXECUTE_ID >> {}; while [ ! -e {} ]; do sleep 0.01; done; echo 1 >&3",
        ran.display(),
        go.display()
    );
    world.push_script("wait", "", &script).await;
    let worker = world.start(worker::Config { slots: 8, ..world.config("n1") }).await;
    let requests: Vec<_> = (0..16).map(|_| world.request("wait", "1")).collect();
    for request in &requests {
        world.publish(request).await;
    }
    eventually("8 run", BOUND, async || lines_of(&ran).await.len() == 8).await;
    assert_eq!(world.broker.depth(&QueueName::default()).await.unwrap(), Some(0), "8 are prefetched");
    worker.trigger.drain();
    eventually("8 are back", BOUND, async || {
        world.broker.depth(&QueueName::default()).await.unwrap() == Some(8)
    })
    .await;
    let _other = world.start(worker::Config { slots: 8, ..world.config("n2") }).await;
    fs::write(&go, "").unwrap();
    worker.ended().await.unwrap();
    for request in &requests {
        assert_eq!(world.reply_to(request).await.ending.state(), State::Succeeded);
        let row = world.find(request.execute_id).await.unwrap();
        assert_eq!((row.attempt, row.failures), (1, 0));
    }
    let mut ran = lines_of(&ran).await;
    ran.sort();
    ran.dedup();
    assert_eq!(ran.len(), 16);
}
