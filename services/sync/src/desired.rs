//! Which bundles a node should have, in which order.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use coordination::VersionNotice;
use domain::{Digest, ModelName, QueueName, Runtime};
use jiff::Timestamp;
use store::VersionRow;

use crate::plan::Desired;

/// For how long a version is wanted after an alias was to move to it.
const WANTED_FOR: Duration = Duration::from_secs(24 * 3600);

/// What is known of the cluster.
pub(crate) struct Cluster<'a> {
    /// The versions as the record has them: by model, the youngest first.
    pub(crate) rows: &'a [VersionRow],
    /// The versions as the coordination tells of them: at once, and with less detail.
    pub(crate) notices: &'a [VersionNotice],
    /// The queues that this node serves; `None` while it is not known.
    pub(crate) queues: Option<&'a [QueueName]>,
    pub(crate) now: Timestamp,
}

/// The versions that aliases point at or are to point at; then the `versions_max` youngest of each model, the youngest of
/// every model before the second youngest of any. Those of queues that this node does not serve are left out.
/// `size_of` is what a bundle takes in the cache, if that is known.
pub(crate) fn desired(
    cluster: &Cluster<'_>,
    versions_max: usize,
    size_of: impl Fn(Digest) -> Option<u64>,
) -> Vec<Desired> {
    let mut order = Vec::new();
    let mut ranks: HashMap<&ModelName, usize> = HashMap::new();
    let known: HashSet<_> = cluster.rows.iter().map(|row| row.digest).collect();
    let mut notices: Vec<_> = cluster.notices.iter().filter(|it| !known.contains(&it.digest)).collect();
    notices.sort_by_key(|notice| std::cmp::Reverse(notice.version));
    // The record has not told of them yet, so they are younger.
    for notice in notices {
        let rank = ranks.entry(&notice.model).or_default();
        order.push(((false, *rank, None), notice.digest, 0));
        *rank += 1;
    }
    for row in cluster.rows {
        let rank = ranks.entry(&row.model).or_default();
        let place = (is_pinned(row, cluster.now), *rank, Some(row.created_at));
        *rank += 1;
        let is_served = cluster.queues.is_none_or(|queues| queues.contains(&row.manifest.queue));
        if is_served && row.manifest.runtime != Runtime::Builtin {
            order.push((place, row.digest, row.bytes));
        }
    }
    order.retain(|((is_pinned, rank, _), ..)| *is_pinned || *rank < versions_max);
    order.sort_by_key(|((is_pinned, rank, created_at), digest, _)| {
        (!is_pinned, *rank, created_at.map(std::cmp::Reverse), *digest)
    });
    let mut seen = HashSet::new();
    let wanted = order.into_iter().filter(|(_, digest, _)| seen.insert(*digest));
    wanted
        .map(|((is_pinned, ..), digest, packed)| Desired {
            digest,
            bytes: size_of(digest).unwrap_or(packed),
            is_pinned,
        })
        .collect()
}

fn is_pinned(row: &VersionRow, now: Timestamp) -> bool {
    let is_wanted = |at: Timestamp| now.duration_since(at).unsigned_abs() < WANTED_FOR;
    !row.aliases.is_empty() || row.wanted_at.is_some_and(is_wanted)
}

#[cfg(test)]
mod tests {
    use domain::{Manifest, VersionNumber};

    use super::*;

    fn digest(model: &str, version: i32) -> Digest {
        Digest::of(format!("{model}{version}").as_bytes())
    }

    fn row(model: &str, version: i32) -> VersionRow {
        VersionRow {
            model: model.parse().unwrap(),
            version: VersionNumber(version),
            digest: digest(model, version),
            bytes: 10,
            manifest: Manifest::parse("runtime = \"process\"\ncommand = [\"true\"]\n").unwrap(),
            aliases: Vec::new(),
            created_at: Timestamp::from_second(1_000_000 + i64::from(version)).unwrap(),
            wanted_at: None,
        }
    }

    fn names(cluster: &Cluster<'_>, versions_max: usize) -> Vec<String> {
        let all = ["a", "b"].into_iter().flat_map(|model| (1..9).map(move |version| (model, version)));
        let all: HashMap<_, _> =
            all.map(|(model, version)| (digest(model, version), format!("{model}{version}"))).collect();
        desired(cluster, versions_max, |_| None)
            .iter()
            .map(|it| format!("{}{}", all[&it.digest], if it.is_pinned { "!" } else { "" }))
            .collect()
    }

    #[test]
    fn what_aliases_point_at_comes_first_and_then_the_youngest_of_each_model() {
        let mut rows = [row("a", 4), row("a", 3), row("a", 2), row("a", 1), row("b", 2), row("b", 1)];
        rows[3].aliases = vec!["stable".to_owned()];
        let now = Timestamp::from_second(2_000_000).unwrap();
        let mut cluster = Cluster { rows: &rows, notices: &[], queues: None, now };
        assert_eq!(names(&cluster, 2), ["a1!", "a4", "b2", "a3", "b1"]);
        assert_eq!(names(&cluster, 0), ["a1!"]);
        let served = ["other".parse().unwrap()];
        cluster.queues = Some(&served);
        assert_eq!(names(&cluster, 2), [""; 0]);

        rows[2].wanted_at = Some(Timestamp::from_second(2_000_000 - 3_600).unwrap());
        rows[0].wanted_at = Some(Timestamp::from_second(2_000_000 - 30 * 3_600).unwrap());
        let notice =
            VersionNotice { model: "b".parse().unwrap(), version: VersionNumber(3), digest: digest("b", 3) };
        let notices = [notice];
        let cluster = Cluster { rows: &rows, notices: &notices, queues: None, now };
        assert_eq!(names(&cluster, 2), ["a2!", "a1!", "b3", "a4", "a3", "b2"]);
    }
}
