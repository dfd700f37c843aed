use axum::Json;
use axum::extract::State;
use protocol::http;

use crate::gateway::Gateway;
use crate::problem::Refusal;
use crate::scaling::scaling;

/// How many nodes there should be
///
/// For each queue what waits, in executions and in seconds of work, and with how many nodes it would be worked off in
/// time. KEDA's `metrics-api` scaler reads it with `valueLocation: queues.default.desired_nodes`.
#[utoipa::path(get, path = "/v1/scaling", responses((status = 200, description = "By queue.", body = http::Scaling)))]
pub(crate) async fn get_scaling(State(gateway): State<Gateway>) -> Result<Json<http::Scaling>, Refusal> {
    Ok(Json(scaling(&gateway).await?))
}
