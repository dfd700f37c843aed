//! Messages are hints: however often one comes, whatever it says, its execution runs once.

use std::collections::BTreeSet;
use std::fs;

use broker::Broker as _;
use domain::{ExecuteId, QueueName, State, TenantId};
use protocol::{HeaderValue, RawMessage, Reply, Request, header};
use testkit::eventually;

use crate::support::{BOUND, ECHO, World, lines_of, unix_ms};

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_delivery_starts_no_second_attempt_and_gets_its_reply() {
    let world = World::new().await;
    let (began, go) = (world.path("began"), world.path("go"));
    let script = format!(
        "echo x >> {}; while [ ! -e {} ]; do sleep 0.01; done; echo 1 >&3",
        began.display(),
        go.display()
    );
    world.push_script("wait", "", &script).await;
    let _worker = world.start(world.config("n1")).await;
    let mut request = world.request("wait", "1");
    world.publish(&request).await;
    lines_of(&began).await;
    // While it runs, with a reply address of its own.
    request.reply_address = Some(world.address("second"));
    world.publish(&request).await;
    eventually("the duplicate is settled", BOUND, async || {
        world.broker.depth(&QueueName::default()).await.unwrap() == Some(0)
    })
    .await;
    fs::write(&go, "").unwrap();
    // Once it has ended, another one.
    world.until_state(request.execute_id, State::Succeeded).await;
    request.reply_address = Some(world.address("third"));
    world.publish(&request).await;
    let id = request.execute_id.to_string();
    let mut bodies = BTreeSet::new();
    for correlation_id in [id.as_str(), "second", "third"] {
        let reply = Reply::parse(world.messages(correlation_id, 1).await.remove(0)).unwrap();
        assert_eq!((reply.attempt, reply.ending.state()), (1, State::Succeeded));
        bodies.insert(reply.ending.result().unwrap().bytes.clone());
    }
    assert_eq!(bodies.len(), 1);
    assert_eq!(lines_of(&began).await, ["x"]);
    assert_eq!(world.find(request.execute_id).await.unwrap().attempt, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_message_published_20_times_to_2_workers_runs_once_and_gets_20_equal_replies() {
    let world = World::new().await;
    let runs = world.path("runs");
    world.push_script("once", "", &format!("echo x >> {}; sleep 0.2; cat >&3", runs.display())).await;
    let _workers = (world.start(world.config("n1")).await, world.start(world.config("n2")).await);
    let mut request = world.request("once", "[1]");
    for number in 0..20 {
        request.reply_address = Some(world.address(&format!("reply-{number}")));
        world.publish(&request).await;
    }
    let mut replies = Vec::new();
    for number in 0..20 {
        replies.push(Reply::parse(world.messages(&format!("reply-{number}"), 1).await.remove(0)).unwrap());
    }
    assert!(replies.iter().all(|reply| reply.ending == replies[0].ending && reply.attempt == 1));
    assert_eq!(replies[0].ending.result().unwrap().bytes, "[1]");
    assert_eq!(lines_of(&runs).await, ["x"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_is_sent_only_once_the_record_says_the_same() {
    let world = World::new().await;
    world.push("echo", ECHO, "").await;
    world.push_script("cat", "", "cat >&3").await;
    // Renewals that meet settlements must not keep replies back.
    let config = worker::Config { renew_ms: 1, ..world.config("n1") };
    let _worker = world.start(config).await;
    for number in 0..60 {
        let model = if number % 10 == 0 { "cat" } else { "echo" };
        let request = world.request(model, "1");
        world.publish(&request).await;
        let reply = Reply::parse(world.next_reply().await).unwrap();
        let recorded = world.ending(reply.execute_id).await;
        assert_eq!(recorded, Some((reply.attempt, reply.ending)), "the reply came before the commit");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_messages_are_rejected_with_a_reason_and_spoil_no_neighbour() {
    let world = World::new().await;
    world.push("echo", ECHO, "").await;
    let _worker = world.start(world.config("n1")).await;
    let known = world.request("echo", "1");
    world.publish(&known).await;
    world.reply_to(&known).await;

    let bad = |correlation_id: &str, change: &dyn Fn(&mut RawMessage)| {
        let mut message =
            Request { reply_address: Some(world.address(correlation_id)), ..world.request("echo", "1") }
                .to_message();
        change(&mut message);
        message
    };
    let id = |id: String| move |message: &mut RawMessage| message.message_id = Some(id.clone());
    let year_2035 = ExecuteId::new(2_051_222_400_000).to_string();
    let long_ago = ExecuteId::new(unix_ms() - 25 * 3_600_000).to_string();
    let messages = [
        ("v4", "execute_id", bad("v4", &id("9f0a3f8e-2f3b-4c8e-9d7a-5b1f0c2d3e4f".to_owned()))),
        ("no-id", "execute_id", bad("no-id", &|message| message.message_id = None)),
        ("2035", "execute_id", bad("2035", &id(year_2035))),
        ("old", "execute_id", bad("old", &id(long_ago))),
        (
            "reused",
            "execute_id",
            bad("reused", &|message| {
                message.message_id = Some(known.execute_id.to_string());
                message.body = "2".into();
            }),
        ),
        (
            "no-model",
            "model",
            bad("no-model", &|message| {
                message.headers.remove(header::MODEL);
            }),
        ),
        (
            "no-schema",
            "schema",
            bad("no-schema", &|message| {
                message.headers.remove(header::SCHEMA);
            }),
        ),
        ("not-json", "parse", bad("not-json", &|message| message.body = "{".into())),
        ("empty", "empty", bad("empty", &|message| message.body = "".into())),
    ];
    let mut good = Vec::new();
    for (_, _, message) in &messages {
        world.publish_raw(message.clone()).await;
        let request = world.request("echo", "3");
        world.publish(&request).await;
        good.push(request);
    }
    for request in good {
        assert_eq!(world.reply_to(&request).await.ending.state(), State::Succeeded);
    }
    for (name, _, _) in &messages {
        let told = world.messages(name, 1).await.remove(0);
        assert_eq!(told.headers.get(header::STATE), Some(&HeaderValue::Text("rejected".to_owned())));
    }
    let rejected = world.broker.rejected();
    assert_eq!(rejected.len(), messages.len());
    for (name, code, message) in messages {
        let found = rejected.iter().find(|found| found.correlation_id.as_deref() == Some(name)).unwrap();
        assert_eq!(found.headers.get(header::REASON), Some(&HeaderValue::Text(code.to_owned())), "{name}");
        assert_eq!(found.body, message.body);
    }
    eventually("every message is settled", BOUND, async || {
        world.broker.depth(&QueueName::default()).await.unwrap() == Some(0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_says_recorded_and_is_not_runs_all_the_same() {
    let world = World::new().await;
    world.push("echo", ECHO, "").await;
    let _worker = world.start(world.config("n1")).await;
    let request = Request { recorded: true, ..world.request("echo", "5") };
    world.publish(&request).await;
    assert_eq!(world.reply_to(&request).await.ending.result().unwrap().bytes, "5");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cancelled_or_overdue_before_its_claim_is_not_started() {
    let world = World::new().await;
    let ran = world.path("ran");
    world.push_script("touch", "", &format!("echo x >> {}", ran.display())).await;
    let mut overdue = world.request("touch", "1");
    overdue.deadline = Some(jiff::Timestamp::now() - jiff::SignedDuration::from_secs(1));
    let mut cancelled = world.request("touch", "1");
    // Its row is made without a worker, as a gateway does.
    let requeue = store::Requeue {
        tenant: TenantId::default(),
        input_digest: cancelled.input_digest(),
        request: cancelled.clone(),
        version: None,
    };
    world.record.requeue(&[requeue], BOUND).await.unwrap();
    world.record.cancel(&TenantId::default(), cancelled.execute_id).await.unwrap().unwrap();
    cancelled.reply_address = Some(world.address("cancelled"));
    let _worker = world.start(world.config("n1")).await;
    eventually("the worker serves its queue", BOUND, async || {
        world.broker.publish(&QueueName::default(), overdue.to_message()).await.unwrap();
        world.heard(&overdue.execute_id.to_string()).await > 0
    })
    .await;
    assert_eq!(world.reply_to(&overdue).await.ending.state(), State::Expired);
    world.publish(&cancelled).await;
    assert_eq!(world.reply_to(&cancelled).await.ending.state(), State::Cancelled);
    assert!(!ran.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_record_is_away_deliveries_are_kept_and_they_run_when_it_is_back() {
    let world = World::new().await;
    world.push("echo", ECHO, "").await;
    let _worker = world.start(world.config("n1")).await;
    assert_eq!(world.run("echo", "0").await.ending.state(), State::Succeeded);
    // Another process has the database to itself, for longer than a claim is tried in one go.
    let held = world.path("held");
    let hold = String::from(
        "import sqlite3, sys, pathlib\nc = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
         c.execute('pragma busy_timeout = 10000')\nc.execute('begin immediate')\n\
         pathlib.Path(sys.argv[2]).write_text('held\\n')\nsys.stdin.read()\nc.execute('rollback')\n",
    );
    let mut holder = tokio::process::Command::new("python3")
        .args(["-c", &hold])
        .args([world.path("record.db"), held.clone()])
        .stdin(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    lines_of(&held).await;
    let requests: Vec<_> = (0..12).map(|_| world.request("echo", "1")).collect();
    let began = std::time::Instant::now();
    let mut published = requests.iter();
    eventually("the record has been away for 12 s", BOUND, async || {
        if let Some(request) = published.next() {
            world.publish(request).await;
        }
        began.elapsed().as_secs() >= 12
    })
    .await;
    assert_eq!(world.heard(&requests[0].execute_id.to_string()).await, 0);
    drop(holder.stdin.take());
    assert!(holder.wait().await.unwrap().success());
    for request in &requests {
        let reply = world.reply_to(request).await;
        assert_eq!((reply.attempt, reply.ending.state()), (1, State::Succeeded));
    }
}
