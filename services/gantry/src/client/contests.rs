use jiff::Timestamp;
use protocol::http::{Contending, Contest, Explanation, LimitList};

use super::{Api, ClientError, Terminal, screen};
use crate::cli;

/// How many of those who wait are shown.
const WAITERS: usize = 20;

/// `gantry explain`.
///
/// # Errors
/// [`ClientError`].
pub async fn explain(api: &Api, args: &cli::One, terminal: Terminal) -> Result<(), ClientError> {
    let id = args.execute_id.to_string();
    let explanation: Explanation = api.get(&["executions", &id, "explain"], &[]).await?;
    if args.json {
        return terminal.json(&explanation);
    }
    let now = Timestamp::now();
    let mut text = format!("execution {id} is {}\n", terminal.stdout.state(explanation.state));
    for reason in &explanation.reasons {
        let since = reason.since.map_or_else(String::new, |since| {
            format!(" (for {})", screen::span(screen::between(since, now)))
        });
        text.push_str(&format!("  {}{since}\n", screen::plain(&reason.text)));
    }
    terminal.write(text.as_bytes())
}

/// `gantry limits`.
///
/// # Errors
/// [`ClientError`].
pub async fn limits(api: &Api, args: &cli::Limits, terminal: Terminal) -> Result<(), ClientError> {
    if let Some(name) = &args.name {
        let limit: Contest = api.get(&["limits", name.as_str()], &[]).await?;
        if args.json {
            return terminal.json(&limit);
        }
        return terminal.write(contest(&limit).as_bytes());
    }
    let list: LimitList = api.get(&["limits"], &[]).await?;
    if args.json {
        return terminal.json(&list);
    }
    if list.limits.is_empty() {
        terminal.note("no limit is held or waited for");
        return Ok(());
    }
    let row = |limit: &Contest| {
        [screen::plain(&limit.name), limit.holders.len().to_string(), limit.waiters.len().to_string()]
    };
    let rows: Vec<_> = list.limits.iter().map(row).collect();
    terminal.write(screen::table(["LIMIT", "HELD", "WAITING"], &rows).as_bytes())
}

fn contest(contest: &Contest) -> String {
    let now = Timestamp::now();
    let mut text = format!("{}\n", screen::plain(&contest.name));
    let mut part = |name: &str, of: &[Contending]| {
        text.push_str(&format!("{name} {}\n", of.len()));
        for one in of.iter().take(WAITERS) {
            let who = one.execute_id.map_or_else(|| "not Gantry's".to_owned(), |id| id.to_string());
            let node = one.node.as_deref().map_or_else(String::new, |node| format!(" on {node}"));
            let since = one.since.map_or_else(String::new, |since| {
                format!(", for {}", screen::span(screen::between(since, now)))
            });
            text.push_str(&format!("  {who}{node}{since}\n"));
        }
    };
    part("held by", &contest.holders);
    part("waited for by", &contest.waiters);
    text
}
