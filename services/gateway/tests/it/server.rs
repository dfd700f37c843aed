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
    let chunked = "Transfer-Encoding: chunked\r\n";
    let many: String = (0..1_000).map(|n| format!("x-{n}: y\r\n")).collect();
    for (request, allowed) in [
        ("nonsense\r\n\r\n".to_owned(), &["400", "closed"][..]),
        (format!("{post}a header without colon\r\n\r\n"), &["400"]),
        (format!("{post}x: a\0b\r\n\r\n"), &["400"]),
        (format!("{post}x: {}\r\n\r\n", "y".repeat(200 << 10)), &["431", "closed"]),
        (format!("{post}{many}\r\n"), &["431"]),
        (format!("{post}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"), &["400"]),
        (format!("{post}Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\nzz\r\n\r\n"), &["400"]),
        (format!("{post}{chunked}Content-Length: 3\r\n\r\n1\r\n1\r\n0\r\n\r\n"), &["400"]),
        (format!("{post}Content-Length: 3\r\n{chunked}\r\n1\r\n1\r\n0\r\n\r\n"), &["400"]),
        (format!("{post}{chunked}\r\nzz\r\n1\r\n0\r\n\r\n"), &["400"]),
        (format!("{post}x: y\r\n z\r\n\r\n"), &["400"]),
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
async fn a_header_that_drips_is_closed_at_its_limit_also_on_a_connection_that_was_good() {
    let env = Env::with(Config { header_ms_max: 500, ..Config::default() }).await;
    let mut stream = TcpStream::connect(env.address).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    let (mut reader, mut writer) = stream.into_split();
    let drip = async {
        // A byte every 50 ms: each comes in time, the whole never would.
        while writer.write_all(b"G").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let closed = async {
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).await.ok();
    };
    timeout(Duration::from_secs(20), async {
        tokio::select! { () = drip => {}, () = closed => {} }
    })
    .await
    .expect("it is closed");
}

#[tokio::test]
async fn an_idle_connection_stays_open_longer_than_a_header_may_take() {
    let env = Env::with(Config { header_ms_max: 200, ..Config::default() }).await;
    let mut stream = TcpStream::connect(env.address).await.unwrap();
    for _ in 0..2 {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok\n") {
            answer.push(stream.read_u8().await.expect("it is open"));
        }
        // The client thinks for longer than its next header may take.
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
}

#[tokio::test]
async fn tls_serves_the_same_and_a_silent_handshake_is_closed() {
    let directory = tempfile::TempDir::new().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let config = Config { tls_cert_file: Some(cert), tls_key_file: Some(key), ..Config::default() };
    let env = Env::with(config).await;
    bootstrap::install_tls_provider();
    let root = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().no_proxy().add_root_certificate(root).build().unwrap();
    let url = format!("https://localhost:{}/healthz", env.address.port());
    let answer = client.get(url).send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), answer.version()),
        (200, reqwest::Version::HTTP_2),
        "as negotiated"
    );
    assert!(
        !raw(&env, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.starts_with("HTTP"),
        "no plain HTTP"
    );
    assert_eq!(raw(&env, b"").await, "", "no handshake");
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
    let refused = raw(&env, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(matches!(status(&refused), "503" | "closed"), "{refused}");
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
    assert!(second.headers().contains_key("retry-after"));
    assert_eq!(second.json::<Value>().await.unwrap()["code"], "overloaded");
    assert_eq!(env.post(&json!(3)).header("Prefer", "respond-async").send().await.unwrap().status(), 202);
}

#[tokio::test]
async fn whatever_ends_a_wait_gives_its_place_back() {
    let mut env = Env::with(Config { waiters_max: 1, ..Config::default() }).await;
    env.push("echo", &crate::harness::bundle()).await;
    // Each of these finds the one place free, or gets 503.
    let call = env.post(&json!(1)).send();
    let (answer, _) = tokio::join!(call, env.echo());
    assert_eq!(answer.unwrap().status(), 200, "a reply");
    let handle = env.post(&json!(2)).header("Prefer", "wait=1").send().await.unwrap();
    assert_eq!(handle.status(), 202, "a deadline");
    let row = env.get(&format!("/v1/executions/{}?wait=1", id_of(&handle))).await;
    assert_eq!(row.status(), 200, "a deadline of a look");
    let bad = env.post(&json!(3)).header("Idempotency-Key", "k").header("Prefer", "wait=1").send();
    assert_eq!(bad.await.unwrap().status(), 202);
    let bad = env.post(&json!(4)).header("Idempotency-Key", "k").send().await.unwrap();
    assert_eq!(bad.status(), 422, "a refusal after the place was taken");
    assert!(env.post(&json!(5)).timeout(Duration::from_millis(300)).send().await.is_err(), "a hang-up");
    testkit::eventually("the place is free", Duration::from_secs(10), async || {
        let answer = env.post(&json!(6)).header("Prefer", "wait=1").send().await.unwrap();
        answer.status() == 202
    })
    .await;
}

#[tokio::test]
async fn a_drain_ends_a_log_that_is_followed_without_saying_that_the_execution_has_ended() {
    let mut env = Env::with_model().await;
    let id = id_of(&env.post(&json!(1)).header("Prefer", "respond-async").send().await.unwrap());
    env.claim().await;
    env.log(id, 0, &["one"]).await;
    let get = env.http.get(env.url(&format!("/v1/executions/{id}/logs")));
    let mut answer = get.header("Accept", "text/event-stream").send().await.unwrap();
    let mut text = String::new();
    while !text.contains("event: log") {
        text.push_str(std::str::from_utf8(&answer.chunk().await.unwrap().expect("a line")).unwrap());
    }
    env.trigger.drain();
    let rest = timeout(Duration::from_secs(5), answer.text()).await.expect("it ends at once").unwrap();
    assert!(!rest.contains("event: end"), "{rest}");
    let ended = timeout(Duration::from_secs(20), env.running.join_next()).await.expect("so does the gateway");
    ended.unwrap().unwrap().unwrap();
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
    assert_eq!(operations, 28, "{:?}", routes.keys());
    for (path, item) in routes {
        for (method, operation) in item.as_object().unwrap() {
            assert!(operation["summary"].is_string(), "{method} {path}");
            for (status, response) in operation["responses"].as_object().unwrap() {
                // OpenAPI 3.1 asks for it, and the generator does not.
                assert!(
                    response["description"].as_str().is_some_and(|text| !text.is_empty()),
                    "{method} {path} {status}"
                );
            }
        }
    }
    testkit::eventually("it is ready", Duration::from_secs(10), async || {
        env.json("/readyz").await["status"] == "ready"
    })
    .await;
    let readiness = env.json("/readyz").await;
    assert_eq!(
        readiness,
        json!({ "status": "ready", "record": "up", "broker": "up", "coordination": "up", "artifacts": "up" })
    );
}
