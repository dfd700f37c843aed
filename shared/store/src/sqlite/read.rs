//! What is only read.

use domain::{Ending, ExecuteId, Payload, TenantId, limits};
use protocol::http::Execution;
use rusqlite::{Connection, Row, params};

use super::fail::Fail;
use super::row::{
    CONCLUSION, conclusion, find, id, id_bytes, list, maybe_time, parsed, payload, time, timeline, version,
};
use crate::{Conclusion, ExecutionFilter, ExecutionRow, LoggedLine};

const EXECUTION: &str = "select execute_id, model, version, queue, state, attempt, failures, node, accepted_at, \
     claimed_at, finished_at, deadline, not_before, cancel_requested, error_class, error, exit_code, signal, \
     last_log_id, timeline, tenant from execution";

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

fn execution(row: &Row<'_>) -> Result<ExecutionRow, Fail> {
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

pub(super) fn list_executions(
    c: &Connection,
    tenant: &TenantId,
    filter: &ExecutionFilter,
) -> Result<Vec<ExecutionRow>, Fail> {
    let sql = format!(
        "{EXECUTION} where tenant = ?1 and execute_id < ?2 and (?3 is null or model = ?3)
             and (?4 is null or state = ?4)
         order by execute_id desc limit ?5"
    );
    let by = params![
        tenant.as_str(),
        filter.before.map_or([0xff; 16], id_bytes),
        filter.model.as_ref().map(|model| model.as_str()),
        filter.state.map(|state| state.label()),
        filter.limit.min(limits::LIST_PAGE_MAX),
    ];
    list(c, &sql, by, execution)
}

const LOG: &str = "select log_id, attempt, level, at, line, continues from log";

fn logged_line(row: &Row<'_>) -> Result<LoggedLine, Fail> {
    Ok(LoggedLine {
        log_id: row.get(0)?,
        attempt: row.get(1)?,
        level: parsed(row, 2)?,
        at: time(row.get(3)?)?,
        line: row.get(4)?,
        continues: row.get(5)?,
    })
}

pub(super) fn list_log(
    c: &Connection,
    id: ExecuteId,
    after: i64,
    limit: u32,
) -> Result<Vec<LoggedLine>, Fail> {
    let sql = format!("{LOG} where execute_id = ?1 and log_id > ?2 order by log_id limit ?3");
    list(c, &sql, params![id_bytes(id), after, limit.min(limits::LOG_PAGE_MAX)], logged_line)
}

pub(super) fn list_log_tail(c: &Connection, id: ExecuteId, limit: u32) -> Result<Vec<LoggedLine>, Fail> {
    let sql = format!("{LOG} where execute_id = ?1 order by log_id desc limit ?2");
    let mut lines = list(c, &sql, params![id_bytes(id), limit.min(limits::LOG_PAGE_MAX)], logged_line)?;
    lines.reverse();
    Ok(lines)
}

pub(super) fn follow_logs(
    c: &Connection,
    followers: &[(ExecuteId, i64)],
    limit_each: u32,
) -> Result<Vec<(ExecuteId, LoggedLine)>, Fail> {
    let mut lines = Vec::new();
    for &(id, after) in followers {
        lines.extend(list_log(c, id, after, limit_each)?.into_iter().map(|line| (id, line)));
    }
    Ok(lines)
}
