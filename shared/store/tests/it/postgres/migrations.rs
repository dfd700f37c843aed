use store::StoreError;
use store::postgres::{Postgres, PostgresConfig, migrate};
use testkit::{fresh_name, servers};

use crate::contract::{OnPostgres, connect};

async fn refusal(config: &PostgresConfig) -> (i64, &'static str) {
    match Postgres::connect(config).await.err() {
        Some(StoreError::Schema { found, advice, .. }) => (found, advice),
        other => panic!("not refused for its schema but {other:?}"),
    }
}

#[tokio::test]
async fn an_empty_schema_is_refused_with_advice_and_migrated_once_by_many() {
    let schema = Some(fresh_name("empty"));
    let config = PostgresConfig { url: servers().postgres(), pool_max: 1, ca_file: None, schema };
    assert_eq!(refusal(&config).await, (0, "run `gantry migrate`"));
    let migrations = futures::future::join_all((0..4).map(|_| migrate(&config)));
    for migrated in migrations.await {
        migrated.unwrap();
    }
    migrate(&config).await.unwrap();
    Postgres::connect(&config).await.unwrap();
    let (client, _connection) = connect(&config).await;
    let applied = client.query_one("select count(*) from schema_migration", &[]).await.unwrap();
    assert_eq!(applied.get::<_, i64>(0), 3);
    client.batch_execute(&format!("drop schema {} cascade", config.schema.unwrap())).await.unwrap();
}

#[tokio::test]
async fn a_newer_or_changed_schema_is_refused() {
    let fixture = OnPostgres::new().await;
    let sql = "insert into schema_migration (version, checksum) values (999, '')";
    fixture.client.execute(sql, &[]).await.unwrap();
    let newer = "a newer Gantry has used this database: use that one";
    assert_eq!(refusal(&fixture.config).await, (999, newer));
    match migrate(&fixture.config).await {
        Err(StoreError::Schema { found: 999, advice, .. }) => assert_eq!(advice, newer),
        other => panic!("{other:?}"),
    }
    let sql =
        "delete from schema_migration where version = 999; update schema_migration set checksum = 'other'";
    fixture.client.batch_execute(sql).await.unwrap();
    assert!(matches!(migrate(&fixture.config).await, Err(StoreError::Schema { found: 1, .. })));
}

#[tokio::test]
async fn the_log_has_a_partition_for_each_day_an_id_may_be_of_and_no_default_one() {
    let fixture = OnPostgres::new().await;
    // The bounds of a day are those of the ids dated in it.
    let sql = "select count(*), min(bound), bool_or(bound = 'DEFAULT') from (
            select pg_get_expr(c.relpartbound, c.oid) as bound from pg_class c
            join pg_inherits i on i.inhrelid = c.oid where i.inhparent = 'log'::regclass) p";
    let row = fixture.client.query_one(sql, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, bool>(2)), (5, false));
    let first: &str = row.get(1);
    let sql = "select format('FOR VALUES FROM (%L) TO (%L)', execute_id_floor(day), execute_id_floor(day + '1 day'))
        from (select date_trunc('day', now() at time zone 'UTC') at time zone 'UTC' - interval '1 day' as day) d";
    let expected = fixture.client.query_one(sql, &[]).await.unwrap();
    assert_eq!(first, expected.get::<_, &str>(0));

    let floor = "select execute_id_floor(to_timestamp(1700000000.123))";
    let floor: uuid::Uuid = fixture.client.query_one(floor, &[]).await.unwrap().get(0);
    assert_eq!(floor, domain::ExecuteId::floor(1_700_000_000_123).as_uuid());
}

#[tokio::test]
async fn a_plan_that_a_migration_made_stale_is_made_anew() {
    let fixture = OnPostgres::with_pool(1).await;
    let record = &*fixture.record as &dyn store::Record;
    assert_eq!(record.list_nodes().await.unwrap(), []);
    fixture.client.batch_execute("alter table node alter column info type json").await.unwrap();
    assert_eq!(record.list_nodes().await.unwrap(), []);
}
