//! `gantry dev`: everything in one process, until it is told to stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use bootstrap::{ConfigurationError, Shutdown};
use tokio::sync::oneshot;

use crate::cli;
use crate::client::Terminal;
use crate::client::screen::span;
use crate::configuration::Configuration;
use crate::house;
use crate::memory;
use crate::service::refused;

/// `gantry dev`.
pub fn dev(args: &cli::Dev) -> ExitCode {
    let started = Instant::now();
    memory::give_back();
    let (dir, configuration) = match prepare(args) {
        Ok(prepared) => prepared,
        Err(error) => return refused(error),
    };
    bootstrap::run(&configuration.log.clone(), move |shutdown| serve(configuration, dir, started, shutdown))
}

fn prepare(args: &cli::Dev) -> Result<(PathBuf, Configuration), ConfigurationError> {
    let dir = house::open_directory(&args.dir)?;
    let mut configuration = Configuration::load(None)?.configuration;
    if let Some(slots) = args.slots {
        configuration.worker.slots = slots;
    }
    let listen = house::address(args.listen, configuration.gateway.listen);
    Ok((dir.clone(), house::at_home(configuration, &dir, listen)))
}

async fn serve(
    configuration: Configuration,
    dir: PathBuf,
    started: Instant,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let (listening, address) = oneshot::channel();
    let welcome = async {
        if let Ok(address) = address.await {
            let text = welcome(address, &dir, started);
            // If nobody reads it, the house serves all the same.
            let _unread = Terminal::detect().say(&text);
        }
    };
    let (result, ()) = tokio::join!(house::run(configuration, shutdown, listening), welcome);
    result
}

fn welcome(address: SocketAddr, dir: &std::path::Path, started: Instant) -> String {
    let url = format!("http://{address}");
    let export = if url == cli::DEFAULT_URL { String::new() } else { format!("  export GANTRY_URL={url}\n") };
    format!(
        "Gantry {} is up after {}. Ctrl-C stops it; what was accepted survives kill -9.\n\n\
         \x20 URL   {url}\n  data  {}\n\n\
         In another terminal:\n\n{export}\
         \x20 gantry push examples/iris\n  gantry run iris --input @examples/iris/input.json --follow\n",
        env!("CARGO_PKG_VERSION"),
        span(started.elapsed()),
        dir.display(),
    )
}
