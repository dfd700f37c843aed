//! Which nodes have a version, and whether they are enough for an alias to move to it. No I/O.

use coordination::BundleNotice;
use domain::Runtime;
use protocol::http::{NodeReadiness, ReadyState, VersionReadiness};
use protocol::{BundleState, NodeInfo};
use store::VersionRow;

/// How many nodes that are not ready are named when an alias does not move.
const NAMED_MAX: usize = 8;

/// What the `nodes` that take work and serve the model's queue have of `row`, and whether at least `percent_min` of them
/// are ready. If there are no such nodes, nothing is there to wait for: whoever joins fetches it before it runs it.
pub(crate) fn readiness(
    row: &VersionRow,
    nodes: &[NodeInfo],
    notices: &[BundleNotice],
    percent_min: u32,
) -> VersionReadiness {
    let mut serving: Vec<_> = nodes
        .iter()
        .filter(|node| !node.draining && node.queues.contains(&row.manifest.queue))
        .map(|node| of_node(row, node, notices))
        .collect();
    serving.sort_by(|a, b| a.node.cmp(&b.node));
    serving.dedup_by(|a, b| a.node == b.node);
    let ready = serving.iter().filter(|node| node.state == ReadyState::Ready).count();
    VersionReadiness {
        version: row.version,
        digest: row.digest.to_string(),
        bytes: row.bytes,
        aliases: row.aliases.clone(),
        nodes_ready: u32::try_from(ready).unwrap_or(u32::MAX),
        is_ready: ready * 100 >= serving.len() * percent_min as usize,
        nodes: serving,
    }
}

fn of_node(row: &VersionRow, node: &NodeInfo, notices: &[BundleNotice]) -> NodeReadiness {
    let name = node.id.name().clone();
    let said = notices.iter().find(|it| it.digest == row.digest && it.node == name).map(|it| &it.state);
    let (state, bytes, bytes_total, message) = match said {
        // What runs inside the worker needs no bundle.
        _ if row.manifest.runtime == Runtime::Builtin => (ReadyState::Ready, row.bytes, None, None),
        None => (ReadyState::Missing, 0, None, None),
        Some(BundleState::Fetching { bytes, bytes_total }) => {
            (ReadyState::Fetching, *bytes, Some(*bytes_total).filter(|total| *total > 0), None)
        }
        Some(BundleState::Ready { bytes }) => (ReadyState::Ready, *bytes, None, None),
        Some(BundleState::Failed { message }) => (ReadyState::Failed, 0, None, Some(message.clone())),
    };
    NodeReadiness { node: name, state, bytes, bytes_total, message }
}

/// Why an alias does not move: `3 of 5 nodes are ready (60 %, 80 % needed): node-a fetching 12.0 of 20.0 MB, ...`.
pub(crate) fn explain(readiness: &VersionReadiness, percent_min: u32) -> String {
    let (ready, all) = (readiness.nodes_ready as usize, readiness.nodes.len());
    let mut rest: Vec<_> =
        readiness.nodes.iter().filter(|node| node.state != ReadyState::Ready).map(describe).collect();
    let more = rest.len().saturating_sub(NAMED_MAX);
    rest.truncate(NAMED_MAX);
    if more > 0 {
        rest.push(format!("and {more} more"));
    }
    let percent = (ready * 100).checked_div(all).unwrap_or(100);
    format!("{ready} of {all} nodes are ready ({percent} %, {percent_min} % needed): {}", rest.join(", "))
}

fn describe(node: &NodeReadiness) -> String {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let name = &node.node;
    match (node.state, node.bytes_total, &node.message) {
        (ReadyState::Fetching, Some(total), _) => {
            format!("{name} fetching {:.1} of {:.1} MB", megabytes(node.bytes), megabytes(total))
        }
        (ReadyState::Fetching, None, _) => format!("{name} fetching"),
        (ReadyState::Failed, _, Some(message)) => format!("{name} failed ({message})"),
        (ReadyState::Failed, _, None) => format!("{name} failed"),
        (ReadyState::Ready, ..) => format!("{name} ready"),
        (ReadyState::Missing, ..) => format!("{name} missing"),
    }
}

#[cfg(test)]
mod tests {
    use domain::{Digest, Manifest, NodeId, VersionNumber};
    use jiff::Timestamp;

    use super::*;

    fn row() -> VersionRow {
        VersionRow {
            model: "iris".parse().unwrap(),
            version: VersionNumber(3),
            digest: Digest::of(b"it"),
            bytes: 20_000_000,
            manifest: Manifest::parse("runtime = \"process\"\ncommand = [\"true\"]\n").unwrap(),
            aliases: Vec::new(),
            created_at: Timestamp::UNIX_EPOCH,
            wanted_at: None,
        }
    }

    fn node(name: &str) -> NodeInfo {
        NodeInfo {
            id: NodeId::new(name.parse().unwrap(), 1, 1),
            address: String::new(),
            pid: 1,
            version: String::new(),
            slots: 1,
            queues: vec!["default".parse().unwrap()],
            labels: std::collections::BTreeMap::new(),
            draining: false,
            since: Timestamp::UNIX_EPOCH,
        }
    }

    fn notice(node: &str, state: BundleState) -> BundleNotice {
        BundleNotice { digest: Digest::of(b"it"), node: node.parse().unwrap(), state }
    }

    #[test]
    fn nodes_that_take_no_work_of_the_model_do_not_count() {
        let mut nodes: Vec<_> = ["a", "b", "c", "d"].map(node).into();
        nodes[1].draining = true;
        nodes[2].queues = vec!["gpu".parse().unwrap()];
        let elsewhere =
            BundleNotice { digest: Digest::of(b"else"), ..notice("d", BundleState::Ready { bytes: 1 }) };
        let notices = [notice("a", BundleState::Ready { bytes: 20_000_000 }), elsewhere];
        let found = readiness(&row(), &nodes, &notices, 80);
        let states: Vec<_> = found.nodes.iter().map(|it| (it.node.as_str(), it.state)).collect();
        assert_eq!(states, [("a", ReadyState::Ready), ("d", ReadyState::Missing)]);
        assert_eq!((found.nodes_ready, found.is_ready), (1, false));
        assert!(readiness(&row(), &nodes, &notices, 50).is_ready);
        let builtin = Manifest::parse("runtime = \"builtin\"\nbuiltin = \"echo\"\n").unwrap();
        assert!(readiness(&VersionRow { manifest: builtin, ..row() }, &nodes, &[], 100).is_ready);
        assert!(readiness(&row(), &[], &[], 100).is_ready, "nobody is there to wait for");
    }

    #[test]
    fn four_of_five_are_enough_and_three_are_not_and_it_says_why() {
        let nodes: Vec<_> = ["a", "b", "c", "d", "e"].map(node).into();
        let ready = |name| notice(name, BundleState::Ready { bytes: 20_000_000 });
        let mut notices = vec![
            ready("b"),
            ready("c"),
            ready("d"),
            notice("a", BundleState::Fetching { bytes: 12_000_000, bytes_total: 20_000_000 }),
            notice("e", BundleState::Failed { message: "the disk is full".to_owned() }),
        ];
        let found = readiness(&row(), &nodes, &notices, 80);
        assert!(!found.is_ready);
        assert_eq!(
            explain(&found, 80),
            "3 of 5 nodes are ready (60 %, 80 % needed): a fetching 12.0 of 20.0 MB, e failed (the disk is full)"
        );
        notices[3] = ready("a");
        assert!(readiness(&row(), &nodes, &notices, 80).is_ready);
        let crowd: Vec<_> = (0..20).map(|n| node(&format!("n{n:02}"))).collect();
        let said = explain(&readiness(&row(), &crowd, &[], 80), 80);
        assert!(said.starts_with("0 of 20 nodes are ready (0 %, 80 % needed): n00 missing"), "{said}");
        assert!(said.ends_with("n07 missing, and 12 more"), "{said}");
    }
}
