//! The S3 server refuses what is not signed. What it does with signed requests is `artifacts`' contract suite.

use testkit::S3Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn an_unsigned_request_is_refused() {
    let server = S3Server::start().await;
    std::fs::write(server.bucket_directory().join("object"), "bytes").unwrap();
    let mut stream = TcpStream::connect(server.access.endpoint.trim_start_matches("http://")).await.unwrap();
    stream
        .write_all(b"GET /gantry/object HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(answer.contains("AccessDenied"), "{answer}");
}
