//! The comparison for people.

use std::fmt::Write;

use super::{Comparison, PeerRow};
use crate::pace::Pace;

impl PeerRow {
    /// One line of what was measured.
    pub fn text(&self) -> String {
        let (name, concurrency) = (&self.name, self.concurrency);
        match self.pace {
            Some(Pace { per_s, p50_us, p99_us, .. }) => {
                let (p50, p99) = (p50_us as f64 / 1e3, p99_us as f64 / 1e3);
                format!(
                    "  {name:<16}{concurrency:>5} callers {per_s:>9.0}/s   p50 {p50:>8.2}   p99 {p99:>8.2} ms"
                )
            }
            None => format!("  {name:<16}{concurrency:>5} callers    failed"),
        }
    }
}

impl Comparison {
    /// The throughput of `row` as a multiple of that of `other` at the same concurrency.
    pub fn ratio(&self, row: &PeerRow, other: &str) -> Option<f64> {
        let same = |known: &&PeerRow| known.name == other && known.concurrency == row.concurrency;
        let other = self.rows.iter().find(same)?.pace?;
        Some(row.pace?.per_s / other.per_s)
    }

    /// All of it, ending with a line break.
    pub fn text(&self) -> String {
        let mut text =
            String::from("\n  throughput as a multiple of it: Gantry over HTTP, Gantry over AMQP\n");
        for row in &self.rows {
            let multiple = |name| {
                self.ratio(row, name).map_or("      -".to_owned(), |ratio| format!("{:>6.2}×", 1.0 / ratio))
            };
            let durable = if row.has_durable_record { "durable" } else { "not durable" };
            let _infallible = writeln!(
                text,
                "{}  {} {}  {durable:<12} {}",
                row.text(),
                multiple("gantry"),
                multiple("gantry-amqp"),
                row.setup
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_of_the_same_number_of_callers() {
        let row = |name: &str, concurrency, per_s| PeerRow {
            name: name.to_owned(),
            setup: String::new(),
            has_durable_record: false,
            concurrency,
            pace: Some(Pace { per_s, ..Pace::default() }),
        };
        let rows = vec![row("celery-solo", 64, 500.0), row("gantry", 256, 1.0), row("gantry", 64, 2_500.0)];
        let comparison = Comparison { versions: Vec::new(), rows };
        assert_eq!(comparison.ratio(&comparison.rows[0], "gantry"), Some(0.2));
        assert_eq!(comparison.ratio(&comparison.rows[0], "gantry-amqp"), None);
        assert!(comparison.text().contains("5.00×"), "{}", comparison.text());
    }
}
