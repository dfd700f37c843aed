//! Tells an operator when a node is lost, and when one that was lost is back.
//!
//! What is to be told lies in the record until it was told, so that the next leader tells what the last one could not. A
//! leader that dies between the call and its note is repeated: the hook is called at least once.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bootstrap::{ConfigurationError, Ports, Shutdown, chain};
use reqwest::{Client, Url};
use serde::Serialize;
use store::NodeEvent;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::{Config, metrics, pause};

/// How often the leader looks for something to tell.
const EVERY: Duration = Duration::from_secs(1);
/// How many are read at once; more wait in the record.
const ALARMS_MAX: u32 = 100;
/// How long one call may take.
const CALL_MAX: Duration = Duration::from_secs(10);
/// How often a call is tried, and how long it waits in between.
const TRIES: u32 = 4;
const AGAIN: Duration = Duration::from_secs(2);

/// Who is told.
pub(crate) struct Hook {
    command: Vec<String>,
    url: Option<(Client, Url)>,
}

/// What is told.
#[derive(Serialize)]
struct Alarm {
    event: &'static str,
    node: String,
    boot: String,
    at: jiff::Timestamp,
    event_id: i64,
}

impl Hook {
    /// The hook of the configuration, if it has one.
    ///
    /// # Errors
    /// The URL is none.
    pub fn new(config: &Config) -> anyhow::Result<Option<Self>> {
        let wrong = |why: String| ConfigurationError::new(format!("monitor.alarm_url: {why}"));
        let url = match config.alarm_url.as_deref().filter(|url| !url.is_empty()) {
            None => None,
            Some(url) => {
                let url = Url::parse(url).map_err(|error| wrong(error.to_string()))?;
                if !matches!(url.scheme(), "http" | "https") {
                    return Err(wrong("it must begin with http:// or https://".to_owned()).into());
                }
                bootstrap::install_tls_provider();
                let redirect = reqwest::redirect::Policy::none();
                let client = Client::builder().timeout(CALL_MAX).redirect(redirect).build();
                Some((client.map_err(|error| wrong(chain(&error)))?, url))
            }
        };
        let is_set = url.is_some() || !config.alarm_command.is_empty();
        Ok(is_set.then(|| Self { command: config.alarm_command.clone(), url }))
    }

    async fn call(&self, alarm: &Alarm) -> anyhow::Result<()> {
        if let Some((client, url)) = &self.url {
            let answer =
                client.post(url.clone()).json(alarm).send().await.context("call monitor.alarm_url")?;
            answer.error_for_status().context("call monitor.alarm_url")?;
        }
        if let Some((program, arguments)) = self.command.split_first() {
            let mut child = Command::new(program)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .context("start monitor.alarm_command")?;
            let text = serde_json::to_vec(alarm).unwrap_or_default();
            if let Some(mut stdin) = child.stdin.take() {
                // A command that does not read it is none the worse.
                drop(stdin.write_all(&text).await);
            }
            let status = child.wait().await.context("wait for monitor.alarm_command")?;
            if !status.success() {
                bail!("monitor.alarm_command ended with {status}");
            }
        }
        Ok(())
    }
}

/// Tells what is to be told, one at a time, while this process leads, until the drain.
pub(crate) async fn run(hook: Hook, ports: Ports, leading: watch::Receiver<bool>, shutdown: Shutdown) {
    while pause(EVERY, &shutdown).await {
        if !*leading.borrow() {
            continue;
        }
        let alarms = match ports.record.list_node_alarms(ALARMS_MAX).await {
            Ok(alarms) => alarms,
            // The sweeps say that the record is away.
            Err(_) => continue,
        };
        for event in alarms {
            if !*leading.borrow() || !tell(&hook, &event, &shutdown).await {
                break;
            }
            if let Err(error) = ports.record.settle_node_alarm(event.event_id).await {
                warn!(error = %chain(&error), "an alarm is repeated: that it was given is not recorded");
                break;
            }
        }
    }
}

/// Calls the hook until it succeeds or was tried often enough; `false` if the drain came first.
async fn tell(hook: &Hook, event: &NodeEvent, shutdown: &Shutdown) -> bool {
    let alarm = Alarm {
        event: if event.kind == store::NodeEventKind::Lost { "node_lost" } else { "node_back" },
        node: event.node.name().to_string(),
        boot: event.node.boot().to_owned(),
        at: event.at,
        event_id: event.event_id,
    };
    for attempt in 1..=TRIES {
        let error = match timeout(CALL_MAX, hook.call(&alarm)).await {
            Ok(Ok(())) => {
                metrics::alarm("told");
                info!(node = alarm.node, event = alarm.event, "the alarm hook was called");
                return true;
            }
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => "it took longer than 10 s".to_owned(),
        };
        metrics::alarm("failed");
        warn!(node = alarm.node, event = alarm.event, attempt, error, "the alarm hook failed");
        if attempt < TRIES && !pause(AGAIN * attempt, shutdown).await {
            return false;
        }
    }
    metrics::alarm("given_up");
    true
}
