use std::sync::Arc;

use lapin::Channel;
use tokio::sync::Mutex;

use super::epoch::{Epoch, Settings};
use super::topology;
use crate::BrokerError;

/// Asks how long queues are, on a connection of its own that is opened at the first question.
///
/// RabbitMQ answers a question about a queue that does not exist by closing the channel, and the driver never again uses
/// a channel number that was closed so. On a connection that works that would end in having no number left; this one is
/// thrown away instead.
pub(super) struct Depths {
    settings: Arc<Settings>,
    current: Mutex<Option<(Epoch, Channel)>>,
}

impl Depths {
    pub(super) fn new(settings: &Arc<Settings>) -> Self {
        Self { settings: settings.clone(), current: Mutex::new(None) }
    }

    /// How many messages wait in the queue that RabbitMQ calls `name`, if there is one.
    pub(super) async fn of(&self, name: &str) -> Result<Option<u64>, BrokerError> {
        let mut current = self.current.lock().await;
        // Put back only after a clean answer, so that a dropped future leaves nothing half-done.
        let (epoch, channel) = match current.take() {
            Some((epoch, channel)) if epoch.is_standing() => (epoch, channel),
            Some(_) | None => {
                let epoch = Epoch::open(&self.settings, "depth").await?;
                let channel = epoch.channel().await?;
                (epoch, channel)
            }
        };
        let found = topology::look_up(&channel, name).await;
        if let Ok(Some(queue)) = &found {
            *current = Some((epoch, channel));
            return Ok(Some(queue.message_count().into()));
        }
        epoch.close().await;
        found.map(|_| None)
    }

    pub(super) async fn close(&self) {
        if let Some((epoch, _)) = self.current.lock().await.take() {
            epoch.close().await;
        }
    }
}
