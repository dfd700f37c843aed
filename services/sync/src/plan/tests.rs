use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::Action::{Evict, Fetch};
use super::*;

fn digest(n: u64) -> Digest {
    Digest::of(&n.to_le_bytes())
}

fn wants(n: u64, bytes: u64) -> Desired {
    Desired { digest: digest(n), bytes, is_pinned: false }
}

fn pinned(n: u64, bytes: u64) -> Desired {
    Desired { is_pinned: true, ..wants(n, bytes) }
}

/// In the cache, last used so many hours ago.
fn has(n: u64, bytes: u64, hours: u64) -> Cached {
    let unused_for = Duration::from_secs(hours * 3_600);
    Cached { digest: digest(n), bytes, unused_for, is_pinned: false, is_held: false }
}

fn node(cached: Vec<Cached>) -> Observed {
    Observed { cached, disk_free_bytes: 1 << 40, ..Observed::default() }
}

/// The low watermark is at 90 bytes.
const LIMITS: Limits = Limits {
    cache_bytes_max: 100,
    disk_free_bytes_min: 1_000,
    keep: Duration::from_secs(600),
    fetches_max: 3,
};

#[test]
fn each_situation_has_its_plan() {
    let on_disk = |cached, disk_free_bytes| Observed { disk_free_bytes, ..node(cached) };
    let with_pin = |it: Cached| Cached { is_pinned: true, ..it };
    let held = |it: Cached| Cached { is_held: true, ..it };
    let fetching = |n: u64, bytes| Observed { fetching: HashMap::from([(digest(n), bytes)]), ..node(vec![]) };
    let waiting = |n: u64| Observed { waiting: HashSet::from([digest(n)]), ..node(vec![]) };
    let (e, f) = (|n| Evict(digest(n)), |n| Fetch(digest(n)));
    #[rustfmt::skip]
    let table: Vec<(&str, Vec<Desired>, Observed, Vec<Action>)> = vec![
        ("nothing is desired", vec![], node(vec![has(1, 50, 9)]), vec![]),
        ("what is missing is fetched in order", vec![wants(1, 10), wants(2, 10)], node(vec![]), vec![f(1), f(2)]),
        ("what is there is not", vec![wants(1, 10)], node(vec![has(1, 10, 9)]), vec![]),
        ("what is on its way is not", vec![wants(1, 10)], fetching(1, 10), vec![]),
        ("what failed waits, others go on", vec![wants(1, 10), wants(2, 10)], waiting(1), vec![f(2)]),
        ("a bound of fetches", (1..9).map(|n| wants(n, 1)).collect(), node(vec![]), vec![f(1), f(2), f(3)]),
        ("those on their way count", (1..9).map(|n| wants(n, 1)).collect(), fetching(1, 1), vec![f(2), f(3)]),
        ("up to the low watermark", vec![wants(1, 80), wants(2, 20), wants(3, 10)], node(vec![]), vec![f(1), f(3)]),
        ("what has just come counts once", vec![wants(1, 60)], Observed { cached: vec![has(1, 60, 9)], ..fetching(1, 60) },
            vec![]),
        ("what is on its way takes room", vec![wants(2, 20)], fetching(1, 80), vec![]),
        ("nothing makes room for what is not pinned", vec![wants(1, 20)], node(vec![has(2, 80, 9)]), vec![]),
        ("a pinned one makes room", vec![pinned(1, 20)], node(vec![has(2, 40, 8), has(3, 40, 9)]), vec![e(3), f(1)]),
        ("but not from what is fresh", vec![pinned(1, 20)], node(vec![has(2, 80, 0)]), vec![]),
        ("nor from what is pinned", vec![pinned(1, 20)], node(vec![with_pin(has(2, 80, 9))]), vec![]),
        ("nor from what runs", vec![pinned(1, 20)], node(vec![held(has(2, 80, 9))]), vec![]),
        ("nor if it is in vain", vec![pinned(1, 80)], node(vec![has(2, 40, 9), has(3, 40, 0)]), vec![]),
        ("below the high watermark nothing goes", vec![], node(vec![has(1, 50, 9), has(2, 50, 8)]), vec![]),
        ("above it, down to the low one, and no more", vec![], node(vec![has(1, 5, 7), has(2, 50, 8), has(3, 9, 9), has(4, 40, 6)]), vec![e(2)]),
        ("what is pinned goes last", vec![], node(vec![with_pin(has(1, 60, 9)), has(2, 20, 8), has(3, 40, 7)]),
            vec![e(3)]),
        ("in the order of their age", vec![], node(vec![has(1, 20, 7), has(2, 20, 9), has(3, 20, 8), has(4, 70, 6)]),
            vec![e(2), e(3)]),
        ("but it goes", vec![], node(vec![with_pin(has(1, 60, 9)), with_pin(has(2, 60, 8))]), vec![e(1)]),
        ("what runs stays", vec![], node(vec![held(has(1, 60, 9)), has(2, 60, 8)]), vec![e(2)]),
        ("what was used lately stays", vec![], node(vec![has(1, 200, 0)]), vec![]),
        ("a full disk evicts, too", vec![], on_disk(vec![has(1, 90, 9), has(2, 5, 8)], 999), vec![e(1), e(2)]),
        ("a disk that is nearly full is not filled", vec![wants(1, 10)], on_disk(vec![], 1_109), vec![]),
        ("as long as it keeps enough it is", vec![wants(1, 10)], on_disk(vec![], 1_110), vec![f(1)]),
        ("a size that is not known yet", vec![wants(1, 0)], node(vec![has(2, 90, 9)]), vec![f(1)]),
    ];
    for (what, desired, observed, expected) in table {
        assert_eq!(plan(&desired, &observed, &LIMITS), expected, "{what}");
    }
}

#[test]
fn fifty_versions_of_twenty_megabytes_fit_the_default() {
    let desired: Vec<_> = (0..50).map(|n| wants(n, 20 << 20)).collect();
    let config = crate::Config::default();
    let limits = Limits { cache_bytes_max: config.cache_bytes_max, fetches_max: usize::MAX, ..LIMITS };
    assert_eq!(plan(&desired, &node(vec![]), &limits).len(), 50);
}

/// Does what a plan says to `node`; what was fetched has its real size and was used just now.
fn carry_out(actions: &[Action], node: &mut Observed, desired: &[Desired], real: impl Fn(Digest) -> u64) {
    for action in actions {
        match action {
            Evict(digest) => {
                let at = node.cached.iter().position(|it| it.digest == *digest).expect("it is there");
                let gone = node.cached.swap_remove(at);
                assert!(!gone.is_held && gone.unused_for >= LIMITS.keep, "{gone:?} must stay");
                node.disk_free_bytes += gone.bytes;
            }
            Fetch(digest) => {
                let is_pinned = desired.iter().any(|it| it.digest == *digest && it.is_pinned);
                let bytes = real(*digest);
                node.cached.push(Cached {
                    digest: *digest,
                    bytes,
                    unused_for: Duration::ZERO,
                    is_pinned,
                    is_held: false,
                });
                node.disk_free_bytes = node.disk_free_bytes.saturating_sub(bytes);
            }
        }
    }
}

/// A node as it may be found, what it should have, and what that really takes: up to `most` times what is known.
fn scene(random: &mut StdRng, most: u64) -> (Observed, Vec<Desired>, HashMap<Digest, u64>) {
    let (mut desired, mut real, mut cached) = (Vec::new(), HashMap::new(), Vec::new());
    for n in 0..40 {
        let bytes = random.random_range(1..30);
        real.insert(digest(n), bytes * random.random_range(1..=most));
        let is_pinned = random.random_bool(0.2);
        if random.random_bool(0.6) {
            desired.push(Desired { is_pinned, ..wants(n, bytes) });
        }
        if random.random_bool(0.3) {
            let is_held = random.random_bool(0.2);
            let it = has(n, real[&digest(n)], random.random_range(1..9));
            cached.push(Cached { is_pinned, is_held, ..it });
        }
    }
    // As `desired` says it: what an alias points at comes first.
    desired.sort_by_key(|it| !it.is_pinned);
    (Observed { disk_free_bytes: random.random_range(900..1_300), ..node(cached) }, desired, real)
}

/// Repeats passes until there is nothing to do, and says how often what was fetched.
fn rest(seed: u64, most: u64) -> HashMap<Digest, u32> {
    let (mut node, mut desired, real) = scene(&mut StdRng::seed_from_u64(seed), most);
    let mut fetches = HashMap::new();
    for pass in 0.. {
        let actions = plan(&desired, &node, &LIMITS);
        assert_eq!(actions, plan(&desired, &node, &LIMITS), "the same again");
        if actions.is_empty() {
            break;
        }
        assert!(pass < 80, "seed {seed} does not come to rest: {actions:?}");
        carry_out(&actions, &mut node, &desired, |digest| real[&digest]);
        for action in actions {
            let Fetch(digest) = action else { continue };
            *fetches.entry(digest).or_default() += 1;
            let wanted = desired.iter_mut().find(|it| it.digest == digest);
            wanted.expect("only what is desired is fetched").bytes = real[&digest];
        }
        // Later: what was fetched is old enough to go, if anything would make it.
        for it in &mut node.cached {
            it.unused_for += LIMITS.keep;
        }
    }
    let bytes: u64 = node.cached.iter().map(|it| it.bytes).sum();
    let held = node.cached.iter().filter(|it| it.is_held).map(|it| it.bytes).sum::<u64>();
    assert!(bytes <= LIMITS.cache_bytes_max.max(held), "seed {seed}: {bytes} bytes are kept");
    fetches
}

#[test]
fn passes_come_to_rest_and_fetch_nothing_twice() {
    for seed in 0..3_000 {
        let fetches = rest(seed, 1);
        assert!(fetches.values().all(|times| *times == 1), "seed {seed}: {fetches:?}");
    }
}

#[test]
fn passes_come_to_rest_even_if_bundles_are_larger_than_they_look() {
    for seed in 0..3_000 {
        rest(seed, 3);
    }
}
