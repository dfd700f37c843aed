use std::time::Duration;

use domain::State;
use futures::future::join_all;
use serde_json::json;
use testkit::{Fault, Proxy, fresh_name};
use tokio::time::{Instant, sleep_until};

use crate::harness::{Addresses, PATIENCE, Shape, System, id_of};

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_of_the_database_lose_and_double_nothing() {
    let addresses = Addresses::shared();
    let proxy = Proxy::start(&addresses.postgres).await;
    let shape = Shape { workers: 2, slots: 8, ..Shape::small() };
    let through = Addresses { postgres: proxy.url(&addresses.postgres), ..addresses };
    let system = System::start(Shape { addresses: through, ..shape }).await;
    let counter = "cat >/dev/null; i=0; while [ $i -lt 20 ]; do i=$((i+1)); echo $i; done; echo $i >&3\n";
    system.push_script("counter", counter, "");

    proxy.set_to_client(Fault::DropAnswers { probability: 0.01, seed: 10 });
    let begin = Instant::now();
    let calls = (0..500_u32).map(|n| {
        let system = &system;
        async move {
            // Open loop: 25 a second, whatever became of those before.
            sleep_until(begin + Duration::from_millis(40) * n).await;
            let key = fresh_name("key");
            loop {
                let call = system.post("counter", &json!({}), 60).header("Idempotency-Key", &key);
                match call.send().await {
                    Ok(answer) if answer.status().is_success() => return id_of(&answer),
                    Ok(answer) => assert_eq!(answer.status(), 503, "{}", answer.text().await.unwrap()),
                    Err(error) => panic!("the gateway stays up: {error}"),
                }
            }
        }
    });
    let ids = join_all(calls).await;
    proxy.set(Fault::Pass);
    assert!(proxy.dropped_answers() > 10, "too quiet: {} answers dropped", proxy.dropped_answers());
    let expected: Vec<_> = (1..=20).map(|n| (n, n.to_string())).collect();
    for id in ids {
        let execution = system.ended(id, PATIENCE).await;
        assert_eq!((execution.state, execution.attempt), (State::Succeeded, 1), "{id}");
        let lines: Vec<_> =
            system.log_lines(id).await.into_iter().map(|row| (row.log_id, row.line)).collect();
        assert_eq!(lines, expected, "{id}");
    }
}
