use super::*;
use crate::accounting::{Accounting, ProcessCost};
use crate::ceiling::Ceiling;
use crate::curve::Point;
use crate::pace::Pace;
use crate::peers::PeerRow;
use crate::report::{Figures, Latency, Second};
use crate::stages::Stage;

fn report() -> Report {
    let latency = Latency {
        p50: 3_000,
        p99: 9_000,
        calls: 1_000,
        quantiles: vec![(0.0, 900), (0.5, 3_000), (0.99, 9_000), (1.0, 9_500)],
        ..Latency::default()
    };
    let second =
        |second| Second { second, succeeded: 100 + second, p50_us: 3_000, p99_us: 9_000, unsuccessful: 1 };
    let process = |name: &str| ProcessCost {
        name: name.to_owned(),
        cpu_s: 1.0,
        cpu_us_per_execution: 100.0,
        memory_bytes: 1 << 24,
    };
    let pace = Pace { per_s: 1_000.0, p50_us: 10, p99_us: 20, own_cpu_us: Some(5.0) };
    let stage = Stage {
        name: "run".to_owned(),
        what: "the <model>".to_owned(),
        calls: 5,
        mean_us: 3.0,
        p50_us: 2,
        p99_us: 9,
    };
    let mut run = Run {
        name: "a <script>alert(1)</script> & \"more\"".to_owned(),
        load: "64 callers".to_owned(),
        figures: Figures { latency, throughput_per_s: 500.0, shed: 3, ..Figures::default() },
        complaints: vec![("5 < 6".to_owned(), 2)],
        stages: vec![stage],
        seconds: (0..30).map(second).collect(),
        accounting: Accounting {
            executions: 10,
            processes: vec![process("gateway-1"), process("loadtest")],
            database: None,
        },
        ..Run::default()
    };
    run.compare_with(Ceiling { amqp: Some(pace), http: Some(pace), ..Ceiling::default() });
    run.judge(&["p99<5ms".parse().unwrap(), "share>40%".parse().unwrap()]);
    let mut report = Report::new("A report", vec![run, Run::default()]);
    let point = |percent| Point { percent, offered_per_s: f64::from(percent), ..Point::default() };
    report.curve = Some(Curve { capacity_per_s: 100.0, points: vec![point(10), point(120)] });
    let row = |name: &str, pace| PeerRow {
        name: name.to_owned(),
        setup: "s".to_owned(),
        has_durable_record: true,
        concurrency: 64,
        pace,
    };
    let rows = vec![row("celery", Some(pace)), row("gantry", Some(pace)), row("bullmq", None)];
    report.peers = Some(Comparison { versions: vec!["celery 5".to_owned()], rows });
    report
}

/// The names of all tags, in order; panics where one is closed that is not open.
fn assert_well_formed(html: &str) {
    const EMPTY: [&str; 3] = ["meta", "!doctype", "br"];
    let mut open = Vec::new();
    for piece in html.split('<').skip(1) {
        let (tag, _) = piece.split_once('>').unwrap_or_else(|| panic!("a tag has no end: {piece}"));
        let name = tag.split([' ', '/']).find(|part| !part.is_empty()).unwrap_or_default();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "closed by {tag}");
        } else if !tag.ends_with('/') && !EMPTY.contains(&name) {
            open.push(name);
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "an attribute has no end: {tag}");
    }
    assert_eq!(open, Vec::<&str>::new());
}

#[test]
fn the_page_is_well_formed_and_whole() {
    let page = report().html(Some("<svg onload=\"x()\"><text>a & b</text></svg>"));
    assert_well_formed(&page);
    for expected in [
        "Goodput",
        "Other systems",
        "50.0 % of 1000/s",
        "p99&lt;5ms DOES NOT HOLD",
        "share&gt;40% holds",
        "srcdoc=",
    ] {
        assert!(page.contains(expected), "{expected}");
    }
    assert!(!page.contains("<script") && !page.contains("NaN") && !page.contains("inf%"));
}

#[test]
fn the_page_loads_nothing() {
    let page = report().html(None);
    for way in ["http://", "https://", "src=", "href=", "@import", "url("] {
        assert!(!page.contains(way), "{way}");
    }
}

#[test]
fn a_report_survives_being_written_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("report.json");
    let report = report();
    std::fs::write(&file, serde_json::to_string(&report).unwrap()).unwrap();
    assert_eq!(Report::read(&file).unwrap(), report);
    std::fs::write(&file, "{}").unwrap();
    assert!(format!("{:#}", Report::read(&file).unwrap_err()).contains("no report"));
}

#[test]
fn markdown_has_the_same_figures() {
    let text = report().markdown();
    for expected in [
        "# A report",
        "**500/s**, 50.0 % of the ceiling",
        "| gantry | 64 | 1000 |",
        "| 120 % | 120 |",
        "| run | 0.002 |",
    ] {
        assert!(text.contains(expected), "{expected} in\n{text}");
    }
}
