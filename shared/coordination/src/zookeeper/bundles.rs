use std::sync::Arc;
use std::time::Duration;

use futures::{TryStreamExt, stream};
use protocol::BundleState;
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::Shared;
use super::session::{Connection, Failure, Session};
use crate::notices::Where;

/// Where they are below the root: `<digest>/<node>`.
pub(super) const DIRECTORY: &str = "ready";
/// How often it is checked that all notices are there, besides after each connect.
const RECHECK: Duration = Duration::from_secs(30);
/// After a failure.
const PAUSE: Duration = Duration::from_millis(500);
/// How many znodes are looked at at once.
const AT_ONCE: usize = 16;

/// Keeps the ephemeral znodes of what this process says of bundles, under each session anew, for ever. They go with the
/// session.
pub(super) async fn keep(shared: Arc<Shared>) {
    loop {
        let connection = shared.connected().await;
        if let Err(failure) = keep_over(&shared, &connection).await {
            debug!(?failure, "cannot tell what this node has of bundles; trying on");
            sleep(PAUSE).await;
        }
    }
}

async fn keep_over(shared: &Shared, connection: &Connection) -> Result<(), Failure> {
    shared.notices.all_untold();
    let mut told = Instant::now();
    let recheck = sleep(RECHECK);
    tokio::pin!(recheck);
    loop {
        tokio::select! {
            () = shared.notices.changed(told) => {}
            () = &mut recheck => return Ok(()),
            () = shared.disconnected(connection) => return Ok(()),
        }
        let untold = shared.notices.take();
        let places: Vec<Where> = untold.iter().map(|(place, _)| place.clone()).collect();
        let telling = untold.into_iter().map(Ok::<_, Failure>);
        let told_all = stream::iter(telling)
            .try_for_each_concurrent(AT_ONCE, |(place, state)| reconcile(&connection.session, place, state));
        if let Err(failure) = told_all.await {
            // Some of them may be told: telling them again is harmless.
            shared.notices.put_back(places);
            return Err(failure);
        }
        told = Instant::now();
    }
}

/// Makes the znode what is said now: the one way to make it, change it, take it away, and learn what became of an earlier
/// try whose answer was lost.
async fn reconcile(session: &Session, place: Where, state: Option<BundleState>) -> Result<(), Failure> {
    let directory = session.path(&[DIRECTORY, &place.0.to_string()]);
    let path = format!("{directory}/{}", place.1);
    let Some(state) = state else {
        return match session.find_stat(&path).await? {
            Some(stat) if stat.ephemeral_owner == session.id() => session.delete(&path, None).await,
            _ => Ok(()),
        };
    };
    let text = serde_json::to_vec(&state).unwrap_or_default();
    // What is in the way may go while we look, and an empty directory too.
    for _ in 0..5 {
        match session.find(&path).await? {
            Some((data, stat)) if stat.ephemeral_owner == session.id() => {
                if data != text {
                    session.replace(&path, &text, stat.version).await?;
                }
                return Ok(());
            }
            // Of an earlier session of ours, or of an earlier life of the node.
            Some((_, stat)) => session.delete(&path, Some(stat.version)).await?,
            None => {
                session.make_directory(&session.path(&[DIRECTORY])).await?;
                session.create_container(&directory, b"").await?;
                match session.create_ephemeral(&path, &text).await {
                    Ok(true) => return Ok(()),
                    Ok(false) | Err(Failure::Refused(zookeeper_client::Error::NoNode)) => {}
                    Err(failure) => return Err(failure),
                }
            }
        }
    }
    Err(Failure::Unknown(None))
}
