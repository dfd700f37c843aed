use std::time::Duration;

use domain::{Digest, TenantId};
use protocol::{Drain, DrainMode, NodeSettings};
use serde_json::json;
use store::{BundleChange, BundleRow, ContendedKind, Entered, NewContender, Standing};
use uuid::Uuid;

use super::Env;

pub const LEASE: Duration = Duration::from_secs(10);

/// Somebody who comes for the lock `name`.
pub fn contender(name: &str) -> NewContender {
    let ticket = Uuid::now_v7();
    NewContender {
        ticket,
        tenant: TenantId::default(),
        kind: ContendedKind::Lock,
        name: name.to_owned(),
        running_max: 1,
        contender: json!({"ticket": ticket}),
    }
}

fn for_limit(name: &str, running_max: u32) -> NewContender {
    NewContender { kind: ContendedKind::Limit, running_max, ..contender(name) }
}

async fn enters(env: &Env, new: &NewContender) -> Standing {
    match env.record.enter(new, 100, LEASE).await.unwrap() {
        Entered::Stands(standing) => {
            assert_eq!(standing.ticket, new.ticket);
            standing
        }
        Entered::Full(waiters) => panic!("{waiters} wait"),
    }
}

async fn stands(env: &Env, new: &NewContender) -> Option<Standing> {
    env.record.stand(&[new.ticket], LEASE).await.unwrap().pop()
}

async fn leaves(env: &Env, new: &NewContender) {
    env.record.leave(&[new.ticket]).await.unwrap();
}

pub async fn who_comes_first_has_the_lock_first(env: Env) {
    let [a, b, c] = ["k"; 3].map(contender);
    let first = enters(&env, &a).await.fence.unwrap();
    assert_eq!((enters(&env, &b).await.before, enters(&env, &c).await.before), (1, 2));
    for new in [&b, &c] {
        assert_eq!(stands(&env, new).await.unwrap().fence, None);
    }
    leaves(&env, &a).await;
    assert_eq!(stands(&env, &c).await.unwrap(), Standing { ticket: c.ticket, before: 1, fence: None });
    let second = stands(&env, &b).await.unwrap().fence.unwrap();
    assert!(second > first, "{second} after {first}");
    assert_eq!(stands(&env, &b).await.unwrap().fence, Some(second), "it keeps its fence");
    leaves(&env, &b).await;
    leaves(&env, &b).await;
    assert!(stands(&env, &b).await.is_none());
    let third = stands(&env, &c).await.unwrap().fence.unwrap();
    assert!(third > second, "{third} after {second}");
    leaves(&env, &c).await;
    // The queue was empty meanwhile; fences grow all the same, also those of another lock.
    let fourth = enters(&env, &contender("k")).await.fence.unwrap();
    let fifth = enters(&env, &contender("another")).await.fence.unwrap();
    assert!(fifth > fourth && fourth > third, "{fifth}, {fourth} after {third}");
    assert_eq!(env.record.highest_contention_fence().await.unwrap(), fifth);
}

pub async fn who_enters_again_attaches(env: Env) {
    assert_eq!(env.record.highest_contention_fence().await.unwrap(), 0);
    let [a, b] = ["k"; 2].map(contender);
    let has = enters(&env, &a).await;
    let waits = enters(&env, &b).await;
    enters(&env, &contender("k")).await;
    for _ in 0..2 {
        assert_eq!(enters(&env, &a).await.fence, has.fence);
        assert_eq!(enters(&env, &b).await, waits);
    }
    // A full queue is none to who is in it.
    assert_eq!(env.record.enter(&b, 0, LEASE).await.unwrap(), Entered::Stands(waits));
    let queue = env.record.list_contenders(&a.tenant, a.kind, "k").await.unwrap();
    assert_eq!(queue.len(), 3);
}

pub async fn more_than_may_wait_are_turned_away(env: Env) {
    for new in [contender as fn(&str) -> NewContender, |name| for_limit(name, 1)] {
        for before in 0..4 {
            let entered = env.record.enter(&new("k"), 2, LEASE).await.unwrap();
            assert!(matches!(entered, Entered::Stands(standing) if standing.before == before));
        }
        assert_eq!(env.record.enter(&new("k"), 2, LEASE).await.unwrap(), Entered::Full(3));
        let free = env.record.enter(&new("free"), 0, LEASE).await.unwrap();
        assert!(matches!(free, Entered::Stands(Standing { fence: Some(_), .. })));
    }
}

pub async fn a_lease_that_runs_out_makes_way_unless_it_was_extended(env: Env) {
    let [a, b, c] = ["k"; 3].map(contender);
    let first = enters(&env, &a).await.fence.unwrap();
    enters(&env, &b).await;
    enters(&env, &c).await;
    env.pass(Duration::from_secs(6)).await;
    // The holder and the last one say that they are there; the one between does not.
    let both = env.record.stand(&[a.ticket, c.ticket], LEASE).await.unwrap();
    assert_eq!(both.iter().filter_map(|standing| standing.fence).collect::<Vec<_>>(), [first]);
    env.pass(Duration::from_secs(6)).await;
    assert_eq!(stands(&env, &c).await.unwrap().before, 1, "who did not say so is gone");
    assert!(stands(&env, &b).await.is_none());
    env.pass(Duration::from_secs(6)).await;
    let second = stands(&env, &c).await.unwrap().fence.unwrap();
    assert!(second > first);
    assert!(stands(&env, &a).await.is_none(), "it is lost");
    // What ran out and nobody wanted is still its own.
    env.pass(Duration::from_secs(60)).await;
    assert_eq!(stands(&env, &c).await.unwrap().fence, Some(second));
}

pub async fn who_enters_passes_what_ran_out(env: Env) {
    let [a, b] = ["k"; 2].map(contender);
    let first = enters(&env, &a).await.fence.unwrap();
    env.pass(LEASE).await;
    let queue = env.record.list_contenders(&a.tenant, a.kind, "k").await.unwrap();
    assert_eq!(queue, [], "what ran out is not shown");
    assert_eq!(env.record.list_contended(&a.tenant, a.kind).await.unwrap(), [""; 0]);
    let entered = env.record.enter(&b, 0, LEASE).await.unwrap();
    assert!(matches!(entered, Entered::Stands(Standing { fence: Some(fence), .. }) if fence > first));
}

pub async fn a_limit_is_had_by_so_many(env: Env) {
    let all: Vec<_> = (0..5).map(|_| for_limit("gpu", 3)).collect();
    let mut fences = Vec::new();
    for new in &all {
        fences.extend(enters(&env, new).await.fence);
    }
    assert_eq!(fences.len(), 3);
    assert!(fences.is_sorted_by(|a, b| a < b));
    let queue = env.record.list_contenders(&all[0].tenant, ContendedKind::Limit, "gpu").await.unwrap();
    let shown: Vec<_> = queue.iter().map(|one| (one.contender.clone(), one.fence)).collect();
    let mut has = fences.iter().copied();
    let wanted: Vec<_> = all.iter().map(|new| (new.contender.clone(), has.next())).collect();
    assert_eq!(shown, wanted);
    leaves(&env, &all[1]).await;
    let tickets: Vec<_> = all.iter().map(|new| new.ticket).collect();
    let standings = env.record.stand(&tickets, LEASE).await.unwrap();
    let having: Vec<_> = all
        .iter()
        .filter(|new| standings.iter().any(|one| one.ticket == new.ticket && one.fence.is_some()))
        .map(|new| new.ticket)
        .collect();
    assert_eq!(having, [all[0].ticket, all[2].ticket, all[3].ticket]);
    assert_eq!(env.record.stand(&[], LEASE).await.unwrap(), []);
}

pub async fn queues_of_other_tenants_kinds_and_names_are_others(env: Env) {
    let other = NewContender { tenant: "other".parse().unwrap(), ..contender("k") };
    let mut all = vec![contender("k"), contender("K"), for_limit("k", 1), other];
    all.push(for_limit("k b", 1));
    for new in &all {
        assert!(enters(&env, new).await.fence.is_some());
    }
    let limits = env.record.list_contended(&TenantId::default(), ContendedKind::Limit).await.unwrap();
    assert_eq!(limits, ["k", "k b"]);
    let tickets: Vec<_> = all.iter().map(|new| new.ticket).collect();
    env.record.leave(&tickets).await.unwrap();
    assert_eq!(env.record.stand(&tickets, LEASE).await.unwrap(), []);
}

pub async fn what_is_asked_of_nodes_is_kept_until_it_is_nothing(env: Env) {
    let [one, two] = ["one", "two"].map(|name| name.parse().unwrap());
    let drain = Drain { mode: DrainMode::Kill, until: None, since: "2026-01-01T00:00:00Z".parse().unwrap() };
    let asked = [
        (two, NodeSettings { slots: Some(3), drain: None }),
        (one, NodeSettings { slots: Some(7), drain: Some(drain) }),
    ];
    for (node, settings) in &asked {
        env.record.set_node(node, &NodeSettings { slots: Some(1), drain: None }).await.unwrap();
        env.record.set_node(node, settings).await.unwrap();
    }
    let kept = env.record.list_node_settings().await.unwrap();
    let read: Vec<(_, NodeSettings)> =
        kept.into_iter().map(|(node, text)| (node, serde_json::from_str(&text).unwrap())).collect();
    assert_eq!(read, [asked[1].clone(), asked[0].clone()]);
    for (node, _) in &asked {
        env.record.set_node(node, &NodeSettings::default()).await.unwrap();
    }
    assert_eq!(env.record.list_node_settings().await.unwrap(), []);
}

pub async fn what_nodes_have_of_bundles_lasts_as_long_as_the_lease_of_who_said_so(env: Env) {
    let change = |bundle: &str, node: &str, state: Option<u32>| BundleChange {
        digest: Digest::of(bundle.as_bytes()),
        node: node.parse().unwrap(),
        state: state.map(|bytes| json!({"state": "ready", "bytes": bytes})),
    };
    let shown = async || {
        let rows = env.record.list_bundles().await.unwrap();
        rows.into_iter()
            .map(|BundleRow { digest, node, state }| {
                let state: serde_json::Value = serde_json::from_str(&state).unwrap();
                (digest, node.to_string(), state["bytes"].as_u64().unwrap())
            })
            .collect::<Vec<_>>()
    };
    let digest = Digest::of(b"a");
    let row = |node: &str, bytes: u64| (digest, node.to_owned(), bytes);
    let [one, two] = [Uuid::now_v7(), Uuid::now_v7()];
    let tells =
        async |by, changes: &[BundleChange]| env.record.announce_bundles(by, changes, LEASE).await.unwrap();
    assert!(!tells(one, &[change("a", "one", Some(1)), change("b", "one", Some(2))]).await);
    assert!(tells(one, &[change("a", "one", Some(3)), change("b", "one", None)]).await);
    assert!(!tells(two, &[change("a", "two", Some(4)), change("a", "one", None)]).await);
    assert_eq!(shown().await, [row("one", 3), row("two", 4)]);
    env.pass(Duration::from_secs(6)).await;
    assert!(tells(two, &[]).await);
    env.pass(Duration::from_secs(6)).await;
    assert_eq!(shown().await, [row("two", 4)]);
    // Back in time, everything is as it was; another life of the node says it anew.
    assert!(tells(one, &[]).await);
    assert!(tells(two, &[change("a", "one", Some(5))]).await);
    env.record.withdraw_bundles(one).await.unwrap();
    env.record.withdraw_bundles(one).await.unwrap();
    assert_eq!(shown().await, [row("one", 5), row("two", 4)]);
    assert!(!tells(one, &[]).await, "it is not known any more");
}
