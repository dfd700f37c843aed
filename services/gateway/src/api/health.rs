use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use coordination::Link;
use serde::Serialize;
use utoipa::ToSchema;

use crate::gateway::Gateway;

/// Is it alive?
#[utoipa::path(get, path = "/healthz", responses((status = 200, description = "It is.", body = String)))]
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// What can be done now.
#[derive(Serialize, ToSchema)]
pub(crate) struct Readiness {
    /// `ready`; `degraded`: executions are accepted, and something waits for a server that is away; `draining`;
    /// `unavailable`: nothing can be accepted.
    status: &'static str,
    /// `up` or `away`, as the following.
    record: &'static str,
    /// Away: what is accepted is dispatched when it is back.
    broker: &'static str,
    /// Away: the view of the nodes may be old.
    coordination: &'static str,
    /// Away: versions cannot be pushed.
    artifacts: &'static str,
}

/// Would an execution be accepted now?
#[utoipa::path(
    get,
    path = "/readyz",
    responses((status = 200, description = "It would.", body = Readiness), (status = 503, description = "It would not.", body = Readiness))
)]
pub(crate) async fn readyz(State(gateway): State<Gateway>) -> (StatusCode, Json<Readiness>) {
    let word = |is_up| if is_up { "up" } else { "away" };
    let record = gateway.health.is_record_up();
    let broker = gateway.ports.broker.is_ready();
    let coordination = *gateway.ports.coordination.link().borrow() == Link::Up;
    let artifacts = gateway.health.are_artifacts_up();
    let (code, status) = match (record, gateway.shutdown.is_draining()) {
        (_, true) => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        (true, false) if broker && coordination && artifacts => (StatusCode::OK, "ready"),
        (true, false) => (StatusCode::OK, "degraded"),
    };
    let readiness = Readiness {
        status,
        record: word(record),
        broker: word(broker),
        coordination: word(coordination),
        artifacts: word(artifacts),
    };
    (code, Json(readiness))
}

/// Metrics in Prometheus' text format
#[utoipa::path(get, path = "/metrics", responses((status = 200, description = "Every metric of this process.", body = String)))]
pub(crate) async fn metrics() -> String {
    bootstrap::metrics_text()
}
