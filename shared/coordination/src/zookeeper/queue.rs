//! Queues of ephemeral sequential znodes: who is first, and what they say of themselves.

use domain::{LimitName, TenantId};
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};

use super::session::{Failure, Session};
use crate::{Contended, Contender, Queue};

/// What the name of an entry of a lock or a lease says, between its uuid and its number: as Curator's
/// `InterProcessMutex` and `InterProcessSemaphoreV2` name them.
pub(super) const LOCK: &str = "lock";
pub(super) const LEASE: &str = "lease";

/// What an entry holds.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    /// The lock key or the name of the limit, in clear.
    key: String,
    #[serde(flatten)]
    contender: Contender,
}

/// What the znode of a limit holds.
#[derive(Debug, Serialize, Deserialize)]
struct LimitEntry {
    tenant: TenantId,
    key: String,
}

/// Where a lock or a limit is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The parts of the path of its znode; of a limit, `locks` and `leases` are below it.
    parts: [String; 2],
    /// The znode's own data.
    data: Vec<u8>,
    is_limit: bool,
}

impl Place {
    pub(super) fn of(tenant: &TenantId, what: &Contended) -> Self {
        match what {
            Contended::Lock(key) => {
                Self { parts: ["locks".to_owned(), key.path_part(tenant)], data: Vec::new(), is_limit: false }
            }
            Contended::Limit { name, .. } => Self {
                parts: ["limits".to_owned(), name.path_part(tenant)],
                data: json(&LimitEntry { tenant: tenant.clone(), key: name.to_string() }),
                is_limit: true,
            },
        }
    }

    pub(super) const fn is_limit(&self) -> bool {
        self.is_limit
    }

    fn base(&self, session: &Session) -> String {
        session.path(&[&self.parts[0], &self.parts[1]])
    }

    /// The queue: of a lock its own, of a limit that of who may take the next lease.
    pub(super) fn queue(&self, session: &Session) -> String {
        if self.is_limit { format!("{}/locks", self.base(session)) } else { self.base(session) }
    }

    /// The leases of a limit.
    pub(super) fn leases(&self, session: &Session) -> String {
        format!("{}/leases", self.base(session))
    }

    /// Makes the znodes that entries are below. The servers delete them again when they are empty.
    pub(super) async fn make(&self, session: &Session) -> Result<(), Failure> {
        session.make_directory(&session.path(&[&self.parts[0]])).await?;
        session.create_container(&self.base(session), &self.data).await?;
        if self.is_limit {
            session.create_container(&self.queue(session), b"").await?;
            session.create_container(&self.leases(session), b"").await?;
        }
        Ok(())
    }
}

/// What an entry of `contender` for `what` holds.
pub(super) fn entry(what: &Contended, contender: &Contender) -> Vec<u8> {
    let key = match what {
        Contended::Lock(key) => key.to_string(),
        Contended::Limit { name, .. } => name.to_string(),
    };
    json(&Entry { key, contender: contender.clone() })
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// The entries among `names`, the first one first. Whoever made them: only the number at the end of a name counts, so that
/// Curator's and kazoo's entries stand in the same queue.
pub(super) fn in_order(names: Vec<String>) -> Vec<String> {
    let mut entries: Vec<(u64, String)> =
        names.into_iter().filter_map(|name| Some((sequence(&name)?, name))).collect();
    entries.sort_unstable();
    entries.into_iter().map(|(_, name)| name).collect()
}

/// The ten digits (or more, should the servers ever count further) that the servers put at the end of a name.
fn sequence(name: &str) -> Option<u64> {
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    if digits < 10 { None } else { name[name.len() - digits..].parse().ok() }
}

/// Who has `what`, and who waits.
pub(super) async fn read(session: &Session, place: &Place, what: &Contended) -> Result<Queue, Failure> {
    let queue = place.queue(session);
    let mut waiters = read_entries(session, &queue).await?;
    let holders = match what {
        Contended::Lock(_) => {
            let rest = waiters.split_off(waiters.len().min(1));
            std::mem::replace(&mut waiters, rest)
        }
        Contended::Limit { max, .. } => {
            let mut leases = read_entries(session, &place.leases(session)).await?;
            leases.truncate(usize::try_from(*max).unwrap_or(usize::MAX));
            // Who got a lease leaves the queue a moment later.
            waiters.retain(|waiter| waiter.is_none() || !leases.contains(waiter));
            leases
        }
    };
    Ok(Queue { holders, waiters })
}

/// What the entries in `directory` say, in order; `None` for what is not Gantry's.
async fn read_entries(session: &Session, directory: &str) -> Result<Vec<Option<Contender>>, Failure> {
    let asked = in_order(session.list(directory).await?).into_iter().map(|name| {
        let path = format!("{directory}/{name}");
        async move { session.find(&path).await }
    });
    let found = try_join_all(asked).await?.into_iter().flatten();
    Ok(found
        .map(|(data, _)| serde_json::from_slice::<Entry>(&data).ok().map(|entry| entry.contender))
        .collect())
}

/// The limits of `tenant` that somebody holds or waits for, by name.
pub(super) async fn limits(session: &Session, tenant: &TenantId) -> Result<Vec<LimitName>, Failure> {
    let directory = session.path(&["limits"]);
    let asked = session.list(&directory).await?.into_iter().map(|name| {
        let path = format!("{directory}/{name}");
        async move { limit(session, &path, tenant).await }
    });
    let mut limits: Vec<LimitName> = try_join_all(asked).await?.into_iter().flatten().collect();
    limits.sort_unstable();
    Ok(limits)
}

async fn limit(session: &Session, path: &str, tenant: &TenantId) -> Result<Option<LimitName>, Failure> {
    let Some((data, _)) = session.find(path).await? else { return Ok(None) };
    let entry = serde_json::from_slice::<LimitEntry>(&data).ok();
    let Some(name) =
        entry.filter(|entry| entry.tenant == *tenant).and_then(|entry| entry.key.try_into().ok())
    else {
        // Another tenant's, or another client's.
        return Ok(None);
    };
    for part in ["leases", "locks"] {
        let stat = session.find_stat(&format!("{path}/{part}")).await?;
        if stat.is_some_and(|stat| stat.num_children > 0) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_number_at_the_end_orders() {
        let names = [
            "_c_9f0c4d9a-1111-4222-8333-444455556666-lock-0000000012",
            "d41d8cd98f00b204e9800998ecf8427e__lock__0000000003",
            "_c_00000000-1111-4222-8333-444455556666-lock-0000000007",
            "noise",
            "lock-12",
            "_c_00000000-1111-4222-8333-444455556666-lease-10000000000",
        ];
        let ordered = in_order(names.iter().map(ToString::to_string).collect());
        assert_eq!(ordered, [names[1], names[2], names[0], names[5]]);
    }
}
