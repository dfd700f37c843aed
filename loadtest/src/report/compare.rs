//! Two reports side by side.

use std::fmt::Write;

use super::{Report, Run};

/// Changes of a figure below this are what a shared machine does by itself.
const NOISE: f64 = 0.10;

/// Which way a figure is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Better {
    More,
    Less,
}

/// The runs of the same name in both reports, figure by figure, for people. What changed by more than the noise of two runs on a
/// shared machine is marked; the throughput as a share of the ceiling says more than the throughput.
pub fn compare(one: &Report, other: &Report) -> String {
    let mut text = String::new();
    let mut is_any = false;
    for before in &one.runs {
        let Some(after) = other.runs.iter().find(|after| after.name == before.name) else { continue };
        is_any = true;
        let noise = noise(before).max(noise(after));
        let _infallible = writeln!(
            text,
            "{}\n  {:<26}{:>12}{:>12}{:>8}   noise ±{:.0} %",
            before.name,
            "",
            "before",
            "after",
            "ratio",
            noise * 100.0
        );
        for ((name, before, better), (_, after, _)) in figures(before).into_iter().zip(figures(after)) {
            let (Some(before), Some(after)) = (before, after) else { continue };
            let _infallible = writeln!(text, "{}", line(name, before, after, better, noise));
        }
    }
    if !is_any {
        text.push_str("no run has the same name in both\n");
    }
    text
}

fn line(name: &str, before: f64, after: f64, better: Better, noise: f64) -> String {
    let ratio = if before > 0.0 { after / before } else { f64::NAN };
    let is_noise = !ratio.is_finite() || (ratio - 1.0).abs() <= noise;
    let verdict = match (is_noise, (ratio > 1.0) == (better == Better::More)) {
        (true, _) => "",
        (false, true) => "  better",
        (false, false) => "  WORSE",
    };
    let ratio = if ratio.is_finite() { format!("{ratio:.2}") } else { "-".to_owned() };
    format!("  {name:<26}{before:>12.2}{after:>12.2}{ratio:>8}{verdict}")
}

/// How far the throughput of the run's own seconds lies apart: the standard error of their mean, twice, or [`NOISE`].
fn noise(run: &Run) -> f64 {
    let seconds: Vec<f64> = run.seconds.iter().map(|second| second.succeeded as f64).collect();
    let count = seconds.len() as f64;
    let mean = seconds.iter().sum::<f64>() / count.max(1.0);
    if count < 3.0 || mean <= 0.0 {
        return NOISE;
    }
    let variance = seconds.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    (2.0 * (variance / count).sqrt() / mean).clamp(NOISE, 1.0)
}

type Figure = (&'static str, Option<f64>, Better);

fn figures(run: &Run) -> Vec<Figure> {
    let (figures, accounting) = (&run.figures, &run.accounting);
    let ms = |us: u64| (figures.latency.calls > 0).then_some(us as f64 / 1e3);
    let per = |value: u64| value as f64 / accounting.executions.max(1) as f64;
    let database = accounting.database.as_ref();
    let ceiling = run.ceiling.and_then(|ceiling| ceiling.first()).map(|(_, pace)| pace.per_s);
    let mut all = vec![
        ("throughput /s", Some(figures.throughput_per_s), Better::More),
        ("ceiling /s", ceiling, Better::More),
        ("share of the ceiling %", run.share.map(|share| share * 100.0), Better::More),
        ("p50 ms", ms(figures.latency.p50), Better::Less),
        ("p99 ms", ms(figures.latency.p99), Better::Less),
        ("p99.9 ms", ms(figures.latency.p99_9), Better::Less),
        ("CPU µs/execution", Some(accounting.cpu_us_per_execution()).filter(|us| *us > 0.0), Better::Less),
        ("WAL bytes/execution", database.map(|database| per(database.wal_bytes)), Better::Less),
        ("statements/execution", database.map(|database| per(database.statements)), Better::Less),
        (
            "failed, refused, shed",
            Some((figures.failed + figures.refused + figures.shed) as f64),
            Better::Less,
        ),
    ];
    for name in ["gateway", "worker", "rabbitmq", "postgres"] {
        let costs = accounting.processes.iter().filter(|process| process.name.starts_with(name));
        let us: f64 = costs.map(|process| process.cpu_us_per_execution).sum();
        let label = match name {
            "gateway" => "  of gateways",
            "worker" => "  of workers",
            "rabbitmq" => "  of rabbitmq",
            _ => "  of postgres",
        };
        all.insert(all.len() - 3, (label, Some(us).filter(|us| *us > 0.0), Better::Less));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Figures, Latency, Second};

    fn report(name: &str, throughput_per_s: f64, p99: u64, seconds: &[u64]) -> Report {
        let latency = Latency { p50: 1_000, p99, calls: 10, ..Latency::default() };
        let figures = Figures { throughput_per_s, latency, ..Figures::default() };
        let second = |(second, succeeded): (usize, &u64)| Second {
            second: second as u64,
            succeeded: *succeeded,
            ..Second::default()
        };
        let seconds = seconds.iter().enumerate().map(second).collect();
        Report::new("", vec![Run { name: name.to_owned(), figures, seconds, ..Run::default() }])
    }

    #[test]
    fn only_what_exceeds_the_noise_is_judged() {
        let text = compare(&report("a", 1_000.0, 9_000, &[]), &report("a", 1_500.0, 9_500, &[]));
        let line = |name: &str| text.lines().find(|line| line.trim().starts_with(name)).unwrap().to_owned();
        assert!(line("throughput").ends_with("1.50  better"), "{text}");
        assert!(line("p99 ms").ends_with("1.06"), "{text}");
        assert!(line("p50 ms").ends_with("1.00"), "{text}");
        let text = compare(&report("a", 1_000.0, 9_000, &[]), &report("a", 1_000.0, 18_000, &[]));
        assert!(text.contains("2.00  WORSE"), "{text}");
    }

    #[test]
    fn an_unsteady_run_has_more_noise() {
        let steady = noise(&report("a", 1.0, 1, &[100, 101, 99, 100]).runs[0]);
        let unsteady = noise(&report("a", 1.0, 1, &[10, 190, 50, 150]).runs[0]);
        assert!((steady - NOISE).abs() < 1e-9 && unsteady > 0.5, "{steady} {unsteady}");
    }

    #[test]
    fn runs_are_found_by_their_names() {
        let text = compare(&report("a", 1.0, 1, &[]), &report("b", 1.0, 1, &[]));
        assert_eq!(text, "no run has the same name in both\n");
    }
}
