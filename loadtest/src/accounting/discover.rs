//! Which processes take part.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use hyper::Uri;

use crate::cli::Servers;

/// The name of this process.
pub const OWN: &str = "loadtest";

/// A process and its descendants under one name.
#[derive(Debug, Clone)]
pub struct Root {
    /// What it is called in the report.
    pub name: String,
    /// The processes it begins with.
    pub pids: Vec<u32>,
}

/// This process, and those of `compose/local` in the run directory, or else whoever listens at `urls` on this machine.
pub fn roots(servers: &Servers, urls: &[String]) -> Vec<Root> {
    let mut roots = match &servers.run_dir {
        Some(dir) => of_directory(dir),
        None => {
            let pids: HashSet<u32> = urls.iter().filter_map(|url| listener(port(url)?)).collect();
            let name = |pid: &u32| {
                fs::read_to_string(format!("/proc/{pid}/comm"))
                    .map_or_else(|_| pid.to_string(), |comm| comm.trim().to_owned())
            };
            pids.into_iter().map(|pid| Root { name: name(&pid), pids: vec![pid] }).collect()
        }
    };
    roots.push(Root { name: OWN.to_owned(), pids: vec![std::process::id()] });
    roots
}

/// Each directory below `dir` is one of a server or a process, and holds the ids of its processes in `pids`.
fn of_directory(dir: &Path) -> Vec<Root> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut roots: Vec<_> = entries
        .filter_map(|entry| {
            let text = fs::read_to_string(entry.path().join("pids")).ok()?;
            let pids = text.lines().filter_map(|line| line.split(' ').next()?.parse().ok()).collect();
            Some(Root { name: entry.file_name().to_string_lossy().into_owned(), pids })
        })
        .collect();
    roots.sort_by(|one, two| one.name.cmp(&two.name));
    roots
}

fn port(url: &str) -> Option<u16> {
    url.parse::<Uri>().ok()?.port_u16()
}

/// The process of this machine that listens on `port`, if it may be seen.
pub fn listener(port: u16) -> Option<u32> {
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    let inode = tables.iter().flat_map(|table| table.lines()).find_map(|line| listening_inode(line, port))?;
    let wanted = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).find(|pid| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files
            .filter_map(|file| fs::read_link(file.path()).ok())
            .any(|link| link.as_os_str() == wanted.as_str())
    })
}

/// The inode of the socket that a line of /proc/net/tcp tells of, if that listens on `port` (proc(5)).
fn listening_inode(line: &str, port: u16) -> Option<&str> {
    const LISTEN: &str = "0A";
    let mut fields = line.split_whitespace();
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?;
    let own = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
    (state == LISTEN && own == port).then_some(inode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listening_socket_is_found_by_its_port() {
        let line = "   0: 0100007F:1B9E 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1";
        assert_eq!(listening_inode(line, 7070), Some("4711"));
        assert_eq!(listening_inode(line, 7071), None);
        assert_eq!(listening_inode(&line.replace(" 0A ", " 01 "), 7070), None);
    }

    #[test]
    fn who_listens_on_this_machine_is_found() {
        let socket = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        assert_eq!(listener(socket.local_addr().unwrap().port()), Some(std::process::id()));
    }
}
