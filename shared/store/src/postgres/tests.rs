//! The plans of the reads: with tables as they are after a while, each walks an index and stops where it may.

use domain::limits::{LIST_LOOK_MAX, LOG_LOOK_MAX, LOG_PAGE_MAX};
use domain::{ErrorClass, ExecuteId, State};
use serde_json::Value;
use testkit::{fresh_name, servers};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

use super::client::{Statement, statement};
use super::list::{WAITING, listing};
use super::{PostgresConfig, migrate};
use crate::ExecutionFilter;

const EXECUTIONS: i64 = 30_000;
const LINES: i64 = 60_000;

/// Executions of one day, of which few are waiting, running or without success, and one long log.
const FILL: &str = "
    insert into execution (execute_id, tenant, model, queue, state, attempt, leased_by, leased_until, not_before, finished_at,
        error_class, error, input_digest, input_type, input, result_type, result, attributes)
    select (left(execute_id_floor(now() - n * interval '1 s')::text, 18) || '-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
        'default', 'model-' || n % 10, 'default', s.state, 1,
        case s.state when 'running' then 'one@1' end, case s.state when 'running' then now() end,
        case s.state when 'delayed' then now() end, case when s.state in ('succeeded', 'failed') then now() end,
        case s.state when 'failed' then 'script' end, case s.state when 'failed' then 'no' end,
        decode(repeat('00', 32), 'hex'), 'text/plain', '', case s.state when 'succeeded' then 'text/plain' end,
        case s.state when 'succeeded' then ''::bytea end, case when n % 100 = 0 then jsonb_build_object('run', '7') end
    from generate_series(1, 30000) n cross join lateral (select case
        when n % 50 = 1 then 'failed' when n % 5000 = 2 then 'running' when n % 5000 = 3 then 'queued'
        when n % 5000 = 4 then 'delayed' else 'succeeded' end as state) s;
    insert into log (execute_id, log_id, at, attempt, continues, level, line)
    select (select execute_id from execution order by execute_id desc limit 1), n, now(), 1, false, 'I', 'line ' || n from generate_series(1, 60000) n;
    insert into log (execute_id, log_id, at, attempt, continues, level, line)
    select execute_id, n, now(), 1, false, 'I', 'line ' || n
    from (select execute_id from execution order by execute_id desc offset 1 limit 50) e, generate_series(1, 100) n;
    analyze execution; analyze execution_attribute; analyze log;
    set plan_cache_mode = force_generic_plan; set enable_seqscan = off; set jit = off;";

struct Full {
    client: Client,
    schema: String,
    _connection: JoinHandle<()>,
}

impl Full {
    async fn new() -> Self {
        let schema = fresh_name("plans");
        let (url, schema_of) = (servers().postgres(), Some(schema.clone()));
        migrate(&PostgresConfig { url: url.clone(), pool_max: 1, ca_file: None, schema: schema_of })
            .await
            .unwrap();
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        let connection = tokio::runtime::Handle::current().spawn(async move { connection.await.unwrap() });
        client.batch_execute(&format!("set search_path = {schema}; {FILL}")).await.unwrap();
        Self { client, schema, _connection: connection }
    }

    /// The plan of `statement` as it ran with these arguments.
    async fn explain(&self, statement: &Statement, arguments: &str) -> Plan {
        let sql = format!("deallocate all; prepare p as {}", statement.sql);
        self.client.batch_execute(&sql).await.unwrap();
        let sql = format!("explain (analyze, buffers, timing off, format json) execute p({arguments})");
        let plans: Value = self.client.query_one(&sql, &[]).await.unwrap().get(0);
        Plan(plans[0]["Plan"].clone())
    }

    async fn drop(self) {
        self.client.batch_execute(&format!("drop schema {} cascade", self.schema)).await.unwrap();
    }
}

struct Plan(Value);

impl Plan {
    /// All its nodes that ran.
    fn nodes(&self) -> Vec<&Value> {
        let (mut nodes, mut next) = (Vec::new(), vec![&self.0]);
        while let Some(node) = next.pop() {
            if node["Actual Loops"].as_i64() != Some(0) {
                nodes.push(node);
            }
            next.extend(node["Plans"].as_array().into_iter().flatten());
        }
        nodes
    }

    fn pages(&self) -> i64 {
        ["Shared Hit Blocks", "Shared Read Blocks"].iter().filter_map(|key| self.0[key].as_i64()).sum()
    }

    /// The most rows that one of its scans has looked at.
    fn looked(&self) -> i64 {
        let rows = |node: &Value| {
            let number = |key: &str| node[key].as_f64().unwrap_or(0.0);
            ((number("Actual Rows") + number("Rows Removed by Filter")) * number("Actual Loops")) as i64
        };
        self.nodes().into_iter().filter(|node| node["Relation Name"].is_string()).map(rows).max().unwrap_or(0)
    }

    #[track_caller]
    fn walks_an_index(&self, what: &str) {
        for node in self.nodes() {
            let kind = node["Node Type"].as_str().unwrap();
            assert!(kind != "Seq Scan" && !kind.starts_with("Bitmap"), "{what}: {kind} in {}", self.0);
        }
    }

    #[track_caller]
    fn uses(&self, index: &str, what: &str) {
        let is_used = self.nodes().iter().any(|node| node["Index Name"] == index);
        assert!(is_used, "{what} does not use {index}: {}", self.0);
    }
}

#[tokio::test]
async fn no_list_of_executions_looks_at_more_than_it_may() {
    let full = Full::new().await;
    let any = ExecutionFilter { limit: 50, ..ExecutionFilter::default() };
    let state = |state| ExecutionFilter { state: Some(state), ..any.clone() };
    let class = ExecutionFilter { error_class: Some(ErrorClass::Script), ..any.clone() };
    let of_model = |filter| ExecutionFilter { model: Some("model-1".parse().unwrap()), ..filter };
    let few = 100;
    for (filter, index, most) in [
        (any.clone(), "execution_pkey", few),
        (state(State::Succeeded), "execution_pkey", few),
        (of_model(any.clone()), "execution_model", few),
        (state(State::Failed), "execution_failed_state", few),
        (state(State::Dead), "execution_failed_state", few),
        (class.clone(), "execution_failed_class", few),
        (of_model(class), "execution_failed_model", few),
        (of_model(state(State::Failed)), "execution_failed_model", few),
        (
            ExecutionFilter { attributes: "run=7".parse().unwrap(), ..any.clone() },
            "execution_attribute_pkey",
            few,
        ),
        // What no index knows is looked for as far as one read may look.
        (
            ExecutionFilter { node: Some(crate::OfNode::Named("none".parse().unwrap())), ..any.clone() },
            "execution_pkey",
            i64::from(LIST_LOOK_MAX),
        ),
    ] {
        let text = |text: Option<String>| text.map_or_else(|| "null".to_owned(), |text| format!("'{text}'"));
        let arguments = format!(
            "'default', null, '{}', 51, {LIST_LOOK_MAX}, {}, {}, {}, null, {}, null, {}",
            ExecuteId::floor(0),
            text(filter.model.as_ref().map(ToString::to_string)),
            text(filter.state.map(|state| state.to_string())),
            text(filter.node_name().map(str::to_owned)),
            text(filter.error_class.map(|class| class.to_string())),
            text((!filter.attributes.is_empty()).then(|| "{\"run\": \"7\"}".to_owned())),
        );
        let plan = full.explain(&listing(&filter), &arguments).await;
        let what = format!("{filter:?}");
        plan.walks_an_index(&what);
        plan.uses(index, &what);
        assert!(plan.looked() <= most + 1, "{what}: {}", plan.0);
    }
    assert!(i64::from(LIST_LOOK_MAX) < EXECUTIONS / 2);
    for (state, index) in [
        ("queued", "execution_undispatched"),
        ("delayed", "execution_delayed"),
        ("running", "execution_running"),
    ] {
        let plan = full.explain(&statement!("list_waiting"), &format!("'{state}', {LIST_LOOK_MAX}")).await;
        plan.walks_an_index(state);
        plan.uses(index, state);
        assert!(plan.pages() < 50, "{}", plan.0);
    }
    let one: uuid::Uuid =
        full.client.query_one("select execute_id from execution limit 1", &[]).await.unwrap().get(0);
    let arguments = format!(
        "'default', null, '{}', 51, {LIST_LOOK_MAX}, null, 'queued', null, null, null, '{{{one}}}', null",
        ExecuteId::floor(0)
    );
    let plan = full.explain(&WAITING, &arguments).await;
    plan.walks_an_index("waiting");
    full.drop().await;
}

#[tokio::test]
async fn no_page_of_a_log_and_no_search_looks_at_more_than_it_may() {
    let full = Full::new().await;
    let long: uuid::Uuid = full
        .client
        .query_one("select execute_id from execution order by execute_id desc limit 1", &[])
        .await
        .unwrap()
        .get(0);
    let end = i64::MAX;
    for (statement, arguments, pages) in [
        (statement!("list_log"), format!("'{long}', 30000, {end}, 101"), 8),
        (statement!("list_log"), format!("'{long}', 0, {end}, {}", LOG_PAGE_MAX + 1), 30),
        (statement!("list_log_tail"), format!("'{long}', 0, {end}, 101"), 8),
        (statement!("list_log_tail"), format!("'{long}', 0, 30000, 101"), 8),
        (
            statement!("filter_log"),
            format!("'{long}', 0, {end}, 101, {LOG_LOOK_MAX}, 'DIWE', 'none', null, null"),
            450,
        ),
        (
            statement!("filter_log_tail"),
            format!("'{long}', 0, {end}, 101, {LOG_LOOK_MAX}, 'E', null, null, null"),
            450,
        ),
    ] {
        let plan = full.explain(&statement, &arguments).await;
        let what = format!("{} ({arguments})", statement.name);
        plan.walks_an_index(&what);
        assert!(plan.pages() <= pages, "{what} touches {} pages: {}", plan.pages(), plan.0);
        assert!(plan.looked() <= i64::from(LOG_LOOK_MAX) + 1, "{what}: {}", plan.0);
    }
    assert!(i64::from(LOG_LOOK_MAX) < LINES / 2);
    let arguments = format!("'default', 'model-1', '{}', null, null, 1000", ExecuteId::floor(0));
    let plan = full.explain(&statement!("list_logged"), &arguments).await;
    plan.walks_an_index("list_logged");
    plan.uses("execution_model", "list_logged");
    let sql = "select array_agg(execute_id)::text
         from (select execute_id from execution order by execute_id desc offset 1 limit 50) e";
    let ids: String = full.client.query_one(sql, &[]).await.unwrap().get(0);
    let arguments = format!(
        "'{ids}', array_fill(0::int8, array[50]), array_fill(100::int8, array[50]), 100, 'DIWE', 'none', null, null"
    );
    let plan = full.explain(&statement!("search_logs"), &arguments).await;
    plan.walks_an_index("search_logs");
    assert!(plan.looked() <= 5_000, "{}", plan.0);
    full.drop().await;
}
