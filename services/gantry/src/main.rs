//! The `gantry` binary: every service, everything in one process, and the client.

mod cli;
mod client;
mod configuration;
mod demo;
mod dev;
mod house;
mod memory;
mod service;
mod store_status;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use client::{Api, ClientError, Exit, Terminal};

fn main() -> ExitCode {
    // First of all, so that what supervises a process tree is small: no threads, no runtime, no configuration.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "shim") {
        return worker::shim_main();
    }
    match Cli::parse().command {
        Command::Demo => demo::demo(),
        Command::Dev(args) => dev::dev(&args),
        Command::Push(args) => ask(&args.server, async |api, t| client::push(api, &args, t).await),
        Command::Run(args) => ask(&args.server, async |api, t| client::run(api, &args, t).await),
        Command::Logs(args) => ask(&args.server, async |api, t| client::logs(api, &args, t).await),
        Command::Search(args) => ask(&args.server, async |api, t| client::search(api, &args, t).await),
        Command::Ps(args) => ask(&args.server, async |api, t| client::ps(api, &args, t).await),
        Command::Show(args) => ask(&args.server, async |api, t| client::show(api, &args, t).await),
        Command::Explain(args) => ask(&args.server, async |api, t| client::explain(api, &args, t).await),
        Command::Cancel(args) => ask(&args.server, async |api, t| client::cancel(api, &args, t).await),
        Command::Models(args) => ask(&args.server, async |api, t| client::models(api, &args, t).await),
        Command::Alias(args) => ask(&args.server, async |api, t| client::alias(api, &args, t).await),
        Command::Aliases(args) => ask(&args.server, async |api, t| client::aliases(api, &args, t).await),
        Command::Readiness(args) => ask(&args.server, async |api, t| client::readiness(api, &args, t).await),
        Command::Nodes(args) => {
            let server = args.command.as_ref().map_or(&args.server, cli::NodesCommand::server);
            ask(server, async |api, t| client::nodes(api, &args, t).await)
        }
        Command::Limits(args) => ask(&args.server, async |api, t| client::limits(api, &args, t).await),
        Command::Gateway(args) => service::gateway(&args),
        Command::Worker(args) => service::worker(&args),
        Command::Sync(args) => service::sync(&args),
        Command::Monitor(args) => service::monitor(&args),
        Command::Migrate(args) => service::migrate(&args),
        Command::Store(cli::Store { command: cli::StoreCommand::Status(args) }) => store_status::run(args),
        Command::Config(args) => service::config(&args),
    }
}

/// Runs a client command against a gateway, and says on stderr why it failed.
fn ask(
    server: &cli::Server,
    command: impl AsyncFnOnce(&Api, Terminal) -> Result<(), ClientError>,
) -> ExitCode {
    let terminal = Terminal::detect();
    let result = Api::new(&server.url).and_then(|api| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| ClientError::new(Exit::Internal, error.to_string()))?;
        runtime.block_on(command(&api, terminal))
    });
    let Err(error) = result else { return ExitCode::SUCCESS };
    if !error.message.is_empty() {
        terminal.note(&format!("gantry: {error}"));
    }
    ExitCode::from(error.exit as u8)
}
