use coordination::Membership;
use domain::{Digest, NodeId};
use jiff::Timestamp;
use protocol::{BundleState, NodeInfo};
use reqwest::Response;
use serde_json::{Value, json};
use testkit::eventually;

use crate::harness::{Env, bundle_of};

const LIMIT: std::time::Duration = std::time::Duration::from_secs(20);

/// A bundle of a script, so that nodes need it; `n` tells bundles apart.
fn script(n: u32) -> Vec<u8> {
    let manifest = "runtime = \"process\"\ncommand = [\"true\"]\n";
    bundle_of(&[("gantry.toml", manifest), ("number", &n.to_string())])
}

/// A node that serves the queue `default`.
async fn join(env: &Env, name: &str) -> Membership {
    let info = NodeInfo {
        id: NodeId::new(name.parse().unwrap(), 1, 1),
        address: "here".to_owned(),
        pid: 1,
        version: "1".to_owned(),
        slots: 1,
        queues: vec!["default".parse().unwrap()],
        labels: std::collections::BTreeMap::new(),
        draining: false,
        since: Timestamp::now(),
    };
    env.ports.coordination.join(info).await.unwrap()
}

impl Env {
    async fn put_alias(&self, alias: &str, body: &Value) -> Response {
        let url = self.url(&format!("/v1/models/iris/aliases/{alias}"));
        self.http.put(url).json(body).send().await.unwrap()
    }

    async fn states(&self, version: u32) -> Value {
        let found = self.json(&format!("/v1/models/iris/readiness?version={version}")).await;
        let nodes = found["versions"][0]["nodes"].as_array().unwrap().clone();
        nodes.iter().map(|it| json!([it["node"], it["state"], it["bytes"]])).collect()
    }
}

#[tokio::test]
async fn an_alias_moves_only_when_enough_nodes_are_ready() {
    let env = Env::new().await;
    let _nodes = [join(&env, "a").await, join(&env, "b").await];
    let mut digests = Vec::new();
    for n in 1..=2 {
        digests.push(Digest::of(&script(n)));
        assert_eq!(env.push("iris", &script(n)).await.status(), 201);
    }
    eventually("both nodes are seen", LIMIT, async || {
        env.states(2).await == json!([["a", "missing", 0], ["b", "missing", 0]])
    })
    .await;
    let answer = env.put_alias("stable", &json!({"version": 1})).await;
    assert_eq!(answer.status(), 409);
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["code"], "not_ready");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.starts_with("0 of 2 nodes are ready (0 %, 80 % needed): a missing, b missing"),
        "{detail}"
    );
    let wanted = env.ports.record.list_versions(&domain::TenantId::default(), None).await.unwrap();
    assert!(wanted[1].wanted_at.is_some() && wanted[0].wanted_at.is_none(), "nodes are to fetch version 1");

    let say = |node: &str, state| {
        env.ports.coordination.announce_bundle(&node.parse().unwrap(), digests[0], Some(state));
    };
    say("a", BundleState::Ready { bytes: 100 });
    say("b", BundleState::Fetching { bytes: 40, bytes_total: 100 });
    let half = json!([["a", "ready", 100], ["b", "fetching", 40]]);
    eventually("one of two is ready", LIMIT, async || env.states(1).await == half).await;
    assert_eq!(env.put_alias("stable", &json!({"version": 1})).await.status(), 409);
    say("b", BundleState::Ready { bytes: 100 });
    eventually("it moves", LIMIT, async || {
        env.put_alias("stable", &json!({"version": 1})).await.status() == 200
    })
    .await;
    let aliases = env.json("/v1/models/iris/aliases").await;
    assert_eq!(
        aliases["aliases"],
        json!([{"alias": "latest", "version": 2}, {"alias": "stable", "version": 1}])
    );
    let readiness = env.json("/v1/models/iris/readiness").await;
    assert_eq!(readiness["ready_percent_min"], 80);
    assert_eq!(
        (&readiness["versions"][0]["is_ready"], &readiness["versions"][1]["is_ready"]),
        (&json!(false), &json!(true))
    );

    // By force it moves at once, to what nobody has.
    let forced = env.put_alias("stable", &json!({"version": 2, "force": true})).await;
    assert_eq!(forced.json::<Value>().await.unwrap(), json!({"alias": "stable", "version": 2, "was": 1}));
}

#[tokio::test]
async fn an_alias_is_made_moved_and_taken_away_as_expected() {
    let env = Env::new().await;
    for n in 1..=2 {
        env.push("iris", &script(n)).await;
    }
    // There is no node to wait for.
    eventually("the view is current", LIMIT, async || {
        env.put_alias("stable", &json!({"version": 1, "expected": 0})).await.status() != 503
    })
    .await;
    let differs = env.put_alias("stable", &json!({"version": 2, "expected": 0})).await;
    assert_eq!(differs.status(), 409);
    assert_eq!(differs.json::<Value>().await.unwrap()["code"], "alias_differs");
    assert_eq!(env.put_alias("stable", &json!({"version": 2, "expected": 1})).await.status(), 200);
    let input = env.http.post(env.url("/v1/models/iris/executions?version=stable")).json(&json!({}));
    let accepted: Value = input.header("Prefer", "respond-async").send().await.unwrap().json().await.unwrap();
    let execution = env.json(accepted["location"].as_str().unwrap()).await;
    assert_eq!(execution["version"], 2, "the gateway that moved it knows at once");

    for (alias, body, status, code) in [
        ("stable", json!({"version": 3}), 404, "version_not_found"),
        ("7", json!({"version": 1}), 400, "name"),
        ("Stable", json!({"version": 1}), 400, "name"),
        ("stable", json!({"version": 1, "forced": true}), 400, "json_syntax"),
    ] {
        let answer = env.put_alias(alias, &body).await;
        assert_eq!(answer.status(), status, "{alias} {body}");
        assert_eq!(answer.json::<Value>().await.unwrap()["code"], code, "{alias} {body}");
    }
    for (alias, status) in [("stable", 204), ("stable", 404), ("latest", 400)] {
        let url = env.url(&format!("/v1/models/iris/aliases/{alias}"));
        assert_eq!(env.http.delete(url).send().await.unwrap().status(), status, "{alias}");
    }
    assert_eq!(env.get("/v1/models/other/aliases").await.status(), 404);
    assert_eq!(env.get("/v1/models/other/readiness").await.status(), 404);
    assert_eq!(env.get("/v1/models/iris/readiness?version=9").await.status(), 404);
}
