use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::try_join_all;
use protocol::NodeInfo;
use tokio::time::sleep;
use tracing::{debug, info, warn};
use zookeeper_client::{EventType, PersistentWatcher};

use super::Shared;
use super::session::{Connection, Failure, Session};
use crate::{Link, VersionNotice};

/// Everything is read again after this long, whatever the watches say.
const REREAD: Duration = Duration::from_secs(30);
/// What changes together is read once.
const SETTLE: Duration = Duration::from_millis(20);

/// What is watched, and what is known of it.
enum Watched {
    Nodes,
    /// What a version's node says never changes, so it is read once.
    Versions(Versions),
}

/// Keeps the view of the nodes current, for ever.
pub(super) async fn nodes(shared: Arc<Shared>) {
    keep_current(&shared, Watched::Nodes).await;
}

/// Keeps the view of the versions current, for ever.
pub(super) async fn versions(shared: Arc<Shared>) {
    keep_current(&shared, Watched::Versions(Versions::new())).await;
}

async fn keep_current(shared: &Shared, mut watched: Watched) {
    loop {
        let connection = shared.connected().await;
        if let Err(failure) = watched.follow(shared, &connection).await {
            debug!(what = watched.name(), ?failure, "cannot read from ZooKeeper; trying again");
            sleep(Duration::from_millis(rand::random_range(200..1_000))).await;
        }
    }
}

impl Watched {
    const fn name(&self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Versions(_) => "models",
        }
    }

    /// Reads after each change and every [`REREAD`], until the connection is another.
    async fn follow(&mut self, shared: &Shared, connection: &Connection) -> Result<(), Failure> {
        let path = connection.session.path(&[self.name()]);
        connection.session.make_directory(&path).await?;
        let mut watch = connection.session.watch_below(&path).await?;
        loop {
            self.read(shared, connection).await?;
            let goes_on = tokio::select! {
                goes_on = changed(&mut watch) => goes_on,
                () = sleep(REREAD) => true,
                () = shared.disconnected(connection) => return Ok(()),
            };
            if !goes_on {
                return Ok(());
            }
            sleep(SETTLE).await;
            while let Some(goes_on) = changed(&mut watch).now_or_never() {
                if !goes_on {
                    return Ok(());
                }
            }
        }
    }

    async fn read(&mut self, shared: &Shared, connection: &Connection) -> Result<(), Failure> {
        match self {
            Self::Nodes => {
                shared.view.set_nodes(read_nodes(&connection.session).await?);
                is_current(shared, connection);
            }
            Self::Versions(known) => {
                *known = read_versions(&connection.session, known).await?;
                shared.view.set_versions(known.values().flatten().cloned().collect());
            }
        }
        Ok(())
    }
}

/// Waits for an event. `false` after the last one: to wait for another would panic.
async fn changed(watch: &mut PersistentWatcher) -> bool {
    let event = watch.changed().await;
    event.event_type != EventType::Session || !event.session_state.is_terminated()
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
