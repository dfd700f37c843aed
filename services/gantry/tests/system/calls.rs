use std::time::Duration;

use broker::Broker;
use domain::{Payload, QueueName, State};
use futures::StreamExt;
use futures::future::join_all;
use protocol::Reply;
use serde_json::json;
use testkit::fresh_name;
use tokio::time::timeout;

use crate::harness::{PATIENCE, Shape, System, id_of, new_id, request};

#[tokio::test(flavor = "multi_thread")]
async fn a_call_over_http_and_one_over_the_queue_are_equals() {
    let system = System::start(Shape::small()).await;
    system.push_echo();
    let input = json!({ "a": [1, 2, 3] });
    let answer = system.post("echo", &input, 30).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], Payload::JSON);
    assert_eq!(answer.headers()["gantry-attempt"], "1");
    assert!(answer.headers().contains_key("server-timing"));
    assert_eq!(answer.json::<serde_json::Value>().await.unwrap(), input);

    let producer = system.producer().await;
    let mut replies = producer.replies().await.unwrap();
    let id = new_id();
    let request = request(id, "echo", &input, producer.reply_queue());
    producer.publish(&QueueName::default(), request.to_message()).await.unwrap();
    let reply = timeout(PATIENCE, replies.recv()).await.unwrap().unwrap();
    let reply = Reply::parse(reply).unwrap();
    assert_eq!((reply.execute_id, reply.attempt), (id, 1));
    assert_eq!(reply.ending.result().map(|payload| &payload.bytes[..]), Some(input.to_string().as_bytes()));
    assert_eq!(system.execution(id).await.state, State::Succeeded);
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_message_published_twenty_times_runs_once_and_is_answered_twenty_times() {
    let system = System::start(Shape { workers: 2, ..Shape::small() }).await;
    let file = system.path("runs");
    let script = format!("cat >/dev/null; echo run >> {}; sleep 1; echo 42 >&3\n", file.display());
    system.push_script("once", &script, "");
    let producer = system.producer().await;
    let mut replies = producer.replies().await.unwrap();
    let message = request(new_id(), "once", &json!({}), producer.reply_queue()).to_message();
    let queue = QueueName::default();
    for published in join_all((0..20).map(|_| producer.publish(&queue, message.clone()))).await {
        published.unwrap();
    }
    let mut answers = Vec::new();
    while answers.len() < 20 {
        let reply = timeout(PATIENCE, replies.recv()).await.expect("twenty replies come").unwrap();
        answers.push((reply.correlation_id.clone(), Reply::parse(reply).unwrap()));
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "run\n");
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_is_one_execution_at_two_gateways() {
    let system = System::start(Shape { gateways: 2, ..Shape::small() }).await;
    let file = system.path("runs");
    let script = format!("cat >/dev/null; echo run >> {}; sleep 1; echo 1 >&3\n", file.display());
    system.push_script("keyed", &script, "");
    let key = fresh_name("key");
    let calls = (0..40).map(|n| {
        let url = format!("{}/v1/models/keyed/executions", system.urls[n % 2]);
        system.http.post(url).header("Idempotency-Key", &key).json(&json!({})).send()
    });
    let mut ids = Vec::new();
    for answer in join_all(calls).await {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 200);
        ids.push(id_of(&answer));
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert_eq!(std::fs::read_to_string(file).unwrap(), "run\n");

    let other = system.post("keyed", &json!({ "other": true }), 30).header("Idempotency-Key", &key);
    let answer = other.send().await.unwrap();
    assert_eq!(answer.status(), 422);
    assert_eq!(answer.json::<serde_json::Value>().await.unwrap()["code"], "idempotency_key_reused");
}

#[tokio::test(flavor = "multi_thread")]
async fn followed_lines_come_as_they_are_written_and_resume_without_gap_or_repeat() {
    let system = System::start(Shape::small()).await;
    let script = "cat >/dev/null; i=0; while [ $i -lt 30 ]; do i=$((i+1)); echo line $i; sleep 0.1; done\n";
    system.push_script("lines", script, "");
    let id = system.submit("lines", &json!({})).await;

    let first = follow(&system, id, 0, Some(10)).await;
    assert_eq!(first.first().map(|(id, _)| *id), Some(1));
    assert_eq!(system.execution(id).await.state, State::Running, "the first lines came while it ran");
    let last_seen = first.last().unwrap().0;
    let rest = follow(&system, id, last_seen, None).await;
    let all: Vec<_> = first.into_iter().chain(rest).collect();
    let expected: Vec<_> = (1..=30).map(|n| (n, format!("line {n}"))).collect();
    assert_eq!(all, expected);
}

/// Follows the log from after `seen`: at least `enough` lines, or all until the stream says that it ends.
async fn follow(
    system: &System,
    id: domain::ExecuteId,
    seen: i64,
    enough: Option<usize>,
) -> Vec<(i64, String)> {
    let answer = system
        .http
        .get(format!("{}/v1/executions/{id}/logs", system.url()))
        .header("Accept", "text/event-stream")
        .header("Last-Event-ID", seen.to_string())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let mut stream = answer.bytes_stream();
    let (mut text, mut lines) = (String::new(), Vec::new());
    while let Some(bytes) = timeout(Duration::from_secs(30), stream.next()).await.expect("the stream goes on")
    {
        text.push_str(std::str::from_utf8(&bytes.unwrap()).unwrap());
        while let Some(end) = text.find("\n\n") {
            let event: String = text.drain(..end + 2).collect();
            let field = |name| event.lines().find_map(|line: &str| line.strip_prefix(name)).map(str::trim);
            match field("event:") {
                Some("log") => {
                    let row: protocol::http::LogRow = serde_json::from_str(field("data:").unwrap()).unwrap();
                    assert_eq!(field("id:"), Some(row.log_id.to_string().as_str()));
                    lines.push((row.log_id, row.line));
                }
                Some("end") => return lines,
                _ => {}
            }
            if enough.is_some_and(|enough| lines.len() >= enough) {
                return lines;
            }
        }
    }
    lines
}
