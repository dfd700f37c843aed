//! `gantry store status`: how the log lies on the disk.

use std::process::ExitCode;

use bootstrap::postgres_config;
use bootstrap::settings::{LogSettings, RecordBackend};
use store::LogStatus;
use store::sqlite::SqliteConfig;

use crate::cli;
use crate::client::{Terminal, screen};
use crate::configuration::Configuration;
use crate::service::refused;

/// Asks the database, and prints a row for each part of the log.
pub fn run(args: cli::StoreStatus) -> ExitCode {
    let settings = match Configuration::load(args.config.as_deref()) {
        Ok(loaded) => loaded.configuration.record,
        Err(error) => return refused(error),
    };
    bootstrap::run(&LogSettings::default(), move |shutdown| async move {
        let path = args.path.or((settings.backend == RecordBackend::Sqlite).then(|| settings.path.clone()));
        let parts = if let Some(path) = path {
            store::sqlite::log_status(&SqliteConfig { path })?
        } else {
            let config = postgres_config(&settings)?;
            tokio::select! {
                parts = store::postgres::log_status(&config, args.reads) => parts?,
                () = shutdown.draining() => anyhow::bail!("stopped"),
            }
        };
        let terminal = Terminal::detect();
        let told = if args.json { terminal.json(&parts) } else { terminal.write(table(&parts).as_bytes()) };
        told.map_err(|error| anyhow::anyhow!("{error}"))
    })
}

fn table(parts: &[LogStatus]) -> String {
    let row = |part: &LogStatus| {
        let number = |number: Option<f64>, digits| {
            number.map_or_else(|| "-".to_owned(), |number| format!("{number:.digits$}"))
        };
        [
            part.day.map_or_else(|| "all".to_owned(), |day| day.to_string()),
            if part.sealed_at.is_some() { "sealed" } else { "live" }.to_owned(),
            format!("{}{}", if part.is_estimate { "~" } else { "" }, part.lines),
            screen::bytes(part.bytes),
            number(part.bytes_per_line(), 0),
            number(part.correlation, 4),
            number(part.reads.map(|cost| cost.pages), 1),
            number(part.reads.map(|cost| cost.pages_min), 1),
        ]
    };
    let rows: Vec<_> = parts.iter().map(row).collect();
    screen::table(["DAY", "STATE", "LINES", "SIZE", "BYTES/LINE", "CORRELATION", "PAGES", "LEAST"], &rows)
}

#[cfg(test)]
mod tests {
    use store::ReadCost;

    use super::*;

    #[test]
    fn a_part_is_a_row() {
        let part = LogStatus {
            day: "2026-11-20".parse().ok(),
            sealed_at: Some(jiff::Timestamp::UNIX_EPOCH),
            lines: 1_000,
            is_estimate: true,
            bytes: 168_000,
            correlation: Some(1.0),
            reads: Some(ReadCost { reads: 20, lines: 100.0, pages: 6.25, pages_min: 5.0 }),
        };
        let empty = LogStatus {
            day: None,
            sealed_at: None,
            lines: 0,
            correlation: None,
            reads: None,
            ..part.clone()
        };
        let text = table(&[part, empty]);
        let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[1][..3], ["2026-11-20", "sealed", "~1000"]);
        assert_eq!(words[1][words[1].len() - 4..], ["168", "1.0000", "6.2", "5.0"]);
        assert_eq!(words[2][..2], ["all", "live"]);
        assert_eq!(words[2][words[2].len() - 4..], ["-", "-", "-", "-"]);
    }
}
