use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use protocol::http::{Execution, ExecutionList};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take that is not itself about time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The binary, with an environment of its own.
pub fn gantry(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gantry"));
    command.args(args).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").stdin(Stdio::null());
    command
}

/// What a command printed and how it ended.
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    pub fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code().expect("it exits by itself"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

/// A `gantry dev`. Dropping it kills it.
pub struct Dev {
    pub directory: TempDir,
    pub url: String,
    listen: String,
    child: Child,
}

impl Dev {
    pub fn start() -> Self {
        let directory = TempDir::new().unwrap();
        // A port that was free a moment ago, so that it can be started again at the same place.
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let (child, url) = launch(directory.path(), &listen);
        Self { directory, url, listen, child }
    }

    /// SIGKILL; what was accepted must survive it.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, without waiting.
    pub fn signal(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    /// SIGTERM; returns how it ended.
    pub fn drain(&mut self) -> i32 {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().expect("it exits by itself");
            }
            assert!(Instant::now() < until, "it drains in time\n{}", self.log());
            pause();
        }
    }

    pub fn start_again(&mut self) {
        (self.child, self.url) = launch(self.directory.path(), &self.listen);
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = gantry(args);
        command.env("GANTRY_URL", &self.url);
        command
    }

    pub fn say(&self, args: &[&str]) -> Said {
        Said::of(self.command(args).output().unwrap())
    }

    /// Pushes a shell script as a model; `manifest` is what its manifest says beside the command.
    pub fn push(&self, model: &str, script: &str, manifest: &str) {
        let folder = self.folder(model, &[("run.sh", script)]);
        let command = "runtime = \"process\"\ncommand = [\"sh\", \"run.sh\"]\n";
        fs::write(folder.join("gantry.toml"), format!("{command}{manifest}")).unwrap();
        self.say(&["push", folder.to_str().unwrap()]).expect(0);
    }

    pub fn folder(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let folder = self.directory.path().join("folders").join(name);
        fs::create_dir_all(&folder).unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
        folder
    }

    /// Submits without waiting; returns the id.
    pub fn submit(&self, model: &str, input: &str) -> String {
        self.say(&["run", model, "--async", "--input", input]).expect(0).stdout.trim().to_owned()
    }

    pub fn show(&self, id: &str) -> Execution {
        serde_json::from_str(&self.say(&["show", id, "--json"]).expect(0).stdout).unwrap()
    }

    pub fn list(&self) -> Vec<Execution> {
        let list: ExecutionList =
            serde_json::from_str(&self.say(&["ps", "--limit", "200", "--json"]).expect(0).stdout).unwrap();
        list.executions
    }

    /// Waits until `condition` holds.
    #[track_caller]
    pub fn eventually(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !condition(self) {
            assert!(Instant::now() < until, "{what}\n{}", self.log());
            pause();
        }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        artifacts::bundle::remove(&self.directory.path().join("data")).ok();
    }
}

/// Between two looks at something that takes its time.
#[expect(clippy::disallowed_methods, reason = "no runtime here: the binary is watched from outside")]
pub fn pause() {
    std::thread::sleep(Duration::from_millis(50));
}

fn launch(directory: &Path, listen: &str) -> (Child, String) {
    let begun = Instant::now();
    let data = directory.join("data");
    let log = File::options().create(true).append(true).open(directory.join("log")).unwrap();
    let mut child = gantry(&["dev", "--dir", data.to_str().unwrap(), "--listen", listen, "--slots", "2"])
        .env("GANTRY_LOG__FILTER", "info")
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    let url = loop {
        let read = stdout.read_line(&mut said).unwrap();
        let log = || fs::read_to_string(directory.join("log")).unwrap_or_default();
        assert!(read > 0, "gantry dev ended before it was up\n{said}\n{}", log());
        if let Some(url) = said.lines().find_map(|line| line.trim().strip_prefix("URL")) {
            break url.trim().to_owned();
        }
    };
    eprintln!("gantry dev listens after {} ms", begun.elapsed().as_millis());
    // What follows is read too, so that it never meets a closed pipe.
    let mut rest = String::new();
    while !rest.contains("gantry run") {
        assert!(stdout.read_line(&mut rest).unwrap() > 0);
    }
    (child, url)
}

/// Reads lines until one contains `part`.
pub fn read_until(stream: &mut impl Read, part: &str) -> String {
    let mut said = String::new();
    let mut byte = [0];
    while !said.contains(part) {
        assert!(stream.read(&mut byte).unwrap() > 0, "it ended without {part:?}: {said}");
        said.push(char::from(byte[0]));
    }
    said
}
