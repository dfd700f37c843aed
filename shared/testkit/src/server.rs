use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tempfile::TempDir;
use tokio::process::Command;

/// What `compose/server` can start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerKind {
    /// RabbitMQ; up in about 6 s.
    RabbitMq,
    /// PostgreSQL; up in about 1 s.
    Postgres,
    /// ZooKeeper, stand-alone; up in about 1 s.
    ZooKeeper,
    /// The S3 server of this crate as a process.
    S3,
}

impl ServerKind {
    const fn name(self) -> &'static str {
        match self {
            Self::RabbitMq => "rabbitmq",
            Self::Postgres => "postgres",
            Self::ZooKeeper => "zookeeper",
            Self::S3 => "s3",
        }
    }

    /// The variable that [`Server::url`] answers.
    const fn url_variable(self) -> &'static str {
        match self {
            Self::RabbitMq => "GANTRY_TEST_AMQP",
            Self::Postgres => "GANTRY_TEST_POSTGRES",
            Self::ZooKeeper => "GANTRY_TEST_ZOOKEEPER",
            Self::S3 => "GANTRY_TEST_S3_ENDPOINT",
        }
    }
}

/// A server that one test owns: nobody else sees its faults. Ports and data outlive [`kill`](Server::kill) and
/// [`stop`](Server::stop); dropping it kills it and removes its data.
///
/// Every method panics, with what the server's log says last, if the server does not do as it is told.
#[derive(Debug)]
pub struct Server {
    kind: ServerKind,
    directory: TempDir,
    env: Vec<(String, String)>,
}

impl Server {
    /// A new server, once it answers.
    pub async fn start(kind: ServerKind) -> Self {
        Self::start_with(kind, &[]).await
    }

    /// As [`start`](Self::start), with `files` put into its directory first: `extra.conf` is added to its configuration,
    /// `advanced.config` is RabbitMQ's, `data/myid` ZooKeeper's.
    pub async fn start_with(kind: ServerKind, files: &[(&str, &str)]) -> Self {
        use std::os::unix::fs::PermissionsExt;

        // PostgreSQL may run as another user, who must be able to pass through.
        let directory = tempfile::Builder::new()
            .prefix(&format!("gantry-{}-", kind.name()))
            .permissions(std::fs::Permissions::from_mode(0o711))
            .tempdir()
            .expect("make a directory for the server");
        for (name, content) in files {
            let file = directory.path().join(name);
            std::fs::create_dir_all(file.parent().expect("it is below the directory"))
                .expect("make a directory");
            std::fs::write(file, content).expect("write the server's configuration");
        }
        let mut server = Self { kind, directory, env: Vec::new() };
        server.act("start").await;
        server.env = exports(&server.run("env", &[]).await);
        server
    }

    /// Where it listens, as tests of that kind want it: an `amqp://` or `postgres://` URL, `host:port`, an `http://` endpoint.
    #[must_use]
    pub fn url(&self) -> String {
        self.variable(self.kind.url_variable())
    }

    /// What `compose/server env` says about `name`, such as `GANTRY_TEST_AMQP_CA`.
    #[must_use]
    pub fn variable(&self, name: &str) -> String {
        let found = self.env.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.clone()).unwrap_or_else(|| panic!("{:?} has no {name}", self.kind))
    }

    /// Its directory: data, `log`, configuration.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Ends it in order, and waits.
    pub async fn stop(&self) {
        self.act("stop").await;
    }

    /// SIGKILL to all its processes.
    pub async fn kill(&self) {
        self.act("kill").await;
    }

    /// SIGSTOP to all its processes: connections stay open and silent.
    pub async fn pause(&self) {
        self.act("pause").await;
    }

    /// SIGCONT after [`pause`](Self::pause).
    pub async fn resume(&self) {
        self.act("resume").await;
    }

    /// Starts it again after [`stop`](Self::stop) or [`kill`](Self::kill), on the same ports, with the data it had.
    pub async fn start_again(&self) {
        self.act("start").await;
    }

    /// [`stop`](Self::stop), then [`start_again`](Self::start_again).
    pub async fn restart(&self) {
        self.act("restart").await;
    }

    /// What the server's own tool answers: `rabbitmqctl`, `psql` as superuser, a four-letter word of ZooKeeper.
    pub async fn admin(&self, arguments: &[&str]) -> String {
        self.run("admin", arguments).await
    }

    async fn act(&self, action: &str) {
        self.run(action, &[]).await;
    }

    async fn run(&self, action: &str, arguments: &[&str]) -> String {
        let output = Command::new(script())
            .args([action, self.kind.name()])
            .arg(self.directory.path())
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .await
            .expect("run compose/server");
        answer(self.kind, action, &output)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A blocking call: no process may outlive the test, and there may be no runtime any more to wait on.
        let killed = std::process::Command::new(script())
            .args(["kill", self.kind.name()])
            .arg(self.directory.path())
            .stdin(Stdio::null())
            .output();
        if let Err(error) = killed {
            eprintln!("{:?} in {} was left running: {error}", self.kind, self.directory.path().display());
        }
    }
}

fn script() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../compose/server")
}

fn answer(kind: ServerKind, action: &str, output: &Output) -> String {
    assert!(
        output.status.success(),
        "compose/server {action} {}: {}\n{}",
        kind.name(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Reads `export NAME=value` lines; the shell's backslashes before odd characters are dropped.
fn exports(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| line.strip_prefix("export ")?.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.replace('\\', "")))
        .collect()
}
