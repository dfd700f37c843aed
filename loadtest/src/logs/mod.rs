//! How fast log lines are written and read, and how they lie on the disk.
//!
//! Both work in a schema of their own on the PostgreSQL of `compose/test --up` (or `--postgres`), which is dropped afterwards.
//! `write` (`write.rs`) compares the record's writer with a bare COPY of the same rows in the same run; `read` (`read.rs`) makes
//! days of log lines, lets the record itself seal them, and measures reads and the drop of a day.

mod database;
mod days;
mod lines;
mod pause;
mod read;
mod write;

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::Value;

/// Writes and reads log lines straight at the record, and compares with what the database can do
#[derive(Debug, Clone, Args)]
pub struct Logs {
    /// What is measured.
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, Subcommand)]
enum What {
    /// Lines per second through the record's writer, as a share of a bare COPY of the same rows
    Write(write::Write),
    /// Pages and time per read of sealed and live days, and the drop of a day
    Read(read::Read),
}

/// Which database, and where the figures go.
#[derive(Debug, Clone, Args)]
struct Place {
    /// The database [env: GANTRY_TEST_POSTGRES]
    #[arg(long, env = "GANTRY_TEST_POSTGRES", hide_env = true, hide_env_values = true)]
    postgres: String,
    /// How long a line is, in characters
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(30..=1_000))]
    chars: u32,
    /// Also write the figures to FILE as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Place {
    fn keep(&self, figures: &Value) -> anyhow::Result<()> {
        let Some(file) = &self.json else { return Ok(()) };
        std::fs::write(file, format!("{figures:#}\n")).with_context(|| format!("write {}", file.display()))
    }
}

/// Measures, prints the figures, and says that nothing was lost.
///
/// # Errors
/// The database cannot be reached or refuses something.
pub async fn run(args: Logs) -> anyhow::Result<bool> {
    match args.what {
        What::Write(args) => write::run(args).await,
        What::Read(args) => read::run(args).await,
    }
}
