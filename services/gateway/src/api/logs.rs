use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use bootstrap::Shutdown;
use domain::ExecuteId;
use domain::limits::LOG_PAGE_MAX;
use futures::{Stream, stream};
use protocol::{Problem, ProblemCode, http};
use serde::Deserialize;
use store::{LineFilter, LogFilter, LogSlice, LoggedLine};

use super::executions::{find, parameters};
use crate::admission::{self, Segment};
use crate::export;
use crate::followers::{Followed, Following};
use crate::gateway::Gateway;
use crate::problem::Refusal;
use crate::reading::{self, EVENT_STREAM, NDJSON};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogParameters {
    after: Option<i64>,
    before: Option<i64>,
    tail: Option<u32>,
    limit: Option<u32>,
    level: Option<String>,
    text: Option<String>,
    from: Option<String>,
    to: Option<String>,
}

/// Read or follow a log
///
/// A page as JSON: the first lines `after` a place, the last ones `before` a place, or the last ones of all (`tail`). With
/// `level`, `text`, `from` or `to` a page may be short, or empty, and not be the last: few are wanted among those that were
/// looked at. With `Accept: application/x-ndjson` all lines there are, one row a line, streamed; if that breaks off, so does
/// the connection. With `Accept: text/event-stream` what is there and then what comes, until the execution ends: events
/// `log` whose id is the `log_id` (reconnect with `Last-Event-ID`), then one event `end`.
#[utoipa::path(
    get,
    path = "/v1/executions/{execute_id}/logs",
    params(
        ("execute_id" = String, Path, description = "The execution."),
        ("after" = Option<i64>, Query, description = "Only lines after this `log_id`; 0 if absent. One of `after`, `before` and `tail`."),
        ("before" = Option<i64>, Query, description = "The last lines before this `log_id`. Not for an event stream."),
        ("tail" = Option<u32>, Query, description = "The last 1 to 1000 lines. For an event stream: begin with these."),
        ("limit" = Option<u32>, Query, description = "1 to 1000; 1000 if absent. Not for a stream."),
        ("level" = Option<String>, Query, description = "`D`, `I`, `W` or `E`: only lines of this level and those that matter more."),
        ("text" = Option<String>, Query, description = "Only lines with this text in them, letter for letter; 1 to 200 bytes."),
        ("from" = Option<String>, Query, description = "Only lines of this time (RFC 3339) or later."),
        ("to" = Option<String>, Query, description = "Only lines before this time."),
        ("Last-Event-ID" = Option<i64>, Header, description = "As `after`, for an event stream.")
    ),
    responses(
        (status = 200, description = "A page, a stream of rows, or events.", content(
            (http::LogPage = "application/json"),
            (String = "application/x-ndjson"),
            (String = "text/event-stream")
        )),
        (status = 400, description = "A parameter cannot be understood.", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is none.", body = Problem, content_type = "application/problem+json"),
        (status = 410, description = "Its lines were dropped.", body = Problem, content_type = "application/problem+json")
    )
)]
pub(crate) async fn get_logs(
    State(gateway): State<Gateway>,
    Segment(execute_id): Segment,
    query: Result<Query<LogParameters>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let execute_id = admission::execute_id(&execute_id)?;
    let parameters = parameters(query)?;
    let filter = filter(&parameters)?;
    if reading::accepts(&headers, EVENT_STREAM)? {
        return follow(&gateway, execute_id, &parameters, filter, &headers).await;
    }
    let execution = find(&gateway, execute_id).await?;
    if reading::accepts(&headers, NDJSON)? {
        reading::refuse_given(&[("limit", parameters.limit.is_some())], "a stream: it has all there is")?;
        return export(&gateway, &execution, filter, parameters.tail.is_none()).await;
    }
    Ok(Json(page(&gateway, &execution, filter).await?).into_response())
}

/// What the parameters of a page ask for.
fn filter(parameters: &LogParameters) -> Result<LogFilter, Refusal> {
    let LogParameters { after, before, tail, limit, .. } = parameters;
    if [after.is_some(), before.is_some(), tail.is_some()].into_iter().filter(|given| *given).count() > 1 {
        return Err(reading::refuse(
            "a page is after a line, before a line, or the tail: give one of the three",
        ));
    }
    if tail.is_some() {
        reading::refuse_given(
            &[("limit", limit.is_some())],
            "a tail, which says itself how many lines it has",
        )?;
    }
    if let Some(after) = after.filter(|after| *after < 0) {
        return Err(reading::refuse(format!("after is 0 or a log_id, not {after}")));
    }
    if let Some(before) = before.filter(|before| *before < 1) {
        return Err(reading::refuse(format!("before is a log_id from 1 on, not {before}")));
    }
    let limit = match *tail {
        Some(tail) => reading::count("tail", tail, 1..=LOG_PAGE_MAX)?,
        None => reading::count("limit", limit.unwrap_or(LOG_PAGE_MAX), 1..=LOG_PAGE_MAX)?,
    };
    let (from, to) = (parameters.from.as_deref(), parameters.to.as_deref());
    Ok(LogFilter {
        after: after.unwrap_or(0),
        before: *before,
        from_end: before.is_some() || tail.is_some(),
        lines: reading::lines(parameters.level.as_deref(), parameters.text.clone(), from, to)?,
        limit,
    })
}

async fn page(
    gateway: &Gateway,
    execution: &http::Execution,
    filter: LogFilter,
) -> Result<http::LogPage, Refusal> {
    // The row was read before the lines: what had ended by then has no lines after those.
    let found = gateway.ports.record.list_log(execution.execute_id, &filter).await?;
    if is_empty(&found) {
        refuse_dropped(gateway, execution, filter.after).await?;
    }
    let last = found.lines.last().map_or(filter.after, |line| line.log_id);
    let (next_after, next_before, is_last) = if filter.from_end {
        (
            last.max(filter.before.map_or(execution.log_lines, |before| before - 1)),
            found.next,
            filter.before.is_none(),
        )
    } else {
        // Without a next page all lines that the row knows of were looked at.
        let looked = if filter.lines.is_any() { last } else { last.max(execution.log_lines) };
        (found.next.unwrap_or(looked), None, found.next.is_none())
    };
    let complete = execution.state.is_terminal() && is_last;
    Ok(http::LogPage { lines: found.lines.into_iter().map(row).collect(), next_after, next_before, complete })
}

/// Are there no lines, on this page or a later one?
const fn is_empty(found: &LogSlice) -> bool {
    found.lines.is_empty() && found.next.is_none()
}

/// Refuses if the execution had lines after `after` and all of them were dropped.
async fn refuse_dropped(gateway: &Gateway, execution: &http::Execution, after: i64) -> Result<(), Refusal> {
    if after < execution.log_lines && gateway.ports.record.is_log_dropped(execution.execute_id).await? {
        let detail = format!(
            "the {} lines of execution {} were older than they are kept",
            execution.log_lines, execution.execute_id
        );
        return Err(Refusal::new(ProblemCode::LogDropped, detail));
    }
    Ok(())
}

/// All lines that `filter` lets through, page by page; only the one page if they are not `all`.
async fn export(
    gateway: &Gateway,
    execution: &http::Execution,
    filter: LogFilter,
    all: bool,
) -> Result<Response, Refusal> {
    let first = LogFilter { limit: 1, ..filter.clone() };
    let found = gateway.ports.record.list_log(execution.execute_id, &first).await?;
    if is_empty(&found) {
        refuse_dropped(gateway, execution, filter.after).await?;
    }
    // In order from the first line on, whatever comes last in the range.
    let filter = LogFilter { from_end: filter.from_end && !all, ..filter };
    export::ndjson(gateway, (execution.execute_id, filter), move |gateway, (execute_id, filter)| async move {
        let found = gateway.ports.record.list_log(execute_id, &filter).await?;
        let next = found.next.filter(|_| all).map(|next| (execute_id, LogFilter { after: next, ..filter }));
        Ok((found.lines.into_iter().map(row).collect::<Vec<_>>(), next))
    })
}

async fn follow(
    gateway: &Gateway,
    execute_id: ExecuteId,
    parameters: &LogParameters,
    filter: LogFilter,
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    let given = [("limit", parameters.limit.is_some()), ("before", parameters.before.is_some())];
    reading::refuse_given(&given, "an event stream: it goes on until the execution ends")?;
    let execution = find(gateway, execute_id).await?;
    let mut after = match parameters.tail {
        Some(tail) => (execution.log_lines - i64::from(tail)).max(0),
        None => filter.after,
    };
    if let Some(last) = admission::header_text(headers, "last-event-id")? {
        after = last
            .parse()
            .ok()
            .filter(|last| *last >= 0)
            .ok_or_else(|| reading::refuse(format!("Last-Event-ID is 0 or a log_id, not {last:?}")))?;
    }
    // The lines of what has not ended are kept.
    if execution.state.is_terminal() {
        refuse_dropped(gateway, &execution, after).await?;
    }
    let following = gateway.followers.follow(execute_id, after)?;
    let keep_alive = KeepAlive::new().interval(Duration::from_secs(15));
    let events = events(following, filter.lines, gateway.shutdown.clone());
    Ok(Sse::new(events).keep_alive(keep_alive).into_response())
}

pub(super) fn row(line: LoggedLine) -> http::LogRow {
    http::LogRow {
        log_id: line.log_id,
        attempt: line.attempt,
        level: line.level,
        at: line.at,
        line: line.line,
        continues: line.continues,
    }
}

/// The events of one follower, without the lines that are not wanted. A drain ends them without the event `end`: the reader
/// goes on elsewhere, after the last id it saw.
fn events(
    following: Following,
    wanted: LineFilter,
    shutdown: Shutdown,
) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold((following, wanted, shutdown), |(mut following, wanted, shutdown)| async move {
        let followed = loop {
            let followed = tokio::select! {
                biased;
                followed = following.next() => followed?,
                () = shutdown.draining() => return None,
            };
            match &followed {
                Followed::Line(line) if !wanted.lets_through(line) => {}
                Followed::Line(_) | Followed::End(_) => break followed,
            }
        };
        let event = match followed {
            Followed::Line(line) => {
                let id = line.log_id.to_string();
                Event::default().event("log").id(id).json_data(row(line)).unwrap_or_default()
            }
            Followed::End(state) => Event::default().event("end").data(format!("{{\"state\":\"{state}\"}}")),
        };
        Some((Ok(event), (following, wanted, shutdown)))
    })
}
