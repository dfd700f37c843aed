use std::collections::VecDeque;
use std::time::{Duration, Instant};

use domain::ExecuteId;
use domain::limits::LOG_PAGE_MAX;
use futures::StreamExt;
use protocol::http::{LogPage, LogRow};
use reqwest::header::ACCEPT;
use reqwest::{Method, Response};

use super::events::Events;
use super::{Api, ClientError, Exit, Terminal};
use crate::cli;

/// How long a stream may be silent before it counts as broken: the gateway sends comments in between.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long a stream that cannot be had again is tried for.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause before a try.
const PAUSE: Duration = Duration::from_millis(500);

/// `gantry logs`.
///
/// # Errors
/// [`ClientError`].
pub async fn logs(api: &Api, args: &cli::Logs, terminal: Terminal) -> Result<(), ClientError> {
    let mut style = terminal.stdout;
    style.raw = args.raw;
    let print = |row: &LogRow| if args.json { terminal.json(row) } else { terminal.say(&style.log_row(row)) };
    let wanted = wanted(args);
    let mut after = args.after;
    if args.tail.is_some() || args.before.is_some() {
        let (rows, end) = tail(api, args, &wanted).await?;
        rows.iter().try_for_each(print)?;
        after = end;
        if !args.follow {
            return Ok(());
        }
    }
    if args.follow {
        return follow(api, args.execute_id, after, &wanted, print).await;
    }
    pages(api, args.execute_id, after, &wanted, print).await.map(drop)
}

/// The parameters of a request for lines, all but where they are.
type Wanted = [(&'static str, String)];

fn wanted(args: &cli::Logs) -> Vec<(&'static str, String)> {
    let mut wanted = Vec::new();
    wanted.extend(args.lines.level.map(|level| ("level", level.to_string())));
    wanted.extend(args.lines.text.as_ref().map(|text| ("text", text.clone())));
    wanted.extend(args.since.map(|since| ("from", since.0.to_string())));
    wanted.extend(args.until.map(|until| ("to", until.0.to_string())));
    wanted
}

/// The last rows, of all or of those before one; and the `log_id` after which there are only younger ones.
async fn tail(api: &Api, args: &cli::Logs, wanted: &Wanted) -> Result<(VecDeque<LogRow>, i64), ClientError> {
    let id = args.execute_id.to_string();
    let most = args.tail.unwrap_or(LOG_PAGE_MAX) as usize;
    let (mut rows, mut before, mut end) = (VecDeque::new(), args.before, None);
    loop {
        let mut query = wanted.to_vec();
        let limit = (most - rows.len()).to_string();
        match before {
            Some(before) => query.extend([("before", before.to_string()), ("limit", limit)]),
            None => query.push(("tail", limit)),
        }
        let page: LogPage = api.get(&["executions", &id, "logs"], &query).await?;
        let end = *end.get_or_insert(page.next_after);
        page.lines.into_iter().rev().for_each(|row| rows.push_front(row));
        before = page.next_before;
        if before.is_none() || rows.len() >= most {
            return Ok((rows, end));
        }
    }
}

/// Shows every row after `after` that is there now to `each`; returns the last page.
async fn pages(
    api: &Api,
    id: ExecuteId,
    mut after: i64,
    wanted: &Wanted,
    mut each: impl FnMut(&LogRow) -> Result<(), ClientError>,
) -> Result<LogPage, ClientError> {
    let id = id.to_string();
    loop {
        let mut query = wanted.to_vec();
        query.extend([("after", after.to_string()), ("limit", LOG_PAGE_MAX.to_string())]);
        let page: LogPage = api.get(&["executions", &id, "logs"], &query).await?;
        page.lines.iter().try_for_each(&mut each)?;
        if page.next_after == after || page.complete {
            return Ok(page);
        }
        after = page.next_after;
    }
}

/// Shows every row after `after` to `each`, as they are written, until the execution has ended and all were shown. A
/// stream that breaks is begun again after the last row: none is missing, none comes twice.
///
/// # Errors
/// [`ClientError`]; those of `each` are passed on.
pub async fn follow(
    api: &Api,
    id: ExecuteId,
    after: i64,
    wanted: &Wanted,
    mut each: impl FnMut(&LogRow) -> Result<(), ClientError>,
) -> Result<(), ClientError> {
    let mut seen = after;
    let mut trouble_since = None;
    loop {
        let before = seen;
        let broken = match stream(api, id, &mut seen, wanted, &mut each).await {
            Ok(()) => {
                // The end of a stream is the end of the log only if the record says so too.
                let page = pages(api, id, seen, wanted, |row| {
                    seen = row.log_id;
                    each(row)
                })
                .await?;
                if page.complete {
                    return Ok(());
                }
                None
            }
            Err(error) if error.exit == Exit::Away => Some(error),
            Err(error) => return Err(error),
        };
        if seen > before {
            trouble_since = None;
        }
        if let Some(error) = broken {
            let since: Instant = *trouble_since.get_or_insert_with(Instant::now);
            if since.elapsed() > PATIENCE {
                return Err(error);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Shows the rows of one stream to `each`, until it ends.
async fn stream(
    api: &Api,
    id: ExecuteId,
    seen: &mut i64,
    wanted: &Wanted,
    each: &mut impl FnMut(&LogRow) -> Result<(), ClientError>,
) -> Result<(), ClientError> {
    let response = open(api, id, *seen, wanted).await?;
    let mut bytes = response.bytes_stream();
    let mut events = Events::default();
    let broken =
        |why: &str| ClientError::new(Exit::Away, format!("the log of {id} from {}: {why}", api.url()));
    loop {
        let part = match tokio::time::timeout(SILENCE_MAX, bytes.next()).await {
            Ok(Some(Ok(part))) => part,
            Ok(Some(Err(error))) => return Err(api.broken(&error)),
            Ok(None) => return Ok(()),
            Err(_) => return Err(broken("nothing was heard for a minute")),
        };
        for event in events.feed(&part).map_err(broken)? {
            let Ok(row) = serde_json::from_str::<LogRow>(&event.data) else { continue };
            if row.log_id > *seen {
                *seen = row.log_id;
                each(&row)?;
            }
        }
    }
}

async fn open(api: &Api, id: ExecuteId, seen: i64, wanted: &Wanted) -> Result<Response, ClientError> {
    let id = id.to_string();
    let request = || {
        api.request(Method::GET, &["executions", &id, "logs"])
            .header(ACCEPT, "text/event-stream")
            .header("last-event-id", seen)
            .query(wanted)
    };
    api.answer(request).await
}
