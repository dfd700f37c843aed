use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use serde::Deserialize;

use super::*;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct House {
    worker: Worker,
    record: Record,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Worker {
    slots: u32,
    queues: Vec<String>,
    node: Option<String>,
    insecure_bind: bool,
}

impl Default for Worker {
    fn default() -> Self {
        Self { slots: 4, queues: vec!["default".to_owned()], node: None, insecure_bind: false }
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Backend {
    #[default]
    Sqlite,
    Postgres,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Record {
    backend: Backend,
    url: Secret,
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn environment(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn complaint(text: &str, pairs: &[(&str, &str)]) -> String {
    let file = file(text);
    let error = load::<House>(Some(file.path()), environment(pairs)).err().unwrap();
    error.to_string().replace(&file.path().display().to_string(), "gantry.toml")
}

#[test]
fn a_variable_beats_the_file_and_the_file_beats_the_default() {
    let file = file("[worker]\nslots = 8\nnode = \"a\"\n");
    let pairs = [
        ("GANTRY_WORKER__NODE", "0042"),
        ("GANTRY_WORKER__INSECURE_BIND", "true"),
        ("GANTRY_URL", "http://127.0.0.1:7070"),
        ("PATH", "/bin"),
    ];
    let loaded = load::<House>(Some(file.path()), environment(&pairs)).unwrap();
    let worker = &loaded.configuration.worker;
    assert_eq!((worker.slots, worker.node.as_deref(), worker.insecure_bind), (8, Some("0042"), true));
    assert_eq!(worker.queues, ["default"]);
    let place = |key: &str| loaded.entries().into_iter().find(|e| e.key == key).unwrap().place;
    assert_eq!(place("worker.slots"), Some(format!("{} line 2", file.path().display())));
    assert_eq!(place("worker.node").as_deref(), Some("environment variable GANTRY_WORKER__NODE"));
    assert_eq!(place("worker.queues"), None);
}

#[test]
fn a_list_in_a_variable_is_separated_by_commas_or_written_as_in_the_file() {
    for text in ["fast, slow", "[\"fast\", \"slow\"]"] {
        let loaded = load::<House>(None, environment(&[("GANTRY_WORKER__QUEUES", text)])).unwrap();
        assert_eq!(loaded.configuration.worker.queues, ["fast", "slow"]);
    }
}

#[test]
fn a_complaint_names_the_place_the_key_and_what_would_be_right() {
    for (text, pairs, expected) in [
        (
            "[worker]\nslot = 3",
            &[][..],
            "gantry.toml line 2: unknown key worker.slot; did you mean worker.slots?",
        ),
        ("\n[workerz]\nslots = 3", &[], "gantry.toml line 2: unknown section workerz; did you mean worker?"),
        (
            "[worker]\nslots = \"eight\"",
            &[],
            "gantry.toml line 2: worker.slots must be a whole number, 0 or more, not \"eight\"",
        ),
        (
            "[worker]\nslots = -1",
            &[],
            "gantry.toml line 2: worker.slots must be a whole number, 0 or more, not -1",
        ),
        (
            "[record]\nbackend = \"oracle\"",
            &[],
            "gantry.toml line 2: record.backend is one of sqlite, postgres, not \"oracle\"",
        ),
        ("[worker", &[], "gantry.toml line 1: no TOML: "),
        (
            "",
            &[("GANTRY_WORKER__SLOTZ", "1")],
            "environment variable GANTRY_WORKER__SLOTZ: unknown key worker.slotz; did you mean worker.slots?",
        ),
        (
            "",
            &[("GANTRY_WORKER__SLOTS", "many")],
            "environment variable GANTRY_WORKER__SLOTS: worker.slots must be a whole number, 0 or more, not \"many\"",
        ),
    ] {
        let found = complaint(text, pairs);
        assert!(found.starts_with(expected), "{text:?} gave\n  {found}\nnot\n  {expected}");
    }
}

#[test]
fn a_secret_is_never_printed() {
    let pairs = environment(&[("GANTRY_RECORD__URL", "postgres://u:hunter2@localhost/db")]);
    let loaded = load::<House>(None, pairs).unwrap();
    assert_eq!(loaded.configuration.record.url.reveal(), "postgres://u:hunter2@localhost/db");
    let printed: String = loaded.entries().iter().map(|e| format!("{}={} ", e.key, e.value)).collect();
    let printed = format!("{printed}{:?}", loaded.configuration);
    assert!(!printed.contains("hunter2"), "{printed}");
}

#[test]
fn a_secret_in_a_file_that_others_can_read_is_refused() {
    let file = file("hunter2\n");
    let chmod = |mode| std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    let read = || Secret::default().or_file("broker.url", Some(file.path()));
    chmod(0o600);
    assert_eq!(read().unwrap(), "hunter2");
    chmod(0o644);
    assert!(read().unwrap_err().to_string().contains("0644"));
    assert!(Secret::new("x").or_file("broker.url", Some(file.path())).is_err());
    assert!(
        Secret::default().or_file("broker.url", None).unwrap_err().to_string().contains("broker.url_file")
    );
}
