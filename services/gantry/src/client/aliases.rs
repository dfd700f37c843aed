use std::time::Duration;

use domain::{AliasName, ModelName, VersionNumber};
use protocol::ProblemCode;
use protocol::http::{AliasList, MoveAlias, MovedAlias, NodeReadiness, Readiness, ReadyState};
use reqwest::Method;
use tokio::time::{Instant, sleep};

use super::api::ANSWER_TIMEOUT;
use super::{Api, ClientError, Terminal, screen};
use crate::cli;

/// How often a move that waits for nodes is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// `gantry aliases`.
///
/// # Errors
/// [`ClientError`].
pub async fn aliases(api: &Api, args: &cli::OfModel, terminal: Terminal) -> Result<(), ClientError> {
    let list: AliasList = api.get(&["models", args.model.as_str(), "aliases"], &[]).await?;
    if args.json {
        return terminal.json(&list);
    }
    let rows: Vec<_> = list.aliases.iter().map(|it| [it.alias.to_string(), it.version.to_string()]).collect();
    terminal.write(screen::table(["ALIAS", "VERSION"], &rows).as_bytes())
}

/// `gantry alias`.
///
/// # Errors
/// [`ClientError`]; [`super::Exit::Later`] if too few nodes have the version, or it points elsewhere than was expected.
pub async fn alias(api: &Api, args: &cli::Alias, terminal: Terminal) -> Result<(), ClientError> {
    let (model, alias) = (&args.model, &args.alias);
    let Some(version) = args.version else {
        let path = ["models", model.as_str(), "aliases", alias.as_str()];
        api.answer(|| api.request(Method::DELETE, &path).timeout(ANSWER_TIMEOUT)).await?;
        return if args.json { Ok(()) } else { terminal.say(&format!("{alias} of {model} is no more")) };
    };
    let wanted = MoveAlias { version: VersionNumber(version), force: args.force, expected: args.expected };
    let moved = point(api, model, alias, &wanted, Duration::from_secs(args.wait), terminal).await?;
    if args.json { terminal.json(&moved) } else { terminal.say(&sentence(model, &moved)) }
}

/// What became of an alias that moved.
pub fn sentence(model: &ModelName, moved: &MovedAlias) -> String {
    let MovedAlias { alias, version, was } = moved;
    match was {
        Some(was) if was == version => format!("{alias} of {model} is version {version} already"),
        Some(was) => format!("{alias} of {model} is version {version} now; it was {was}"),
        None => format!("{alias} of {model} is version {version} now"),
    }
}

/// Moves an alias, waiting so long for enough nodes to have the version.
///
/// # Errors
/// [`ClientError`]: the gateway's `not_ready` if they have it not in time.
pub async fn point(
    api: &Api,
    model: &ModelName,
    alias: &AliasName,
    wanted: &MoveAlias,
    wait: Duration,
    terminal: Terminal,
) -> Result<MovedAlias, ClientError> {
    let path = ["models", model.as_str(), "aliases", alias.as_str()];
    let until = Instant::now() + wait;
    let mut said = String::new();
    loop {
        let asked = api.answer(|| api.request(Method::PUT, &path).json(wanted).timeout(ANSWER_TIMEOUT)).await;
        let error = match asked {
            Ok(response) => return api.read(response).await,
            Err(error) => error,
        };
        let not_ready = error.problem.as_ref().filter(|problem| problem.code == ProblemCode::NotReady);
        let Some(problem) = not_ready.filter(|_| Instant::now() + ASK_AGAIN <= until) else {
            return Err(error);
        };
        let detail = screen::plain(problem.detail.split(';').next().unwrap_or_default());
        if detail != said {
            terminal.note(&detail);
            said = detail;
        }
        sleep(ASK_AGAIN).await;
    }
}

/// `gantry readiness`.
///
/// # Errors
/// [`ClientError`].
pub async fn readiness(api: &Api, args: &cli::Readiness, terminal: Terminal) -> Result<(), ClientError> {
    let query: Vec<_> = args.version.iter().map(|version| ("version", version.to_string())).collect();
    let found: Readiness = api.get(&["models", args.model.as_str(), "readiness"], &query).await?;
    if args.json {
        return terminal.json(&found);
    }
    let mut rows = Vec::new();
    for version in &found.versions {
        let of_all = format!("{} of {} ready", version.nodes_ready, version.nodes.len());
        let enough =
            if version.is_ready { of_all } else { format!("{of_all}, {} % needed", found.ready_percent_min) };
        let number = version.version.to_string();
        rows.push([number, version.aliases.join(","), enough, screen::bytes(version.bytes)]);
        for node in &version.nodes {
            rows.push([
                String::new(),
                String::new(),
                format!("  {} {}", node.node, state(node)),
                bytes(node),
            ]);
        }
    }
    terminal.write(screen::table(["VERSION", "ALIASES", "NODES", "SIZE"], &rows).as_bytes())
}

fn state(node: &NodeReadiness) -> String {
    match (node.state, &node.message) {
        (ReadyState::Missing, _) => "missing".to_owned(),
        (ReadyState::Fetching, _) => "fetching".to_owned(),
        (ReadyState::Ready, _) => "ready".to_owned(),
        (ReadyState::Failed, Some(message)) => format!("failed: {}", screen::plain(message)),
        (ReadyState::Failed, None) => "failed".to_owned(),
    }
}

fn bytes(node: &NodeReadiness) -> String {
    match node.bytes_total {
        Some(total) => format!("{} of {}", screen::bytes(node.bytes), screen::bytes(total)),
        None => screen::bytes(node.bytes),
    }
}
