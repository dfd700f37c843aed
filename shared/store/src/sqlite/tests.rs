use std::time::Duration;

use domain::{
    Digest, Ending, ErrorClass, ExecuteId, Failure, Level, LogLine, NodeId, Payload, QueueName, State,
    TenantId, VersionNumber, VersionSelector,
};
use protocol::{ReplyAddress, Request};
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::Settlement;

const LEASE: Duration = Duration::from_secs(30);

struct Env {
    record: Sqlite,
    directory: TempDir,
}

impl Env {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let record = Sqlite::open(&SqliteConfig { path: directory.path().join("gantry.db") }).unwrap();
        Self { record, directory }
    }

    /// Changes the past.
    fn sql(&self, sql: &str) {
        let connection = rusqlite::Connection::open(self.directory.path().join("gantry.db")).unwrap();
        connection.busy_timeout(Duration::from_secs(5)).unwrap();
        connection.execute_batch(sql).unwrap();
    }

    async fn accepted(&self) -> ExecuteId {
        let new = new_execution(now_id());
        assert_eq!(self.record.accept(std::slice::from_ref(&new)).await.unwrap(), [Acceptance::Recorded]);
        new.execute_id
    }

    async fn claimed(&self) -> (ExecuteId, Claim) {
        let id = self.accepted().await;
        match &self.record.claim(&[claim(id)]).await.unwrap()[..] {
            [ClaimAnswer::Claimed(claim)] => (id, claim.clone()),
            other => panic!("{other:?}"),
        }
    }

    async fn row(&self, id: ExecuteId) -> protocol::http::Execution {
        self.record.find_execution(&TenantId::default(), id).await.unwrap().unwrap().execution
    }
}

use crate::Claim;

fn now_id() -> ExecuteId {
    ExecuteId::new(threads::now_us().unsigned_abs() / 1_000)
}

fn new_execution(execute_id: ExecuteId) -> NewExecution {
    let input = Payload::new(Payload::JSON, &b"{}"[..]);
    NewExecution {
        execute_id,
        tenant: TenantId::default(),
        model: "echo".parse().unwrap(),
        version: VersionNumber(1),
        queue: QueueName::default(),
        input_digest: Digest::of(&input.bytes),
        input,
        reply_address: None,
        deadline: None,
        traceparent: None,
        idempotency_key: None,
    }
}

fn address(n: i32) -> ReplyAddress {
    ReplyAddress { reply_to: "replies".to_owned(), correlation_id: n.to_string() }
}

fn node() -> NodeId {
    NodeId::new("box".parse().unwrap(), 1, 1)
}

fn claim(execute_id: ExecuteId) -> ClaimRequest {
    let input = Payload::new(Payload::JSON, &b"{}"[..]);
    ClaimRequest {
        claim_id: Uuid::from_u128(u128::from(execute_id.unix_ms()) << 64 | u128::from(rand_u64())),
        node: node(),
        lease: LEASE,
        tenant: TenantId::default(),
        input_digest: Digest::of(&input.bytes),
        request: Request {
            execute_id,
            model: "echo".parse().unwrap(),
            version: VersionSelector::default(),
            queue: QueueName::default(),
            input,
            deadline: None,
            reply_address: None,
            traceparent: None,
            recorded: false,
        },
        version: Some(VersionNumber(1)),
        redelivered: false,
    }
}

fn rand_u64() -> u64 {
    now_id().as_uuid().as_u64_pair().1
}

fn line(text: &str) -> LogLine {
    LogLine { level: Level::Info, at_unix_us: 5, text: text.to_owned(), continues: false }
}

fn append(execute_id: ExecuteId, attempt: i32, base: i64, lines: &[&str]) -> Append {
    Append { execute_id, attempt, base, lines: lines.iter().map(|text| line(text)).collect() }
}

fn finish(execute_id: ExecuteId, attempt: i32, base: i64, settlement: Settlement) -> Finish {
    Finish { execute_id, attempt, base, tail: Vec::new(), settlement, timeline: Vec::new() }
}

fn succeeded() -> Settlement {
    Settlement::Ended(Ending::Succeeded(Payload::new(Payload::JSON, &b"1"[..])))
}

#[tokio::test]
async fn an_execution_lives_from_acceptance_to_its_result() {
    let env = Env::new();
    let (id, claimed) = env.claimed().await;
    assert_eq!((claimed.attempt, claimed.last_log_id), (1, 0));
    let stored = env.record.append(&[append(id, 1, 0, &["a", "b"])]).await.unwrap();
    assert_eq!(stored, [Appended::Stored { last_log_id: 2 }]);
    let mut last = finish(id, 1, 2, succeeded());
    last.tail = vec![line("c")];
    for _ in 0..2 {
        let Finished::Stored(conclusion) = env.record.finish(&[last.clone()]).await.unwrap().remove(0) else {
            panic!("stale")
        };
        assert_eq!(conclusion.ending.unwrap().state(), State::Succeeded);
    }
    let log = env.record.list_log(id, 0, 10).await.unwrap();
    assert_eq!(
        log.iter().map(|l| (l.log_id, l.line.as_str())).collect::<Vec<_>>(),
        [(1, "a"), (2, "b"), (3, "c")]
    );
    let row = env.row(id).await;
    assert_eq!((row.state, row.log_lines, row.timeline.len()), (State::Succeeded, 3, 1));
    let late = env.record.append(&[append(id, 1, 3, &["late"])]).await.unwrap();
    assert_eq!(late, [Appended::Stale]);
}

#[tokio::test]
async fn a_bad_row_fails_for_good_and_leaves_its_batch_undone() {
    let env = Env::new();
    let ((good, _), (bad, _)) = (env.claimed().await, env.claimed().await);
    let batch = [append(good, 1, 0, &["fine"]), append(bad, 1, 0, &["a\0b"])];
    let error = env.record.append(&batch).await.unwrap_err();
    assert_eq!(error.recovery(), crate::Recovery::Permanent, "{error}");
    assert!(env.record.list_log(good, 0, 10).await.unwrap().is_empty());
    assert_eq!(env.record.append(&batch[..1]).await.unwrap(), [Appended::Stored { last_log_id: 1 }]);
}

#[tokio::test]
async fn every_message_gets_its_reply_but_no_message_two() {
    let env = Env::new();
    let id = now_id();
    let mut first = claim(id);
    first.request.reply_address = Some(address(1));
    let claimed = env.record.claim(std::slice::from_ref(&first)).await.unwrap();
    assert!(matches!(claimed[0], ClaimAnswer::Claimed(_)));
    let mut second = ClaimRequest { claim_id: Uuid::from_u128(2), ..first.clone() };
    let redelivered = ClaimRequest { claim_id: Uuid::from_u128(3), redelivered: true, ..first };
    for _ in 0..2 {
        assert_eq!(env.record.claim(std::slice::from_ref(&second)).await.unwrap(), [ClaimAnswer::NotNow]);
        assert_eq!(
            env.record.claim(std::slice::from_ref(&redelivered)).await.unwrap(),
            [ClaimAnswer::NotNow]
        );
    }
    second.claim_id = Uuid::from_u128(4);
    second.request.reply_address = Some(address(2));
    assert_eq!(env.record.claim(&[second]).await.unwrap(), [ClaimAnswer::NotNow]);
    env.record.finish(&[finish(id, 1, 0, succeeded())]).await.unwrap();
    let endings = env.record.endings(&[id]).await.unwrap();
    assert_eq!(endings[0].reply_addresses, [address(1), address(1), address(2)]);
}

#[tokio::test]
async fn a_lost_lease_is_taken_back_and_its_holder_is_stale() {
    let env = Env::new();
    let (id, _) = env.claimed().await;
    let all = |present: Option<Vec<NodeId>>| {
        let record = &env.record;
        async move { record.rescue(present.as_deref(), LEASE, Duration::from_secs(8), 10).await.unwrap() }
    };
    assert!(all(Some(vec![])).await.is_empty(), "it was renewed a moment ago");
    env.sql("update execution set renewed_at = renewed_at - 17000000");
    assert!(all(Some(vec![node()])).await.is_empty(), "its node is there");
    assert!(all(None).await.is_empty(), "its lease has not run out");
    let rescued = all(Some(vec![])).await;
    assert_eq!((rescued[0].execute_id, rescued[0].attempt, &rescued[0].conclusion), (id, 1, &None));
    assert_eq!(env.record.append(&[append(id, 1, 0, &["x"])]).await.unwrap(), [Appended::Stale]);
    let late = env.record.finish(&[finish(id, 1, 0, succeeded())]).await.unwrap();
    assert_eq!(late, [Finished::Stale]);
    assert_eq!(env.record.renew(&node(), &[(id, 1)], LEASE).await.unwrap(), []);
    assert_eq!(env.record.take_due(10).await.unwrap()[0].request.execute_id, id);
    assert_eq!(env.row(id).await.failures, 1);
}

#[tokio::test]
async fn a_lease_that_ran_out_is_lost_only_once_the_database_was_up_for_a_lease() {
    let mut env = Env::new();
    let (_, _) = env.claimed().await;
    env.sql("update execution set leased_until = leased_until - 60000000");
    let rescue = || env.record.rescue(None, LEASE, Duration::from_secs(8), 10);
    assert!(rescue().await.unwrap().is_empty());
    env.record.open_since -= 31_000_000;
    let rescue = || env.record.rescue(None, LEASE, Duration::from_secs(8), 10);
    assert_eq!(rescue().await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_third_failure_of_ours_is_the_end() {
    let env = Env::new();
    let (id, _) = env.claimed().await;
    for failures in 1..=3 {
        let rescued = env.record.rescue(Some(&[]), LEASE, Duration::ZERO, 10).await.unwrap();
        let conclusion = rescued[0].conclusion.clone();
        assert_eq!(conclusion.is_some(), failures == 3, "after {failures}");
        if let Some(conclusion) = conclusion {
            let failure = conclusion.ending.unwrap();
            assert_eq!(failure.state(), State::Dead);
            assert_eq!(failure.failure().unwrap().class, ErrorClass::NodeLost);
            return;
        }
        env.sql("update execution set not_before = 0");
        assert_eq!(env.record.take_due(10).await.unwrap().len(), 1);
        assert!(matches!(env.record.claim(&[claim(id)]).await.unwrap()[0], ClaimAnswer::Claimed(_)));
    }
}

#[tokio::test]
async fn what_nobody_published_is_taken_in_growing_steps() {
    let env = Env::new();
    let id = env.accepted().await;
    assert!(env.record.take_undispatched(10).await.unwrap().is_empty(), "its gateway has 5 s");
    for wait_us in [5_000_000, 5_000_000, 30_000_000, 120_000_000, 300_000_000, 300_000_000_i64] {
        let earlier = |by: i64| {
            env.sql(&format!("update execution set next_dispatch_at = next_dispatch_at - {by}"));
        };
        earlier(wait_us - 1_000_000);
        assert!(env.record.take_undispatched(10).await.unwrap().is_empty(), "before {wait_us}");
        earlier(1_000_000);
        let taken = env.record.take_undispatched(10).await.unwrap();
        assert_eq!(taken[0].request.execute_id, id);
        assert!(taken[0].request.recorded);
        env.sql("update execution set next_dispatch_at = next_dispatch_at");
    }
    env.record.mark_dispatched(&[id]).await.unwrap();
    env.sql("update execution set next_dispatch_at = 0");
    assert!(env.record.take_undispatched(10).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_overtaken_dispatch_is_taken_once_a_minute() {
    let env = Env::new();
    let lost = env.accepted().await;
    env.record.mark_dispatched(&[lost]).await.unwrap();
    let later = env.accepted().await;
    env.record.mark_dispatched(&[later]).await.unwrap();
    assert!(matches!(env.record.claim(&[claim(later)]).await.unwrap()[0], ClaimAnswer::Claimed(_)));
    let take = || async { env.record.take_overtaken(&[], 10).await.unwrap() };
    assert!(take().await.is_empty(), "claimed a moment ago");
    env.sql("update queue_mark set claimed_slot = claimed_slot - 8");
    let taken = take().await;
    assert_eq!(taken.iter().map(|d| d.request.execute_id).collect::<Vec<_>>(), [lost]);
    assert!(take().await.is_empty());
    env.record.mark_dispatched(&[lost]).await.unwrap();
    assert!(take().await.is_empty(), "dispatched again, nothing later was claimed");
    let empty = [QueueName::default()];
    env.sql("update execution set next_dispatch_at = 0");
    assert!(env.record.take_overtaken(&empty, 10).await.unwrap().is_empty(), "10 s are not over");
    env.sql("update execution set dispatched_at = dispatched_at - 11000000");
    assert_eq!(env.record.take_overtaken(&empty, 10).await.unwrap().len(), 1);
    assert!(env.record.take_overtaken(&empty, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_cancel_that_came_while_it_ran_ends_what_would_go_on() {
    let env = Env::new();
    let (id, _) = env.claimed().await;
    let tenant = TenantId::default();
    assert_eq!(env.record.cancel(&tenant, id).await.unwrap(), Some(CancelAnswer::Requested));
    let renewed = env.record.renew(&node(), &[(id, 1)], LEASE).await.unwrap();
    assert!(renewed[0].cancel_requested);
    let finished = env.record.finish(&[finish(id, 1, 0, Settlement::Yielded)]).await.unwrap();
    let Finished::Stored(conclusion) = &finished[0] else { panic!("stale") };
    assert_eq!(conclusion.ending.as_ref().map(Ending::state), Some(State::Cancelled));
    assert!(matches!(env.record.cancel(&tenant, id).await.unwrap(), Some(CancelAnswer::AlreadyEnded(_))));
}

#[tokio::test]
async fn a_key_attaches_until_it_runs_out() {
    let env = Env::new();
    let keyed =
        |execute_id| NewExecution { idempotency_key: Some("k".to_owned()), ..new_execution(execute_id) };
    let (first, second) = (keyed(now_id()), keyed(now_id()));
    for _ in 0..2 {
        assert_eq!(env.record.accept(std::slice::from_ref(&first)).await.unwrap(), [Acceptance::Recorded]);
    }
    let attached = Acceptance::Attached { execute_id: first.execute_id, state: State::Queued };
    assert_eq!(env.record.accept(std::slice::from_ref(&second)).await.unwrap(), [attached]);
    let other = NewExecution { input_digest: Digest::of(b"other"), ..keyed(now_id()) };
    assert_eq!(env.record.accept(&[other]).await.unwrap(), [Acceptance::KeyReused]);
    env.sql("update idempotency_key set expires_at = 0");
    assert_eq!(env.record.accept(&[second]).await.unwrap(), [Acceptance::Recorded]);
}

#[tokio::test]
async fn ids_outside_the_window_make_no_row() {
    let env = Env::new();
    let dated = |minutes: i64| ExecuteId::new((threads::now_us() / 1_000 + minutes * 60_000).unsigned_abs());
    for (minutes, inside) in [(-24 * 60 - 1, false), (-24 * 60 + 1, true), (4, true), (6, false)] {
        let id = dated(minutes);
        let accepted = env.record.accept(&[new_execution(id)]).await.unwrap();
        let expected = if inside { Acceptance::Recorded } else { Acceptance::OutsideWindow };
        assert_eq!(accepted, [expected], "{minutes} min");
        let claimed = env.record.claim(&[claim(dated(minutes))]).await.unwrap();
        assert_eq!(claimed[0] != ClaimAnswer::OutsideWindow, inside, "{minutes} min");
    }
}

#[tokio::test]
async fn a_lead_changes_hands_with_a_higher_fence_and_the_old_one_keeps_nothing_up() {
    let env = Env::new();
    let lease = Duration::from_secs(10);
    let a = env.record.lead("upkeep", "a", lease).await.unwrap();
    assert!(a.is_leader && env.record.upkeep(a.fence, 3).await.unwrap());
    let b = env.record.lead("upkeep", "b", lease).await.unwrap();
    assert_eq!((b.is_leader, b.holder.as_str()), (false, "a"));
    env.sql("update leader set leased_until = 0");
    let b = env.record.lead("upkeep", "b", lease).await.unwrap();
    assert!(b.is_leader && b.fence > a.fence);
    assert!(!env.record.upkeep(a.fence, 3).await.unwrap());
    assert!(!env.record.take_upkeep_fence(a.fence).await.unwrap());
    assert!(env.record.upkeep(b.fence, 3).await.unwrap());
}

#[test]
fn a_second_process_is_kept_out_and_told_so() {
    let env = Env::new();
    let config = SqliteConfig { path: env.directory.path().join("gantry.db") };
    let error = Sqlite::open(&config).err().unwrap();
    let text = std::error::Error::source(&error).unwrap().to_string();
    assert!(text.contains("in use by another process"), "{text}");
    drop(env.record);
    assert!(Sqlite::open(&config).is_ok());
}

#[tokio::test]
async fn an_overdue_execution_never_starts() {
    let env = Env::new();
    let overdue = |id| {
        let deadline = Some(jiff::Timestamp::from_microsecond(threads::now_us() - 1).unwrap());
        NewExecution { deadline, ..new_execution(id) }
    };
    let (swept, claimed) = (now_id(), now_id());
    env.record.accept(&[overdue(swept)]).await.unwrap();
    assert_eq!(env.record.expire(10).await.unwrap()[0].execute_id, swept);
    env.record.accept(&[overdue(claimed)]).await.unwrap();
    let answer = env.record.claim(&[claim(claimed)]).await.unwrap();
    assert!(matches!(&answer[0], ClaimAnswer::Ended(ended) if ended.ending.state() == State::Expired));
}

#[tokio::test]
async fn a_dead_letter_ends_what_is_queued_and_nothing_else() {
    let env = Env::new();
    let letter = |id| {
        let claim = claim(id);
        Requeue {
            tenant: claim.tenant,
            request: claim.request,
            input_digest: claim.input_digest,
            version: claim.version,
        }
    };
    let (unknown, queued, (running, _)) = (now_id(), env.accepted().await, env.claimed().await);
    for id in [unknown, queued] {
        let buried = env.record.bury(&letter(id), "given back 20 times").await.unwrap().unwrap();
        let failure = buried.ending.unwrap();
        assert_eq!(failure.failure().map(|f: &Failure| f.class), Some(ErrorClass::Internal));
        assert_eq!(env.row(id).await.state, State::Dead);
    }
    assert_eq!(env.record.bury(&letter(running), "x").await.unwrap(), None);
    assert_eq!(env.row(running).await.state, State::Running);
}
