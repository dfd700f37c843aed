use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{fresh_name, servers};

/// Where the servers are: the shared ones, or one of a test's own in place of them.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// A URL.
    pub postgres: String,
    /// A URL.
    pub amqp: String,
    /// `host:port,...`.
    pub zookeeper: String,
}

impl Addresses {
    /// Of the shared servers.
    #[must_use]
    pub fn shared() -> Self {
        let servers = servers();
        Self { postgres: servers.postgres(), amqp: servers.amqp(), zookeeper: servers.zookeeper() }
    }
}

/// What to start.
#[derive(Debug, Clone)]
pub struct Shape {
    /// On which servers.
    pub addresses: Addresses,
    /// How many gateways, `gateway-1` and so on.
    pub gateways: usize,
    /// How many nodes: `worker-1` with `sync-1` and so on.
    pub workers: usize,
    /// How many slots each worker has.
    pub slots: usize,
    /// Further settings of single processes, as `("worker-1", "GANTRY_RECORD__URL", ...)`.
    pub overrides: Vec<(String, &'static str, String)>,
    /// The lease of a claim, in milliseconds.
    pub lease_ms: u64,
    /// How often leases are renewed, in milliseconds.
    pub renew_ms: u64,
    /// The ZooKeeper session, in milliseconds.
    pub session_ms: u64,
}

impl Shape {
    /// One gateway, one node of four slots, one monitor.
    #[must_use]
    pub fn small() -> Self {
        Self {
            addresses: Addresses::shared(),
            gateways: 1,
            workers: 1,
            slots: 4,
            overrides: Vec::new(),
            lease_ms: 30_000,
            renew_ms: 8_000,
            session_ms: 6_000,
        }
    }
}

/// One process of the house.
#[derive(Debug)]
struct Process {
    subcommand: &'static str,
    settings: Vec<(String, String)>,
    child: Child,
}

/// The whole house as processes of the real binary, in a namespace of its own on every server. Dropping it kills every
/// process it started.
#[derive(Debug)]
pub struct House {
    /// Where the gateways listen.
    pub urls: Vec<String>,
    /// The schema of its record.
    pub schema: String,
    /// The prefix of its queues and objects; its root in ZooKeeper is this after a slash.
    pub prefix: String,
    /// Where its servers are.
    pub addresses: Addresses,
    program: PathBuf,
    directory: TempDir,
    processes: BTreeMap<String, Process>,
}

impl House {
    /// Makes the schema and starts the processes of `program`; waits for none of them.
    ///
    /// # Panics
    /// If the schema cannot be made or a process cannot be started.
    #[must_use]
    pub fn start(program: &Path, shape: &Shape) -> Self {
        let mut house = Self {
            urls: Vec::new(),
            addresses: shape.addresses.clone(),
            schema: fresh_name("house"),
            prefix: fresh_name("house"),
            program: program.to_owned(),
            processes: BTreeMap::new(),
            directory: TempDir::new().expect("make a directory"),
        };
        let migrated = house.command("migrate", &house.settings(shape)).status().expect("run gantry migrate");
        assert!(migrated.success(), "gantry migrate: {}", house.log("migrate"));
        house.spawn("monitor-1", "monitor", shape, &[]);
        for n in 1..=shape.gateways {
            let listen = free_address();
            house.urls.push(format!("http://{listen}"));
            house.spawn(&format!("gateway-{n}"), "gateway", shape, &[("GANTRY_GATEWAY__LISTEN", &listen)]);
        }
        for n in 1..=shape.workers {
            let cache = house.path(&format!("node-{n}")).to_string_lossy().into_owned();
            let name = fresh_name(&format!("worker{n}"));
            let settings = [("GANTRY_SYNC__NAME", name.as_str()), ("GANTRY_SYNC__CACHE_DIR", &cache)];
            house.spawn(&format!("sync-{n}"), "sync", shape, &settings);
            let scratch = format!("{cache}-scratch");
            let settings = [
                ("GANTRY_WORKER__NAME", name.as_str()),
                ("GANTRY_WORKER__SLOTS", &shape.slots.to_string()),
                ("GANTRY_WORKER__CACHE_DIR", &cache),
                ("GANTRY_WORKER__SCRATCH_DIR", &scratch),
            ];
            house.spawn(&format!("worker-{n}"), "worker", shape, &settings);
        }
        house
    }

    fn settings(&self, shape: &Shape) -> Vec<(String, String)> {
        let s3 = servers().s3();
        [
            ("GANTRY_RECORD__BACKEND", "postgres"),
            ("GANTRY_RECORD__URL", &self.addresses.postgres),
            ("GANTRY_RECORD__SCHEMA", &self.schema),
            ("GANTRY_BROKER__BACKEND", "rabbitmq"),
            ("GANTRY_BROKER__URL", &self.addresses.amqp),
            ("GANTRY_BROKER__PREFIX", &self.prefix),
            ("GANTRY_COORDINATION__BACKEND", "zookeeper"),
            ("GANTRY_COORDINATION__SERVERS", &self.addresses.zookeeper),
            ("GANTRY_COORDINATION__ROOT", &format!("/{}", self.prefix)),
            ("GANTRY_COORDINATION__SESSION_MS", &shape.session_ms.to_string()),
            ("GANTRY_ARTIFACTS__BACKEND", "s3"),
            ("GANTRY_ARTIFACTS__ENDPOINT", &s3.endpoint),
            ("GANTRY_ARTIFACTS__BUCKET", &s3.bucket),
            ("GANTRY_ARTIFACTS__PREFIX", &self.prefix),
            ("GANTRY_ARTIFACTS__ACCESS_KEY", &s3.access_key),
            ("GANTRY_ARTIFACTS__SECRET_KEY", &s3.secret_key),
            ("GANTRY_WORKER__LEASE_MS", &shape.lease_ms.to_string()),
            ("GANTRY_WORKER__RENEW_MS", &shape.renew_ms.to_string()),
            ("GANTRY_MONITOR__LEASE_MS", &shape.lease_ms.to_string()),
            ("GANTRY_MONITOR__RENEW_MS", &shape.renew_ms.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .to_vec()
    }

    fn command(&self, subcommand: &str, settings: &[(String, String)]) -> Command {
        let path = self.path(&format!("{subcommand}.log"));
        let log = File::options().create(true).append(true).open(path).expect("open a log");
        let mut command = Command::new(&self.program);
        command
            .arg(subcommand)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .envs(settings.iter().cloned())
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("share a log"))
            .stderr(log);
        command
    }

    fn spawn(&mut self, name: &str, subcommand: &'static str, shape: &Shape, own: &[(&str, &str)]) {
        let mut settings = self.settings(shape);
        settings.extend(own.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let overrides = shape.overrides.iter().filter(|(process, _, _)| process == name);
        settings.extend(overrides.map(|(_, key, value)| ((*key).to_owned(), value.clone())));
        self.begin(name, subcommand, settings);
    }

    fn begin(&mut self, name: &str, subcommand: &'static str, settings: Vec<(String, String)>) {
        let child = self.command(subcommand, &settings).spawn().expect("start a process");
        self.processes.insert(name.to_owned(), Process { subcommand, settings, child });
    }

    /// The program its processes run.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// A path in its directory, which is gone with it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What processes of this subcommand said.
    #[must_use]
    pub fn log(&self, subcommand: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{subcommand}.log"))).unwrap_or_default()
    }

    /// Sends a signal to the process `name`.
    ///
    /// # Panics
    /// If there is no such process.
    pub fn signal(&self, name: &str, signal: Signal) {
        kill_process(Pid::from_child(&self.processes[name].child), signal).expect("signal a process");
    }

    /// Kills the process `name` and waits for its end.
    ///
    /// # Panics
    /// If there is no such process.
    pub fn kill(&mut self, name: &str) {
        let process = self.processes.get_mut(name).expect("a process of the house");
        process.child.kill().expect("kill a process");
        process.child.wait().expect("wait for a killed process");
    }

    /// Starts a killed process again, as it was.
    ///
    /// # Panics
    /// If there is no such process.
    pub fn start_again(&mut self, name: &str) {
        let Process { subcommand, settings, .. } =
            self.processes.remove(name).expect("a process of the house");
        self.begin(name, subcommand, settings);
    }
}

impl Drop for House {
    fn drop(&mut self) {
        for process in self.processes.values_mut() {
            process.child.kill().ok();
            process.child.wait().ok();
        }
        if std::thread::panicking() {
            for subcommand in ["migrate", "gateway", "worker", "sync", "monitor"] {
                let log = self.log(subcommand);
                let lines: Vec<_> = log.lines().collect();
                let tail = &lines[lines.len().saturating_sub(15)..];
                eprintln!("--- {subcommand}, last lines:\n{}", tail.join("\n"));
            }
        }
    }
}

/// An address that was free a moment ago.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind loopback");
    listener.local_addr().expect("bound address").to_string()
}
