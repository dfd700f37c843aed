use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use domain::limits::LOG_PAGE_MAX;
use domain::{ExecuteId, ModelName};
use protocol::{Problem, ProblemCode, http};
use serde::Deserialize;
use store::{LogSearch, LoggedLine, StoreError};
use tokio::time::Instant;

use super::executions::parameters;
use super::logs::row;
use crate::admission::{self, Segment};
use crate::export;
use crate::gateway::Gateway;
use crate::problem::Refusal;
use crate::reading::{self, NDJSON};

/// How long one request looks on when it has not found a page.
const LOOK_MAX: Duration = Duration::from_secs(1);
/// How many lines a page has if nobody says.
const LIMIT_DEFAULT: u32 = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SearchParameters {
    text: Option<String>,
    level: Option<String>,
    from: Option<String>,
    to: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// Search the logs of a model
///
/// The youngest execution first, the lines of each in order. A request looks at what it can in a second: a page may be
/// short, or empty, and have a `next` all the same, after which to go on. With `Accept: application/x-ndjson` all there is,
/// one row a line, streamed; if that breaks off, the connection does, and `<execute_id>.<log_id>` of the last row is the
/// cursor to go on after.
#[utoipa::path(
    get,
    path = "/v1/models/{model}/logs",
    params(
        ("model" = String, Path, description = "The model."),
        ("text" = Option<String>, Query, description = "Only lines with this text in them, letter for letter; 1 to 200 bytes."),
        ("level" = Option<String>, Query, description = "`D`, `I`, `W` or `E`: only lines of this level and those that matter more."),
        ("from" = Option<String>, Query, description = "Only of executions whose ids are dated at this time (RFC 3339) or later: when they were accepted."),
        ("to" = Option<String>, Query, description = "Only of executions whose ids are dated before this time."),
        ("limit" = Option<u32>, Query, description = "1 to 1000; 100 if absent. Not for a stream."),
        ("cursor" = Option<String>, Query, description = "`next` of the page before.")
    ),
    responses(
        (status = 200, description = "A page, or a stream of rows.", content(
            (http::FoundPage = "application/json"),
            (String = "application/x-ndjson")
        )),
        (status = 400, description = "A parameter cannot be understood.", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such model.", body = Problem, content_type = "application/problem+json")
    )
)]
pub(crate) async fn search_logs(
    State(gateway): State<Gateway>,
    Segment(model): Segment,
    query: Result<Query<SearchParameters>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let model: ModelName = admission::name(&model)?;
    let parameters = parameters(query)?;
    let lines = reading::lines(parameters.level.as_deref(), parameters.text, None, None)?;
    let (from, to) = reading::times(parameters.from.as_deref(), parameters.to.as_deref())?;
    let limit = reading::count("limit", parameters.limit.unwrap_or(LIMIT_DEFAULT), 1..=LOG_PAGE_MAX)?;
    let mut search = LogSearch {
        model,
        from: from.map(reading::id_at),
        before: to.map(reading::id_at),
        cursor: parameters.cursor.as_deref().map(reading::log_cursor).transpose()?,
        lines,
        limit,
    };
    if reading::accepts(&headers, NDJSON)? {
        reading::refuse_given(&[("limit", parameters.limit.is_some())], "a stream: it has all there is")?;
        search.limit = LOG_PAGE_MAX;
        return export::ndjson(&gateway, search, next_page);
    }
    let page = page(&gateway, search.clone()).await?;
    if page.lines.is_empty()
        && page.next.is_none()
        && gateway.ports.record.list_versions(&gateway.tenant, Some(&search.model)).await?.is_empty()
    {
        let detail = format!("there is no model {}", search.model);
        return Err(Refusal::new(ProblemCode::ModelNotFound, detail));
    }
    Ok(Json(page).into_response())
}

/// Looks until there is a page, or nothing more to look at, or for as long as one request may.
async fn page(gateway: &Gateway, mut search: LogSearch) -> Result<http::FoundPage, StoreError> {
    let begin = Instant::now();
    let most = search.limit;
    let mut page = http::FoundPage { lines: Vec::new(), next: None };
    loop {
        let found = gateway.ports.record.search_logs(&gateway.tenant, &search).await?;
        page.lines.extend(found.lines.into_iter().map(found_row));
        page.next = found.next.map(reading::log_cursor_text);
        search.limit = most - u32::try_from(page.lines.len()).unwrap_or(most).min(most);
        if search.limit == 0 || found.next.is_none() || begin.elapsed() >= LOOK_MAX {
            return Ok(page);
        }
        search.cursor = found.next;
    }
}

async fn next_page(
    gateway: Gateway,
    mut search: LogSearch,
) -> Result<(Vec<http::FoundRow>, Option<LogSearch>), StoreError> {
    let found = gateway.ports.record.search_logs(&gateway.tenant, &search).await?;
    search.cursor = found.next;
    let rows = found.lines.into_iter().map(found_row).collect();
    Ok((rows, search.cursor.is_some().then_some(search)))
}

fn found_row((execute_id, line): (ExecuteId, LoggedLine)) -> http::FoundRow {
    http::FoundRow { execute_id, row: row(line) }
}
