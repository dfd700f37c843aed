use domain::{AliasName, Digest, Manifest, ModelName, TenantId, VersionNumber, VersionSelector};
use futures::future::join_all;
use store::{AliasSet, ExpectedAlias, PushVersion, SetAlias, VersionRow};

use super::Env;

fn push(model: &str, bundle: &str) -> PushVersion {
    let text = format!("runtime = \"builtin\"\nbuiltin = \"echo\"\ndescription = \"{bundle}\"");
    PushVersion {
        tenant: TenantId::default(),
        model: model.parse().unwrap(),
        digest: Digest::of(bundle.as_bytes()),
        bytes: 1_234,
        manifest: Manifest::parse(&text).unwrap(),
    }
}

async fn find(env: &Env, model: &str, selector: &str) -> Option<VersionRow> {
    let model: ModelName = model.parse().unwrap();
    env.record.find_version(&TenantId::default(), &model, &selector.parse().unwrap()).await.unwrap()
}

pub async fn versions_are_numbered_and_latest_moves(env: Env) {
    assert_eq!(find(&env, "iris", "latest").await, None);
    let first = env.record.push_version(&push("iris", "one")).await.unwrap();
    assert!(first.created);
    assert_eq!((first.version.version, first.version.bytes), (VersionNumber(1), 1_234));
    assert_eq!(first.version.aliases, ["latest"]);
    assert_eq!(first.version.manifest, push("iris", "one").manifest);
    assert_eq!(find(&env, "iris", "latest").await, Some(first.version.clone()));

    let second = env.record.push_version(&push("iris", "two")).await.unwrap();
    assert_eq!(second.version.version, VersionNumber(2));
    assert_eq!(find(&env, "iris", "latest").await, Some(second.version.clone()));
    assert_eq!(find(&env, "iris", "2").await, Some(second.version));
    let first = VersionRow { aliases: Vec::new(), ..first.version };
    assert_eq!(find(&env, "iris", "1").await, Some(first));
    assert_eq!(find(&env, "iris", "3").await, None);
    assert_eq!(find(&env, "iris", "stable").await, None);
    assert_eq!(find(&env, "other", "latest").await, None);
    let stranger = "stranger".parse().unwrap();
    let found =
        env.record.find_version(&stranger, &"iris".parse().unwrap(), &VersionSelector::default()).await;
    assert_eq!(found.unwrap(), None);
}

pub async fn a_bundle_that_is_known_is_the_version_it_has(env: Env) {
    let first = env.record.push_version(&push("iris", "one")).await.unwrap();
    env.record.push_version(&push("iris", "two")).await.unwrap();
    let again = env.record.push_version(&push("iris", "one")).await.unwrap();
    assert!(!again.created);
    assert_eq!(again.version, first.version, "latest points at it again");
    assert_eq!(env.record.list_versions(&TenantId::default(), None).await.unwrap().len(), 2);
    let elsewhere = env.record.push_version(&push("other", "one")).await.unwrap();
    assert!(elsewhere.created);
}

pub async fn versions_are_listed_by_model_and_youngest_first(env: Env) {
    for (model, bundle) in [("b", "1"), ("a", "2"), ("b", "3")] {
        env.record.push_version(&push(model, bundle)).await.unwrap();
    }
    let listed = |rows: Vec<VersionRow>| {
        rows.into_iter()
            .map(|row| (row.model.to_string(), row.version.0, row.aliases.len()))
            .collect::<Vec<_>>()
    };
    let tenant = TenantId::default();
    let all = env.record.list_versions(&tenant, None).await.unwrap();
    let place = |model: &str, version, aliases| (model.to_owned(), version, aliases);
    assert_eq!(listed(all), [place("a", 1, 1), place("b", 2, 1), place("b", 1, 0)]);
    let one = env.record.list_versions(&tenant, Some(&"b".parse().unwrap())).await.unwrap();
    assert_eq!(listed(one), [place("b", 2, 1), place("b", 1, 0)]);
    let stranger = "stranger".parse().unwrap();
    assert_eq!(env.record.list_versions(&stranger, None).await.unwrap(), []);
}

pub async fn versions_pushed_at_once_get_different_numbers(env: Env) {
    let bundles: Vec<_> = (0..12).map(|n| push("iris", &format!("{}", n / 2))).collect();
    let pushed = join_all(bundles.iter().map(|bundle| env.record.push_version(bundle))).await;
    let mut created: Vec<_> =
        pushed.into_iter().map(Result::unwrap).filter(|p| p.created).map(|p| p.version.version.0).collect();
    created.sort_unstable();
    assert_eq!(created, [1, 2, 3, 4, 5, 6]);
    let versions = env.record.list_versions(&TenantId::default(), None).await.unwrap();
    let latest: Vec<_> = versions.iter().map(|version| version.aliases.len()).collect();
    assert_eq!(latest.iter().sum::<usize>(), 1);
}

const ONE: VersionNumber = VersionNumber(1);
const TWO: VersionNumber = VersionNumber(2);

async fn set(env: &Env, alias: &str, version: Option<VersionNumber>, expected: ExpectedAlias) -> AliasSet {
    let set = SetAlias {
        tenant: TenantId::default(),
        model: "iris".parse().unwrap(),
        alias: alias.parse().unwrap(),
        version,
        expected,
    };
    env.record.set_alias(&set).await.unwrap()
}

async fn aliases(env: &Env, tenant: &TenantId) -> Vec<(String, i32)> {
    let found = env.record.list_aliases(tenant, &"iris".parse().unwrap()).await.unwrap();
    found.into_iter().map(|(alias, version): (AliasName, _)| (alias.to_string(), version.0)).collect()
}

pub async fn an_alias_moves_only_from_where_it_is_expected(env: Env) {
    use ExpectedAlias::{Anything, Nothing, Version};
    let tenant = TenantId::default();
    assert_eq!(set(&env, "stable", Some(ONE), Anything).await, AliasSet::NoVersion, "there is no model");
    env.record.push_version(&push("iris", "one")).await.unwrap();
    env.record.push_version(&push("iris", "two")).await.unwrap();
    assert_eq!(set(&env, "stable", Some(VersionNumber(3)), Anything).await, AliasSet::NoVersion);
    assert_eq!(set(&env, "stable", Some(ONE), Version(TWO)).await, AliasSet::Differs { is: None });
    assert_eq!(aliases(&env, &tenant).await, [("latest".to_owned(), 2)]);

    assert_eq!(set(&env, "stable", Some(ONE), Nothing).await, AliasSet::Set { was: None });
    assert_eq!(find(&env, "iris", "stable").await.unwrap().version, ONE);
    assert_eq!(set(&env, "stable", Some(TWO), Nothing).await, AliasSet::Differs { is: Some(ONE) });
    assert_eq!(set(&env, "stable", Some(TWO), Version(TWO)).await, AliasSet::Differs { is: Some(ONE) });
    assert_eq!(find(&env, "iris", "1").await.unwrap().aliases, ["stable"], "it was left alone");
    assert_eq!(set(&env, "stable", Some(TWO), Version(ONE)).await, AliasSet::Set { was: Some(ONE) });
    assert_eq!(set(&env, "stable", Some(TWO), Anything).await, AliasSet::Set { was: Some(TWO) });
    assert_eq!(find(&env, "iris", "2").await.unwrap().aliases, ["latest", "stable"]);
    assert_eq!(aliases(&env, &tenant).await, [("latest".to_owned(), 2), ("stable".to_owned(), 2)]);
    assert_eq!(aliases(&env, &"stranger".parse().unwrap()).await, []);

    assert_eq!(set(&env, "stable", None, Version(ONE)).await, AliasSet::Differs { is: Some(TWO) });
    assert_eq!(set(&env, "stable", None, Version(TWO)).await, AliasSet::Set { was: Some(TWO) });
    assert_eq!(set(&env, "stable", None, Anything).await, AliasSet::Set { was: None });
    assert_eq!(find(&env, "iris", "stable").await, None);
}

pub async fn of_many_who_move_an_alias_from_one_place_one_does(env: Env) {
    for bundle in 0..8 {
        env.record.push_version(&push("iris", &bundle.to_string())).await.unwrap();
    }
    set(&env, "stable", Some(ONE), ExpectedAlias::Nothing).await;
    let moves = (2..=8).map(|n| set(&env, "stable", Some(VersionNumber(n)), ExpectedAlias::Version(ONE)));
    let moved = join_all(moves).await.into_iter().filter(|set| matches!(set, AliasSet::Set { .. })).count();
    assert_eq!(moved, 1);
}

pub async fn a_version_is_noted_as_wanted(env: Env) {
    env.record.push_version(&push("iris", "one")).await.unwrap();
    assert_eq!(find(&env, "iris", "1").await.unwrap().wanted_at, None);
    let (tenant, model) = (TenantId::default(), "iris".parse().unwrap());
    for version in [ONE, TWO] {
        env.record.want_version(&tenant, &model, version).await.unwrap();
    }
    let listed = env.record.list_versions(&tenant, None).await.unwrap();
    assert!(listed.len() == 1 && listed[0].wanted_at.is_some_and(|at| at >= listed[0].created_at));
}
