use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use lapin::tcp::{AsyncTcpStream, OwnedTLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind, Event};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::names::Names;
use crate::BrokerError;

/// For the connection to stand, TLS included.
const TCP_LIMIT: Duration = Duration::from_secs(5);
/// For the whole handshake: a broker that is frozen accepts connections and then says nothing for ever.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// For the answer to one request on an open connection.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// For each step of closing: a blocked connection cannot even say goodbye.
pub(super) const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// The driver follows the server's 60 s otherwise, and takes twice that to notice a dead one.
const HEARTBEAT_S: u16 = 10;
/// The largest frame, as RabbitMQ has it unless it is configured otherwise. The driver has buffers of 64 frames for each connection;
/// if no size is stated it grows them to what the server offers, and writes to all of it.
const FRAME_BYTES_MAX: u32 = 128 << 10;
const REPLY_SUCCESS: u16 = 200;

/// What every connection of this process has in common.
pub(super) struct Settings {
    pub(super) uri: AMQPUri,
    /// Certificates to trust beside the system's, as PEM.
    pub(super) ca_pem: Option<String>,
    pub(super) process: String,
    pub(super) names: Names,
}

impl Settings {
    /// The URI with our limits where it states none.
    pub(super) fn parse_uri(url: &str) -> Result<AMQPUri, String> {
        let mut uri: AMQPUri = url.parse()?;
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        uri.query.frame_max.get_or_insert(FRAME_BYTES_MAX);
        Ok(uri)
    }
}

/// One connection, from its opening to the first sign that something is wrong with it. Nothing of it is repaired: the
/// supervisor opens the next one and everything is built anew.
pub(super) struct Epoch {
    connection: Connection,
    wire: Wire,
    /// Cancelled by whoever first finds that the epoch is over.
    over: CancellationToken,
}

impl Epoch {
    /// Connects. If the future is dropped, nothing stays open.
    pub(super) async fn open(settings: &Settings, role: &'static str) -> Result<Self, BrokerError> {
        let wire = Wire::new();
        let name = format!("{}-{role}", settings.process);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let runtime = lapin::runtime::default_runtime().map_err(failed("find the runtime"))?;
        let tls = OwnedTLSConfig { identity: None, cert_chain: settings.ca_pem.clone() };
        let held = wire.0.clone();
        // `Connection::connect` honours neither a limit for TCP nor for the handshake.
        let connecting = Connection::connector(
            settings.uri.clone(),
            runtime,
            async move |uri, runtime| {
                let address = runtime.to_socket_addrs((uri.authority.host.clone(), uri.authority.port));
                let standing = async {
                    let stream = AsyncTcpStream::connect(&runtime, address).await?;
                    if let AsyncTcpStream::Plain(plain) = &stream {
                        hold(&held, plain.get_ref().as_fd().try_clone_to_owned()?.into())?;
                    }
                    match uri.scheme {
                        AMQPScheme::AMQP => Ok(stream),
                        AMQPScheme::AMQPS => stream.into_tls(&uri.authority.host, tls.as_ref()).await,
                    }
                };
                Ok(timeout(TCP_LIMIT, standing).await.map_err(io::Error::from).flatten()?)
            },
            properties,
        );
        let connection = within("connect", HANDSHAKE_LIMIT, connecting).await?;
        Ok(Self { connection, wire, over: CancellationToken::new() })
    }

    /// A new channel.
    pub(super) async fn channel(&self) -> Result<Channel, BrokerError> {
        ask("open a channel", self.connection.create_channel()).await
    }

    /// What the connection says about its end. The driver also tells what happened to single channels; that is
    /// left to those who use them.
    pub(super) fn events(&self) -> impl Stream<Item = BrokerError> + Send {
        self.connection.events_listener().filter_map(|event| async move {
            let Event::Error(error) = event else { return None };
            (!error.is_amqp_soft_error()).then(|| failed("keep the connection")(error))
        })
    }

    pub(super) fn over(&self) -> &CancellationToken {
        &self.over
    }

    /// Is there no sign yet that it is over?
    pub(super) fn is_standing(&self) -> bool {
        !self.over.is_cancelled() && self.connection.status().connected()
    }

    /// Does the broker take nothing from this connection, because it is short of memory or disk?
    pub(super) fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    /// Ends it, in bounded time.
    pub(super) async fn close(&self) {
        self.over.cancel();
        let closing = self.connection.close(REPLY_SUCCESS, "OK".into());
        drop(timeout(CLOSE_LIMIT, closing).await);
        self.wire.cut();
    }
}

/// Our own hold on the connection's socket. The driver's thread may wait on it for ever: when a handshake got no
/// answer, or when the connection is blocked and cannot send its close. Cutting the socket ends that thread; dropping this
/// does it too.
struct Wire(Arc<Mutex<Socket>>);

enum Socket {
    NotYet,
    Open(TcpStream),
    Cut,
}

impl Wire {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Socket::NotYet)))
    }

    fn cut(&self) {
        let socket = std::mem::replace(&mut *lock(&self.0), Socket::Cut);
        if let Socket::Open(socket) = socket {
            // It fails if the other side was faster.
            drop(socket.shutdown(Shutdown::Both));
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.cut();
    }
}

/// Keeps a copy of the socket for [`Wire::cut`]. Fails if that came first.
fn hold(wire: &Mutex<Socket>, socket: TcpStream) -> io::Result<()> {
    let mut held = lock(wire);
    if matches!(*held, Socket::Cut) {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    *held = Socket::Open(socket);
    Ok(())
}

fn lock(wire: &Mutex<Socket>) -> MutexGuard<'_, Socket> {
    wire.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes a channel in bounded time; what was not settled on it goes back to its queue.
pub(super) async fn close_channel(channel: &Channel) {
    drop(timeout(CLOSE_LIMIT, channel.close(REPLY_SUCCESS, "OK".into())).await);
}

/// Waits for the answer to a request, in bounded time.
pub(super) async fn ask<T>(
    step: &'static str,
    answer: impl Future<Output = lapin::Result<T>>,
) -> Result<T, BrokerError> {
    within(step, ANSWER_LIMIT, answer).await
}

async fn within<T>(
    step: &'static str,
    limit: Duration,
    answer: impl Future<Output = lapin::Result<T>>,
) -> Result<T, BrokerError> {
    match timeout(limit, answer).await {
        Ok(answer) => answer.map_err(failed(step)),
        Err(_) => Err(BrokerError::Timeout { step, limit_ms: limit.as_millis() as u64 }),
    }
}

pub(super) fn failed(step: &'static str) -> impl FnOnce(lapin::Error) -> BrokerError {
    move |error| BrokerError::Failed { step, source: error.into() }
}

/// RabbitMQ's reply code, if it is what the error says: 403 refused, 404 not found, 406 inequivalent.
pub(super) fn reply_code(error: &BrokerError) -> Option<u16> {
    let BrokerError::Failed { source, .. } = error else { return None };
    let ErrorKind::ProtocolError(error) = source.downcast_ref::<lapin::Error>()?.kind() else { return None };
    Some(error.get_id())
}
