//! The log by days: how a partition is rewritten while others read and write.

use std::future::Future;
use std::time::Duration;

use domain::ExecuteId;
use futures::future::join_all;
use store::{Appended, LogStep};
use testkit::eventually;
use tokio_postgres::Client;

use crate::contract::{Env, OnPostgres, append, connect, finish, succeeded};

const FENCE: i64 = 1;
const LIMIT: Duration = Duration::from_secs(20);

/// A record, and two more connections to it.
async fn env() -> (Env, Client, Client) {
    let fixture = OnPostgres::with_pool(12).await;
    let (one, two) = (connect(&fixture.config).await.0, connect(&fixture.config).await.0);
    let env = Env::new(fixture);
    env.record.take_upkeep_fence(FENCE).await.unwrap();
    (env, one, two)
}

async fn seal(env: &Env) -> LogStep {
    env.record.seal_log(FENCE).await.unwrap()
}

fn partition(id: ExecuteId) -> String {
    let at = jiff::Timestamp::from_millisecond(id.unix_ms().try_into().unwrap()).unwrap();
    at.to_zoned(jiff::tz::TimeZone::UTC).date().strftime("log_%Y%m%d").to_string()
}

/// Two executions that ended three days ago, with lines in the order they came.
async fn ended(env: &Env) -> [ExecuteId; 2] {
    let ((one, mut first), (two, mut second)) =
        (env.running_for_days(3).await, env.running_for_days(3).await);
    for base in 0..20 {
        for new in [&two, &one] {
            let stored = env.record.append(&[append(new, 1, base, &["a line"])]).await.unwrap();
            assert_eq!(stored, [Appended::Stored { last_log_id: base + 1 }]);
        }
    }
    (first.last_log_id, second.last_log_id) = (20, 20);
    env.settle(&one, &first, succeeded("1")).await;
    env.settle(&two, &second, succeeded("2")).await;
    [one.execute_id, two.execute_id]
}

/// Runs `work`, which must not end before `until` has; `then` is done while it goes on.
async fn meanwhile<T>(
    work: impl Future<Output = T>,
    until: impl Future<Output = ()>,
    then: impl Future<Output = ()>,
) -> T {
    tokio::pin!(work);
    tokio::select! {
        biased;
        _ = &mut work => panic!("it did not wait"),
        () = until => {}
    }
    futures::join!(work, then).0
}

/// Waits until somebody seals `partition` and has come as far as the swap, which waits for its turn.
async fn wait_for_swap(client: &Client, partition: &str) {
    let sql = format!(
        "select count(*) from pg_locks kept join pg_locks wanted using (pid)
         where kept.relation = '{partition}'::regclass and kept.mode = 'ShareLock' and kept.granted
             and wanted.relation = 'log'::regclass and wanted.mode = 'AccessExclusiveLock' and not wanted.granted"
    );
    eventually("the swap waits for the log", LIMIT, async || {
        client.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0) > 0
    })
    .await;
}

async fn commit(client: &Client) {
    client.batch_execute("commit").await.unwrap();
}

/// The tables that are left over.
async fn left_over(client: &Client) -> i64 {
    let sql = "select count(*) from pg_class where relname like 'log\\_%\\_sealed'
        and relnamespace = current_schema()::regnamespace";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_day_that_is_over_is_rewritten_in_the_order_of_its_key() {
    let (env, client, _) = env().await;
    let (open, mut claim) = env.running_for_days(3).await;
    let [one, two] = ended(&env).await;
    assert_eq!(seal(&env).await, LogStep::Nothing, "one of its executions runs");
    claim.last_log_id = 0;
    env.settle(&open, &claim, succeeded("3")).await;
    let before = (env.log(one).await, env.log(two).await);
    match seal(&env).await {
        LogStep::Done(day) => {
            assert_eq!((day.lines, format!("{}", day.day.strftime("log_%Y%m%d"))), (40, partition(one)))
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((env.log(one).await, env.log(two).await), before);
    assert_eq!(seal(&env).await, LogStep::Nothing, "it is done");
    let sql = format!(
        "select bool_and(is_next) from (
             select (execute_id, log_id) > lag((execute_id, log_id)) over (order by ctid) as is_next from {}) l",
        partition(one)
    );
    assert!(client.query_one(&sql, &[]).await.unwrap().get::<_, bool>(0));
    assert_eq!(left_over(&client).await, 0);
}

#[tokio::test]
async fn readers_are_let_in_and_writers_kept_out_and_the_swap_is_tried_until_the_log_is_idle() {
    let (env, client, reader) = env().await;
    let [one, _] = ended(&env).await;
    let name = partition(one);
    // A reader that stays.
    reader.batch_execute("begin; select from log limit 1").await.unwrap();
    let waits = async {
        wait_for_swap(&client, &name).await;
        assert_eq!(env.log(one).await.len(), 20);
        client.batch_execute("set lock_timeout = '50ms'").await.unwrap();
        let sql = format!(
            "insert into {name} select execute_id, log_id + 100, at, attempt, continues, level, line from {name} limit 1"
        );
        let refused = client.batch_execute(&sql).await.unwrap_err();
        assert_eq!(refused.code(), Some(&tokio_postgres::error::SqlState::LOCK_NOT_AVAILABLE));
        // Others are not held up for longer than the swap waits at a time.
        let (today, claim) = env.running().await;
        env.log_and_end(&today, &claim, &["meanwhile"]).await;
        wait_for_swap(&client, &name).await;
    };
    let sealed = meanwhile(seal(&env), waits, commit(&reader)).await;
    assert!(matches!(sealed, LogStep::Done(_)), "{sealed:?}");
    assert_eq!(env.log(one).await.len(), 20);
}

#[tokio::test]
async fn who_dies_half_way_leaves_nothing_and_the_next_one_does_it() {
    let (env, client, reader) = env().await;
    let [one, _] = ended(&env).await;
    let name = partition(one);
    reader.batch_execute("begin; select from log limit 1").await.unwrap();
    let dies = async {
        let sql = format!(
            "select pg_terminate_backend(pid) from pg_locks
             where relation = '{name}'::regclass and mode = 'ShareLock' and granted"
        );
        client.query(&sql, &[]).await.unwrap();
    };
    let sealed = meanwhile(env.record.seal_log(FENCE), wait_for_swap(&client, &name), dies).await;
    assert_ne!(sealed.unwrap_err().recovery(), store::Recovery::Permanent);
    reader.batch_execute("commit").await.unwrap();
    assert_eq!(left_over(&client).await, 0);
    assert_eq!(env.log(one).await.len(), 20);
    assert!(matches!(seal(&env).await, LogStep::Done(_)));
    assert_eq!(env.log(one).await.len(), 20);
}

#[tokio::test]
async fn whose_fence_is_overtaken_half_way_swaps_nothing() {
    let (env, client, reader) = env().await;
    let [one, _] = ended(&env).await;
    let name = partition(one);
    reader.batch_execute("begin; select from log limit 1").await.unwrap();
    let is_overtaken = async {
        // It holds its fence while it tries, and no longer.
        eventually("the next leader takes its fence", LIMIT, async || {
            env.record.take_upkeep_fence(FENCE + 1).await.unwrap_or(false)
        })
        .await;
        commit(&reader).await;
    };
    let sealed = meanwhile(seal(&env), wait_for_swap(&client, &name), is_overtaken).await;
    assert_eq!(sealed, LogStep::Stale);
    assert_eq!(left_over(&client).await, 0);
    let sql = "select count(*) from log_day";
    assert_eq!(client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 0);
    assert!(matches!(env.record.seal_log(FENCE + 1).await.unwrap(), LogStep::Done(_)));
    assert_eq!(env.log(one).await.len(), 20);
}

#[tokio::test]
async fn no_line_is_lost_or_refused_while_a_day_is_sealed_as_soon_as_it_can_be() {
    const WRITERS: usize = 8;
    const LINES: i64 = 40;
    let (env, _, _) = env().await;
    let mut running = Vec::new();
    for _ in 0..WRITERS {
        running.push(env.running_for_days(3).await);
    }
    let write = |(new, claim): &(store::NewExecution, store::Claim)| {
        let (env, new, mut claim) = (&env, new.clone(), claim.clone());
        async move {
            for base in 0..LINES {
                let stored = env.record.append(&[append(&new, 1, base, &["a line"])]).await.unwrap();
                assert_eq!(stored, [Appended::Stored { last_log_id: base + 1 }]);
            }
            claim.last_log_id = LINES;
            let mut last = finish(&new, &claim, succeeded("done"));
            last.tail = crate::contract::lines(&["the last one"]);
            assert!(matches!(env.finish(&last).await, store::Finished::Stored(_)));
        }
    };
    let sealing = async {
        loop {
            match env.record.seal_log(FENCE).await {
                Ok(LogStep::Done(day)) => return day.lines,
                Ok(LogStep::Nothing) => {}
                Ok(LogStep::Stale) => panic!("its fence is the highest"),
                Err(error) => assert_ne!(error.recovery(), store::Recovery::Permanent, "{error:?}"),
            }
        }
    };
    let (_, sealed) = futures::join!(join_all(running.iter().map(write)), sealing);
    let lines = usize::try_from(LINES).unwrap() + 1;
    assert_eq!(sealed, (WRITERS * lines) as u64);
    for (new, _) in &running {
        let numbers: Vec<i64> = env.log(new.execute_id).await.into_iter().map(|(log_id, _)| log_id).collect();
        assert_eq!(numbers, (1..=LINES + 1).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn the_drop_of_a_day_waits_for_the_log_only_a_little_at_a_time() {
    let (env, client, reader) = env().await;
    let [one, _] = ended(&env).await;
    reader.batch_execute("begin; select from log limit 1").await.unwrap();
    let keep = store::LogRetention { age_max: Some(Duration::from_secs(86_400)), bytes_max: None };
    let waits = async {
        let sql = "select count(*) from pg_locks
            where relation = 'log'::regclass and mode = 'AccessExclusiveLock' and not granted";
        eventually("the drop waits for the log", LIMIT, async || {
            client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 0
        })
        .await;
        let (today, claim) = env.running().await;
        env.log_and_end(&today, &claim, &["meanwhile"]).await;
    };
    let dropped = meanwhile(env.record.drop_log(FENCE, keep), waits, commit(&reader)).await;
    assert!(matches!(dropped, Ok(LogStep::Done(_))), "{dropped:?}");
    assert!(env.record.is_log_dropped(one).await.unwrap());
    // It is not made again.
    assert!(env.record.upkeep(FENCE, 3, Duration::from_secs(86_400)).await.unwrap());
    let day = format!("select make_log_partitions(to_date('{}', '\"log_\"YYYYMMDD'), 1)", partition(one));
    assert_eq!(client.query_one(&day, &[]).await.unwrap().get::<_, i32>(0), 0);
}

#[tokio::test]
async fn how_the_log_lies_on_the_disk_is_told_by_day() {
    let fixture = OnPostgres::new().await;
    let config = fixture.config.clone();
    let env = Env::new(fixture);
    env.record.take_upkeep_fence(FENCE).await.unwrap();
    ended(&env).await;
    assert!(matches!(seal(&env).await, LogStep::Done(_)));
    let parts = store::postgres::log_status(&config, 5).await.unwrap();
    let sealed: Vec<_> = parts.iter().filter(|part| part.sealed_at.is_some()).collect();
    assert_eq!((parts.len(), sealed.len()), (6, 1));
    assert_eq!(sealed[0].lines, 40);
    assert!(sealed[0].correlation > Some(0.999), "{sealed:?}");
    let cost = sealed[0].reads.unwrap();
    assert_eq!((cost.reads, cost.lines), (2, 20.0));
    assert!(cost.pages >= cost.pages_min && cost.pages < 10.0, "{cost:?}");
    assert!(parts.iter().filter(|part| part.sealed_at.is_none()).all(|part| part.lines == 0));
}
