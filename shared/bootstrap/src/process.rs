use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tracing::{error, info};

use crate::settings::LogSettings;
use crate::{ConfigurationError, Shutdown, ShutdownTrigger, log_to_stderr, metrics};

/// How long blocking work may go on after everything else has ended.
const BLOCKING_GRACE: Duration = Duration::from_secs(2);

/// The exit code of a process whose configuration is wrong: starting it again will not help (`EX_CONFIG` of
/// sysexits.h).
pub const EXIT_CONFIGURATION: u8 = 78;

/// Runs `work` as the whole of a process: with logs, metrics, a TLS provider, and a [`Shutdown`] that the first SIGTERM or
/// SIGINT begins and the second cuts short.
///
/// The exit code is 0 once `work` is done (a drain included), 1 if it failed, [`EXIT_CONFIGURATION`] if a
/// [`ConfigurationError`] is why.
pub fn run<W, F>(log: &LogSettings, work: W) -> ExitCode
where
    W: FnOnce(Shutdown) -> F,
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    if let Err(error) = log_to_stderr(log) {
        return conclude(Err(error.into()));
    }
    let runtime = match Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return conclude(Err(anyhow::Error::new(error).context("start the runtime"))),
    };
    let (trigger, shutdown) = Shutdown::new();
    let work = work(shutdown);
    let result = runtime.block_on(supervise(work, trigger));
    runtime.shutdown_timeout(BLOCKING_GRACE);
    conclude(result)
}

async fn supervise<F>(work: F, trigger: ShutdownTrigger) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    install_tls_provider();
    metrics::record().context("record metrics")?;
    let mut aside = JoinSet::new();
    aside.spawn(metrics::upkeep());
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    aside.spawn(async move {
        for again in [false, true] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if again {
                info!("stopping: giving back what is still held");
                trigger.stop();
            } else {
                info!("draining: finishing what is held (a second signal stops at once)");
                trigger.drain();
            }
        }
    });
    let mut main = JoinSet::new();
    main.spawn(work);
    let result = main.join_next().await.context("nothing to do")?;
    aside.shutdown().await;
    result.context("the process's main task")?
}

/// Makes ring the one TLS provider of this process. Only the first call has an effect.
pub fn install_tls_provider() {
    let _already = rustls::crypto::ring::default_provider().install_default();
}

/// Says why `result` failed and picks the exit code.
fn conclude(result: anyhow::Result<()>) -> ExitCode {
    let Err(failure) = result else { return ExitCode::SUCCESS };
    let is_configuration = failure.chain().any(|cause| cause.is::<ConfigurationError>());
    error!("{failure:#}");
    if is_configuration { ExitCode::from(EXIT_CONFIGURATION) } else { ExitCode::FAILURE }
}
