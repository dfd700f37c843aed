//! The schema: its versions, how they are applied, and which one this program needs.

use domain::Digest;
use tokio_postgres::Client;

use super::alone::Alone;
use super::client::{Database, statement};
use super::config::PostgresConfig;
use super::fail;
use crate::StoreError;

struct Migration {
    version: i64,
    sql: &'static str,
}

/// `migrations/postgres`, in order.
const MIGRATIONS: [Migration; 3] = [
    Migration { version: 1, sql: include_str!("../../../../migrations/postgres/0001_first.sql") },
    Migration { version: 2, sql: include_str!("../../../../migrations/postgres/0002_coordination.sql") },
    Migration { version: 3, sql: include_str!("../../../../migrations/postgres/0003_log_store.sql") },
];

const NEEDED: i64 = MIGRATIONS[MIGRATIONS.len() - 1].version;

const OLDER: &str = "run `gantry migrate`";
const NEWER: &str = "a newer Gantry has used this database: use that one";
const CHANGED: &str = "a migration was changed after it had been applied: use the program that applied it";

/// Under which migrations of one schema keep each other out, together with the schema's own number.
const LOCK: i32 = 0x6761_6e74;
/// How far ahead the log's partitions are made, yesterday included.
const LOG_DAYS: i32 = 5;

/// Brings the schema up to date and makes the log's partitions for yesterday and the days to come.
///
/// Each migration is a transaction of its own; what is done stays done if a later one fails. Several may run at once:
/// they wait for each other.
///
/// # Errors
/// [`StoreError::Schema`] if a newer program has used the database, or what was applied is not what this program would
/// apply; any other if it cannot be reached or a statement fails.
pub async fn migrate(config: &PostgresConfig) -> Result<(), StoreError> {
    // They may take long, but do not wait long for a lock.
    let mut alone = Alone::connect(config, "-c lock_timeout=60s").await?;
    apply(&mut alone.client, config.schema.as_deref()).await
}

async fn apply(client: &mut Client, schema: Option<&str>) -> Result<(), StoreError> {
    let failed = |error| fail::statement("migrate", error);
    if let Some(schema) = schema {
        // Of two who make it at once, one may be told that it is there already.
        let sql = format!("create schema if not exists {schema}");
        if let Err(error) = client.batch_execute(&sql).await
            && error.code() != Some(&tokio_postgres::error::SqlState::UNIQUE_VIOLATION)
        {
            return Err(failed(error));
        }
    }
    let lock = "select pg_advisory_lock($1, hashtext(current_schema()))";
    client.query(lock, &[&LOCK]).await.map_err(failed)?;
    client.batch_execute(SCHEMA_MIGRATION).await.map_err(failed)?;
    let applied = applied(client).await?;
    for migration in &MIGRATIONS {
        let checksum = Digest::of(migration.sql.as_bytes()).to_string();
        match applied.iter().find(|(version, _)| *version == migration.version) {
            Some((_, known)) if *known == checksum => {}
            Some(_) => {
                return Err(StoreError::Schema { found: migration.version, needed: NEEDED, advice: CHANGED });
            }
            None => {
                let transaction = client.transaction().await.map_err(failed)?;
                transaction.batch_execute(migration.sql).await.map_err(failed)?;
                let record = "insert into schema_migration (version, checksum) values ($1, $2)";
                transaction.execute(record, &[&migration.version, &checksum]).await.map_err(failed)?;
                transaction.commit().await.map_err(failed)?;
                tracing::info!(version = migration.version, "migrated the database");
            }
        }
    }
    let partitions = statement!("make_log_partitions");
    client.query(partitions.sql, &[&LOG_DAYS]).await.map_err(failed)?;
    Ok(())
}

const SCHEMA_MIGRATION: &str = "create table if not exists schema_migration (
    version bigint primary key,
    checksum text not null,
    applied_at timestamptz not null default clock_timestamp()
)";

async fn applied(client: &Client) -> Result<Vec<(i64, String)>, StoreError> {
    let sql = "select version, checksum from schema_migration order by version";
    let rows = client.query(sql, &[]).await.map_err(|error| fail::statement("migrate", error))?;
    let applied: Vec<(i64, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    check(applied.last().map_or(0, |(version, _)| *version), false)?;
    Ok(applied)
}

/// Refuses a schema that is not the one this program was built for.
pub(super) async fn check_schema(database: &Database) -> Result<(), StoreError> {
    let rows = database.rows(&statement!("schema_exists"), &[]).await?;
    let found = match rows.first().map(|row| row.get(0)) {
        Some(true) => {
            let rows = database.rows(&statement!("schema_version"), &[]).await?;
            rows.first().map_or(0, |row| row.get(0))
        }
        Some(false) | None => 0,
    };
    check(found, true)
}

fn check(found: i64, refuse_older: bool) -> Result<(), StoreError> {
    if found > NEEDED {
        return Err(StoreError::Schema { found, needed: NEEDED, advice: NEWER });
    }
    if found < NEEDED && refuse_older {
        return Err(StoreError::Schema { found, needed: NEEDED, advice: OLDER });
    }
    Ok(())
}
