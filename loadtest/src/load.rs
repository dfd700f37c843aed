//! How often calls are made.

use std::time::Duration;

use crate::cli::rate;

/// How often calls are made, for how long, and what happens to those that are turned away.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// When a call is due.
    pub pattern: Pattern,
    /// For how long calls count.
    pub duration: Duration,
    /// What comes before, at the pace of the beginning.
    pub warmup: Duration,
    /// How long what is open may take after the last call.
    pub grace: Duration,
    /// What is turned away because there is too much is sent again.
    pub retries: bool,
}

/// When calls are due.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pattern {
    /// So many callers, each with one call at a time.
    Closed(u32),
    /// So many per second by the clock.
    Rate(f64),
    /// Per second by the clock, growing evenly over the measured time from the first to the second.
    Ramp(f64, f64),
}

impl Load {
    /// When the calls of an open loop are due, counted from the start of the warm-up; nothing for a closed one.
    pub fn arrivals(&self) -> Box<dyn Iterator<Item = Duration> + Send> {
        let (from, to) = match self.pattern {
            Pattern::Closed(_) => return Box::new(std::iter::empty()),
            Pattern::Rate(rate) => (rate, rate),
            Pattern::Ramp(from, to) => (from, to),
        };
        let (warmup, measured) = (self.warmup.as_secs_f64(), self.duration.as_secs_f64());
        let end = warmup + measured;
        // The number of calls due by a time of the ramp is its integral: from * t + (to - from) * t² / (2 * measured).
        let growth = if measured > 0.0 { (to - from) / measured } else { 0.0 };
        let due = move |number: u64| {
            let after_warmup = number as f64 - from * warmup;
            if after_warmup <= 0.0 || growth == 0.0 {
                return number as f64 / from;
            }
            // The positive root, in the form that does not cancel; without one the ramp has come down to nothing.
            let discriminant = from * from + 2.0 * growth * after_warmup;
            warmup + 2.0 * after_warmup / (from + discriminant.sqrt())
        };
        let times = (0_u64..).map(due).take_while(move |due| *due < end);
        Box::new(times.map(Duration::from_secs_f64))
    }

    /// Calls in flight for a measurement of the ceiling beside this load.
    pub fn concurrency(&self) -> u32 {
        const OF_OPEN_LOOP: u32 = 64;
        match self.pattern {
            Pattern::Closed(callers) => callers,
            Pattern::Rate(_) | Pattern::Ramp(..) => OF_OPEN_LOOP,
        }
    }

    /// For people.
    pub fn describe(&self) -> String {
        let how = match self.pattern {
            Pattern::Closed(1) => "1 caller (closed loop)".to_owned(),
            Pattern::Closed(callers) => format!("{callers} callers (closed loop)"),
            Pattern::Rate(rate) => format!("{rate:.0} calls/s (open loop)"),
            Pattern::Ramp(from, to) => format!("{from:.0} to {to:.0} calls/s (open loop)"),
        };
        let (duration, warmup) = (self.duration.as_secs_f64(), self.warmup.as_secs_f64());
        format!("{how} for {duration} s after {warmup} s of warm-up")
    }
}

/// Reads `FROM..TO`.
pub fn ramp(text: &str) -> Result<Pattern, String> {
    let Some((from, to)) = text.split_once("..") else {
        return Err("two rates, as 100..3000".to_owned());
    };
    Ok(Pattern::Ramp(rate(from)?, rate(to)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(pattern: Pattern) -> Load {
        let (warmup, duration) = (Duration::from_secs(1), Duration::from_secs(10));
        Load { pattern, duration, warmup, grace: Duration::ZERO, retries: true }
    }

    fn count(load: &Load, from: f64, to: f64) -> usize {
        load.arrivals().filter(|due| (from..to).contains(&due.as_secs_f64())).count()
    }

    #[test]
    fn a_rate_is_even() {
        let load = load(Pattern::Rate(100.0));
        assert_eq!(count(&load, 0.0, 11.0), 1_100);
        assert_eq!(count(&load, 5.0, 6.0), 100);
    }

    #[test]
    fn a_ramp_grows_evenly_after_the_warm_up() {
        let up = load(ramp("100..300").unwrap());
        let total = count(&up, 1.0, 11.0);
        assert!((1_999..=2_001).contains(&total), "{total}");
        for (from, expected) in [(0.0, 100), (1.0, 110), (5.0, 190), (10.0, 290)] {
            let found = count(&up, from, from + 1.0);
            assert!(found.abs_diff(expected) <= 1, "{found} from second {from}");
        }
        assert!(up.arrivals().zip(up.arrivals().skip(1)).all(|(one, next)| one <= next));
    }

    #[test]
    fn a_ramp_may_come_down_and_end() {
        let total = count(&load(ramp("300..1").unwrap()), 1.0, 11.0);
        assert!((1_503..=1_507).contains(&total), "{total}");
    }

    #[test]
    fn a_ramp_needs_two_rates() {
        for bad in ["100", "..", "a..b", "100..", "0..5", "1..1e9"] {
            assert!(ramp(bad).is_err(), "{bad}");
        }
    }
}
