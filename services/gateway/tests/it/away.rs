use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway::Config;
use serde_json::{Value, json};
use store::postgres::{Postgres, PostgresConfig, migrate};
use tempfile::TempDir;
use testkit::{Fault, Proxy, eventually, fresh_name, servers};

use crate::harness::{Env, bundle, id_of};

#[tokio::test]
async fn while_the_record_is_away_submissions_are_refused_and_nothing_is_accepted() {
    let proxy = Proxy::start(&servers().postgres()).await;
    let url = servers().postgres();
    let config = PostgresConfig { url, pool_max: 4, ca_file: None, schema: Some(fresh_name("gateway")) };
    migrate(&config).await.unwrap();
    let behind = PostgresConfig { url: proxy.url(&config.url), ..config };
    let record = Arc::new(Postgres::connect(&behind).await.unwrap());
    let env = Env::on(record, Config::default(), TempDir::new().unwrap()).await;
    assert_eq!(env.push("echo", &bundle()).await.status(), 201);
    eventually("it is ready", Duration::from_secs(10), async || env.get("/readyz").await.status() == 200)
        .await;

    proxy.set(Fault::Reset);
    let refused = env.post(&json!(1)).send().await.unwrap();
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(refused.json::<Value>().await.unwrap()["code"], "unavailable");
    eventually("it says so", Duration::from_secs(20), async || env.get("/readyz").await.status() == 503)
        .await;
    eventually("it refuses without asking", Duration::from_secs(20), async || {
        let begin = Instant::now();
        let refused = env.post(&json!(2)).send().await.unwrap();
        refused.status() == 503 && begin.elapsed() < Duration::from_millis(100)
    })
    .await;
    assert_eq!(env.get("/healthz").await.status(), 200, "it lives");
    let cancel = env.url("/v1/executions/018bcfe5-6800-7853-8000-000000000000/cancel");
    assert_eq!(env.http.post(cancel).send().await.unwrap().status(), 503);

    proxy.set(Fault::Pass);
    let mut accepted = None;
    eventually("it accepts again", Duration::from_secs(20), async || {
        let answer = env.post(&json!(3)).header("Prefer", "respond-async").send().await.unwrap();
        accepted = (answer.status() == 202).then(|| id_of(&answer));
        accepted.is_some()
    })
    .await;
    let list = env.json("/v1/executions").await;
    let ids: Vec<_> = list["executions"].as_array().unwrap().iter().map(|row| &row["execute_id"]).collect();
    assert_eq!(ids, [&json!(accepted.unwrap().to_string())], "what was refused was not accepted");
}

#[tokio::test]
async fn a_caller_whose_answer_the_record_lost_is_told_which_execution_to_ask_for() {
    let proxy = Proxy::start(&servers().postgres()).await;
    let url = servers().postgres();
    let config = PostgresConfig { url, pool_max: 4, ca_file: None, schema: Some(fresh_name("gateway")) };
    migrate(&config).await.unwrap();
    let behind = PostgresConfig { url: proxy.url(&config.url), ..config };
    let record = Arc::new(Postgres::connect(&behind).await.unwrap());
    let env = Env::on(record, Config::default(), TempDir::new().unwrap()).await;
    assert_eq!(env.push("echo", &bundle()).await.status(), 201);
    // The version is known, so that the record is first asked to accept.
    assert_eq!(env.post(&json!(0)).header("Prefer", "respond-async").send().await.unwrap().status(), 202);
    proxy.set(Fault::Blackhole);
    let refused = env.post(&json!(1)).header("Idempotency-Key", "k").send().await.unwrap();
    proxy.set(Fault::Pass);
    assert_eq!(refused.status(), 503);
    let problem: Value = refused.json().await.unwrap();
    assert!(problem["execute_id"].is_string(), "{problem}");
    let mut answer = None;
    eventually("the repeat is accepted", Duration::from_secs(30), async || {
        let repeat = env.post(&json!(1)).header("Idempotency-Key", "k").header("Prefer", "respond-async");
        answer = Some(repeat.send().await.unwrap());
        answer.as_ref().is_some_and(|answer| answer.status() == 202)
    })
    .await;
}
