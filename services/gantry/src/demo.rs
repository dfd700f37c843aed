//! `gantry demo`: starts everything in this process, runs the examples on real data, and shows what happens.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bootstrap::settings::LogSettings;
use bootstrap::{Shutdown, ShutdownTrigger};
use domain::{ExecuteId, Payload};
use jiff::Timestamp;
use tokio::sync::oneshot;

use crate::client::screen::{self, span};
use crate::client::{
    Api, Ended, Prefer, Submission, Submitted, Terminal, follow, pack, result, submit, upload,
};
use crate::configuration::Configuration;
use crate::house;
use crate::service::refused;

/// How long the demo waits for the result of an example.
const WAIT: Duration = Duration::from_secs(30);
/// How many calls the timing at the end makes.
const CALLS: usize = 100;

/// A file of an example, as it is in the repository.
struct File {
    name: &'static str,
    text: &'static str,
}

macro_rules! example {
    ($model:literal: $($file:literal),+) => {
        ($model, &[$(File { name: $file, text: include_str!(concat!("../../../examples/", $model, "/", $file)) }),+])
    };
}

/// The examples, carried in the binary so that the demo needs no checkout.
const EXAMPLES: [(&str, &[File]); 4] = [
    example!("iris": "gantry.toml", "iris.py", "iris.csv", "input.json"),
    example!("planets": "gantry.toml", "planets.sh", "planets.awk", "planets.csv", "input.json"),
    example!("ticker": "gantry.toml", "ticker.py", "input.json"),
    example!("echo": "gantry.toml", "input.json"),
];

/// `gantry demo`.
pub fn demo() -> ExitCode {
    let started = Instant::now();
    let configuration = match Configuration::load(None) {
        Ok(loaded) => loaded.configuration,
        Err(error) => return refused(error),
    };
    // What the services say of themselves would only get between the lines of the demo, unless it is about trouble.
    let log = LogSettings { filter: "error".to_owned(), ..configuration.log.clone() };
    bootstrap::run(&log, move |shutdown| async move {
        let name = format!("gantry-demo-{}", new_id());
        let dir = house::open_directory(&std::env::temp_dir().join(name))?;
        let shown = show(configuration, dir.clone(), started, shutdown).await;
        // Unpacked bundles are read-only, which an ordinary removal stumbles over.
        let removed = tokio::task::spawn_blocking(move || artifacts::bundle::remove(&dir)).await?;
        shown.and(removed.context("remove the demo's directory"))
    })
}

async fn show(
    configuration: Configuration,
    dir: PathBuf,
    started: Instant,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let home = house::at_home(configuration, &dir, any_port);
    let (trigger, inner) = Shutdown::new();
    let (listening, address) = oneshot::channel();
    let house = house::run(home, inner, listening);
    let tour = async {
        let toured = tokio::select! {
            toured = tour(address, &dir, started) => toured,
            () = shutdown.draining() => Err(anyhow::anyhow!("stopped before its end")),
        };
        end(&trigger, toured.is_err());
        toured
    };
    let (served, toured) = tokio::join!(house, tour);
    served.and(toured)
}

/// After a failure nothing is worth waiting for.
fn end(trigger: &ShutdownTrigger, failed: bool) {
    if failed {
        trigger.stop();
    } else {
        trigger.drain();
    }
}

async fn tour(address: oneshot::Receiver<SocketAddr>, dir: &Path, started: Instant) -> anyhow::Result<()> {
    let address = address.await.context("the gateway did not start")?;
    let tour = Tour { api: Api::new(&format!("http://{address}"))?, terminal: Terminal::detect() };
    let version = env!("CARGO_PKG_VERSION");
    tour.say(
        &tour
            .terminal
            .stdout
            .bold(&format!("Gantry {version}: everything in this one process, on free ports")),
    )?;
    tour.say(&format!("  up after {} at {}", span(started.elapsed()), tour.api.url()))?;
    tour.push(dir).await?;

    let mut rows = Vec::new();
    for model in ["iris", "planets"] {
        rows.push(tour.wait_and_show(model).await?);
    }
    rows.push(tour.hand_over("ticker").await?);
    tour.once().await?;
    tour.time().await?;

    tour.title("The executions")?;
    let table = screen::table(["MODEL", "STATE", "LINES", "TOOK", "EXECUTE_ID"], &rows);
    for line in table.lines() {
        tour.say(&format!("  {line}"))?;
    }
    tour.title("How to go on")?;
    tour.say(GO_ON)
}

const GO_ON: &str = "\
\x20 gantry dev                  the same, to stay; then, in another terminal:
  gantry push examples/iris
  gantry run iris --input @examples/iris/input.json --follow
  make up                     with RabbitMQ, PostgreSQL, ZooKeeper and S3
  README.md                   a model of your own in five minutes";

/// Shows one thing after the other.
struct Tour {
    api: Api,
    terminal: Terminal,
}

impl Tour {
    fn say(&self, text: &str) -> anyhow::Result<()> {
        Ok(self.terminal.say(text)?)
    }

    fn title(&self, text: &str) -> anyhow::Result<()> {
        self.say(&format!("\n{}", self.terminal.stdout.bold(text)))
    }

    /// Writes the examples into files and pushes them, as `gantry push` does.
    async fn push(&self, dir: &Path) -> anyhow::Result<()> {
        let mut pushed = Vec::new();
        for (model, files) in &EXAMPLES {
            let folder = dir.join("examples").join(model);
            fs::create_dir_all(&folder)?;
            for file in *files {
                fs::write(folder.join(file.name), file.text)?;
            }
            let (version, _) = upload(&self.api, &model.parse()?, &pack(&folder)?).await?;
            pushed.push(format!("{model} {}", version.version));
        }
        self.say(&format!("  pushed {}", pushed.join(", ")))
    }

    /// Runs an example with its own input, its log lines live, and waits for the result.
    async fn wait_and_show(&self, model: &str) -> anyhow::Result<[String; 5]> {
        self.title(&format!("{model}: {}", about(model)?))?;
        let begun = Instant::now();
        let id = self.accept(model, Prefer::Async).await?;
        self.follow(id).await?;
        let ended = result(&self.api, id).await?;
        self.finish(model, &ended, begun).await
    }

    /// Runs an example that outlasts its caller's patience: a handle in time, the result later.
    async fn hand_over(&self, model: &str) -> anyhow::Result<[String; 5]> {
        self.title(&format!("{model}: {}", about(model)?))?;
        let begun = Instant::now();
        let id = self.accept(model, Prefer::Wait(Duration::from_secs(1))).await?;
        let waited = span(begun.elapsed());
        self.say(&format!("  asked to wait 1 s; after {waited} the answer is a handle, and it goes on"))?;
        self.follow(id).await?;
        let ended = result(&self.api, id).await?;
        self.finish(model, &ended, begun).await
    }

    async fn accept(&self, model: &str, prefer: Prefer) -> anyhow::Result<ExecuteId> {
        match submit(&self.api, &submission(model, prefer)?).await? {
            Submitted::Accepted(id) => Ok(id),
            Submitted::Ended(ended) => Ok(ended.execute_id),
        }
    }

    async fn follow(&self, id: ExecuteId) -> anyhow::Result<()> {
        let style = self.terminal.stdout;
        Ok(follow(&self.api, id, 0, &[], |row| self.terminal.say(&format!("  {}", style.log_row(row))))
            .await?)
    }

    async fn finish(&self, model: &str, ended: &Ended, begun: Instant) -> anyhow::Result<[String; 5]> {
        let took = span(begun.elapsed());
        let id = ended.execute_id.to_string();
        let execution: protocol::http::Execution = self.api.get(&["executions", &id], &[]).await?;
        let state = self.terminal.stdout.state(execution.state);
        self.say(&format!("  {state} after {took}, result:"))?;
        for line in wrap(&String::from_utf8_lossy(&ended.result.bytes)) {
            self.say(&format!("    {line}"))?;
        }
        let state = execution.state.label().to_owned();
        Ok([model.to_owned(), state, execution.log_lines.to_string(), took, id])
    }

    /// The same key twice is one execution.
    async fn once(&self) -> anyhow::Result<()> {
        self.title("One Idempotency-Key, two calls")?;
        let submission = submission("echo", Prefer::Wait(WAIT))?;
        let mut ids = Vec::new();
        for _ in 0..2 {
            let Submitted::Ended(ended) = submit(&self.api, &submission).await? else {
                bail!("echo did not end within {} s", WAIT.as_secs());
            };
            ids.push(ended.execute_id);
        }
        if ids[0] != ids[1] {
            bail!("one key became two executions, {} and {}", ids[0], ids[1]);
        }
        self.say(&format!("  both are {}", ids[0]))
    }

    /// What Gantry itself costs: calls of the builtin that returns its input.
    async fn time(&self) -> anyhow::Result<()> {
        self.title("What a call costs")?;
        let mut took = Vec::new();
        for _ in 0..CALLS {
            let submission = submission("echo", Prefer::Wait(WAIT))?;
            let begun = Instant::now();
            submit(&self.api, &submission).await?;
            took.push(begun.elapsed());
        }
        took.sort();
        let ms = |duration: Duration| duration.as_secs_f64() * 1_000.0;
        self.say(&format!(
            "  {CALLS} calls of echo, one after the other: median {:.1} ms, slowest {:.1} ms",
            ms(took[CALLS / 2]),
            ms(took[CALLS - 1])
        ))
    }
}

fn files_of(model: &str) -> anyhow::Result<&'static [File]> {
    let example = EXAMPLES.iter().find(|(name, _)| *name == model);
    example.map(|(_, files)| *files).with_context(|| format!("there is no example {model}"))
}

fn text_of(model: &str, name: &str) -> anyhow::Result<&'static str> {
    let file = files_of(model)?.iter().find(|file| file.name == name);
    file.map(|file| file.text).with_context(|| format!("example {model} has no {name}"))
}

fn about(model: &str) -> anyhow::Result<String> {
    Ok(domain::Manifest::parse(text_of(model, "gantry.toml")?)?.description)
}

fn submission(model: &str, prefer: Prefer) -> anyhow::Result<Submission> {
    Ok(Submission {
        attributes: None,
        model: model.parse()?,
        version: None,
        input: Payload::new(Payload::JSON, text_of(model, "input.json")?),
        key: new_id().to_string(),
        prefer,
    })
}

fn new_id() -> ExecuteId {
    ExecuteId::new(Timestamp::now().as_millisecond().try_into().unwrap_or(0))
}

/// `text` in lines that fit a terminal of 80 columns behind an indent, broken behind commas where there are any.
fn wrap(text: &str) -> Vec<String> {
    const WIDTH: usize = 74;
    let mut lines = Vec::new();
    for paragraph in screen::plain(text.trim_end()).lines() {
        let mut line = String::new();
        for part in paragraph.split_inclusive(", ") {
            if !line.is_empty() && line.chars().count() + part.trim_end().chars().count() > WIDTH {
                lines.push(std::mem::take(&mut line).trim_end().to_owned());
            }
            line.push_str(part);
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_a_terminal() {
        let text = wrap(&"{\"a\": 1, \"b\": [2, 3]}, ".repeat(20));
        assert!(text.len() > 5 && text.iter().all(|line| line.chars().count() <= 74), "{text:?}");
        assert_eq!(wrap("{\"a\": 1}\n"), ["{\"a\": 1}"]);
    }

    #[test]
    fn every_example_has_a_manifest_and_an_input() {
        for (model, _) in &EXAMPLES {
            assert!(!about(model).unwrap().is_empty());
            serde_json::from_str::<serde_json::Value>(text_of(model, "input.json").unwrap()).unwrap();
        }
    }
}
