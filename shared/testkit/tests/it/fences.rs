//! Who may depend on whom, read from `cargo metadata` and the lock file: a fence that is not checked is a wish.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The driver and the one crate that speaks through it.
const DRIVERS: [(&str, &str); 7] = [
    ("lapin", "broker"),
    ("tokio-postgres", "store"),
    ("deadpool-postgres", "store"),
    ("tokio-postgres-rustls", "store"),
    ("rusqlite", "store"),
    ("zookeeper-client", "coordination"),
    ("rust-s3", "artifacts"),
];

/// What the load tests, which are never shipped, also speak through: what a driver does at most is measured on the bare driver,
/// beside our adapter in the same run.
const MEASURED: [&str; 3] = ["lapin", "tokio-postgres", "rusqlite"];

const SERVICES: [&str; 4] = ["gateway", "worker", "sync", "monitor"];

const ADAPTERS: [&str; 4] = ["store", "broker", "coordination", "artifacts"];

/// Crate names that must not be anywhere in the tree, with the reason.
const BANNED: [(&str, &str); 2] = [
    ("aws-lc-sys", "one crypto provider for the whole tree: ring"),
    ("openssl-sys", "TLS is rustls everywhere"),
];

struct Tree {
    /// Our crates and what they depend on, outside of tests and with tests.
    ours: BTreeMap<String, Dependencies>,
    /// Every crate in the lock file.
    all: BTreeSet<String>,
}

#[derive(Default)]
struct Dependencies {
    normal: BTreeSet<String>,
    any: BTreeSet<String>,
}

fn tree() -> Tree {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // With their dependencies it would ask for crates of other systems, which nothing here has downloaded.
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--manifest-path"])
        .arg(root.join("Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let ours = metadata["packages"].as_array().unwrap().iter().map(|package| {
        let mut dependencies = Dependencies::default();
        for dependency in package["dependencies"].as_array().unwrap() {
            if dependency["kind"].is_null() {
                dependencies.normal.insert(text(&dependency["name"]));
            }
            dependencies.any.insert(text(&dependency["name"]));
        }
        (text(&package["name"]), dependencies)
    });
    let lock: toml::Table = fs::read_to_string(root.join("Cargo.lock")).unwrap().parse().unwrap();
    let all = lock["package"].as_array().unwrap().iter();
    Tree {
        ours: ours.collect(),
        all: all.map(|package| package["name"].as_str().unwrap().to_owned()).collect(),
    }
}

#[test]
fn each_driver_is_named_by_exactly_one_crate() {
    let tree = tree();
    for (driver, owner) in DRIVERS {
        let users: Vec<_> = tree
            .ours
            .iter()
            .filter(|(_, crates)| crates.any.contains(driver))
            .map(|(name, _)| name.as_str())
            .filter(|name| *name != "loadtest" || !MEASURED.contains(&driver))
            .collect();
        assert_eq!(users, [owner], "who names {driver}");
    }
}

#[test]
fn a_service_depends_on_no_service() {
    let tree = tree();
    for service in SERVICES {
        for other in SERVICES.iter().chain(&["gantry"]) {
            assert!(!tree.ours[service].any.contains(*other), "{service} depends on {other}");
        }
    }
    // What is below the services knows none of them.
    for (name, crates) in
        tree.ours.iter().filter(|(name, _)| !SERVICES.contains(&name.as_str()) && *name != "gantry")
    {
        let service = SERVICES.iter().find(|service| crates.normal.contains(**service));
        assert_eq!(service, None, "{name} depends on a service");
    }
}

#[test]
fn adapters_do_not_know_each_other() {
    let tree = tree();
    for adapter in ADAPTERS {
        let known: Vec<_> =
            ADAPTERS.into_iter().filter(|other| tree.ours[adapter].any.contains(*other)).collect();
        let allowed: &[&str] = if adapter == "coordination" { &["store"] } else { &[] };
        assert!(known.iter().all(|other| allowed.contains(other)), "{adapter} depends on {known:?}");
    }
}

#[test]
fn what_is_below_knows_nothing_of_what_is_above() {
    let tree = tree();
    let ours: Vec<_> = tree.ours.keys().cloned().collect();
    let known = |name: &str| {
        ours.iter().filter(|other| tree.ours[name].normal.contains(*other)).cloned().collect::<Vec<_>>()
    };
    assert_eq!(known("domain"), Vec::<String>::new());
    assert_eq!(known("protocol"), ["domain"]);
    assert_eq!(known("testkit"), ["domain"]);
    for adapter in ADAPTERS {
        for other in known(adapter) {
            assert!(
                ["domain", "protocol", "store"].contains(&other.as_str()),
                "{adapter} depends on {other}"
            );
        }
    }
}

#[test]
fn the_testkit_is_for_tests() {
    let tree = tree();
    // The load tests are tests, and never shipped.
    for (name, crates) in tree.ours.iter().filter(|(name, _)| *name != "loadtest") {
        assert!(!crates.normal.contains("testkit"), "{name} ships the testkit");
    }
}

#[test]
fn nothing_banned_is_in_the_tree() {
    let tree = tree();
    for (banned, reason) in BANNED {
        assert!(!tree.all.contains(banned), "{banned} is in the tree: {reason}");
    }
}
