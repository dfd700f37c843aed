//! The queues of locks and limits, what is asked of nodes, and what nodes have of bundles.

use std::time::Duration;

use domain::{Digest, NodeName, TenantId};
use protocol::NodeSettings;
use tokio_postgres::Row;
use uuid::Uuid;

use super::accept::{LOOKS, lost_every_race};
use super::client::{Database, statement};
use super::fail::corrupt;
use super::row::{Columns, columns, seconds};
use crate::{
    BundleChange, BundleRow, ContendedKind, Entered, NewContender, QueuedContender, Standing, StoreError,
};

pub(super) async fn enter(
    database: &Database,
    new: &NewContender,
    waiters_max: u32,
    lease: Duration,
) -> Result<Entered, StoreError> {
    let running_max = i64::from(new.running_max.min(i32::MAX.unsigned_abs()));
    for _ in 0..LOOKS {
        let rows = database
            .rows(
                &statement!("enter_queue"),
                &[
                    &new.ticket,
                    &new.tenant.as_str(),
                    &new.kind.label(),
                    &new.name,
                    &running_max,
                    &new.contender,
                    &i64::from(waiters_max),
                    &seconds(lease),
                ],
            )
            .await?;
        let Some(row) = rows.first().map(Columns) else { continue };
        return Ok(match row.get::<Option<i64>>("waiters")? {
            Some(waiters) => Entered::Full(count(waiters)),
            None => Entered::Stands(Standing {
                ticket: new.ticket,
                before: count(row.get("before")?),
                fence: row.get("fence")?,
            }),
        });
    }
    Err(lost_every_race("enter_queue"))
}

pub(super) async fn stand(
    database: &Database,
    tickets: &[Uuid],
    lease: Duration,
) -> Result<Vec<Standing>, StoreError> {
    let rows = database.rows(&statement!("stand_in_queues"), &[&tickets, &seconds(lease)]).await?;
    rows.iter().map(standing).collect()
}

fn standing(row: &Row) -> Result<Standing, StoreError> {
    let row = Columns(row);
    let before = count(row.get("before")?);
    Ok(Standing { ticket: row.get("ticket")?, before, fence: row.get("fence")? })
}

fn count(rows: i64) -> u32 {
    u32::try_from(rows).unwrap_or_default()
}

pub(super) async fn leave(database: &Database, tickets: &[Uuid]) -> Result<(), StoreError> {
    database.rows(&statement!("leave_queues"), &[&tickets]).await?;
    Ok(())
}

pub(super) async fn list(
    database: &Database,
    tenant: &TenantId,
    kind: ContendedKind,
    name: &str,
) -> Result<Vec<QueuedContender>, StoreError> {
    let parameters = (tenant.as_str(), kind.label(), name);
    let rows =
        database.rows(&statement!("list_contenders"), &[&parameters.0, &parameters.1, &parameters.2]).await?;
    let contender = |row: &Row| {
        let row = Columns(row);
        Ok(QueuedContender { contender: row.get("contender")?, fence: row.get("fence")? })
    };
    rows.iter().map(contender).collect()
}

pub(super) async fn list_contended(
    database: &Database,
    tenant: &TenantId,
    kind: ContendedKind,
) -> Result<Vec<String>, StoreError> {
    let rows = database.rows(&statement!("list_contended"), &[&tenant.as_str(), &kind.label()]).await?;
    rows.iter().map(|row| Columns(row).get("name")).collect()
}

pub(super) async fn highest_fence(database: &Database) -> Result<i64, StoreError> {
    let rows = database.rows(&statement!("highest_contention_fence"), &[]).await?;
    let row = rows.first().ok_or_else(|| corrupt("contention_fence", "no row"))?;
    Columns(row).get("fence")
}

pub(super) async fn set_node(
    database: &Database,
    node: &NodeName,
    settings: &NodeSettings,
) -> Result<(), StoreError> {
    if *settings == NodeSettings::default() {
        database.rows(&statement!("unset_node"), &[&node.as_str()]).await?;
    } else {
        let json = serde_json::to_value(settings).unwrap_or_default();
        database.rows(&statement!("set_node"), &[&node.as_str(), &json]).await?;
    }
    Ok(())
}

pub(super) async fn list_settings(database: &Database) -> Result<Vec<(NodeName, String)>, StoreError> {
    let rows = database.rows(&statement!("list_node_settings"), &[]).await?;
    let setting = |row: &Row| Ok((Columns(row).parsed("node")?, Columns(row).get("settings")?));
    rows.iter().map(setting).collect()
}

pub(super) async fn announce_bundles(
    database: &Database,
    announcer: Uuid,
    changes: &[BundleChange],
    lease: Duration,
) -> Result<bool, StoreError> {
    let (digests, nodes, states) = columns!(changes => |change|
        &change.digest.as_bytes()[..], change.node.as_str(), change.state.as_ref());
    let rows = database
        .rows(&statement!("announce_bundles"), &[&announcer, &seconds(lease), &digests, &nodes, &states])
        .await?;
    let row = rows.first().ok_or_else(|| corrupt("bundle_announcer", "no row"))?;
    Columns(row).get("is_known")
}

pub(super) async fn withdraw_bundles(database: &Database, announcer: Uuid) -> Result<(), StoreError> {
    database.rows(&statement!("withdraw_bundles"), &[&announcer]).await?;
    Ok(())
}

pub(super) async fn list_bundles(database: &Database) -> Result<Vec<BundleRow>, StoreError> {
    let rows = database.rows(&statement!("list_bundles"), &[]).await?;
    let bundle = |row: &Row| {
        let row = Columns(row);
        let digest =
            Digest::try_from(row.get::<&[u8]>("digest")?).map_err(|e| corrupt("bundle_notice", e))?;
        Ok(BundleRow { digest, node: row.parsed("node")?, state: row.get("state")? })
    };
    rows.iter().map(bundle).collect()
}
