use domain::State;
use rustix::process::{Resource, getrlimit};

use crate::harness::{Dev, Said, gantry, read_until};

#[test]
fn what_was_accepted_survives_kill_9() {
    let mut dev = Dev::start();
    dev.push("half", "sleep 0.5\necho done\necho 1 >&3\n", "");
    let accepted: Vec<String> = (0..20).map(|n| dev.submit("half", &n.to_string())).collect();
    dev.eventually("some run", |dev| dev.list().iter().any(|execution| execution.state == State::Running));
    dev.kill();
    dev.start_again();
    dev.eventually("all 20 are terminal", |dev| {
        dev.list().iter().filter(|execution| execution.state.is_terminal()).count() == 20
    });
    for id in &accepted {
        let execution = dev.show(id);
        assert_eq!(execution.state, State::Succeeded, "{execution:?}");
        assert!(execution.attempt <= 2, "{execution:?}");
    }
}

#[test]
fn a_drain_finishes_what_runs_and_ends_with_0() {
    let mut dev = Dev::start();
    dev.push("second", "echo begun\nsleep 1\necho 1 >&3\n", "");
    let id = dev.submit("second", "{}");
    dev.eventually("it runs", |dev| dev.show(&id).log_lines > 0);
    assert_eq!(dev.drain(), 0, "{}", dev.log());
    dev.start_again();
    let execution = dev.show(&id);
    assert_eq!((execution.state, execution.attempt), (State::Succeeded, 1));
}

#[test]
fn a_directory_serves_one_process() {
    let dev = Dev::start();
    let data = dev.directory.path().join("data");
    let second = gantry(&["dev", "--dir", data.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    let second = Said::of({ second }.output().unwrap()).expect(78);
    assert!(second.stderr.contains("record.db"), "{}", second.stderr);
}

#[test]
fn it_may_open_as_many_files_as_its_connections_need() {
    let directory = tempfile::TempDir::new().unwrap();
    // No more than this machine lets a process have.
    let most = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX).min(65_536);
    for hard in [most, 4_096] {
        let allowed = hard.min(12_512);
        let mut dev = std::process::Command::new("prlimit")
            .args([
                &format!("--nofile=1024:{hard}"),
                env!("CARGO_BIN_EXE_gantry"),
                "dev",
                "--listen",
                "127.0.0.1:0",
            ])
            .arg("--dir")
            .arg(directory.path().join(hard.to_string()))
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        read_until(dev.stdout.as_mut().unwrap(), "URL");
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", dev.id())).unwrap();
        dev.kill().unwrap();
        dev.wait().unwrap();
        let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
        let soft: u64 = files.split_whitespace().next().unwrap().parse().unwrap();
        assert_eq!(soft, allowed, "{files}");
    }
}

#[test]
fn the_demo_shows_every_example_with_its_result_and_ends_with_0() {
    let demo = Said::of(gantry(&["demo"]).output().unwrap()).expect(0);
    for part in [
        "tested: 29 of 30 right",
        "\"species\": \"setosa\"",
        "Kepler's constant is between",
        "\"Neptune\": 770.0",
        "tick 30 of 30",
        "the answer is a handle",
        "\"ticks\": 30",
        "gantry dev",
    ] {
        assert!(demo.stdout.contains(part), "{part:?} is missing in\n{}{}", demo.stdout, demo.stderr);
    }
    assert!(!demo.stdout.contains('\u{1b}'), "no colours where there is no terminal");
    let widest = demo.stdout.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(80), "the widest line has {widest:?} columns");
}

#[test]
fn a_second_signal_gives_back_what_runs() {
    let mut dev = Dev::start();
    dev.push("sleeper", "echo begun\nsleep 600\n", "[limits]\nrun_timeout_ms = 900000\ngrace_ms = 100\n");
    let id = dev.submit("sleeper", "{}");
    let mut following =
        dev.command(&["logs", &id, "-f"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    read_until(following.stdout.as_mut().unwrap(), "begun");
    following.kill().unwrap();
    following.wait().unwrap();
    dev.signal();
    // Two signals at once would be one.
    dev.eventually("the first signal was heard", |dev| dev.log().contains("draining"));
    assert_eq!(dev.drain(), 0, "{}", dev.log());
    dev.start_again();
    dev.eventually("it runs again", |dev| dev.show(&id).attempt == 2);
    assert_eq!(dev.show(&id).failures, 0, "giving back is no failure");
    dev.say(&["cancel", &id]).expect(0);
}
