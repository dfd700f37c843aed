//! The leader latch: Curator's recipe on the client's primitives.
//!
//! Each who stands has an ephemeral sequential node; the lowest number leads, and everyone else watches only the one
//! before. The fence is the `czxid` of the leader's node: a later leader's node was made later, also when the sequence
//! began anew because the parent was deleted.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, info};
use uuid::Uuid;

use super::Shared;
use super::session::{Connection, Failure, Session};
use crate::Lead;

/// How often it is checked that all is as it seems, whatever the watches say.
const RECHECK: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(500);

/// Stands for election until nobody wants to know.
pub(super) async fn stand(shared: Arc<Shared>, what: String, holder: String, lead: watch::Sender<Lead>) {
    let candidate = Candidate { what, holder, name: format!("_c_{}-latch-", Uuid::now_v7()) };
    let stand = async {
        loop {
            let connection = shared.connected().await;
            if let Err(failure) = follow(&shared, &connection, &candidate, &lead).await {
                debug!(what = candidate.what, ?failure, "the election cannot be followed; trying again");
            }
            // Disconnected is not deposed; but who cannot ask cannot know.
            set(&candidate, &lead, Lead::No);
            sleep(PAUSE.mul_f64(rand::random())).await;
        }
    };
    tokio::select! {
        () = stand => {}
        () = lead.closed() => {}
        () = shared.closing.cancelled() => {}
    }
    set(&candidate, &lead, Lead::No);
    shared.take_back("a candidacy", resign(&shared, &candidate)).await;
}

struct Candidate {
    what: String,
    holder: String,
    /// What the node's name begins with. It is found by it when the answer to its making was lost.
    name: String,
}

impl Candidate {
    fn directory(&self, session: &Session) -> String {
        session.path(&["leader", &self.what])
    }
}

fn set(candidate: &Candidate, lead: &watch::Sender<Lead>, now: Lead) {
    if lead.send_if_modified(|known| std::mem::replace(known, now) != now) {
        info!(what = candidate.what, holder = candidate.holder, ?now, "the lead has changed");
    }
}

/// Until the connection is another.
async fn follow(
    shared: &Shared,
    connection: &Connection,
    candidate: &Candidate,
    lead: &watch::Sender<Lead>,
) -> Result<(), Failure> {
    let session = &connection.session;
    let directory = candidate.directory(session);
    session.make_directory(&directory).await?;
    loop {
        let standing = standing(session, &directory).await?;
        let Some(at) = standing.iter().position(|name| name.starts_with(&candidate.name)) else {
            let path = format!("{directory}/{}", candidate.name);
            drop(session.create_sequential(&path, candidate.holder.as_bytes()).await?);
            continue;
        };
        let path = format!("{directory}/{}", standing[at]);
        let (own, changed) = session.watch_stat(&path).await?;
        match own {
            Some(own) if own.ephemeral_owner == session.id() => {
                let before = if at == 0 {
                    set(candidate, lead, Lead::Yes { fence: own.czxid });
                    None
                } else {
                    set(candidate, lead, Lead::No);
                    let (before, gone) =
                        session.watch_stat(&format!("{directory}/{}", standing[at - 1])).await?;
                    before.map(|_| gone)
                };
                if at > 0 && before.is_none() {
                    continue;
                }
                tokio::select! {
                    _ = changed.changed() => {}
                    () = async { match before {
                        Some(before) => drop(before.changed().await),
                        None => std::future::pending().await,
                    } } => {}
                    () = sleep(RECHECK) => {}
                    () = shared.disconnected(connection) => return Ok(()),
                }
            }
            // Left by a session of ours that is over: only the fence of the new one counts.
            Some(_) => session.delete(&path, None).await?,
            None => {}
        }
    }
}

/// Everyone who stands, in the order of their nodes.
async fn standing(session: &Session, directory: &str) -> Result<Vec<String>, Failure> {
    let sequence = |name: &String| name.rsplit_once('-').and_then(|(_, digits)| digits.parse::<i64>().ok());
    let mut names: Vec<String> = session.list(directory).await?;
    names.retain(|name| sequence(name).is_some());
    names.sort_by_key(sequence);
    Ok(names)
}

async fn resign(shared: &Shared, candidate: &Candidate) {
    loop {
        let session = shared.connected().await.session;
        let directory = candidate.directory(&session);
        let resigned = async {
            for name in session.list(&directory).await? {
                if name.starts_with(&candidate.name) {
                    session.delete(&format!("{directory}/{name}"), None).await?;
                }
            }
            Ok::<_, Failure>(())
        };
        match resigned.await {
            Ok(()) => return,
            Err(failure) => debug!(what = candidate.what, ?failure, "cannot resign; trying again"),
        }
        sleep(PAUSE / 5).await;
    }
}
