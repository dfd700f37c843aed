//! A run for a terminal.

use std::fmt::Write;

use super::{Figures, Run};

impl Run {
    /// The run for people, ending with a line break.
    pub fn text(&self) -> String {
        let mut text = self.figures.text();
        for (name, figures) in &self.kinds {
            let latency = &figures.latency;
            let _infallible = writeln!(
                text,
                "  {name:<24}{:>9.1}/s   p50 {:.2}   p99 {:.2} ms   {} of {} succeeded",
                figures.throughput_per_s,
                ms(latency.p50),
                ms(latency.p99),
                figures.succeeded,
                figures.offered
            );
        }
        for (why, count) in &self.complaints {
            let _infallible = writeln!(text, "  {count} x {why}");
        }
        if !self.stages.is_empty() {
            text.push_str("  stage        p50 ms    p99 ms   mean ms\n");
        }
        for stage in &self.stages {
            let _infallible = writeln!(
                text,
                "    {:<8}{:>9.3}{:>10.3}{:>10.3}  {}",
                stage.name,
                ms(stage.p50_us),
                ms(stage.p99_us),
                stage.mean_us / 1e3,
                stage.what
            );
        }
        text.push_str(&self.accounting.text());
        if let Some(ceiling) = &self.ceiling {
            text.push_str("  the ceiling in this run\n");
            text.push_str(&ceiling.text(Some(self.figures.throughput_per_s)));
        }
        for slo in &self.slos {
            let _infallible = writeln!(text, "  {slo}");
        }
        text
    }
}

impl Figures {
    fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: u64, note: &str| {
            let _infallible = writeln!(text, "  {name:<11}{value:>9}  {note}");
        };
        let throughput = format!("{:.1}/s in the measured time", self.throughput_per_s);
        line("offered", self.offered, "");
        line("accepted", self.accepted, "");
        line("succeeded", self.succeeded, &throughput);
        line("failed", self.failed, "");
        line("retried", self.retried, "requests sent again under the same key or id");
        line("lost", self.lost, "accepted and never ended");
        line("doubled", self.doubled, "more than one id or end");
        let rescued = format!("took more than one attempt; of {} looked at", self.looked_at);
        for (name, value, note) in [
            ("refused", self.refused, "for good"),
            ("shed", self.shed, "turned away because there was too much"),
            ("unresolved", self.unresolved, "nobody knows whether they were accepted"),
            ("wrong", self.wrong, "answered with what is not in the record"),
            ("bad logs", self.bad_logs, "without their lines once and in order"),
        ] {
            if value > 0 {
                line(name, value, note);
            }
        }
        line("rescued", self.rescued, &rescued);
        let latency = &self.latency;
        let _infallible = writeln!(
            text,
            "  latency ms    p50 {:.2}   p90 {:.2}   p99 {:.2}   p99.9 {:.2}   max {:.2}",
            ms(latency.p50),
            ms(latency.p90),
            ms(latency.p99),
            ms(latency.p99_9),
            ms(latency.max)
        );
        text
    }
}

/// Microseconds as milliseconds.
pub fn ms(us: u64) -> f64 {
    us as f64 / 1e3
}
