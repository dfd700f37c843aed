//! What is seen while a load runs: one line that is drawn again and again on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use crate::tally::Series;

/// Says on standard error how a load goes.
pub struct View {
    start: Instant,
    end: Instant,
    is_terminal: bool,
    shown_at: Instant,
    shown_succeeded: u64,
    is_drawn: bool,
}

impl View {
    /// A load from `start` to `end`.
    pub fn new(start: Instant, end: Instant) -> Self {
        let is_terminal = stderr().is_terminal();
        Self { start, end, is_terminal, shown_at: start, shown_succeeded: 0, is_drawn: false }
    }

    /// How often it is to be shown.
    pub fn period(&self) -> Duration {
        if self.is_terminal { Duration::from_millis(250) } else { Duration::from_secs(5) }
    }

    /// Shows how it goes, with `open` calls in flight.
    pub fn show(&mut self, series: &Series, open: usize) {
        let now = Instant::now();
        if now.duration_since(self.shown_at) < self.period() / 2 {
            return;
        }
        let line = self.line(series, open, now);
        self.shown_at = now;
        self.shown_succeeded = series.succeeded;
        // Nobody may be looking.
        let _unseen = if self.is_terminal {
            self.is_drawn = true;
            write!(stderr(), "\r\x1b[2K{line}").and_then(|()| stderr().flush())
        } else {
            writeln!(stderr(), "{line}")
        };
    }

    /// Leaves an empty line behind.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.is_drawn) {
            let _unseen = write!(stderr(), "\r\x1b[2K");
        }
    }

    fn line(&self, series: &Series, open: usize, now: Instant) -> String {
        const WIDTH: usize = 20;
        let since = now.duration_since(self.shown_at).as_secs_f64().max(0.001);
        let rate = (series.succeeded - self.shown_succeeded) as f64 / since;
        let whole = self.end.duration_since(self.start).as_secs_f64().max(0.001);
        let gone = now.duration_since(self.start).as_secs_f64() / whole;
        let filled = ((gone * WIDTH as f64) as usize).min(WIDTH);
        let left = self.end.saturating_duration_since(now).as_secs_f64().ceil();
        let (bar, rest) = ("█".repeat(filled), "░".repeat(WIDTH - filled));
        let what =
            if now < self.end { format!("{left:.0} s left") } else { "waiting for the last".to_owned() };
        let (p50, p99) = series.latencies_ms();
        let mut line =
            format!("{bar}{rest} {rate:>7.0}/s  {open} open  p50 {p50:.1}  p99 {p99:.1} ms  {what}");
        if series.unsuccessful > 0 {
            line.push_str(&format!("  {} without success", series.unsuccessful));
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is() {
        let start = Instant::now();
        let end = start + Duration::from_secs(10);
        let view = View::new(start, end);
        let mut series = Series::new(start..end).unwrap();
        series.succeeded = 500;
        let line = view.line(&series, 7, start + Duration::from_secs(5));
        assert!(line.starts_with("██████████░░░░░░░░░░ "), "{line}");
        assert!(line.contains("100/s  7 open") && line.contains("5 s left"), "{line}");
        assert!(view.line(&series, 7, end).contains("waiting for the last"));
    }
}
