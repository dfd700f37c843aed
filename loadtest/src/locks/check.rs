use std::collections::BTreeMap;
use std::time::Duration;

use domain::ExecuteId;

use super::witness::Life;

/// The most examples that are printed.
const EXAMPLES_MAX: usize = 10;
/// What the clocks of the record and of this process may differ by on one machine.
const CLOCK_SLACK_MS: i64 = 2;

/// What the record says of an execution that succeeded.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Which.
    pub execute_id: ExecuteId,
    /// The attempt that was committed.
    pub attempt: i32,
    /// When, in milliseconds since 1970.
    pub finished_ms: i64,
    /// How many of its log lines that attempt wrote.
    pub lines_of_attempt: usize,
    /// Its log lines are 1, 2, 3, ...
    pub log_ids_are_dense: bool,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// How many scripts were seen.
    pub started: usize,
    /// How many executions succeeded.
    pub committed: usize,
    /// Holders that were born while another of their key lived.
    pub overlapping: usize,
    /// Holders whose znode was made before that of an earlier holder of their key.
    pub out_of_order: usize,
    /// Commits of a holder after a later one of its key was born.
    pub stale_commits: usize,
    /// Executions whose log has gaps, or not all lines of its attempt.
    pub broken_logs: usize,
    /// Executions that were committed by an attempt that nobody saw.
    pub foreign: usize,
    /// Holders that died without a commit and had a successor.
    pub broken_hand_overs: usize,
    /// The smallest time from the death of such a holder to the birth of its successor.
    pub margin: Option<Duration>,
    /// Some of it in words.
    pub examples: Vec<String>,
}

impl Findings {
    /// Judges what was seen, `lives` in the order of their births.
    pub fn of(lives: &[Life], committed: &[Committed]) -> Self {
        let mut found = Self { started: lives.len(), committed: committed.len(), ..Self::default() };
        let commits: BTreeMap<_, _> =
            committed.iter().map(|one| ((one.execute_id, one.attempt), one)).collect();
        let mut keys: BTreeMap<&str, Vec<&Life>> = BTreeMap::new();
        for life in lives {
            keys.entry(&life.birth.key).or_default().push(life);
        }
        for holders in keys.values() {
            for pair in holders.windows(2) {
                let [before, after] = pair else { continue };
                let commit = commits.get(&(before.birth.execute_id, before.birth.attempt));
                found.compare(before, after, commit.map(|commit| commit.finished_ms));
            }
            if holders.first().is_some_and(|first| first.birth.overlaps) {
                found.overlapping += 1;
            }
        }
        for one in committed {
            let is_seen = lives
                .iter()
                .any(|life| life.birth.execute_id == one.execute_id && life.birth.attempt == one.attempt);
            found.foreign += usize::from(!is_seen);
            if one.lines_of_attempt != 3 || !one.log_ids_are_dense {
                found.broken_logs += 1;
                found.example(format!(
                    "{}: {} lines of attempt {}",
                    one.execute_id, one.lines_of_attempt, one.attempt
                ));
            }
        }
        found
    }

    /// Two holders of a key, one after the other.
    fn compare(&mut self, before: &Life, after: &Life, finished_ms: Option<i64>) {
        let told = |what: &str| format!("{}: {what}: {before:?} then {after:?}", after.birth.key);
        if after.birth.overlaps || before.died_us.is_none() {
            self.overlapping += 1;
            self.example(told("overlap"));
        }
        if after.birth.fence <= before.birth.fence {
            self.out_of_order += 1;
            self.example(told("order"));
        }
        let born_ms = i64::try_from(after.born_us / 1_000).unwrap_or(i64::MAX);
        match finished_ms {
            Some(finished_ms) if finished_ms > born_ms + CLOCK_SLACK_MS => {
                self.stale_commits += 1;
                self.example(told(&format!("the former was committed at {finished_ms}")));
            }
            Some(_) => {}
            None => {
                self.broken_hand_overs += 1;
                let margin =
                    Duration::from_micros(after.born_us.saturating_sub(before.died_us.unwrap_or(u64::MAX)));
                self.margin = Some(self.margin.map_or(margin, |least| least.min(margin)));
            }
        }
    }

    fn example(&mut self, text: String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(text);
        }
    }

    /// Was every promise kept?
    pub const fn is_clean(&self) -> bool {
        self.overlapping == 0
            && self.out_of_order == 0
            && self.stale_commits == 0
            && self.broken_logs == 0
            && self.foreign == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::locks::witness::Birth;

    fn id(number: u64) -> ExecuteId {
        ExecuteId::new(number + 1)
    }

    fn life(execute_id: ExecuteId, fence: i64, born_us: u64, died_us: u64) -> Life {
        let birth = Birth { key: "key".to_owned(), execute_id, attempt: 1, fence, overlaps: false };
        Life { birth, born_us, died_us: Some(died_us) }
    }

    fn commit(execute_id: ExecuteId, finished_ms: i64) -> Committed {
        Committed { execute_id, attempt: 1, finished_ms, lines_of_attempt: 3, log_ids_are_dense: true }
    }

    #[test]
    fn what_went_as_promised_is_clean_and_the_margin_is_of_broken_hand_overs() {
        let [a, b, c] = [0, 1, 2].map(id);
        let lives = [life(a, 1, 1_000, 2_000), life(b, 2, 3_000, 4_000), life(c, 3, 9_000, 10_000)];
        let found = Findings::of(&lives, &[commit(a, 2), commit(c, 10)]);
        assert!(found.is_clean(), "{found:?}");
        assert_eq!((found.broken_hand_overs, found.margin), (1, Some(Duration::from_millis(5))));
    }

    #[test]
    fn each_seeded_violation_is_found() {
        let [a, b] = [0, 1].map(id);
        let good = [life(a, 1, 1_000, 2_000), life(b, 2, 3_000, 4_000)];
        let commits = [commit(a, 2), commit(b, 4)];
        assert!(Findings::of(&good, &commits).is_clean());

        let mut overlap = good.clone();
        overlap[1].birth.overlaps = true;
        assert_eq!(Findings::of(&overlap, &commits).overlapping, 1);
        let mut order = good.clone();
        order[1].birth.fence = 1;
        assert_eq!(Findings::of(&order, &commits).out_of_order, 1);
        assert_eq!(Findings::of(&good, &[commit(a, 20), commit(b, 40)]).stale_commits, 1);
        assert_eq!(Findings::of(&good[..1], &commits).foreign, 1);
        let gap = Committed { log_ids_are_dense: false, ..commit(b, 4) };
        assert_eq!(Findings::of(&good, &[commit(a, 2), gap]).broken_logs, 1);
    }
}
