//! Answers of any size: newline-delimited JSON, read page by page as the caller takes it.
//!
//! At most one page of each export is in memory, and no connection to the record is held between two. What cannot be read
//! breaks the connection off: an answer that ends as an answer does is whole.

use std::future::Future;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{TryStreamExt, stream};
use protocol::ProblemCode;
use serde::Serialize;
use store::StoreError;

use crate::gateway::Gateway;
use crate::problem::Refusal;
use crate::reading::NDJSON;

/// The most exports at once; each may have a page of the longest lines in memory.
pub(crate) const EXPORTS_MAX: usize = 16;

/// Why an answer ends before its end.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("read a page")]
    Store(#[source] StoreError),
    #[error("this gateway is about to stop")]
    Draining,
    #[error("write a row as JSON")]
    Json(#[source] serde_json::Error),
}

/// The rows of all pages, one JSON object a line. `page` reads one: its rows, and where the next begins.
pub(crate) fn ndjson<Place, Row, Page>(
    gateway: &Gateway,
    begin: Place,
    page: impl Fn(Gateway, Place) -> Page + Send + 'static,
) -> Result<Response, Refusal>
where
    Place: Send + 'static,
    Row: Serialize + Send,
    Page: Future<Output = Result<(Vec<Row>, Option<Place>), StoreError>> + Send,
{
    let Ok(permit) = Arc::clone(&gateway.exports).try_acquire_owned() else {
        let detail = format!("this gateway has {EXPORTS_MAX} exports under way; try again");
        return Err(Refusal::new(ProblemCode::Overloaded, detail));
    };
    let state = (gateway.clone(), permit, page, Some(begin));
    let chunks = stream::try_unfold(state, |(gateway, permit, page, place)| async move {
        let Some(place) = place else { return Ok(None) };
        let read = tokio::select! {
            read = page(gateway.clone(), place) => read.map_err(Broken::Store),
            () = gateway.shutdown.draining() => Err(Broken::Draining),
        };
        let (rows, next) = read?;
        let chunk = chunk(&rows).map_err(Broken::Json)?;
        Ok(Some((chunk, (gateway, permit, page, next))))
    });
    let chunks =
        chunks.try_filter(|chunk| std::future::ready(!chunk.is_empty())).inspect_err(|broken: &Broken| {
            tracing::warn!(error = bootstrap::chain(broken), "an export was broken off")
        });
    Ok(([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(chunks)).into_response())
}

fn chunk<Row: Serialize>(rows: &[Row]) -> Result<Bytes, serde_json::Error> {
    let mut bytes = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut bytes, row)?;
        bytes.push(b'\n');
    }
    Ok(bytes.into())
}
