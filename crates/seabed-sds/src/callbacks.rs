//! nim-sds' six callbacks, for programs that were written against them. New ones read [`Events`](crate::Events).

use std::fmt;

use seabed_sds_core::{Broadcast, ChannelId, Event, HistoryEntry, MessageId, Reason};

use crate::events::{Happened, What};

/// What is called when a message was delivered, or was acknowledged.
pub type OnMessage = Box<dyn Fn(&MessageId, &ChannelId) + Send + Sync>;
/// What is called when a message waits for others.
pub type OnMissing = Box<dyn Fn(&MessageId, &[HistoryEntry], &ChannelId) + Send + Sync>;
/// What is called when a sync message might be sent.
pub type OnSyncDue = Box<dyn Fn() + Send + Sync>;
/// What is asked for something that helps to fetch a message from elsewhere; none when empty.
pub type HintProvider = Box<dyn Fn(&MessageId) -> Vec<u8> + Send + Sync>;
/// What is called with bytes to broadcast again, because somebody misses them.
pub type OnRepair = Box<dyn Fn(&[u8], &ChannelId) + Send + Sync>;

/// The six callbacks, each of which may be left out. They run one after another, after the commit of what they tell, outside every lock, and may call back in:
/// what that brings about is told when the callback has returned. Those that an operation brings about that was
/// [waited](crate::Op::wait) for run on its thread, before it returns; all others on a thread of their own, so that one that waits
/// holds up other callbacks and nothing else.
///
/// When [`CALLBACKS_WAITING_MAX`](crate::CALLBACKS_WAITING_MAX) items wait for a slow one, or [`CALLBACKS_BYTES_MAX`](crate::CALLBACKS_BYTES_MAX) bytes, operations wait for it, too, except those that it calls itself. So
/// a callback must not wait for an operation of another thread. One that panics is logged and
/// [counted](crate::SdsManager::panicked_callbacks), and the next one is called.
///
/// `message_sent` is told what was acknowledged, and never, as in nim-sds, what was given up: that is
/// [`Event::DeliveryUnconfirmed`] on the stream.
///
/// ```
/// use seabed_sds::Callbacks;
///
/// let callbacks = Callbacks {
///     message_ready: Some(Box::new(|message, channel| println!("{message} in {channel}"))),
///     ..Callbacks::default()
/// };
/// ```
#[derive(Default)]
pub struct Callbacks {
    /// A message was delivered.
    pub message_ready: Option<OnMessage>,
    /// An own message was acknowledged.
    pub message_sent: Option<OnMessage>,
    /// A message waits for these.
    pub missing_dependencies: Option<OnMissing>,
    /// It is time for a sync message, where those are not sent automatically.
    pub periodic_sync: Option<OnSyncDue>,
    /// Asked at each send for each message of the causal history whose hint is not known.
    pub retrieval_hint: Option<HintProvider>,
    /// Bytes to broadcast, as they are.
    pub repair_ready: Option<OnRepair>,
}

impl fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callbacks")
    }
}

impl Callbacks {
    /// Whether one of them is told of anything: a hint provider is asked, not told.
    pub(crate) fn hear(&self) -> bool {
        self.message_ready.is_some()
            || self.message_sent.is_some()
            || self.missing_dependencies.is_some()
            || self.periodic_sync.is_some()
            || self.repair_ready.is_some()
    }

    /// Whether one of them is told of it.
    pub(crate) fn hears(&self, what: &What) -> bool {
        match what {
            What::Event(Event::Delivered { .. }) => self.message_ready.is_some(),
            What::Event(Event::Acknowledged { .. }) => self.message_sent.is_some(),
            What::Event(Event::MissingDependencies { .. }) => self.missing_dependencies.is_some(),
            What::SyncDue => self.periodic_sync.is_some(),
            What::Broadcast(broadcast) => self.repair_ready.is_some() && broadcast.reason == Reason::Repair,
            _ => false,
        }
    }

    pub(crate) fn call(&self, item: &Happened) {
        match &item.what {
            What::Event(Event::Delivered { message, .. }) => {
                if let Some(ready) = &self.message_ready {
                    ready(&message.message_id, &item.channel);
                }
            }
            What::Event(Event::Acknowledged { message_id }) => {
                if let Some(sent) = &self.message_sent {
                    sent(message_id, &item.channel);
                }
            }
            What::Event(Event::MissingDependencies { message_id, entries }) => {
                if let Some(missing) = &self.missing_dependencies {
                    missing(message_id, entries, &item.channel);
                }
            }
            What::SyncDue => {
                if let Some(sync) = &self.periodic_sync {
                    sync();
                }
            }
            What::Broadcast(Broadcast { wire, reason: Reason::Repair, .. }) => {
                if let Some(repair) = &self.repair_ready {
                    repair(wire, &item.channel);
                }
            }
            _ => {}
        }
    }
}
