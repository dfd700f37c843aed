//! Answers about an execution that has ended, or has not yet.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use domain::{Ending, ExecuteId, State};
use protocol::{Problem, Reply, http};
use store::LogFilter;

use crate::gateway::Gateway;
use crate::problem::Refusal;
use crate::submission::Submitted;

/// How many of the last log lines a failure brings along.
const LAST_LINES: u32 = 10;

/// The result itself with its content type, or the failure as a problem.
pub(crate) async fn ended(gateway: &Gateway, reply: &Reply) -> Response {
    let mut response = match &reply.ending {
        Ending::Succeeded(result) => {
            let content_type = HeaderValue::from_str(&result.content_type)
                .unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"));
            ([(header::CONTENT_TYPE, content_type)], result.bytes.clone()).into_response()
        }
        Ending::Failed(failure)
        | Ending::TimedOut(failure)
        | Ending::Cancelled(failure)
        | Ending::Expired(failure)
        | Ending::Dead(failure) => {
            let lines = gateway.ports.record.list_log(reply.execute_id, &LogFilter::tail(LAST_LINES)).await;
            let lines = lines.inspect_err(|error| {
                tracing::warn!(execute_id = %reply.execute_id, error = bootstrap::chain(error), "cannot read the last lines");
            });
            let lines = lines.unwrap_or_default().lines.into_iter().map(|line| line.line).collect();
            let state = reply.ending.state();
            Refusal::from(Problem::of_failure(reply.execute_id, state, reply.attempt, failure, lines))
                .into_response()
        }
    };
    let headers = response.headers_mut();
    set(headers, http::EXECUTE_ID, &reply.execute_id.to_string());
    set(headers, http::ATTEMPT, &reply.attempt.to_string());
    response
}

/// `202` with the handle.
pub(crate) fn accepted(execute_id: ExecuteId, state: State) -> Response {
    let location = format!("/v1/executions/{execute_id}");
    let handle = http::Handle { execute_id, state, location: location.clone() };
    let mut response = (StatusCode::ACCEPTED, Json(handle)).into_response();
    let headers = response.headers_mut();
    set(headers, header::LOCATION.as_str(), &location);
    set(headers, header::RETRY_AFTER.as_str(), "1");
    set(headers, http::EXECUTE_ID, &execute_id.to_string());
    response
}

/// The answer to a submission.
pub(crate) async fn submitted(gateway: &Gateway, submitted: Submitted) -> Response {
    let mut response = match &submitted.reply {
        Some(reply) => ended(gateway, reply).await,
        None => accepted(submitted.execute_id, submitted.state),
    };
    let headers = response.headers_mut();
    if submitted.replayed {
        set(headers, http::IDEMPOTENCY_REPLAYED, "true");
    }
    let ms = |duration: Duration| duration.as_secs_f64() * 1_000.0;
    let steps = &submitted.timing;
    let run = submitted.reply.map(|reply| reply.run).filter(|run| !run.is_zero());
    let steps =
        [("record", steps.record), ("publish", steps.publish), ("wait", Some(steps.wait)), ("run", run)];
    let timing: Vec<_> =
        steps.into_iter().filter_map(|(step, took)| Some(format!("{step};dur={:.3}", ms(took?)))).collect();
    set(headers, "server-timing", &timing.join(", "));
    response
}

fn set(headers: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
        headers.insert(name, value);
    }
}
