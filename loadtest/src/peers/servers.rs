//! The servers of the peers: a virtual host and a database of their own on ours, and a private Redis.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::programs::{Family, root};
use crate::cli::Servers;

/// What the virtual host and the database are called.
const NAME: &str = "loadtest_peers";
/// How long Redis may take to listen.
const START: Duration = Duration::from_secs(20);

/// Running servers; dropping this ends Redis, [`PeerServers::stop`] also removes what was made on the others.
pub struct PeerServers {
    amqp_url: String,
    postgres_url: String,
    redis_url: String,
    rabbitmq: PathBuf,
    postgres: PathBuf,
    _redis: Family,
    _dir: TempDir,
}

impl PeerServers {
    /// Makes the virtual host and the database and starts Redis.
    pub async fn start(servers: &Servers) -> anyhow::Result<Self> {
        const NEEDS: &str = "the peers need the servers of `compose/local up`: eval \"$(compose/local env)\"";
        let dir = servers.run_dir.clone().context(NEEDS)?;
        let (rabbitmq, postgres) = (dir.join("rabbitmq"), dir.join("postgres"));
        let amqp_url = servers.amqp_url.clone().context(NEEDS)?;
        let postgres_url = servers.postgres_url.clone().context(NEEDS)?;
        let (amqp_base, _) = amqp_url.rsplit_once('/').context("the broker's URL names no virtual host")?;
        let (postgres_base, _) = postgres_url.rsplit_once('/').context("the database's URL names none")?;
        let dir = TempDir::new()?;
        let (redis, redis_url) = redis(&dir).await?;
        let made = Self {
            amqp_url: format!("{amqp_base}/{NAME}"),
            postgres_url: format!("{postgres_base}/{NAME}"),
            redis_url,
            rabbitmq,
            postgres,
            _redis: redis,
            _dir: dir,
        };
        // An interrupted run may have left them.
        made.remove().await?;
        made.rabbitmq(&["add_vhost", NAME]).await?;
        made.rabbitmq(&["set_permissions", "-p", NAME, "gantry", ".*", ".*", ".*"]).await?;
        made.postgres(&format!("create database {NAME} owner gantry")).await?;
        Ok(made)
    }

    /// Names them to a peer.
    pub fn name_in(&self, command: &mut Command) {
        command
            .env("PEER_AMQP_URL", &self.amqp_url)
            .env("PEER_POSTGRES_URL", &self.postgres_url)
            .env("PEER_REDIS_URL", &self.redis_url);
    }

    /// Removes what was made and ends Redis.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.remove().await
    }

    async fn remove(&self) -> anyhow::Result<()> {
        // It is an error to delete what is not there.
        let _absent = self.rabbitmq(&["delete_vhost", NAME]).await;
        self.postgres(&format!("drop database if exists {NAME} with (force)")).await
    }

    async fn rabbitmq(&self, words: &[&str]) -> anyhow::Result<()> {
        admin("rabbitmq", &self.rabbitmq, words).await
    }

    async fn postgres(&self, sql: &str) -> anyhow::Result<()> {
        admin("postgres", &self.postgres, &["-q", "-d", "postgres", "-c", sql]).await
    }
}

async fn admin(kind: &str, dir: &std::path::Path, words: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new(root().join("compose/server"));
    command.args(["admin", kind]).arg(dir).args(words).kill_on_drop(true);
    let output = command.output().await.context("run compose/server")?;
    if !output.status.success() {
        bail!("{kind}, {words:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// A Redis that keeps nothing on the disk, on a port that the kernel found free.
async fn redis(dir: &TempDir) -> anyhow::Result<(Family, String)> {
    let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port().to_string();
    let mut command = Command::new("redis-server");
    command.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]);
    command.arg(dir.path()).stdin(Stdio::null()).stdout(Stdio::null());
    let mut redis = Family::start(&mut command)?;
    let listens = async {
        while TcpStream::connect(format!("127.0.0.1:{port}")).await.is_err() {
            if let Some(status) = redis.child.try_wait()? {
                bail!("redis-server has ended: {status}");
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    };
    timeout(START, listens).await.context("redis-server does not listen")??;
    Ok((redis, format!("redis://127.0.0.1:{port}/0")))
}
