use std::future::Future;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::join_all;
use store::{Append, Appended, FenceTaken, Finish, Finished, Settlement};
use testkit::eventually;

use crate::contract::{Env, Fixture, OnPostgres, append, claim_of, claimed, fence, finish, new_execution};

/// Waits until that many statements wait for the transaction of `client`, or for one that does.
async fn wait_for_waiters(client: &tokio_postgres::Client, count: i64) {
    let sql = "with recursive waiting (pid) as (
            select pid from pg_locks where not granted and pg_backend_pid() = any (pg_blocking_pids(pid))
            union select l.pid from pg_locks l join waiting w on w.pid = any (pg_blocking_pids(l.pid))
            where not l.granted)
        select count(*) from waiting";
    eventually("statements wait for a lock", Duration::from_secs(5), async || {
        client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) >= count
    })
    .await;
}

/// Runs `waiting`, which must not end before `until` does, then `then`, and returns how both ended.
async fn held_up<T>(
    waiting: impl Future<Output = T>,
    until: impl Future<Output = ()>,
) -> Result<T, impl Future<Output = T>> {
    let mut waiting = Box::pin(waiting);
    tokio::select! {
        biased;
        answer = &mut waiting => Ok(answer),
        () = until => Err(waiting),
    }
}

#[tokio::test]
async fn a_write_waits_for_the_fence_that_is_being_taken_and_then_is_refused() {
    let fixture = OnPostgres::with_pool(4).await;
    let other = crate::contract::connect(&fixture.config).await.0;
    let env = Env::new(fixture);
    let (new, claim) = env.running().await;
    env.take_fence(&new, &claim, &fence("k", 0, 5)).await;
    let successor = "begin; update lock_fence set number = 6";
    let line = || Append { fence: Some(fence("k", 0, 5)), ..append(&new, 1, 0, &["late"]) };
    let ending = || Finish { fence: Some(fence("k", 0, 5)), ..finish(&new, &claim, Settlement::YIELDED) };

    other.batch_execute(successor).await.unwrap();
    let batch = [line()];
    let Err(waiting) = held_up(env.record.append(&batch), wait_for_waiters(&other, 1)).await else {
        panic!("it wrote while its successor's fence was on its way");
    };
    other.batch_execute("commit").await.unwrap();
    assert_eq!(waiting.await.unwrap(), [Appended::Stale]);

    other.batch_execute("begin; update lock_fence set number = 7").await.unwrap();
    let batch = [Finish { fence: Some(fence("k", 0, 6)), ..ending() }];
    let Err(waiting) = held_up(env.record.finish(&batch), wait_for_waiters(&other, 1)).await else {
        panic!("it settled while its successor's fence was on its way");
    };
    other.batch_execute("commit").await.unwrap();
    assert_eq!(waiting.await.unwrap(), [Finished::Stale]);
}

#[tokio::test]
async fn a_fence_is_taken_only_after_the_writes_under_the_lower_one_are_done() {
    let fixture = OnPostgres::with_pool(4).await;
    let other = crate::contract::connect(&fixture.config).await.0;
    let env = Env::new(fixture);
    let ((one, first), (two, second)) = (env.running().await, env.running().await);
    env.take_fence(&one, &first, &fence("k", 0, 5)).await;
    // The line's number is dealt out, the line itself waits for another one of that number to be rolled back.
    other.batch_execute("begin").await.unwrap();
    let sql = "insert into log (execute_id, log_id, at, attempt, continues, level, line)
        values ($1, 1, now(), 1, false, 'I', '')";
    other.execute(sql, &[&one.execute_id.as_uuid()]).await.unwrap();
    let batch = [Append { fence: Some(fence("k", 0, 5)), ..append(&one, 1, 0, &["in time"]) }];
    let writing = held_up(env.record.append(&batch), wait_for_waiters(&other, 1)).await;
    let Err(writing) = writing else { panic!("a line of this number is on its way") };
    let higher = fence("k", 0, 6);
    let taking = match held_up(env.take_fence(&two, &second, &higher), wait_for_waiters(&other, 2)).await {
        Ok(taken) => panic!("{taken:?} in the middle of a write under the lower fence"),
        Err(taking) => taking,
    };
    other.batch_execute("rollback").await.unwrap();
    let (written, taken) = futures::join!(writing, taking);
    assert_eq!(written.unwrap(), [Appended::Stored { last_log_id: 1 }]);
    assert_eq!(taken, FenceTaken::Taken);
}

#[tokio::test]
async fn fences_taken_beside_overlapping_batches_never_wait_in_a_circle() {
    const KEYS: usize = 20;
    let fixture = OnPostgres::with_pool(24).await;
    let record = fixture.record();
    let executions: Vec<_> = (0..KEYS).map(|_| new_execution()).collect();
    record.accept(&executions).await.unwrap();
    let claims: Vec<_> = executions.iter().map(claim_of).collect();
    let answers = record.claim(&claims).await.unwrap();
    assert!(answers.into_iter().all(|answer| claimed(answer).attempt == 1));
    let key = |place: usize| format!("key {place}");
    let take = |place: usize, number: i64| {
        let (new, fence) = (&executions[place], fence(&key(place), 0, number));
        let record = &record;
        async move { record.take_fence(&new.tenant, &fence, new.execute_id, 1).await.unwrap() }
    };
    for place in 0..KEYS {
        assert_eq!(take(place, 1).await, FenceTaken::Taken);
    }
    let client = |number: usize| {
        let (record, executions, key, take) = (&record, &executions, &key, &take);
        async move {
            for round in 0..12 {
                let mut places: Vec<usize> = (0..KEYS).collect();
                places.rotate_left((7 * number + round) % KEYS);
                if number.is_multiple_of(2) {
                    places.reverse();
                }
                match number % 4 {
                    0 => {
                        let raised = i64::try_from(round + number).unwrap();
                        join_all(places.into_iter().take(6).map(|place| take(place, raised))).await;
                    }
                    1 => {
                        let held: Vec<_> =
                            places.iter().map(|&place| (executions[place].execute_id, 1)).collect();
                        record
                            .renew(&crate::contract::node("one"), &held, Duration::from_secs(30))
                            .await
                            .unwrap();
                    }
                    _ => {
                        let batch: Vec<_> = places
                            .into_iter()
                            .map(|place| Append {
                                fence: Some(fence(&key(place), 0, 1)),
                                ..append(&executions[place], 1, i64::try_from(round).unwrap(), &["x"])
                            })
                            .collect();
                        record.append(&batch).await.unwrap();
                    }
                }
            }
        }
    };
    assert!(join_all((0..12).map(client)).map(|done| done.len()).await == 12);
}
