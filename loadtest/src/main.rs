//! Offers load to Gantry and says what became of every call: how many, how fast, at what cost, and whether a promise was
//! broken. What this machine does at most is measured in the same run (`ceiling`).

mod accounting;
mod amqp;
mod call;
mod ceiling;
mod cli;
mod curve;
mod database;
mod follow;
mod handover;
mod http;
mod live;
mod load;
mod locks;
mod logs;
mod offer;
mod pace;
mod peers;
mod replies;
mod report;
mod run;
mod scenario;
mod slo;
mod stages;
mod tally;
mod verify;
mod waiters;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use call::Mode;
use cli::{Cli, Command};
use report::Report;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result =
        runtime.context("start the runtime").and_then(|runtime| runtime.block_on(execute(cli.command)));
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("loadtest: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Does what was asked for, and says whether every promise was kept.
async fn execute(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Http(calls) => {
            let mode = match (calls.is_async, calls.sse) {
                (true, _) => Mode::Async,
                (_, true) => Mode::Sse,
                (false, false) => Mode::Sync,
            };
            run::calls(calls, mode).await
        }
        Command::Amqp(calls) => run::calls(calls, Mode::Amqp).await,
        Command::Run(args) => run::scenario(&args).await,
        Command::Ceiling(args) => run::ceiling(&args).await,
        Command::Peers(args) => peers::run(args).await,
        Command::Curve(args) => curve::run(&args).await,
        Command::Compare(args) => {
            let (before, after) = (Report::read(&args.before)?, Report::read(&args.after)?);
            print!("{}", report::compare(&before, &after));
            Ok(true)
        }
        Command::Locks(args) => locks::run(args).await,
        Command::Logs(args) => logs::run(args).await,
        Command::Follow(args) => follow::run(args).await,
        Command::Waiters(args) => waiters::run(args).await,
        Command::Handover(args) => handover::run(args).await,
    }
}
