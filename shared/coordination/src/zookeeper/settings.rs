use domain::NodeName;
use protocol::NodeSettings;
use zookeeper_client::Error;

use super::session::{Failure, Session};

/// Where they are below the root.
pub(super) const DIRECTORY: [&str; 2] = ["settings", "nodes"];
/// How often a change is tried that somebody else's overtakes.
const TRIES: usize = 5;

/// Replaces what is asked of a node: its persistent znode, which is not there while nothing is asked.
pub(super) async fn set(session: &Session, node: &NodeName, settings: &NodeSettings) -> Result<(), Failure> {
    let directory = session.path(&DIRECTORY);
    let path = format!("{directory}/{node}");
    if *settings == NodeSettings::default() {
        return session.delete(&path, None).await;
    }
    let text = serde_json::to_vec(settings).unwrap_or_default();
    session.make_directory(&directory).await?;
    for _ in 0..TRIES {
        session.create_persistent(&path, &text).await?;
        match session.find(&path).await? {
            Some((data, _)) if data == text => return Ok(()),
            Some((_, stat)) => match session.replace(&path, &text, stat.version).await {
                Err(Failure::Refused(Error::BadVersion | Error::NoNode)) => {}
                replaced => return replaced,
            },
            None => {}
        }
    }
    Err(Failure::Unknown(None))
}
