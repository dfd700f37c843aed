use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use domain::NodeName;
use jiff::Timestamp;
use protocol::{Drain, Problem, ProblemCode, http};
use serde::de::DeserializeOwned;

use crate::admission::{self, Segment};
use crate::gateway::Gateway;
use crate::nodes;
use crate::problem::Refusal;

/// How much of a node's history is shown.
const HISTORY_MAX: u32 = 100;
/// The most slots.
const SLOTS_MAX: u16 = 10_000;

/// List nodes
///
/// Those that are there, and those that went or were lost in the last 24 hours, by name.
#[utoipa::path(get, path = "/v1/nodes", responses((status = 200, description = "The nodes.", body = http::NodeList)))]
pub(crate) async fn list_nodes(State(gateway): State<Gateway>) -> Result<Json<http::NodeList>, Refusal> {
    let is_current = nodes::is_current(&gateway);
    Ok(Json(http::NodeList { nodes: nodes::list(&gateway).await?, is_current }))
}

/// Show a node
#[utoipa::path(
    get,
    path = "/v1/nodes/{node}",
    params(("node" = String, Path, description = "Its name.")),
    responses(
        (status = 200, description = "The node, what it runs, and its history.", body = http::NodeDetail),
        (status = 404, description = "There is none, and was none in the last 24 hours.", body = Problem, content_type = "application/problem+json")
    )
)]
pub(crate) async fn get_node(
    State(gateway): State<Gateway>,
    Segment(name): Segment,
) -> Result<Json<http::NodeDetail>, Refusal> {
    let name: NodeName = admission::name(&name)?;
    let node = nodes::get(&gateway, &name).await?;
    let record = &gateway.ports.record;
    let running = record.list_running(Some(&node.info.id)).await?;
    let events = record.list_node_events(Some(&name), HISTORY_MAX).await?;
    let bundles = gateway.ports.coordination.bundles().borrow().clone();
    let bundles = bundles.iter().filter(|notice| notice.node == name);
    let detail = http::NodeDetail {
        node,
        executions: running
            .into_iter()
            .map(|row| http::RunningExecution {
                execute_id: row.execute_id,
                model: row.model,
                attempt: row.attempt,
                since: row.claimed_at,
            })
            .collect(),
        history: events
            .into_iter()
            .map(|event| http::NodeHistory {
                event: event.kind.label().to_owned(),
                at: event.at,
                boot: event.node.boot().to_owned(),
                slots: event.slots,
            })
            .collect(),
        bundles: bundles
            .map(|notice| http::NodeBundle { digest: notice.digest.to_string(), state: notice.state.clone() })
            .collect(),
    };
    Ok(Json(detail))
}

/// Set a node's slots
///
/// It takes effect while the node runs, and holds across its restarts.
#[utoipa::path(
    put,
    path = "/v1/nodes/{node}/settings",
    params(("node" = String, Path, description = "Its name.")),
    request_body(content = http::SetNode, content_type = "application/json"),
    responses(
        (status = 200, description = "The node is told.", body = http::Node),
        (status = 400, description = "The body cannot be understood.", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such node.", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly.", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body has more than 4 KiB.", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The coordination is away.", body = Problem, content_type = "application/problem+json")
    )
)]
pub(crate) async fn set_node(
    State(gateway): State<Gateway>,
    Segment(name): Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<http::Node>, Refusal> {
    let name: NodeName = admission::name(&name)?;
    let bytes = admission::read_small(&headers, body).await?;
    let http::SetNode { slots } = parse(&bytes)?;
    if let Some(slots) = slots.filter(|slots| !(1..=SLOTS_MAX).contains(slots)) {
        let detail = format!("slots is 1 to {SLOTS_MAX}, or null for what is configured; not {slots}");
        return Err(Refusal::new(ProblemCode::Parameter, detail));
    }
    Ok(Json(nodes::change(&gateway, &name, |settings| settings.slots = slots).await?))
}

/// Drain a node
///
/// It takes no new work until it is undrained, also across its restarts. To ask again changes mode and deadline.
#[utoipa::path(
    post,
    path = "/v1/nodes/{node}/drain",
    params(("node" = String, Path, description = "Its name.")),
    request_body(content = http::DrainNode, description = "`finish` without a deadline if it is empty.", content_type = "application/json"),
    responses(
        (status = 200, description = "The node is told.", body = http::Node),
        (status = 400, description = "The body cannot be understood.", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such node.", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly.", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body has more than 4 KiB.", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The coordination is away.", body = Problem, content_type = "application/problem+json")
    )
)]
pub(crate) async fn drain_node(
    State(gateway): State<Gateway>,
    Segment(name): Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<http::Node>, Refusal> {
    let name: NodeName = admission::name(&name)?;
    let bytes = admission::read_small(&headers, body).await?;
    let wish: http::DrainNode = if bytes.is_empty() { http::DrainNode::default() } else { parse(&bytes)? };
    let now = Timestamp::now();
    let until = wish.deadline_seconds.map(|seconds| now + std::time::Duration::from_secs(seconds.into()));
    let changed = nodes::change(&gateway, &name, |settings| {
        let since = settings.drain.as_ref().map_or(now, |drain| drain.since);
        settings.drain = Some(Drain { mode: wish.mode, until, since });
    });
    Ok(Json(changed.await?))
}

/// Let a node take work again
#[utoipa::path(
    post,
    path = "/v1/nodes/{node}/undrain",
    params(("node" = String, Path, description = "Its name.")),
    responses(
        (status = 200, description = "The node is told.", body = http::Node),
        (status = 404, description = "There is no such node.", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The coordination is away.", body = Problem, content_type = "application/problem+json")
    )
)]
pub(crate) async fn undrain_node(
    State(gateway): State<Gateway>,
    Segment(name): Segment,
) -> Result<Json<http::Node>, Refusal> {
    let name: NodeName = admission::name(&name)?;
    Ok(Json(nodes::change(&gateway, &name, |settings| settings.drain = None).await?))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let wrong = |error: serde_json::Error| {
        let code = if error.is_data() { ProblemCode::Parameter } else { ProblemCode::JsonSyntax };
        Refusal::new(code, error.to_string())
    };
    serde_json::from_slice(body).map_err(wrong)
}
