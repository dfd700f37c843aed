use std::time::Duration;

use futures::future::join_all;
use gateway::Config;
use reqwest::Version;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{Env, id_of};

/// Whose client speaks HTTP/2, and is allowed one connection.
async fn env(config: Config) -> Env {
    let mut env = Env::with(Config { connections_per_address_max: 1, ..config }).await;
    env.http = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
        .timeout(Duration::from_secs(60))
        .build()
        .unwrap();
    env.push("echo", &crate::harness::bundle()).await;
    env
}

#[tokio::test]
async fn more_calls_than_a_connection_takes_at_once_are_answered_on_one() {
    const CALLS: usize = 300;
    let mut env = env(Config::default()).await;
    let calls: Vec<_> = (0..CALLS).map(|n| env.post(&json!(n)).send()).collect();
    let echoes = async {
        for _ in 0..CALLS {
            env.echo().await;
        }
    };
    let (answers, ()) = tokio::join!(join_all(calls), echoes);
    for (n, answer) in answers.into_iter().enumerate() {
        let answer = answer.unwrap();
        assert_eq!((answer.version(), answer.status().as_u16()), (Version::HTTP_2, 200));
        assert_eq!(answer.text().await.unwrap(), n.to_string());
    }
}

#[tokio::test]
async fn who_gives_up_one_of_its_calls_gives_its_place_back() {
    let env = env(Config { waiters_max: 1, ..Config::default() }).await;
    assert!(env.post(&json!(1)).timeout(Duration::from_millis(300)).send().await.is_err());
    testkit::eventually("the place is free", Duration::from_secs(10), async || {
        env.post(&json!(2)).header("Prefer", "wait=1").send().await.unwrap().status() == 202
    })
    .await;
}

#[tokio::test]
async fn a_log_is_followed_beside_other_calls_until_a_drain() {
    let mut env = env(Config { drain_ms_max: 1_000, ..Config::default() }).await;
    let id = id_of(&env.post(&json!(1)).header("Prefer", "respond-async").send().await.unwrap());
    env.claim().await;
    env.log(id, 0, &["one"]).await;
    let get = env.http.get(env.url(&format!("/v1/executions/{id}/logs")));
    let mut events = get.header("Accept", "text/event-stream").send().await.unwrap();
    let mut text = String::new();
    while !text.contains("event: log") {
        text.push_str(std::str::from_utf8(&events.chunk().await.unwrap().expect("a line")).unwrap());
    }
    let path = format!("/v1/executions/{id}?wait=30");
    let waits = env.get(&path);
    let drain = async {
        assert_eq!(env.get("/healthz").await.status(), 200);
        env.trigger.drain();
    };
    let (waited, ()) = tokio::join!(waits, drain);
    assert_eq!(waited.status(), 200);
    assert_eq!(waited.json::<serde_json::Value>().await.unwrap()["state"], "running");
    assert!(!events.text().await.unwrap().contains("event: end"));
    let ended = timeout(Duration::from_secs(20), env.running.join_next()).await.expect("so does the gateway");
    ended.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_preface_that_is_not_finished_in_time_is_closed() {
    let env = Env::with(Config { header_ms_max: 300, ..Config::default() }).await;
    let mut stream = TcpStream::connect(env.address).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    let mut answer = Vec::new();
    timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.expect("it is closed").ok();
    assert!(answer.is_empty(), "{answer:?}");
}

#[tokio::test]
async fn a_request_with_a_header_that_is_too_large_is_refused_and_the_next_one_served() {
    let env = env(Config::default()).await;
    let large = env.http.get(env.url("/healthz")).header("x", "y".repeat(20 << 10)).send().await;
    assert!(large.is_err() || large.is_ok_and(|answer| answer.status() == 431));
    assert_eq!(env.get("/healthz").await.status(), 200);
}
