//! What a caller that waits costs its gateway: many connections, each with one call that is not answered.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use domain::ModelName;
use hyper::Uri;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::accounting;
use crate::http::{Gateways, Version};

/// Connections made at once: more than a gateway's backlog holds would only be made again.
const AT_ONCE: usize = 100;
/// Calls from one address of this machine: a gateway takes 2,000 by default.
const EACH_ADDRESS: usize = 1_900;
/// How long a call waits at the gateway.
const WAIT_S: u32 = 300;
/// How long the gateway may take until all wait.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long they wait before the gateway's memory is looked at: then it is that of waiting, and not of the rush before, which the
/// allocator gives back within ten seconds.
const SETTLE: Duration = Duration::from_secs(15);

/// Lets many callers wait at one gateway and says what memory each costs it
#[derive(Debug, Clone, Args)]
pub struct Waiters {
    /// A model whose executions do not end meanwhile: `gantry push loadtest/models/idle`
    #[arg(long, default_value = "idle")]
    model: ModelName,
    /// How many callers
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    callers: u32,
    /// Bytes of each input
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..=65_536))]
    payload: u32,
    /// Speak HTTP/2: 100 of them share a connection
    #[arg(long)]
    http2: bool,
    /// The gateway, on this machine
    #[arg(long, env = "GANTRY_URL", default_value = "http://127.0.0.1:7070")]
    url: String,
    /// Write the figures to FILE as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Measures and prints.
///
/// # Errors
/// The gateway is not on this machine, cannot be reached, or does not take all callers.
pub async fn run(args: Waiters) -> anyhow::Result<bool> {
    let uri: Uri = args.url.parse().with_context(|| format!("{:?} is no URL", args.url))?;
    let port = uri.port_u16().context("the URL names no port")?;
    let pid =
        accounting::listener(port).with_context(|| format!("nobody on this machine listens at {port}"))?;
    // Its connection is made before the others take theirs.
    let gateways = gateways(&args)?;
    gateways.check_model(&args.model).await?;
    let before = resident(pid)?;
    let began = Instant::now();
    let mut held = if args.http2 { streams(&args)? } else { connections(&args, port).await? };
    all_wait(&gateways, args.callers).await?;
    let connected_s = began.elapsed().as_secs_f64();
    sleep(SETTLE).await;
    let (after, peak) = (resident(pid)?, memory(pid, "VmHWM:")?);
    let answered = held.answered();
    if answered > 0 {
        bail!(
            "{answered} callers were answered at once: the gateway's waiters_max or connections_max is lower, or the model ran"
        );
    }
    let each = (after.saturating_sub(before)) as f64 / f64::from(args.callers);
    println!(
        "{} callers wait at {} (process {pid}); all did after {connected_s:.1} s, and {} s later:",
        args.callers,
        args.url,
        SETTLE.as_secs()
    );
    println!(
        "  resident memory  {:.1} MiB before, {:.1} MiB now, {:.1} MiB at most",
        mib(before),
        mib(after),
        mib(peak)
    );
    println!("  each caller      {each:.0} bytes");
    if let Some(file) = &args.json {
        let figures = json!({ "callers": args.callers, "payload": args.payload, "http2": args.http2, "resident_before": before,
            "resident_after": after, "resident_peak": peak, "bytes_each": each, "connected_s": connected_s });
        std::fs::write(file, format!("{figures:#}\n"))
            .with_context(|| format!("write {}", file.display()))?;
    }
    Ok(true)
}

/// The calls that are held.
#[derive(Default)]
struct Held {
    connections: Vec<TcpStream>,
    streams: JoinSet<()>,
}

impl Held {
    /// How many of them have an answer.
    fn answered(&mut self) -> usize {
        let connections =
            self.connections.iter().filter(|stream| stream.try_read(&mut [0; 1]).is_ok()).count();
        connections + std::iter::from_fn(|| self.streams.try_join_next()).count()
    }
}

/// Makes the calls, each on a connection of its own.
async fn connections(args: &Waiters, port: u16) -> anyhow::Result<Held> {
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let request = request(args);
    let mut held = Held::default();
    let mut connecting = JoinSet::new();
    for caller in 0..usize::try_from(args.callers)? {
        while connecting.len() >= AT_ONCE {
            held.connections.extend(connecting.join_next().await.transpose()?.transpose()?);
        }
        connecting.spawn(call(server, caller / EACH_ADDRESS, request.clone()));
    }
    while let Some(connected) = connecting.join_next().await {
        held.connections.push(connected??);
    }
    Ok(held)
}

/// Makes the calls on connections that they share.
fn streams(args: &Waiters) -> anyhow::Result<Held> {
    let mut held = Held::default();
    let input = Bytes::from(input(args));
    let callers = usize::try_from(args.callers)?;
    for (address, first) in (0..callers).step_by(EACH_ADDRESS).enumerate() {
        let gateways = Arc::new(gateways(args)?.bound_to(local(address)?));
        for _ in first..callers.min(first + EACH_ADDRESS) {
            let (gateways, model, input) = (Arc::clone(&gateways), args.model.clone(), input.clone());
            // One that is answered while it should wait is counted, and so is one that breaks off.
            held.streams.spawn(async move { drop(gateways.wait(&model, input, WAIT_S).await) });
        }
    }
    Ok(held)
}

fn gateways(args: &Waiters) -> anyhow::Result<Gateways> {
    Gateways::new(std::slice::from_ref(&args.url), Version::of(args.http2))
}

/// The loopback address of that number.
fn local(address: usize) -> anyhow::Result<Ipv4Addr> {
    Ok(Ipv4Addr::new(127, 0, 1, u8::try_from(address + 1)?))
}

fn input(args: &Waiters) -> String {
    format!("\"{}\"", "x".repeat(args.payload as usize - 2))
}

fn request(args: &Waiters) -> String {
    let input = input(args);
    format!(
        "POST /v1/models/{}/executions HTTP/1.1\r\nhost: gantry\r\ncontent-type: application/json\r\n\
         prefer: wait={WAIT_S}\r\ncontent-length: {}\r\n\r\n{input}",
        args.model,
        input.len()
    )
}

/// Makes one call from the loopback address of that number, and leaves it open.
async fn call(server: SocketAddr, address: usize, request: String) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let from = local(address)?;
    socket.bind((from, 0).into()).with_context(|| format!("bind {from}"))?;
    let mut stream = socket.connect(server).await.context("connect")?;
    stream.write_all(request.as_bytes()).await.context("send")?;
    Ok(stream)
}

/// Waits until the gateway says that all callers wait.
async fn all_wait(gateways: &Gateways, callers: u32) -> anyhow::Result<()> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let waiting = gateways.metric("gantry_gateway_waiters").await;
        match waiting {
            Ok(waiting) if waiting >= f64::from(callers) => return Ok(()),
            Ok(waiting) if Instant::now() > give_up => bail!("only {waiting} of {callers} callers wait"),
            Err(error) if Instant::now() > give_up => return Err(error),
            Ok(_) | Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

fn resident(pid: u32) -> anyhow::Result<u64> {
    memory(pid, "VmRSS:")
}

/// What the kernel says of a process's memory under that name, in bytes (proc_pid_status(5)).
fn memory(pid: u32, name: &str) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).context("read the gateway's memory")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    let kib: u64 = line.split_whitespace().next().unwrap_or_default().parse()?;
    Ok(kib * 1_024)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
