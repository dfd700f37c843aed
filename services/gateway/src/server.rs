//! The connections: every one of them has a limit on how many there are and how long it may be silent, and a drain ends.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, header};
use axum::response::IntoResponse;
use bootstrap::Shutdown;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use protocol::ProblemCode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::access_log::Line;
use crate::census::{Census, Place};
use crate::gateway::Gateway;
use crate::problem::Refusal;
use crate::wire::{self, Guarded, Wire};
use crate::{Config, http2, metrics, tls};

/// How long a TLS handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// How long a connection may be idle between two requests.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(60);
/// How long a connection is used for further requests: so that load follows what a balancer says.
const AGE_MAX: Duration = Duration::from_secs(3_600);
/// The largest header of a request, and the most lines in it.
const HEADER_BYTES_MAX: usize = 16 << 10;
const HEADER_LINES_MAX: usize = 64;
/// The most bytes of a request or an answer that HTTP/1.1 keeps in memory for a connection, beside a body being collected.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// From the end of the callers' waits to the end of the drain: time to write what they are told.
pub(crate) const LAST_ANSWERS: Duration = Duration::from_secs(3);
/// What a connection over the cap is told.
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
    retry-after: 2\r\nconnection: close\r\ncontent-length: 116\r\n\r\n\
    {\"type\":\"about:blank\",\"code\":\"overloaded\",\"status\":503,\"title\":\"Too busy\",\"detail\":\"there are too many connections\"}";

/// Connections that wait to be accepted, if the kernel (`net.core.somaxconn`) lets so many: who comes when there are more tries
/// again after a second. Usual are 128, which a client that opens all of its connections at once is enough to fill.
const BACKLOG: u32 = 4_096;
/// Files that are open beside the connections.
const OTHER_FILES: u64 = 512;

/// Raises the soft limit of open files to what so many connections need, as far as the hard one lets it: the usual soft one
/// is 1,024.
fn allow_open_files(connections: usize) {
    let wanted = u64::try_from(connections).unwrap_or(u64::MAX).saturating_add(OTHER_FILES);
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // `None` is without a limit.
    let Some(soft) = current.filter(|soft| *soft < wanted) else { return };
    let allowed = maximum.map_or(wanted, |hard| hard.min(wanted));
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(allowed), maximum }) {
        tracing::warn!(%error, soft, "cannot raise the limit of open files");
    } else if allowed < wanted {
        tracing::warn!(allowed, wanted, "the hard limit of open files is lower than connections_max needs");
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // So that it can be bound again while connections of a process before are still in their last minute.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A bound address.
pub(crate) struct Listener {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
}

impl Listener {
    pub fn bind(config: &Config) -> anyhow::Result<Self> {
        let tls = match (&config.tls_cert_file, &config.tls_key_file) {
            (Some(cert), Some(key)) => Some(tls::acceptor(cert, key)?),
            (None, _) | (_, None) => None,
        };
        allow_open_files(config.connections_max);
        let listener =
            listen(config.listen).with_context(|| format!("gateway.listen = {}", config.listen))?;
        let address = listener.local_addr().context("read the address")?;
        Ok(Self { listener, address, tls })
    }

    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until `shutdown` drains, then waits for the open connections, at most for the drain's limit.
    pub async fn serve(self, gateway: &Gateway, router: Router, shutdown: &Shutdown) {
        let census = Arc::new(Census::new(&gateway.config));
        let open_requests = Arc::new(Census::new(&gateway.config));
        let service = TowerToHyperService::new(router);
        let head_max = Duration::from_millis(gateway.config.header_ms_max);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.draining() => break,
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => match census.enter(peer.ip()) {
                        Some(place) => {
                            let (service, shutdown) = (service.clone(), shutdown.clone());
                            let requests = http2::Requests { service, census: open_requests.clone(), address: peer.ip() };
                            let counted = (place, metrics::connected());
                            let connection = Connection { requests, shutdown, head_max, _counted: counted };
                            connections.spawn(connection.serve(stream, self.tls.clone()));
                        }
                        None => {
                            metrics::connection_refused();
                            refuse(&stream, self.tls.is_some());
                        }
                    },
                    Err(error) => {
                        // Too many open files: there may be fewer in a moment.
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
            }
        }
        drop(self.listener);
        let drained = async { while connections.join_next().await.is_some() {} };
        let stopped = async {
            shutdown.stopping().await;
            tokio::time::sleep(LAST_ANSWERS).await;
        };
        let drain_max = Duration::from_millis(gateway.config.drain_ms_max) + LAST_ANSWERS;
        tokio::select! {
            () = drained => return,
            () = tokio::time::sleep(drain_max) => {}
            () = stopped => {}
        }
        tracing::warn!(count = connections.len(), "connections were still open at the end of the drain");
    }
}

/// Tells a client, if that takes no waiting, why it is not served.
fn refuse(stream: &TcpStream, is_tls: bool) {
    if is_tls {
        return;
    }
    // What was sent is read, so that closing does not throw the answer away.
    drop(stream.try_read(&mut [0; 4096]));
    drop(stream.try_write(TOO_MANY));
}

struct Connection {
    requests: http2::Requests,
    shutdown: Shutdown,
    head_max: Duration,
    _counted: (Place, metrics::Connected),
}

impl Connection {
    async fn serve(self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        drop(stream.set_nodelay(true));
        match tls {
            None => self.http(stream).await,
            // Apart, so that a connection in plain text has no room for it.
            Some(acceptor) => Box::pin(self.https(stream, acceptor)).await,
        }
    }

    async fn https(self, stream: TcpStream, acceptor: TlsAcceptor) {
        match timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => self.http(stream).await,
            Ok(Err(error)) => tracing::debug!(%error, "no TLS handshake"),
            Err(_) => tracing::debug!("the TLS handshake took too long"),
        }
    }

    async fn http(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let wire = Arc::new(Wire::default());
        let mut stream = Guarded::new(stream, wire.clone(), self.head_max);
        let is_http2 = tokio::select! {
            is_http2 = stream.is_http2() => is_http2,
            () = self.shutdown.draining() => return,
        };
        let ended = match is_http2 {
            Ok(false) => self.http1(stream, wire).await,
            // Apart, so that a connection of the other version has no room for it.
            Ok(true) => Box::pin(http2::serve(stream, self.requests, last_request(&self.shutdown))).await,
            Err(error) => {
                tracing::debug!(%error, "a connection broke off before its first request");
                return;
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error = bootstrap::chain(&error), "a connection broke off");
        }
    }

    async fn http1(
        self,
        stream: Guarded<impl AsyncRead + AsyncWrite + Unpin + Send + 'static>,
        wire: Arc<Wire>,
    ) -> hyper::Result<()> {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // It runs from the end of the answer before; a head's own time is the guard's.
            .header_read_timeout(IDLE_MAX.max(self.head_max))
            .max_buf_size(BUFFER_BYTES_MAX)
            .max_header_size(HEADER_BYTES_MAX)
            .max_headers(HEADER_LINES_MAX)
            .half_close(false)
            .serve_connection(TokioIo::new(stream), Requests { service: self.requests.service, wire });
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            ended = &mut connection => ended,
            () = last_request(&self.shutdown) => {
                // The request under way is answered, with `Connection: close`.
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    }
}

/// Returns when a connection should take no further request.
async fn last_request(shutdown: &Shutdown) {
    tokio::select! {
        () = shutdown.draining() => {}
        () = tokio::time::sleep(AGE_MAX) => {}
    }
}

/// The requests of one connection, one after the other.
struct Requests {
    service: TowerToHyperService<Router>,
    wire: Arc<Wire>,
}

impl Service<Request<Incoming>> for Requests {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let head = self.wire.serving();
        let is_ambiguous =
            request.headers().contains_key(header::TRANSFER_ENCODING) && wire::is_ambiguous(&head);
        let line = Line::begin(&request);
        let (service, wire) = (self.service.clone(), Arc::clone(&self.wire));
        Box::pin(async move {
            let response = if is_ambiguous { Ok(ambiguous()) } else { service.call(request).await };
            if let Ok(response) = &response {
                line.end(response);
            }
            wire.answered();
            response
        })
    }
}

fn ambiguous() -> Response<Body> {
    let detail = "Content-Length and Transfer-Encoding exclude each other (RFC 9112, section 6.3)";
    let mut response = Refusal::new(ProblemCode::Parameter, detail).into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests {
    use futures::future::try_join_all;

    use super::*;

    #[tokio::test]
    async fn many_connections_at_once_wait_to_be_accepted() {
        let config = Config { listen: "127.0.0.1:0".parse().unwrap(), ..Config::default() };
        let listener = Listener::bind(&config).unwrap();
        let allowed = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
        let count = allowed.trim().parse::<usize>().unwrap().min(500);
        // Nobody accepts.
        let connecting = try_join_all((0..count).map(|_| TcpStream::connect(listener.address())));
        timeout(Duration::from_secs(20), connecting).await.expect("there is room for all").unwrap();
    }
}
