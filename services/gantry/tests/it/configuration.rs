use std::fs;

use crate::harness::{Said, gantry};

/// What `gantry gateway` says about this configuration.
fn refusal(text: &str, variables: &[(&str, &str)]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gantry.toml");
    fs::write(&file, text).unwrap();
    let mut command = gantry(&["gateway", "--config", file.to_str().unwrap()]);
    let output = command.envs(variables.iter().copied()).output().unwrap();
    Said::of(output).expect(78).stderr.replace(directory.path().to_str().unwrap(), "")
}

#[test]
fn a_bad_configuration_is_refused_with_its_place_and_the_remedy() {
    for (text, variables, expected) in [
        (
            "[worker]\nslotz = 3\n",
            &[][..],
            "/gantry.toml line 2: unknown key worker.slotz; did you mean worker.slots?",
        ),
        ("[workerz]\n", &[], "/gantry.toml line 1: unknown section workerz; did you mean worker?"),
        ("[worker]\nslots = 0\n", &[], "/gantry.toml line 2: worker.slots must be 1 to 10000, not 0"),
        (
            "",
            &[("GANTRY_WORKER__SLOTS", "eight")],
            "environment variable GANTRY_WORKER__SLOTS: worker.slots must be a whole number",
        ),
        ("", &[], "record.backend is \"sqlite\": it serves one process alone"),
        (
            "[record]\nbackend = \"postgres\"\n[broker]\nbackend = \"rabbitmq\"\n",
            &[],
            "record.url is missing: set record.url or record.url_file",
        ),
        (
            "[record]\nbackend = \"postgres\"\nurl = \"postgres://gantry:changeme@db.example.org/gantry\"\n[broker]\nbackend = \"rabbitmq\"\n",
            &[],
            "record.url goes to another machine with an empty or well-known password",
        ),
    ] {
        let found = refusal(text, variables);
        assert!(found.contains(expected), "{text:?} gave\n{found}\nnot\n{expected}");
    }
    assert!(
        Said::of(gantry(&["gateway", "--config", "/nowhere"]).output().unwrap())
            .expect(78)
            .stderr
            .contains("/nowhere")
    );
}

#[test]
fn the_configuration_is_shown_with_its_sources_and_without_secrets() {
    let mut command = gantry(&["config"]);
    command.env("GANTRY_WORKER__SLOTS", "3").env("GANTRY_BROKER__URL", "amqp://u:hunter2@localhost/");
    let shown = Said::of(command.output().unwrap()).expect(0).stdout;
    assert!(shown.contains("slots = 3   # environment variable GANTRY_WORKER__SLOTS"), "{shown}");
    assert!(shown.contains("url = \"***\"") && !shown.contains("hunter2"), "{shown}");
}
