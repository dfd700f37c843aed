use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use artifacts::{Artifacts, DirectoryConfig};
use bootstrap::{Ports, Shutdown, ShutdownTrigger};
use broker::embedded::Embedded;
use broker::{Deliveries, Delivery, DeliverySource, Settled};
use coordination::record::{RecordCoordination, RecordCoordinationConfig};
use domain::{Ending, ExecuteId, Failure, Level, LogLine, NodeId, Payload, QueueName, TenantId};
use gateway::Config;
use protocol::{Reply, Request, http};
use reqwest::{RequestBuilder, Response};
use serde_json::Value;
use store::sqlite::{Sqlite, SqliteConfig};
use store::{
    Append, Appended, Claim, ClaimAnswer, ClaimRequest, Conclusion, Finish, Finished, Record, Settlement,
};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

pub const LEASE: Duration = Duration::from_secs(30);

/// A gateway of its own, and the worker's side of its ports.
pub struct Env {
    pub ports: Ports,
    pub address: SocketAddr,
    pub http: reqwest::Client,
    pub trigger: ShutdownTrigger,
    /// The gateway's task.
    pub running: JoinSet<anyhow::Result<()>>,
    pub deliveries: Deliveries,
    directory: TempDir,
}

impl Env {
    pub async fn new() -> Self {
        Self::with(Config::default()).await
    }

    pub async fn with(config: Config) -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("gantry.db");
        Self::on(Arc::new(Sqlite::open(&SqliteConfig { path }).unwrap()), config, directory).await
    }

    /// On another record than the embedded one.
    pub async fn on(record: Arc<dyn Record>, config: Config, directory: TempDir) -> Self {
        let coordination = RecordCoordination::new(record.clone(), &RecordCoordinationConfig::default());
        let ports = Ports {
            record,
            broker: Arc::new(Embedded::new()),
            coordination: Arc::new(coordination),
            artifacts: Artifacts::directory(&DirectoryConfig { path: directory.path().join("artifacts") }),
        };
        let source = DeliverySource::Queues(vec![QueueName::default()]);
        let deliveries = ports.broker.consume(source, 1_000).await.unwrap();
        let (trigger, shutdown) = Shutdown::new();
        let (listening, address) = oneshot::channel();
        let config = Config { listen: "127.0.0.1:0".parse().unwrap(), ..config };
        let mut running = JoinSet::new();
        running.spawn(gateway::run(config, ports.clone(), shutdown, listening));
        let address = address.await.expect("the gateway listens");
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap();
        Self { ports, address, http, trigger, running, deliveries, directory }
    }

    /// With the model `echo`.
    pub async fn with_model() -> Self {
        let env = Self::new().await;
        env.push("echo", &bundle()).await;
        env
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub async fn push(&self, model: &str, bundle: &[u8]) -> Response {
        let request = self.http.post(self.url(&format!("/v1/models/{model}/versions")));
        request.header("Content-Type", "application/gzip").body(bundle.to_vec()).send().await.unwrap()
    }

    pub fn post(&self, input: &Value) -> RequestBuilder {
        self.http.post(self.url("/v1/models/echo/executions")).json(input)
    }

    pub async fn get(&self, path: &str) -> Response {
        self.http.get(self.url(path)).send().await.unwrap()
    }

    pub async fn json(&self, path: &str) -> Value {
        self.get(path).await.json().await.unwrap()
    }

    /// The worker's part up to the start of the script.
    pub async fn claim(&mut self) -> (Request, Claim) {
        let delivery = self.deliveries.next().await.expect("a delivery");
        self.claim_delivery(delivery).await
    }

    pub async fn claim_delivery(&self, delivery: Delivery) -> (Request, Claim) {
        let request = Request::parse(delivery.message.clone(), delivery.queue.clone()).unwrap();
        let claim = ClaimRequest {
            claim_id: request.execute_id.into(),
            node: NodeId::new("hand".parse().unwrap(), 1, 1),
            lease: LEASE,
            tenant: TenantId::default(),
            input_digest: request.input_digest(),
            request: request.clone(),
            version: None,
            redelivered: false,
            result: None,
        };
        let answer = self.ports.record.claim(&[claim]).await.unwrap().pop();
        assert_eq!(delivery.ack().await, Settled::Sent);
        match answer {
            Some(ClaimAnswer::Claimed(claim)) => (request, claim),
            other => panic!("not claimed: {other:?}"),
        }
    }

    pub async fn log(&self, id: ExecuteId, base: i64, lines: &[&str]) -> i64 {
        let lines = lines.iter().map(|text| line(text)).collect();
        let append = Append { fence: None, execute_id: id, attempt: 1, base, lines };
        match self.ports.record.append(&[append]).await.unwrap()[0] {
            Appended::Stored { last_log_id } => last_log_id,
            Appended::Stale => panic!("stale"),
        }
    }

    /// Commits the end of attempt 1.
    pub async fn commit(&self, id: ExecuteId, base: i64, ending: Ending, tail: &[&str]) -> Conclusion {
        let finish = Finish {
            fence: None,
            execute_id: id,
            attempt: 1,
            base,
            tail: tail.iter().map(|text| line(text)).collect(),
            settlement: Settlement::Ended(ending),
            timeline: Vec::new(),
        };
        match self.ports.record.finish(&[finish]).await.unwrap().pop() {
            Some(Finished::Stored(conclusion)) => *conclusion,
            other => panic!("not stored: {other:?}"),
        }
    }

    /// Makes an execution `days` older than it is, before it has lines; its id says when it was accepted.
    pub async fn redate(&self, id: ExecuteId, days: u64) -> ExecuteId {
        let program = "import sqlite3, sys, uuid
database = sqlite3.connect(sys.argv[1], timeout=10)
ids = [uuid.UUID(text).bytes for text in sys.argv[2:]]
redated = database.execute('update execution set execute_id = ? where execute_id = ?', ids)
database.commit()
sys.exit(redated.rowcount != 1)";
        let older = ExecuteId::new(id.unix_ms() - days * 86_400_000);
        let mut python = tokio::process::Command::new("python3");
        python.args(["-c", program]).arg(self.directory.path().join("gantry.db"));
        python.args([older.to_string(), id.to_string()]);
        assert!(python.status().await.unwrap().success(), "there is no {id}");
        older
    }

    pub fn reply(&self, conclusion: &Conclusion) {
        let reply = Reply {
            execute_id: conclusion.execute_id,
            attempt: conclusion.attempt,
            ending: conclusion.ending.clone().unwrap(),
            run: Duration::from_millis(5),
        };
        for address in &conclusion.reply_addresses {
            self.ports.broker.reply(address, reply.to_message(address.correlation_id.clone()));
        }
    }

    /// The worker's whole part for the next delivery: it returns its input.
    pub async fn echo(&mut self) -> ExecuteId {
        let (request, _) = self.claim().await;
        let id = request.execute_id;
        let conclusion = self.commit(id, 0, Ending::Succeeded(request.input), &[]).await;
        self.reply(&conclusion);
        id
    }
}

fn line(text: &str) -> LogLine {
    LogLine { level: Level::Info, at_unix_us: 1, text: text.to_owned(), continues: false }
}

pub fn failure(class: domain::ErrorClass) -> Failure {
    Failure { exit_code: Some(3), ..Failure::new(class, "exit code 3") }
}

pub fn payload(json: &str) -> Payload {
    Payload::new(Payload::JSON, json.as_bytes().to_vec())
}

pub fn id_of(response: &Response) -> ExecuteId {
    response.headers()[http::EXECUTE_ID].to_str().unwrap().parse().unwrap()
}

/// A bundle with the manifest of `echo`.
pub fn bundle() -> Vec<u8> {
    bundle_of(&[("gantry.toml", "runtime = \"builtin\"\nbuiltin = \"echo\"\n")])
}

pub fn bundle_of(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    let mut gz = tar.into_inner().unwrap();
    gz.flush().unwrap();
    gz.finish().unwrap()
}
