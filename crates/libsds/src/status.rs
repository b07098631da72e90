//! What a channel holds, in JSON.

use seabed_sds::ChannelStatus;
use seabed_sds::core::Channel;

use crate::json::Object;
use crate::text::Text;

pub(crate) fn status(channel: &Channel, numbers: &ChannelStatus) -> Text {
    let counters = &numbers.counters;
    Object::new()
        .text("channelId", channel.channel_id().as_bytes())
        .number("lamport", numbers.lamport)
        .number("log", numbers.log as u64)
        .texts("unacknowledged", channel.outgoing().map(|(message, _)| message.message_id.as_bytes()))
        .texts("waiting", channel.incoming().map(|(entry, _)| entry.message.message_id.as_bytes()))
        .texts("missing", channel.missing().map(|entry| entry.entry.message_id.as_bytes()))
        .number("delivered", counters.delivered)
        .number("acknowledged", counters.acknowledged)
        .number("unconfirmed", counters.unconfirmed)
        .number("lost", counters.lost)
        .number("resent", counters.resent)
        .number("repaired", counters.repaired)
        .number("failedCommits", counters.failed_commits)
        .end()
}
