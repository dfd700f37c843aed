use metrics_exporter_prometheus::PrometheusBuilder;
use testkit::eventually;

use crate::env::{Env, LIMIT, config};

#[tokio::test]
async fn one_of_several_monitors_keeps_the_record_in_shape() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let counted = recorder.handle();
    // The test's runtime and all its tasks live on this thread.
    let _guard = metrics::set_default_local_recorder(&recorder);
    let mut env = Env::new().await;
    env.start(config());
    env.start(config());
    eventually("the upkeep was done", LIMIT, async || {
        counted.render().contains("gantry_monitor_upkeeps_total{")
    })
    .await;
    env.end().await;
    let counted = counted.render();
    assert!(counted.contains("gantry_monitor_upkeeps_total{outcome=\"done\"} 1\n"), "{counted}");
}
