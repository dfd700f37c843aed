//! Servers that a test owns: what `compose/server` promises about each kind.

use std::path::Path;
use std::time::Duration;

use testkit::{Server, ServerKind, eventually};

const LIMIT: Duration = Duration::from_secs(10);

/// Processes whose command line or working directory lies in `directory`.
fn processes_in(directory: &Path) -> Vec<String> {
    let directory = directory.canonicalize().unwrap();
    let needle = directory.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let path = entry.ok()?.path();
        path.file_name()?.to_str()?.parse::<u32>().ok()?;
        let command = String::from_utf8_lossy(&std::fs::read(path.join("cmdline")).ok()?).replace('\0', " ");
        let inside = std::fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(&directory));
        (inside || command.contains(needle)).then_some(command)
    });
    processes.collect()
}

async fn answers(server: &Server, kind: ServerKind) -> bool {
    match kind {
        ServerKind::RabbitMq => server.admin(&["list_users"]).await.contains("gantry"),
        ServerKind::Postgres => {
            server.admin(&["-At", "-d", "gantry", "-c", "select 42"]).await.trim() == "42"
        }
        ServerKind::ZooKeeper => server.admin(&["ruok"]).await == "imok",
        ServerKind::S3 => {
            let address = server.url().replace("http://", "");
            tokio::net::TcpStream::connect(address).await.is_ok()
        }
    }
}

async fn a_server_keeps_its_address_through_kill_stop_and_restart(kind: ServerKind) {
    let server = Server::start(kind).await;
    let url = server.url();
    assert!(answers(&server, kind).await);
    assert!(!processes_in(server.directory()).is_empty());
    server.kill().await;
    assert_eq!(processes_in(server.directory()), Vec::<String>::new(), "killed");
    server.start_again().await;
    assert!(answers(&server, kind).await);
    server.pause().await;
    server.resume().await;
    assert!(answers(&server, kind).await);
    server.restart().await;
    assert!(answers(&server, kind).await);
    assert_eq!(server.url(), url);
    server.pause().await;
    server.stop().await;
    assert_eq!(processes_in(server.directory()), Vec::<String>::new(), "stopped while paused");
    server.start_again().await;
    let directory = server.directory().to_owned();
    drop(server);
    eventually("nothing is left", LIMIT, async || !directory.exists()).await;
}

#[tokio::test]
async fn rabbitmq_keeps_its_address_through_kill_stop_and_restart() {
    a_server_keeps_its_address_through_kill_stop_and_restart(ServerKind::RabbitMq).await;
}

#[tokio::test]
async fn postgres_keeps_its_address_through_kill_stop_and_restart() {
    a_server_keeps_its_address_through_kill_stop_and_restart(ServerKind::Postgres).await;
}

#[tokio::test]
async fn zookeeper_keeps_its_address_through_kill_stop_and_restart() {
    a_server_keeps_its_address_through_kill_stop_and_restart(ServerKind::ZooKeeper).await;
}

#[tokio::test]
async fn s3_keeps_its_address_through_kill_stop_and_restart() {
    a_server_keeps_its_address_through_kill_stop_and_restart(ServerKind::S3).await;
}

#[tokio::test]
async fn postgres_keeps_its_data_through_kill() {
    let server = Server::start(ServerKind::Postgres).await;
    server.admin(&["-d", "gantry", "-c", "create table kept as select 7 as seven"]).await;
    server.kill().await;
    server.start_again().await;
    assert_eq!(server.admin(&["-At", "-d", "gantry", "-c", "select seven from kept"]).await.trim(), "7");
}

#[tokio::test]
async fn extra_configuration_reaches_the_server() {
    let server = Server::start_with(ServerKind::Postgres, &[("extra.conf", "max_connections = 17\n")]).await;
    assert_eq!(server.admin(&["-At", "-c", "show max_connections"]).await.trim(), "17");
}
