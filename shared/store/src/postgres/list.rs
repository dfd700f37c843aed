//! The list of executions: whatever the filter, an indexed read of a bounded part of the table.
//!
//! There is an index for each way in which few executions differ from the rest, and none that a successful execution would
//! pay for: of those that ended without success by model, state and error class; what runs; what waits. Everything else is
//! looked for in the order of ids, among all or among those of a model, as far as one read may look.
//!
//! A plan is made once, maybe for empty tables, and must hold for full ones. So where an index is meant, the statement asks for
//! an order that only this index has: `order by model, execute_id` without saying that there is but one model, and the bounds as
//! comparisons of rows. (An equality would let the primary key seem as good, and a rare model would be looked for through the
//! whole table; `lower` tells the partial index by model from the other one.)

use domain::limits::LIST_LOOK_MAX;
use domain::{ExecuteId, State, TenantId};
use tokio_postgres::Row;
use uuid::Uuid;

use super::client::{Database, Statement, statement};
use super::read::execution;
use super::row::{Columns, attributes_json};
use crate::{ExecutionFilter, ExecutionPage, StoreError};

/// `list_executions`, walking over `$table` in `$order`.
macro_rules! listing {
    ($name:literal, $order:literal, $table:literal) => {
        Statement {
            name: $name,
            sql: concat!(
                include_str!("sql/list_executions.sql"),
                $order,
                ") as place\n    from ",
                $table,
                "\n",
                include_str!("sql/list_executions_page.sql"),
                $order,
                "\n",
                include_str!("sql/list_executions_rest.sql")
            ),
        }
    };
}

const ALL: Statement = listing!("list_executions", "e.execute_id desc", "execution e where true");
const OF_MODEL: Statement = listing!(
    "list_executions_of_model",
    "e.model desc, e.execute_id desc",
    "execution e where (e.model, e.execute_id) >= ($6::text, $3::uuid)
        and (e.model, e.execute_id) < ($6::text, coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))"
);
const ENDED_BADLY: Statement = listing!(
    "list_executions_in_state",
    "e.state desc, e.execute_id desc",
    "execution e where e.error_class is not null and (e.state, e.execute_id) >= ($7::text, $3::uuid)
        and (e.state, e.execute_id) < ($7::text, coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))"
);
const ENDED_BADLY_OF_MODEL: Statement = listing!(
    "list_executions_of_model_without_success",
    "lower(e.model) desc, e.execute_id desc",
    "execution e where e.error_class is not null and (lower(e.model), e.execute_id) >= ($6::text, $3::uuid)
        and (lower(e.model), e.execute_id) < ($6::text, coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))"
);
const OF_CLASS: Statement = listing!(
    "list_executions_of_class",
    "e.error_class desc, e.execute_id desc",
    "execution e where e.error_class is not null and (e.error_class, e.execute_id) >= ($10::text, $3::uuid)
        and (e.error_class, e.execute_id) < ($10::text, coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))"
);
const WITH_ATTRIBUTE: Statement = listing!(
    "list_executions_with_attribute",
    "e.execute_id desc",
    "(select a.execute_id, x.tenant, x.model, x.state, x.node, x.error_class, x.attributes
        from (
            select execute_id from execution_attribute
            where tenant = $1::text and execute_id >= $3::uuid
                and execute_id < coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
                and attribute = (select key || '=' || value from jsonb_each_text($12::jsonb) limit 1)
            order by execute_id desc limit $5::int8
        ) a cross join lateral (select * from execution where execution.execute_id = a.execute_id offset 0) x
        order by a.execute_id desc) e where true"
);
/// Looks at certain executions.
pub(super) const WAITING: Statement = listing!(
    "list_executions_waiting",
    "e.execute_id desc",
    "(select x.execute_id, x.tenant, x.model, x.state, x.node, x.error_class, x.attributes
        from unnest($11::uuid[]) u (execute_id)
            cross join lateral (select * from execution where execution.execute_id = u.execute_id offset 0) x
        order by x.execute_id desc) e where true"
);

fn ends_badly(state: State) -> bool {
    state.is_terminal() && state != State::Succeeded
}

/// Where to look, if it is not among what waits.
pub(super) fn listing(filter: &ExecutionFilter) -> Statement {
    let is_bad = filter.error_class.is_some() || filter.state.is_some_and(ends_badly);
    match (&filter.model, filter.state) {
        _ if !filter.attributes.is_empty() => WITH_ATTRIBUTE,
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
        Some(state @ (State::Queued | State::Delayed | State::Running)) if filter.attributes.is_empty() => {
            list_waiting(database, state).await?
        }
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
                &attributes_json(&filter.attributes),
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
