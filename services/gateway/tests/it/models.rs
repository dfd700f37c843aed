use serde_json::{Value, json};

use crate::harness::{Env, bundle, bundle_of};

#[tokio::test]
async fn a_pushed_bundle_is_a_version_and_latest_moves_to_it() {
    let env = Env::new().await;
    let first = env.push("iris", &bundle()).await;
    assert_eq!(first.status(), 201);
    assert_eq!(first.json::<Value>().await.unwrap()["version"], 1);
    let second =
        bundle_of(&[("gantry.toml", "runtime = \"builtin\"\nbuiltin = \"echo\"\n"), ("README", "two")]);
    assert_eq!(env.push("iris", &second).await.json::<Value>().await.unwrap()["version"], 2);
    let again = env.push("iris", &second).await;
    assert_eq!(again.status(), 200, "the model has it already");

    let model = env.json("/v1/models/iris").await;
    let versions = model["versions"].as_array().unwrap();
    assert_eq!(versions.iter().map(|v| v["version"].as_i64().unwrap()).collect::<Vec<_>>(), [2, 1]);
    assert_eq!((&versions[0]["aliases"], &versions[1]["aliases"]), (&json!(["latest"]), &json!([])));
    assert_eq!(env.json("/v1/models").await["models"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_bad_bundle_is_refused_and_makes_no_model() {
    let env = Env::new().await;
    for (bundle, code) in [
        (b"not an archive".to_vec(), "bundle_corrupt"),
        (bundle_of(&[("README", "no manifest")]), "bundle_manifest"),
        (bundle_of(&[("gantry.toml", "runtime = \"proces\"")]), "bundle_manifest"),
        (bundle()[..40].to_vec(), "bundle_corrupt"),
    ] {
        let answer = env.push("iris", &bundle).await;
        assert_eq!(answer.status(), 400);
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["code"], code, "{problem}");
    }
    let post = env.http.post(env.url("/v1/models/iris/versions")).header("Content-Type", "text/plain");
    assert_eq!(post.body(bundle()).send().await.unwrap().status(), 415);
    assert_eq!(env.push("Iris", &bundle()).await.status(), 400);
    assert_eq!(env.json("/v1/models").await["models"], json!([]));
}
