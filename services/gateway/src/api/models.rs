use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use coordination::VersionNotice;
use domain::limits::BUNDLE_BYTES_MAX;
use domain::{Digest, ModelName};
use protocol::{Problem, ProblemCode, http};
use store::{PushVersion, PushedVersion, VersionRow};
use tokio::sync::oneshot;

use crate::admission::{self, Collected, Segment};
use crate::gateway::Gateway;
use crate::problem::Refusal;

/// The media types a bundle may come as. Which of the two formats it is, its first bytes say.
const BUNDLE_TYPES: [&str; 5] = [
    "application/gzip",
    "application/x-gzip",
    "application/zip",
    "application/x-tar+gzip",
    "application/octet-stream",
];

/// Push a version
///
/// The body is the bundle: a gzipped tar or a zip with `gantry.toml` at its root. The model is made if it is new, and
/// `latest` moves to the version. Pushing a bundle the model has already is that version.
#[utoipa::path(
    post,
    path = "/v1/models/{model}/versions",
    params(("model" = String, Path, description = "The model.")),
    request_body(description = "At most 64 MiB.", content(("application/gzip"), ("application/zip"), ("application/octet-stream"))),
    responses(
        (status = 201, description = "A new version.", body = http::Version),
        (status = 200, description = "The model had this bundle already.", body = http::Version),
        (status = "4XX", description = "The bundle is refused; nothing was stored.", body = Problem, content_type = "application/problem+json")
    )
)]
pub(crate) async fn push_version(
    State(gateway): State<Gateway>,
    Segment(model): Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let model: ModelName = admission::name(&model)?;
    let content_type = admission::header_text(&headers, header::CONTENT_TYPE.as_str())?;
    let media_type = content_type.and_then(|given| given.split(';').next()).map(str::trim);
    if !media_type.is_some_and(|given| BUNDLE_TYPES.contains(&given)) {
        let detail = format!(
            "Content-Type is one of {}, not {}",
            BUNDLE_TYPES.join(", "),
            content_type.unwrap_or("absent")
        );
        return Err(Refusal::new(ProblemCode::MediaType, detail));
    }
    gateway.health.admit()?;
    let limit = BUNDLE_BYTES_MAX;
    let Collected { bytes, room } =
        admission::read(&gateway.bodies, &headers, body, limit, ProblemCode::BundleSize)
            .await?
            .unless_empty("the body is empty; send the bundle")?;
    let (done, outcome) = oneshot::channel();
    let worker = gateway.clone();
    // A caller that hangs up leaves a whole version or none.
    gateway.tasks.spawn(async move {
        drop(done.send(push(&worker, model, bytes).await));
        drop(room);
    });
    let broken = || Refusal::new(ProblemCode::Internal, "the push was broken off; push again");
    let pushed = outcome.await.map_err(|_| broken())??;
    let status = if pushed.created { StatusCode::CREATED } else { StatusCode::OK };
    let location = HeaderValue::from_str(&format!("/v1/models/{}", pushed.version.model)).ok();
    let mut response = (status, Json(version(pushed.version))).into_response();
    response.headers_mut().extend(location.map(|location| (header::LOCATION, location)));
    Ok(response)
}

async fn push(gateway: &Gateway, model: ModelName, bundle: Bytes) -> Result<PushedVersion, Refusal> {
    let bytes = bundle.clone();
    let broken = || Refusal::new(ProblemCode::Internal, "the bundle broke its inspection");
    let turn = gateway.inspections.acquire().await.map_err(|_| broken())?;
    let inspected = tokio::task::spawn_blocking(move || {
        let manifest = artifacts::bundle::inspect(&bytes)?;
        Ok::<_, artifacts::bundle::BundleError>((manifest, Digest::of(&bytes)))
    });
    let inspected = inspected.await.map_err(|_| broken())?;
    drop(turn);
    let (manifest, digest) =
        inspected.map_err(|error| Refusal::new(error.code(), bootstrap::chain(&error)))?;
    let size = bundle.len() as u64;
    if let Err(error) = gateway.ports.artifacts.put(digest, bundle).await {
        tracing::warn!(error = bootstrap::chain(&error), "cannot store a bundle");
        return Err(Refusal::new(
            ProblemCode::Unavailable,
            "the artifact store is away; nothing was stored; try again",
        ));
    }
    let push =
        PushVersion { tenant: gateway.tenant.clone(), model: model.clone(), digest, bytes: size, manifest };
    let pushed = gateway.ports.record.push_version(&push).await?;
    gateway.versions.forget(&model);
    let notice = VersionNotice { model, version: pushed.version.version, digest };
    if let Err(error) = gateway.ports.coordination.publish_version(&notice).await {
        tracing::warn!(error = bootstrap::chain(&error), "nodes hear of a version only when it is first run");
    }
    Ok(pushed)
}

fn version(row: VersionRow) -> http::Version {
    http::Version {
        model: row.model,
        version: row.version,
        digest: row.digest.to_string(),
        bytes: row.bytes,
        aliases: row.aliases,
        manifest: row.manifest,
        created_at: row.created_at,
    }
}

/// List models
#[utoipa::path(get, path = "/v1/models", responses((status = 200, description = "All of them, by name.", body = http::ModelList)))]
pub(crate) async fn list_models(State(gateway): State<Gateway>) -> Result<Json<http::ModelList>, Refusal> {
    let rows = gateway.ports.record.list_versions(&gateway.tenant, None).await?;
    Ok(Json(http::ModelList { models: by_model(rows) }))
}

/// Show a model
#[utoipa::path(
    get,
    path = "/v1/models/{model}",
    params(("model" = String, Path, description = "The model.")),
    responses(
        (status = 200, description = "Its versions.", body = http::Model),
        (status = 404, description = "There is none.", body = Problem, content_type = "application/problem+json")
    )
)]
pub(crate) async fn get_model(
    State(gateway): State<Gateway>,
    Segment(model): Segment,
) -> Result<Json<http::Model>, Refusal> {
    let model: ModelName = admission::name(&model)?;
    let rows = gateway.ports.record.list_versions(&gateway.tenant, Some(&model)).await?;
    let found = by_model(rows).pop();
    found
        .map(Json)
        .ok_or_else(|| Refusal::new(ProblemCode::ModelNotFound, format!("there is no model {model}")))
}

/// Rows come by model, and then the youngest first.
fn by_model(rows: Vec<VersionRow>) -> Vec<http::Model> {
    let mut models: Vec<http::Model> = Vec::new();
    for row in rows {
        match models.last_mut() {
            Some(last) if last.model == row.model => last.versions.push(version(row)),
            _ => models.push(http::Model { model: row.model.clone(), versions: vec![version(row)] }),
        }
    }
    models
}
