use std::time::Duration;

use futures::future::join_all;
use gateway::Config;
use http_body_util::BodyExt;
use hyper::Request;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::harness::{Env, id_of};

/// Whose client speaks HTTP/2.
async fn env(config: Config) -> Env {
    let mut env = Env::with(config).await;
    env.http = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
        .timeout(Duration::from_secs(60))
        .build()
        .unwrap();
    env.push("echo", &crate::harness::bundle()).await;
    env
}

/// One connection, and the task that drives it.
async fn connection(env: &Env) -> (SendRequest<String>, JoinSet<hyper::Result<()>>) {
    let stream = TokioIo::new(TcpStream::connect(env.address).await.unwrap());
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    (sender, driving)
}

fn call(env: &Env, input: impl ToString) -> Request<String> {
    let request =
        Request::post(env.url("/v1/models/echo/executions")).header("Content-Type", "application/json");
    request.body(input.to_string()).unwrap()
}

#[tokio::test]
async fn more_calls_than_a_connection_takes_at_once_are_answered_on_one() {
    const CALLS: usize = 300;
    let mut env = env(Config::default()).await;
    let (sender, _driving) = connection(&env).await;
    let calls = (0..CALLS).map(|n| {
        let (mut sender, request) = (sender.clone(), call(&env, n));
        async move {
            let answer = sender.send_request(request).await.unwrap();
            assert_eq!(answer.status(), 200);
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, n.to_string());
        }
    });
    let calls: Vec<_> = calls.collect();
    let echoes = async {
        for _ in 0..CALLS {
            env.echo().await;
        }
    };
    tokio::join!(join_all(calls), echoes);
}

#[tokio::test]
async fn requests_at_once_are_bounded_as_connections_are_and_their_places_come_back() {
    let env = env(Config { connections_per_address_max: 2, ..Config::default() }).await;
    let (mut sender, _driving) = connection(&env).await;
    let health = || Request::get(env.url("/healthz")).body(String::new()).unwrap();
    let held = (sender.send_request(call(&env, 1)), sender.send_request(call(&env, 2)));
    let refused = sender.send_request(health()).await.unwrap();
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    let problem = refused.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(serde_json::from_slice::<Value>(&problem).unwrap()["code"], "overloaded");
    drop(held);
    testkit::eventually("there is room again", Duration::from_secs(10), async || {
        sender.send_request(health()).await.unwrap().status() == 200
    })
    .await;
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
    assert_eq!(waited.json::<Value>().await.unwrap()["state"], "running");
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
    let large = env.http.get(env.url("/healthz")).header("x", "y".repeat(20 << 10));
    assert_eq!(large.send().await.unwrap().status(), 431);
    assert_eq!(env.get("/healthz").await.status(), 200);
}
