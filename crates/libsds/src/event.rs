//! What happened, in JSON.

use seabed_sds::core::{Broadcast, Event, Reason, Reception};
use seabed_sds::{Happened, What};

use crate::context::Speech;
use crate::json::Object;
use crate::text::Text;

/// An event as the context tells it; `None` for what it does not tell.
pub(crate) fn written(speech: Speech, happened: &Happened) -> Option<Text> {
    let channel = happened.channel.as_bytes();
    let of = |message_id: &[u8]| Object::new().text("messageId", message_id).text("channelId", channel);
    let full = speech == Speech::Full;
    let (object, name) = match &happened.what {
        What::Event(Event::Delivered { message, gap }) => {
            let event = of(message.message_id.as_bytes());
            if !full {
                return Some(event.text("eventType", "message_ready").end());
            }
            let event = event
                .text("senderId", message.sender_id.as_bytes())
                .base64("message", message.content.as_deref().unwrap_or_default())
                .flag("gap", *gap);
            (event, "message_ready")
        }
        What::Event(Event::Acknowledged { message_id }) => (of(message_id.as_bytes()), "message_sent"),
        What::Event(Event::MissingDependencies { message_id, entries }) => {
            (of(message_id.as_bytes()).entries("missingDeps", entries), "missing_dependencies")
        }
        What::Event(Event::DeliveryUnconfirmed { message_id, possibly }) => {
            (of(message_id.as_bytes()).flag("possibly", *possibly), "message_unconfirmed")
        }
        What::SyncDue => (Object::new(), "periodic_sync"),
        What::Broadcast(Broadcast { wire, reason: Reason::Repair, .. }) => {
            (Object::new().text("channelId", channel).base64("message", wire), "repair_ready")
        }
        what if full => added(what, of, channel)?,
        _ => return None,
    };
    // nim-sds puts the type after the ids and before what is larger; readers of JSON do not care.
    Some(object.text("eventType", name).end())
}

/// Those that nim-sds has not.
fn added(what: &What, of: impl Fn(&[u8]) -> Object, channel: &[u8]) -> Option<(Object, &'static str)> {
    let here = || Object::new().text("channelId", channel);
    Some(match what {
        What::Broadcast(Broadcast { message_id, reason, wire }) => {
            let name = match reason {
                Reason::Resend => "resend",
                Reason::Sync => "sync_ready",
                // The answer of the call; and told above.
                Reason::Send | Reason::Repair => return None,
            };
            (of(message_id.as_bytes()).base64("message", wire), name)
        }
        What::Event(event) => match event {
            Event::EphemeralDelivered { message } | Event::OwnRestored { message } => {
                let own = matches!(event, Event::OwnRestored { .. });
                let content = message.content.as_deref().unwrap_or_default();
                let object = of(message.message_id.as_bytes())
                    .text("senderId", message.sender_id.as_bytes())
                    .base64("message", content);
                (object, if own { "message_restored" } else { "ephemeral_ready" })
            }
            Event::Buffered { message_id } => (of(message_id.as_bytes()), "message_buffered"),
            Event::DependenciesLost { entries } => (here().entries("missingDeps", entries), "message_lost"),
            Event::PossiblyAcknowledged { message_id, count } => {
                let object = of(message_id.as_bytes()).number("count", (*count).into());
                (object, "message_possibly_acknowledged")
            }
            Event::ClockAnomaly { message_id, lamport, lamport_max } => {
                let object = of(message_id.as_bytes());
                (object.number("lamport", *lamport).number("lamportMax", *lamport_max), "clock_anomaly")
            }
            Event::LimitHit { limit, message_id } => {
                (of(message_id.as_bytes()).text("limit", limit.name()), "limit_hit")
            }
            _ => return None,
        },
        What::UnknownChannelIgnored { channels_max } => {
            (here().number("channelsMax", *channels_max as u64), "channel_ignored")
        }
        // Told above; and what only another release policy brings about.
        What::SyncDue | What::PersistenceFailed(_) | What::PersistenceRecovered => return None,
    })
}

/// What became of a message, in a word.
pub(crate) fn reception(reception: Reception) -> &'static str {
    match reception {
        Reception::Delivered => "delivered",
        Reception::Buffered => "buffered",
        Reception::Duplicate => "duplicate",
        Reception::AlreadyBuffered => "already_buffered",
        Reception::SyncProcessed => "sync",
        Reception::OwnRestored => "own_restored",
        Reception::Ephemeral => "ephemeral",
        Reception::Dropped => "dropped",
    }
}
