use std::convert::Infallible;

use anyhow::bail;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::Shape;
use crate::http::{Gateways, Version};
use crate::pace::{Pace, measure};

/// Requests to a server of this process by the client that also calls the gateway, each with its body back.
pub async fn echoes(shape: Shape) -> anyhow::Result<Pace> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let mut server = JoinSet::new();
    server.spawn(serve(listener));
    let gateways = Gateways::new(&[url], Version::Http1)?;
    let input = Bytes::from(vec![b'x'; shape.payload]);
    let pace = measure(shape.concurrency, shape.time, async |_| {
        let answer = gateways.echo(input.clone()).await?;
        if answer != input {
            bail!("the echo is not what was sent");
        }
        Ok(())
    })
    .await;
    server.shutdown().await;
    pace
}

async fn serve(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _slower_without = stream.set_nodelay(true);
        // One that breaks is seen by its client.
        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(echo)));
    }
}

async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    Ok(Response::new(Full::new(body)))
}
