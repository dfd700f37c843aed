use std::collections::HashMap;
use std::time::Duration;

use domain::State;
use futures::future::join_all;
use serde_json::json;
use testkit::{Server, ServerKind, fresh_name};
use tokio::time::{Instant, sleep_until};

use crate::harness::{Addresses, PATIENCE, Shape, System, id_of};

#[tokio::test(flavor = "multi_thread")]
async fn restarts_of_every_server_under_load_lose_and_double_nothing() {
    let (rabbitmq, postgres, zookeeper) = tokio::join!(
        Server::start(ServerKind::RabbitMq),
        Server::start(ServerKind::Postgres),
        Server::start(ServerKind::ZooKeeper)
    );
    let addresses = Addresses { postgres: postgres.url(), amqp: rabbitmq.url(), zookeeper: zookeeper.url() };
    let system = System::start(Shape { addresses, workers: 2, slots: 8, ..Shape::small() }).await;
    let file = system.path("runs");
    let script = format!("cat >/dev/null; echo $GANTRY_EXECUTE_ID >> {}; echo 1 >&3\n", file.display());
    system.push_script("append", &script, "");

    let begin = Instant::now();
    let calls = (0..1_350_u32).map(|n| {
        let system = &system;
        async move {
            // Open loop: 30 a second for 45 s, whatever became of those before.
            sleep_until(begin + Duration::from_micros(33_333) * n).await;
            let key = fresh_name("key");
            for second in 0..120 {
                let call = system.post("append", &json!({}), 30).header("Idempotency-Key", &key);
                match call.send().await {
                    Ok(answer) if answer.status().is_success() => return id_of(&answer),
                    Ok(answer) => assert_eq!(answer.status(), 503, "{}", answer.text().await.unwrap()),
                    Err(error) => panic!("the gateway stays up: {error}"),
                }
                sleep_until(begin + Duration::from_micros(33_333) * n + Duration::from_secs(second)).await;
            }
            panic!("refused for two minutes");
        }
    });
    let restarts = async {
        sleep_until(begin + Duration::from_secs(5)).await;
        rabbitmq.restart().await;
        sleep_until(begin + Duration::from_secs(25)).await;
        postgres.restart().await;
        sleep_until(begin + Duration::from_secs(38)).await;
        zookeeper.restart().await;
    };
    let (ids, ()) = tokio::join!(join_all(calls), restarts);

    let mut attempts = HashMap::new();
    for id in ids {
        let execution = system.ended(id, PATIENCE * 3).await;
        assert_eq!(execution.state, State::Succeeded, "{id}: {execution:?}");
        attempts.insert(id.to_string(), execution.attempt);
    }
    assert_eq!(attempts.len(), 1_350, "every call is an execution of its own");
    let mut runs: HashMap<String, i32> = HashMap::new();
    for line in std::fs::read_to_string(&file).unwrap().lines() {
        *runs.entry(line.to_owned()).or_default() += 1;
    }
    // A script runs at least once, and never more often than it was claimed.
    for (id, attempt) in attempts {
        let runs = runs.get(&id).copied().unwrap_or(0);
        assert!((1..=attempt).contains(&runs), "{id}: {runs} runs in {attempt} attempts");
    }
}
