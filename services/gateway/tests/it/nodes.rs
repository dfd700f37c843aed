use std::time::Duration;

use coordination::Membership;
use domain::NodeId;
use jiff::Timestamp;
use protocol::{NodeInfo, http};
use serde_json::{Value, json};
use store::NodeSeen;
use testkit::eventually;

use crate::harness::{Env, bundle_of};

const LIMIT: Duration = Duration::from_secs(30);

fn info(name: &str, queue: &str) -> NodeInfo {
    NodeInfo {
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        id: NodeId::new(name.parse().unwrap(), 1, 1),
        address: "10.0.0.1".to_owned(),
        pid: 1,
        version: "0".to_owned(),
        slots: 2,
        queues: vec![queue.parse().unwrap()],
        draining: false,
        since: Timestamp::now(),
    }
}

impl Env {
    async fn join(&self, info: NodeInfo) -> Membership {
        let name = info.id.name().to_string();
        let membership = self.ports.coordination.join(info).await.unwrap();
        self.until_node(&name, "up").await;
        membership
    }

    async fn until_node(&self, name: &str, state: &str) {
        let what = format!("{name} is {state}");
        eventually(&what, LIMIT, async || self.node(name).await["state"] == state).await;
    }

    async fn node(&self, name: &str) -> Value {
        self.json(&format!("/v1/nodes/{name}")).await
    }

    async fn tell(&self, path: &str, body: &Value) -> (u16, Value) {
        let url = self.url(&format!("/v1/nodes/{path}"));
        let request = if path.ends_with("settings") { self.http.put(url) } else { self.http.post(url) };
        let answer = request.json(body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn reasons(&self, id: &str) -> Vec<String> {
        let explanation: http::Explanation =
            self.get(&format!("/v1/executions/{id}/explain")).await.json().await.unwrap();
        let code = |reason: &http::Reason| serde_json::to_value(reason.code).unwrap();
        explanation.reasons.iter().map(|reason| code(reason).as_str().unwrap().to_owned()).collect()
    }
}

#[tokio::test]
async fn a_node_is_listed_with_what_it_does_and_for_a_day_after_it_went() {
    let env = Env::new().await;
    let (one, two) = (info("one", "default"), info("two", "default"));
    // What a monitor does.
    env.ports.record.note_node(&one, NodeSeen::Present).await.unwrap();
    env.ports.record.note_node(&two, NodeSeen::Present).await.unwrap();
    let first = env.join(one.clone()).await;
    let second = env.join(two.clone()).await;
    let node = env.node("one").await;
    assert_eq!(
        (&node["slots"], &node["running"], &node["labels"]["zone"]),
        (&json!(2), &json!(0), &json!("a"))
    );
    assert_eq!(node["history"][0]["event"], "joined");
    // No monitor has seen that it is gone: it is lost all the same.
    first.leave().await;
    env.until_node("one", "lost").await;
    env.ports.record.note_node(&two, NodeSeen::Leaving).await.unwrap();
    second.leave().await;
    env.until_node("two", "left").await;
    let list: http::NodeList = env.get("/v1/nodes").await.json().await.unwrap();
    assert!(list.is_current && list.nodes.len() == 2, "{list:?}");
    let missing = env.get("/v1/nodes/nobody").await;
    assert_eq!(
        (missing.status(), &missing.json::<Value>().await.unwrap()["code"]),
        (404.try_into().unwrap(), &json!("node_not_found"))
    );
}

#[tokio::test]
async fn what_is_asked_of_a_node_is_kept_and_each_change_leaves_the_others_alone() {
    let env = Env::new().await;
    let _membership = env.join(info("one", "default")).await;
    for _ in 0..2 {
        let (status, node) = env.tell("one/settings", &json!({ "slots": 16 })).await;
        assert_eq!((status, &node["settings"]), (200, &json!({ "slots": 16 })));
    }
    let (status, node) = env.tell("one/drain", &json!({ "mode": "requeue", "deadline_seconds": 60 })).await;
    assert_eq!((status, &node["settings"]["drain"]["mode"]), (200, &json!("requeue")));
    assert!(node["settings"]["drain"]["until"].is_string());
    assert_eq!(node["settings"]["slots"], 16);
    let since = node["settings"]["drain"]["since"].clone();
    let (_, node) = env.tell("one/drain", &json!({})).await;
    assert_eq!(
        (&node["settings"]["drain"]["mode"], &node["settings"]["drain"]["since"]),
        (&json!("finish"), &since)
    );
    let (_, node) = env.tell("one/undrain", &json!({})).await;
    assert_eq!(node["settings"], json!({ "slots": 16 }));
    let (_, node) = env.tell("one/settings", &json!({ "slots": null })).await;
    assert_eq!(node["settings"], json!({}));
    assert_eq!(env.node("one").await["settings"], json!({}));
    for (path, body, status, code) in [
        ("one/settings", json!({ "slots": 0 }), 400, "parameter"),
        ("one/settings", json!({ "slots": 10_001 }), 400, "parameter"),
        ("one/settings", json!({ "slotz": 1 }), 400, "parameter"),
        ("one/drain", json!({ "mode": "gently" }), 400, "parameter"),
        ("nobody/drain", json!({}), 404, "node_not_found"),
        ("NOBODY/undrain", json!({}), 400, "name"),
    ] {
        let (found, problem) = env.tell(path, &body).await;
        assert_eq!((found, problem["code"].as_str().unwrap()), (status, code), "{path} {body}");
    }
}

#[tokio::test]
async fn an_execution_says_why_it_waits() {
    let mut env = Env::new().await;
    let manifest = "runtime = \"builtin\"\nbuiltin = \"echo\"\nexclusive = \"key:{input.k}\"\n";
    env.push("echo", &bundle_of(&[("gantry.toml", manifest)])).await;
    let submit = async |env: &Env| {
        let answer = env.post(&json!({ "k": 1 })).header("Prefer", "respond-async").send().await.unwrap();
        answer.json::<Value>().await.unwrap()["execute_id"].as_str().unwrap().to_owned()
    };
    let first = submit(&env).await;
    assert!(env.reasons(&first).await.contains(&"no_node".to_owned()));
    let _membership = env.join(info("hand", "default")).await;
    assert!(!env.reasons(&first).await.contains(&"no_node".to_owned()));
    let second = submit(&env).await;
    let (holder, _) = env.claim().await;
    let (waiter, _) = env.claim().await;
    assert_eq!(
        [holder.execute_id.to_string(), waiter.execute_id.to_string()],
        [first.clone(), second.clone()]
    );
    assert_eq!(env.reasons(&second).await, ["executing"]);
    let mut places = Vec::new();
    for request in [&holder, &waiter] {
        let contender = coordination::Contender {
            tenant: domain::TenantId::default(),
            execute_id: request.execute_id,
            attempt: 1,
            node: info("hand", "default").id,
            since: Timestamp::now(),
        };
        let lock = coordination::Contended::Lock("key:1".parse().unwrap());
        places.push(env.ports.coordination.enter(&lock, &contender, 10).await.unwrap());
    }
    let _held = places.remove(0).granted().await.unwrap();
    assert_eq!(env.reasons(&first).await, ["executing"]);
    assert_eq!(env.reasons(&second).await, ["waiting_lock"]);
    let explanation = env.json(&format!("/v1/executions/{second}/explain")).await;
    let reason = &explanation["reasons"][0];
    assert_eq!((&reason["name"], &reason["holders"][0]["execute_id"]), (&json!("key:1"), &json!(first)));
    assert_eq!(env.json(&format!("/v1/executions/{second}")).await["phase"], "waiting_lock");
    let lock = env.json("/v1/locks/key:1").await;
    assert_eq!(
        (&lock["holders"][0]["node"], &lock["waiters"][0]["execute_id"]),
        (&json!("hand"), &json!(second))
    );
    assert_eq!(env.json("/v1/limits").await["limits"], json!([]));
    assert_eq!(env.get("/v1/executions/0198c0de-0000-7000-8000-000000000000/explain").await.status(), 404);
}

#[tokio::test]
async fn how_many_nodes_there_should_be_follows_from_what_waits() {
    let env = Env::with_model().await;
    let scaling = env.json("/v1/scaling").await;
    assert_eq!(scaling["queues"]["default"]["desired_nodes"], 0);
    let _membership = env.join(info("one", "default")).await;
    for _ in 0..100 {
        let answer = env.post(&json!(1)).header("Prefer", "respond-async").send().await.unwrap();
        assert_eq!(answer.status(), 202);
    }
    let scaling = env.json("/v1/scaling").await;
    let queue = &scaling["queues"]["default"];
    assert_eq!(
        (&queue["waiting"], &queue["nodes"], &queue["remove_first"]),
        (&json!(100), &json!(1), &json!("one"))
    );
    // 100 executions of 1 s in 30 s on nodes of 2 slots: 100 / 30 / 2, rounded up.
    assert_eq!(queue["desired_nodes"], 2);
}

#[tokio::test]
async fn what_a_node_is_told_is_bounded() {
    let env = Env::new().await;
    for (body, status) in [("", 400), (&*" ".repeat(5 << 10), 413)] {
        let request = env.http.put(env.url("/v1/nodes/one/settings")).body(body.to_owned());
        assert_eq!(request.send().await.unwrap().status(), status, "{} bytes", body.len());
    }
}
