//! The routes. One file per resource: decode, call, encode.

mod aliases;
mod answer;
mod contests;
mod executions;
mod health;
mod logs;
mod models;
mod nodes;
mod scaling;
mod search;

use std::sync::LazyLock;

use axum::Router;
use axum::http::{HeaderName, Uri, header};
use protocol::{Problem, ProblemCode};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

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
        .routes(routes!(aliases::list_aliases))
        .routes(routes!(aliases::move_alias, aliases::delete_alias))
        .routes(routes!(aliases::get_readiness))
        .routes(routes!(executions::submit))
        .routes(routes!(executions::list_executions))
        .routes(routes!(executions::get_execution))
        .routes(routes!(executions::get_result))
        .routes(routes!(executions::cancel))
        .routes(routes!(logs::get_logs))
        .routes(routes!(search::search_logs))
        .routes(routes!(contests::explain_execution))
        .routes(routes!(contests::list_limits))
        .routes(routes!(contests::get_limit))
        .routes(routes!(contests::get_lock))
        .routes(routes!(nodes::list_nodes))
        .routes(routes!(nodes::get_node))
        .routes(routes!(nodes::set_node))
        .routes(routes!(nodes::drain_node))
        .routes(routes!(nodes::undrain_node))
        .routes(routes!(scaling::get_scaling))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .routes(routes!(openapi))
}

/// The document of all routes, as JSON.
pub(crate) fn document() -> String {
    routes().into_openapi().to_pretty_json().unwrap_or_default()
}

/// All routes.
pub(crate) fn router(gateway: Gateway) -> Router {
    let (router, _) = routes().split_for_parts();
    router
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .layer(CatchPanicLayer::custom(panicked))
        .with_state(gateway)
}

/// This document
#[utoipa::path(get, path = "/openapi.json", responses((status = 200, description = "OpenAPI 3.1.", body = Object)))]
async fn openapi() -> ([(HeaderName, &'static str); 1], &'static str) {
    static DOCUMENT: LazyLock<String> = LazyLock::new(document);
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str())
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
