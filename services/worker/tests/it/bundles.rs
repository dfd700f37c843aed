//! Bundles that are not in the cache: the worker asks its sync, which here is the test.

use std::collections::VecDeque;

use domain::{ErrorClass, State};
use jiff::{SignedDuration, Timestamp};
use protocol::cache::{FetchAnswer, FetchRequest, socket};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::support::World;

const MANIFEST: &str = "runtime = \"process\"\ncommand = [\"/bin/bash\", \"run.sh\"]\n";

struct Sync(UnixListener);

impl Sync {
    fn new(world: &World) -> Self {
        std::fs::create_dir_all(world.cache()).unwrap();
        Self(UnixListener::bind(socket(&world.cache())).unwrap())
    }

    async fn next(&self) -> (FetchRequest, UnixStream) {
        let (mut stream, _) = self.0.accept().await.unwrap();
        let mut line = String::new();
        BufReader::new(&mut stream).read_line(&mut line).await.unwrap();
        (serde_json::from_str(&line).unwrap(), stream)
    }
}

async fn answer(mut stream: UnixStream, answer: &FetchAnswer) {
    let line = format!("{}\n", serde_json::to_string(answer).unwrap());
    stream.write_all(line.as_bytes()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_is_missing_is_asked_for_until_it_is_there() {
    let world = World::new().await;
    let sync = Sync::new(&world);
    let digest = world.push_uncached("late", MANIFEST, "cat >&3").await;
    let _worker = world.start(world.config("n1")).await;
    let request = world.request("late", "[8]");
    world.publish(&request).await;
    let mut answers = VecDeque::from([
        FetchAnswer::Refused { retry_after_ms: 1 },
        FetchAnswer::Unavailable { reason: "away".to_owned() },
        FetchAnswer::Ready,
    ]);
    while let Some(next) = answers.pop_front() {
        let (asked, stream) = sync.next().await;
        assert_eq!(asked.fetch, digest);
        if next == FetchAnswer::Ready {
            world.cache_bundle(digest, "cat >&3");
        }
        answer(stream, &next).await;
    }
    assert_eq!(world.reply_to(&request).await.ending.result().unwrap().bytes, "[8]");
    let execution = world.find(request.execute_id).await.unwrap();
    let events: Vec<_> = execution.timeline.iter().map(|event| event.event.as_str()).collect();
    assert_eq!(events, ["claimed", "fetching", "executing", "storing", "succeeded"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_cannot_be_had_is_a_failure_of_ours() {
    let world = World::new().await;
    let sync = Sync::new(&world);
    world.push_uncached("gone", MANIFEST, "").await;
    let _worker = world.start(world.config("n1")).await;
    let request = world.request("gone", "1");
    world.publish(&request).await;
    let (_, stream) = sync.next().await;
    answer(stream, &FetchAnswer::Missing).await;
    let execution = world.until_state(request.execute_id, State::Delayed).await;
    assert_eq!(execution.failures, 1);
    assert_eq!(execution.timeline.last().unwrap().event, "gave_up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_is_away_is_waited_for_up_to_the_fetch_timeout() {
    let world = World::new().await;
    world.push_uncached("lonely", MANIFEST, "").await;
    let config = worker::Config { fetch_timeout_ms: 300, ..world.config("n1") };
    let _worker = world.start(config).await;
    let request = world.request("lonely", "1");
    world.publish(&request).await;
    let execution = world.until_state(request.execute_id, State::Delayed).await;
    assert_eq!(execution.failures, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passes_during_the_fetch_is_kept() {
    let world = World::new().await;
    let sync = Sync::new(&world);
    let ran = world.path("ran");
    let script = format!("echo x > {}", ran.display());
    let digest = world.push_uncached("overdue", MANIFEST, &script).await;
    let _worker = world.start(world.config("n1")).await;
    let mut request = world.request("overdue", "1");
    let deadline = Timestamp::now() + SignedDuration::from_millis(1_500);
    request.deadline = Some(deadline);
    world.publish(&request).await;
    let (_, stream) = sync.next().await;
    testkit::eventually("the deadline has passed", crate::support::BOUND, async || {
        Timestamp::now() > deadline
    })
    .await;
    world.cache_bundle(digest, &script);
    answer(stream, &FetchAnswer::Ready).await;
    let ending = world.reply_to(&request).await.ending;
    assert_eq!(ending.state(), State::Expired);
    assert_eq!(ending.failure().unwrap().class, ErrorClass::Deadline);
    assert!(!ran.exists());
}
