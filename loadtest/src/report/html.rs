//! A report as one page of HTML that loads nothing: charts are drawn into it.

use super::chart::{Bar, Line, bars, bars_of, escape, even_ticks, lines};
use super::page::{page, table, tiles};
use super::text::ms;
use super::{Report, Run};
use crate::curve::Curve;
use crate::peers::Comparison;

impl Report {
    /// The page, with a flame graph (SVG) if there is one.
    pub fn html(&self, flame: Option<&str>) -> String {
        let machine = &self.machine;
        let gib = machine.memory_bytes as f64 / (1_u64 << 30) as f64;
        let mut body = format!(
            "<p class=\"quiet\">{:.0} · {} cores ({}), {gib:.0} GiB, Linux {}</p>\n<p><code>{}</code></p>\n",
            self.at,
            machine.cores,
            escape(&machine.processor),
            escape(&machine.kernel),
            escape(&self.command)
        );
        if let Some(curve) = &self.curve {
            body.push_str(&of_curve(curve));
        }
        if let Some(peers) = &self.peers {
            body.push_str(&of_peers(peers));
        }
        for run in &self.runs {
            body.push_str(&of_run(run));
        }
        if let Some(flame) = flame {
            body.push_str(
                "<h2>Flame graph</h2>\n<p class=\"quiet\">Width is CPU time; click to look closer.</p>\n",
            );
            // In a page of its own, whose scripts reach nothing here.
            body.push_str(&format!(
                "<iframe title=\"Flame graph\" sandbox=\"allow-scripts\" srcdoc=\"{}\"></iframe>\n",
                escape(flame)
            ));
        }
        page(&self.title, &body)
    }
}

fn of_curve(curve: &Curve) -> String {
    let points = |y: fn(&crate::curve::Point) -> f64| {
        curve.points.iter().map(|point| (point.offered_per_s, y(point))).collect::<Vec<_>>()
    };
    let line = |name: &str, points| Line { name: name.to_owned(), points };
    let ticks: Vec<_> =
        curve.points.iter().map(|point| (point.offered_per_s, format!("{} %", point.percent))).collect();
    let goodput = [
        line("goodput: results within a second", points(|point| point.goodput_per_s)),
        line("offered", points(|point| point.offered_per_s)),
    ];
    let latency =
        [line("p50", points(|point| ms(point.p50_us))), line("p99", points(|point| ms(point.p99_us)))];
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
    let x_name = "offered, of the capacity";
    format!(
        "<h2>Goodput</h2>\n<p>Shares of a capacity of {:.0} calls/s, offered by the clock. Beyond it goodput should stay where it is \
         (what is too much is turned away), and not fall.</p>\n<div class=\"charts\">{}{}</div>\n{}",
        curve.capacity_per_s,
        lines("Goodput", x_name, "per second", &ticks, &goodput),
        lines("Latency of what succeeded", x_name, "ms", &ticks, &latency),
        table(&["load", "offered/s", "goodput/s", "shed", "p50 ms", "p99 ms"], "", rows)
    )
}

fn of_peers(peers: &Comparison) -> String {
    let mut callers: Vec<u32> = peers.rows.iter().map(|row| row.concurrency).collect();
    callers.dedup();
    let mut html = String::from("<h2>Other systems in the same run</h2>\n<div class=\"charts\">");
    for callers in callers {
        let of = || peers.rows.iter().filter(move |row| row.concurrency == callers);
        let colour = |name: &str| match name {
            name if name.starts_with("gantry") => 1,
            name if name.starts_with("raw") => 3,
            _ => 2,
        };
        let bar =
            |name: &str, value: f64, note| Bar { label: name.to_owned(), value, note, colour: colour(name) };
        let rates: Vec<_> = of()
            .filter_map(|row| Some(bar(&row.name, row.pace?.per_s, format!("{:.0}/s", row.pace?.per_s))))
            .collect();
        let tails: Vec<_> = of()
            .filter_map(|row| {
                let p99 = ms(row.pace?.p99_us);
                Some(bar(&row.name, p99, format!("{p99:.1} ms")))
            })
            .collect();
        html.push_str(&bars(&format!("Throughput, {callers} callers"), &rates));
        html.push_str(&bars(&format!("p99, {callers} callers"), &tails));
    }
    let rows = peers.rows.iter().map(|row| {
        let pace = row.pace.unwrap_or_default();
        let times =
            |name| peers.ratio(row, name).map_or("-".to_owned(), |ratio| format!("{:.2}×", 1.0 / ratio));
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
    let head =
        ["system", "callers", "/s", "p50 ms", "p99 ms", "durable record", "Gantry is", "configuration"];
    html.push_str("</div>\n");
    html.push_str(&table(&head, "configuration", rows));
    html.push_str(&format!("<p class=\"quiet\">{}</p>\n", escape(&peers.versions.join(", "))));
    html
}

fn of_run(run: &Run) -> String {
    let (figures, latency) = (&run.figures, &run.figures.latency);
    let broken = figures.lost + figures.doubled + figures.wrong + figures.unresolved + figures.bad_logs;
    let mut first = vec![
        ("throughput", format!("{:.0}/s", figures.throughput_per_s), false),
        ("p50", format!("{:.2} ms", ms(latency.p50)), false),
        ("p99", format!("{:.2} ms", ms(latency.p99)), false),
        ("lost, doubled or wrong", broken.to_string(), broken > 0),
    ];
    if let Some(share) = run.share {
        first.insert(1, ("of the ceiling", format!("{:.1} %", share * 100.0), false));
    }
    let unsuccessful = figures.failed + figures.refused + figures.shed;
    if unsuccessful > 0 {
        first.push(("failed, refused or shed", unsuccessful.to_string(), true));
    }
    let mut html = format!(
        "<h2>{}</h2>\n<p class=\"quiet\">{}; {} of {} succeeded</p>\n{}",
        escape(&run.name),
        escape(&run.load),
        figures.succeeded,
        figures.offered,
        tiles(&first)
    );
    for slo in &run.slos {
        let class = if slo.holds { "" } else { " class=\"bad\"" };
        html.push_str(&format!("<p{class}>{}</p>\n", escape(&slo.to_string())));
    }
    for (why, count) in &run.complaints {
        html.push_str(&format!("<p class=\"bad\">{count} × {}</p>\n", escape(why)));
    }
    html.push_str("<div class=\"charts\">");
    html.push_str(&by_second(run));
    html.push_str(&by_quantile(run));
    html.push_str(&costs(run));
    html.push_str("</div>\n");
    html.push_str(&stages(run));
    html.push_str(&statements(run));
    html
}

fn by_second(run: &Run) -> String {
    let last = run.seconds.last().map_or(0, |second| second.second) as f64;
    let ticks = even_ticks(last);
    let line = |name: &str, y: fn(&super::Second) -> f64| Line {
        name: name.to_owned(),
        points: run.seconds.iter().map(|second| (second.second as f64, y(second))).collect(),
    };
    let done = [
        line("succeeded", |second| second.succeeded as f64),
        line("ended otherwise", |second| second.unsuccessful as f64),
    ];
    let latency = [line("p50", |second| ms(second.p50_us)), line("p99", |second| ms(second.p99_us))];
    lines("Calls by second", "seconds", "per second", &ticks, &done)
        + &lines("Latency by second", "seconds", "ms", &ticks, &latency)
}

/// The further right, the rarer: each tick is a tenth of the calls of the one before.
fn by_quantile(run: &Run) -> String {
    let nines = |q: f64| -(1.0 - q).log10();
    let calls = run.figures.latency.calls.max(1) as f64;
    let known = run.figures.latency.quantiles.iter().filter(|(q, _)| *q < 1.0 && nines(*q) <= calls.log10());
    let points: Vec<_> = known.map(|(q, us)| (nines(*q), ms(*us))).collect();
    let ticks =
        [(0.0, "0 %"), (nines(0.5), "50 %"), (1.0, "90 %"), (2.0, "99 %"), (3.0, "99.9 %"), (4.0, "99.99 %")];
    let far = points.last().map_or(0.0, |(x, _)| *x);
    let ticks: Vec<_> =
        ticks.into_iter().filter(|(x, _)| *x <= far + 0.01).map(|(x, text)| (x, text.to_owned())).collect();
    lines("Latency", "of calls were faster", "ms", &ticks, &[Line { name: "latency".to_owned(), points }])
}

fn costs(run: &Run) -> String {
    let processes = run.accounting.processes.iter().filter(|process| process.cpu_s > 0.0);
    let cpu: Vec<_> = processes
        .map(|process| Bar {
            label: process.name.clone(),
            value: process.cpu_us_per_execution,
            note: format!(
                "{:.0} µs · {:.0} MiB",
                process.cpu_us_per_execution,
                process.memory_bytes as f64 / f64::from(1 << 20)
            ),
            colour: if process.name == "loadtest" { 2 } else { 1 },
        })
        .collect();
    let mut html =
        if cpu.is_empty() { String::new() } else { bars("CPU time per execution, and memory", &cpu) };
    if let Some(ceiling) = &run.ceiling {
        let parts = ceiling.parts().into_iter().filter_map(|(name, pace)| {
            let per_s = pace?.per_s;
            let percent = 100.0 * run.figures.throughput_per_s / per_s;
            let note = format!("{percent:.1} % of {per_s:.0}/s");
            Some(Bar { label: name.to_owned(), value: percent, note, colour: 3 })
        });
        let parts: Vec<_> = parts.collect();
        html.push_str(&bars_of("Ours, as a share of what this machine does at most", 100.0, &parts));
    }
    html
}

fn stages(run: &Run) -> String {
    if run.stages.is_empty() {
        return String::new();
    }
    let drawn: Vec<_> = run
        .stages
        .iter()
        .map(|stage| Bar {
            label: stage.name.clone(),
            value: ms(stage.p50_us),
            note: format!("{:.3} · p99 {:.3} ms", ms(stage.p50_us), ms(stage.p99_us)),
            colour: 1,
        })
        .collect();
    let rows = run.stages.iter().map(|stage| {
        vec![
            stage.name.clone(),
            stage.calls.to_string(),
            format!("{:.3}", stage.mean_us / 1e3),
            stage.what.clone(),
        ]
    });
    bars("Where the time goes (p50)", &drawn)
        + &table(&["stage", "calls", "mean ms", "from when until when"], "from when until when", rows)
}

fn statements(run: &Run) -> String {
    let Some(database) = &run.accounting.database else { return String::new() };
    let per = |value: u64| value as f64 / run.accounting.executions.max(1) as f64;
    let rows = database.by_statement.iter().map(|statement| {
        vec![
            statement.calls.to_string(),
            format!("{:.1}", statement.ms),
            statement.rows.to_string(),
            statement.wal_bytes.to_string(),
            statement.query.clone(),
        ]
    });
    format!(
        "<p>{:.0} bytes of WAL, {:.3} statements ({}), {:.3} transactions per execution.</p>\n{}",
        per(database.wal_bytes),
        per(database.statements),
        escape(&database.counted_by),
        per(database.transactions),
        table(&["calls", "ms", "rows", "WAL bytes", "statement"], "statement", rows)
    )
}

#[cfg(test)]
mod tests;
