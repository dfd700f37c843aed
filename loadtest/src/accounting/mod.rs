//! What a run cost: CPU time and memory by process, statements and WAL of the record's database.

mod database;
mod discover;
mod processes;

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::cli::Servers;
use crate::database::Database;

pub use database::Spent;
use discover::Root;
pub use discover::listener;
pub use processes::own_cpu;

/// How many statements are kept, the costliest first.
const STATEMENTS_MAX: usize = 12;

/// What is read before and after.
pub struct Accountant {
    roots: Vec<Root>,
    database: Option<Database>,
}

/// What was read at one moment.
pub struct Reading {
    processes: Vec<processes::Reading>,
    database: Option<database::Reading>,
}

/// What a run cost.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Accounting {
    /// Executions that ended meanwhile.
    pub executions: u64,
    /// By process, the costliest first.
    pub processes: Vec<ProcessCost>,
    /// What the record's PostgreSQL did, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<Spent>,
}

/// What a process and its descendants cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProcessCost {
    /// Its name in `compose/local`; `gantry` for a `gantry dev`; `loadtest` for this one.
    pub name: String,
    /// CPU time, user and system.
    pub cpu_s: f64,
    /// The same for each execution.
    pub cpu_us_per_execution: f64,
    /// Its memory at the end, shared pages counted by share where the kernel tells.
    pub memory_bytes: u64,
}

impl Accountant {
    /// Finds the processes: those of `compose/local` in the run directory, else whoever listens where the gateways are said to
    /// be, and this one.
    pub async fn new(servers: &Servers, urls: &[String]) -> Self {
        let roots = discover::roots(servers, urls);
        let database = match &servers.postgres_url {
            Some(url) => Database::connect(url)
                .await
                .inspect_err(|error| eprintln!("loadtest: statements and WAL are not counted: {error:#}"))
                .ok(),
            None => None,
        };
        Self { roots, database }
    }

    /// Reads everything once.
    pub async fn read(&self) -> Reading {
        let database = match &self.database {
            Some(database) => database::read(database)
                .await
                .inspect_err(|error| eprintln!("loadtest: statements and WAL are not counted: {error:#}"))
                .ok(),
            None => None,
        };
        Reading { processes: processes::read(&self.roots), database }
    }
}

impl Accounting {
    /// The difference of two readings, `executions` apart.
    pub fn between(before: &Reading, after: &Reading, executions: u64) -> Self {
        let per = executions.max(1) as f64;
        let mut processes: Vec<_> = after
            .processes
            .iter()
            .filter_map(|after| {
                let before = before.processes.iter().find(|before| before.name == after.name)?;
                let cpu_s = (after.cpu.saturating_sub(before.cpu)).as_secs_f64();
                Some(ProcessCost {
                    name: after.name.clone(),
                    cpu_s,
                    cpu_us_per_execution: cpu_s * 1e6 / per,
                    memory_bytes: after.memory_bytes,
                })
            })
            .collect();
        processes.sort_by(|one, two| two.cpu_s.total_cmp(&one.cpu_s));
        let database = before.database.as_ref().zip(after.database.as_ref());
        Self {
            executions,
            processes,
            database: database.map(|(before, after)| after.since(before, STATEMENTS_MAX)),
        }
    }

    /// CPU time of all processes but this one, for each execution.
    pub fn cpu_us_per_execution(&self) -> f64 {
        let others = self.processes.iter().filter(|process| process.name != discover::OWN);
        others.map(|process| process.cpu_us_per_execution).sum()
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |words: std::fmt::Arguments<'_>| {
            let _infallible = writeln!(text, "  {words}");
        };
        line(format_args!("cost of {} executions", self.executions));
        for ProcessCost { name, cpu_s, cpu_us_per_execution, memory_bytes } in &self.processes {
            let memory = *memory_bytes as f64 / f64::from(1 << 20);
            line(format_args!(
                "  {name:<14}{cpu_s:>8.2} CPU s {cpu_us_per_execution:>9.1} µs/execution {memory:>9.1} MiB"
            ));
        }
        line(format_args!("  without loadtest           {:>9.1} µs/execution", self.cpu_us_per_execution()));
        if let Some(database) = &self.database {
            let per = |value: u64| value as f64 / self.executions.max(1) as f64;
            line(format_args!(
                "  {:.0} WAL bytes, {:.3} statements ({}) and {:.3} transactions per execution",
                per(database.wal_bytes),
                per(database.statements),
                database.counted_by,
                per(database.transactions)
            ));
            for statement in &database.by_statement {
                line(format_args!(
                    "    {:>8} calls {:>9.1} ms {:>9} rows  {:.70}",
                    statement.calls, statement.ms, statement.rows, statement.query
                ));
            }
        }
        text
    }
}
