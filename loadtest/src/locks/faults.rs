use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;
use testkit::{Fault, House, Proxy};
use tokio::time::{Instant, sleep_until};

use super::Locks;

/// From a kill to the start of the next life.
const DEAD: Duration = Duration::from_secs(2);
/// The longest that a link stays silent, in sessions.
const CUT_SESSIONS_MAX: u64 = 3;

/// What is wrong with a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Killed,
    Frozen,
    Cut,
}

/// Strikes random workers, and heals them after a while.
pub struct Faults<'a> {
    proxies: &'a [Proxy],
    every: Duration,
    freeze: Duration,
    session_ms: u64,
    random: StdRng,
    /// By worker: what is wrong, and until when.
    wrong: Vec<Option<(Wrong, Instant)>>,
    kills: u32,
    freezes: u32,
    cuts: u32,
}

impl<'a> Faults<'a> {
    pub fn new(args: &Locks, proxies: &'a [Proxy]) -> Self {
        Self {
            proxies,
            every: Duration::from_millis(args.fault_ms),
            freeze: Duration::from_millis(args.freeze_ms),
            session_ms: args.session_ms,
            random: StdRng::seed_from_u64(args.seed),
            wrong: vec![None; proxies.len()],
            kills: 0,
            freezes: 0,
            cuts: 0,
        }
    }

    /// Strikes and heals, for ever.
    pub async fn strike(&mut self, house: &mut House) {
        if self.every.is_zero() {
            std::future::pending::<()>().await;
        }
        let mut next = Instant::now() + self.every;
        loop {
            let heals = self.wrong.iter().flatten().map(|(_, until)| *until).min();
            sleep_until(heals.map_or(next, |heals| heals.min(next))).await;
            let now = Instant::now();
            for worker in 0..self.wrong.len() {
                if self.wrong[worker].is_some_and(|(_, until)| until <= now) {
                    self.heal_one(house, worker);
                }
            }
            if next <= now {
                next = now + self.every;
                let well: Vec<_> =
                    (0..self.wrong.len()).filter(|worker| self.wrong[*worker].is_none()).collect();
                // One stays well, or nothing would move.
                if well.len() > 1 {
                    let worker = well[self.random.random_range(0..well.len())];
                    self.strike_one(house, worker);
                }
            }
        }
    }

    fn strike_one(&mut self, house: &mut House, worker: usize) {
        let (wrong, lasts) = match self.random.random_range(0..3) {
            0 => (Wrong::Killed, DEAD),
            1 => (Wrong::Frozen, self.freeze),
            _ => {
                let sessions = self.random.random_range(1..=CUT_SESSIONS_MAX * self.session_ms);
                (Wrong::Cut, Duration::from_millis(sessions))
            }
        };
        match wrong {
            Wrong::Killed => {
                self.kills += 1;
                house.kill(&name(worker));
            }
            Wrong::Frozen => {
                self.freezes += 1;
                house.signal(&name(worker), Signal::STOP);
            }
            Wrong::Cut => {
                self.cuts += 1;
                self.proxies[worker].set(Fault::Blackhole);
            }
        }
        self.wrong[worker] = Some((wrong, Instant::now() + lasts));
    }

    fn heal_one(&mut self, house: &mut House, worker: usize) {
        match self.wrong[worker].take() {
            Some((Wrong::Killed, _)) => house.start_again(&name(worker)),
            Some((Wrong::Frozen, _)) => house.signal(&name(worker), Signal::CONT),
            Some((Wrong::Cut, _)) => self.proxies[worker].set(Fault::Pass),
            None => {}
        }
    }

    /// Heals everybody.
    pub fn heal(&mut self, house: &mut House) {
        for worker in 0..self.wrong.len() {
            self.heal_one(house, worker);
        }
    }
}

fn name(worker: usize) -> String {
    format!("worker-{}", worker + 1)
}

impl fmt::Display for Faults<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} kills, {} freezes, {} cut links", self.kills, self.freezes, self.cuts)
    }
}
