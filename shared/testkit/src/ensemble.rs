use std::net::TcpListener;

use crate::eventually::eventually_some;
use crate::{Fault, Proxy, Server, ServerKind};

const SERVERS: usize = 3;

/// Three ZooKeeper servers that one test owns, and the links between them.
///
/// What a follower hears of its leader passes through a [`Proxy`], so that it can be cut off while its clients still
/// reach it: the fault in which it goes on answering what it can no longer know. (Votes are not cut: servers tell each
/// other where to send them.)
#[derive(Debug)]
pub struct Ensemble {
    servers: Vec<Server>,
    /// From a server to another, should that lead it.
    links: Vec<(usize, usize, Proxy)>,
}

impl Ensemble {
    /// Three new servers, once they have a leader. A server notices after 8 s that it has lost the others.
    ///
    /// # Panics
    /// As [`Server`].
    pub async fn start() -> Self {
        let ports: Vec<[u16; 2]> = (0..SERVERS).map(|_| free_ports()).collect();
        let mut links = Vec::new();
        let mut servers = Vec::new();
        for own in 0..SERVERS {
            let mut config = "initLimit=10\nsyncLimit=8\ncnxTimeout=2\n".to_owned();
            for (other, real) in ports.iter().enumerate() {
                let [mut log, votes] = *real;
                if other != own {
                    let link = Proxy::start(&format!("127.0.0.1:{log}")).await;
                    log = link.address().port();
                    links.push((own, other, link));
                }
                config.push_str(&format!("server.{}=127.0.0.1:{log}:{votes}\n", other + 1));
            }
            servers.push(config);
        }
        // None answers before two are there.
        let starting = servers.iter().enumerate().map(|(own, config)| async move {
            let files = [("extra.conf", config.as_str()), ("data/myid", &format!("{}\n", own + 1))];
            Server::start_with(ServerKind::ZooKeeper, &files).await
        });
        let servers = futures::future::join_all(starting).await;
        Self { servers, links }
    }

    /// All of them, as clients want it.
    #[must_use]
    pub fn url(&self) -> String {
        self.servers.iter().map(Server::url).collect::<Vec<_>>().join(",")
    }

    /// One of them.
    #[must_use]
    pub fn server(&self, number: usize) -> &Server {
        &self.servers[number]
    }

    /// The number of the one that leads.
    ///
    /// # Panics
    /// If none does for half a minute.
    pub async fn leader(&self) -> usize {
        eventually_some("a server leads", std::time::Duration::from_secs(30), async || {
            for (number, server) in self.servers.iter().enumerate() {
                if server.admin(&["srvr"]).await.contains("Mode: leader") {
                    return Some(number);
                }
            }
            None
        })
        .await
    }

    /// Cuts a follower off from its leader, in silence. Its clients still reach it.
    pub fn isolate(&self, number: usize) {
        for (_, _, link) in self.links.iter().filter(|(from, _, _)| *from == number) {
            link.set(Fault::Blackhole);
        }
    }

    /// All followers reach their leader again.
    pub fn heal(&self) {
        for (_, _, link) in &self.links {
            link.set(Fault::Pass);
            link.cut();
        }
    }
}

/// Two ports that nobody has just now.
fn free_ports() -> [u16; 2] {
    let held = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("bind loopback"));
    held.map(|listener| listener.local_addr().expect("bound address").port())
}
