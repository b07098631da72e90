//! The decoders of SDS, over any bytes.

use seabed_sds_core::bloom::{Filter, Hashed};
use seabed_sds_core::limits::{FILTER_BITS_MAX, FILTER_BITS_MIN, FILTER_HASHES_MAX};
use seabed_sds_core::snapshot::{
    ChannelData, ChannelMeta, HistoryUpdate, IncomingMessage, IncomingRepairEntry, OutgoingRepairEntry,
    UnacknowledgedMessage,
};
use seabed_sds_core::wire::{self, Dialect, Layout, ReadDialect, WireLimits};
use seabed_sds_core::{HistoryEntry, ID_BYTES_MAX, Message, ParticipantId};

/// Reads the bytes as a message of each dialect and of any, with bounds and without. What was read is no larger than the bytes, holds what
/// the bounds promise, and is written and read again as the same message in the same bytes.
///
/// # Panics
/// When one of these does not hold.
pub fn wire(data: &[u8]) {
    for read in [ReadDialect::Auto, ReadDialect::Strict(Dialect::Nim), ReadDialect::Strict(Dialect::Spec)] {
        let bounded = wire::decode(data, read, &WireLimits::default());
        let any = wire::decode(data, read, &WireLimits::OFF);
        if let Ok(decoded) = &bounded {
            assert_eq!(any.as_ref(), Ok(decoded), "bounds only refuse");
            assert!(within(&decoded.message, &WireLimits::default()), "beyond a bound: {decoded:?}");
        }
        let Ok(decoded) = any else { continue };
        let message = &decoded.message;
        let peeked = wire::peek_channel_id(data, read);
        let id = message.channel_id.as_bytes();
        assert_eq!(peeked.ok(), Some(id).filter(|id| id.len() <= ID_BYTES_MAX), "another channel");
        assert!(message.lamport.is_none_or(|lamport| lamport <= i64::MAX.cast_unsigned()));
        assert!(!message.message_id.is_empty() && !message.channel_id.is_empty());
        assert!(size(message) <= data.len(), "more was read than there was");

        let dialect = decoded.layout.dialect();
        let written = wire::encode(message, dialect);
        let again =
            wire::decode(&written, ReadDialect::Strict(dialect), &WireLimits::OFF).expect("our own bytes");
        assert_eq!(again.message, *message);
        assert_eq!(wire::encode(&again.message, dialect), written);
        let looked_at = wire::decode(&written, ReadDialect::Auto, &WireLimits::OFF).expect("our own bytes");
        let expected = if dialect == Dialect::Nim { Layout::Nim } else { Layout::Spec };
        assert_eq!(looked_at.layout, expected, "our own bytes are recognised");

        if let Some(bytes) = &message.bloom_filter {
            filter(bytes);
        }
    }
}

fn within(message: &Message, limits: &WireLimits) -> bool {
    let mut ids =
        vec![message.message_id.as_bytes(), message.channel_id.as_bytes(), message.sender_id.as_bytes()];
    let mut hints = Vec::new();
    for entry in message.causal_history.iter().chain(&message.repair_request) {
        ids.push(entry.message_id.as_bytes());
        ids.extend(entry.sender_id.as_ref().map(ParticipantId::as_bytes));
        hints.extend(entry.retrieval_hint.as_deref());
    }
    ids.iter().all(|id| id.len() <= limits.id_bytes_max && std::str::from_utf8(id).is_ok())
        && hints.iter().all(|hint| hint.len() <= limits.hint_bytes_max)
        && message.causal_history.len() <= limits.causal_history_max
        && message.repair_request.len() <= limits.repair_request_max
}

/// How many bytes of the wire a message must have had at least.
fn size(message: &Message) -> usize {
    let entries = message.causal_history.iter().chain(&message.repair_request);
    let values = [message.bloom_filter.as_deref(), message.content.as_deref()];
    message.message_id.as_bytes().len()
        + message.channel_id.as_bytes().len()
        + message.sender_id.as_bytes().len()
        + values.into_iter().flatten().map(<[u8]>::len).sum::<usize>()
        + entries.map(entry_size).sum::<usize>()
}

fn entry_size(entry: &HistoryEntry) -> usize {
    let sender = entry.sender_id.as_ref().map_or(0, |sender| sender.as_bytes().len());
    // A key and a length at least.
    2 + entry.message_id.as_bytes().len()
        + sender
        + entry.retrieval_hint.as_ref().map_or(0, |hint| hint.len())
}

/// Takes the bytes as a filter of each dialect. What is usable has honest parameters and no more bits than there were, answers about any
/// id, and is written and read again as the same filter.
///
/// # Panics
/// When one of these does not hold.
pub fn filter(data: &[u8]) {
    for dialect in [Dialect::Nim, Dialect::Spec] {
        let Ok(mut filter) = Filter::read(dialect, data) else { continue };
        let sizing = filter.sizing();
        assert!((1..=FILTER_HASHES_MAX).contains(&sizing.hashes));
        assert!((FILTER_BITS_MIN..=FILTER_BITS_MAX).contains(&sizing.bits.get()));
        assert!(sizing.words > sizing.bits.get() / 64 && sizing.words * 8 <= data.len() as u64);
        let written = filter.to_bytes();
        assert_eq!(Filter::read(dialect, &written).as_ref(), Ok(&filter));

        let mut given = data.iter().copied();
        let id: Vec<u8> = given.by_ref().take(20).map(|byte| byte & 0x7F).collect();
        let hashed = Hashed::new(dialect, &id);
        assert_eq!(filter.contains(&id), filter.contains_hashed(hashed));
        filter.insert_hashed(hashed);
        assert!(filter.contains(&id), "what was added is there");
    }
}

/// Takes the bytes behind the first one as a stored state of the kind that the first one says. What is read is written and read again as
/// the same state in the same bytes.
///
/// # Panics
/// When it is not.
pub fn snapshot(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    macro_rules! round {
        ($type:ty) => {
            if let Ok(state) = <$type>::decode(bytes) {
                let written = state.encode();
                let again = <$type>::decode(&written).expect("our own bytes");
                assert_eq!(again, state);
                assert_eq!(again.encode(), written);
            }
        };
    }
    match kind % 7 {
        0 => round!(ChannelMeta),
        1 => round!(ChannelData),
        2 => round!(HistoryUpdate),
        3 => round!(UnacknowledgedMessage),
        4 => round!(IncomingMessage),
        5 => round!(OutgoingRepairEntry),
        _ => round!(IncomingRepairEntry),
    }
}
