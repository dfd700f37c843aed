//! The fences of exclusive executions.

use domain::{ExecuteId, TenantId};

use super::client::{Database, statement};
use super::row::Columns;
use crate::{Fence, FenceTaken, StoreError};

/// The fences of a batch as arrays; empty ones if there is none in it, so that a batch without any costs nothing more.
#[derive(Default)]
pub(super) struct Fences<'a> {
    pub keys: Vec<Option<&'a str>>,
    pub generations: Vec<Option<i64>>,
    pub numbers: Vec<Option<i64>>,
}

impl<'a> Fences<'a> {
    pub fn of(batch: impl Iterator<Item = Option<&'a Fence>> + Clone) -> Self {
        if batch.clone().all(|fence| fence.is_none()) {
            return Self::default();
        }
        Self {
            keys: batch.clone().map(|fence| fence.map(|fence| fence.key.as_str())).collect(),
            generations: batch.clone().map(|fence| fence.map(|fence| fence.generation)).collect(),
            numbers: batch.map(|fence| fence.map(|fence| fence.number)).collect(),
        }
    }
}

pub(super) async fn take(
    database: &Database,
    tenant: &TenantId,
    fence: &Fence,
    execute_id: ExecuteId,
    attempt: i32,
) -> Result<FenceTaken, StoreError> {
    let rows = database
        .rows(
            &statement!("take_fence"),
            &[
                &tenant.as_str(),
                &fence.key.as_str(),
                &fence.generation,
                &fence.number,
                &execute_id.as_uuid(),
                &attempt,
            ],
        )
        .await?;
    let Some(row) = rows.first().map(Columns) else {
        return Ok(FenceTaken::TooOld { generation: fence.generation, number: fence.number });
    };
    if row.get("is_taken")? {
        return Ok(FenceTaken::Taken);
    }
    Ok(FenceTaken::TooOld { generation: row.get("generation")?, number: row.get("number")? })
}

pub(super) async fn highest(database: &Database) -> Result<Option<(i64, i64)>, StoreError> {
    let rows = database.rows(&statement!("highest_fence"), &[]).await?;
    let fence = |row| {
        let row = Columns(row);
        Ok((row.get("generation")?, row.get("number")?))
    };
    rows.first().map(fence).transpose()
}
