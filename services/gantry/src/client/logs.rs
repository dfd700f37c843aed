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
    if args.follow {
        return follow(api, args.execute_id, args.after, print).await;
    }
    pages(api, args.execute_id, args.after, print).await.map(drop)
}

/// Shows every row after `after` that is there now to `each`; returns the last page.
async fn pages(
    api: &Api,
    id: ExecuteId,
    mut after: i64,
    mut each: impl FnMut(&LogRow) -> Result<(), ClientError>,
) -> Result<LogPage, ClientError> {
    let id = id.to_string();
    loop {
        let query = [("after", after.to_string()), ("limit", LOG_PAGE_MAX.to_string())];
        let page: LogPage = api.get(&["executions", &id, "logs"], &query).await?;
        for row in &page.lines {
            each(row)?;
        }
        if page.lines.is_empty() || page.complete {
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
    mut each: impl FnMut(&LogRow) -> Result<(), ClientError>,
) -> Result<(), ClientError> {
    let mut seen = after;
    let mut trouble_since = None;
    loop {
        let before = seen;
        let broken = match stream(api, id, &mut seen, &mut each).await {
            Ok(()) => {
                // The end of a stream is the end of the log only if the record says so too.
                let page = pages(api, id, seen, |row| {
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
    each: &mut impl FnMut(&LogRow) -> Result<(), ClientError>,
) -> Result<(), ClientError> {
    let response = open(api, id, *seen).await?;
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

async fn open(api: &Api, id: ExecuteId, seen: i64) -> Result<Response, ClientError> {
    let id = id.to_string();
    let request = || {
        api.request(Method::GET, &["executions", &id, "logs"])
            .header(ACCEPT, "text/event-stream")
            .header("last-event-id", seen)
    };
    api.answer(request).await
}
