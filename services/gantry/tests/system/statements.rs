use futures::future::join_all;
use serde_json::{Value, json};
use testkit::{Server, ServerKind, eventually};

use crate::harness::{Addresses, PATIENCE, Shape, System};

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_callers_cost_less_than_half_a_statement_each() {
    let postgres = Server::start(ServerKind::Postgres).await;
    let addresses = Addresses { postgres: postgres.url(), ..Addresses::shared() };
    let system = System::start(Shape { slots: 64, addresses, ..Shape::small() }).await;
    system.push_echo();
    // What is looked up once has been looked up.
    assert_eq!(system.post("echo", &json!(0), 30).send().await.unwrap().status(), 200);

    let (callers, calls_each) = (64, 50);
    let before = statements(&postgres).await;
    let work = (0..callers).map(|caller| {
        let system = &system;
        async move {
            for n in 0..calls_each {
                let answer = system.post("echo", &json!([caller, n]), 60).send().await.unwrap();
                assert_eq!(answer.status(), 200);
                assert_eq!(answer.json::<Value>().await.unwrap(), json!([caller, n]), "its own answer");
            }
        }
    });
    join_all(work).await;
    let each = (statements(&postgres).await - before) / f64::from(callers * calls_each);
    assert!(each < 0.5, "{each:.3} statements per execution");
    eventually("no slot is taken any more", PATIENCE, async || {
        let nodes: Option<protocol::http::NodeList> = system.get("/v1/nodes").await;
        nodes.is_some_and(|list| list.nodes.iter().all(|node| node.running == 0))
    })
    .await;
}

/// How many statements the server has run, this one's kind left out.
async fn statements(postgres: &Server) -> f64 {
    let sql = "select coalesce(sum(calls), 0) from pg_stat_statements where query !~ 'pg_stat_statements'";
    let calls = postgres.admin(&["-d", "gantry", "-Atc", sql]).await;
    calls.trim().parse().expect("a number")
}
