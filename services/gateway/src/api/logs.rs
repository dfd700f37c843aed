use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use bootstrap::Shutdown;
use domain::ExecuteId;
use domain::limits::LOG_PAGE_MAX;
use futures::{Stream, stream};
use protocol::{Problem, ProblemCode, http};
use serde::Deserialize;
use store::LoggedLine;

use super::executions::{find, parameters};
use crate::admission::{self, Segment};
use crate::followers::{Followed, Following};
use crate::gateway::Gateway;
use crate::problem::Refusal;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogParameters {
    after: Option<i64>,
    limit: Option<u32>,
}

/// Read or follow a log
///
/// A page as JSON; or, with `Accept: text/event-stream`, what is there and then what comes, until the execution ends:
/// events `log` whose id is the `log_id` (reconnect with `Last-Event-ID`), then one event `end`.
#[utoipa::path(
    get,
    path = "/v1/executions/{execute_id}/logs",
    params(
        ("execute_id" = String, Path, description = "The execution."),
        ("after" = Option<i64>, Query, description = "Only lines after this `log_id`; 0 if absent."),
        ("limit" = Option<u32>, Query, description = "1 to 1000; 1000 if absent. Not for an event stream."),
        ("Last-Event-ID" = Option<i64>, Header, description = "As `after`, for an event stream.")
    ),
    responses(
        (status = 200, description = "A page, or events.", content(
            (http::LogPage = "application/json"),
            (String = "text/event-stream")
        )),
        (status = 404, description = "There is none.", body = Problem, content_type = "application/problem+json")
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
    let mut after = parameters.after.unwrap_or(0);
    let is_stream = admission::header_text(&headers, header::ACCEPT.as_str())?
        .is_some_and(|accept| accept.contains("text/event-stream"));
    if is_stream && let Some(last) = admission::header_text(&headers, "last-event-id")? {
        after = last.parse().map_err(|_| {
            Refusal::new(ProblemCode::Parameter, format!("Last-Event-ID is a log_id, not {last:?}"))
        })?;
    }
    if after < 0 {
        return Err(Refusal::new(ProblemCode::Parameter, format!("after is 0 or a log_id, not {after}")));
    }
    let execution = find(&gateway, execute_id).await?;
    if is_stream {
        let following = gateway.followers.follow(execute_id, after)?;
        let keep_alive = KeepAlive::new().interval(Duration::from_secs(15));
        let events = events(following, gateway.shutdown.clone());
        return Ok(Sse::new(events).keep_alive(keep_alive).into_response());
    }
    let limit = parameters.limit.unwrap_or(LOG_PAGE_MAX);
    if !(1..=LOG_PAGE_MAX).contains(&limit) {
        let detail = format!("limit is 1 to {LOG_PAGE_MAX}, not {limit}");
        return Err(Refusal::new(ProblemCode::Parameter, detail));
    }
    // The row was read before the lines: if it had ended by then, a page that is not full is the last.
    let is_terminal = execution.state.is_terminal();
    Ok(Json(page(&gateway, execute_id, after, limit, is_terminal).await?).into_response())
}

async fn page(
    gateway: &Gateway,
    execute_id: ExecuteId,
    after: i64,
    limit: u32,
    is_terminal: bool,
) -> Result<http::LogPage, Refusal> {
    let lines = gateway.ports.record.list_log(execute_id, after, limit).await?;
    let complete = is_terminal && lines.len() < limit as usize;
    let next_after = lines.last().map_or(after, |line| line.log_id);
    Ok(http::LogPage { lines: lines.into_iter().map(row).collect(), next_after, complete })
}

fn row(line: LoggedLine) -> http::LogRow {
    http::LogRow {
        log_id: line.log_id,
        attempt: line.attempt,
        level: line.level,
        at: line.at,
        line: line.line,
        continues: line.continues,
    }
}

/// The events of one follower. A drain ends them without the event `end`: the reader goes on elsewhere, after the last id
/// it saw.
fn events(following: Following, shutdown: Shutdown) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold((following, shutdown), |(mut following, shutdown)| async move {
        let followed = tokio::select! {
            biased;
            followed = following.next() => followed?,
            () = shutdown.draining() => return None,
        };
        let event = match followed {
            Followed::Line(line) => {
                let id = line.log_id.to_string();
                Event::default().event("log").id(id).json_data(row(line)).unwrap_or_default()
            }
            Followed::End(state) => Event::default().event("end").data(format!("{{\"state\":\"{state}\"}}")),
        };
        Some((Ok(event), (following, shutdown)))
    })
}
