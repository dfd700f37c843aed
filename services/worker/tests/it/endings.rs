//! How executions end: one test per way.

use std::time::Duration;

use broker::{Broker as _, Control};
use bytes::Bytes;
use domain::limits::{OUTPUT_BYTES_MAX, RESULT_BYTES_MAX};
use domain::{Ending, ErrorClass, Failure, Level, Payload, State, TenantId};

use crate::support::{BOUND, ECHO, World, is_alive, lines_of, until_dead};

fn failure(ending: &Ending) -> &Failure {
    ending.failure().unwrap_or_else(|| panic!("{ending:?}"))
}

fn json(text: &'static str) -> Ending {
    Ending::Succeeded(Payload::new(Payload::JSON, Bytes::from_static(text.as_bytes())))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_turns_its_input_into_a_result_and_its_output_into_log_lines() {
    let world = World::new().await;
    let script =
        "echo first; echo 'DEBUG: second'; echo 'third' >&2; printf 'a\\0b\\n' >&2; cat >&3; echo last";
    world.push_script("cat", "", script).await;
    let worker = world.start(world.config("n1")).await;
    let request = world.request("cat", "{\"n\": 1}");
    world.publish(&request).await;
    let reply = world.reply_to(&request).await;
    assert_eq!((reply.attempt, &reply.ending), (1, &json("{\"n\": 1}")));
    assert!(reply.run > Duration::ZERO);
    let log = world.log(request.execute_id).await;
    let mut lines: Vec<_> = log.iter().map(|line| (line.level, line.line.as_str())).collect();
    lines.sort_by_key(|(_, line)| ["first", "second", "last", "third"].iter().position(|w| line.contains(w)));
    assert_eq!(
        lines,
        [
            (Level::Warning, "a\u{fffd}b"),
            (Level::Info, "first"),
            (Level::Debug, "DEBUG: second"),
            (Level::Info, "last"),
            (Level::Warning, "third"),
        ]
    );
    let execution = world.find(request.execute_id).await.unwrap();
    let events: Vec<_> = execution.timeline.iter().map(|event| event.event.as_str()).collect();
    assert_eq!(events, ["claimed", "executing", "storing", "succeeded"]);
    assert!(execution.timeline.is_sorted_by_key(|event| event.at));
    assert_eq!(execution.version.map(|version| version.0), Some(1));
    worker.trigger.drain();
    worker.ended().await.unwrap();
    assert_eq!(std::fs::read_dir(world.path("scratch")).unwrap().count(), 0, "scratch is left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_builtin_ends_with_its_claim() {
    let world = World::new().await;
    world.push("echo", ECHO, "").await;
    let _worker = world.start(world.config("n1")).await;
    let request = world.request("echo", "[1]");
    world.publish(&request).await;
    let reply = world.reply_to(&request).await;
    assert_eq!((reply.attempt, &reply.ending), (1, &json("[1]")));
    let execution = world.find(request.execute_id).await.unwrap();
    assert_eq!((execution.state, execution.attempt), (State::Succeeded, 1));
    let events: Vec<_> = execution.timeline.iter().map(|event| event.event.as_str()).collect();
    assert_eq!(events, ["claimed", "succeeded"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_knows_what_it_is_and_nothing_of_the_worker() {
    let world = World::new().await;
    let script = "env | cut -d= -f1 | sort | tr '\\n' ' ' >&2; echo; test \"$HOME\" = \"$TMPDIR\" && touch $HOME/x; \
                  printf '[\"%s\", \"%s\", \"%s\", \"%s\"]' $GANTRY_EXECUTE_ID $GANTRY_ATTEMPT $GANTRY_MODEL \
                  $GANTRY_VERSION >&$GANTRY_RESULT_FD";
    world.push_script("env", "", script).await;
    let _worker = world.start(world.config("n1")).await;
    let request = world.request("env", "1");
    world.publish(&request).await;
    let ending = world.reply_to(&request).await.ending;
    let expected = format!("[\"{}\", \"1\", \"env\", \"1\"]", request.execute_id);
    assert_eq!(ending.result().map(|result| &result.bytes[..]), Some(expected.as_bytes()), "{ending:?}");
    let log = world.log(request.execute_id).await;
    let names = log.iter().map(|line| line.line.trim()).find(|line| line.contains("PATH")).unwrap();
    assert_eq!(
        names,
        "GANTRY_ATTEMPT GANTRY_EXECUTE_ID GANTRY_MODEL GANTRY_RESULT_FD GANTRY_STOP_FILE GANTRY_VERSION HOME LANG PATH PWD SHLVL \
         TMPDIR TZ _"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn results_come_from_where_the_manifest_says_and_are_checked() {
    let world = World::new().await;
    let last_line = "[result]\nfrom = \"last_line\"";
    let csv = "[result]\ncontent_type = \"text/csv\"";
    world.push_script("last", last_line, "echo working; echo '{\"sum\": 3}'").await;
    world.push_script("silent", "", "echo nothing to say").await;
    world.push_script("silent-csv", csv, "true").await;
    world.push_script("csv", csv, "printf 'a,b' >&3").await;
    world.push_script("broken", "", "printf '{\\n \"a\": }' >&3").await;
    world.push_script("large", "", &format!("head -c {} /dev/zero >&3", RESULT_BYTES_MAX + 1)).await;
    let largest = format!("printf '\"%0{}d\"' 0 >&3", RESULT_BYTES_MAX - 2);
    world.push_script("largest", "", &largest).await;
    let _worker = world.start(world.config("n1")).await;

    let request = world.request("last", "1");
    world.publish(&request).await;
    assert_eq!(world.reply_to(&request).await.ending, json("{\"sum\": 3}"));
    let log = world.log(request.execute_id).await;
    assert_eq!(log.iter().map(|line| line.line.as_str()).collect::<Vec<_>>(), ["working"]);

    assert_eq!(world.run("silent", "1").await.ending, json("null"));
    let csv = |text: &'static [u8]| Ending::Succeeded(Payload::new("text/csv", text));
    assert_eq!(world.run("silent-csv", "1").await.ending, csv(b""));
    assert_eq!(world.run("csv", "1").await.ending, csv(b"a,b"));
    let broken = world.run("broken", "1").await.ending;
    assert_eq!(failure(&broken).class, ErrorClass::Script);
    assert!(failure(&broken).message.contains("line 2 column 7"), "{broken:?}");
    let large = world.run("large", "1").await.ending;
    assert_eq!((large.state(), failure(&large).class), (State::Failed, ErrorClass::TooLarge));
    let largest = world.run("largest", "1").await.ending;
    assert_eq!(largest.result().map(|result| result.bytes.len()), Some(RESULT_BYTES_MAX), "{largest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_signals_and_programs_that_are_not_there_are_failures_with_their_evidence() {
    let world = World::new().await;
    let last_line = "[result]\nfrom = \"last_line\"";
    world.push_script("seven", last_line, "echo 'not a result'; exit 7").await;
    world.push_script("segv", "", "kill -SEGV $$").await;
    world.push("nothing", "runtime = \"process\"\ncommand = [\"no-such-program\"]\n", "").await;
    let _worker = world.start(world.config("n1")).await;
    let request = world.request("seven", "1");
    world.publish(&request).await;
    let seven = world.reply_to(&request).await.ending;
    assert_eq!((failure(&seven).class, failure(&seven).exit_code), (ErrorClass::Script, Some(7)));
    let log = world.log(request.execute_id).await;
    assert_eq!(log.iter().map(|line| line.line.as_str()).collect::<Vec<_>>(), ["not a result"]);
    let segv = world.run("segv", "1").await.ending;
    assert_eq!((failure(&segv).class, failure(&segv).signal), (ErrorClass::Signal, Some(11)));
    let nothing = world.run("nothing", "1").await.ending;
    assert_eq!((nothing.state(), failure(&nothing).class), (State::Failed, ErrorClass::Artifact));
    assert!(failure(&nothing).message.contains("no-such-program"), "{nothing:?}");
    let unknown = world.run("no-such-model", "1").await.ending;
    assert_eq!((unknown.state(), failure(&unknown).class), (State::Failed, ErrorClass::Input));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_runs_too_long_is_timed_out_with_its_whole_tree() {
    let world = World::new().await;
    let pids = world.path("pids");
    let script =
        format!("trap '' TERM; setsid sleep 600 & echo $! > {0}; echo $$ >> {0}; wait", pids.display());
    world.push_script("long", "[limits]\nrun_timeout_ms = 300\ngrace_ms = 100", &script).await;
    let _worker = world.start(world.config("n1")).await;
    let ending = world.run("long", "1").await.ending;
    assert_eq!((ending.state(), failure(&ending).class), (State::TimedOut, ErrorClass::Timeout));
    for pid in lines_of(&pids).await {
        assert!(!is_alive(&pid), "the reply came before the tree was dead");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_stored_whole_and_in_order_up_to_the_attempts_share() {
    let world = World::new().await;
    world.push_script("counted", "", "for i in $(seq 1 5000); do echo line $i; done").await;
    let flood = format!("head -c {} /dev/zero | tr '\\0' x | fold -w 999", OUTPUT_BYTES_MAX + 2_000);
    world.push_script("flood", "", &flood).await;
    let _worker = world.start(world.config("n1")).await;
    let request = world.request("counted", "1");
    world.publish(&request).await;
    world.reply_to(&request).await;
    let log = world.log(request.execute_id).await;
    assert_eq!(log.len(), 5_000);
    assert!(log.iter().enumerate().all(|(at, line)| line.line == format!("line {}", at + 1)));

    let request = world.request("flood", "1");
    world.publish(&request).await;
    assert_eq!(world.reply_to(&request).await.ending, json("null"));
    let log = world.log(request.execute_id).await;
    let stored: usize = log.iter().map(|line| line.line.len() + 1).sum();
    assert!(stored <= OUTPUT_BYTES_MAX + 200, "{stored}");
    let last = &log.last().unwrap().line;
    assert!(last.contains("bytes dropped"), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_ends_the_script_by_broadcast_and_by_renewal() {
    let world = World::new().await;
    let pid = world.path("pid");
    let script = format!(
        "trap 'echo asked to end; exit 1' TERM; echo $$ > {}; while :; do sleep 0.01; done",
        pid.display()
    );
    world.push_script("endless", "", &script).await;
    let worker = world.start(world.config("n1")).await;
    for with_broadcast in [true, false] {
        let request = world.request("endless", "1");
        world.publish(&request).await;
        let pids = lines_of(&pid).await;
        world.record.cancel(&TenantId::default(), request.execute_id).await.unwrap().unwrap();
        if with_broadcast {
            world.broker.broadcast(Control::Cancel(request.execute_id));
        }
        let ending = world.reply_to(&request).await.ending;
        assert_eq!((ending.state(), failure(&ending).class), (State::Cancelled, ErrorClass::Cancelled));
        assert!(!is_alive(&pids[0]));
        let log = world.log(request.execute_id).await;
        assert!(log.iter().any(|line| line.line == "asked to end"), "{log:?}");
        std::fs::remove_file(&pid).unwrap();
    }
    worker.trigger.drain();
    worker.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_retried_as_the_policy_says_and_the_last_one_stands() {
    let world = World::new().await;
    let policy = "[retry]\nattempts = 2\nbackoff_ms = 1\non = [\"script\"]";
    world.push_script("flaky", policy, "echo attempt $GANTRY_ATTEMPT; exit 3").await;
    world.push_script("other", "[retry]\nattempts = 2\nbackoff_ms = 1\non = [\"timeout\"]", "exit 3").await;
    let _worker = world.start(world.config("n1")).await;
    let request = world.request("flaky", "1");
    world.publish(&request).await;
    world.until_state(request.execute_id, State::Delayed).await;
    assert_eq!(world.heard(&request.execute_id.to_string()).await, 0, "a reply before the end");
    world.dispatch_due().await;
    let reply = world.reply_to(&request).await;
    assert_eq!((reply.attempt, reply.ending.state()), (2, State::Failed));
    let log = world.log(request.execute_id).await;
    assert_eq!(
        log.iter().map(|line| (line.attempt, line.line.as_str())).collect::<Vec<_>>(),
        [(1, "attempt 1"), (2, "attempt 2")]
    );
    let execution = world.find(request.execute_id).await.unwrap();
    let events: Vec<_> = execution.timeline.iter().map(|event| event.event.as_str()).collect();
    assert!(events.contains(&"retried") && events.last() == Some(&"failed"), "{events:?}");
    assert_eq!(execution.failures, 0);
    assert_eq!(world.run("other", "1").await.attempt, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn echo_returns_its_input_whatever_it_is() {
    let world = World::new().await;
    world.push("echo", ECHO, "").await;
    let _worker = world.start(world.config("n1")).await;
    let mut request = world.request("echo", "{\"a\": [1, 2]}");
    world.publish(&request).await;
    assert_eq!(world.reply_to(&request).await.ending, json("{\"a\": [1, 2]}"));
    request = world.request("echo", "1");
    request.input = Payload::new("application/octet-stream", &b"\0\xff"[..]);
    world.publish(&request).await;
    assert_eq!(world.reply_to(&request).await.ending, Ending::Succeeded(request.input));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_is_killed_takes_its_tree_along_and_the_execution_goes_on_later() {
    let world = World::new().await;
    let pids = world.path("pids");
    let script =
        format!("setsid sleep 600 & echo $PPID > {0}; echo $! >> {0}; echo $$ >> {0}; wait", pids.display());
    world.push_script("victim", "", &script).await;
    let _worker = world.start(world.config("n1")).await;
    let request = world.request("victim", "1");
    world.publish(&request).await;
    let pids = tokio::time::timeout(BOUND, async {
        loop {
            let pids = lines_of(&pids).await;
            if pids.len() == 3 {
                return pids;
            }
        }
    });
    let pids = pids.await.unwrap();
    let shim = rustix::process::Pid::from_raw(pids[0].parse().unwrap()).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    for pid in &pids[1..] {
        until_dead(pid).await;
    }
    let execution = world.until_state(request.execute_id, State::Delayed).await;
    assert_eq!(execution.failures, 1);
}
