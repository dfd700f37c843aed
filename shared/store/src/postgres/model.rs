//! Models and their versions.

use domain::{Digest, ModelName, TenantId, VersionNumber, VersionSelector};
use futures::FutureExt;
use tokio_postgres::Row;

use super::client::{Database, statement};
use super::fail::corrupt;
use super::row::Columns;
use crate::{PushVersion, PushedVersion, StoreError, VersionRow};

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
