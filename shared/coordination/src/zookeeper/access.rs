//! Who may do what with the znodes below the root.
//!
//! With a credential, everything is made so that only who has that credential may read or change it, and what was made
//! before there was one is closed. Without one, everything is open to whoever reaches the servers.

use std::fmt;

use tracing::info;
use zookeeper_client::{Acl, Acls, Client, Error};

/// What the processes of one installation prove themselves with (ZooKeeper's scheme `digest`; it crosses the network as
/// it is).
#[derive(Clone)]
pub struct ZooKeeperCredential {
    /// The user: any name without a colon; the servers keep no list of them.
    pub user: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for ZooKeeperCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ZooKeeperCredential({}:***)", self.user)
    }
}

/// The ACLs of what is made with `credential`.
pub(super) const fn acls(credential: Option<&ZooKeeperCredential>) -> Acls<'static> {
    if credential.is_some() { Acls::creator_all() } else { Acls::anyone_all() }
}

/// Says whether what is below `root` may be used, and closes it if it is open and should not be.
///
/// # Errors
/// What an operator must know.
pub(super) async fn check(
    client: &Client,
    root: &str,
    credential: Option<&ZooKeeperCredential>,
) -> Result<(), String> {
    let checked = match credential {
        Some(_) => close(client, root).await,
        None => client.list_children(root).await.map(drop),
    };
    match (checked, credential) {
        // It is made when it is needed.
        (Ok(()) | Err(Error::NoNode), _) => Ok(()),
        (Err(Error::NoAuth), Some(ZooKeeperCredential { user, .. })) => {
            Err(format!("the credential of user {user:?} may not use {root}: it was made with another one"))
        }
        (Err(Error::NoAuth), None) => Err(format!("{root} may be used with a credential only")),
        (Err(error), _) => Err(format!("look at {root}: {error}")),
    }
}

/// Closes what is below `root` and was made when there was no credential.
async fn close(client: &Client, root: &str) -> Result<(), Error> {
    if !is_open(client, root).await? {
        return client.list_children(root).await.map(drop);
    }
    info!(root, "this was open to everybody: closing it for all but this credential");
    // The root comes last, so that an interrupted pass is made again.
    let mut found = vec![root.to_owned()];
    let mut at = 0;
    while let Some(path) = found.get(at).cloned() {
        at += 1;
        match client.list_children(&path).await {
            Ok(names) => found.extend(names.into_iter().map(|name| format!("{path}/{name}"))),
            Err(Error::NoNode) => {}
            Err(error) => return Err(error),
        }
    }
    for path in found.iter().rev() {
        match client.set_acl(path, &Acls::creator_all(), None).await {
            Ok(_) | Err(Error::NoNode) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn is_open(client: &Client, path: &str) -> Result<bool, Error> {
    let (acls, _) = client.get_acl(path).await?;
    Ok(acls.iter().any(|acl: &Acl| acl.scheme() == "world"))
}
