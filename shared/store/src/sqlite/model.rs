//! Models, their versions and aliases.

use domain::{AliasName, ModelName, TenantId, VersionNumber, VersionSelector};
use rusqlite::{Connection, Row, params};

use super::fail::Fail;
use super::row::{digest, find, list, maybe_time, parsed, run, time, value};
use crate::{AliasSet, ExpectedAlias, PushVersion, PushedVersion, SetAlias, VersionRow};

/// Aliases are names, so a comma cannot be part of one.
const VERSION: &str = "select model, version, digest, bytes, manifest, created_at, \
     (select group_concat(alias, ',' order by alias) from alias where alias.tenant = version.tenant \
         and alias.model = version.model and alias.version = version.version), wanted_at from version";

fn version_row(row: &Row<'_>) -> Result<VersionRow, Fail> {
    let manifest = row.get_ref(4)?.as_str().map_err(rusqlite::Error::from)?;
    let aliases: Option<String> = row.get(6)?;
    Ok(VersionRow {
        model: parsed(row, 0)?,
        version: VersionNumber(row.get(1)?),
        digest: digest(row, 2)?,
        bytes: row.get::<_, i64>(3)?.unsigned_abs(),
        manifest: serde_json::from_str(manifest).map_err(|error| Fail::corrupt("version", error))?,
        aliases: aliases.iter().flat_map(|text| text.split(',')).map(str::to_owned).collect(),
        created_at: time(row.get(5)?)?,
        wanted_at: maybe_time(row, 7)?,
    })
}

pub(super) fn push_version(c: &Connection, now: i64, push: &PushVersion) -> Result<PushedVersion, Fail> {
    let (tenant, model) = (push.tenant.as_str(), push.model.as_str());
    run(
        c,
        "insert into model (tenant, model, created_at) values (?1, ?2, ?3) on conflict do nothing",
        params![tenant, model, now],
    )?;
    let manifest = serde_json::to_string(&push.manifest).map_err(|error| Fail::corrupt("version", error))?;
    let created = run(
        c,
        "insert into version (tenant, model, version, digest, bytes, manifest, created_at)
         select ?1, ?2, coalesce(max(version), 0) + 1, ?3, ?4, ?5, ?6 from version
         where tenant = ?1 and model = ?2
         on conflict (tenant, model, digest) do nothing",
        params![
            tenant,
            model,
            push.digest.as_bytes(),
            i64::try_from(push.bytes).unwrap_or(i64::MAX),
            manifest,
            now
        ],
    )?;
    let sql = "select version from version where tenant = ?1 and model = ?2 and digest = ?3";
    let number = value::<i32>(c, sql, params![tenant, model, push.digest.as_bytes()])?
        .ok_or_else(|| Fail::corrupt("version", "a row that was just made is not there"))?;
    run(
        c,
        "insert into alias (tenant, model, alias, version) values (?1, ?2, ?3, ?4)
         on conflict do update set version = excluded.version",
        params![tenant, model, AliasName::latest().as_str(), number],
    )?;
    let selector = VersionSelector::Number(VersionNumber(number));
    let version = find_version(c, &push.tenant, &push.model, &selector)?
        .ok_or_else(|| Fail::corrupt("version", "a row that was just made is not there"))?;
    Ok(PushedVersion { version, created: created > 0 })
}

pub(super) fn find_version(
    c: &Connection,
    tenant: &TenantId,
    model: &ModelName,
    selector: &VersionSelector,
) -> Result<Option<VersionRow>, Fail> {
    let (number, alias) = match selector {
        VersionSelector::Number(number) => (Some(number.0), None),
        VersionSelector::Alias(alias) => (None, Some(alias.as_str())),
    };
    let sql = format!(
        "{VERSION} where tenant = ?1 and model = ?2 and version = coalesce(?3,
             (select version from alias where tenant = ?1 and model = ?2 and alias = ?4))"
    );
    find(c, &sql, params![tenant.as_str(), model.as_str(), number, alias], version_row)
}

pub(super) fn list_versions(
    c: &Connection,
    tenant: &TenantId,
    model: Option<&ModelName>,
) -> Result<Vec<VersionRow>, Fail> {
    let sql =
        format!("{VERSION} where tenant = ?1 and (?2 is null or model = ?2) order by model, version desc");
    list(c, &sql, params![tenant.as_str(), model.map(ModelName::as_str)], version_row)
}

pub(super) fn set_alias(c: &Connection, set: &SetAlias) -> Result<AliasSet, Fail> {
    let name = (set.tenant.as_str(), set.model.as_str(), set.alias.as_str());
    let sql = "select version from alias where tenant = ?1 and model = ?2 and alias = ?3";
    let was = value::<i32>(c, sql, name)?.map(VersionNumber);
    let is_expected = match set.expected {
        ExpectedAlias::Anything => true,
        ExpectedAlias::Nothing => was.is_none(),
        ExpectedAlias::Version(version) => was == Some(version),
    };
    if let Some(version) = set.version {
        let selector = VersionSelector::Number(version);
        if find_version(c, &set.tenant, &set.model, &selector)?.is_none() {
            return Ok(AliasSet::NoVersion);
        }
    }
    if !is_expected {
        return Ok(AliasSet::Differs { is: was });
    }
    match set.version {
        Some(version) => run(
            c,
            "insert into alias (tenant, model, alias, version) values (?1, ?2, ?3, ?4)
             on conflict do update set version = excluded.version",
            params![name.0, name.1, name.2, version.0],
        )?,
        None => run(c, "delete from alias where tenant = ?1 and model = ?2 and alias = ?3", name)?,
    };
    Ok(AliasSet::Set { was })
}

pub(super) fn list_aliases(
    c: &Connection,
    tenant: &TenantId,
    model: &ModelName,
) -> Result<Vec<(AliasName, VersionNumber)>, Fail> {
    let sql = "select alias, version from alias where tenant = ?1 and model = ?2 order by alias";
    let alias = |row: &Row<'_>| Ok((parsed(row, 0)?, VersionNumber(row.get(1)?)));
    list(c, sql, params![tenant.as_str(), model.as_str()], alias)
}

pub(super) fn want_version(
    c: &Connection,
    now: i64,
    tenant: &TenantId,
    model: &ModelName,
    version: VersionNumber,
) -> Result<(), Fail> {
    let sql = "update version set wanted_at = ?4 where tenant = ?1 and model = ?2 and version = ?3";
    run(c, sql, params![tenant.as_str(), model.as_str(), version.0, now]).map(drop)
}
