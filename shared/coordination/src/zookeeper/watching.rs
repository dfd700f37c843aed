use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use domain::NodeName;
use futures::FutureExt;
use futures::future::try_join_all;
use protocol::{NodeInfo, NodeSettings};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};
use zookeeper_client::{EventType, PersistentWatcher};

use super::session::{Connection, Failure, Session};
use super::{Shared, bundles, settings};
use crate::{BundleNotice, Link, VersionNotice};

/// Everything is read again after this long, whatever the watches say.
const REREAD: Duration = Duration::from_secs(30);
/// What changes together is read once.
const SETTLE: Duration = Duration::from_millis(20);
/// The same for bundles, of which transfers tell all the time.
const SETTLE_BUNDLES: Duration = Duration::from_millis(100);

/// What is watched, and what is known of it.
enum Watched {
    Nodes,
    /// What a version's node says never changes, so it is read once.
    Versions(Versions),
    Settings,
    /// There may be many: only those that changed are read.
    Bundles(Bundles),
}

/// Keeps the view of the nodes current, for ever.
pub(super) async fn nodes(shared: Arc<Shared>) {
    keep_current(&shared, Watched::Nodes).await;
}

/// Keeps the view of the versions current, for ever.
pub(super) async fn versions(shared: Arc<Shared>) {
    keep_current(&shared, Watched::Versions(Versions::new())).await;
}

/// Keeps the view of what is asked of nodes current, for ever.
pub(super) async fn settings(shared: Arc<Shared>) {
    keep_current(&shared, Watched::Settings).await;
}

/// Keeps the view of what nodes have of bundles current, for ever.
pub(super) async fn bundles(shared: Arc<Shared>) {
    keep_current(&shared, Watched::Bundles(Bundles::new())).await;
}

async fn keep_current(shared: &Shared, mut watched: Watched) {
    loop {
        let connection = shared.connected().await;
        if let Err(failure) = watched.follow(shared, &connection).await {
            debug!(what = ?watched.parts(), ?failure, "cannot read from ZooKeeper; trying again");
            sleep(Duration::from_millis(rand::random_range(200..1_000))).await;
        }
    }
}

/// Which of it to read.
enum Changed {
    All,
    /// At these paths.
    At(BTreeSet<String>),
}

impl Watched {
    const fn parts(&self) -> &'static [&'static str] {
        match self {
            Self::Nodes => &["nodes"],
            Self::Versions(_) => &["models"],
            Self::Settings => &settings::DIRECTORY,
            Self::Bundles(_) => &[bundles::DIRECTORY],
        }
    }

    const fn settle(&self) -> Duration {
        match self {
            Self::Nodes | Self::Versions(_) | Self::Settings => SETTLE,
            Self::Bundles(_) => SETTLE_BUNDLES,
        }
    }

    /// Reads after each change and every [`REREAD`], until the connection is another.
    async fn follow(&mut self, shared: &Shared, connection: &Connection) -> Result<(), Failure> {
        let path = connection.session.path(self.parts());
        connection.session.make_directory(&path).await?;
        let mut watch = connection.session.watch_below(&path).await?;
        let mut reread = Instant::now() + REREAD;
        let mut changes = Changed::All;
        loop {
            self.read(shared, connection, changes).await?;
            let first = tokio::select! {
                first = changed(&mut watch) => first,
                () = sleep_until(reread) => {
                    reread = Instant::now() + REREAD;
                    changes = Changed::All;
                    continue;
                }
                () = shared.disconnected(connection) => return Ok(()),
            };
            let Some(first) = first else { return Ok(()) };
            let mut paths = BTreeSet::from([first]);
            sleep(self.settle()).await;
            while let Some(next) = changed(&mut watch).now_or_never() {
                let Some(next) = next else { return Ok(()) };
                paths.insert(next);
            }
            changes = Changed::At(paths);
        }
    }

    async fn read(
        &mut self,
        shared: &Shared,
        connection: &Connection,
        changes: Changed,
    ) -> Result<(), Failure> {
        let session = &connection.session;
        match self {
            Self::Nodes => {
                shared.view.set_nodes(read_nodes(session).await?);
                is_current(shared, connection);
            }
            Self::Versions(known) => {
                *known = read_versions(session, known).await?;
                shared.view.set_versions(known.values().flatten().cloned().collect());
            }
            Self::Settings => shared.view.set_settings(read_settings(session).await?),
            Self::Bundles(known) => {
                match changes {
                    Changed::All => *known = read_bundles(session).await?,
                    Changed::At(paths) => read_bundles_at(session, known, paths).await?,
                }
                shared.view.set_bundles(known.values().cloned().collect());
            }
        }
        Ok(())
    }
}

/// Waits for an event and returns its path. `None` after the last one: to wait for another would panic.
async fn changed(watch: &mut PersistentWatcher) -> Option<String> {
    let event = watch.changed().await;
    let is_last = event.event_type == EventType::Session && event.session_state.is_terminated();
    (!is_last).then_some(event.path)
}

/// Says that the view is what was read over `connection`, unless that was lost meanwhile.
fn is_current(shared: &Shared, connection: &Connection) {
    if shared.view.set_link(Link::Up) {
        info!("connected to ZooKeeper: the view of the nodes is current");
    }
    // Who loses a connection says so after it is gone; so either they come later, or it is seen here.
    let lost = shared.connection.borrow().as_ref().is_none_or(|now| now.epoch != connection.epoch);
    if lost {
        shared.view.set_link(Link::Down);
    }
}

async fn read_nodes(session: &Session) -> Result<Vec<NodeInfo>, Failure> {
    let directory = session.path(&["nodes"]);
    let mut nodes = Vec::new();
    for (path, data) in read_all(session, session.list(&directory).await?, &directory).await? {
        match serde_json::from_slice(&data) {
            Ok(node) => nodes.push(node),
            Err(error) => warn!(path, %error, "the announcement of a node cannot be read"),
        }
    }
    Ok(nodes)
}

/// What the nodes of versions say, by path; `None` where it cannot be read.
type Versions = HashMap<String, Option<VersionNotice>>;

async fn read_versions(session: &Session, known: &Versions) -> Result<Versions, Failure> {
    let directory = session.path(&["models"]);
    let mut now = Versions::new();
    for model in session.list(&directory).await? {
        let model = format!("{directory}/{model}");
        let mut unread = Vec::new();
        for version in session.list(&model).await? {
            let path = format!("{model}/{version}");
            match known.get(&path) {
                Some(notice) => drop(now.insert(path, notice.clone())),
                None => unread.push(version),
            }
        }
        for (path, data) in read_all(session, unread, &model).await? {
            let notice = serde_json::from_slice(&data)
                .inspect_err(|error| warn!(path, %error, "the note of a version cannot be read"))
                .ok();
            now.insert(path, notice);
        }
    }
    Ok(now)
}

async fn read_settings(session: &Session) -> Result<BTreeMap<NodeName, NodeSettings>, Failure> {
    let directory = session.path(&settings::DIRECTORY);
    let mut all = BTreeMap::new();
    for (path, data) in read_all(session, session.list(&directory).await?, &directory).await? {
        let name = path.rsplit('/').next().unwrap_or_default().parse::<NodeName>();
        match (name, serde_json::from_slice(&data)) {
            (Ok(node), Ok(settings)) => drop(all.insert(node, settings)),
            (Err(error), _) => warn!(path, %error, "settings of what is no node count for nothing"),
            (_, Err(error)) => {
                warn!(path, %error, "what is asked of a node cannot be read and counts for nothing");
            }
        }
    }
    Ok(all)
}

/// What nodes say of bundles, by path.
type Bundles = HashMap<String, BundleNotice>;

async fn read_bundles(session: &Session) -> Result<Bundles, Failure> {
    let root = session.path(&[bundles::DIRECTORY]);
    let mut all = Bundles::new();
    for digest in session.list(&root).await? {
        let directory = format!("{root}/{digest}");
        for (path, data) in read_all(session, session.list(&directory).await?, &directory).await? {
            if let Some(notice) = bundle_notice(&path, &data) {
                all.insert(path, notice);
            }
        }
    }
    Ok(all)
}

/// Reads what stands at `paths` now.
async fn read_bundles_at(
    session: &Session,
    known: &mut Bundles,
    paths: BTreeSet<String>,
) -> Result<(), Failure> {
    let depth = session.path(&[bundles::DIRECTORY]).matches('/').count() + 2;
    let asked = paths.into_iter().filter(|path| path.matches('/').count() == depth).map(|path| {
        let session = session.clone();
        async move { Ok::<_, Failure>((session.find(&path).await?, path)) }
    });
    for (found, path) in try_join_all(asked).await? {
        match found.and_then(|(data, _)| bundle_notice(&path, &data)) {
            Some(notice) => drop(known.insert(path, notice)),
            None => drop(known.remove(&path)),
        }
    }
    Ok(())
}

fn bundle_notice(path: &str, data: &[u8]) -> Option<BundleNotice> {
    let mut parts = path.rsplit('/');
    let (node, digest) = (parts.next()?.parse(), parts.next()?.parse());
    match (digest, node, serde_json::from_slice(data)) {
        (Ok(digest), Ok(node), Ok(state)) => Some(BundleNotice { digest, node, state }),
        _ => {
            warn!(path, "what a node has of a bundle cannot be read");
            None
        }
    }
}

/// The data of those `names` in `directory` that are still there, by path; all are asked for at once.
async fn read_all(
    session: &Session,
    names: Vec<String>,
    directory: &str,
) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let asked = names.into_iter().map(|name| {
        let (session, path) = (session.clone(), format!("{directory}/{name}"));
        async move { Ok::<_, Failure>(session.find(&path).await?.map(|(data, _)| (path, data))) }
    });
    Ok(try_join_all(asked).await?.into_iter().flatten().collect())
}
