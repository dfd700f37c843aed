use std::str::FromStr;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use broker::Control;
use domain::limits::LIST_PAGE_MAX;
use domain::{Attributes, ErrorClass, ExecuteId, ModelName, VersionSelector};
use protocol::{Problem, ProblemCode, Reply, http};
use serde::Deserialize;
use store::{CancelAnswer, Conclusion, ExecutionFilter, OfNode, StoreError};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::answer;
use crate::admission::{self, Segment};
use crate::explanation;
use crate::gateway::Gateway;
use crate::problem::Refusal;
use crate::reading;
use crate::submission::{self, Submission};

/// How long one request for a list looks on when it has not found a page.
const LIST_LOOK_TIME: Duration = Duration::from_millis(100);

/// The parameters of a query, or what is wrong with them.
pub(crate) fn parameters<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Refusal> {
    match query {
        Ok(Query(parameters)) => Ok(parameters),
        Err(rejection) => Err(Refusal::new(ProblemCode::Parameter, rejection.body_text())),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SubmitParameters {
    version: Option<String>,
}

/// Run a model
///
/// The body is the input. The answer is the result itself if it comes in time, else a handle.
#[utoipa::path(
    post,
    path = "/v1/models/{model}/executions",
    params(
        ("model" = String, Path, description = "The model."),
        ("version" = Option<String>, Query, description = "Version number or alias; `latest` if absent."),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: at most N seconds (30 if absent, at most 300); `respond-async` alone: do not wait."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key is the same execution for 24 hours."),
        ("Gantry-Deadline" = Option<String>, Header, description = "Never start after this time (RFC 3339)."),
        ("Gantry-Attributes" = Option<String>, Header, description = "Labels to find the execution by, as `customer=acme, run=7`: at most 8, a value has at most 64 visible characters.")
    ),
    request_body(content = String, description = "The input: JSON unless Content-Type says otherwise; 1 byte to 1 MiB.", content_type = "application/json"),
    responses(
        (status = 200, description = "The result itself, with its content type."),
        (status = 202, description = "Accepted; ask again under `Location`.", body = http::Handle),
        (status = "4XX", description = "Refused; or `422`: the script failed; or `409`: cancelled.", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "`503`: nothing was accepted; `504`: ran too long, or expired; `500`: dead.", body = Problem, content_type = "application/problem+json")
    )
)]
pub(crate) async fn submit(
    State(gateway): State<Gateway>,
    Segment(model): Segment,
    query: Result<Query<SubmitParameters>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let (submission, preference_applied) = admitted(&gateway, &model, query, headers, body).await?;
    let submitted = submission::submit(&gateway, submission).await?;
    let mut response = answer::submitted(&gateway, submitted).await;
    if let Some(Ok(applied)) = preference_applied.map(|applied| HeaderValue::from_str(&applied)) {
        response.headers_mut().insert("preference-applied", applied);
    }
    Ok(response)
}

/// What is asked for, if it is to be let in, and the preferences that are kept. Nothing of the request stays behind: its
/// headers keep the buffer they were read into, for as long as the caller waits.
async fn admitted(
    gateway: &Gateway,
    model: &str,
    query: Result<Query<SubmitParameters>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<(Submission, Option<String>), Refusal> {
    let model: ModelName = admission::name(model)?;
    let parameters = parameters(query)?;
    let selector: VersionSelector =
        parameters.version.as_deref().map(admission::name).transpose()?.unwrap_or_default();
    let preference = admission::preference(&headers)?;
    let idempotency_key = admission::idempotency_key(&headers)?;
    let deadline = admission::deadline(&headers)?;
    let attributes = admission::attributes(&headers)?;
    gateway.health.admit()?;
    gateway.waiters.admit(preference.wait)?;
    let (input, room) = admission::input(&gateway.bodies, &headers, body).await?;
    let version = gateway.versions.find(&gateway.tenant, &model, &selector).await?;
    let Some(version) = version else { return Err(no_version(gateway, &model, &selector).await?) };
    admission::keys(&version.manifest, &model, &input)?;
    let traceparent = admission::traceparent(&headers);
    let wait = preference.wait;
    let submission =
        Submission { model, version, input, idempotency_key, deadline, traceparent, attributes, wait, room };
    Ok((submission, preference.applied))
}

async fn no_version(
    gateway: &Gateway,
    model: &ModelName,
    selector: &VersionSelector,
) -> Result<Refusal, Refusal> {
    let versions = gateway.ports.record.list_versions(&gateway.tenant, Some(model)).await?;
    Ok(match versions.first() {
        None => Refusal::new(ProblemCode::ModelNotFound, format!("there is no model {model}")),
        Some(newest) => Refusal::new(
            ProblemCode::VersionNotFound,
            format!("model {model} has no version {selector}; its newest is {}", newest.version),
        ),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListParameters {
    model: Option<String>,
    state: Option<String>,
    node: Option<String>,
    error_class: Option<String>,
    attribute: Option<String>,
    from: Option<String>,
    to: Option<String>,
    cursor: Option<String>,
    limit: Option<u32>,
}

/// List executions
///
/// The youngest first; what is accepted meanwhile shifts no page. A page may be short, or empty, and have a `next` all the
/// same: few are what was asked for among those that were looked at.
#[utoipa::path(
    get,
    path = "/v1/executions",
    params(
        ("model" = Option<String>, Query, description = "Only of this model."),
        ("state" = Option<String>, Query, description = "Only in this state."),
        ("node" = Option<String>, Query, description = "Only those that this node holds or held last: its name, or name and boot id as `node` shows them."),
        ("error_class" = Option<String>, Query, description = "Only those that ended for this reason."),
        ("attribute" = Option<String>, Query, description = "Only those with this label, or all of these: `customer=acme,run=7`."),
        ("from" = Option<String>, Query, description = "Only those whose ids are dated at this time (RFC 3339) or later: when they were accepted."),
        ("to" = Option<String>, Query, description = "Only those whose ids are dated before this time."),
        ("cursor" = Option<String>, Query, description = "`next` of the page before."),
        ("limit" = Option<u32>, Query, description = "1 to 200; 50 if absent.")
    ),
    responses(
        (status = 200, description = "A page.", body = http::ExecutionList),
        (status = 400, description = "A parameter cannot be understood.", body = Problem, content_type = "application/problem+json")
    )
)]
pub(crate) async fn list_executions(
    State(gateway): State<Gateway>,
    query: Result<Query<ListParameters>, QueryRejection>,
) -> Result<Json<http::ExecutionList>, Refusal> {
    let parameters = parameters(query)?;
    let limit = reading::count("limit", parameters.limit.unwrap_or(50), 1..=LIST_PAGE_MAX)?;
    let (from, to) = reading::times(parameters.from.as_deref(), parameters.to.as_deref())?;
    let cursor = parameters.cursor.as_deref().map(reading::list_cursor).transpose()?;
    let (states, classes) =
        (domain::State::ALL.map(domain::State::label), ErrorClass::ALL.map(ErrorClass::label));
    let attributes = parameters
        .attribute
        .as_deref()
        .map(|text| text.parse().map_err(|error| reading::refuse(format!("attribute: {error}"))));
    let attributes: Option<Attributes> = attributes.transpose()?;
    let filter = ExecutionFilter {
        model: parameters.model.as_deref().map(admission::name).transpose()?,
        state: parameters.state.as_deref().map(|text| one_of("state", text, &states)).transpose()?,
        node: parameters.node.as_deref().map(of_node).transpose()?,
        error_class: parameters
            .error_class
            .as_deref()
            .map(|text| one_of("error_class", text, &classes))
            .transpose()?,
        attributes: attributes.unwrap_or_default(),
        from: from.map(reading::id_at),
        before: [to.map(reading::id_at), cursor].into_iter().flatten().min(),
        limit,
    };
    Ok(Json(list(&gateway, filter).await?))
}

fn one_of<T: FromStr>(name: &str, text: &str, allowed: &[&str]) -> Result<T, Refusal> {
    text.parse()
        .map_err(|_| reading::refuse(format!("{name} is one of {}, not {text:?}", allowed.join(", "))))
}

fn of_node(text: &str) -> Result<OfNode, Refusal> {
    if text.contains('@') {
        return admission::name(text).map(OfNode::Life);
    }
    admission::name(text).map(OfNode::Named)
}

/// Looks until there is a page, or nothing more to look at, or for as long as one request may.
async fn list(gateway: &Gateway, mut filter: ExecutionFilter) -> Result<http::ExecutionList, StoreError> {
    let begin = Instant::now();
    let most = filter.limit;
    let mut list = http::ExecutionList { executions: Vec::new(), next: None };
    loop {
        let page = gateway.ports.record.list_executions(&gateway.tenant, &filter).await?;
        list.executions.extend(page.executions.into_iter().map(|row| row.execution));
        list.next = page.next.map(|next| next.to_string());
        filter.limit = most - u32::try_from(list.executions.len()).unwrap_or(most).min(most);
        if filter.limit == 0 || page.next.is_none() || begin.elapsed() >= LIST_LOOK_TIME {
            return Ok(list);
        }
        filter.before = page.next;
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GetParameters {
    wait: Option<String>,
}

/// Show an execution
#[utoipa::path(
    get,
    path = "/v1/executions/{execute_id}",
    params(
        ("execute_id" = String, Path, description = "The execution."),
        ("wait" = Option<u64>, Query, description = "Wait at most this many seconds (0 to 300) for it to end.")
    ),
    responses(
        (status = 200, description = "Its row, and what it waits for.", body = http::ExecutionNow),
        (status = 404, description = "There is none.", body = Problem, content_type = "application/problem+json")
    )
)]
pub(crate) async fn get_execution(
    State(gateway): State<Gateway>,
    Segment(execute_id): Segment,
    query: Result<Query<GetParameters>, QueryRejection>,
) -> Result<Json<http::ExecutionNow>, Refusal> {
    let execute_id = admission::execute_id(&execute_id)?;
    let wait =
        parameters(query)?.wait.as_deref().map(admission::wait_seconds).transpose()?.unwrap_or_default();
    let mut execution = find(&gateway, execute_id).await?;
    if !wait.is_zero() && !execution.state.is_terminal() {
        let mut waiting = gateway.waiters.register(execute_id)?;
        submission::wait(&gateway, &mut waiting, Instant::now() + wait).await;
        execution = find(&gateway, execute_id).await?;
    }
    let mut now = http::ExecutionNow { execution, phase: None, position: None };
    if now.execution.state == domain::State::Running {
        let waits = explanation::waiting(&gateway, &now.execution).await?;
        if let Some(first) = waits.into_iter().find(|reason| reason.ahead.is_some()) {
            (now.phase, now.position) = (Some(first.code), first.ahead);
        }
    }
    Ok(Json(now))
}

/// The row of an execution, or the refusal that there is none.
pub(crate) async fn find(gateway: &Gateway, execute_id: ExecuteId) -> Result<http::Execution, Refusal> {
    let row = gateway.ports.record.find_execution(&gateway.tenant, execute_id).await?;
    row.map(|row| row.execution).ok_or_else(|| not_found(execute_id))
}

fn not_found(execute_id: ExecuteId) -> Refusal {
    Refusal::new(ProblemCode::ExecutionNotFound, format!("there is no execution {execute_id}"))
}

/// Get the result
///
/// The result itself with its content type, or the failure as a problem with its own status.
#[utoipa::path(
    get,
    path = "/v1/executions/{execute_id}/result",
    params(("execute_id" = String, Path, description = "The execution.")),
    responses(
        (status = 200, description = "The result itself, with its content type."),
        (status = 409, description = "It has not ended (`not_finished`), or was cancelled.", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is none.", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The script failed.", body = Problem, content_type = "application/problem+json")
    )
)]
pub(crate) async fn get_result(
    State(gateway): State<Gateway>,
    Segment(execute_id): Segment,
) -> Result<Response, Refusal> {
    let execute_id = admission::execute_id(&execute_id)?;
    if let Some((attempt, ending)) = gateway.ports.record.find_ending(&gateway.tenant, execute_id).await? {
        return Ok(answer::ended(&gateway, &Reply { execute_id, attempt, ending, run: Duration::ZERO }).await);
    }
    let execution = find(&gateway, execute_id).await?;
    let detail = format!(
        "execution {execute_id} is {}; ask again, or wait with /v1/executions/{execute_id}?wait=30",
        execution.state
    );
    Err(Refusal::from(Problem {
        execute_id: Some(execute_id),
        state: Some(execution.state),
        ..Problem::new(ProblemCode::NotFinished, detail)
    }))
}

/// Take an execution back
///
/// One that has not started is cancelled at once; a running one gets SIGTERM, and its tree is killed after the grace.
#[utoipa::path(
    post,
    path = "/v1/executions/{execute_id}/cancel",
    params(("execute_id" = String, Path, description = "The execution.")),
    responses(
        (status = 200, description = "It is cancelled: its row.", body = http::Execution),
        (status = 202, description = "It is running and has been asked to end.", body = http::Handle),
        (status = 404, description = "There is none.", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It had ended before.", body = Problem, content_type = "application/problem+json")
    )
)]
pub(crate) async fn cancel(
    State(gateway): State<Gateway>,
    Segment(execute_id): Segment,
) -> Result<Response, Refusal> {
    let execute_id = admission::execute_id(&execute_id)?;
    let (done, outcome) = oneshot::channel();
    let worker = gateway.clone();
    // A caller that hangs up has cancelled all the same, and those who wait are told.
    gateway.tasks.spawn(async move {
        drop(done.send(take_back(&worker, execute_id).await));
    });
    let broken = || Refusal::new(ProblemCode::Internal, "the cancel was broken off; cancel again");
    let answer = outcome.await.map_err(|_| broken())?.map_err(Refusal::from)?;
    let ended = match answer {
        None => return Err(not_found(execute_id)),
        Some(CancelAnswer::Requested) => return Ok(answer::accepted(execute_id, domain::State::Running)),
        Some(CancelAnswer::Cancelled(conclusion) | CancelAnswer::AlreadyEnded(conclusion)) => conclusion,
    };
    match ended.ending.map(|ending| ending.state()) {
        // To ask twice is no mistake.
        Some(domain::State::Cancelled) | None => Ok(Json(find(&gateway, execute_id).await?).into_response()),
        Some(state) => Err(Refusal::from(Problem {
            execute_id: Some(execute_id),
            state: Some(state),
            ..Problem::new(
                ProblemCode::AlreadyEnded,
                format!("execution {execute_id} had ended before, as {state}"),
            )
        })),
    }
}

async fn take_back(gateway: &Gateway, execute_id: ExecuteId) -> Result<Option<CancelAnswer>, StoreError> {
    let answer = gateway.ports.record.cancel(&gateway.tenant, execute_id).await?;
    match &answer {
        Some(CancelAnswer::Requested) => gateway.ports.broker.broadcast(Control::Cancel(execute_id)),
        Some(CancelAnswer::Cancelled(conclusion)) => tell(gateway, conclusion),
        Some(CancelAnswer::AlreadyEnded(_)) | None => {}
    }
    Ok(answer)
}

/// Replies to everybody who waits for what ended here.
fn tell(gateway: &Gateway, conclusion: &Conclusion) {
    let Some(ending) = conclusion.ending.clone() else { return };
    let reply =
        Reply { execute_id: conclusion.execute_id, attempt: conclusion.attempt, ending, run: Duration::ZERO };
    for address in &conclusion.reply_addresses {
        gateway.ports.broker.reply(address, reply.to_message(address.correlation_id.clone()));
    }
    gateway.dispatched.forget(reply.execute_id);
    gateway.waiters.wake(reply);
}
