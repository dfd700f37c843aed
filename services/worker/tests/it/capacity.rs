//! The cap, the full node, and the drain.

use std::fs;

use broker::Broker as _;
use domain::{QueueName, State};
use testkit::eventually;

use crate::support::{BOUND, World, is_alive, lines_of};

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
        world.broker.depth(&QueueName::default()).await.unwrap() == 1
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
        world.broker.depth(&QueueName::default()).await.unwrap() == 1
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
