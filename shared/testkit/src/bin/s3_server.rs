//! `s3-server`: the S3 protocol over a directory, for tests and for one machine. `compose/server start s3` runs it.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Speaks the S3 protocol over a directory; requests must be signed.
#[derive(Parser)]
struct Arguments {
    /// Address to listen on.
    #[arg(long)]
    listen: SocketAddr,
    /// Directory whose directories are the buckets.
    #[arg(long)]
    root: PathBuf,
    /// The access key requests are signed with.
    #[arg(long)]
    access_key: String,
    /// The secret key requests are signed with: not an argument, where others could read it.
    #[arg(long, env = "S3_SECRET_KEY", hide_env_values = true)]
    secret_key: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { listen, root, access_key, secret_key } = Arguments::parse();
    let listener = TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    tokio::select! {
        served = testkit::serve_s3(listener, &root, &access_key, &secret_key) => served,
        _ = terminate.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}
