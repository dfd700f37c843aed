//! A report as Markdown.

use std::fmt::Write;

use super::text::ms;
use super::{Report, Run};
use crate::pace::Pace;

impl Report {
    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        let machine = &self.machine;
        let gib = machine.memory_bytes as f64 / (1_u64 << 30) as f64;
        let mut text = format!(
            "# {}\n\n{:.0}. {} cores ({}), {gib:.0} GiB, Linux {}.\n\n```sh\n{}\n```\n",
            self.title, self.at, machine.cores, machine.processor, machine.kernel, self.command
        );
        if let Some(curve) = &self.curve {
            let rows = curve.points.iter().map(|point| {
                vec![
                    format!("{} %", point.percent),
                    format!("{:.0}", point.offered_per_s),
                    format!("{:.0}", point.goodput_per_s),
                    format!("{:.1} %", point.shed * 100.0),
                    format!("{:.2}", ms(point.p50_us)),
                    format!("{:.2}", ms(point.p99_us)),
                ]
            });
            let _infallible = writeln!(text, "\n## Shares of a capacity of {:.0}/s\n", curve.capacity_per_s);
            table(&mut text, &["load", "offered/s", "goodput/s", "shed", "p50 ms", "p99 ms"], rows);
        }
        if let Some(peers) = &self.peers {
            let rows = peers.rows.iter().map(|row| {
                let pace = row.pace.unwrap_or_default();
                let times = |name| {
                    peers.ratio(row, name).map_or("-".to_owned(), |ratio| format!("{:.2}×", 1.0 / ratio))
                };
                vec![
                    row.name.clone(),
                    row.concurrency.to_string(),
                    format!("{:.0}", pace.per_s),
                    format!("{:.2}", ms(pace.p50_us)),
                    format!("{:.2}", ms(pace.p99_us)),
                    if row.has_durable_record { "yes" } else { "no" }.to_owned(),
                    times("gantry"),
                    row.setup.clone(),
                ]
            });
            text.push_str("\n## Other systems in the same run\n\n");
            let head = [
                "system",
                "callers",
                "/s",
                "p50 ms",
                "p99 ms",
                "durable record",
                "Gantry is",
                "configuration",
            ];
            table(&mut text, &head, rows);
            let _infallible = writeln!(text, "\nVersions: {}.", peers.versions.join(", "));
        }
        for run in &self.runs {
            run.markdown(&mut text);
        }
        text
    }
}

impl Run {
    fn markdown(&self, text: &mut String) {
        let (figures, latency) = (&self.figures, &self.figures.latency);
        let share =
            self.share.map_or(String::new(), |share| format!(", {:.1} % of the ceiling", share * 100.0));
        let _infallible = writeln!(
            text,
            "\n## {}\n\n{}: **{:.0}/s**{share}; p50 {:.2}, p99 {:.2}, p99.9 {:.2}, max {:.2} ms.\n\n\
             {} offered, {} accepted, {} succeeded, {} failed, {} refused, {} shed, {} retried; \
             {} lost, {} doubled, {} wrong, {} unresolved.",
            self.name,
            self.load,
            figures.throughput_per_s,
            ms(latency.p50),
            ms(latency.p99),
            ms(latency.p99_9),
            ms(latency.max),
            figures.offered,
            figures.accepted,
            figures.succeeded,
            figures.failed,
            figures.refused,
            figures.shed,
            figures.retried,
            figures.lost,
            figures.doubled,
            figures.wrong,
            figures.unresolved
        );
        if let Some(ceiling) = &self.ceiling {
            let rows = ceiling.parts().into_iter().filter_map(|(name, pace)| {
                let Pace { per_s, p50_us, p99_us, .. } = pace?;
                let share = 100.0 * figures.throughput_per_s / per_s;
                Some(vec![
                    name.to_owned(),
                    format!("{per_s:.0}"),
                    format!("{:.2}", ms(p50_us)),
                    format!("{:.2}", ms(p99_us)),
                    format!("{share:.1} %"),
                ])
            });
            text.push('\n');
            table(text, &["ceiling", "/s", "p50 ms", "p99 ms", "ours"], rows);
        }
        if !self.stages.is_empty() {
            let rows = self.stages.iter().map(|stage| {
                let (p50, p99) = (ms(stage.p50_us), ms(stage.p99_us));
                vec![stage.name.clone(), format!("{p50:.3}"), format!("{p99:.3}"), stage.what.clone()]
            });
            text.push('\n');
            table(text, &["stage", "p50 ms", "p99 ms", "from when until when"], rows);
        }
        if !self.accounting.processes.is_empty() {
            let rows = self.accounting.processes.iter().map(|process| {
                vec![
                    process.name.clone(),
                    format!("{:.2}", process.cpu_s),
                    format!("{:.1}", process.cpu_us_per_execution),
                    format!("{:.1}", process.memory_bytes as f64 / f64::from(1 << 20)),
                ]
            });
            text.push('\n');
            table(text, &["process", "CPU s", "CPU µs/execution", "MiB"], rows);
        }
        if let Some(database) = &self.accounting.database {
            let per = |value: u64| value as f64 / self.accounting.executions.max(1) as f64;
            let _infallible = writeln!(
                text,
                "\n{:.0} bytes of WAL, {:.3} statements ({}), {:.3} transactions per execution.",
                per(database.wal_bytes),
                per(database.statements),
                database.counted_by,
                per(database.transactions)
            );
        }
        for slo in &self.slos {
            let _infallible = writeln!(text, "\n- {slo}");
        }
    }
}

fn table(text: &mut String, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let _infallible = writeln!(text, "| {} |\n|{}", head.join(" | "), " --- |".repeat(head.len()));
    for row in rows {
        let cells: Vec<_> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        let _infallible = writeln!(text, "| {} |", cells.join(" | "));
    }
}
