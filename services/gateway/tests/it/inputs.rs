use domain::limits::INPUT_BYTES_MAX;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Env, bundle_of};

/// Nothing of it is stored, and the next good request is unaffected.
async fn nothing_was_stored(env: &Env) {
    assert_eq!(env.json("/v1/executions").await["executions"], json!([]));
    assert_eq!(env.get("/healthz").await.status(), 200);
}

#[tokio::test]
async fn a_bad_input_is_refused_with_its_code() {
    let env = Env::with_model().await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let large = format!("\"{}\"", "x".repeat(INPUT_BYTES_MAX));
    for (body, status, code) in [
        ("", 400, "body_missing"),
        ("{", 400, "json_syntax"),
        ("{\"a\":}", 400, "json_syntax"),
        ("[1,]", 400, "json_syntax"),
        ("{} {}", 400, "json_syntax"),
        ("\u{feff}{}", 400, "json_syntax"),
        (&deep, 400, "json_syntax"),
        (&large, 413, "too_large"),
    ] {
        let post =
            env.http.post(env.url("/v1/models/echo/executions")).header("Content-Type", "application/json");
        let answer = post.body(body.to_owned()).send().await.unwrap();
        let shown = &body[..body.len().min(40)];
        assert_eq!(answer.status(), status, "{shown}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        assert_eq!(answer.json::<Value>().await.unwrap()["code"], code, "{shown}");
    }
    nothing_was_stored(&env).await;
}

#[tokio::test]
async fn a_bad_header_or_parameter_is_refused_with_its_code() {
    let env = Env::with_model().await;
    let key_too_long = "k".repeat(256);
    for (header, value, code) in [
        ("Prefer", "wait=301", "parameter"),
        ("Prefer", "wait=-1", "parameter"),
        ("Prefer", "wait=soon", "parameter"),
        ("Prefer", "wait=1.5", "parameter"),
        ("Idempotency-Key", "", "parameter"),
        ("Idempotency-Key", key_too_long.as_str(), "parameter"),
        ("Idempotency-Key", "a b", "parameter"),
        ("Gantry-Deadline", "tomorrow", "parameter"),
        ("Gantry-Deadline", "2099-01-01T00:00:00Z", "parameter"),
        ("Content-Encoding", "gzip", "media_type"),
    ] {
        let answer = env.post(&json!({})).header(header, value).send().await.unwrap();
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["code"], code, "{header}: {value}: {problem}");
        assert!(problem["detail"].as_str().unwrap().len() > 15, "{problem}");
    }
    let post = env.http.post(env.url("/v1/models/echo/executions")).header("Content-Type", "json").body("{}");
    assert_eq!(post.send().await.unwrap().status(), 415);
    for path in [
        "/v1/executions?limit=0",
        "/v1/executions?limit=201",
        "/v1/executions?limit=-1",
        "/v1/executions?limit=x",
        "/v1/executions?sort=name;DROP%20TABLE",
        "/v1/executions?state=done",
        "/v1/executions?model=%27%20OR%201=1--",
        "/v1/executions?cursor=x",
        "/v1/executions/x",
        "/v1/executions/..%2f..%2fetc%2fpasswd/logs",
        "/v1/executions/9f0a3f8e-2f3b-4c8e-9d7a-5b1f0c2d3e4f",
    ] {
        assert_eq!(env.get(path).await.status(), 400, "{path}");
    }
    nothing_was_stored(&env).await;
}

#[tokio::test]
async fn what_does_not_exist_is_not_found_in_the_same_form() {
    let env = Env::with_model().await;
    let unknown = "018bcfe5-6800-7853-8000-000000000000";
    for (method, path, status, code) in [
        (Method::GET, "/", 404, "route_not_found"),
        (Method::GET, "/v2/executions", 404, "route_not_found"),
        (Method::PATCH, "/v1/executions", 405, "method_not_allowed"),
        (Method::GET, &format!("/v1/executions/{unknown}"), 404, "execution_not_found"),
        (Method::GET, &format!("/v1/executions/{unknown}/logs"), 404, "execution_not_found"),
        (Method::GET, &format!("/v1/executions/{unknown}/result"), 404, "execution_not_found"),
        (Method::POST, &format!("/v1/executions/{unknown}/cancel"), 404, "execution_not_found"),
        (Method::GET, "/v1/models/nobody", 404, "model_not_found"),
        (Method::POST, "/v1/models/nobody/executions", 404, "model_not_found"),
        (Method::POST, "/v1/models/echo/executions?version=9", 404, "version_not_found"),
        (Method::POST, "/v1/models/echo/executions?version=stable", 404, "version_not_found"),
        (Method::POST, "/v1/models/..%2fetc/executions", 400, "name"),
        (Method::POST, "/v1/models/UPPER/executions", 400, "name"),
        (Method::POST, "/v1/models/%ff/executions", 400, "name"),
        (Method::POST, "/v1/models/%F0%9F%99%82/executions", 400, "name"),
        (Method::GET, "/v1/executions/%00", 400, "name"),
        (Method::POST, "/v1/models/echo/executions?version=0", 400, "name"),
        (Method::POST, "/v1/models/echo/executions?priority=255", 400, "parameter"),
    ] {
        let request = env.http.request(method.clone(), env.url(path)).json(&json!({}));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), status, "{method} {path}");
        assert_eq!(answer.json::<Value>().await.unwrap()["code"], code, "{method} {path}");
    }
    nothing_was_stored(&env).await;
}

#[tokio::test]
async fn an_input_without_the_parts_of_a_lock_s_name_is_refused_before_it_is_stored() {
    let env = Env::new().await;
    let manifest = "runtime = \"builtin\"\nbuiltin = \"echo\"\nexclusive = \"account:{input.id}\"\n";
    assert_eq!(env.push("echo", &bundle_of(&[("gantry.toml", manifest)])).await.status(), 201);
    let answer = env.post(&json!({})).send().await.unwrap();
    assert_eq!(answer.status(), 422);
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["code"], "input");
    assert!(problem["detail"].as_str().unwrap().contains("input.id"), "{problem}");
    nothing_was_stored(&env).await;
}
