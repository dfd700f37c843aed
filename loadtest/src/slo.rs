//! What must hold of a run: `p99<50ms`, `throughput>1000`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A bound on one figure of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Slo {
    /// The figure.
    pub figure: Figure,
    /// It must be below the bound, else above.
    pub is_below: bool,
    /// The bound: milliseconds, calls per second, a share of 1 or a count, by the figure.
    pub bound: f64,
    text: String,
}

/// A figure of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// Median latency.
    P50,
    /// 90 % of calls were faster.
    P90,
    /// 99 % of calls were faster.
    P99,
    /// 99.9 % of calls were faster.
    P999,
    /// The longest latency.
    Max,
    /// Successes per second.
    Throughput,
    /// Throughput as a share of the ceiling.
    Share,
    /// Calls that failed, were refused or shed, as a share of those offered.
    Errors,
    /// CPU time of all processes but the load test's for each execution, in microseconds.
    Cpu,
}

/// Whether an SLO held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The SLO as it was given.
    pub slo: String,
    /// What was measured, as the SLO counts; absent if it was not measured.
    pub measured: Option<f64>,
    /// It held. What was not measured did not.
    pub holds: bool,
}

const FIGURES: [(&str, Figure); 9] = [
    ("p50", Figure::P50),
    ("p90", Figure::P90),
    ("p99", Figure::P99),
    ("p99.9", Figure::P999),
    ("max", Figure::Max),
    ("throughput", Figure::Throughput),
    ("share", Figure::Share),
    ("errors", Figure::Errors),
    ("cpu", Figure::Cpu),
];

impl Slo {
    /// What is to be said of the figure's value.
    pub fn judge(&self, measured: Option<f64>) -> Verdict {
        let holds = |value: f64| if self.is_below { value < self.bound } else { value > self.bound };
        Verdict { slo: self.text.clone(), measured, holds: measured.is_some_and(holds) }
    }
}

impl Figure {
    /// What a bound is multiplied with to be in the figure's own unit; `None` if the figure has no such unit.
    fn unit(self, unit: &str) -> Option<f64> {
        match self {
            Self::P50 | Self::P90 | Self::P99 | Self::P999 | Self::Max => match unit {
                "us" | "µs" => Some(0.001),
                "ms" => Some(1.0),
                "s" => Some(1_000.0),
                _ => None,
            },
            Self::Throughput => matches!(unit, "" | "/s").then_some(1.0),
            Self::Share | Self::Errors => match unit {
                "" => Some(1.0),
                "%" => Some(0.01),
                _ => None,
            },
            Self::Cpu => match unit {
                "us" | "µs" => Some(1.0),
                "ms" => Some(1_000.0),
                _ => None,
            },
        }
    }
}

impl FromStr for Slo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || FIGURES.map(|(name, _)| name).join(", ");
        let place = text.find(['<', '>']).ok_or("a figure, < or >, and a bound, as p99<50ms")?;
        let (name, bound) = text.split_at(place);
        let figure = FIGURES.iter().find(|(known, _)| *known == name.trim()).map(|(_, figure)| *figure);
        let figure = figure.ok_or_else(|| format!("{:?} is none of {}", name.trim(), names()))?;
        let is_below = bound.starts_with('<');
        let bound = bound.get(1..).unwrap_or_default().trim();
        let end = bound.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(bound.len());
        let (number, unit) = bound.split_at(end);
        let number: f64 = number.parse().map_err(|_| format!("{bound:?} is no bound"))?;
        let factor = figure.unit(unit.trim()).ok_or_else(|| match figure {
            Figure::Throughput => format!("{unit:?} is no unit of throughput: nothing, or /s"),
            Figure::Share | Figure::Errors => format!("{unit:?} is no unit of a share: nothing, or %"),
            Figure::Cpu => format!("{unit:?} is no unit of CPU time: us or ms"),
            Figure::P50 | Figure::P90 | Figure::P99 | Figure::P999 | Figure::Max => {
                format!("{unit:?} is no unit of a latency: us, ms or s")
            }
        })?;
        Ok(Self { figure, is_below, bound: number * factor, text: text.to_owned() })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let says = if self.holds { "holds" } else { "DOES NOT HOLD" };
        match self.measured {
            Some(value) => write!(f, "{} {says}: {value:.2}", self.slo),
            None => write!(f, "{} {says}: it was not measured", self.slo),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_read_in_their_units() {
        for (text, figure, is_below, bound) in [
            ("p99<50ms", Figure::P99, true, 50.0),
            ("p50 < 1.5 s", Figure::P50, true, 1_500.0),
            ("p99.9<800us", Figure::P999, true, 0.8),
            ("throughput>1000", Figure::Throughput, false, 1_000.0),
            ("throughput>20/s", Figure::Throughput, false, 20.0),
            ("share>60%", Figure::Share, false, 0.6),
            ("errors<0.01", Figure::Errors, true, 0.01),
            ("cpu<300us", Figure::Cpu, true, 300.0),
        ] {
            let slo: Slo = text.parse().unwrap();
            assert_eq!((slo.figure, slo.is_below), (figure, is_below), "{text}");
            assert!((slo.bound - bound).abs() < 1e-9, "{text}: {}", slo.bound);
        }
    }

    #[test]
    fn what_is_no_slo_says_why() {
        for (text, part) in [
            ("p99", "as p99<50ms"),
            ("p98<5ms", "none of p50"),
            ("p99<fast", "no bound"),
            ("p99<50", "us, ms or s"),
            ("throughput>5ms", "/s"),
            ("share>60ms", "%"),
        ] {
            let error = text.parse::<Slo>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn what_was_not_measured_does_not_hold() {
        let slo: Slo = "p99<50ms".parse().unwrap();
        assert!(slo.judge(Some(49.9)).holds);
        assert!(!slo.judge(Some(50.0)).holds);
        assert!(!slo.judge(None).holds);
        assert_eq!(slo.judge(Some(60.0)).to_string(), "p99<50ms DOES NOT HOLD: 60.00");
    }
}
