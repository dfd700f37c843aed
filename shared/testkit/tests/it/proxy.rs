//! Each fault of the link, against a server that answers each line with the line.

use std::time::Duration;

use testkit::{Fault, Proxy, eventually};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

const LIMIT: Duration = Duration::from_secs(10);

/// Answers lines, and counts what it saw.
struct Echo {
    address: String,
    seen: std::sync::Arc<std::sync::Mutex<Seen>>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default, Clone, PartialEq)]
struct Seen {
    connections: usize,
    lines: Vec<String>,
    ended: usize,
}

impl Echo {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = std::sync::Arc::new(std::sync::Mutex::new(Seen::default()));
        let mut tasks = JoinSet::new();
        let shared = seen.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let seen = shared.clone();
                seen.lock().unwrap().connections += 1;
                connections.spawn(async move {
                    let (read, mut write) = stream.into_split();
                    let mut lines = BufReader::new(read).lines();
                    while let Ok(Some(line)) = lines.next_line().await {
                        seen.lock().unwrap().lines.push(line.clone());
                        if write.write_all(format!("{line}\n").as_bytes()).await.is_err() {
                            break;
                        }
                    }
                    seen.lock().unwrap().ended += 1;
                });
            }
        });
        Self { address, seen, _tasks: tasks }
    }

    fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }
}

/// Sends a line and reads as many bytes as an answer has.
async fn ask(stream: &mut TcpStream, line: &str) -> std::io::Result<String> {
    stream.write_all(format!("{line}\n").as_bytes()).await?;
    let mut answer = vec![0; line.len() + 1];
    timeout(LIMIT, stream.read_exact(&mut answer)).await.expect("an answer or an error")?;
    Ok(String::from_utf8_lossy(&answer).trim_end().to_owned())
}

async fn echo_behind_proxy() -> (Echo, Proxy, TcpStream) {
    let echo = Echo::start().await;
    let proxy = Proxy::start(&echo.address).await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(ask(&mut stream, "hello").await.unwrap(), "hello");
    (echo, proxy, stream)
}

#[tokio::test]
async fn a_url_is_led_through_the_link() {
    let proxy = Proxy::start("postgres://gantry:secret@127.0.0.1:5432/gantry?x=a@b:1").await;
    assert_eq!(proxy.upstream(), "127.0.0.1:5432");
    let port = proxy.address().port();
    assert_eq!(
        proxy.url("postgres://gantry:secret@127.0.0.1:5432/gantry?x=a@b:1"),
        format!("postgres://gantry:secret@127.0.0.1:{port}/gantry?x=a@b:1")
    );
    assert_eq!(proxy.url("127.0.0.1:5432"), format!("127.0.0.1:{port}"));
}

#[tokio::test]
async fn what_a_black_hole_took_never_arrives_later() {
    let (echo, proxy, mut stream) = echo_behind_proxy().await;
    proxy.set(Fault::Blackhole);
    stream.write_all(b"lost\n").await.unwrap();
    let mut new = TcpStream::connect(proxy.address()).await.unwrap();
    new.write_all(b"also lost\n").await.unwrap();
    eventually("the new connection was taken", LIMIT, async || proxy.connections() == 2).await;
    proxy.set(Fault::Pass);
    stream.write_all(b"lost too\n").await.unwrap();
    // The barrier: what went through the link before this answer has arrived or never will.
    let mut other = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(ask(&mut other, "after").await.unwrap(), "after");
    drop((stream, new));
    assert_eq!(ask(&mut other, "end").await.unwrap(), "end");
    let seen = echo.seen();
    assert_eq!(seen.lines, ["hello", "after", "end"]);
    assert_eq!((seen.connections, seen.ended), (2, 0), "the server never hears of the end");
}

#[tokio::test]
async fn a_reset_reaches_both_sides_and_new_connections_until_it_is_lifted() {
    let (echo, proxy, mut stream) = echo_behind_proxy().await;
    proxy.set(Fault::Reset);
    assert!(timeout(LIMIT, stream.read_u8()).await.unwrap().is_err());
    eventually("the server sees the end", LIMIT, async || echo.seen().ended == 1).await;
    let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(ask(&mut refused, "no").await.is_err());
    proxy.set(Fault::Pass);
    let mut again = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(ask(&mut again, "yes").await.unwrap(), "yes");
    proxy.cut();
    assert!(timeout(LIMIT, again.read_u8()).await.unwrap().is_err());
    let mut after = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(ask(&mut after, "after a cut").await.unwrap(), "after a cut");
}

#[tokio::test]
async fn a_delay_and_a_rate_slow_answers_down_and_end_when_lifted() {
    let (_echo, proxy, mut stream) = echo_behind_proxy().await;
    let start = Instant::now();
    proxy.set_to_client(Fault::Delay(Duration::from_millis(150)));
    assert_eq!(ask(&mut stream, "slow").await.unwrap(), "slow");
    assert!(start.elapsed() >= Duration::from_millis(150));
    let start = Instant::now();
    proxy.set(Fault::Rate(100));
    assert_eq!(ask(&mut stream, &"x".repeat(19)).await.unwrap(), "x".repeat(19));
    assert!(start.elapsed() >= Duration::from_millis(200), "20 bytes at 100 B/s");
    // At a byte per hour the answer would never come.
    proxy.set_to_client(Fault::Delay(Duration::from_secs(3600)));
    stream.write_all(b"stuck\n").await.unwrap();
    assert!(timeout(Duration::from_millis(100), stream.read_u8()).await.is_err());
    proxy.set(Fault::Pass);
    assert_eq!(timeout(LIMIT, stream.read_u8()).await.unwrap().unwrap(), b's');
}

#[tokio::test]
async fn a_truncated_connection_ends_after_so_many_bytes() {
    let (echo, proxy, mut stream) = echo_behind_proxy().await;
    proxy.set_to_client(Fault::Truncate(3));
    stream.write_all(b"abcdef\n").await.unwrap();
    let mut received = Vec::new();
    // The end may come as a close or a reset; the bytes before it count.
    drop(timeout(LIMIT, stream.read_to_end(&mut received)).await.unwrap());
    assert_eq!(received, b"abc");
    assert_eq!(echo.seen().lines, ["hello", "abcdef"]);
}

#[tokio::test]
async fn one_byte_is_corrupted() {
    let (_echo, proxy, mut stream) = echo_behind_proxy().await;
    proxy.set_to_client(Fault::Corrupt(7));
    assert_eq!(ask(&mut stream, "12345").await.unwrap(), "12345");
    stream.write_all(b"12345\n").await.unwrap();
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, [b'1', !b'2', b'3', b'4', b'5', b'\n']);
    assert_eq!(ask(&mut stream, "12345").await.unwrap(), "12345");
}

#[tokio::test]
async fn a_dropped_answer_belongs_to_a_request_that_the_server_has_served() {
    let (echo, proxy, _stream) = echo_behind_proxy().await;
    proxy.set(Fault::DropAnswers { probability: 0.5, seed: 7 });
    let mut unanswered = Vec::new();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    for n in 0..100 {
        let line = format!("line {n}");
        if ask(&mut stream, &line).await.is_err() {
            unanswered.push(line);
            stream = TcpStream::connect(proxy.address()).await.unwrap();
        }
    }
    assert!((20..80).contains(&unanswered.len()), "about half of 100: {}", unanswered.len());
    assert_eq!(proxy.dropped_answers(), unanswered.len() as u64);
    let seen = echo.seen().lines;
    assert!(unanswered.iter().all(|line| seen.contains(line)), "each was served");
    assert_eq!(seen.len(), 101, "none was served twice");
}
