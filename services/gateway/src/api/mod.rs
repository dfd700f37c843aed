//! The routes. One file per resource: decode, call, encode.

mod answer;
mod executions;
mod health;
mod logs;
mod models;
mod nodes;

use axum::Router;
use axum::http::Uri;
use axum::middleware;
use axum::routing::get;
use protocol::{Problem, ProblemCode};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access_log;
use crate::gateway::Gateway;
use crate::problem::Refusal;

/// What the document says beside the routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Gantry",
        description = "Hosts models and scripts and runs them on request. Every error is a problem (RFC 9457) with a stable `code`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(Problem))
)]
struct Document;

fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(models::push_version))
        .routes(routes!(models::list_models))
        .routes(routes!(models::get_model))
        .routes(routes!(executions::submit))
        .routes(routes!(executions::list_executions))
        .routes(routes!(executions::get_execution))
        .routes(routes!(executions::get_result))
        .routes(routes!(executions::cancel))
        .routes(routes!(logs::get_logs))
        .routes(routes!(nodes::list_nodes))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
}

/// The document of all routes, as JSON.
pub(crate) fn document() -> String {
    routes().into_openapi().to_pretty_json().unwrap_or_default()
}

/// All routes.
pub(crate) fn router(gateway: Gateway) -> Router {
    let (router, _) = routes().split_for_parts();
    router
        .route("/openapi.json", get(async || ([("content-type", "application/json")], document())))
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(access_log::log))
        .with_state(gateway)
}

async fn unknown_route(uri: Uri) -> Refusal {
    let detail = format!("there is no {}; /openapi.json lists what there is", uri.path());
    Refusal::new(ProblemCode::RouteNotFound, detail)
}

async fn unknown_method(uri: Uri) -> Refusal {
    let detail = format!("{} does not know this method; /openapi.json lists what there is", uri.path());
    Refusal::new(ProblemCode::MethodNotAllowed, detail)
}

/// A mistake of ours costs one answer, not the process.
fn panicked(_cause: Box<dyn std::any::Any + Send>) -> axum::response::Response {
    tracing::error!("a handler panicked");
    axum::response::IntoResponse::into_response(Refusal::new(
        ProblemCode::Internal,
        "this is a mistake of Gantry's",
    ))
}
