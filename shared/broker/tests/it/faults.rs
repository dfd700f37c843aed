//! What RabbitMQ's faults must not do. Each test owns the broker it torments.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use broker::rabbitmq::RabbitMq;
use broker::{Broker, Deliveries, DeliverySource, PublishError, Settled};
use futures::stream::{self, StreamExt};
use testkit::{Server, ServerKind, eventually};
use tokio::time::{Instant, timeout};

use crate::support::{SOON, config, consume, id, message, next, queue};

/// For a broker that was ended to be back and found again: its start, then a pause of at most 15 s before we look.
const BACK: Duration = Duration::from_secs(90);

async fn server() -> Server {
    Server::start(ServerKind::RabbitMq).await
}

async fn process(server: &Server, name: &str) -> RabbitMq {
    RabbitMq::connect(&config(server.url(), "gantry"), name).await.unwrap()
}

async fn ready(broker: &RabbitMq) {
    eventually("the broker is ready", BACK, async || broker.is_ready()).await;
}

/// Publishes one message after the other, 200 at once, until told to stop; remembers which were confirmed.
struct Load {
    stop: AtomicBool,
    /// Nothing will be confirmed any more.
    ended: AtomicBool,
    confirmed: Mutex<HashSet<String>>,
    failed: Mutex<Vec<PublishError>>,
}

impl Load {
    fn new() -> Self {
        Self {
            stop: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            confirmed: Mutex::default(),
            failed: Mutex::default(),
        }
    }

    fn confirmed(&self) -> usize {
        self.confirmed.lock().unwrap().len()
    }

    async fn run(&self, broker: &RabbitMq) {
        let work = queue("work");
        stream::iter(0..)
            .take_while(|_| std::future::ready(!self.stop.load(Ordering::Relaxed)))
            .for_each_concurrent(200, async |number: u64| {
                let name = number.to_string();
                match broker.publish(&work, message(&name)).await {
                    Ok(()) => {
                        self.confirmed.lock().unwrap().insert(name);
                    }
                    Err(error) => {
                        self.failed.lock().unwrap().push(error);
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            })
            .await;
        self.ended.store(true, Ordering::Relaxed);
    }

    async fn reaches(&self, count: usize) {
        eventually("publications are confirmed", BACK, async || self.confirmed() >= count).await;
    }
}

/// Takes and acknowledges until everything that was confirmed has come.
async fn take_all(deliveries: &mut Deliveries, load: &Load, came: &mut HashSet<String>) {
    while !(load.ended.load(Ordering::Relaxed) && load.confirmed.lock().unwrap().is_subset(came)) {
        let chunk = timeout(BACK, deliveries.next_chunk(64)).await.expect("what was confirmed comes");
        for delivery in chunk {
            came.insert(id(&delivery).to_owned());
            // A lost one comes again.
            let (Settled::Sent | Settled::Lost) = delivery.ack().await;
        }
    }
}

/// A load, a consumer of it, and something that happens meanwhile. Everything confirmed must be delivered, on the
/// stream that was there before.
async fn nothing_confirmed_is_lost(broker: &RabbitMq, fault: impl AsyncFnOnce(&Load)) {
    let load = Load::new();
    let mut deliveries = consume(broker, "work", 256).await;
    let mut came = HashSet::new();
    let fault = async {
        fault(&load).await;
        load.stop.store(true, Ordering::Relaxed);
    };
    // The last delivery may have come before the load ends: one more message wakes the taker.
    let publishing = async {
        load.run(broker).await;
        ready(broker).await;
        let mut last = Err(PublishError::Refused);
        while last.is_err() {
            last = broker.publish(&queue("work"), message("last")).await;
        }
    };
    let ((), (), ()) = futures::join!(publishing, take_all(&mut deliveries, &load, &mut came), fault);
    let confirmed = load.confirmed.lock().unwrap();
    let lost: Vec<_> = confirmed.difference(&came).collect();
    assert!(lost.is_empty(), "{} of {} confirmed are lost: {lost:?}", lost.len(), confirmed.len());
    println!("confirmed {}, failed {}", confirmed.len(), load.failed.lock().unwrap().len());
}

/// Waits until the broker has written down that the quorum queue exists. RabbitMQ 3.10 does so up to a second late, and
/// one that is killed before loses the queue's log with everything that was confirmed, and never elects it a leader.
async fn is_on_disk(server: &Server, queue: &str) {
    let names = server.directory().join("data/gantry@localhost/quorum/gantry@localhost/names.dets");
    eventually("the queue is on disk", SOON, async || {
        let written = std::fs::read(&names).unwrap_or_default();
        written.windows(queue.len()).any(|window| window == queue.as_bytes())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_while_publishing_loses_nothing_that_was_confirmed() {
    let server = server().await;
    let broker = process(&server, "process-1").await;
    drop(consume(&broker, "work", 1).await);
    is_on_disk(&server, "gantry.queue.work").await;
    nothing_confirmed_is_lost(&broker, async |load| {
        load.reaches(5_000).await;
        server.kill().await;
        eventually("it is noticed", SOON, async || !broker.is_ready()).await;
        server.start_again().await;
        ready(&broker).await;
        let before = load.confirmed();
        load.reaches(before + 2_000).await;
    })
    .await;
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_closed_under_load_lose_nothing_that_was_confirmed() {
    let server = server().await;
    let broker = process(&server, "process-1").await;
    nothing_confirmed_is_lost(&broker, async |load| {
        for _ in 0..5 {
            let before = load.confirmed();
            load.reaches(before + 1_000).await;
            server.admin(&["close_all_connections", "a fault"]).await;
        }
        ready(&broker).await;
        let before = load.confirmed();
        load.reaches(before + 1_000).await;
    })
    .await;
    broker.close().await;
}

/// Connections to the server that are open on our side. Each has a thread in the driver.
fn open_connections(server: &Server) -> usize {
    let url = server.url();
    let (_, port) = url.trim_end_matches("/%2f").rsplit_once(':').unwrap();
    let remote_port = format!(":{:04X}", port.parse::<u16>().unwrap());
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    // Columns: number, local address, remote address, state (01 is established).
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[2].ends_with(&remote_port) && row[3] == "01").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_broker_is_noticed_and_waited_for_in_bounded_time() {
    let server = server().await;
    let broker = process(&server, "process-1").await;
    let mut deliveries = consume(&broker, "work", 10).await;
    broker.publish(&queue("work"), message("held")).await.unwrap();
    let held = next(&mut deliveries).await;

    server.pause().await;
    let frozen = Instant::now();
    let published = broker.publish(&queue("work"), message("1")).await;
    assert!(matches!(published, Err(PublishError::Unknown { .. })), "{published:?}");
    assert!(frozen.elapsed() < Duration::from_secs(10), "{:?}", frozen.elapsed());
    // Two heartbeats of 10 s, or the watchdog.
    eventually("it is noticed", Duration::from_secs(40), async || !broker.is_ready()).await;
    println!("noticed after {:?}", frozen.elapsed());
    // A new connection gets no answer to its handshake: that must not take for ever.
    let began = Instant::now();
    let newcomer = process(&server, "process-2").await;
    assert!(!newcomer.is_ready());
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    let began = Instant::now();
    newcomer.close().await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    // The connections that were given up must not pile up: at most one attempt for each of our two is under way.
    eventually("few connections are open", SOON, async || open_connections(&server) <= 2).await;

    server.resume().await;
    ready(&broker).await;
    broker.publish(&queue("work"), message("2")).await.unwrap();
    let mut came = HashSet::new();
    while !(came.contains("held") && came.contains("2")) {
        let delivery = timeout(BACK, deliveries.next()).await.unwrap().unwrap();
        came.insert(id(&delivery).to_owned());
        assert_eq!(delivery.ack().await, Settled::Sent);
    }
    assert_eq!(held.ack().await, Settled::Lost);
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_deleted_under_its_consumer_is_made_again() {
    let server = server().await;
    let broker = process(&server, "process-1").await;
    let mut deliveries = consume(&broker, "work", 10).await;
    let mut replies = broker.replies().await.unwrap();
    server.admin(&["delete_queue", "gantry.queue.work"]).await;
    server.admin(&["delete_queue", "gantry.reply.process-1"]).await;
    // Until it is made again, messages for it are unroutable.
    eventually("messages come again", BACK, async || {
        drop(broker.publish(&queue("work"), message("1")).await);
        timeout(Duration::from_millis(100), deliveries.next()).await.is_ok()
    })
    .await;
    eventually("replies come again", BACK, async || {
        let reply_to = broker.reply_queue().to_owned();
        let address = protocol::ReplyAddress { reply_to, correlation_id: "c".to_owned() };
        broker.reply(&address, message("1"));
        timeout(Duration::from_millis(100), replies.recv()).await.is_ok()
    })
    .await;
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_confirms_stand_on_is_made_again_when_deleted() {
    let server = server().await;
    let broker = process(&server, "process-1").await;
    server.admin(&["delete_queue", "gantry.rejected"]).await;
    server.admin(&["delete_queue", "gantry.unroutable"]).await;
    eventually("both are there", BACK, async || {
        let queues = server.admin(&["list_queues", "-q", "name"]).await;
        queues.contains("gantry.rejected") && queues.contains("gantry.unroutable")
    })
    .await;
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_memory_alarm_blocks_publications_in_bounded_time_and_settlements_not_at_all() {
    let server = server().await;
    let broker = process(&server, "process-1").await;
    let mut deliveries = consume(&broker, "work", 10).await;
    broker.publish(&queue("work"), message("1")).await.unwrap();
    let delivery = next(&mut deliveries).await;

    server.admin(&["set_vm_memory_high_watermark", "0.00001"]).await;
    let began = Instant::now();
    let mut published = broker.publish(&queue("work"), message("2")).await;
    assert!(published.is_err(), "{published:?}");
    eventually("it is known to be blocked", SOON, async || !broker.is_ready()).await;
    published = broker.publish(&queue("work"), message("3")).await;
    assert!(matches!(published, Err(PublishError::Away(_))), "{published:?}");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    // The settlement goes out by another connection.
    assert_eq!(delivery.ack().await, Settled::Sent);
    eventually("nothing is unsettled", SOON, async || {
        server
            .admin(&["list_queues", "-q", "name", "messages_unacknowledged"])
            .await
            .contains("gantry.queue.work\t0")
    })
    .await;

    server.admin(&["set_vm_memory_high_watermark", "0.4"]).await;
    ready(&broker).await;
    eventually("a publication is confirmed", BACK, async || {
        broker.publish(&queue("work"), message("4")).await.is_ok()
    })
    .await;

    // A blocked connection cannot even say goodbye.
    server.admin(&["set_vm_memory_high_watermark", "0.00001"]).await;
    drop(broker.publish(&queue("work"), message("5")).await);
    let began = Instant::now();
    broker.close().await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_held_beyond_the_consumer_timeout_leaves_no_silent_consumer() {
    let files =
        [("advanced.config", "[{rabbit, [{channel_tick_interval, 1000}, {consumer_timeout, 3000}]}].\n")];
    let server = Server::start_with(ServerKind::RabbitMq, &files).await;
    server.admin(&["eval", "application:set_env(rabbit, consumer_timeout, 3000)."]).await;
    let broker = process(&server, "process-1").await;
    let mut deliveries = consume(&broker, "work", 10).await;
    broker.publish(&queue("work"), message("1")).await.unwrap();
    let held = next(&mut deliveries).await;
    let again = timeout(BACK, deliveries.next()).await.expect("the stream goes on").unwrap();
    assert_eq!((id(&again), again.redelivered), ("1", true));
    assert_eq!(held.ack().await, Settled::Lost);
    assert_eq!(again.ack().await, Settled::Sent);
    broker.publish(&queue("work"), message("2")).await.unwrap();
    assert_eq!(id(&next(&mut deliveries).await), "2");
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_given_back_too_often_is_dead_and_says_where_it_came_from() {
    let server = server().await;
    let policy = r#"{"delivery-limit":2,"dead-letter-exchange":"gantry.dead"}"#;
    let broker = process(&server, "process-1").await;
    let pattern = r"^gantry\.queue\.";
    server
        .admin(&["set_policy", "--priority", "20", "--apply-to", "queues", "strict", pattern, policy])
        .await;
    let mut dead = broker.consume(DeliverySource::Dead, 10).await.unwrap();
    let mut deliveries = consume(&broker, "gpu.big", 1).await;
    broker.publish(&queue("gpu.big"), message("1")).await.unwrap();
    let requeue = async {
        while let Some(delivery) = deliveries.next().await {
            assert_eq!(delivery.requeue().await, Settled::Sent);
        }
    };
    let delivery = tokio::select! {
        () = requeue => panic!("the stream ended"),
        delivery = next(&mut dead) => delivery,
    };
    assert_eq!((id(&delivery), delivery.queue.as_str()), ("1", "gpu.big"));
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses() {
    let server = server().await;
    let broker = process(&server, "process-1").await;
    let policy = r#"{"max-length":3,"overflow":"reject-publish"}"#;
    let pattern = r"^gantry\.queue\.";
    server.admin(&["set_policy", "--priority", "20", "--apply-to", "queues", "small", pattern, policy]).await;
    drop(consume(&broker, "work", 1).await);
    let mut refused = false;
    for number in 0..50 {
        match broker.publish(&queue("work"), message(number)).await {
            Ok(()) => {}
            Err(PublishError::Refused) => refused = true,
            Err(other @ (PublishError::Away(_) | PublishError::Unknown { .. })) => panic!("{other}"),
        }
    }
    assert!(refused);
    broker.close().await;
}

/// The permissions are those of `docs/operations-rabbitmq.md`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_who_may_configure_nothing_find_what_others_made() {
    let server = server().await;
    let maker = process(&server, "maker").await;
    drop(consume(&maker, "work", 1).await);
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations-rabbitmq.md");
    let page = std::fs::read_to_string(page).unwrap();
    let address = server.url();
    let mut processes = Vec::new();
    for user in ["gateway", "worker"] {
        let start = format!("rabbitmqctl set_permissions {user} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&start)).unwrap();
        let permissions: Vec<&str> = line.split('\'').filter(|part| part.starts_with('^')).collect();
        server.admin(&["add_user", user, "secret"]).await;
        server.admin(&[["set_permissions", user].as_slice(), &permissions].concat()).await;
        let (_, host) = address.split_once('@').unwrap();
        let url = format!("amqp://{user}:secret@{host}");
        processes.push(RabbitMq::connect(&config(url, "gantry"), user).await.unwrap());
    }
    let (gateway, worker) = (&processes[0], &processes[1]);
    let mut replies = gateway.replies().await.unwrap();
    let mut controls = worker.controls().await.unwrap();
    let mut unroutable = gateway.consume(DeliverySource::Unroutable, 1).await.unwrap();
    let mut deliveries = consume(worker, "work", 1).await;

    gateway.publish(&queue("work"), message("1")).await.unwrap();
    let delivery = next(&mut deliveries).await;
    worker.reject(&delivery.queue, delivery.message.clone(), "parse", "a reason").await.unwrap();
    let reply_to = gateway.reply_queue().to_owned();
    worker.reply(&protocol::ReplyAddress { reply_to, correlation_id: "c".to_owned() }, message("2"));
    assert!(timeout(SOON, replies.recv()).await.unwrap().is_some());
    gateway.broadcast(broker::Control::Cancel(domain::ExecuteId::new(1)));
    assert!(timeout(SOON, controls.recv()).await.unwrap().is_some());
    gateway.publish(&queue("nobody"), message("3")).await.unwrap();
    assert_eq!(id(&next(&mut unroutable).await), "3");

    // What is not there and may not be made is said in words.
    let missing = worker.consume(DeliverySource::Queues(vec![queue("other")]), 1).await.map(drop);
    let Err(broker::BrokerError::Topology { what, .. }) = missing else { panic!("{missing:?}") };
    assert!(what.contains("gantry.queue.other does not exist"), "{what}");
    assert_eq!(delivery.ack().await, Settled::Sent);
    for process in processes {
        process.close().await;
    }
    maker.close().await;
}
