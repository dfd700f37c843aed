use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// The process's recorder: there is one per process, as the `metrics` crate has it.
static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// How often samples are moved from their buffers into the histograms.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Upper bounds for durations in seconds: from half a millisecond to the longest wait of a caller.
const SECONDS: [f64; 18] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0,
    300.0,
];

/// Upper bounds for everything else that has a histogram: sizes of batches and pages.
const COUNTS: [f64; 12] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0];

/// Collects the process's metrics from now on. Only the first call has an effect.
///
/// # Errors
/// [`BuildError`] if another recorder is installed.
pub(crate) fn record() -> Result<(), BuildError> {
    if RECORDER.get().is_some() {
        return Ok(());
    }
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets(&COUNTS)?
        .install_recorder()?;
    let _first = RECORDER.set(handle);
    Ok(())
}

/// Keeps the histograms' buffers small, for ever. Dropping the future stops it.
pub(crate) async fn upkeep() {
    let mut tick = tokio::time::interval(UPKEEP_EVERY);
    loop {
        tick.tick().await;
        if let Some(recorder) = RECORDER.get() {
            recorder.run_upkeep();
        }
    }
}

/// Every metric of this process in Prometheus' text format; empty if nothing is recorded.
#[must_use]
pub fn metrics_text() -> String {
    RECORDER.get().map(PrometheusHandle::render).unwrap_or_default()
}
