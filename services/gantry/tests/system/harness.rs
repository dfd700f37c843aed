use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use broker::rabbitmq::{RabbitMq, RabbitMqConfig};
use domain::{ExecuteId, Payload, QueueName, VersionSelector};
use protocol::{ReplyAddress, Request, http};
use reqwest::StatusCode;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use testkit::{eventually, fresh_name, servers};

/// How long anything may take that is not itself about time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Where the servers are: the shared ones, or one of a test's own in place of them.
#[derive(Clone)]
pub struct Addresses {
    pub postgres: String,
    pub amqp: String,
    pub zookeeper: String,
}

impl Addresses {
    pub fn shared() -> Self {
        let servers = servers();
        Self { postgres: servers.postgres(), amqp: servers.amqp(), zookeeper: servers.zookeeper() }
    }
}

/// What to start.
pub struct Shape {
    pub addresses: Addresses,
    pub gateways: usize,
    pub workers: usize,
    pub slots: usize,
    /// `worker-1` and the rest get further settings, as `("worker-1", "GANTRY_RECORD__URL", ...)`.
    pub overrides: Vec<(&'static str, &'static str, String)>,
    pub lease_ms: u64,
    pub renew_ms: u64,
}

impl Shape {
    pub fn small() -> Self {
        Self {
            addresses: Addresses::shared(),
            gateways: 1,
            workers: 1,
            slots: 4,
            overrides: Vec::new(),
            lease_ms: 30_000,
            renew_ms: 8_000,
        }
    }
}

/// One process of the house.
struct Process {
    subcommand: &'static str,
    settings: Vec<(String, String)>,
    child: Child,
}

/// A running house. Dropping it kills every process it started.
pub struct System {
    pub directory: TempDir,
    pub http: reqwest::Client,
    pub urls: Vec<String>,
    addresses: Addresses,
    schema: String,
    prefix: String,
    processes: BTreeMap<String, Process>,
}

impl System {
    /// Starts everything and waits until the gateways are ready and every worker can be seen.
    pub async fn start(shape: Shape) -> Self {
        let directory = TempDir::new().unwrap();
        let mut system = Self {
            http: reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(120)).build().unwrap(),
            urls: Vec::new(),
            addresses: shape.addresses.clone(),
            schema: fresh_name("system"),
            prefix: fresh_name("system"),
            processes: BTreeMap::new(),
            directory,
        };
        let migrated = system.command("migrate", &system.settings(&shape)).status().unwrap();
        assert!(migrated.success(), "gantry migrate: {}", system.log("migrate"));
        system.spawn("monitor-1", "monitor", &shape, &[]);
        for n in 1..=shape.gateways {
            let listen = free_address();
            system.urls.push(format!("http://{listen}"));
            system.spawn(&format!("gateway-{n}"), "gateway", &shape, &[("GANTRY_GATEWAY__LISTEN", &listen)]);
        }
        for n in 1..=shape.workers {
            let cache = system.path(&format!("node-{n}"));
            let cache = cache.to_str().unwrap();
            let name = fresh_name(&format!("worker{n}"));
            system.spawn(&format!("sync-{n}"), "sync", &shape, &[("GANTRY_SYNC__CACHE_DIR", cache)]);
            let scratch = format!("{cache}-scratch");
            let settings = [
                ("GANTRY_WORKER__NAME", name.as_str()),
                ("GANTRY_WORKER__SLOTS", &shape.slots.to_string()),
                ("GANTRY_WORKER__CACHE_DIR", cache),
                ("GANTRY_WORKER__SCRATCH_DIR", &scratch),
            ];
            system.spawn(&format!("worker-{n}"), "worker", &shape, &settings);
        }
        for url in system.urls.clone() {
            system.ready(&url).await;
        }
        let workers = shape.workers;
        eventually("every worker is announced", PATIENCE, async || {
            let nodes: Option<http::NodeList> = system.get("/v1/nodes").await;
            nodes.is_some_and(|list| list.nodes.len() == workers)
        })
        .await;
        system
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
            ("GANTRY_COORDINATION__SESSION_MS", "6000"),
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
        let log =
            File::options().create(true).append(true).open(self.path(&format!("{subcommand}.log"))).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_gantry"));
        command
            .arg(subcommand)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .envs(settings.iter().cloned())
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        command
    }

    fn spawn(&mut self, name: &str, subcommand: &'static str, shape: &Shape, own: &[(&str, &str)]) {
        let mut settings = self.settings(shape);
        settings.extend(own.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let overrides = shape.overrides.iter().filter(|(process, _, _)| *process == name);
        settings.extend(overrides.map(|(_, key, value)| ((*key).to_owned(), value.clone())));
        let child = self.command(subcommand, &settings).spawn().unwrap();
        self.processes.insert(name.to_owned(), Process { subcommand, settings, child });
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What processes of this subcommand said.
    pub fn log(&self, subcommand: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{subcommand}.log"))).unwrap_or_default()
    }

    pub fn url(&self) -> &str {
        &self.urls[0]
    }

    pub async fn ready(&self, url: &str) {
        eventually("the gateway is ready", PATIENCE, async || {
            let answer = self.http.get(format!("{url}/readyz")).send().await;
            answer.is_ok_and(|answer| answer.status() == StatusCode::OK)
        })
        .await;
    }

    fn pid(&self, name: &str) -> Pid {
        Pid::from_child(&self.processes[name].child)
    }

    pub fn signal(&self, name: &str, signal: Signal) {
        kill_process(self.pid(name), signal).unwrap();
    }

    pub fn kill(&mut self, name: &str) {
        let process = self.processes.get_mut(name).unwrap();
        process.child.kill().unwrap();
        process.child.wait().unwrap();
    }

    /// Starts a killed process again, as it was.
    pub fn start_again(&mut self, name: &str) {
        let Process { subcommand, settings, .. } = self.processes.remove(name).unwrap();
        let child = self.command(subcommand, &settings).spawn().unwrap();
        self.processes.insert(name.to_owned(), Process { subcommand, settings, child });
    }

    /// Pushes a model with the client: a shell script, and what its manifest says beside the command.
    pub fn push_script(&self, model: &str, script: &str, manifest: &str) {
        let bundle = self.path(&format!("bundle-{model}"));
        std::fs::create_dir_all(&bundle).unwrap();
        std::fs::write(bundle.join("run.sh"), script).unwrap();
        let command = "runtime = \"process\"\ncommand = [\"sh\", \"run.sh\"]\n";
        std::fs::write(bundle.join("gantry.toml"), format!("{command}{manifest}")).unwrap();
        self.push(model, &bundle);
    }

    pub fn push_echo(&self) {
        let bundle = self.path("bundle-echo");
        std::fs::create_dir_all(&bundle).unwrap();
        std::fs::write(bundle.join("gantry.toml"), "runtime = \"builtin\"\nbuiltin = \"echo\"\n").unwrap();
        self.push("echo", &bundle);
    }

    fn push(&self, model: &str, bundle: &Path) {
        let bundle = bundle.to_str().unwrap();
        let pushed = Command::new(env!("CARGO_BIN_EXE_gantry"))
            .args(["push", bundle, "--model", model])
            .env("GANTRY_URL", self.url())
            .output()
            .unwrap();
        assert!(pushed.status.success(), "gantry push: {}", String::from_utf8_lossy(&pushed.stderr));
    }

    pub fn post(&self, model: &str, input: &Value, wait_s: u32) -> reqwest::RequestBuilder {
        self.http
            .post(format!("{}/v1/models/{model}/executions", self.url()))
            .header("Prefer", format!("wait={wait_s}"))
            .json(input)
    }

    /// Submits without waiting and returns the id.
    pub async fn submit(&self, model: &str, input: &Value) -> ExecuteId {
        let answer = self.post(model, input, 0).header("Prefer", "respond-async").send().await.unwrap();
        assert!(answer.status().is_success(), "{}: {}", answer.status(), answer.text().await.unwrap());
        id_of(&answer)
    }

    pub async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Option<T> {
        let answer = self.http.get(format!("{}{path}", self.url())).send().await.ok()?;
        answer.json().await.ok()
    }

    pub async fn execution(&self, id: ExecuteId) -> http::Execution {
        self.get(&format!("/v1/executions/{id}")).await.expect("the execution is there")
    }

    /// Waits until the execution is terminal.
    pub async fn ended(&self, id: ExecuteId, limit: Duration) -> http::Execution {
        eventually(&format!("execution {id} is terminal"), limit, async || {
            let execution: Option<http::Execution> = self.get(&format!("/v1/executions/{id}")).await;
            execution.is_some_and(|execution| execution.state.is_terminal())
        })
        .await;
        self.execution(id).await
    }

    /// Waits until the script of the execution runs.
    pub async fn executing(&self, id: ExecuteId) {
        eventually(&format!("execution {id} logs its first line"), PATIENCE, async || {
            !self.log_lines(id).await.is_empty()
        })
        .await;
    }

    pub async fn log_lines(&self, id: ExecuteId) -> Vec<http::LogRow> {
        let mut lines = Vec::new();
        loop {
            let after = lines.last().map_or(0, |row: &http::LogRow| row.log_id);
            let page: http::LogPage =
                self.get(&format!("/v1/executions/{id}/logs?after={after}&limit=1000")).await.unwrap();
            if page.lines.is_empty() {
                return lines;
            }
            lines.extend(page.lines);
        }
    }

    /// A direct queue producer.
    pub async fn producer(&self) -> RabbitMq {
        let config = RabbitMqConfig {
            url: self.addresses.amqp.clone(),
            prefix: self.prefix.clone(),
            ..RabbitMqConfig::default()
        };
        RabbitMq::connect(&config, &fresh_name("producer")).await.unwrap()
    }
}

impl Drop for System {
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

pub fn id_of(answer: &reqwest::Response) -> ExecuteId {
    answer.headers()[http::EXECUTE_ID].to_str().unwrap().parse().unwrap()
}

pub fn new_id() -> ExecuteId {
    ExecuteId::new(now_ms())
}

pub fn now_ms() -> u64 {
    jiff::Timestamp::now().as_millisecond().try_into().unwrap()
}

/// A request as a direct producer writes it.
pub fn request(id: ExecuteId, model: &str, input: &Value, reply_to: &str) -> Request {
    Request {
        execute_id: id,
        model: model.parse().unwrap(),
        version: VersionSelector::default(),
        queue: QueueName::default(),
        input: Payload::new(Payload::JSON, input.to_string().into_bytes()),
        deadline: None,
        reply_address: Some(ReplyAddress { reply_to: reply_to.to_owned(), correlation_id: id.to_string() }),
        traceparent: None,
        recorded: false,
    }
}

/// An address that was free a moment ago.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// How many processes of this machine have `marker` among their arguments now.
pub fn count_processes(marker: &str) -> usize {
    let Ok(entries) = std::fs::read_dir("/proc") else { return 0 };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()))
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .filter(|cmdline| cmdline.split(|b| *b == 0).any(|argument| argument == marker.as_bytes()))
        .count()
}
