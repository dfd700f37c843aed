//! What the client reads back: logs, searches, lists.

use serde_json::json;

use crate::harness::{Dev, Said, gantry};

#[test]
fn logs_are_read_from_their_end_by_level_and_by_text() {
    let dev = Dev::start();
    dev.push("talks", "for n in 1 2 3; do echo \"step $n\"; done; echo 'ERROR: no 4'; echo 1 >&3\n", "");
    let id = dev.say(&["run", "talks", "--json"]).expect(0).json()["execute_id"].as_str().unwrap().to_owned();
    let logs = |args: &[&str]| {
        let said = dev.say(&[&["logs", &id, "--json"], args].concat()).expect(0).stdout;
        let row =
            |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["log_id"].as_i64().unwrap();
        said.lines().map(row).collect::<Vec<_>>()
    };
    assert_eq!(logs(&[]), [1, 2, 3, 4]);
    assert_eq!(logs(&["--tail", "2"]), [3, 4]);
    assert_eq!(logs(&["-n", "2", "--follow"]), [3, 4]);
    assert_eq!(logs(&["--before", "4", "--tail", "2"]), [2, 3]);
    assert_eq!(logs(&["--before", "3"]), [1, 2]);
    assert_eq!(logs(&["--level", "error"]), [4]);
    assert_eq!(logs(&["--level", "W", "--follow"]), [4]);
    assert_eq!(logs(&["--text", "step", "--after", "1"]), [2, 3]);
    assert_eq!(logs(&["--text", "step", "--tail", "1"]), [3]);
    assert_eq!(logs(&["--since", "1h", "--text", "2"]), [2]);
    assert_eq!(logs(&["--until", "2020-01-01"]), [0_i64; 0]);

    let found = dev.say(&["search", "talks", "step 2", "--since", "1h"]).expect(0);
    assert!(found.stdout.starts_with(&id) && found.stdout.ends_with("I step 2\n"), "{}", found.stdout);
    let found = dev.say(&["search", "talks", "--level", "error", "--json"]).expect(0).json();
    assert_eq!((&found["execute_id"], &found["log_id"]), (&json!(id), &json!(4)));
    let first = dev.say(&["search", "talks", "--limit", "2"]).expect(0);
    assert!(
        first.stdout.lines().count() == 2 && first.stderr.contains("--limit shows more"),
        "{}",
        first.stderr
    );
    assert!(dev.say(&["search", "talks", "nothing"]).expect(0).stderr.contains("no such lines"));
    dev.say(&["search", "nobody", "x"]).expect(66);
}

#[test]
fn executions_are_listed_by_what_is_known_of_them() {
    let dev = Dev::start();
    dev.push("fine", "echo 1 >&3\n", "");
    dev.push("fails", "exit 3\n", "");
    let acme = ["--attribute", "customer=acme", "-a", "run=7"];
    let first = dev.say(&[&["run", "fine", "--json"], &acme[..]].concat()).expect(0).json();
    let id = first["execute_id"].as_str().unwrap();
    dev.say(&["run", "fine"]).expect(0);
    dev.say(&["run", "fails"]).expect(1);
    let count = |args: &[&str]| {
        let list = dev.say(&[&["ps", "--json"], args].concat()).expect(0).json();
        list["executions"].as_array().unwrap().len()
    };
    assert_eq!(count(&[]), 3);
    assert_eq!(count(&["--attribute", "customer=acme"]), 1);
    assert_eq!(count(&["-a", "customer=acme", "-a", "run=8"]), 0);
    assert_eq!(count(&["--error", "script"]), 1);
    assert_eq!(count(&["--state", "succeeded", "--since", "1d"]), 2);
    assert_eq!(count(&["--until", "1d"]), 0);
    let node = dev.show(id).node.unwrap();
    assert_eq!(count(&["--node", &node]), 3);
    assert_eq!(count(&["--node", node.split('@').next().unwrap(), "--model", "fine"]), 2);
    let shown = dev.say(&["show", id]).expect(0).stdout;
    assert!(shown.contains("customer=acme, run=7"), "{shown}");
}

#[test]
fn what_cannot_be_asked_for_is_wrong_usage() {
    let id = "0198c0de-0000-7000-8000-000000000000";
    for (args, says) in [
        (&["logs", id, "--tail", "0"][..], "1..=1000"),
        (&["logs", id, "--tail", "5", "--after", "5"], "cannot be used with"),
        (&["logs", id, "--before", "5", "--follow"], "cannot be used with"),
        (&["logs", id, "--level", "loud"], "debug, info, warning or error"),
        (&["ps", "--since", "yesterday"], "that long ago"),
        (&["ps", "--state", "done"], "state"),
        (&["ps", "--attribute", "acme"], "key=value"),
        (&["search", "talks", "--limit", "0"], "1.."),
    ] {
        let said = Said::of(gantry(args).output().unwrap()).expect(2);
        assert!(said.stderr.contains(says), "{args:?}: {}", said.stderr);
    }
}
