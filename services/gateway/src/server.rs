//! The connections: every one of them has a limit on how many there are and how long it may be silent, and a drain ends.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use bootstrap::Shutdown;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::gateway::Gateway;
use crate::{Config, metrics, tls};

/// How long a TLS handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// The largest header of a request, and the most lines in it.
const HEADER_BYTES_MAX: usize = 64 << 10;
const HEADER_LINES_MAX: usize = 64;

/// A bound address.
pub(crate) struct Listener {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
}

impl Listener {
    pub async fn bind(config: &Config) -> anyhow::Result<Self> {
        let tls = match (&config.tls_cert_file, &config.tls_key_file) {
            (Some(cert), Some(key)) => Some(tls::acceptor(cert, key)?),
            (None, _) | (_, None) => None,
        };
        let listener = TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("gateway.listen = {}", config.listen))?;
        let address = listener.local_addr().context("read the address")?;
        Ok(Self { listener, address, tls })
    }

    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until `shutdown` drains, then waits for the open connections, at most for the drain's limit.
    pub async fn serve(self, gateway: &Gateway, router: Router, shutdown: &Shutdown) {
        let census = Arc::new(Census::new(&gateway.config));
        let header_max = Duration::from_millis(gateway.config.header_ms_max);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.draining() => break,
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let Some(place) = census.enter(peer.ip()) else { continue };
                        let connection = Connection {
                            service: TowerToHyperService::new(router.clone()),
                            shutdown: shutdown.clone(),
                            header_max,
                            _place: place,
                        };
                        connections.spawn(connection.serve(stream, self.tls.clone()));
                    }
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
        if timeout(Duration::from_millis(gateway.config.drain_ms_max), drained).await.is_err() {
            tracing::warn!("connections were still open at the end of the drain");
        }
    }
}

struct Connection {
    service: TowerToHyperService<Router>,
    shutdown: Shutdown,
    header_max: Duration,
    _place: Place,
}

impl Connection {
    async fn serve(self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        drop(stream.set_nodelay(true));
        // The header's timer starts with its first byte only.
        if !matches!(timeout(self.header_max, stream.readable()).await, Ok(Ok(()))) {
            return;
        }
        match tls {
            None => self.http(stream).await,
            Some(acceptor) => match timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => self.http(stream).await,
                Ok(Err(error)) => tracing::debug!(%error, "no TLS handshake"),
                Err(_) => tracing::debug!("the TLS handshake took too long"),
            },
        }
    }

    async fn http(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_max)
            .max_buf_size(HEADER_BYTES_MAX)
            .max_headers(HEADER_LINES_MAX)
            .half_close(false)
            .serve_connection(TokioIo::new(stream), self.service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = self.shutdown.draining() => {
                // The request under way is answered, with `Connection: close`.
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection broke off");
        }
    }
}

/// How many connections there are, in all and by address.
struct Census {
    most: usize,
    most_each: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One counted connection.
struct Place {
    census: Arc<Census>,
    address: IpAddr,
}

impl Census {
    fn new(config: &Config) -> Self {
        Self {
            most: config.connections_max,
            most_each: config.connections_per_address_max,
            open: Mutex::default(),
        }
    }

    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = open.values().sum();
        let each = open.entry(address).or_default();
        if all >= self.most || *each >= self.most_each {
            metrics::connection_refused();
            return None;
        }
        *each += 1;
        metrics::connected();
        Some(Place { census: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.census.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(each) = open.get_mut(&self.address) {
            *each -= 1;
            if *each == 0 {
                open.remove(&self.address);
            }
        }
        metrics::disconnected();
    }
}
