use std::collections::BTreeSet;

use futures::future::try_join_all;
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicNackOptions};

use super::epoch::ask;
use crate::BrokerError;

/// How a delivery was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settlement {
    pub(super) tag: u64,
    pub(super) requeue: bool,
}

/// What was settled on one channel, so that one frame can acknowledge many: tags count from 1 without gaps.
#[derive(Debug, Default)]
pub(super) struct Settlements {
    /// Every tag up to this one is settled.
    floor: u64,
    /// Settled tags above it.
    ahead: BTreeSet<u64>,
}

/// One frame to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frame {
    Requeue(u64),
    /// This one.
    Ack(u64),
    /// This one and everything unsettled before it.
    AckUpTo(u64),
}

impl Settlements {
    /// Tells the broker about `chunk`.
    pub(super) async fn send(&mut self, channel: &Channel, chunk: &[Settlement]) -> Result<(), BrokerError> {
        let frames = self.plan(chunk);
        let sent = frames.into_iter().map(async |frame| match frame {
            Frame::Requeue(tag) => {
                channel.basic_nack(tag, BasicNackOptions { requeue: true, multiple: false }).await
            }
            Frame::Ack(tag) => channel.basic_ack(tag, BasicAckOptions { multiple: false }).await,
            Frame::AckUpTo(tag) => channel.basic_ack(tag, BasicAckOptions { multiple: true }).await,
        });
        // Each is written at its first poll, so they go out in order.
        ask("settle deliveries", try_join_all(sent)).await.map(drop)
    }

    /// How many of the first `delivered` tags are not settled.
    pub(super) fn unsettled(&self, delivered: u64) -> u64 {
        delivered.saturating_sub(self.floor + self.ahead.len() as u64)
    }

    /// The frames for `chunk`: what is requeued first, then everything up to the highest tag before which nothing is
    /// unsettled, then the others one by one. A tag that was settled before is passed over: the broker would close
    /// the channel.
    fn plan(&mut self, chunk: &[Settlement]) -> Vec<Frame> {
        let mut acked = BTreeSet::new();
        let mut frames = Vec::new();
        for Settlement { tag, requeue } in chunk {
            if *tag <= self.floor || !self.ahead.insert(*tag) {
                continue;
            }
            if *requeue {
                frames.push(Frame::Requeue(*tag));
            } else {
                acked.insert(*tag);
            }
        }
        while self.ahead.first() == Some(&(self.floor + 1)) {
            self.ahead.pop_first();
            self.floor += 1;
        }
        let singles = acked.split_off(&(self.floor + 1));
        match (acked.len(), acked.last()) {
            (1, Some(tag)) => frames.push(Frame::Ack(*tag)),
            (_, Some(tag)) => frames.push(Frame::AckUpTo(*tag)),
            (_, None) => {}
        }
        frames.extend(singles.into_iter().map(Frame::Ack));
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(settlements: &mut Settlements, tags: &[i64]) -> Vec<Frame> {
        let chunk: Vec<_> =
            tags.iter().map(|tag| Settlement { tag: tag.unsigned_abs(), requeue: *tag < 0 }).collect();
        settlements.plan(&chunk)
    }

    #[test]
    fn contiguous_acks_become_one_frame() {
        let mut settlements = Settlements::default();
        assert_eq!(plan(&mut settlements, &[1]), [Frame::Ack(1)]);
        assert_eq!(plan(&mut settlements, &[3, 2, 4]), [Frame::AckUpTo(4)]);
        assert_eq!(settlements.unsettled(6), 2);
    }

    #[test]
    fn nothing_that_was_not_settled_is_acked() {
        let mut settlements = Settlements::default();
        assert_eq!(plan(&mut settlements, &[2, 3]), [Frame::Ack(2), Frame::Ack(3)]);
        assert_eq!(plan(&mut settlements, &[5]), [Frame::Ack(5)]);
        // 1 closes the gap up to 3; the tag of the frame must be one the broker still holds.
        assert_eq!(plan(&mut settlements, &[1]), [Frame::Ack(1)]);
        assert_eq!(settlements.unsettled(5), 1);
        assert_eq!(plan(&mut settlements, &[4, 6]), [Frame::AckUpTo(6)]);
    }

    #[test]
    fn what_is_requeued_is_not_acked_with_its_neighbours() {
        let mut settlements = Settlements::default();
        assert_eq!(plan(&mut settlements, &[1, -2, 3]), [Frame::Requeue(2), Frame::AckUpTo(3)]);
        assert_eq!(plan(&mut settlements, &[4, -5]), [Frame::Requeue(5), Frame::Ack(4)]);
    }

    #[test]
    fn a_delivery_settled_twice_is_told_once() {
        let mut settlements = Settlements::default();
        assert_eq!(plan(&mut settlements, &[1, 3]), [Frame::Ack(1), Frame::Ack(3)]);
        assert_eq!(plan(&mut settlements, &[1, -1, 3, -3]), []);
    }
}
