//! What is special about this adapter; the contract itself is in `tests/it/contract/`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use domain::{
    Digest, Ending, ExecuteId, Level, LogLine, NodeId, Payload, QueueName, State, TenantId, VersionNumber,
    VersionSelector,
};
use futures::future::join_all;
use protocol::Request;
use tempfile::TempDir;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::*;
use crate::{Recovery, Settlement, Writer, WriterConfig};

const LEASE: Duration = Duration::from_secs(30);

struct Env {
    record: Sqlite,
    directory: TempDir,
}

impl Env {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let record = Sqlite::open(&at(directory.path())).unwrap();
        Self { record, directory }
    }

    /// Another connection to the same file.
    fn connection(&self) -> rusqlite::Connection {
        let connection = rusqlite::Connection::open(at(self.directory.path()).path).unwrap();
        connection.busy_timeout(Duration::from_secs(5)).unwrap();
        connection
    }

    fn sql(&self, sql: &str) {
        self.connection().execute_batch(sql).unwrap();
    }

    async fn claimed(&self) -> ExecuteId {
        let new = new_execution();
        self.record.accept(std::slice::from_ref(&new)).await.unwrap();
        let answers = self.record.claim(&[claim(new.execute_id)]).await.unwrap();
        assert!(matches!(answers[..], [ClaimAnswer::Claimed(_)]), "{answers:?}");
        new.execute_id
    }
}

fn at(directory: &Path) -> SqliteConfig {
    SqliteConfig { path: directory.join("gantry.db") }
}

fn input() -> Payload {
    Payload::new(Payload::JSON, &b"{}"[..])
}

fn new_execution() -> NewExecution {
    NewExecution {
        execute_id: ExecuteId::new(threads::now_us().unsigned_abs() / 1_000),
        tenant: TenantId::default(),
        model: "echo".parse().unwrap(),
        version: VersionNumber(1),
        queue: QueueName::default(),
        input_digest: Digest::of(b"{}"),
        input: input(),
        reply_address: None,
        deadline: None,
        traceparent: None,
        attributes: domain::Attributes::default(),
        idempotency_key: None,
    }
}

fn node() -> NodeId {
    NodeId::new("box".parse().unwrap(), 1, 1)
}

fn claim(execute_id: ExecuteId) -> ClaimRequest {
    ClaimRequest {
        claim_id: Uuid::now_v7(),
        node: node(),
        lease: LEASE,
        tenant: TenantId::default(),
        input_digest: Digest::of(b"{}"),
        request: Request {
            execute_id,
            model: "echo".parse().unwrap(),
            version: VersionSelector::default(),
            queue: QueueName::default(),
            input: input(),
            deadline: None,
            reply_address: None,
            traceparent: None,
            attributes: domain::Attributes::default(),
            recorded: true,
        },
        version: Some(VersionNumber(1)),
        redelivered: false,
        result: None,
    }
}

fn append(execute_id: ExecuteId, base: i64, text: &str) -> Append {
    let line = LogLine { level: Level::Info, at_unix_us: 5, text: text.to_owned(), continues: false };
    Append { fence: None, execute_id, attempt: 1, base, lines: vec![line] }
}

fn finish(execute_id: ExecuteId, base: i64) -> Finish {
    let settlement = Settlement::Ended(Ending::Succeeded(input()));
    Finish { fence: None, execute_id, attempt: 1, base, tail: Vec::new(), settlement, timeline: Vec::new() }
}

#[test]
fn a_second_process_is_kept_out_and_told_so() {
    let env = Env::new();
    let error = Sqlite::open(&at(env.directory.path())).err().unwrap();
    let text = std::error::Error::source(&error).unwrap().to_string();
    assert!(text.contains("in use by another process"), "{text}");
    drop(env.record);
    assert!(Sqlite::open(&at(env.directory.path())).is_ok());
}

/// A kill leaves the files as they are at that moment, and nothing else.
#[tokio::test]
async fn what_was_answered_is_in_the_files() {
    let env = Env::new();
    let id = env.claimed().await;
    env.record.append(&[append(id, 0, "a line")]).await.unwrap();
    env.record.finish(&[finish(id, 1)]).await.unwrap();
    let new = new_execution();
    env.record.accept(std::slice::from_ref(&new)).await.unwrap();

    let killed = TempDir::new().unwrap();
    for file in ["gantry.db", "gantry.db-wal"] {
        std::fs::copy(env.directory.path().join(file), killed.path().join(file)).unwrap();
    }
    let record = Sqlite::open(&at(killed.path())).unwrap();
    assert_eq!(record.list_log(id, &LogFilter::after(0, 10)).await.unwrap().lines.len(), 1);
    let ending = record.find_ending(&TenantId::default(), id).await.unwrap();
    assert_eq!(ending.map(|(_, ending)| ending.state()), Some(State::Succeeded));
    assert_eq!(record.find_input(&new.tenant, new.execute_id).await.unwrap(), Some(input()));
}

#[tokio::test]
async fn a_lease_that_ran_out_is_lost_only_once_the_database_was_up_for_a_lease() {
    let mut env = Env::new();
    env.claimed().await;
    env.sql("update execution set leased_until = leased_until - 60000000");
    let rescued = env.record.rescue(None, LEASE, Duration::from_secs(8), 10).await.unwrap();
    assert_eq!(rescued, [], "its holder may be waiting for the database to come back");
    env.record.open_since -= 31_000_000;
    let rescued = env.record.rescue(None, LEASE, Duration::from_secs(8), 10).await.unwrap();
    assert_eq!(rescued.len(), 1);
}

#[tokio::test]
async fn what_was_claimed_before_its_confirm_was_noted_overtakes_what_was_dispatched_before_it() {
    let env = Env::new();
    let lost = new_execution();
    env.record.accept(std::slice::from_ref(&lost)).await.unwrap();
    env.record.mark_dispatched(&[lost.execute_id]).await.unwrap();
    env.claimed().await;
    env.sql("update queue_mark set claimed_slot = claimed_slot - 8");
    let taken = env.record.take_overtaken(&[], 10).await.unwrap();
    assert_eq!(taken.iter().map(|one| one.request.execute_id).collect::<Vec<_>>(), [lost.execute_id]);
}

#[tokio::test]
async fn a_message_of_another_time_is_neither_run_nor_lost() {
    let env = Env::new();
    let requeue = |id| {
        let ClaimRequest { tenant, request, input_digest, version, .. } = claim(id);
        Requeue { tenant, request: Request { recorded: false, ..request }, input_digest, version }
    };
    let (returned, dead) = (ExecuteId::new(1), ExecuteId::new(1));
    env.record.requeue(&[requeue(returned)], Duration::ZERO).await.unwrap();
    let endings = env.record.endings(&[returned]).await.unwrap();
    assert_eq!(endings[0].ending.as_ref().map(Ending::state), Some(State::Dead));
    assert_eq!(env.record.take_undispatched(10).await.unwrap(), []);
    assert_eq!(env.record.bury(&requeue(dead), "came back").await.unwrap(), None);
}

#[tokio::test]
async fn the_upkeep_forgets_the_keys_that_ran_out() {
    let env = Env::new();
    let fence = env.record.lead("upkeep", "a", LEASE).await.unwrap().fence;
    env.sql(
        "with recursive n (n) as (select 1 union all select n + 1 from n where n < 12000)
         insert into idempotency_key select 'default', 'echo', n, zeroblob(16), n from n;
         insert into idempotency_key values ('default', 'echo', 'kept', zeroblob(16), 9000000000000000);",
    );
    assert!(env.record.upkeep(fence, 3, Duration::from_secs(86_400)).await.unwrap());
    let left = env
        .connection()
        .query_row("select group_concat(key) from idempotency_key", [], |row| row.get::<_, String>(0));
    assert_eq!(left.unwrap(), "kept");
}

/// The sweeps run every two seconds, however many rows there are.
#[tokio::test]
async fn no_sweep_and_no_page_of_a_log_reads_a_whole_table() {
    let env = Env::new();
    for sql in [
        "select id from execution where state = 'queued' and dispatched_at is null and next_dispatch_at <= 1
             order by next_dispatch_at limit 9",
        "select id from execution where state = 'queued' and dispatched_at is not null and queue = 'q'
             and dispatched_at < 1 and coalesce(next_dispatch_at, 0) <= 1 order by dispatched_at limit 9",
        "select id from execution where state = 'delayed' and not_before <= 1 order by not_before limit 9",
        "select id from execution where state in ('queued', 'delayed') and deadline is not null and deadline <= 1
             order by deadline limit 9",
        "select node, count(*) from execution where state = 'running' group by node",
        "select line from log where execute_id = x'00' and log_id > 1 order by log_id limit 9",
    ] {
        let connection = env.connection();
        let mut plan = connection.prepare(&format!("explain query plan {sql}")).unwrap();
        let steps: Vec<String> =
            plan.query_map([], |row| row.get(3)).unwrap().collect::<Result<_, _>>().unwrap();
        let scans = |step: &String| step.starts_with("SCAN") && !step.contains("execution_running");
        assert!(!steps.iter().any(scans), "{steps:?} for {sql}");
        let sorts = |step: &String| step.contains("ORDER BY");
        assert!(!steps.iter().any(sorts), "{steps:?} for {sql}");
    }
}

#[tokio::test]
async fn a_crowd_of_callers_shares_batches_and_only_the_one_at_fault_fails() {
    let env = Env::new();
    let (writer, task) = Writer::new(Arc::new(env.record), WriterConfig::default());
    let mut tasks = JoinSet::new();
    tasks.spawn(task.run());
    let live = |n: usize| {
        let writer = writer.clone();
        async move {
            let new = new_execution();
            let id = new.execute_id;
            assert_eq!(writer.accept(new).await.unwrap(), Acceptance::Recorded);
            let claimed = writer.claim(vec![claim(id), claim(id)]).await;
            assert!(matches!(claimed[..], [Ok(ClaimAnswer::Claimed(_)), Ok(ClaimAnswer::NotNow)]));
            let line = if n == 40 { "a NUL \0" } else { "a line" };
            let appended = writer.append(append(id, 0, line)).await;
            if n == 40 {
                assert_eq!(appended.unwrap_err().recovery(), Recovery::Permanent);
            } else {
                assert_eq!(appended.unwrap(), Appended::Stored { last_log_id: 1 });
                let stored = writer.finish(finish(id, 1)).await.unwrap();
                assert!(matches!(stored, Finished::Stored(_)), "{stored:?}");
            }
            id
        }
    };
    join_all((0..200).map(live)).await;
    drop(writer);
    tasks.join_next().await.unwrap().unwrap();
    let record = Sqlite::open(&at(env.directory.path())).unwrap();
    let running = record.count_running().await.unwrap();
    assert_eq!(running, [(node(), 1)], "all but the one at fault have ended");
}
