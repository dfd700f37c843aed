use domain::State;
use domain::limits::LIST_PAGE_MAX;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use protocol::http::{Execution, ExecutionList, Handle};
use reqwest::{Method, StatusCode};

use super::api::ANSWER_TIMEOUT;
use super::{Api, ClientError, Terminal, screen};
use crate::cli;

/// `gantry ps`.
///
/// # Errors
/// [`ClientError`].
pub async fn ps(api: &Api, args: &cli::Ps, terminal: Terminal) -> Result<(), ClientError> {
    let list = list(api, args).await?;
    if args.json {
        return terminal.json(&list);
    }
    if list.executions.is_empty() {
        terminal.note("no executions");
        return Ok(());
    }
    let now = Timestamp::now();
    let rows: Vec<_> = list
        .executions
        .iter()
        .map(|execution| {
            [
                execution.execute_id.to_string(),
                execution.model.to_string(),
                execution.state.label().to_owned(),
                took(execution, now),
                screen::span(screen::between(execution.accepted_at, now)),
            ]
        })
        .collect();
    terminal.write(screen::table(["EXECUTE_ID", "MODEL", "STATE", "TOOK", "AGE"], &rows).as_bytes())?;
    if list.next.is_some() {
        terminal.note(&format!("the last {}; --limit shows more", list.executions.len()));
    }
    Ok(())
}

/// As many as are wanted, page by page.
async fn list(api: &Api, args: &cli::Ps) -> Result<ExecutionList, ClientError> {
    let mut query = Vec::new();
    query.extend(args.model.as_ref().map(|model| ("model", model.to_string())));
    query.extend(args.state.map(|state| ("state", state.to_string())));
    query.extend(args.node.as_ref().map(|node| ("node", node.clone())));
    query.extend(args.error.map(|class| ("error_class", class.to_string())));
    let attributes: Vec<String> = args.attributes.iter().map(ToString::to_string).collect();
    if !attributes.is_empty() {
        query.push(("attribute", attributes.join(",")));
    }
    query.extend(args.since.map(|since| ("from", since.0.to_string())));
    query.extend(args.until.map(|until| ("to", until.0.to_string())));
    let mut list = ExecutionList { executions: Vec::new(), next: None };
    loop {
        let wanted = args.limit as usize - list.executions.len();
        let mut query = query.clone();
        query.push(("limit", wanted.min(LIST_PAGE_MAX as usize).to_string()));
        query.extend(list.next.take().map(|next| ("cursor", next)));
        let page: ExecutionList = api.get(&["executions"], &query).await?;
        list.executions.extend(page.executions);
        list.next = page.next;
        if list.next.is_none() || list.executions.len() >= args.limit as usize {
            return Ok(list);
        }
    }
}

/// How long it took from acceptance to its end, or takes so far.
fn took(execution: &Execution, now: Timestamp) -> String {
    screen::span(screen::between(execution.accepted_at, execution.finished_at.unwrap_or(now)))
}

/// `gantry show`.
///
/// # Errors
/// [`ClientError`].
pub async fn show(api: &Api, args: &cli::One, terminal: Terminal) -> Result<(), ClientError> {
    let id = args.execute_id.to_string();
    let execution: Execution = api.get(&["executions", &id], &[]).await?;
    if args.json {
        return terminal.json(&execution);
    }
    terminal.write(description(&execution, terminal).as_bytes())
}

fn description(execution: &Execution, terminal: Terminal) -> String {
    let style = terminal.stdout;
    let mut text = String::new();
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<10} {value}\n"));
    let version = execution.version.map_or_else(|| "unknown".to_owned(), |version| version.to_string());
    line("execution", execution.execute_id.to_string());
    line("model", format!("{}, version {version}, queue {}", execution.model, execution.queue));
    line("state", style.state(execution.state));
    if !execution.attributes.is_empty() {
        line("attributes", execution.attributes.to_string());
    }
    let failures = match execution.failures {
        0 => String::new(),
        count => format!(" (Gantry itself failed {count} times)"),
    };
    line("attempt", format!("{}{failures}", execution.attempt));
    if let Some(node) = &execution.node {
        line("node", node.clone());
    }
    line("accepted", local(execution.accepted_at));
    if let Some(claimed) = execution.claimed_at {
        line("claimed", local(claimed));
    }
    if let Some(finished) = execution.finished_at {
        line("finished", format!("{}, {} after acceptance", local(finished), took(execution, finished)));
    }
    if let Some(not_before) = execution.not_before.filter(|_| execution.state == State::Delayed) {
        line("due", local(not_before));
    }
    if let Some(deadline) = execution.deadline {
        line("deadline", local(deadline));
    }
    if let Some(error) = &execution.error {
        let class = execution.error_class.map_or("", |class| class.label());
        line("error", format!("{class}: {}", screen::plain(error)));
    }
    line("log", format!("{} lines: gantry logs {}", execution.log_lines, execution.execute_id));
    for (n, event) in execution.timeline.iter().enumerate() {
        let after = screen::span(screen::between(execution.accepted_at, event.at));
        let name = if n == 0 { "timeline" } else { "" };
        line(name, format!("{after:>8}  attempt {}  {}", event.attempt, event.event));
    }
    text
}

fn local(at: Timestamp) -> String {
    at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S%.3f").to_string()
}

/// `gantry cancel`.
///
/// # Errors
/// [`ClientError`].
pub async fn cancel(api: &Api, args: &cli::One, terminal: Terminal) -> Result<(), ClientError> {
    let id = args.execute_id.to_string();
    let path = ["executions", &id, "cancel"];
    let response = api.answer(|| api.request(Method::POST, &path).timeout(ANSWER_TIMEOUT)).await?;
    if response.status() == StatusCode::ACCEPTED {
        let handle: Handle = api.read(response).await?;
        if args.json {
            return terminal.json(&handle);
        }
        return terminal.say("it is running and was told to end; `gantry show` says when it has");
    }
    let execution: Execution = api.read(response).await?;
    if args.json {
        return terminal.json(&execution);
    }
    match execution.state == State::Cancelled {
        true => terminal.say("cancelled"),
        false => terminal.say(&format!("it is {} and stays so", execution.state)),
    }
}
