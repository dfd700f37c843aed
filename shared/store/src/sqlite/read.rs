//! What is only read.

use domain::{Ending, ExecuteId, Payload, TenantId};
use protocol::http::Execution;
use rusqlite::{Connection, Row, params};

use super::fail::Fail;
use super::row::{
    CONCLUSION, attributes, conclusion, find, id, id_bytes, maybe_time, parsed, payload, time, timeline,
    version,
};
use crate::{Conclusion, ExecutionRow};

pub(super) const EXECUTION: &str = "select execute_id, model, version, queue, state, attempt, failures, node, accepted_at, \
     claimed_at, finished_at, deadline, not_before, cancel_requested, error_class, error, exit_code, signal, \
     last_log_id, timeline, tenant, attributes from execution";

pub(super) fn endings(c: &Connection, ids: &[ExecuteId]) -> Result<Vec<Conclusion>, Fail> {
    let sql = format!("select {CONCLUSION} where execute_id = ?1 and finished_at is not null");
    ids.iter().filter_map(|id| find(c, &sql, [id_bytes(*id)], conclusion).transpose()).collect()
}

pub(super) fn find_execution(
    c: &Connection,
    tenant: &TenantId,
    id: ExecuteId,
) -> Result<Option<ExecutionRow>, Fail> {
    let sql = format!("{EXECUTION} where execute_id = ?1 and tenant = ?2");
    find(c, &sql, params![id_bytes(id), tenant.as_str()], execution)
}

pub(super) fn execution(row: &Row<'_>) -> Result<ExecutionRow, Fail> {
    let text = row.get_ref(19)?.as_str().map_err(rusqlite::Error::from)?;
    let error_class = match row.get_ref(14)?.as_str_or_null().map_err(rusqlite::Error::from)? {
        Some(_) => Some(parsed(row, 14)?),
        None => None,
    };
    let execution = Execution {
        execute_id: id(row, 0)?,
        model: parsed(row, 1)?,
        version: version(row, 2)?,
        queue: row.get(3)?,
        state: parsed(row, 4)?,
        attempt: row.get(5)?,
        failures: row.get(6)?,
        node: row.get(7)?,
        accepted_at: time(row.get(8)?)?,
        claimed_at: maybe_time(row, 9)?,
        finished_at: maybe_time(row, 10)?,
        deadline: maybe_time(row, 11)?,
        not_before: maybe_time(row, 12)?,
        cancel_requested: row.get(13)?,
        error_class,
        error: row.get(15)?,
        exit_code: row.get(16)?,
        signal: row.get(17)?,
        log_lines: row.get(18)?,
        timeline: timeline(text)?,
        attributes: attributes(row, 21)?,
    };
    Ok(ExecutionRow { execution, tenant: parsed(row, 20)? })
}

pub(super) fn find_ending(
    c: &Connection,
    tenant: &TenantId,
    id: ExecuteId,
) -> Result<Option<(i32, Ending)>, Fail> {
    let sql =
        format!("select {CONCLUSION} where execute_id = ?1 and tenant = ?2 and finished_at is not null");
    let found = find(c, &sql, params![id_bytes(id), tenant.as_str()], conclusion)?;
    Ok(found.and_then(|found| Some((found.attempt, found.ending?))))
}

pub(super) fn find_input(c: &Connection, tenant: &TenantId, id: ExecuteId) -> Result<Option<Payload>, Fail> {
    let sql = "select content_type, bytes from execution_input join execution using (id)
         where execute_id = ?1 and tenant = ?2";
    let found = find(c, sql, params![id_bytes(id), tenant.as_str()], |row| payload(row, 0, 1))?;
    Ok(found.flatten())
}
