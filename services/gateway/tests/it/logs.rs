use std::time::Duration;

use domain::{Ending, ExecuteId};
use futures::StreamExt;
use serde_json::{Value, json};
use store::{LogRetention, LogStep};

use crate::harness::{Env, id_of, payload};

/// The events of a stream until it ends or `most` have come, as `(event, id, data)`.
async fn events(env: &Env, id: ExecuteId, seen: &str, most: usize) -> Vec<(String, String, String)> {
    let get = env.http.get(env.url(&format!("/v1/executions/{id}/logs")));
    let answer =
        get.header("Accept", "text/event-stream").header("Last-Event-ID", seen).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let (mut stream, mut text, mut events) = (answer.bytes_stream(), String::new(), Vec::new());
    loop {
        while let Some(end) = text.find("\n\n") {
            let event: String = text.drain(..end + 2).collect();
            let field = |name: &str| {
                let found = event.lines().find_map(|line| line.strip_prefix(name));
                found.unwrap_or_default().trim().to_owned()
            };
            events.push((field("event:"), field("id:"), field("data:")));
        }
        if events.len() >= most {
            break;
        }
        match stream.next().await {
            Some(bytes) => text.push_str(std::str::from_utf8(&bytes.unwrap()).unwrap()),
            None => break,
        }
    }
    events
}

fn ids(events: &[(String, String, String)]) -> Vec<&str> {
    events.iter().filter(|(event, ..)| event == "log").map(|(_, id, _)| id.as_str()).collect()
}

#[tokio::test]
async fn a_follower_gets_each_line_once_and_then_the_end() {
    let mut env = Env::with_model().await;
    let id = id_of(&env.post(&json!(1)).header("Prefer", "respond-async").send().await.unwrap());
    env.claim().await;
    let base = env.log(id, 0, &["one", "two"]).await;
    let first = events(&env, id, "0", 2).await;
    assert_eq!(ids(&first), ["1", "2"]);
    let row: Value = serde_json::from_str(&first[0].2).unwrap();
    assert_eq!(
        (row["log_id"].as_i64(), row["line"].as_str(), row["level"].as_str()),
        (Some(1), Some("one"), Some("I"))
    );

    // From the last line it saw, while the rest is being written.
    let more = events(&env, id, "2", usize::MAX);
    let write = async {
        let base = env.log(id, base, &["three"]).await;
        env.commit(id, base, Ending::Succeeded(payload("1")), &["four"]).await;
    };
    let (more, ()) = tokio::join!(more, write);
    assert_eq!(ids(&more), ["3", "4"]);
    assert_eq!(more.last().unwrap().0, "end");
    assert_eq!(more.last().unwrap().2, r#"{"state":"succeeded"}"#);
    // An execution that ended long ago is followed to its end all the same.
    assert_eq!(ids(&events(&env, id, "0", usize::MAX).await), ["1", "2", "3", "4"]);
}

#[tokio::test]
async fn a_long_log_is_followed_without_gap_or_repeat() {
    let mut env = Env::with_model().await;
    let id = id_of(&env.post(&json!(1)).header("Prefer", "respond-async").send().await.unwrap());
    env.claim().await;
    let lines: Vec<String> = (1..=2_300).map(|n| n.to_string()).collect();
    let texts: Vec<&str> = lines.iter().map(String::as_str).collect();
    let base = env.log(id, 0, &texts).await;
    env.commit(id, base, Ending::Succeeded(payload("1")), &[]).await;
    let (first, second) =
        tokio::join!(events(&env, id, "0", usize::MAX), events(&env, id, "700", usize::MAX));
    assert_eq!(ids(&first), texts);
    assert_eq!(ids(&second), texts[700..]);
}

#[tokio::test]
async fn a_page_says_where_the_next_begins_and_which_is_the_last() {
    let mut env = Env::with_model().await;
    let id = id_of(&env.post(&json!(1)).header("Prefer", "respond-async").send().await.unwrap());
    env.claim().await;
    env.log(id, 0, &["a", "b", "c"]).await;
    let page = env.json(&format!("/v1/executions/{id}/logs?limit=2")).await;
    assert_eq!((page["next_after"].as_i64(), page["complete"].as_bool()), (Some(2), Some(false)));
    let page = env.json(&format!("/v1/executions/{id}/logs?after=2")).await;
    assert_eq!((page["lines"][0]["line"].as_str(), page["complete"].as_bool()), (Some("c"), Some(false)));
    env.commit(id, 3, Ending::Succeeded(payload("1")), &[]).await;
    let page = env.json(&format!("/v1/executions/{id}/logs?after=3")).await;
    assert_eq!(page, json!({ "lines": [], "next_after": 3, "complete": true }));
    for bad in ["limit=0", "limit=1001", "after=-1"] {
        assert_eq!(env.get(&format!("/v1/executions/{id}/logs?{bad}")).await.status(), 400, "{bad}");
    }
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_nobody_up_and_loses_nothing() {
    const LINES: i64 = 8_000;
    let mut env = Env::with_model().await;
    let id = id_of(&env.post(&json!(1)).header("Prefer", "respond-async").send().await.unwrap());
    env.claim().await;
    let get = env.http.get(env.url(&format!("/v1/executions/{id}/logs")));
    let slow = get.header("Accept", "text/event-stream").send().await.unwrap();
    let text = "x".repeat(1_000);
    let mut base = 0;
    while base < LINES {
        base = env.log(id, base, &[text.as_str(); 500]).await;
    }
    env.commit(id, base, Ending::Succeeded(payload("1")), &[]).await;
    let quick = events(&env, id, "0", usize::MAX).await;
    assert_eq!(ids(&quick).len() as i64, LINES);
    // 8 MB are more than what the buffers between the two hold.
    let slow = slow.text().await.unwrap();
    let seen: Vec<i64> = slow.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect();
    assert!(seen.iter().copied().eq(1..=LINES), "without gap or repeat: {} lines", seen.len());
    assert!(slow.contains("event: end"));
}

#[tokio::test]
async fn lines_that_were_dropped_are_told_from_lines_that_never_were() {
    const FENCE: i64 = 1;
    let mut env = Env::with_model().await;
    let mut ids = Vec::new();
    for lines in [&["a line"][..], &[]] {
        let id = id_of(&env.post(&json!(1)).header("Prefer", "respond-async").send().await.unwrap());
        env.claim().await;
        let id = env.redate(id, 3).await;
        env.commit(id, 0, Ending::Succeeded(payload("1")), lines).await;
        ids.push(id);
    }
    let (old, silent) = (ids[0], ids[1]);
    assert!(env.ports.record.take_upkeep_fence(FENCE).await.unwrap());
    let keep = LogRetention { age_max: Some(Duration::from_secs(86_400)), bytes_max: None };
    assert!(matches!(env.ports.record.drop_log(FENCE, keep).await.unwrap(), LogStep::Done(_)));

    for accepted in ["application/json", "application/x-ndjson", "text/event-stream"] {
        let logs = |id: ExecuteId, after: u8| {
            let get = env.http.get(env.url(&format!("/v1/executions/{id}/logs?after={after}")));
            get.header("Accept", accepted).send()
        };
        let refused = logs(old, 0).await.unwrap();
        assert_eq!(refused.status(), 410, "{accepted}");
        assert_eq!(refused.json::<Value>().await.unwrap()["code"], "log_dropped");
        // Who has read them all misses nothing.
        assert_eq!(logs(old, 1).await.unwrap().status(), 200, "{accepted}");
        assert_eq!(logs(silent, 0).await.unwrap().status(), 200, "{accepted}");
    }
}
