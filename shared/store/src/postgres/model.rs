//! Models and their versions.

use domain::{AliasName, Digest, ModelName, TenantId, VersionNumber, VersionSelector};
use futures::FutureExt;
use tokio_postgres::Row;

use super::client::{Database, statement};
use super::fail::corrupt;
use super::row::Columns;
use crate::{AliasSet, ExpectedAlias, PushVersion, PushedVersion, SetAlias, StoreError, VersionRow};

fn version(row: &Row) -> Result<VersionRow, StoreError> {
    let row = Columns(row);
    let bytes: i64 = row.get("bytes")?;
    Ok(VersionRow {
        model: row.parsed("model")?,
        version: VersionNumber(row.get("version")?),
        digest: Digest::try_from(row.get::<&[u8]>("digest")?).map_err(|error| corrupt("version", error))?,
        bytes: bytes.unsigned_abs(),
        manifest: row.json("manifest")?,
        aliases: row.get("aliases")?,
        created_at: row.get("created_at")?,
        wanted_at: row.get("wanted_at")?,
    })
}

pub(super) async fn push(database: &Database, push: &PushVersion) -> Result<PushedVersion, StoreError> {
    let (tenant, model) = (push.tenant.to_string(), push.model.to_string());
    let digest = push.digest.as_bytes().to_vec();
    let bytes = i64::try_from(push.bytes).unwrap_or(i64::MAX);
    let manifest = serde_json::to_value(&push.manifest).unwrap_or_default();
    // Two statements that wait for those who push to the same model, and one that sees what they pushed.
    let row = database
        .transaction("push_version", move |transaction| {
            async move {
                let make = transaction.prepare_cached(statement!("make_model").sql).await?;
                transaction.query(&make, &[&tenant, &model]).await?;
                let lock = transaction.prepare_cached(statement!("lock_model").sql).await?;
                transaction.query(&lock, &[&tenant, &model]).await?;
                let push = transaction.prepare_cached(statement!("push_version").sql).await?;
                transaction.query_one(&push, &[&tenant, &model, &digest, &bytes, &manifest]).await
            }
            .boxed()
        })
        .await?;
    Ok(PushedVersion { version: version(&row)?, created: Columns(&row).get("created")? })
}

pub(super) async fn find(
    database: &Database,
    tenant: &TenantId,
    model: &ModelName,
    selector: &VersionSelector,
) -> Result<Option<VersionRow>, StoreError> {
    let (tenant, model) = (tenant.as_str(), model.as_str());
    let rows = match selector {
        VersionSelector::Number(number) => {
            database.rows(&statement!("find_version_by_number"), &[&tenant, &model, &number.0]).await?
        }
        VersionSelector::Alias(alias) => {
            database.rows(&statement!("find_version_by_alias"), &[&tenant, &model, &alias.as_str()]).await?
        }
    };
    rows.first().map(version).transpose()
}

pub(super) async fn list(
    database: &Database,
    tenant: &TenantId,
    model: Option<&ModelName>,
) -> Result<Vec<VersionRow>, StoreError> {
    let model = model.map(ModelName::as_str);
    let rows = database.rows(&statement!("list_versions"), &[&tenant.as_str(), &model]).await?;
    rows.iter().map(version).collect()
}

pub(super) async fn set_alias(database: &Database, set: &SetAlias) -> Result<AliasSet, StoreError> {
    let (tenant, model) = (set.tenant.to_string(), set.model.to_string());
    let (alias, version) = (set.alias.to_string(), set.version.map(|version| version.0));
    let expected = match set.expected {
        ExpectedAlias::Anything => None,
        ExpectedAlias::Nothing => Some(0),
        ExpectedAlias::Version(version) => Some(version.0),
    };
    let row = database
        .transaction("set_alias", move |transaction| {
            async move {
                let lock = transaction.prepare_cached(statement!("lock_model").sql).await?;
                transaction.query(&lock, &[&tenant, &model]).await?;
                let set = transaction.prepare_cached(statement!("set_alias").sql).await?;
                transaction.query_one(&set, &[&tenant, &model, &alias, &version, &expected]).await
            }
            .boxed()
        })
        .await?;
    let row = Columns(&row);
    let points_at = row.version()?;
    Ok(if !row.get::<bool>("is_known")? {
        AliasSet::NoVersion
    } else if row.get("is_expected")? {
        AliasSet::Set { was: points_at }
    } else {
        AliasSet::Differs { is: points_at }
    })
}

pub(super) async fn list_aliases(
    database: &Database,
    tenant: &TenantId,
    model: &ModelName,
) -> Result<Vec<(AliasName, VersionNumber)>, StoreError> {
    let rows = database.rows(&statement!("list_aliases"), &[&tenant.as_str(), &model.as_str()]).await?;
    let alias = |row| Ok((Columns(row).parsed("alias")?, VersionNumber(Columns(row).get("version")?)));
    rows.iter().map(alias).collect()
}

pub(super) async fn want(
    database: &Database,
    tenant: &TenantId,
    model: &ModelName,
    version: VersionNumber,
) -> Result<(), StoreError> {
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
        [&tenant.as_str(), &model.as_str(), &version.0];
    database.rows(&statement!("want_version"), &parameters).await.map(drop)
}
