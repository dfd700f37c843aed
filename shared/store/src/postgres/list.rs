//! The list of executions: whatever the filter, an indexed read of a bounded part of the table.
//!
//! There is an index for each way in which few executions differ from the rest, and none that a successful execution would
//! pay for: of those that ended without success by model, state and error class; what runs; what waits. Everything else is
//! looked for in the order of ids, among all or among those of a model, as far as one read may look.

use domain::limits::LIST_LOOK_MAX;
use domain::{ExecuteId, State, TenantId};
use tokio_postgres::Row;
use uuid::Uuid;

use super::client::{Database, Statement, statement};
use super::read::execution;
use super::row::Columns;
use crate::{ExecutionFilter, ExecutionPage, StoreError};

/// `list_executions`, looking at what stands in `$table`.
macro_rules! listing {
    ($name:literal, $table:literal) => {
        Statement {
            name: $name,
            sql: concat!(
                include_str!("sql/list_executions.sql"),
                "    from execution e where ",
                $table,
                "\n",
                include_str!("sql/list_executions_rest.sql")
            ),
        }
    };
}

const ALL: Statement = listing!("list_executions", "$11::uuid[] is null");
const OF_MODEL: Statement =
    listing!("list_executions_of_model", "$11::uuid[] is null and e.model = $6::text");
const RUNNING: Statement = listing!("list_executions_running", "$11::uuid[] is null and e.state = 'running'");
const WAITING: Statement = listing!("list_executions_waiting", "e.execute_id = any($11::uuid[])");
const ENDED_BADLY: Statement = listing!(
    "list_executions_in_state",
    "$11::uuid[] is null and e.state = $7::text and e.error_class is not null"
);
const ENDED_BADLY_OF_MODEL: Statement = listing!(
    "list_executions_of_model_without_success",
    "$11::uuid[] is null and e.model = $6::text and e.error_class is not null"
);
const OF_CLASS: Statement = listing!(
    "list_executions_of_class",
    "$11::uuid[] is null and e.error_class = $10::text and e.error_class is not null"
);

fn ends_badly(state: State) -> bool {
    state.is_terminal() && state != State::Succeeded
}

/// Where to look, if it is not among what waits.
fn listing(filter: &ExecutionFilter) -> Statement {
    let is_bad = filter.error_class.is_some() || filter.state.is_some_and(ends_badly);
    match (&filter.model, filter.state) {
        (_, Some(State::Running)) => RUNNING,
        (Some(_), _) if is_bad => ENDED_BADLY_OF_MODEL,
        (None, _) if filter.error_class.is_some() => OF_CLASS,
        (None, _) if is_bad => ENDED_BADLY,
        (Some(_), _) => OF_MODEL,
        (None, _) => ALL,
    }
}

pub(super) async fn list_executions(
    database: &Database,
    tenant: &TenantId,
    filter: &ExecutionFilter,
) -> Result<ExecutionPage, StoreError> {
    let waiting = match filter.state {
        Some(state @ (State::Queued | State::Delayed)) => list_waiting(database, state).await?,
        _ => None,
    };
    let statement = if waiting.is_some() { WAITING } else { listing(filter) };
    let (limit, node, life) = (filter.page_limit(), filter.node_name(), filter.node_life());
    let rows = database
        .rows(
            &statement,
            &[
                &tenant.as_str(),
                &filter.before.map(ExecuteId::as_uuid),
                &filter.from.unwrap_or(ExecuteId::floor(0)).as_uuid(),
                &(limit as i64 + 1),
                &i64::from(LIST_LOOK_MAX),
                &filter.model.as_ref().map(|model| model.as_str()),
                &filter.state.map(State::label),
                &node,
                &life,
                &filter.error_class.map(|class| class.label()),
                &waiting,
            ],
        )
        .await?;
    page(&rows, limit)
}

/// Everything in a state that waits, unless that is more than one read may look at: then it is looked for among all.
async fn list_waiting(database: &Database, state: State) -> Result<Option<Vec<Uuid>>, StoreError> {
    let most = i64::from(LIST_LOOK_MAX);
    let rows = database.rows(&statement!("list_waiting"), &[&state.label(), &most]).await?;
    if rows.len() >= LIST_LOOK_MAX as usize {
        return Ok(None);
    }
    rows.iter().map(|row| Columns(row).get("execute_id")).collect::<Result<_, _>>().map(Some)
}

fn page(rows: &[Row], limit: usize) -> Result<ExecutionPage, StoreError> {
    let is_full = rows.len() > limit;
    let rows = &rows[..rows.len().min(limit)];
    let mut page = ExecutionPage { executions: Vec::with_capacity(rows.len()), next: None };
    for row in rows {
        let row = Columns(row);
        if is_full || row.get("is_cut")? {
            page.next = Some(row.execute_id()?);
        }
        if row.get("is_wanted")? {
            page.executions.push(execution(row.0)?);
        }
    }
    Ok(page)
}
