//! Runs a model by publishing to RabbitMQ, and prints the reply.
//!
//! ```sh
//! GANTRY_AMQP_URL=amqp://... cargo run -- MODEL INPUT [QUEUE]
//! ```

use std::env;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{BasicProperties, Connection, ConnectionProperties, Confirmation};
use tokio::time::timeout;
use uuid::Uuid;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = env::args().skip(1);
    let (Some(model), Some(input)) = (arguments.next(), arguments.next()) else {
        bail!("usage: producer MODEL INPUT [QUEUE]");
    };
    let queue = arguments.next().unwrap_or_else(|| "default".to_owned());
    let url = env::var("GANTRY_AMQP_URL").unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/".to_owned());

    let connection = Connection::connect(&url, ConnectionProperties::default()).await.context("connect")?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let replies = format!("producer.{}", Uuid::new_v4());
    let exclusive = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(replies.as_str().into(), exclusive, FieldTable::default()).await?;
    let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let mut answers =
        channel.basic_consume(replies.as_str().into(), "producer".into(), no_ack, FieldTable::default()).await?;

    // The execution's id, a UUIDv7, is also what duplicates are recognised by: publishing it again is harmless.
    let execute_id = Uuid::now_v7().to_string();
    let mut headers = FieldTable::default();
    headers.insert("x-gantry-schema".into(), AMQPValue::LongInt(1));
    headers.insert("x-gantry-model".into(), AMQPValue::LongString(LongString::from(model)));
    let properties = BasicProperties::default()
        .with_message_id(execute_id.as_str().into())
        .with_correlation_id(execute_id.as_str().into())
        .with_reply_to(replies.as_str().into())
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
        .with_headers(headers);
    let options = BasicPublishOptions::default();
    let confirm = channel
        .basic_publish("gantry.execute".into(), queue.as_str().into(), options, input.as_bytes(), properties)
        .await?;
    match timeout(Duration::from_secs(5), confirm).await.context("no confirm within 5 s")?? {
        Confirmation::Ack(_) => eprintln!("accepted {execute_id}"),
        Confirmation::Nack(_) | Confirmation::NotRequested => bail!("the broker refused the message"),
    }

    let answer = timeout(Duration::from_secs(60), answers.next())
        .await
        .with_context(|| format!("no reply within 60 s; the execution goes on: GET /v1/executions/{execute_id}"))?
        .context("the connection ended")??;
    let headers = answer.properties.headers().clone().unwrap_or_default();
    let state = match headers.inner().get("x-gantry-state") {
        Some(AMQPValue::LongString(state)) => state.to_string(),
        _ => "ended without a state".to_owned(),
    };
    eprintln!("{state}");
    println!("{}", String::from_utf8_lossy(&answer.data));
    if state != "succeeded" {
        bail!("the execution did not succeed");
    }
    Ok(())
}
