use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What a link does to the bytes of one direction.
///
/// A connection that has seen [`Blackhole`](Fault::Blackhole) stays silent even when the link passes again: bytes of it
/// are missing, and to deliver the rest later would be a fault that no network has. (A proxy that merely pauses delivers
/// the delayed bytes after all, and so hides the bugs that a partition shows.)
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// Bytes pass.
    Pass,
    /// Each piece passes this much later.
    Delay(Duration),
    /// At most this many bytes per second.
    Rate(u64),
    /// Bytes are taken and dropped, and nobody is told when the other side goes away.
    Blackhole,
    /// Connections are reset, those that are open and those that come.
    Reset,
    /// A connection passes this many more bytes (counted anew when the fault is set), then it is closed.
    Truncate(u64),
    /// The byte after this many more arrives inverted; the others pass.
    Corrupt(u64),
    /// An answer (the first bytes to the client after bytes of its own) is dropped with this probability and the connection
    /// reset: the server has done what it was asked, and the client cannot know. Means `Pass` towards the server.
    DropAnswers {
        /// From 0 to 1.
        probability: f64,
        /// The n-th connection draws from a generator seeded with this and n.
        seed: u64,
    },
}

impl Fault {
    fn strikes_after(self) -> Option<usize> {
        match self {
            Self::Truncate(bytes) | Self::Corrupt(bytes) => usize::try_from(bytes).ok(),
            Self::Pass
            | Self::Delay(_)
            | Self::Rate(_)
            | Self::Blackhole
            | Self::Reset
            | Self::DropAnswers { .. } => None,
        }
    }
}

/// Both directions of the link, and how often connections were cut on request.
#[derive(Debug, Clone, Copy)]
struct Link {
    to_server: Fault,
    to_client: Fault,
    cuts: u64,
}

impl Link {
    const fn towards(&self, to_client: bool) -> Fault {
        if to_client { self.to_client } else { self.to_server }
    }

    fn resets(&self) -> bool {
        self.to_server == Fault::Reset || self.to_client == Fault::Reset
    }
}

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    dropped_answers: AtomicU64,
}

/// A TCP link from loopback to a server, with faults. Dropping it resets nothing but closes all its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    upstream: String,
    link: watch::Sender<Link>,
    counters: Arc<Counters>,
    /// Owns the listener and, through it, every connection; aborted when dropped.
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// A link to `upstream` (`host:port`, or a URL that contains one) on a port the kernel chose. It passes everything.
    ///
    /// # Panics
    /// If `upstream` has no port, or loopback none to give.
    pub async fn start(upstream: &str) -> Self {
        let upstream = authority(upstream).to_owned();
        assert!(upstream.contains(':'), "no host:port in {upstream}");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind loopback");
        let address = listener.local_addr().expect("bound address");
        let (link, _) = watch::channel(Link { to_server: Fault::Pass, to_client: Fault::Pass, cuts: 0 });
        let counters = Arc::new(Counters::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, upstream.clone(), link.clone(), Arc::clone(&counters)));
        Self { address, upstream, link, counters, _tasks: tasks }
    }

    /// Where the link begins.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// `url` with the server's `host:port` replaced by the link's.
    #[must_use]
    pub fn url(&self, url: &str) -> String {
        url.replacen(authority(url), &self.address.to_string(), 1)
    }

    /// The server behind the link, `host:port`.
    #[must_use]
    pub fn upstream(&self) -> &str {
        &self.upstream
    }

    /// Sets the fault of both directions, for connections that are open and those that come.
    pub fn set(&self, fault: Fault) {
        self.link.send_modify(|link| (link.to_server, link.to_client) = (fault, fault));
    }

    /// Sets the fault of one direction.
    pub fn set_to_server(&self, fault: Fault) {
        self.link.send_modify(|link| link.to_server = fault);
    }

    /// Sets the fault of one direction.
    pub fn set_to_client(&self, fault: Fault) {
        self.link.send_modify(|link| link.to_client = fault);
    }

    /// Resets the connections that are open now; new ones pass as before.
    pub fn cut(&self) {
        self.link.send_modify(|link| link.cuts += 1);
    }

    /// How many connections were accepted.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.counters.connections.load(Ordering::SeqCst)
    }

    /// How many answers [`Fault::DropAnswers`] dropped.
    #[must_use]
    pub fn dropped_answers(&self) -> u64 {
        self.counters.dropped_answers.load(Ordering::SeqCst)
    }
}

/// The `host:port` in `url`, or `url` itself if it is one.
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['/', '?']).next().unwrap_or(rest);
    rest.rsplit_once('@').map_or(rest, |(_, host)| host)
}

async fn accept(listener: TcpListener, upstream: String, link: watch::Sender<Link>, counters: Arc<Counters>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                let number = counters.connections.fetch_add(1, Ordering::SeqCst);
                connections.spawn(connection(client, upstream.clone(), link.subscribe(), Arc::clone(&counters), number));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Why a connection ends early.
enum End {
    /// Both sides see it closed.
    Closed,
    /// Both sides see it reset.
    Reset,
}

async fn connection(
    mut client: TcpStream,
    upstream: String,
    mut link: watch::Receiver<Link>,
    counters: Arc<Counters>,
    number: u64,
) {
    let now = *link.borrow();
    let server = if now.resets() {
        None
    } else if now.to_server == Fault::Blackhole {
        // To the client it looks connected; the server never hears of it.
        return swallow(client, link, now.cuts).await;
    } else {
        TcpStream::connect(&upstream).await.ok()
    };
    let Some(mut server) = server else { return reset(&client) };
    for stream in [&client, &server] {
        // Small messages must not wait for each other; a link that cannot be told so is still a link.
        drop(stream.set_nodelay(true));
    }
    let asked = AtomicBool::new(false);
    let ended = {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        let pump = |to_client, read, write| Pump {
            to_client,
            read,
            write,
            link: link.clone(),
            asked: &asked,
            dropped_answers: &counters.dropped_answers,
            number,
        };
        // Both halves live until both directions have ended: dropping one early would tell the other side.
        let up = pump(false, client_read, server_write);
        let down = pump(true, server_read, client_write);
        tokio::select! {
            ended = async { tokio::try_join!(up.run(), down.run()) } => ended.err().unwrap_or(End::Closed),
            () = cut(&mut link, now.cuts) => End::Reset,
        }
    };
    match ended {
        End::Closed => {}
        End::Reset => {
            reset(&client);
            reset(&server);
        }
    }
}

/// Waits until connections that were accepted at `cuts` are to be reset.
async fn cut(link: &mut watch::Receiver<Link>, cuts: u64) {
    // The link ends with the proxy, and so do its connections.
    drop(link.wait_for(|link| link.cuts != cuts || link.resets()).await);
}

/// Makes closing `stream` a reset.
fn reset(stream: &TcpStream) {
    // It fails only on a socket that is gone already.
    drop(stream.set_zero_linger());
}

/// Takes what `client` sends until it closes or the link is cut.
async fn swallow(mut client: TcpStream, mut link: watch::Receiver<Link>, cuts: u64) {
    tokio::select! {
        () = discard(&mut client) => {}
        () = cut(&mut link, cuts) => reset(&client),
    }
}

/// Takes and drops bytes until there are no more.
async fn discard(read: &mut (impl AsyncRead + Unpin)) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(1..) = read.read(&mut buffer).await {}
}

/// One direction of one connection.
struct Pump<'a> {
    to_client: bool,
    read: ReadHalf<'a>,
    write: WriteHalf<'a>,
    link: watch::Receiver<Link>,
    /// The client has sent something that the server has not answered yet.
    asked: &'a AtomicBool,
    dropped_answers: &'a AtomicU64,
    number: u64,
}

impl Pump<'_> {
    async fn run(mut self) -> Result<(), End> {
        let (mut dark, to_client) = (self.link.clone(), self.to_client);
        tokio::select! {
            biased;
            _ = dark.wait_for(|link| link.towards(to_client) == Fault::Blackhole) => {}
            ended = self.forward() => return ended,
        }
        // The other side learns nothing, not even of the end.
        discard(&mut self.read).await;
        Ok(())
    }

    async fn forward(&mut self) -> Result<(), End> {
        let mut buffer = vec![0; 64 * 1024];
        let mut fault = Fault::Pass;
        // Of a fault that counts bytes: how many until it strikes.
        let mut left = None;
        let mut random = StdRng::seed_from_u64(0);
        loop {
            let size = self.read.read(&mut buffer).await.map_err(|_| End::Reset)?;
            if size == 0 {
                // It may have gone already.
                drop(self.write.shutdown().await);
                return Ok(());
            }
            let bytes = &mut buffer[..size];
            if std::mem::replace(&mut fault, self.fault()) != fault {
                left = fault.strikes_after();
                if let Fault::DropAnswers { seed, .. } = fault {
                    random = StdRng::seed_from_u64(seed ^ self.number.rotate_left(32));
                }
            }
            match fault {
                Fault::Pass | Fault::Blackhole | Fault::Reset => {}
                Fault::Delay(delay) => self.wait(delay, fault).await,
                Fault::Rate(bytes_per_s) => {
                    self.trickle(bytes, bytes_per_s.max(1), fault).await?;
                    continue;
                }
                Fault::Truncate(_) => {
                    if let Some(rest) = left.filter(|left| *left <= size) {
                        self.send(&bytes[..rest]).await?;
                        return Err(End::Closed);
                    }
                }
                Fault::Corrupt(_) => {
                    if let Some(byte) = left.and_then(|left| bytes.get_mut(left)) {
                        *byte ^= 0xff;
                    }
                }
                Fault::DropAnswers { probability, .. } => {
                    let answers = self.to_client && self.asked.swap(false, Ordering::SeqCst);
                    if answers && random.random_bool(probability) {
                        self.dropped_answers.fetch_add(1, Ordering::SeqCst);
                        return Err(End::Reset);
                    }
                }
            }
            left = left.and_then(|left| left.checked_sub(size));
            self.send(bytes).await?;
        }
    }

    fn fault(&self) -> Fault {
        self.link.borrow().towards(self.to_client)
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), End> {
        if !self.to_client {
            // Before the bytes are out: the answer may be back before this task runs again.
            self.asked.store(true, Ordering::SeqCst);
        }
        self.write.write_all(bytes).await.map_err(|_| End::Reset)
    }

    /// Sends `bytes` in about 20 pieces per second.
    async fn trickle(&mut self, bytes: &[u8], bytes_per_s: u64, fault: Fault) -> Result<(), End> {
        let piece = usize::try_from(bytes_per_s / 20).unwrap_or(usize::MAX).max(1);
        for part in bytes.chunks(piece) {
            self.wait(Duration::from_secs_f64(part.len() as f64 / bytes_per_s as f64), fault).await;
            self.send(part).await?;
        }
        Ok(())
    }

    /// Waits for `time`, or until the link's fault is no longer `fault`.
    async fn wait(&mut self, time: Duration, fault: Fault) {
        let to_client = self.to_client;
        let changed = self.link.wait_for(|link| link.towards(to_client) != fault);
        // Elapsed or changed: both end the wait.
        drop(tokio::time::timeout(time, changed).await);
    }
}
