//! Our codec beside prost: the same schemas, the same bytes, the same messages.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost::Message as _;
use seabed_sds_core::wire::{self, Dialect, Layout, ReadDialect, WireLimits};
use seabed_sds_core::{HistoryEntry, Message, ParticipantId};

/// A message of nim-sds. What it always writes has an explicit presence here.
#[derive(Clone, PartialEq, prost::Message)]
struct Nim {
    #[prost(string, optional, tag = "1")]
    message_id: Option<String>,
    #[prost(uint64, optional, tag = "2")]
    lamport: Option<u64>,
    #[prost(message, repeated, tag = "3")]
    causal_history: Vec<Entry>,
    #[prost(string, optional, tag = "4")]
    channel_id: Option<String>,
    #[prost(bytes = "vec", optional, tag = "5")]
    content: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "6")]
    bloom_filter: Option<Vec<u8>>,
    #[prost(string, tag = "7")]
    sender_id: String,
    #[prost(message, repeated, tag = "13")]
    repair_request: Vec<Entry>,
}

/// A message of the specification.
#[derive(Clone, PartialEq, prost::Message)]
struct Spec {
    #[prost(string, tag = "1")]
    sender_id: String,
    #[prost(string, tag = "2")]
    message_id: String,
    #[prost(string, tag = "3")]
    channel_id: String,
    #[prost(uint64, optional, tag = "10")]
    lamport: Option<u64>,
    #[prost(message, repeated, tag = "11")]
    causal_history: Vec<Entry>,
    #[prost(bytes = "vec", optional, tag = "12")]
    bloom_filter: Option<Vec<u8>>,
    #[prost(message, repeated, tag = "13")]
    repair_request: Vec<Entry>,
    #[prost(bytes = "vec", optional, tag = "20")]
    content: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Entry {
    #[prost(string, tag = "1")]
    message_id: String,
    #[prost(bytes = "vec", optional, tag = "2")]
    retrieval_hint: Option<Vec<u8>>,
    #[prost(string, optional, tag = "3")]
    sender_id: Option<String>,
}

/// What nim does not have it does not write, although it is there.
fn filled(value: Option<&[u8]>) -> Option<Vec<u8>> {
    value.filter(|bytes| !bytes.is_empty()).map(<[u8]>::to_vec)
}

fn entries(entries: &[HistoryEntry], dialect: Dialect) -> Vec<Entry> {
    let entry = |entry: &HistoryEntry| {
        let sender = entry.sender_id.as_ref().map(ToString::to_string);
        match dialect {
            Dialect::Nim => Entry {
                message_id: entry.message_id.to_string(),
                retrieval_hint: filled(entry.retrieval_hint.as_deref()),
                sender_id: sender.filter(|sender| !sender.is_empty()),
            },
            Dialect::Spec => Entry {
                message_id: entry.message_id.to_string(),
                retrieval_hint: entry.retrieval_hint.as_deref().map(<[u8]>::to_vec),
                sender_id: sender,
            },
        }
    };
    entries.iter().map(entry).collect()
}

fn nim(message: &Message) -> Nim {
    Nim {
        message_id: Some(message.message_id.to_string()),
        lamport: message.lamport,
        causal_history: entries(&message.causal_history, Dialect::Nim),
        channel_id: Some(message.channel_id.to_string()),
        content: Some(message.content.as_deref().unwrap_or_default().to_vec()),
        bloom_filter: Some(message.bloom_filter.as_deref().unwrap_or_default().to_vec()),
        sender_id: message.sender_id.to_string(),
        repair_request: entries(&message.repair_request, Dialect::Nim),
    }
}

fn spec(message: &Message) -> Spec {
    Spec {
        sender_id: message.sender_id.to_string(),
        message_id: message.message_id.to_string(),
        channel_id: message.channel_id.to_string(),
        lamport: message.lamport,
        causal_history: entries(&message.causal_history, Dialect::Spec),
        bloom_filter: message.bloom_filter.as_deref().map(<[u8]>::to_vec),
        repair_request: entries(&message.repair_request, Dialect::Spec),
        content: message.content.as_deref().map(<[u8]>::to_vec),
    }
}

/// The message as nim's dialect can say it: nothing and none are the same.
fn in_nim(message: &Message) -> Message {
    let filled = |value: &Option<Arc<[u8]>>| value.clone().filter(|bytes| !bytes.is_empty());
    let entry = |entry: &HistoryEntry| HistoryEntry {
        message_id: entry.message_id.clone(),
        retrieval_hint: filled(&entry.retrieval_hint),
        sender_id: entry.sender_id.clone().filter(|sender| !sender.is_empty()),
    };
    Message {
        causal_history: message.causal_history.iter().map(entry).collect(),
        repair_request: message.repair_request.iter().map(entry).collect(),
        bloom_filter: filled(&message.bloom_filter),
        content: filled(&message.content),
        ..message.clone()
    }
}

fn an_id() -> impl Strategy<Value = String> {
    prop_oneof!["[0-9a-f]{64}", "\\PC{1,40}", Just("m".repeat(130))]
}

fn some_bytes() -> impl Strategy<Value = Option<Arc<[u8]>>> {
    option::of(vec(any::<u8>(), 0..300).prop_map(Into::into))
}

fn an_entry() -> impl Strategy<Value = HistoryEntry> {
    let sender = option::of("\\PC{0,20}".prop_map(|text| ParticipantId::from(text.as_str())));
    (an_id(), some_bytes(), sender).prop_map(|(id, retrieval_hint, sender_id)| HistoryEntry {
        message_id: id.as_str().into(),
        retrieval_hint,
        sender_id,
    })
}

prop_compose! {
    fn a_message()(
        ids in (an_id(), an_id(), "\\PC{0,20}"),
        lamport in prop_oneof![any::<u64>(), 0..300_u64],
        causal_history in vec(an_entry(), 0..12),
        repair_request in vec(an_entry(), 0..4),
        bloom_filter in some_bytes(),
        content in some_bytes(),
    ) -> Message {
        let (message_id, channel_id, sender_id) = ids;
        Message {
            message_id: message_id.as_str().into(),
            channel_id: channel_id.as_str().into(),
            sender_id: sender_id.as_str().into(),
            lamport: Some(lamport >> 1),
            causal_history,
            bloom_filter,
            repair_request,
            content,
        }
    }
}

proptest! {
    #[test]
    fn nims_bytes_are_prosts(message in a_message()) {
        let ours = wire::encode(&message, Dialect::Nim);
        prop_assert_eq!(&ours, &nim(&message).encode_to_vec());
        prop_assert_eq!(Nim::decode(ours.as_slice()).unwrap(), nim(&message));
        let read = wire::decode(&ours, ReadDialect::Auto, &WireLimits::default()).unwrap();
        prop_assert_eq!((read.message, read.layout), (in_nim(&message), Layout::Nim));
    }

    #[test]
    fn the_specifications_bytes_are_prosts(message in a_message()) {
        let ours = wire::encode(&message, Dialect::Spec);
        prop_assert_eq!(&ours, &spec(&message).encode_to_vec());
        prop_assert_eq!(Spec::decode(ours.as_slice()).unwrap(), spec(&message));
        let read = wire::decode(&ours, ReadDialect::Auto, &WireLimits::default()).unwrap();
        prop_assert_eq!((read.message, read.layout), (message, Layout::Spec));
    }

    /// What only one of the two dialects may leave out.
    #[test]
    fn ephemeral_messages_come_back(mut message in a_message(), content in vec(any::<u8>(), 1..50)) {
        message.lamport = None;
        message.content = Some(content.into());
        for dialect in [Dialect::Nim, Dialect::Spec] {
            let read = wire::decode(&wire::encode(&message, dialect), ReadDialect::Auto, &WireLimits::default()).unwrap();
            let expected = if dialect == Dialect::Nim { in_nim(&message) } else { message.clone() };
            prop_assert_eq!((read.message, read.layout.dialect()), (expected, dialect));
        }
    }

    /// Neither dialect's bytes are taken for the other's, also when told to.
    #[test]
    fn the_other_dialects_bytes_are_refused(message in a_message()) {
        for (written, read) in [(Dialect::Nim, Dialect::Spec), (Dialect::Spec, Dialect::Nim)] {
            let bytes = wire::encode(&message, written);
            prop_assert!(wire::decode(&bytes, ReadDialect::Strict(read), &WireLimits::OFF).is_err());
        }
    }

    /// Cut off anywhere, a message is refused, or it is one of the same layout that lacks what came last.
    #[test]
    fn a_message_that_is_cut_off_keeps_its_layout(message in a_message(), at in any::<prop::sample::Index>()) {
        for dialect in [Dialect::Nim, Dialect::Spec] {
            let bytes = wire::encode(&message, dialect);
            let cut = bytes.get(..at.index(bytes.len())).unwrap();
            if let Ok(read) = wire::decode(cut, ReadDialect::Auto, &WireLimits::default()) {
                prop_assert_eq!(read.layout.dialect(), dialect);
                prop_assert_eq!(read.message.message_id, message.message_id.clone());
                prop_assert_eq!(read.message.channel_id, message.channel_id.clone());
                prop_assert_eq!(read.message.lamport, message.lamport);
            }
        }
    }
}
