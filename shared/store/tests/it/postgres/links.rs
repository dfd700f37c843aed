//! Links that are slow, silent or lossy.

use std::time::Duration;

use futures::future::join_all;
use store::postgres::{Postgres, PostgresConfig};
use store::{Appended, Finished, LogFilter, Record, Recovery, StoreError};
use testkit::{Fault, Proxy, fresh_name, servers};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};

use super::{LIMIT, on, until_known};
use crate::contract::{OnPostgres, append, claim_of, claimed, finish, new_execution, succeeded};

#[tokio::test]
async fn a_silent_server_costs_a_call_its_limit_and_the_next_one_nothing() {
    let proxy = Proxy::start(&servers().postgres()).await;
    let (record, _config) = on(&proxy.url(&servers().postgres())).await;
    record.ping().await.unwrap();
    proxy.set(Fault::Blackhole);
    let error = timeout(LIMIT, record.ping()).await.expect("the limit was not kept").unwrap_err();
    assert!(matches!(error, StoreError::Timeout { .. }), "{error:?}");
    assert_eq!(error.recovery(), Recovery::Unknown);
    // There is one connection at most: had the silent one gone back, this call would wait for it.
    let (connections, start) = (proxy.connections(), Instant::now());
    proxy.set(Fault::Pass);
    record.ping().await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(proxy.connections(), connections + 1);
}

#[tokio::test]
async fn a_server_that_accepts_and_never_speaks_is_away() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://u:p@{}/db", listener.local_addr().unwrap());
    let config = PostgresConfig { url, pool_max: 1, ca_file: None, schema: None };
    let connected = timeout(LIMIT, Postgres::connect(&config)).await.expect("the limit was not kept");
    assert!(matches!(connected.err(), Some(StoreError::Connect(_))));
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_no_busy_connection_behind() {
    let fixture = OnPostgres::with_pool(1).await;
    let record = &fixture.record;
    let new = new_execution();
    record.accept(std::slice::from_ref(&new)).await.unwrap();
    fixture.client.batch_execute("begin; select from execution for update").await.unwrap();
    let waiting = timeout(Duration::from_millis(200), record.cancel(&new.tenant, new.execute_id)).await;
    assert!(waiting.is_err(), "the row is held");
    // A lock is waited for for 2 s: on the connection of that call this one would be behind it.
    timeout(Duration::from_secs(1), record.ping()).await.expect("it got a busy connection").unwrap();
    fixture.client.batch_execute("rollback").await.unwrap();
}

#[tokio::test]
async fn a_connection_the_server_ended_is_replaced() {
    let fixture = OnPostgres::new().await;
    let name = fresh_name("ended");
    let url = format!("{}?application_name={name}", servers().postgres());
    let config = PostgresConfig { url, pool_max: 1, ..fixture.config.clone() };
    let record = Postgres::connect(&config).await.unwrap();
    for _ in 0..3 {
        let sql = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1";
        assert_eq!(fixture.client.query(sql, &[&name]).await.unwrap().len(), 1);
        until_known(|| record.ping()).await;
    }
}

#[tokio::test]
async fn lost_answers_neither_lose_nor_double_anything() {
    const EXECUTIONS: usize = 12;
    const LINES: i64 = 20;
    let proxy = Proxy::start(&servers().postgres()).await;
    let (record, _config) = on(&proxy.url(&servers().postgres())).await;
    proxy.set(Fault::DropAnswers { probability: 0.1, seed: 7 });
    let run = |n: usize| {
        let record = &record;
        async move {
            let mut new = new_execution();
            new.idempotency_key = Some(format!("k{n}"));
            until_known(|| record.accept(std::slice::from_ref(&new))).await;
            let request = [claim_of(&new)];
            let answer = until_known(|| record.claim(&request)).await.remove(0);
            let mut claim = claimed(answer);
            assert_eq!((claim.attempt, claim.last_log_id), (1, 0));
            for counter in 0..LINES {
                let batch = [append(&new, 1, counter, &[&counter.to_string()])];
                let answer = until_known(|| record.append(&batch)).await;
                assert_eq!(answer, [Appended::Stored { last_log_id: counter + 1 }]);
            }
            claim.last_log_id = LINES;
            let mut last = finish(&new, &claim, succeeded("done"));
            last.tail = crate::contract::lines(&[&LINES.to_string()]);
            let last = [last];
            let finished = until_known(|| record.finish(&last)).await;
            assert!(matches!(finished[0], Finished::Stored(_)));
            new
        }
    };
    let all = join_all((0..EXECUTIONS).map(run)).await;
    proxy.set(Fault::Pass);
    assert!(proxy.dropped_answers() > 0, "nothing was lost");
    let page = LogFilter::after(0, 1_000);
    for new in all {
        let log = until_known(|| record.list_log(new.execute_id, &page)).await;
        let counters: Vec<_> = log.lines.iter().map(|line| (line.log_id, line.line.clone())).collect();
        assert_eq!(counters, (0..=LINES).map(|n| (n + 1, n.to_string())).collect::<Vec<_>>());
    }
}
