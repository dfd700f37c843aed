use std::io::IsTerminal as _;
use std::time::Duration;

use jiff::Timestamp;
use protocol::http::{DrainNode, Node, NodeDetail, NodeList, SetNode};
use protocol::{BundleState, DrainMode, NodeState};
use reqwest::Method;
use serde::Serialize;

use super::api::ANSWER_TIMEOUT;
use super::{Api, ClientError, Terminal, screen};
use crate::cli;

/// How often `--watch` and `--wait` look.
const LOOK: Duration = Duration::from_secs(1);
/// How much of a node's history is shown.
const HISTORY: usize = 10;
/// Cursor to the top left; what follows the cursor is erased.
const HOME: &str = "\x1b[H";
const ERASE_LINE: &str = "\x1b[K";
const ERASE_REST: &str = "\x1b[J";

/// `gantry nodes`.
///
/// # Errors
/// [`ClientError`].
pub async fn nodes(api: &Api, args: &cli::Nodes, terminal: Terminal) -> Result<(), ClientError> {
    match &args.command {
        None if args.watch => watch(api, args, terminal).await,
        None => list(api, args, terminal).await,
        Some(cli::NodesCommand::Show(one)) => show(api, one, terminal).await,
        Some(cli::NodesCommand::Set(set)) => resize(api, set, terminal).await,
        Some(cli::NodesCommand::Drain(drain)) => self::drain(api, drain, terminal).await,
        Some(cli::NodesCommand::Undrain(one)) => undrain(api, one, terminal).await,
    }
}

async fn list(api: &Api, args: &cli::Nodes, terminal: Terminal) -> Result<(), ClientError> {
    let list: NodeList = api.get(&["nodes"], &[]).await?;
    if args.json {
        return terminal.json(&list);
    }
    if list.nodes.is_empty() {
        terminal.note("no nodes: executions wait until a worker is started (`gantry worker`)");
        return Ok(());
    }
    terminal.write(text(&list, terminal).as_bytes())
}

/// Draws the list again each second, in place; piped, one after the other.
async fn watch(api: &Api, args: &cli::Nodes, terminal: Terminal) -> Result<(), ClientError> {
    let in_place = std::io::stdout().is_terminal() && !args.json;
    if in_place {
        terminal.write(format!("{HOME}{ERASE_REST}").as_bytes())?;
    }
    loop {
        let list: NodeList = api.get(&["nodes"], &[]).await?;
        if args.json {
            terminal.json(&list)?;
        } else {
            let now = Timestamp::now().to_zoned(jiff::tz::TimeZone::system());
            let heading = format!("{}  {}, Ctrl-C ends\n\n", now.strftime("%H:%M:%S"), api.url());
            let text = format!("{heading}{}", text(&list, terminal));
            let text = match in_place {
                true => format!("{HOME}{}{ERASE_REST}", text.replace('\n', &format!("{ERASE_LINE}\n"))),
                false => format!("{text}\n"),
            };
            terminal.write(text.as_bytes())?;
        }
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(()),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

fn text(list: &NodeList, terminal: Terminal) -> String {
    let now = Timestamp::now();
    let rows: Vec<_> = list
        .nodes
        .iter()
        .map(|node| {
            let queues: Vec<_> = node.info.queues.iter().map(ToString::to_string).collect();
            let active = if node.state.is_present() {
                format!("{}/{}", node.running, node.info.slots)
            } else {
                "-".to_owned()
            };
            [
                node.info.id.name().to_string(),
                node.state.label().to_owned(),
                active,
                queues.join(","),
                screen::span(screen::between(node.info.since, now)),
                if node.state.is_present() && list.is_current {
                    "now".to_owned()
                } else {
                    format!("{} ago", screen::span(screen::between(node.last_seen, now)))
                },
                node.info.version.clone(),
            ]
        })
        .collect();
    let heading = ["NODE", "STATE", "ACTIVE", "QUEUES", "AGE", "SEEN", "VERSION"];
    let mut text = screen::table(heading, &rows);
    if !list.is_current {
        text.push_str(&terminal.stdout.bold("The coordination is away: this may be old.\n"));
    }
    text
}

async fn show(api: &Api, args: &cli::OneNode, terminal: Terminal) -> Result<(), ClientError> {
    let detail: NodeDetail = api.get(&["nodes", args.node.as_str()], &[]).await?;
    if args.json {
        return terminal.json(&detail);
    }
    terminal.write(description(&detail).as_bytes())
}

fn description(detail: &NodeDetail) -> String {
    let now = Timestamp::now();
    let ago = |at| format!("{} ago", screen::span(screen::between(at, now)));
    let node = &detail.node;
    let info = &node.info;
    let mut text = String::new();
    let mut line =
        |name: &str, value: String| text.push_str(&format!("{name:<10} {}\n", screen::plain(&value)));
    line("node", info.id.name().to_string());
    line("state", format!("{}, last seen {}", node.state.label(), ago(node.last_seen)));
    line("active", format!("{} of {} slots", node.running, info.slots));
    let queues: Vec<_> = info.queues.iter().map(ToString::to_string).collect();
    line("queues", queues.join(", "));
    line("machine", format!("{}, process {}, since {}", info.address, info.pid, ago(info.since)));
    line("version", format!("{}, boot id {}", info.version, info.id.boot()));
    if !info.labels.is_empty() {
        let labels: Vec<_> = info.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        line("labels", labels.join(", "));
    }
    if let Some(slots) = node.settings.slots {
        line("set", format!("{slots} slots, whatever is configured"));
    }
    if let Some(drain) = &node.settings.drain {
        let until = drain.until.map_or_else(String::new, |until| format!(", until {until}"));
        line("drain", format!("{}{until}, asked {}", mode(drain.mode), ago(drain.since)));
    }
    for (n, running) in detail.executions.iter().enumerate() {
        let name = if n == 0 { "runs" } else { "" };
        let since = screen::span(screen::between(running.since, now));
        let (id, model) = (running.execute_id, &running.model);
        line(name, format!("{id}  {model}, attempt {}, for {since}", running.attempt));
    }
    for (n, bundle) in detail.bundles.iter().enumerate() {
        let name = if n == 0 { "bundles" } else { "" };
        let state = match &bundle.state {
            BundleState::Ready { bytes } => format!("ready, {}", screen::bytes(*bytes)),
            BundleState::Fetching { bytes, bytes_total } => {
                format!("on its way, {} of {}", screen::bytes(*bytes), screen::bytes(*bytes_total))
            }
            BundleState::Failed { message } => format!("failed: {message}"),
        };
        let digest: String = bundle.digest.chars().take(12).collect();
        line(name, format!("{digest}  {state}"));
    }
    for (n, event) in detail.history.iter().take(HISTORY).enumerate() {
        let name = if n == 0 { "history" } else { "" };
        line(name, format!("{:<9} {:>10}, {} slots", event.event, ago(event.at), event.slots));
    }
    text
}

const fn mode(mode: DrainMode) -> &'static str {
    match mode {
        DrainMode::Finish => "what runs runs to its end",
        DrainMode::Requeue => "what runs is stopped and begins again elsewhere",
        DrainMode::Kill => "what runs is killed and begins again elsewhere",
    }
}

async fn resize(api: &Api, args: &cli::SetNode, terminal: Terminal) -> Result<(), ClientError> {
    let body = SetNode { slots: args.slots.0 };
    let node = tell(api, Method::PUT, &["nodes", args.node.as_str(), "settings"], Some(&body)).await?;
    if args.json {
        return terminal.json(&node);
    }
    match args.slots.0 {
        Some(slots) => terminal.say(&format!("{} is told to have {slots} slots", args.node)),
        None => terminal.say(&format!("{} is told to have as many slots as are configured", args.node)),
    }
}

async fn drain(api: &Api, args: &cli::DrainNode, terminal: Terminal) -> Result<(), ClientError> {
    let body = DrainNode { mode: args.mode, deadline_seconds: args.deadline.map(|deadline| deadline.0) };
    let name = args.node.as_str();
    let node = tell(api, Method::POST, &["nodes", name, "drain"], Some(&body)).await?;
    if args.wait {
        loop {
            let detail: NodeDetail = api.get(&["nodes", name], &[]).await?;
            let is_told = detail.node.state != NodeState::Up;
            if is_told && detail.executions.is_empty() {
                break;
            }
            terminal.note(&format!("{} still running on {name}", detail.executions.len()));
            tokio::time::sleep(LOOK).await;
        }
        return terminal
            .say(&format!("{name} runs nothing and takes nothing; `gantry nodes undrain {name}` undoes it"));
    }
    if args.json {
        return terminal.json(&node);
    }
    terminal.say(&format!("{name} is told to drain; `gantry nodes undrain {name}` undoes it"))
}

async fn undrain(api: &Api, args: &cli::OneNode, terminal: Terminal) -> Result<(), ClientError> {
    let node = tell(api, Method::POST, &["nodes", args.node.as_str(), "undrain"], None::<&()>).await?;
    if args.json {
        return terminal.json(&node);
    }
    terminal.say(&format!("{} is told to take work again", args.node))
}

async fn tell(
    api: &Api,
    method: Method,
    path: &[&str],
    body: Option<&impl Serialize>,
) -> Result<Node, ClientError> {
    let request = || {
        let request = api.request(method.clone(), path).timeout(ANSWER_TIMEOUT);
        match body {
            Some(body) => request.json(body),
            None => request,
        }
    };
    let response = api.answer(request).await?;
    api.read(response).await
}
