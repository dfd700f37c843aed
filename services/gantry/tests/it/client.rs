use std::io::Write;
use std::process::Stdio;

use domain::State;
use protocol::http::LogRow;
use serde_json::json;

use crate::harness::{Dev, Said, gantry, read_until};

const HELLO: &str = r#"
import json, os, sys
person = json.load(sys.stdin)["name"]
print("greeting", person)
with os.fdopen(3, "w") as result:
    json.dump({"greeting": f"Hello, {person}!"}, result)
"#;

#[test]
fn a_first_model_in_five_minutes() {
    let dev = Dev::start();
    let manifest = "runtime = \"process\"\ncommand = [\"python3\", \"hello.py\"]\n";
    let folder = dev.folder("hello", &[("hello.py", HELLO), ("gantry.toml", manifest)]);
    let pushed = dev.command(&["push", "."]).current_dir(&folder).output().unwrap();
    assert!(Said::of(pushed).expect(0).stdout.starts_with("hello version 1 pushed (2 files"));
    let again = dev.say(&["push", folder.to_str().unwrap()]).expect(0);
    assert!(again.stdout.contains("has these very files already"), "{}", again.stdout);

    let ran = dev.say(&["run", "hello", "--input", "{\"name\": \"Ada\"}", "--follow"]).expect(0);
    assert_eq!(ran.stdout, "{\"greeting\": \"Hello, Ada!\"}\n");
    assert!(ran.stderr.contains("I greeting Ada"), "{}", ran.stderr);
    let ran = dev.say(&["run", "hello", "--input", "{\"name\": \"Ada\"}", "--json"]).expect(0).json();
    assert_eq!(ran["result"], json!({ "greeting": "Hello, Ada!" }));
    assert_eq!((&ran["state"], &ran["attempt"]), (&json!("succeeded"), &json!(1)));

    let id = ran["execute_id"].as_str().unwrap();
    assert!(dev.say(&["logs", id]).expect(0).stdout.contains("greeting Ada"));
    let row: LogRow = serde_json::from_value(dev.say(&["logs", id, "--json"]).expect(0).json()).unwrap();
    assert_eq!((row.log_id, row.line.as_str()), (1, "greeting Ada"));
    assert_eq!(dev.show(id).state, State::Succeeded);
    let shown = dev.say(&["show", id]).expect(0).stdout;
    assert!(shown.contains("hello, version 1") && shown.contains("succeeded"), "{shown}");
    assert_eq!(dev.list().len(), 2);
    let list = dev.say(&["ps", "--model", "hello", "--state", "succeeded"]).expect(0).stdout;
    assert!(list.lines().count() == 3 && list.lines().all(|line| line.len() <= 80), "{list}");
    assert!(dev.say(&["models"]).expect(0).stdout.contains("hello"));
    dev.eventually("the node is announced", |dev| dev.say(&["nodes"]).stdout.contains(" up "));
    assert_eq!(dev.say(&["nodes", "--json"]).expect(0).json()["nodes"][0]["slots"], json!(2));
}

#[test]
fn an_exit_code_says_what_happened() {
    let dev = Dev::start();
    dev.push("fails", "echo 'ERROR: no such table' >&2\nexit 3\n", "");
    let failed = dev.say(&["run", "fails"]).expect(1);
    assert!(failed.stderr.contains("no such table") && failed.stdout.is_empty(), "{}", failed.stderr);
    let failed = dev.say(&["run", "fails", "--json"]).expect(1).json();
    assert_eq!((&failed["code"], &failed["exit_code"]), (&json!("execution_failed"), &json!(3)));

    dev.push("slow", "sleep 60\n", "[limits]\nrun_timeout_ms = 300\ngrace_ms = 100\n");
    dev.say(&["run", "slow", "--follow"]).expect(124);

    dev.push("sleeper", "echo begun\nsleep 60\n", "");
    let key = ["--idempotency-key", "nap"];
    let id = dev.say(&[&["run", "sleeper", "--async"], &key[..]].concat()).expect(0).stdout.trim().to_owned();
    let waiting = dev.say(&["run", "sleeper", "--wait", "1", "--idempotency-key", "nap"]).expect(75);
    assert!(waiting.stderr.contains(&format!("gantry logs {id} -f")), "{}", waiting.stderr);
    dev.say(&["cancel", &id]).expect(0);
    dev.say(&[&["run", "sleeper"], &key[..]].concat()).expect(130);
    assert_eq!(dev.show(&id).state, State::Cancelled);
    assert!(
        dev.say(&["cancel", &id]).expect(0).stdout.contains("stays so") || dev.show(&id).state.is_terminal()
    );

    let other =
        dev.say(&["run", "sleeper", "--input", "{\"other\": 1}", "--idempotency-key", "nap"]).expect(65);
    assert!(other.stderr.contains("idempotency key"), "{}", other.stderr);
    assert!(dev.say(&["run", "nobody"]).expect(66).stderr.contains("there is no model nobody"));
    dev.say(&["show", "0198c0de-0000-7000-8000-000000000000"]).expect(66);
    let nowhere = Said::of(gantry(&["ps", "--url", "http://127.0.0.1:9"]).output().unwrap()).expect(69);
    assert!(
        nowhere.stderr.contains("gantry dev") && nowhere.stderr.contains("GANTRY_URL"),
        "{}",
        nowhere.stderr
    );
}

#[test]
fn a_wrong_command_line_is_said_to_be_one() {
    let say = |args: &[&str]| Said::of(gantry(args).output().unwrap());
    assert!(say(&[]).expect(2).stderr.contains("Usage: gantry"));
    say(&["frobnicate"]).expect(2);
    assert!(say(&["--help"]).expect(0).stdout.contains("gantry run iris"));
    let bad = say(&["run", "x", "--input", "{'bad'"]).expect(2);
    assert!(bad.stderr.contains("\n  {'bad'\n   ^\n"), "{}", bad.stderr);
    assert!(
        say(&["run", "x", "--input", "@missing.json"])
            .expect(2)
            .stderr
            .contains("missing.json: No such file")
    );
    assert!(say(&["run", "x", "--input", "-"]).expect(2).stderr.contains("stdin is empty"));
    say(&["run", "../../etc/passwd"]).expect(2);
    say(&["show", "not-an-id"]).expect(2);
    assert!(say(&["ps", "--url", "localhost:80"]).expect(2).stderr.contains("http://"));
}

#[test]
fn a_folder_that_cannot_be_pushed_is_refused_before_it_is_sent() {
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/etc/passwd", directory.path().join("users")).unwrap();
    // Nobody listens there: it would be 69 if anything were sent.
    let args = ["push", directory.path().to_str().unwrap(), "--model", "m", "--url", "http://127.0.0.1:9"];
    let refused = Said::of(gantry(&args).output().unwrap()).expect(65);
    assert!(refused.stderr.contains("users: a symbolic link"), "{}", refused.stderr);
}

#[test]
fn any_type_of_input_goes_in_and_comes_out() {
    let dev = Dev::start();
    dev.push("upper", "tr a-z A-Z >&3\n", "[result]\ncontent_type = \"text/csv\"\n");
    let mut child = dev
        .command(&["run", "upper", "--input", "-", "--content-type", "text/csv"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"a,b\nc,d\n").unwrap();
    assert_eq!(Said::of(child.wait_with_output().unwrap()).expect(0).stdout, "A,B\nC,D\n");
}

#[test]
fn what_a_script_prints_cannot_change_the_terminal_unless_asked_for() {
    let dev = Dev::start();
    dev.push("red", "printf '\\033[31mred\\033[0m\\n'; echo 1 >&3\n", "");
    let id = dev.say(&["run", "red", "--json"]).expect(0).json()["execute_id"].as_str().unwrap().to_owned();
    let plain = dev.say(&["logs", &id]).expect(0).stdout;
    assert!(plain.ends_with("I red\n"), "{plain:?}");
    assert!(dev.say(&["logs", &id, "--raw"]).expect(0).stdout.contains("\u{1b}[31mred"));
}

#[test]
fn following_a_log_survives_a_restart_without_gap_or_repeat() {
    let mut dev = Dev::start();
    let script = "i=0\nwhile [ $i -lt 40 ]; do i=$((i + 1)); echo line $i; sleep 0.05; done\necho 1 >&3\n";
    dev.push("lines", script, "");
    let id = dev.submit("lines", "{}");
    let mut following = dev.command(&["logs", &id, "-f", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = following.stdout.take().unwrap();
    let mut said = read_until(&mut stdout, "line 5\"");
    dev.kill();
    dev.start_again();
    std::io::Read::read_to_string(&mut stdout, &mut said).unwrap();
    assert!(following.wait().unwrap().success());

    let rows: Vec<LogRow> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ids: Vec<i64> = rows.iter().map(|row| row.log_id).collect();
    assert_eq!(ids, (1..=rows.len() as i64).collect::<Vec<_>>());
    let last: Vec<_> = rows.iter().filter(|row| row.attempt == 2).map(|row| row.line.clone()).collect();
    assert_eq!(last, (1..=40).map(|n| format!("line {n}")).collect::<Vec<_>>());
}

#[test]
fn a_node_is_resized_drained_and_taken_back_while_it_runs() {
    let dev = Dev::start();
    dev.eventually("the node is announced", |dev| dev.say(&["nodes"]).stdout.contains(" up "));
    let nodes = || dev.say(&["nodes", "--json"]).expect(0).json()["nodes"][0].clone();
    let name = nodes()["id"].as_str().unwrap().split_once('@').unwrap().0.to_owned();
    assert!(dev.say(&["nodes", "set", &name, "--slots", "5"]).expect(0).stdout.contains("5 slots"));
    dev.eventually("it has 5 slots", |_| nodes()["slots"] == json!(5));
    dev.say(&["nodes", "set", &name, "--slots", "default"]).expect(0);
    dev.eventually("it has as many as configured", |_| nodes()["slots"] == json!(2));
    dev.say(&["nodes", "set", &name, "--slots", "0"]).expect(2);
    let drained = dev.say(&["nodes", "drain", &name, "--deadline", "5m", "--wait"]).expect(0);
    assert!(drained.stdout.contains("runs nothing"), "{}", drained.stdout);
    assert_eq!(nodes()["state"], json!("draining"));
    dev.push("quick", "echo 1 >&3\n", "");
    let id = dev.submit("quick", "{}");
    let explained = dev.say(&["explain", &id]).expect(0).stdout;
    assert!(explained.contains("draining"), "{explained}");
    dev.say(&["nodes", "undrain", &name]).expect(0);
    dev.eventually("it runs", |dev| dev.show(&id).state == State::Succeeded);
    assert!(dev.say(&["explain", &id]).expect(0).stdout.contains("it is succeeded"));
    dev.eventually("its history tells it all", |dev| {
        let shown = dev.say(&["nodes", "show", &name]).expect(0).stdout;
        ["joined", "resized", "draining", "back"].iter().all(|event| shown.contains(event))
    });
    assert!(dev.say(&["nodes", "show", "nobody"]).expect(66).stderr.contains("no node nobody"));
    assert!(dev.say(&["limits"]).expect(0).stderr.contains("no limit"));
}
