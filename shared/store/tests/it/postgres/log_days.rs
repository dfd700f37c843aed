//! The log by days: sealing and dropping its partitions.

use store::{Appended, LogStep};
use tokio_postgres::Client;

use crate::contract::{Env, OnPostgres, append, succeeded};

/// A running execution whose id is dated days ago, as if it had begun then; the partition of its day is there.
async fn begun_days_ago(env: &Env, client: &Client, days: i32) -> (store::NewExecution, store::Claim) {
    let (mut new, claim) = env.running().await;
    let id = new.execute_id;
    let ms = id.unix_ms() - u64::try_from(days).unwrap() * 86_400_000;
    new.execute_id = domain::ExecuteId::new(ms);
    client
        .execute(
            "update execution set execute_id = $1 where execute_id = $2",
            &[&new.execute_id.as_uuid(), &id.as_uuid()],
        )
        .await
        .unwrap();
    let sql = "select make_log_partitions((now() at time zone 'UTC')::date - $1::int, 1)";
    client.query_one(sql, &[&days]).await.unwrap();
    (new, claim)
}

async fn seal(env: &Env) -> LogStep {
    env.record.take_upkeep_fence(1).await.unwrap();
    env.record.seal_log(1).await.unwrap()
}

#[tokio::test]
async fn a_day_that_is_over_is_rewritten_in_the_order_of_its_key() {
    let fixture = OnPostgres::new().await;
    let other = crate::contract::connect(&fixture.config).await.0;
    let env = Env::new(fixture);
    let ((one, first), (two, second)) =
        (begun_days_ago(&env, &other, 3).await, begun_days_ago(&env, &other, 3).await);
    for base in 0..20 {
        for new in [&two, &one] {
            let stored = env.record.append(&[append(new, 1, base, &["a line"])]).await.unwrap();
            assert_eq!(stored, [Appended::Stored { last_log_id: base + 1 }]);
        }
    }
    assert_eq!(seal(&env).await, LogStep::Nothing, "its executions run");
    let mut first = first;
    let mut second = second;
    (first.last_log_id, second.last_log_id) = (20, 20);
    env.settle(&one, &first, succeeded("1")).await;
    assert_eq!(seal(&env).await, LogStep::Nothing, "one of its executions runs");
    env.settle(&two, &second, succeeded("2")).await;
    let before = (env.log(one.execute_id).await, env.log(two.execute_id).await);
    match seal(&env).await {
        LogStep::Done(day) => assert_eq!(day.lines, 40),
        other => panic!("{other:?}"),
    }
    assert_eq!((env.log(one.execute_id).await, env.log(two.execute_id).await), before);
    assert_eq!(seal(&env).await, LogStep::Nothing, "it is done");
    let sql = "select bool_and(is_next) from (
        select (execute_id, log_id) > lag((execute_id, log_id)) over (order by ctid) as is_next
        from log where execute_id < execute_id_floor(now() - interval '2 days')) l";
    assert!(other.query_one(sql, &[]).await.unwrap().get::<_, bool>(0));
}
