use std::collections::HashSet;
use std::time::Duration;

use broker::Control;
use domain::{Ending, ErrorClass, ExecuteId};
use futures::future::join_all;
use serde_json::{Value, json};
use testkit::eventually;

use crate::harness::{Env, bundle_of, failure, id_of, payload};

#[tokio::test]
async fn a_caller_gets_the_result_itself() {
    let mut env = Env::with_model().await;
    let call = env.post(&json!({ "n": 1 })).send();
    let (answer, id) = tokio::join!(call, env.echo());
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(id_of(&answer), id);
    assert_eq!(answer.headers()["content-type"], "application/json");
    assert_eq!(answer.headers()["gantry-attempt"], "1");
    let timing = answer.headers()["server-timing"].to_str().unwrap();
    assert!(timing.contains("run;dur=5.000"), "straight from the reply: {timing}");
    assert_eq!(answer.text().await.unwrap(), r#"{"n":1}"#);
}

#[tokio::test]
async fn at_its_deadline_a_caller_gets_a_handle_and_later_the_result() {
    let mut env = Env::with_model().await;
    let answer = env.post(&json!(7)).header("Prefer", "wait=1").send().await.unwrap();
    assert_eq!(answer.status(), 202);
    assert_eq!(answer.headers()["retry-after"], "1");
    assert_eq!(answer.headers()["preference-applied"], "wait=1");
    let id = id_of(&answer);
    assert_eq!(answer.headers()["location"], format!("/v1/executions/{id}").as_str());
    let not_yet = env.get(&format!("/v1/executions/{id}/result")).await;
    assert_eq!(not_yet.status(), 409);
    assert_eq!(not_yet.json::<Value>().await.unwrap()["code"], "not_finished");

    let path = format!("/v1/executions/{id}?wait=30");
    let waiting = env.http.get(env.url(&path)).send();
    let (row, _) = tokio::join!(waiting, env.echo());
    assert_eq!(row.unwrap().json::<Value>().await.unwrap()["state"], "succeeded");
    assert_eq!(env.json(&format!("/v1/executions/{id}/result")).await, json!(7));
}

#[tokio::test]
async fn who_does_not_want_to_wait_does_not() {
    let env = Env::with_model().await;
    let answer = env.post(&json!(7)).header("Prefer", "respond-async").send().await.unwrap();
    assert_eq!(answer.status(), 202);
    let row = env.json(&format!("/v1/executions/{}", id_of(&answer))).await;
    assert_eq!((row["state"].as_str(), row["model"].as_str()), (Some("queued"), Some("echo")));
}

#[tokio::test]
async fn a_lost_reply_is_answered_by_the_look_up() {
    let mut env = Env::with_model().await;
    let call = env.post(&json!(1)).send();
    let work = async {
        let (request, _) = env.claim().await;
        env.commit(request.execute_id, 0, Ending::Succeeded(payload("2")), &[]).await;
    };
    let (answer, ()) = tokio::join!(call, work);
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), "2");
}

#[tokio::test]
async fn every_ending_has_its_status() {
    let mut env = Env::with_model().await;
    for (ending, status, code) in [
        (Ending::Failed(failure(ErrorClass::Script)), 422, "execution_failed"),
        (Ending::TimedOut(failure(ErrorClass::Timeout)), 504, "execution_timed_out"),
        (Ending::Cancelled(failure(ErrorClass::Cancelled)), 409, "execution_cancelled"),
        (Ending::Expired(failure(ErrorClass::Deadline)), 504, "execution_expired"),
        (Ending::Dead(failure(ErrorClass::NodeLost)), 500, "execution_dead"),
    ] {
        let call = env.post(&json!(1)).send();
        let class = ending.failure().unwrap().class;
        let work = async {
            let (request, _) = env.claim().await;
            let conclusion = env.commit(request.execute_id, 0, ending, &["first", "last"]).await;
            env.reply(&conclusion);
            request.execute_id
        };
        let (answer, id) = tokio::join!(call, work);
        let answer = answer.unwrap();
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["code"], code);
        assert_eq!(problem["error_class"], class.label());
        assert_eq!(problem["exit_code"], 3);
        assert_eq!(problem["last_lines"], json!(["first", "last"]));
        assert_eq!(problem["execute_id"], id.to_string());
        assert_eq!(env.get(&format!("/v1/executions/{id}/result")).await.status(), status, "asked later");
    }
}

#[tokio::test]
async fn two_hundred_callers_with_one_key_are_one_execution() {
    let mut env = Env::with_model().await;
    let calls = (0..200).map(|_| env.post(&json!({ "a": 1 })).header("Idempotency-Key", "k").send());
    let calls = join_all(calls.collect::<Vec<_>>());
    let (answers, id) = tokio::join!(calls, env.echo());
    let mut ids = HashSet::new();
    let mut replayed = 0;
    for answer in answers {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 200);
        replayed += usize::from(answer.headers().contains_key("idempotency-replayed"));
        ids.insert(id_of(&answer));
    }
    assert_eq!((ids, replayed), (HashSet::from([id]), 199));

    let again = env.post(&json!({ "a": 1 })).header("Idempotency-Key", "k").send().await.unwrap();
    assert_eq!(again.text().await.unwrap(), r#"{"a":1}"#, "finished long ago");
    let other = env.post(&json!({ "a": 2 })).header("Idempotency-Key", "k").send().await.unwrap();
    assert_eq!(other.status(), 422);
    assert_eq!(other.json::<Value>().await.unwrap()["code"], "idempotency_key_reused");
}

#[tokio::test]
async fn a_caller_that_hangs_up_leaves_an_execution_and_no_waiter() {
    let mut env = Env::with_model().await;
    let call = env.post(&json!(1)).timeout(Duration::from_millis(300)).send();
    assert!(call.await.is_err(), "nobody answered");
    let id = env.echo().await;
    assert_eq!(env.json(&format!("/v1/executions/{id}")).await["state"], "succeeded");
    // A place that was not given up would be found by the look-up of a second execution under the same id.
    let list = env.json("/v1/executions?state=succeeded").await;
    assert_eq!(list["executions"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_queued_execution_is_cancelled_at_once_and_its_caller_is_told() {
    let env = Env::with_model().await;
    let call = env.post(&json!(1)).send();
    let cancel = async {
        let mut id = None;
        eventually("it is recorded", Duration::from_secs(10), async || {
            id = env.json("/v1/executions").await["executions"][0]["execute_id"].as_str().map(str::to_owned);
            id.is_some()
        })
        .await;
        env.http.post(env.url(&format!("/v1/executions/{}/cancel", id.unwrap()))).send().await.unwrap()
    };
    let (answer, cancelled) = tokio::join!(call, cancel);
    assert_eq!(cancelled.status(), 200);
    assert_eq!(cancelled.json::<Value>().await.unwrap()["state"], "cancelled");
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 409);
    assert_eq!(answer.json::<Value>().await.unwrap()["code"], "execution_cancelled");
}

#[tokio::test]
async fn a_list_goes_on_where_the_page_before_ended() {
    let env = Env::with_model().await;
    for n in 0..5 {
        assert_eq!(env.post(&json!(n)).header("Prefer", "respond-async").send().await.unwrap().status(), 202);
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = env.json(&format!("/v1/executions?limit=2{cursor}")).await;
        let ids = page["executions"].as_array().unwrap().iter();
        seen.extend(ids.map(|execution| execution["execute_id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen.len(), 5);
    assert!(seen.is_sorted_by(|a, b| a > b), "the youngest first, none twice: {seen:?}");
}

#[tokio::test]
async fn what_has_ended_cannot_be_taken_back_and_to_ask_twice_is_no_mistake() {
    let mut env = Env::with_model().await;
    let cancel = async |env: &Env, id: ExecuteId| {
        env.http.post(env.url(&format!("/v1/executions/{id}/cancel"))).send().await.unwrap()
    };
    let call = env.post(&json!(1)).send();
    let (_, id) = tokio::join!(call, env.echo());
    let answer = cancel(&env, id).await;
    assert_eq!(answer.status(), 409);
    let problem: Value = answer.json().await.unwrap();
    assert_eq!((&problem["code"], &problem["state"]), (&json!("already_ended"), &json!("succeeded")));

    let id = id_of(&env.post(&json!(2)).header("Prefer", "respond-async").send().await.unwrap());
    for _ in 0..2 {
        let answer = cancel(&env, id).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.json::<Value>().await.unwrap()["state"], "cancelled");
    }
}

#[tokio::test]
async fn a_running_execution_is_asked_to_end_and_every_worker_hears_of_it() {
    let mut env = Env::with_model().await;
    let mut controls = env.ports.broker.controls().await.unwrap();
    let id = id_of(&env.post(&json!(1)).header("Prefer", "respond-async").send().await.unwrap());
    env.claim().await;
    let answer = env.http.post(env.url(&format!("/v1/executions/{id}/cancel"))).send().await.unwrap();
    assert_eq!(answer.status(), 202);
    assert_eq!(answer.json::<Value>().await.unwrap()["state"], "running");
    assert_eq!(controls.recv().await, Some(Control::Cancel(id)));
    assert_eq!(env.json(&format!("/v1/executions/{id}")).await["cancel_requested"], true);
}

#[tokio::test]
async fn a_handle_says_where_the_execution_is() {
    let mut env = Env::with_model().await;
    let call = env.post(&json!(1)).header("Idempotency-Key", "k").header("Prefer", "wait=1").send();
    let (answer, (request, _)) = tokio::join!(call, env.claim());
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 202);
    assert_eq!(answer.json::<Value>().await.unwrap()["state"], "running");

    env.commit(request.execute_id, 0, Ending::Succeeded(payload("1")), &[]).await;
    let repeat = env.post(&json!(1)).header("Idempotency-Key", "k");
    let repeat = repeat.header("Prefer", "respond-async").send().await.unwrap();
    assert_eq!(repeat.status(), 202, "who does not want to wait gets a handle in any case");
    assert_eq!(repeat.headers()["idempotency-replayed"], "true");
    assert_eq!(repeat.json::<Value>().await.unwrap()["state"], "succeeded");
}

#[tokio::test]
async fn a_version_is_found_as_soon_as_it_is_pushed() {
    let mut env = Env::with_model().await;
    for version in 2..6 {
        let bundle = bundle_of(&[
            ("gantry.toml", "runtime = \"builtin\"\nbuiltin = \"echo\"\n"),
            ("n", &version.to_string()),
        ]);
        assert_eq!(env.push("echo", &bundle).await.status(), 201);
        let calls = (0..10).map(|_| env.post(&json!(1)).header("Prefer", "respond-async").send());
        for answer in join_all(calls.collect::<Vec<_>>()).await {
            let id = id_of(&answer.unwrap());
            assert_eq!(env.json(&format!("/v1/executions/{id}")).await["version"], version);
        }
        for _ in 0..10 {
            env.echo().await;
        }
    }
}
