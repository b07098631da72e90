//! A message out of its fields, each held against its bound before it is copied (sds.md sections 3.2, 3.3 and 24).

use std::sync::Arc;

use super::layout::{ENTRY_MESSAGE_ID, ENTRY_RETRIEVAL_HINT, ENTRY_SENDER_ID};
use super::protobuf::{Fields, Value};
use super::{Dialect, Layout, WireLimits};
use crate::{DecodeError, HistoryEntry, Message, ParticipantId};

pub(super) const CHANNEL_ID: &str = "channel_id";
const MESSAGE_ID: &str = "message_id";
const SENDER_ID: &str = "sender_id";
const CAUSAL_HISTORY: &str = "causal_history";
const REPAIR_REQUEST: &str = "repair_request";
const RETRIEVAL_HINT: &str = "retrieval_hint";

/// Which fields have to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// From a peer: what every release of nim-sds writes, and no empty ids.
    Wire,
    /// In nim's stored states: what nim-sds 0.3 wrote, which cannot read anything else.
    Stored,
}

/// How bytes are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading<'l> {
    pub(crate) layout: Layout,
    pub(crate) limits: &'l WireLimits,
    pub(crate) presence: Presence,
}

/// The singular fields of a message, as they were last seen.
#[derive(Debug, Default)]
struct Found<'a> {
    sender_id: Option<&'a [u8]>,
    message_id: Option<&'a [u8]>,
    channel_id: Option<&'a [u8]>,
    lamport: Option<u64>,
    bloom_filter: Option<&'a [u8]>,
    content: Option<&'a [u8]>,
}

impl Reading<'_> {
    pub(crate) fn message(&self, wire: &[u8]) -> Result<Message, DecodeError> {
        let numbers = self.layout.numbers();
        let mut found = Found::default();
        let mut message = Message::default();
        for field in Fields::new(wire, self.layout.rules()) {
            match field? {
                (number, Value::Varint(value)) if number == numbers.lamport => found.lamport = Some(value),
                (number, Value::Bytes(bytes)) => {
                    if number == numbers.message_id {
                        found.message_id = Some(bytes);
                    } else if number == numbers.causal_history {
                        let limit = self.limits.causal_history_max;
                        self.push(&mut message.causal_history, bytes, CAUSAL_HISTORY, limit)?;
                    } else if number == numbers.channel_id {
                        found.channel_id = Some(bytes);
                    } else if number == numbers.content {
                        found.content = Some(bytes);
                    } else if number == numbers.bloom_filter {
                        found.bloom_filter = Some(bytes);
                    } else if number == numbers.sender_id {
                        found.sender_id = Some(bytes);
                    } else if number == numbers.repair_request {
                        let limit = self.limits.repair_request_max;
                        self.push(&mut message.repair_request, bytes, REPAIR_REQUEST, limit)?;
                    }
                }
                _ => {}
            }
        }
        found.check(self.presence)?;
        message.message_id = self.id(MESSAGE_ID, found.message_id)?.into();
        message.channel_id = self.id(CHANNEL_ID, found.channel_id)?.into();
        message.sender_id = self.id(SENDER_ID, found.sender_id)?.into();
        message.lamport = found.lamport;
        message.bloom_filter = self.kept(found.bloom_filter).map(Arc::from);
        message.content = self.kept(found.content).map(Arc::from);
        Ok(message)
    }

    fn push(
        &self,
        entries: &mut Vec<HistoryEntry>,
        bytes: &[u8],
        field: &'static str,
        limit: usize,
    ) -> Result<(), DecodeError> {
        if entries.len() >= limit {
            return Err(DecodeError::TooMany { field, limit });
        }
        if entries.is_empty() {
            // What peers write has two or ten.
            entries.reserve(limit.min(10));
        }
        // Often one sender has said several: they share its name, which is half of what there is to allocate.
        let entry = self.entry(bytes, entries.last().and_then(HistoryEntry::sender))?;
        entries.push(entry);
        Ok(())
    }

    /// Reads an entry; when its sender is the one that is given, they are one in memory, too.
    pub(crate) fn entry(
        &self,
        bytes: &[u8],
        known: Option<&ParticipantId>,
    ) -> Result<HistoryEntry, DecodeError> {
        let (mut message_id, mut hint, mut sender_id) = (None, None, None);
        for field in Fields::new(bytes, self.layout.rules()) {
            match field? {
                (ENTRY_MESSAGE_ID, Value::Bytes(bytes)) => message_id = Some(bytes),
                (ENTRY_RETRIEVAL_HINT, Value::Bytes(bytes)) => hint = Some(bytes),
                (ENTRY_SENDER_ID, Value::Bytes(bytes)) => sender_id = Some(bytes),
                _ => {}
            }
        }
        let refused = match (self.layout.dialect(), self.presence) {
            // There no id and the empty one are the same, and peers go on.
            (Dialect::Spec, _) => false,
            (Dialect::Nim, Presence::Stored) => message_id.is_none(),
            (Dialect::Nim, Presence::Wire) => message_id.is_none_or(<[u8]>::is_empty),
        };
        if refused {
            return Err(DecodeError::Missing("the message_id of a history entry"));
        }
        fits(RETRIEVAL_HINT, hint, self.limits.hint_bytes_max)?;
        self.id(SENDER_ID, sender_id)?;
        Ok(HistoryEntry {
            message_id: self.id(MESSAGE_ID, message_id)?.into(),
            retrieval_hint: self.kept(hint).map(Arc::from),
            sender_id: self.kept(sender_id).map(|sender| {
                let same = known.filter(|known| known.as_bytes() == sender);
                same.cloned().unwrap_or_else(|| sender.into())
            }),
        })
    }

    /// The bytes of an id that may be one.
    pub(crate) fn id<'a>(
        &self,
        field: &'static str,
        bytes: Option<&'a [u8]>,
    ) -> Result<&'a [u8], DecodeError> {
        let bytes = fits(field, bytes, self.limits.id_bytes_max)?;
        if !self.limits.accept_non_utf8 && std::str::from_utf8(bytes).is_err() {
            return Err(DecodeError::NotUtf8(field));
        }
        Ok(bytes)
    }

    /// A value that says more than none: nim writes what it does not have as nothing, the others leave it out.
    fn kept<'a>(&self, bytes: Option<&'a [u8]>) -> Option<&'a [u8]> {
        bytes.filter(|bytes| self.layout != Layout::Nim || !bytes.is_empty())
    }
}

impl Found<'_> {
    fn check(&self, presence: Presence) -> Result<(), DecodeError> {
        if let Some(value) = self.lamport.filter(|value| *value > i64::MAX.cast_unsigned()) {
            return Err(DecodeError::TooHigh { field: "lamport", value });
        }
        let filled = |bytes: Option<&[u8]>| bytes.is_some_and(|bytes| !bytes.is_empty());
        let required = match presence {
            Presence::Wire => [filled(self.message_id), filled(self.channel_id), true, true],
            Presence::Stored => [
                self.message_id.is_some(),
                self.channel_id.is_some(),
                self.lamport.is_some(),
                self.content.is_some(),
            ],
        };
        let names = [MESSAGE_ID, CHANNEL_ID, "lamport", "content"];
        if let Some((name, _)) = names.iter().zip(required).find(|(_, there)| !there) {
            return Err(DecodeError::Missing(name));
        }
        if self.lamport.is_none() && !filled(self.content) {
            return Err(DecodeError::Meaningless);
        }
        Ok(())
    }
}

pub(super) fn fits<'a>(
    field: &'static str,
    bytes: Option<&'a [u8]>,
    limit: usize,
) -> Result<&'a [u8], DecodeError> {
    let bytes = bytes.unwrap_or_default();
    if bytes.len() > limit {
        return Err(DecodeError::TooLong { field, length: bytes.len(), limit });
    }
    Ok(bytes)
}
