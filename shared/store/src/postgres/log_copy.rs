//! Many log lines at once, by COPY.

use std::pin::pin;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{FutureExt, SinkExt};
use jiff::Timestamp;

use super::client::{Database, statement};
use super::fence::Fences;
use super::log::{answer, count};
use super::row::columns;
use crate::{Append, Appended, StoreError};

/// From 1970 to 2000, from where PostgreSQL counts.
const EPOCH_US: i64 = 946_684_800_000_000;
/// The signature, no flags, no extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What a row takes beside its text.
const ROW_BYTES: usize = 2 + 7 * 4 + 16 + 8 + 8 + 4 + 1 + 1;
/// After the last row.
const END: &[u8] = &(-1_i16).to_be_bytes();

/// [`super::log::append`] as one transaction: the numbers are dealt out under the same guard, then the lines are copied in.
pub(super) async fn append(database: &Database, batch: &[Append]) -> Result<Vec<Appended>, StoreError> {
    let (ids, attempts, bases, counts) = columns!(batch => |append|
        append.execute_id.as_uuid(), append.attempt, append.base, count(&append.lines));
    let fences = Fences::of(batch.iter().map(|append| append.fence.as_ref()));
    let keys: Vec<_> = fences.keys.iter().map(|key| key.map(str::to_owned)).collect();
    let (generations, numbers) = (fences.generations, fences.numbers);
    // Before the transaction, so that it holds its locks no longer than it must.
    let encoded: Vec<Bytes> = batch.iter().map(encode).collect();
    let stored = database
        .transaction("append", |transaction| {
            async move {
                let deal = transaction.prepare_cached(statement!("deal_log_ids").sql).await?;
                let rows = transaction
                    .query(&deal, &[&ids, &attempts, &bases, &counts, &keys, &generations, &numbers])
                    .await?;
                let dealt: Vec<(bool, bool)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
                if dealt.iter().any(|(is_dealt, _)| *is_dealt) {
                    let copy = transaction.prepare_cached(statement!("copy_log").sql).await?;
                    let mut sink = pin!(transaction.copy_in::<_, Bytes>(&copy).await?);
                    sink.feed(Bytes::from_static(HEADER)).await?;
                    for (rows, _) in encoded.into_iter().zip(&dealt).filter(|(_, (is_dealt, _))| *is_dealt) {
                        sink.feed(rows).await?;
                    }
                    sink.feed(Bytes::from_static(END)).await?;
                    sink.finish().await?;
                }
                Ok(dealt)
            }
            .boxed()
        })
        .await?;
    let answers = batch.iter().zip(stored);
    Ok(answers.map(|(append, (is_dealt, is_repeat))| answer(append, is_dealt || is_repeat)).collect())
}

/// Rows as `copy_log` names their columns, each value with its length before it.
fn encode(append: &Append) -> Bytes {
    let texts: usize = append.lines.iter().map(|line| line.text.len()).sum();
    let mut rows = BytesMut::with_capacity(append.lines.len() * ROW_BYTES + texts);
    for (log_id, line) in (append.base + 1..).zip(&append.lines) {
        // By the worker's clock, for people: a time that is none is shown as 1970.
        let at = Timestamp::from_microsecond(line.at_unix_us).unwrap_or_default().as_microsecond();
        rows.put_i16(7);
        rows.put_i32(16);
        rows.put_slice(append.execute_id.as_uuid().as_bytes());
        rows.put_i32(8);
        rows.put_i64(log_id);
        rows.put_i32(8);
        rows.put_i64(at - EPOCH_US);
        rows.put_i32(4);
        rows.put_i32(append.attempt);
        rows.put_i32(1);
        rows.put_u8(u8::from(line.continues));
        rows.put_i32(1);
        rows.put_slice(line.level.letter().as_bytes());
        rows.put_i32(i32::try_from(line.text.len()).unwrap_or(i32::MAX));
        rows.put_slice(line.text.as_bytes());
    }
    rows.freeze()
}
