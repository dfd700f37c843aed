use axum::Json;
use axum::extract::State;
use coordination::{Contended, CoordinationError};
use domain::{LimitName, LockKey};
use protocol::{Problem, ProblemCode, http};

use crate::admission::{self, Segment};
use crate::explanation::{contending, explain};
use crate::gateway::Gateway;
use crate::problem::Refusal;

use super::executions::find;

/// Explain an execution
///
/// Why it waits, or what it does, and since when.
#[utoipa::path(
    get,
    path = "/v1/executions/{execute_id}/explain",
    params(("execute_id" = String, Path, description = "The execution.")),
    responses(
        (status = 200, description = "Its reasons, what must come first first.", body = http::Explanation),
        (status = 404, description = "There is none.", body = Problem, content_type = "application/problem+json")
    )
)]
pub(crate) async fn explain_execution(
    State(gateway): State<Gateway>,
    Segment(execute_id): Segment,
) -> Result<Json<http::Explanation>, Refusal> {
    let execution = find(&gateway, admission::execute_id(&execute_id)?).await?;
    Ok(Json(explain(&gateway, &execution).await?))
}

/// List limits
///
/// Those that somebody holds or waits for, by name.
#[utoipa::path(
    get,
    path = "/v1/limits",
    responses(
        (status = 200, description = "The limits.", body = http::LimitList),
        (status = 503, description = "The coordination is away.", body = Problem, content_type = "application/problem+json")
    )
)]
pub(crate) async fn list_limits(State(gateway): State<Gateway>) -> Result<Json<http::LimitList>, Refusal> {
    let names = gateway.ports.coordination.limits(&gateway.tenant).await.map_err(away)?;
    let mut limits = Vec::with_capacity(names.len());
    for name in names {
        limits.push(contest(&gateway, name.to_string(), limit(name)).await?);
    }
    Ok(Json(http::LimitList { limits }))
}

/// Show a limit
///
/// Who holds it and who waits for it.
#[utoipa::path(
    get,
    path = "/v1/limits/{name}",
    params(("name" = String, Path, description = "Its name.")),
    responses(
        (status = 200, description = "The limit; nobody may have it or wait for it.", body = http::Contest),
        (status = 503, description = "The coordination is away.", body = Problem, content_type = "application/problem+json")
    )
)]
pub(crate) async fn get_limit(
    State(gateway): State<Gateway>,
    Segment(name): Segment,
) -> Result<Json<http::Contest>, Refusal> {
    let limit_name: LimitName = admission::name(&name)?;
    Ok(Json(contest(&gateway, name, limit(limit_name)).await?))
}

/// Show a lock
///
/// Who has it and who waits for it.
#[utoipa::path(
    get,
    path = "/v1/locks/{key}",
    params(("key" = String, Path, description = "Its key.")),
    responses(
        (status = 200, description = "The lock; nobody may have it or wait for it.", body = http::Contest),
        (status = 503, description = "The coordination is away.", body = Problem, content_type = "application/problem+json")
    )
)]
pub(crate) async fn get_lock(
    State(gateway): State<Gateway>,
    Segment(key): Segment,
) -> Result<Json<http::Contest>, Refusal> {
    let lock: LockKey = admission::name(&key)?;
    Ok(Json(contest(&gateway, key, Contended::Lock(lock)).await?))
}

/// How many it admits is for those to say who enter it.
const fn limit(name: LimitName) -> Contended {
    Contended::Limit { name, max: 1 }
}

async fn contest(gateway: &Gateway, name: String, what: Contended) -> Result<http::Contest, Refusal> {
    let queue = gateway.ports.coordination.queue(&gateway.tenant, &what).await.map_err(away)?;
    let holders = queue.holders.iter().map(contending).collect();
    Ok(http::Contest { name, holders, waiters: queue.waiters.iter().map(contending).collect() })
}

fn away(error: CoordinationError) -> Refusal {
    tracing::warn!(error = bootstrap::chain(&error), "cannot read who holds and who waits");
    Refusal::new(ProblemCode::Unavailable, "the coordination is away; try again")
}
