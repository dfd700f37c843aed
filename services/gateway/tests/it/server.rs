use std::time::Duration;

use gateway::Config;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{Env, id_of};

/// Sends raw bytes and reads until the server closes.
async fn raw(env: &Env, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(env.address).await.unwrap();
    // The server may close before it has read everything.
    stream.write_all(bytes).await.ok();
    let mut answer = Vec::new();
    timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.expect("the server closes").ok();
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("closed")
}

#[tokio::test]
async fn broken_requests_get_a_4xx_and_the_next_one_is_served() {
    let env = Env::with(Config { header_ms_max: 500, ..Config::default() }).await;
    let post = "POST /v1/models/echo/executions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    let many: String = (0..1_000).map(|n| format!("x-{n}: y\r\n")).collect();
    for (request, allowed) in [
        ("nonsense\r\n\r\n".to_owned(), &["400", "closed"][..]),
        (format!("{post}a header without colon\r\n\r\n"), &["400"]),
        (format!("{post}x: a\0b\r\n\r\n"), &["400"]),
        (format!("{post}x: {}\r\n\r\n", "y".repeat(200 << 10)), &["431", "closed"]),
        (format!("{post}{many}\r\n"), &["431"]),
        (format!("{post}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"), &["400"]),
        (format!("{post}Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\nzz\r\n\r\n"), &["400"]),
    ] {
        let answer = raw(&env, request.as_bytes()).await;
        assert!(allowed.contains(&status(&answer)), "{}: {answer}", &request[..request.len().min(120)]);
    }
    assert_eq!(env.get("/healthz").await.status(), 200);
}

#[tokio::test]
async fn a_connection_that_sends_no_header_is_closed() {
    let env = Env::with(Config { header_ms_max: 300, ..Config::default() }).await;
    assert_eq!(raw(&env, b"").await, "", "silent from the start");
    assert!(matches!(status(&raw(&env, b"GET /healthz HTTP/1.1\r\nHost").await), "408" | "closed"));
    assert_eq!(env.get("/healthz").await.status(), 200);
}

#[tokio::test]
async fn a_connection_over_the_cap_is_closed_and_its_place_comes_back() {
    let env = Env::with(Config { connections_per_address_max: 2, ..Config::default() }).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(env.address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        open.push(stream);
    }
    assert_eq!(raw(&env, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await, "");
    open.pop();
    testkit::eventually("the place is free again", Duration::from_secs(10), async || {
        let mut stream = TcpStream::connect(env.address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.ok();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.is_ok() && status(&answer) == "200"
    })
    .await;
}

#[tokio::test]
async fn waiters_are_bounded_and_those_who_do_not_wait_still_enter() {
    let env = Env::with(Config { waiters_max: 1, drain_ms_max: 2_000, ..Config::default() }).await;
    env.push("echo", &crate::harness::bundle()).await;
    let first = env.post(&json!(1)).header("Prefer", "wait=2").send();
    let second = async {
        testkit::eventually("the first one waits", Duration::from_secs(10), async || {
            env.json("/v1/executions").await["executions"].as_array().is_some_and(|list| !list.is_empty())
        })
        .await;
        env.post(&json!(2)).send().await.unwrap()
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!(first.unwrap().status(), 202);
    assert_eq!(second.status(), 503);
    assert_eq!(second.headers()["retry-after"], "1");
    assert_eq!(second.json::<Value>().await.unwrap()["code"], "overloaded");
    assert_eq!(env.post(&json!(3)).header("Prefer", "respond-async").send().await.unwrap().status(), 202);
}

#[tokio::test]
async fn a_drain_gives_those_who_wait_their_handle() {
    let mut env = Env::with(Config { drain_ms_max: 1_000, ..Config::default() }).await;
    env.push("echo", &crate::harness::bundle()).await;
    let call = env.post(&json!(1)).send();
    let drain = async {
        testkit::eventually("it waits", Duration::from_secs(10), async || {
            env.json("/v1/executions").await["executions"].as_array().is_some_and(|list| !list.is_empty())
        })
        .await;
        env.trigger.drain();
    };
    let (answer, ()) = tokio::join!(call, drain);
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 202);
    assert_eq!(answer.headers()["connection"], "close");
    assert!(id_of(&answer).unix_ms() > 0);
    let ended = timeout(Duration::from_secs(20), env.running.join_next()).await.expect("it ends");
    ended.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn another_address_than_loopback_needs_the_operator_s_word() {
    let config = Config { listen: "0.0.0.0:0".parse().unwrap(), ..Config::default() };
    let env = Env::new().await;
    let (_trigger, shutdown) = bootstrap::Shutdown::new();
    let (listening, _) = tokio::sync::oneshot::channel();
    let error = gateway::run(config, env.ports.clone(), shutdown, listening).await.unwrap_err();
    assert!(error.to_string().contains("insecure_bind"), "{error}");
}

#[tokio::test]
async fn the_document_describes_every_route_and_readiness_names_each_port() {
    let env = Env::new().await;
    let document = env.json("/openapi.json").await;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let routes = document["paths"].as_object().unwrap();
    let operations: usize = routes.values().map(|item| item.as_object().unwrap().len()).sum();
    assert_eq!(operations, 13, "{:?}", routes.keys());
    testkit::eventually("it is ready", Duration::from_secs(10), async || {
        env.json("/readyz").await["status"] == "ready"
    })
    .await;
    let readiness = env.json("/readyz").await;
    assert_eq!(readiness, json!({ "status": "ready", "record": "up", "broker": "up", "coordination": "up" }));
}
