use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use broker::rabbitmq::{RabbitMq, RabbitMqConfig};
use domain::{ExecuteId, Payload, QueueName, VersionSelector};
use protocol::{ReplyAddress, Request, http};
use reqwest::StatusCode;
use serde_json::Value;
pub use testkit::{Addresses, Shape};
use testkit::{House, eventually, fresh_name};

/// How long anything may take that is not itself about time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running house, and a client of it.
pub struct System {
    pub house: House,
    pub http: reqwest::Client,
}

impl Deref for System {
    type Target = House;

    fn deref(&self) -> &House {
        &self.house
    }
}

impl DerefMut for System {
    fn deref_mut(&mut self) -> &mut House {
        &mut self.house
    }
}

impl System {
    /// Starts everything and waits until the gateways are ready and every worker can be seen.
    pub async fn start(shape: Shape) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(120)).build().unwrap();
        let house = House::start(Path::new(env!("CARGO_BIN_EXE_gantry")), &shape);
        let system = Self { house, http };
        for url in &system.urls {
            system.ready(url).await;
        }
        let workers = shape.workers;
        eventually("every worker is announced", PATIENCE, async || {
            let nodes: Option<http::NodeList> = system.get("/v1/nodes").await;
            nodes.is_some_and(|list| list.nodes.len() == workers)
        })
        .await;
        system
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
        attributes: domain::Attributes::default(),
        recorded: false,
    }
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
