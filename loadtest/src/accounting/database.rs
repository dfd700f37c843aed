//! What the record's PostgreSQL did between two moments.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::database::Database;

/// What it had done by one moment.
pub struct Reading {
    wal: i64,
    transactions: i64,
    /// By query id; `None` without `pg_stat_statements`.
    statements: Option<HashMap<i64, Statement>>,
}

/// What it did between two moments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    /// Bytes of the write-ahead log of the whole server.
    pub wal_bytes: u64,
    /// Transactions of its database, ended either way.
    pub transactions: u64,
    /// Statements of its database.
    pub statements: u64,
    /// How they were counted: `pg_stat_statements`, or `transactions` where that is not installed.
    pub counted_by: String,
    /// The costliest.
    pub by_statement: Vec<Statement>,
}

/// One statement, whatever its parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Statement {
    /// Its beginning, without comments, on one line.
    pub query: String,
    /// How often it ran.
    pub calls: u64,
    /// How long it ran in all.
    pub ms: f64,
    /// Rows it returned or changed.
    pub rows: u64,
    /// WAL it wrote.
    pub wal_bytes: u64,
}

const COUNTERS: &str = "select (pg_current_wal_lsn() - '0/0')::int8, (xact_commit + xact_rollback)::int8
    from pg_stat_database where datname = current_database()";
const STATEMENTS: &str = "select coalesce(queryid, 0), left(min(query), 4000), sum(calls)::int8, sum(total_exec_time)::float8,
        sum(rows)::int8, sum(wal_bytes)::int8
    from pg_stat_statements
    where dbid = (select oid from pg_database where datname = current_database()) and query not like '%pg_stat_%'
    group by queryid";

/// Reads it once.
pub async fn read(database: &Database) -> anyhow::Result<Reading> {
    let row = database.client.query_one(COUNTERS, &[]).await?;
    // The extension may not be there.
    let statements = database.client.query(STATEMENTS, &[]).await.ok().map(|rows| {
        let count = |value: i64| value.try_into().unwrap_or(0);
        let statement = |row: &tokio_postgres::Row| Statement {
            query: beginning(row.get(1)),
            calls: count(row.get(2)),
            ms: row.get(3),
            rows: count(row.get(4)),
            wal_bytes: count(row.get(5)),
        };
        rows.iter().map(|row| (row.get(0), statement(row))).collect()
    });
    Ok(Reading { wal: row.get(0), transactions: row.get(1), statements })
}

impl Reading {
    /// What it did since `before`, with the `most` costliest statements.
    pub fn since(&self, before: &Self, most: usize) -> Spent {
        let transactions = (self.transactions - before.transactions).try_into().unwrap_or(0);
        let mut by_statement: Vec<_> = self
            .statements
            .iter()
            .flatten()
            .filter_map(|(id, after)| {
                let none = Statement { calls: 0, ms: 0.0, rows: 0, wal_bytes: 0, ..after.clone() };
                let before = before.statements.as_ref()?.get(id).unwrap_or(&none);
                let calls = after.calls.checked_sub(before.calls).filter(|calls| *calls > 0)?;
                Some(Statement {
                    query: after.query.clone(),
                    calls,
                    ms: after.ms - before.ms,
                    rows: after.rows.saturating_sub(before.rows),
                    wal_bytes: after.wal_bytes.saturating_sub(before.wal_bytes),
                })
            })
            .collect();
        by_statement.sort_by(|one, two| two.ms.total_cmp(&one.ms));
        let calls = by_statement.iter().map(|statement| statement.calls).sum();
        by_statement.truncate(most);
        let has_statements = self.statements.is_some() && before.statements.is_some();
        Spent {
            wal_bytes: (self.wal - before.wal).try_into().unwrap_or(0),
            transactions,
            statements: if has_statements { calls } else { transactions },
            counted_by: if has_statements { "pg_stat_statements" } else { "transactions" }.to_owned(),
            by_statement,
        }
    }
}

/// The beginning of a statement. Ours begin with a comment that says what they do: of those that part is the best name.
fn beginning(query: &str) -> String {
    const LENGTH_MAX: usize = 200;
    let text = query.trim_start();
    let named = text.strip_prefix("--").and_then(|rest| rest.lines().next());
    let words = named.unwrap_or(text).split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().take(LENGTH_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_named_by_its_comment_or_its_words() {
        assert_eq!(beginning("-- Claims the chunk.\n-- More.\nselect 1"), "Claims the chunk.");
        assert_eq!(beginning("  select a,\n    b from c"), "select a, b from c");
    }
}
