//! The load test as it is run: against a `gantry dev`, and against the bare servers.

#![expect(clippy::unwrap_used, reason = "what a test cannot do fails it")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use testkit::servers;

/// Runs the load test away from whatever servers the environment names.
fn loadtest(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    for name in ["GANTRY_URL", "GANTRY_AMQP_URL", "GANTRY_POSTGRES_URL", "GANTRY_RUN_DIR"] {
        command.env_remove(name);
    }
    command.args(arguments);
    command
}

fn json(file: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

/// A `gantry dev` with the model `echo`. Dropping it kills it.
struct Dev {
    url: String,
    process: Child,
    _dir: TempDir,
}

impl Dev {
    fn start() -> Self {
        let gantry = PathBuf::from(env!("CARGO_BIN_EXE_loadtest")).with_file_name("gantry");
        assert!(
            gantry.is_file(),
            "{} is missing: test the workspace, or `cargo build -p gantry`",
            gantry.display()
        );
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let mut process = Command::new(&gantry)
            .args(["dev", "--listen", "127.0.0.1:0", "--dir"])
            .arg(&data)
            .stdout(Stdio::piped())
            .stderr(fs::File::create(dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        // All of it, so that it never meets a closed pipe.
        let said: Vec<_> = lines.take_while(|line| !line.contains("gantry run")).collect();
        let url = said.iter().find_map(|line| line.trim().strip_prefix("URL")).unwrap_or_else(|| {
            panic!("no URL in {said:?}\n{}", fs::read_to_string(dir.path().join("log")).unwrap_or_default())
        });
        let dev = Self { url: url.trim().to_owned(), process, _dir: dir };
        let echo = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/echo");
        let pushed = Command::new(gantry).args(["push", echo]).env("GANTRY_URL", &dev.url).output().unwrap();
        assert!(pushed.status.success(), "{pushed:?}");
        dev
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[test]
fn a_load_on_the_embedded_default_is_reported_in_every_form() {
    let dev = Dev::start();
    let dir = tempfile::tempdir().unwrap();
    let [data, words, page] = ["r.json", "r.md", "r.html"].map(|name| dir.path().join(name));
    let files = [&data, &words, &page].map(|file| file.to_str().unwrap());
    let common = ["--url", &dev.url, "--json", files[0], "--markdown", files[1], "--html", files[2]];
    let load = ["http", "--model", "echo", "--concurrency", "4", "--duration", "1", "--warmup", "0.2"];
    let limits = ["--ceiling-time", "0.2", "--slo", "throughput>1", "--slo", "p99<60s"];
    let output = loadtest(&[&load[..], &common, &limits].concat()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let report = json(&data);
    let run = &report["runs"][0];
    assert!(run["figures"]["succeeded"].as_u64().unwrap() > 0, "{run}");
    assert_eq!(run["figures"]["lost"], 0);
    assert!(
        run["ceiling"]["sqlite"]["per_s"].as_f64().unwrap() > 0.0 && run["share"].as_f64().unwrap() > 0.0,
        "{run}"
    );
    let names: Vec<_> =
        run["accounting"]["processes"].as_array().unwrap().iter().map(|p| p["name"].clone()).collect();
    assert!(names.contains(&"gantry".into()) && names.contains(&"loadtest".into()), "{names:?}");
    let stages: Vec<_> =
        run["stages"].as_array().unwrap().iter().map(|stage| stage["name"].clone()).collect();
    // A builtin has run when it is claimed, and ends with that.
    assert_eq!(stages, ["admit", "record", "publish", "queue", "reply"]);
    assert!(fs::read_to_string(&words).unwrap().starts_with("# Load test"));
    assert!(fs::read_to_string(&page).unwrap().starts_with("<!doctype html>"));

    let output = loadtest(&["compare", files[0], files[0]]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("throughput /s"), "{output:?}");

    let strict = ["--url", &dev.url, "--no-ceiling", "--slo", "p99<1us"];
    let output = loadtest(&[&load[..], &strict].concat()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("p99<1us DOES NOT HOLD"), "{output:?}");
}

#[test]
fn a_scenario_calls_in_each_way() {
    scenario(false);
}

#[test]
fn a_scenario_calls_in_each_way_over_http2() {
    scenario(true);
}

fn scenario(is_http2: bool) {
    let dev = Dev::start();
    let dir = tempfile::tempdir().unwrap();
    let (scenario, data) = (dir.path().join("s.toml"), dir.path().join("r.json"));
    let text = format!(
        "name = 'ways'\nhttp2 = {is_http2}\n[load]\nramp = '20..60'\nduration_s = 1\nwarmup_s = 0.2\n"
    );
    let calls = ["sync", "async", "sse"]
        .map(|mode| format!("[[call]]\nmodel = 'echo'\nmode = '{mode}'\nbatch = 2\n"));
    fs::write(&scenario, text + &calls.concat()).unwrap();
    let (file, json_file) = (scenario.to_str().unwrap(), data.to_str().unwrap());
    let output =
        loadtest(&["run", file, "--url", &dev.url, "--no-ceiling", "--json", json_file]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let run = json(&data)["runs"][0].clone();
    // An answer of the other version is no answer.
    assert_eq!(run["load"].as_str().unwrap().ends_with("over HTTP/2"), is_http2, "{}", run["load"]);
    let kinds = run["kinds"].as_array().unwrap();
    assert_eq!(kinds.len(), 3);
    for kind in kinds {
        assert!(kind[1]["succeeded"].as_u64().unwrap() > 20, "{kind}");
        assert_eq!(kind[1]["succeeded"], kind[1]["offered"]);
    }
}

#[test]
fn the_ceiling_is_measured_on_the_bare_servers() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("ceiling.json");
    let output =
        loadtest(&["ceiling", "--concurrency", "8", "--duration", "0.3", "--json", data.to_str().unwrap()])
            .env("GANTRY_AMQP_URL", servers().amqp())
            .env("GANTRY_POSTGRES_URL", servers().postgres())
            .output()
            .unwrap();
    assert!(output.status.success(), "{output:?}");
    let ceiling = json(&data)[0]["ceiling"].clone();
    for part in ["amqp", "http", "postgres_copy", "postgres_insert"] {
        assert!(ceiling[part]["per_s"].as_f64().unwrap() > 0.0, "{part}: {ceiling}");
    }
}
