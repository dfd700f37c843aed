//! Reading executions.

use domain::{Ending, ExecuteId, NodeId, Payload, TenantId};
use protocol::http::Execution;
use tokio_postgres::Row;
use uuid::Uuid;

use super::client::{Database, statement};
use super::row::{Columns, conclusions};
use crate::{Conclusion, ExecutionRow, StoreError};

pub(super) fn execution(row: &Row) -> Result<ExecutionRow, StoreError> {
    let row = Columns(row);
    let execution = Execution {
        execute_id: row.execute_id()?,
        model: row.parsed("model")?,
        version: row.version()?,
        queue: row.get("queue")?,
        state: row.parsed("state")?,
        attempt: row.get("attempt")?,
        failures: row.get("failures")?,
        node: row.get("node")?,
        accepted_at: row.get("accepted_at")?,
        claimed_at: row.get("claimed_at")?,
        finished_at: row.get("finished_at")?,
        deadline: row.get("deadline")?,
        not_before: row.get("not_before")?,
        cancel_requested: row.get("cancel_requested")?,
        error_class: row.maybe("error_class")?,
        error: row.get("error")?,
        exit_code: row.get("exit_code")?,
        signal: row.get("signal")?,
        log_lines: row.get("last_log_id")?,
        timeline: row.json("timeline")?,
        attributes: row.attributes()?,
    };
    Ok(ExecutionRow { execution, tenant: row.parsed("tenant")? })
}

pub(super) async fn endings(database: &Database, ids: &[ExecuteId]) -> Result<Vec<Conclusion>, StoreError> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.as_uuid()).collect();
    conclusions(&database.rows(&statement!("endings"), &[&ids]).await?)
}

pub(super) async fn find_execution(
    database: &Database,
    tenant: &TenantId,
    execute_id: ExecuteId,
) -> Result<Option<ExecutionRow>, StoreError> {
    let of = (tenant.as_str(), execute_id.as_uuid());
    let rows = database.rows(&statement!("find_execution"), &[&of.0, &of.1]).await?;
    rows.first().map(execution).transpose()
}

pub(super) async fn find_ending(
    database: &Database,
    tenant: &TenantId,
    execute_id: ExecuteId,
) -> Result<Option<(i32, Ending)>, StoreError> {
    let of = (tenant.as_str(), execute_id.as_uuid());
    let rows = database.rows(&statement!("find_ending"), &[&of.0, &of.1]).await?;
    let Some(row) = rows.first().map(Columns) else { return Ok(None) };
    let attempt = row.get("attempt")?;
    Ok(row.ending()?.map(|ending| (attempt, ending)))
}

pub(super) async fn find_input(
    database: &Database,
    tenant: &TenantId,
    execute_id: ExecuteId,
) -> Result<Option<Payload>, StoreError> {
    let of = (tenant.as_str(), execute_id.as_uuid());
    let rows = database.rows(&statement!("find_input"), &[&of.0, &of.1]).await?;
    rows.first().map_or(Ok(None), |row| Columns(row).payload("input_type", "input"))
}

pub(super) async fn count_running(database: &Database) -> Result<Vec<(NodeId, u32)>, StoreError> {
    let rows = database.rows(&statement!("count_running"), &[]).await?;
    let counted = |row| {
        let row = Columns(row);
        let running: i32 = row.get("running")?;
        Ok((row.parsed("leased_by")?, running.unsigned_abs()))
    };
    rows.iter().map(counted).collect()
}

pub(super) async fn ping(database: &Database) -> Result<(), StoreError> {
    database.rows(&statement!("ping"), &[]).await?;
    Ok(())
}
