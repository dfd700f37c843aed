//! The shim against real processes: what it runs dies whole, in time, whoever else is dead or asleep.

use std::fs;
use std::path::Path;
use std::time::Duration;

use coordination::Boottime;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt as _;
use worker::shim::{Cause, Exit, Lease, Order, Report, Shim, Start, Streams};

/// Longer than anything here takes on a slow machine, shorter than anybody's patience.
const BOUND: Duration = Duration::from_secs(30);

fn argv() -> Vec<String> {
    vec![env!("CARGO_BIN_EXE_worker-under-test").to_owned(), "shim".to_owned()]
}

fn lease(from_now: Duration) -> Lease {
    let kill_at = Boottime::now().after(from_now);
    Lease { stop_at: kill_at, kill_at }
}

fn start(script: &str) -> Start {
    Start {
        program: "/bin/bash".into(),
        args: vec!["-c".to_owned(), script.to_owned()],
        env: vec![("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())],
        cwd: "/".into(),
        run_timeout_ms: 60_000,
        grace_ms: 60_000,
        stop_file: None,
        lease: lease(Duration::from_secs(60)),
        input_bytes: 0,
        result_bytes_max: 1 << 20,
    }
}

/// One run, seen from the worker's side.
struct Run {
    shim: Shim,
    streams: Streams,
    result: Vec<u8>,
}

impl Run {
    async fn new(start: &Start, input: &[u8]) -> Self {
        let start = Start { input_bytes: input.len() as u64, ..start.clone() };
        let (shim, streams) = Shim::start(&argv(), &start, input).await.unwrap();
        Self { shim, streams, result: Vec::new() }
    }

    async fn script(script: &str) -> Self {
        Self::new(&start(script), b"").await
    }

    /// Waits for the script to have printed `text` as its next line.
    async fn printed(&mut self) -> String {
        let mut line = Vec::new();
        let read = async {
            while !line.ends_with(b"\n") {
                line.push(self.streams.stdout.read_u8().await.unwrap());
            }
        };
        tokio::time::timeout(BOUND, read).await.expect("the script printed nothing");
        String::from_utf8(line).unwrap().trim().to_owned()
    }

    async fn exit(mut self) -> (Exit, Vec<u8>) {
        let until_exited = async {
            loop {
                match self.shim.report().await.unwrap() {
                    Report::Started => {}
                    Report::Result(piece) => self.result.extend(piece),
                    Report::Exited(exit) => return exit,
                    Report::NotStarted(why) => panic!("{why}"),
                }
            }
        };
        let exit = tokio::time::timeout(BOUND, until_exited).await.expect("the shim reported no end");
        self.shim.ended().await;
        (exit, self.result)
    }
}

fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

async fn until_dead(pid: &str) {
    let gone = async {
        while is_alive(pid) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(BOUND, gone).await.unwrap_or_else(|_| panic!("process {pid} is still alive"));
}

#[tokio::test]
async fn input_comes_on_stdin_and_the_result_goes_out_on_descriptor_3() {
    let run = Run::new(&start("cat >&3; echo done"), b"{\"n\":1}").await;
    let (exit, result) = run.exit().await;
    assert_eq!((exit.code, exit.signal, exit.cause), (Some(0), None, None));
    assert_eq!(result, b"{\"n\":1}");
    assert!(exit.peak_rss_bytes > 100_000, "{exit:?}");
}

#[tokio::test]
async fn a_large_input_and_a_result_up_to_the_cap_go_through_whole_and_no_byte_more() {
    let input: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
    let (exit, result) = Run::new(&start("cat >&3"), &input).await.exit().await;
    assert_eq!((exit.code, result.len()), (Some(0), input.len()));
    assert!(result == input, "the result differs from the input");
    let (exit, result) = Run::script("head -c 3000000 /dev/zero >&3; exit 4").await.exit().await;
    assert_eq!((exit.code, result.len()), (Some(4), 1 << 20));
}

#[tokio::test]
async fn the_script_has_exactly_the_environment_and_descriptors_it_is_given() {
    let script = "ls -x -w 200 /proc/self/fd; env | cut -d= -f1 | sort | tr '\\n' ' '";
    let mut run = Run::script(script).await;
    // The last one is the directory that `ls` reads.
    assert_eq!(run.printed().await.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3", "4"]);
    let mut rest = String::new();
    run.streams.stdout.read_to_string(&mut rest).await.unwrap();
    // The last three are bash's own.
    assert_eq!(rest.trim(), "PATH PWD SHLVL _");
    run.exit().await;
}

#[tokio::test]
async fn exit_codes_and_signals_are_told_apart() {
    let (exit, _) = Run::script("exit 7").await.exit().await;
    assert_eq!((exit.code, exit.signal, exit.cause), (Some(7), None, None));
    let (exit, _) = Run::script("kill -SEGV $$").await.exit().await;
    assert_eq!((exit.code, exit.signal, exit.cause), (None, Some(11), None));
    let (exit, _) = Run::script("kill -KILL $$").await.exit().await;
    assert_eq!((exit.signal, exit.oom), (Some(9), false));
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_reported() {
    for (program, part) in [("/nowhere/at/all", "No such file"), ("/etc/passwd", "Permission denied")] {
        let start = Start { program: program.into(), ..start("") };
        let (mut shim, _streams) = Shim::start(&argv(), &start, b"").await.unwrap();
        match shim.report().await.unwrap() {
            Report::NotStarted(why) => assert!(why.contains(part) && why.contains(program), "{why}"),
            other @ (Report::Started | Report::Result(_) | Report::Exited(_)) => panic!("{other:?}"),
        }
        shim.ended().await;
    }
}

#[tokio::test]
async fn at_the_run_timeout_the_script_gets_sigterm_and_may_end_in_its_grace() {
    let start = Start {
        run_timeout_ms: 200,
        ..start("trap 'echo >&3 bye; exit 3' TERM; while :; do sleep 0.01; done")
    };
    let (exit, result) = Run::new(&start, b"").await.exit().await;
    assert_eq!((exit.code, exit.cause), (Some(3), Some(Cause::RunTimeout)));
    assert_eq!(result, b"bye\n");
}

#[tokio::test]
async fn a_script_that_ignores_sigterm_is_killed_after_the_grace_with_its_children() {
    let script = "trap '' TERM; sleep 600 & echo $!; wait; sleep 600";
    let start = Start { run_timeout_ms: 200, grace_ms: 100, ..start(script) };
    let mut run = Run::new(&start, b"").await;
    let child = run.printed().await;
    let (exit, _) = run.exit().await;
    assert_eq!((exit.signal, exit.cause), (Some(9), Some(Cause::RunTimeout)));
    assert!(!is_alive(&child));
}

#[tokio::test]
async fn what_a_script_leaves_behind_dies_with_it_also_when_it_made_itself_a_daemon() {
    // Two generations away, in a session of its own, with its parents gone and its pipes closed.
    let daemon = "setsid bash -c 'trap \"\" TERM HUP; (sleep 600 >/dev/null 2>&1 3>&- & echo $! >&4; exec sleep 601 \
                  >/dev/null 2>&1 3>&-) & exit' 4>&1";
    let mut run = Run::script(&format!("{daemon}; sleep 0.2; exit 0")).await;
    let pid = run.printed().await;
    let (exit, _) = run.exit().await;
    assert_eq!((exit.code, exit.cause), (Some(0), None));
    assert!(!is_alive(&pid), "the daemon outlived its script");
}

#[tokio::test]
async fn a_script_whose_processes_fork_away_without_end_is_killed() {
    // Four chains, each of one process that forks its successor and ends: always moving, never more.
    let script = "trap '' TERM; f() { sleep 0.01; f & }; for i in 1 2 3 4; do f & done; sleep 600";
    let start = Start { run_timeout_ms: 300, grace_ms: 50, ..start(script) };
    let (exit, _) = Run::new(&start, b"").await.exit().await;
    assert_eq!(exit.cause, Some(Cause::RunTimeout));
}

#[tokio::test]
async fn the_tree_dies_when_the_control_socket_closes() {
    let mut run = Run::script("trap '' TERM; echo $$; sleep 600").await;
    let pid = run.printed().await;
    assert!(is_alive(&pid));
    drop(run.shim);
    until_dead(&pid).await;
}

#[tokio::test]
async fn the_tree_is_dead_at_the_end_of_the_lease_though_the_worker_says_nothing() {
    let lease = lease(Duration::from_millis(400));
    let mut run = Run::new(&Start { lease, ..start("trap '' TERM; echo $$; sleep 600") }, b"").await;
    let pid = run.printed().await;
    // Nobody reads the control socket or writes to it, as if the worker were frozen.
    until_dead(&pid).await;
    assert!(lease.kill_at.has_passed());
    let (exit, _) = run.exit().await;
    assert_eq!(exit.cause, Some(Cause::LeaseEnd));
}

#[tokio::test]
async fn a_renewed_lease_lets_the_script_go_on() {
    let start =
        Start { lease: lease(Duration::from_millis(400)), ..start("echo go; read x < <(sleep 1); exit 5") };
    let mut run = Run::new(&start, b"").await;
    assert_eq!(run.printed().await, "go");
    run.shim.order(&Order::Extend(lease(BOUND))).await.unwrap();
    let (exit, _) = run.exit().await;
    assert_eq!((exit.code, exit.cause), (Some(5), None));
}

#[tokio::test]
async fn an_order_that_comes_together_with_the_input_is_heeded() {
    for _ in 0..20 {
        let mut run = Run::new(&start("sleep 600"), b"1").await;
        run.shim.order(&Order::Extend(lease(BOUND))).await.unwrap();
        run.shim.order(&Order::Kill).await.unwrap();
        let (exit, _) = run.exit().await;
        assert_eq!(exit.cause, Some(Cause::Ordered));
    }
}

#[tokio::test]
async fn an_order_ends_the_script_gently_or_at_once() {
    let script = "trap 'exit 6' TERM; echo $$; while :; do sleep 0.01; done";
    let mut run = Run::script(script).await;
    run.printed().await;
    run.shim.order(&Order::Terminate).await.unwrap();
    let (exit, _) = run.exit().await;
    assert_eq!((exit.code, exit.cause), (Some(6), Some(Cause::Ordered)));
    let mut run = Run::script(script).await;
    run.printed().await;
    run.shim.order(&Order::Kill).await.unwrap();
    let (exit, _) = run.exit().await;
    assert_eq!((exit.signal, exit.cause), (Some(9), Some(Cause::Ordered)));
}

#[tokio::test]
async fn the_shim_outlives_a_sigterm_and_its_script_dies_if_the_shim_is_killed() {
    let mark = format!("GANTRY_TEST_MARK={}", std::process::id());
    let mut start = start("trap '' TERM; echo $$; sleep 600 & echo $!; wait");
    start.env.push(("GANTRY_TEST_MARK".to_owned(), std::process::id().to_string()));
    let mut run = Run::new(&start, b"").await;
    let (script, child) = (run.printed().await, run.printed().await);
    let shim = Pid::from_raw(run.shim.pid().unwrap() as i32).unwrap();
    kill_process(shim, Signal::TERM).unwrap();
    run.shim.order(&Order::Extend(lease(BOUND))).await.unwrap();
    assert!(is_alive(&script) && is_alive(&child));
    kill_process(shim, Signal::KILL).unwrap();
    until_dead(&script).await;
    loop {
        match run.shim.report().await {
            Ok(_) => {}
            Err(error) => break assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof),
        }
    }
    assert!(worker::shim::sweep(&[mark]));
    until_dead(&child).await;
}

#[tokio::test]
async fn the_shim_keeps_no_zombie_while_the_script_runs() {
    let script = "for i in 1 2 3 4 5; do (setsid sleep 0.01 &) ; done; echo $PPID; read x";
    let mut run = Run::script(&format!("{script} < <(sleep 600)")).await;
    let shim = run.printed().await;
    let one_child = async {
        while children(&shim) != 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(BOUND, one_child).await.expect("the shim keeps what has ended");
    run.shim.order(&Order::Kill).await.unwrap();
    run.exit().await;
}

fn children(pid: &str) -> usize {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap().split_whitespace().count()
}

#[tokio::test]
async fn output_that_nobody_reads_stops_the_script_and_nothing_else() {
    let start = Start { run_timeout_ms: 500, grace_ms: 50, ..start("cat /dev/zero") };
    let (exit, _) = Run::new(&start, b"").await.exit().await;
    assert_eq!(exit.cause, Some(Cause::RunTimeout));
}

#[tokio::test]
async fn a_shim_stays_small() {
    let mut run = Run::script("echo $PPID; sleep 600").await;
    let shim = run.printed().await;
    let status = fs::read_to_string(Path::new("/proc").join(&shim).join("status")).unwrap();
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let kib: u64 = anonymous.split_whitespace().next().unwrap().parse().unwrap();
    assert!(kib < 3_000, "{status}");
    assert!(status.contains("Threads:\t1\n"), "{status}");
    run.shim.order(&Order::Kill).await.unwrap();
    run.exit().await;
}
