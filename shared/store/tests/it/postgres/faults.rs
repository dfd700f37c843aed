//! Faults of a server that nobody else uses.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use store::postgres::{Postgres, PostgresConfig, migrate};
use store::{Finished, Record, StoreError, Writer, WriterConfig};
use testkit::{Server, ServerKind};
use tokio::time::timeout;

use super::{LIMIT, on, until_known};
use crate::contract::{claim_of, claimed, connect, finish, new_execution, succeeded};

const LEASE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_frozen_server_ends_calls_in_time_and_a_thawed_one_serves_them() {
    let server = Server::start(ServerKind::Postgres).await;
    let (record, _config) = on(&server.url()).await;
    server.pause().await;
    let error = timeout(LIMIT, record.ping()).await.expect("the limit was not kept").unwrap_err();
    assert!(matches!(error, StoreError::Timeout { .. }), "{error:?}");
    server.resume().await;
    record.ping().await.unwrap();
}

#[tokio::test]
async fn after_a_restart_nothing_is_lost_and_no_lease_is_taken_from_its_node() {
    let server = Server::start(ServerKind::Postgres).await;
    let (record, config) = on(&server.url()).await;
    let new = new_execution();
    record.accept(std::slice::from_ref(&new)).await.unwrap();
    let request = [claim_of(&new)];
    let claim = claimed(record.claim(&request).await.unwrap().remove(0));
    server.kill().await;
    assert!(record.ping().await.is_err());
    server.start_again().await;
    until_known(|| record.ping()).await;
    // The outage took longer than the lease.
    let (client, _connection) = connect(&config).await;
    let sql = "update execution set leased_until = leased_until - interval '1 h', renewed_at = renewed_at - interval '1 h'";
    client.batch_execute(sql).await.unwrap();
    let rescued = record.rescue(Some(&[]), LEASE, LEASE, 10).await.unwrap();
    assert_eq!(rescued, [], "nobody had time to renew");
    let renewed = record.renew(&request[0].node, &[(new.execute_id, 1)], LEASE).await.unwrap();
    assert_eq!(renewed.len(), 1);
    let finished = record.finish(&[finish(&new, &claim, succeeded("done"))]).await.unwrap();
    assert!(matches!(finished[0], Finished::Stored(_)));
}

#[tokio::test]
async fn sixty_four_in_flight_cost_less_than_half_a_statement_each() {
    const IN_FLIGHT: usize = 64;
    const ROUNDS: usize = 10;
    let server = Server::start(ServerKind::Postgres).await;
    let config = PostgresConfig { url: server.url(), pool_max: 8, ca_file: None, schema: None };
    migrate(&config).await.unwrap();
    let record = Arc::new(Postgres::connect(&config).await.unwrap());
    let (writer, task) = Writer::new(record, WriterConfig::default());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(task.run());
    let reset = "select pg_stat_statements_reset()";
    server.admin(&["-At", "-d", "gantry", "-c", reset]).await;
    let caller = |_| async {
        for _ in 0..ROUNDS {
            let new = new_execution();
            writer.accept(new.clone()).await.unwrap();
            let claim = writer.claim(vec![claim_of(&new)]).await.remove(0).unwrap();
            let finished = writer.finish(finish(&new, &claimed(claim), succeeded("done"))).await.unwrap();
            assert!(matches!(finished, Finished::Stored(_)));
        }
    };
    join_all((0..IN_FLIGHT).map(caller)).await;
    let calls = "select sum(calls) from pg_stat_statements s join pg_roles r on r.oid = s.userid where rolname = 'gantry'";
    let calls: f64 = server.admin(&["-At", "-d", "gantry", "-c", calls]).await.trim().parse().unwrap();
    let each = calls / (IN_FLIGHT * ROUNDS) as f64;
    assert!(each < 0.5, "{each} statements per execution");
    drop(writer);
    tasks.join_next().await.unwrap().unwrap();
}
