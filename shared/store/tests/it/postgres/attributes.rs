use store::{NewExecution, Record};

use crate::contract::{OnPostgres, new_execution};

#[tokio::test]
async fn attributes_cost_a_row_only_where_they_are_given_and_go_with_their_execution() {
    let fixture = OnPostgres::new().await;
    let count = async || {
        let sql = "select count(*) from execution_attribute";
        fixture.client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0)
    };
    fixture.record.accept(&[new_execution()]).await.unwrap();
    assert_eq!(count().await, 0);
    let attributes = "customer=acme, run=7".parse().unwrap();
    let new = NewExecution { attributes, ..new_execution() };
    for _ in 0..2 {
        fixture.record.accept(std::slice::from_ref(&new)).await.unwrap();
        assert_eq!(count().await, 2);
    }
    let sql = "delete from execution where execute_id = $1";
    fixture.client.execute(sql, &[&new.execute_id.as_uuid()]).await.unwrap();
    assert_eq!(count().await, 0);
}
