use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use coordination::{Link, VersionNotice};
use domain::{AliasName, ModelName, VersionNumber, VersionSelector};
use protocol::http::VersionReadiness;
use protocol::{Problem, ProblemCode, http};
use serde::Deserialize;
use store::{AliasSet, ExpectedAlias, SetAlias, VersionRow};

use super::executions::parameters;
use crate::admission::{self, Collected, Segment, Segments};
use crate::gateway::Gateway;
use crate::problem::Refusal;
use crate::readiness::{explain, readiness};

/// The longest body of a move.
const BODY_BYTES_MAX: usize = 4 << 10;
/// How many versions are looked at if none is named, beside those that aliases point at.
const VERSIONS_MAX: usize = 10;

/// List aliases
#[utoipa::path(
    get,
    path = "/v1/models/{model}/aliases",
    params(("model" = String, Path, description = "The model.")),
    responses(
        (status = 200, description = "Its aliases, by name.", body = http::AliasList),
        (status = 404, description = "There is no such model.", body = Problem, content_type = "application/problem+json")
    )
)]
pub(crate) async fn list_aliases(
    State(gateway): State<Gateway>,
    Segment(model): Segment,
) -> Result<Json<http::AliasList>, Refusal> {
    let model: ModelName = admission::name(&model)?;
    let aliases = gateway.ports.record.list_aliases(&gateway.tenant, &model).await?;
    if aliases.is_empty() {
        // A model has `latest` from its first version on.
        return Err(no_model(&model));
    }
    let aliases = aliases.into_iter().map(|(alias, version)| http::Alias { alias, version }).collect();
    Ok(Json(http::AliasList { model, aliases }))
}

/// Move an alias
///
/// Makes the alias if it is new. It moves only when enough of the nodes that serve the model's queue have the version;
/// until then the answer is `not_ready`, the nodes fetch the version however old it is, and repeating moves the alias
/// once they have it. With no such node there is nothing to wait for, and it moves.
#[utoipa::path(
    put,
    path = "/v1/models/{model}/aliases/{alias}",
    params(("model" = String, Path, description = "The model."), ("alias" = String, Path, description = "The alias.")),
    request_body = http::MoveAlias,
    responses(
        (status = 200, description = "It points there now.", body = http::MovedAlias),
        (status = 409, description = "`not_ready`: too few nodes have the version. `alias_differs`: it points at another version than was expected.", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such version.", body = Problem, content_type = "application/problem+json")
    )
)]
pub(crate) async fn move_alias(
    State(gateway): State<Gateway>,
    Segments(model, alias): Segments,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<http::MovedAlias>, Refusal> {
    let model: ModelName = admission::name(&model)?;
    let alias: AliasName = alias_name(&alias)?;
    let Collected { bytes, room: _room } =
        admission::read(&gateway.bodies, &headers, body, BODY_BYTES_MAX, ProblemCode::TooLarge)
            .await?
            .unless_empty("the body is empty; send {\"version\": N}")?;
    let Json(wanted): Json<http::MoveAlias> =
        Json::from_bytes(&bytes).map_err(|error| Refusal::new(ProblemCode::JsonSyntax, error.body_text()))?;
    let selector = VersionSelector::Number(wanted.version);
    let found = gateway.ports.record.find_version(&gateway.tenant, &model, &selector).await?;
    let row = found.ok_or_else(|| no_version(&model, &selector))?;
    if !wanted.force {
        check_ready(&gateway, &row).await?;
    }
    let set = SetAlias {
        tenant: gateway.tenant.clone(),
        model: model.clone(),
        alias: alias.clone(),
        version: Some(wanted.version),
        expected: match wanted.expected {
            None => ExpectedAlias::Anything,
            Some(0) => ExpectedAlias::Nothing,
            Some(number) => ExpectedAlias::Version(VersionNumber(i32::try_from(number).unwrap_or(i32::MAX))),
        },
    };
    let answer = gateway.ports.record.set_alias(&set).await;
    gateway.versions.forget(&model);
    match answer? {
        AliasSet::Set { was } => Ok(Json(http::MovedAlias { alias, version: wanted.version, was })),
        AliasSet::NoVersion => Err(no_version(&model, &selector)),
        AliasSet::Differs { is } => {
            let points_at = is.map_or_else(
                || "there is no such alias".to_owned(),
                |is| format!("it points at version {is}"),
            );
            let detail = format!("{alias} of {model} was not moved: {points_at}");
            Err(Refusal::new(ProblemCode::AliasDiffers, detail))
        }
    }
}

/// Take an alias away
#[utoipa::path(
    delete,
    path = "/v1/models/{model}/aliases/{alias}",
    params(("model" = String, Path, description = "The model."), ("alias" = String, Path, description = "The alias; not `latest`.")),
    responses(
        (status = 204, description = "There is no such alias any more."),
        (status = 404, description = "There was none.", body = Problem, content_type = "application/problem+json")
    )
)]
pub(crate) async fn delete_alias(
    State(gateway): State<Gateway>,
    Segments(model, alias): Segments,
) -> Result<StatusCode, Refusal> {
    let model: ModelName = admission::name(&model)?;
    let alias: AliasName = alias_name(&alias)?;
    if alias == AliasName::latest() {
        let detail = "latest cannot be taken away: every model has it; move it to another version";
        return Err(Refusal::new(ProblemCode::Parameter, detail));
    }
    let set = SetAlias {
        tenant: gateway.tenant.clone(),
        model: model.clone(),
        alias: alias.clone(),
        version: None,
        expected: ExpectedAlias::Anything,
    };
    let answer = gateway.ports.record.set_alias(&set).await;
    gateway.versions.forget(&model);
    match answer? {
        AliasSet::Set { was: Some(_) } => Ok(StatusCode::NO_CONTENT),
        AliasSet::Set { was: None } | AliasSet::Differs { .. } | AliasSet::NoVersion => {
            Err(no_version(&model, &VersionSelector::Alias(alias)))
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Which {
    version: Option<String>,
}

/// Show readiness
///
/// Which of the nodes that serve the model's queue have which version, with the bytes that are there.
#[utoipa::path(
    get,
    path = "/v1/models/{model}/readiness",
    params(
        ("model" = String, Path, description = "The model."),
        ("version" = Option<String>, Query, description = "A version's number or an alias; otherwise the youngest ten and those that aliases point at.")
    ),
    responses(
        (status = 200, description = "By version and node.", body = http::Readiness),
        (status = 404, description = "There is no such model or version.", body = Problem, content_type = "application/problem+json")
    )
)]
pub(crate) async fn get_readiness(
    State(gateway): State<Gateway>,
    Segment(model): Segment,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<http::Readiness>, Refusal> {
    let model: ModelName = admission::name(&model)?;
    let which = parameters(which)?;
    let record = &gateway.ports.record;
    let rows = match which.version {
        Some(text) => {
            let selector: VersionSelector = admission::name(&text)?;
            let found = record.find_version(&gateway.tenant, &model, &selector).await?;
            vec![found.ok_or_else(|| no_version(&model, &selector))?]
        }
        None => {
            let mut rows = record.list_versions(&gateway.tenant, Some(&model)).await?;
            let mut rank = 0..;
            rows.retain(|row| rank.next().is_some_and(|n| n < VERSIONS_MAX) || !row.aliases.is_empty());
            rows
        }
    };
    if rows.is_empty() {
        return Err(no_model(&model));
    }
    let ready_percent_min = gateway.config.ready_percent_min;
    let versions = rows.iter().map(|row| of(&gateway, row)).collect();
    Ok(Json(http::Readiness { model, ready_percent_min, versions }))
}

fn of(gateway: &Gateway, row: &VersionRow) -> VersionReadiness {
    let (nodes, bundles) = (gateway.nodes.borrow().clone(), gateway.bundles.borrow().clone());
    readiness(row, &nodes, &bundles, gateway.config.ready_percent_min)
}

/// Are enough nodes ready for an alias to move to `row`? If not, they are told to get ready.
async fn check_ready(gateway: &Gateway, row: &VersionRow) -> Result<(), Refusal> {
    if *gateway.link.borrow() == Link::Down {
        let detail = "which nodes are ready is not known now; try again, or force the move";
        return Err(Refusal::new(ProblemCode::Unavailable, detail));
    }
    let found = of(gateway, row);
    if found.is_ready {
        return Ok(());
    }
    gateway.ports.record.want_version(&gateway.tenant, &row.model, row.version).await?;
    let notice = VersionNotice { model: row.model.clone(), version: row.version, digest: row.digest };
    if let Err(error) = gateway.ports.coordination.publish_version(&notice).await {
        tracing::warn!(error = bootstrap::chain(&error), "nodes hear later that a version is wanted");
    }
    let why = explain(&found, gateway.config.ready_percent_min);
    Err(Refusal::new(ProblemCode::NotReady, format!("{why}; repeat later, or force the move")))
}

/// A name that cannot be taken for a version's number.
fn alias_name(text: &str) -> Result<AliasName, Refusal> {
    if text.parse::<i64>().is_ok() {
        let detail = format!("{text:?}: an alias is no number, which would name a version");
        return Err(Refusal::new(ProblemCode::Name, detail));
    }
    admission::name(text)
}

fn no_model(model: &ModelName) -> Refusal {
    Refusal::new(ProblemCode::ModelNotFound, format!("there is no model {model}"))
}

fn no_version(model: &ModelName, selector: &VersionSelector) -> Refusal {
    Refusal::new(ProblemCode::VersionNotFound, format!("model {model} has no version {selector}"))
}
