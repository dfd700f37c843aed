//! Pages of a log, search in the logs of a model, and both as streams.

use domain::{Ending, ExecuteId, Level, LogLine};
use futures::StreamExt;
use serde_json::{Value, json};
use store::Append;

use crate::harness::{Env, id_of, payload};

/// A running execution with these lines, of the levels they begin with.
async fn logged(env: &mut Env, lines: &[&str]) -> ExecuteId {
    let id = id_of(&env.post(&json!(1)).header("Prefer", "respond-async").send().await.unwrap());
    env.claim().await;
    write(env, id, 0, lines).await;
    id
}

async fn write(env: &Env, id: ExecuteId, base: i64, lines: &[&str]) {
    let line = |(n, text): (i64, &&str)| LogLine {
        level: text[..1].parse().unwrap_or(Level::Info),
        at_unix_us: (1_700_000_000 + n) * 1_000_000,
        text: (*text).to_owned(),
        continues: false,
    };
    for (n, lines) in lines.chunks(5_000).enumerate() {
        let base = base + n as i64 * 5_000;
        let lines = (base + 1..).zip(lines).map(line).collect();
        env.ports
            .record
            .append(&[Append { fence: None, execute_id: id, attempt: 1, base, lines }])
            .await
            .unwrap();
    }
}

fn numbers(page: &Value) -> Vec<i64> {
    page["lines"].as_array().unwrap().iter().map(|row| row["log_id"].as_i64().unwrap()).collect()
}

async fn ndjson(env: &Env, path: &str) -> reqwest::Response {
    let get = env.http.get(env.url(path)).header("Accept", "application/x-ndjson");
    let answer = get.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
    answer
}

async fn rows(env: &Env, path: &str) -> Vec<Value> {
    let text = ndjson(env, path).await.text().await.unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_log_is_read_backwards_from_its_end() {
    let mut env = Env::with_model().await;
    let id = logged(&mut env, &["I a", "W b", "E c", "D d", "W e"]).await;
    let logs = async |query: &str| env.json(&format!("/v1/executions/{id}/logs?{query}")).await;
    let tail = logs("tail=2").await;
    assert_eq!(
        (numbers(&tail), &tail["next_before"], &tail["next_after"]),
        (vec![4, 5], &json!(4), &json!(5))
    );
    let before = logs("before=4&limit=2").await;
    assert_eq!((numbers(&before), &before["next_before"]), (vec![2, 3], &json!(2)));
    let first = logs("before=2&limit=2").await;
    assert_eq!((numbers(&first), first.get("next_before")), (vec![1], None));
    assert_eq!(numbers(&logs("level=W").await), [2, 3, 5]);
    assert_eq!(numbers(&logs("level=W&tail=1").await), [5]);
    assert_eq!(numbers(&logs("text=c&level=E").await), [3]);
    let between = logs("from=2023-11-14T22:13:22Z&to=2023-11-14T22:13:24Z").await;
    assert_eq!(numbers(&between), [2, 3]);
    assert_eq!(tail["complete"], json!(false));
    env.commit(id, 5, Ending::Succeeded(payload("1")), &[]).await;
    assert_eq!(logs("tail=2").await["complete"], json!(true));
    let none = logs("level=E&after=3").await;
    assert_eq!((numbers(&none), &none["complete"], &none["next_after"]), (vec![], &json!(true), &json!(5)));
}

#[tokio::test]
async fn what_is_wrong_with_a_page_is_said_with_what_is_allowed() {
    let mut env = Env::with_model().await;
    let id = logged(&mut env, &["I a"]).await;
    let long = "x".repeat(201);
    for (query, says) in [
        ("limit=0", "1 to 1000"),
        ("limit=1001", "1 to 1000"),
        ("limit=-1", "limit"),
        ("tail=0", "1 to 1000"),
        ("tail=1001", "1 to 1000"),
        ("tail=5&limit=5", "limit is not for a tail"),
        ("after=1&before=3", "one of the three"),
        ("after=0&tail=3", "one of the three"),
        ("after=-1", "0 or a log_id"),
        ("before=0", "from 1 on"),
        ("level=X", "D, I, W or E"),
        ("level=warning", "D, I, W or E"),
        ("level=", "D, I, W or E"),
        ("text=", "1 to 200 bytes"),
        (&format!("text={long}"), "1 to 200 bytes"),
        ("text=a%00", "without NUL"),
        ("from=yesterday", "RFC 3339"),
        ("from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "later than"),
        ("colour=red", "unknown field"),
    ] {
        for path in [format!("/v1/executions/{id}/logs?{query}"), format!("/v1/models/echo/logs?{query}")] {
            if path.contains("models") && ["tail", "after", "before"].iter().any(|name| query.contains(name))
            {
                continue;
            }
            let answer = env.get(&path).await;
            assert_eq!(answer.status(), 400, "{path}");
            let problem: Value = answer.json().await.unwrap();
            assert_eq!(problem["code"], "parameter", "{path}");
            assert!(problem["detail"].as_str().unwrap().contains(says), "{path}: {problem}");
        }
    }
    for (path, says) in [
        ("/v1/models/echo/logs?cursor=x", "next"),
        (&format!("/v1/models/echo/logs?cursor={id}"), "next"),
        (&format!("/v1/models/echo/logs?cursor={id}.-1"), "next"),
        ("/v1/executions?cursor=x", "next"),
        ("/v1/executions?from=x", "RFC 3339"),
        ("/v1/executions?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "later than"),
        ("/v1/executions?state=done", "succeeded"),
        ("/v1/executions?error_class=bad", "script"),
        ("/v1/executions?limit=0", "1 to 200"),
    ] {
        let answer = env.get(path).await;
        assert_eq!(answer.status(), 400, "{path}");
        let problem: Value = answer.json().await.unwrap();
        assert!(problem["detail"].as_str().unwrap().contains(says), "{path}: {problem}");
    }
    for (accept, query) in [
        ("application/x-ndjson", "limit=5"),
        ("text/event-stream", "limit=5"),
        ("text/event-stream", "before=5"),
    ] {
        let get = env.http.get(env.url(&format!("/v1/executions/{id}/logs?{query}")));
        assert_eq!(get.header("Accept", accept).send().await.unwrap().status(), 400, "{accept} {query}");
    }
}

#[tokio::test]
async fn a_search_is_paged_by_its_cursor() {
    let mut env = Env::with_model().await;
    let old = logged(&mut env, &["I hay", "I needle", "E needle"]).await;
    // In another millisecond: ids of one have no order.
    testkit::eventually("time passes", std::time::Duration::from_secs(5), async || {
        jiff::Timestamp::now().as_millisecond() > i64::try_from(old.unix_ms()).unwrap() + 1
    })
    .await;
    let young = logged(&mut env, &["E needle"]).await;
    let path = "/v1/models/echo/logs?text=needle&limit=2";
    let page = env.json(path).await;
    let of = |page: &Value| {
        let row = |row: &Value| {
            (row["execute_id"].as_str().unwrap().parse().unwrap(), row["log_id"].as_i64().unwrap())
        };
        page["lines"].as_array().unwrap().iter().map(row).collect::<Vec<(ExecuteId, i64)>>()
    };
    assert_eq!(of(&page), [(young, 1), (old, 2)]);
    let next = page["next"].as_str().unwrap();
    let page = env.json(&format!("{path}&cursor={next}")).await;
    assert_eq!((of(&page), page.get("next")), (vec![(old, 3)], None));
    let page = env.json("/v1/models/echo/logs?level=E&text=needle").await;
    assert_eq!(of(&page), [(young, 1), (old, 3)]);
    let page = env.json("/v1/models/echo/logs?to=2020-01-01T00:00:00Z").await;
    assert_eq!(page, json!({ "lines": [] }));
    let missing = env.get("/v1/models/none/logs?text=x").await;
    assert_eq!(missing.status(), 404);
    let streamed = rows(&env, "/v1/models/echo/logs?text=needle").await;
    assert_eq!(of(&json!({ "lines": streamed })), [(young, 1), (old, 2), (old, 3)]);
}

#[tokio::test]
async fn an_export_has_every_line_once() {
    let mut env = Env::with_model().await;
    let texts: Vec<String> =
        (1..=23_456).map(|n| format!("{} {n}", if n % 100 == 0 { "E" } else { "I" })).collect();
    let lines: Vec<&str> = texts.iter().map(String::as_str).collect();
    let id = logged(&mut env, &lines).await;
    let path = format!("/v1/executions/{id}/logs");
    let of = |rows: Vec<Value>| rows.iter().map(|row| row["log_id"].as_i64().unwrap()).collect::<Vec<_>>();
    assert_eq!(of(rows(&env, &path).await), (1..=23_456).collect::<Vec<_>>());
    assert_eq!(of(rows(&env, &format!("{path}?after=23454")).await), [23_455, 23_456]);
    assert_eq!(of(rows(&env, &format!("{path}?before=3")).await), [1, 2]);
    assert_eq!(of(rows(&env, &format!("{path}?tail=2")).await), [23_455, 23_456]);
    let errors: Vec<i64> = (1..=234).map(|n| n * 100).collect();
    assert_eq!(of(rows(&env, &format!("{path}?level=E")).await), errors);
    assert_eq!(of(rows(&env, "/v1/models/echo/logs?level=E").await), errors);
}

#[tokio::test]
async fn an_export_that_breaks_off_does_not_look_whole() {
    let mut env = Env::with_model().await;
    let text = format!("I {}", "x".repeat(900));
    let id = logged(&mut env, &vec![text.as_str(); 30_000]).await;
    let mut stream = ndjson(&env, &format!("/v1/executions/{id}/logs")).await.bytes_stream();
    stream.next().await.unwrap().unwrap();
    // More than the buffers between the two hold is still to come: the reading of it ends here.
    env.trigger.drain();
    let mut last = None;
    while let Some(part) = stream.next().await {
        last = Some(part);
    }
    assert!(last.unwrap().is_err(), "the end of a part looks like the end of the whole");
}

#[tokio::test]
async fn an_export_reads_no_further_than_its_reader() {
    let mut env = Env::with_model().await;
    let text = format!("I {}", "x".repeat(900));
    let id = logged(&mut env, &vec![text.as_str(); 30_000]).await;
    let mut stream = ndjson(&env, &format!("/v1/executions/{id}/logs")).await.bytes_stream();
    stream.next().await.unwrap().unwrap();
    // An export ends where the log does when it gets there, and it has not got there yet.
    write(&env, id, 30_000, &["I late"; 5]).await;
    let mut text = String::new();
    while let Some(part) = stream.next().await {
        text.push_str(std::str::from_utf8(&part.unwrap()).unwrap());
    }
    assert_eq!(text.matches("\"line\":\"I late\"").count(), 5, "it had been read to its end");
}

#[tokio::test]
async fn executions_are_listed_by_all_there_is_to_ask_for() {
    let mut env = Env::with_model().await;
    let (first, second) = (logged(&mut env, &[]).await, logged(&mut env, &[]).await);
    let failure = crate::harness::failure(domain::ErrorClass::Oom);
    env.commit(first, 0, Ending::Failed(failure), &[]).await;
    let list = async |query: &str| {
        let list = env.json(&format!("/v1/executions?{query}")).await;
        let ids =
            list["executions"].as_array().unwrap().iter().map(|row| row["execute_id"].as_str().unwrap());
        let mut ids: Vec<ExecuteId> = ids.map(|id| id.parse().unwrap()).collect();
        ids.sort_unstable();
        ids
    };
    let mut both = [first, second];
    both.sort_unstable();
    assert_eq!(list("node=hand&from=2020-01-01T00:00:00Z").await, both);
    assert_eq!(list("node=other").await, []);
    assert_eq!(list("error_class=oom&state=failed&model=echo").await, [first]);
    assert_eq!(list("state=running").await, [second]);
    assert_eq!(list("to=2020-01-01T00:00:00Z").await, []);
    let page = env.json("/v1/executions?limit=1").await;
    let next = page["next"].as_str().unwrap();
    let last = env.json(&format!("/v1/executions?limit=1&cursor={next}")).await;
    assert_eq!((last["executions"].as_array().unwrap().len(), last.get("next")), (1, None));
}

#[tokio::test]
async fn an_execution_is_found_by_its_attributes() {
    let env = Env::with_model().await;
    let submit = async |attributes: &str| {
        let post =
            env.post(&json!(1)).header("Prefer", "respond-async").header("Gantry-Attributes", attributes);
        post.send().await.unwrap()
    };
    let id = id_of(&submit("customer=acme, run=7").await);
    submit("customer=other").await;
    let row = env.json(&format!("/v1/executions/{id}")).await;
    assert_eq!(row["attributes"], json!({ "customer": "acme", "run": "7" }));
    for query in ["attribute=run=7", "attribute=customer%3Dacme,run%3D7&state=queued"] {
        let list = env.json(&format!("/v1/executions?{query}")).await;
        assert_eq!(list["executions"].as_array().unwrap().len(), 1, "{query}");
        assert_eq!(list["executions"][0]["execute_id"], json!(id), "{query}");
    }
    let nine = (0..9).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
    for bad in ["customer", "=x", "a=1,a=2", "A=1", &nine, &format!("a={}", "x".repeat(65))] {
        let answer = submit(bad).await;
        assert_eq!(answer.status(), 400, "{bad}");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["code"], "parameter", "{bad}");
        let asked =
            env.http.get(env.url("/v1/executions")).query(&[("attribute", bad)]).send().await.unwrap();
        assert_eq!(asked.status(), 400, "{bad}");
    }
}
