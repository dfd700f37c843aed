//! Pages of executions and of log lines. Each is one walk along an index that ends when the page is full, or when it has
//! looked at as much as one read may.

use domain::limits::{LIST_LOOK_MAX, LOG_LOOK_MAX, LOG_PAGE_MAX, SEARCH_EXECUTIONS_MAX};
use domain::{ExecuteId, State, TenantId};
use rusqlite::{Connection, Params, Row, params};

use super::fail::Fail;
use super::read::{EXECUTION, execution};
use super::row::{id, id_bytes, list, parsed, time};
use crate::{
    ExecutionFilter, ExecutionPage, LineFilter, LogFilter, LogSearch, LogSlice, LoggedLine, LogsFound,
};

/// Walks the rows of a query until `each` has had enough (`false`).
fn walk(
    c: &Connection,
    sql: &str,
    params: impl Params,
    mut each: impl FnMut(&Row<'_>) -> Result<bool, Fail>,
) -> Result<(), Fail> {
    let mut statement = c.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    while let Some(row) = rows.next()? {
        if !each(row)? {
            break;
        }
    }
    Ok(())
}

pub(super) fn list_executions(
    c: &Connection,
    tenant: &TenantId,
    filter: &ExecutionFilter,
) -> Result<ExecutionPage, Fail> {
    let is_bad = filter.error_class.is_some()
        || filter.state.is_some_and(|state| state.is_terminal() && state != State::Succeeded);
    // Those that ended without success have an index of their own: among many they are few. One attribute leads to all
    // that have it; whether they have the others too, their rows say.
    let attribute = filter.attributes.iter().next().map(|(key, value)| format!("{key}={value}"));
    let (table, key) = match (&attribute, is_bad) {
        (None, false) => ("execution where ?9 is null", "execute_id"),
        (None, true) => ("execution where ?9 is null and error_class is not null", "execute_id"),
        // (SQLite takes the tables of a cross join in this order.)
        (Some(_), _) => (
            "(select execute_id as id_of from execution_attribute where tenant = ?1 and attribute = ?9)
                 cross join execution on execute_id = id_of where true",
            "id_of",
        ),
    };
    let columns = EXECUTION.strip_suffix(" from execution").unwrap_or(EXECUTION);
    let sql = format!(
        "{columns}, ((?4 is null or model = ?4) and (?5 is null or state = ?5)
             and (?6 is null or substr(node, 1, instr(node, '@') - 1) = ?6) and (?7 is null or node = ?7)
             and (?8 is null or error_class = ?8)) is true as is_wanted
         from {table} and tenant = ?1 and {key} < ?2 and {key} >= ?3 order by {key} desc"
    );
    let by = params![
        tenant.as_str(),
        filter.before.map_or([0xff; 16], id_bytes),
        id_bytes(filter.from.unwrap_or(ExecuteId::floor(0))),
        filter.model.as_ref().map(|model| model.as_str()),
        filter.state.map(State::label),
        filter.node_name(),
        filter.node_life(),
        filter.error_class.map(|class| class.label()),
        attribute,
    ];
    let (mut executions, mut last, mut looked, mut is_cut) = (Vec::new(), None, 0, false);
    walk(c, &sql, by, |row| {
        // There is one more: the page ends before it.
        is_cut = executions.len() == filter.page_limit() || looked == LIST_LOOK_MAX;
        if is_cut {
            return Ok(false);
        }
        looked += 1;
        if row.get("is_wanted")? {
            let found = execution(row)?;
            if found.execution.attributes.contain(&filter.attributes) {
                executions.push(found);
            }
        }
        last = Some(id(row, 0)?);
        Ok(true)
    })?;
    Ok(ExecutionPage { executions, next: last.filter(|_| is_cut) })
}

const LINE: &str = "log_id, attempt, level, at, line, continues";

/// Is a line wanted? `?4` to `?7` are [`wanted`].
const WANTED: &str =
    "(instr(?4, level) > 0 and (?5 is null or instr(line, ?5) > 0) and (?6 is null or at >= ?6)
     and (?7 is null or at < ?7))";

fn wanted(filter: &LineFilter) -> (&'static str, Option<&str>, Option<i64>, Option<i64>) {
    let us = |at: jiff::Timestamp| at.as_microsecond();
    (filter.levels(), filter.text.as_deref(), filter.from.map(us), filter.to.map(us))
}

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

pub(super) fn list_log(c: &Connection, execute_id: ExecuteId, filter: &LogFilter) -> Result<LogSlice, Fail> {
    let order = if filter.from_end { "desc" } else { "asc" };
    let sql = format!(
        "select {LINE}, {WANTED} from log where execute_id = ?1 and log_id > ?2 and log_id < ?3
         order by log_id {order}"
    );
    let (levels, text, from, to) = wanted(&filter.lines);
    let by = params![id_bytes(execute_id), filter.after, filter.before_or_end(), levels, text, from, to];
    let (mut found, mut looked, mut is_cut) = (Vec::new(), 0, false);
    walk(c, &sql, by, |row| {
        looked += 1;
        is_cut = looked == LOG_LOOK_MAX;
        let is_wanted = row.get(6)?;
        if is_wanted || is_cut {
            found.push((logged_line(row)?, is_wanted));
        }
        Ok(!is_cut && found.len() <= filter.page_limit())
    })?;
    Ok(filter.slice(found, is_cut))
}

pub(super) fn search_logs(c: &Connection, tenant: &TenantId, search: &LogSearch) -> Result<LogsFound, Fail> {
    let (first, last) = search.range();
    let sql = "select execute_id, model = ?2, last_log_id from execution
         where tenant = ?1 and execute_id >= ?3 and execute_id < ?4 and execute_id <= ?5
         order by execute_id desc limit ?6";
    let end = |id: Option<ExecuteId>| id.map_or([0xff; 16], id_bytes);
    let by = params![
        tenant.as_str(),
        search.model.as_str(),
        id_bytes(first),
        end(search.before),
        end(last),
        SEARCH_EXECUTIONS_MAX,
    ];
    // Without an index by model, those of other models count among those that are looked at.
    let executions = list(c, sql, by, |row| {
        let lines = if row.get(1)? { row.get(2)? } else { 0 };
        Ok((id(row, 0)?, lines))
    })?;
    let spans = search.spans(&executions, SEARCH_EXECUTIONS_MAX);
    let sql = format!(
        "select {LINE} from log where execute_id = ?1 and log_id > ?2 and log_id <= ?3 and {WANTED}
         order by log_id limit ?8"
    );
    let (levels, text, from, to) = wanted(&search.lines);
    let mut lines = Vec::new();
    for span in &spans.list {
        let left = (search.page_limit() - lines.len()) as i64;
        let by = params![id_bytes(span.execute_id), span.after, span.upto, levels, text, from, to, left];
        lines.extend(list(c, &sql, by, logged_line)?.into_iter().map(|line| (span.execute_id, line)));
        if lines.len() >= search.page_limit() {
            break;
        }
    }
    Ok(search.found(lines, &spans))
}

pub(super) fn follow_logs(
    c: &Connection,
    followers: &[(ExecuteId, i64)],
    limit_each: u32,
) -> Result<Vec<(ExecuteId, LoggedLine)>, Fail> {
    let sql =
        format!("select {LINE} from log where execute_id = ?1 and log_id > ?2 order by log_id limit ?3");
    let mut lines = Vec::new();
    for &(id, after) in followers {
        let by = params![id_bytes(id), after, limit_each.min(LOG_PAGE_MAX)];
        lines.extend(list(c, &sql, by, logged_line)?.into_iter().map(|line| (id, line)));
    }
    Ok(lines)
}
