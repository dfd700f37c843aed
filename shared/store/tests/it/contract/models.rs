use domain::{Digest, Manifest, ModelName, TenantId, VersionNumber, VersionSelector};
use futures::future::join_all;
use store::{PushVersion, VersionRow};

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
