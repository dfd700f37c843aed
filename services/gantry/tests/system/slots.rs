use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use domain::State;
use futures::future::join_all;
use serde_json::json;
use testkit::fresh_name;
use tokio::time::{interval, timeout};

use crate::harness::{PATIENCE, Shape, System, count_processes};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_never_runs_more_than_its_slots() {
    let system = System::start(Shape::small()).await;
    // A process of its own name, to be counted from outside while the worker believes what it likes.
    let marker = fresh_name("marker");
    let script = format!("cat >/dev/null; exec python3 -c 'import time; time.sleep(0.5)' {marker}\n");
    system.push_script("half", &script, "");

    let most = Arc::new(AtomicUsize::new(0));
    let seen = most.clone();
    let counting = async {
        let mut ticks = interval(Duration::from_millis(20));
        loop {
            ticks.tick().await;
            seen.fetch_max(count_processes(&marker), Ordering::Relaxed);
        }
    };
    let calls = join_all((0..40).map(|n| system.post("half", &json!({ "n": n }), 60).send()));
    let answers = tokio::select! {
        answers = timeout(PATIENCE, calls) => answers.expect("40 runs of half a second take no minute"),
        () = counting => unreachable!("it counts for ever"),
    };
    for answer in answers {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    }
    assert_eq!(most.load(Ordering::Relaxed), 4, "all four slots were used, and never a fifth");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_call_gets_a_handle_in_time_and_the_result_later() {
    let system = System::start(Shape::small()).await;
    system.push_script("three", "cat >/dev/null; echo begun; sleep 3; echo '{\"slept\": 3}' >&3\n", "");
    let answer = system.post("three", &json!({}), 1).send().await.unwrap();
    assert_eq!(answer.status(), 202);
    let location = answer.headers()["location"].to_str().unwrap().to_owned();
    assert!(answer.headers().contains_key("retry-after"));
    let id = crate::harness::id_of(&answer);
    assert!(location.ends_with(&format!("/v1/executions/{id}")), "{location}");
    assert_eq!(system.ended(id, PATIENCE).await.state, State::Succeeded);
    let result: serde_json::Value = system.get(&format!("/v1/executions/{id}/result")).await.unwrap();
    assert_eq!(result, json!({ "slept": 3 }));
}
