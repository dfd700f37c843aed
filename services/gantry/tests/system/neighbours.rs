use broker::Broker;
use domain::{ExecuteId, QueueName, State};
use futures::future::join_all;
use protocol::RawMessage;
use serde_json::{Value, json};

use crate::harness::{PATIENCE, Shape, System, new_id, now_ms, request};

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_message_does_not_spoil_its_neighbours() {
    let system = System::start(Shape { slots: 16, ..Shape::small() }).await;
    system.push_script("nul", "cat >/dev/null; printf 'a\\000b\\n'; echo 1 >&3\n", "");
    system.push_echo();
    let producer = system.producer().await;
    let mut replies = producer.replies().await.unwrap();
    let good: Vec<ExecuteId> = (0..60).map(|_| new_id()).collect();
    let ids = [&good[..], &[new_id()]].concat();
    let nul = ids[60];
    let year_2035 = ExecuteId::new(2_051_222_400_000);
    assert!(year_2035.unix_ms() > now_ms());

    let echo = |id| request(id, "echo", &json!({ "id": id }), producer.reply_queue()).to_message();
    let mut messages: Vec<RawMessage> = good.iter().map(|id| echo(*id)).collect();
    messages.push(request(nul, "nul", &json!({}), producer.reply_queue()).to_message());
    let mut version_4 = echo(new_id());
    version_4.message_id = Some("9f0a3f8e-2f3b-4c8e-9d7a-5b1f0c2d3e4f".to_owned());
    messages.push(version_4);
    messages.push(echo(year_2035));
    // The same id with another input.
    messages.push(request(good[0], "echo", &json!("another"), producer.reply_queue()).to_message());

    let queue = QueueName::default();
    for published in join_all(messages.into_iter().map(|message| producer.publish(&queue, message))).await {
        published.unwrap();
    }
    for id in &ids {
        // Of the two messages with the first id, whichever came first was run.
        assert_eq!(system.ended(*id, PATIENCE).await.state, State::Succeeded, "{id}");
    }
    let lines = system.log_lines(nul).await;
    assert_eq!(lines.iter().map(|row| row.line.as_str()).collect::<Vec<_>>(), ["a\u{fffd}b"]);

    // Every one of the 64 got its answer; the three that could not be run, a reasoned one.
    let mut rejected = Vec::new();
    for _ in 0..64 {
        let reply = tokio::time::timeout(PATIENCE, replies.recv()).await.expect("64 replies come").unwrap();
        let is_problem = reply.content_type.as_deref() == Some("application/problem+json");
        if is_problem {
            rejected.push(serde_json::from_slice::<Value>(&reply.body).unwrap()["detail"].to_string());
        }
    }
    assert_eq!(rejected.len(), 3, "{rejected:?}");
    producer.close().await;
}
