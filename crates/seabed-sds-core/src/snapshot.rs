//! A channel's state in the bytes of nim-sds' storage (sds.md section 21), for backends and databases that hold these.
//!
//! To the byte what nim-sds writes. Where its order is that of a hash table (the buffers, and the ids that a message waits for) it is
//! the caller's here. What is read has the bounds of its own length only, because it is our own state and not a peer's word; broken parts
//! refuse the whole.

use std::sync::Arc;

use crate::wire::protobuf::{Fields, Rules, Value, put_bytes, put_number};
use crate::wire::read::{Presence, Reading};
use crate::wire::{self, Dialect, Layout, WireLimits, write};
use crate::{DecodeError, HistoryEntry, Message, MessageId};

/// The only version that there is.
const SCHEMA_VERSION: u64 = 1;

const READING: Reading<'static> =
    Reading { layout: Layout::Nim, limits: &WireLimits::OFF, presence: Presence::Stored };

/// A message that we have sent and nobody has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnacknowledgedMessage {
    /// The message.
    pub message: Message,
    /// When it was last sent, in Unix milliseconds.
    pub send_time_ms: u64,
    /// How often it was sent again.
    pub resend_attempts: u32,
}

impl UnacknowledgedMessage {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_message(&mut out, 1, &self.message);
        put_number(&mut out, 2, self.send_time_ms);
        put_number(&mut out, 3, self.resend_attempts.into());
        out
    }

    /// Reads it. A number of attempts beyond 32 bits is 0, as for nim.
    ///
    /// # Errors
    /// [`DecodeError`] when it is malformed or incomplete.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut message, mut send_time_ms, mut attempts) = (None, None, 0);
        for field in fields(bytes) {
            match field? {
                (1, Value::Bytes(bytes)) => message = Some(bytes),
                (2, Value::Varint(value)) => send_time_ms = Some(value),
                (3, Value::Varint(value)) => attempts = value,
                _ => {}
            }
        }
        Ok(Self {
            message: READING.message(required(message, "the message of an unacknowledged message")?)?,
            send_time_ms: signed(required(send_time_ms, "send_time")?, "send_time")?,
            resend_attempts: attempts.try_into().unwrap_or(0),
        })
    }
}

/// A message that waits for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncomingMessage {
    /// The message.
    pub message: Message,
    /// What it waits for, each id once.
    pub missing: Vec<MessageId>,
}

impl IncomingMessage {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_message(&mut out, 1, &self.message);
        for id in &self.missing {
            put_bytes(&mut out, 2, id.as_bytes());
        }
        out
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`DecodeError`] when it is malformed or incomplete.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut message, mut missing) = (None, Vec::new());
        for field in fields(bytes) {
            match field? {
                (1, Value::Bytes(bytes)) => message = Some(bytes),
                (2, Value::Bytes(bytes)) => missing.push(MessageId::from(bytes)),
                _ => {}
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        missing.retain(|id| seen.insert(id.clone()));
        Ok(Self {
            message: READING.message(required(message, "the message of an incoming message")?)?,
            missing,
        })
    }
}

/// When to ask for a message that we miss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutgoingRepairEntry {
    /// Which message, and what is known about it.
    pub entry: HistoryEntry,
    /// When to ask, in Unix milliseconds.
    pub t_req_ms: u64,
}

impl OutgoingRepairEntry {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        write::put_entry(&mut out, 1, &self.entry, Dialect::Nim);
        put_number(&mut out, 2, self.t_req_ms);
        out
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`DecodeError`] when it is malformed or incomplete.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut entry, mut t_req_ms) = (None, None);
        for field in fields(bytes) {
            match field? {
                (1, Value::Bytes(bytes)) => entry = Some(bytes),
                (2, Value::Varint(value)) => t_req_ms = Some(value),
                _ => {}
            }
        }
        Ok(Self {
            entry: READING.entry(required(entry, "the history entry of a repair")?, None)?,
            t_req_ms: signed(required(t_req_ms, "t_req")?, "t_req")?,
        })
    }
}

/// When to answer a request for a message that we have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncomingRepairEntry {
    /// Which message, and what the request said about it.
    pub entry: HistoryEntry,
    /// The answer: the message in bytes.
    pub cached_message: Arc<[u8]>,
    /// When to answer, in Unix milliseconds.
    pub t_resp_ms: u64,
}

impl IncomingRepairEntry {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        write::put_entry(&mut out, 1, &self.entry, Dialect::Nim);
        put_bytes(&mut out, 2, &self.cached_message);
        put_number(&mut out, 3, self.t_resp_ms);
        out
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`DecodeError`] when it is malformed or incomplete.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut entry, mut cached, mut t_resp_ms) = (None, None, None);
        for field in fields(bytes) {
            match field? {
                (1, Value::Bytes(bytes)) => entry = Some(bytes),
                (2, Value::Bytes(bytes)) => cached = Some(bytes),
                (3, Value::Varint(value)) => t_resp_ms = Some(value),
                _ => {}
            }
        }
        Ok(Self {
            entry: READING.entry(required(entry, "the history entry of a repair")?, None)?,
            cached_message: required(cached, "the cached message of a repair")?.into(),
            t_resp_ms: signed(required(t_resp_ms, "t_resp")?, "t_resp")?,
        })
    }
}

/// The fast-changing state of a channel, whole.
///
/// ```
/// use seabed_sds_core::snapshot::ChannelMeta;
///
/// let meta = ChannelMeta { lamport: 42, ..ChannelMeta::default() };
/// assert_eq!(meta.encode(), b"\x08\x01\x10\x2a");
/// assert_eq!(ChannelMeta::decode(&meta.encode())?, meta);
/// # Ok::<(), seabed_sds_core::DecodeError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChannelMeta {
    /// The Lamport clock.
    pub lamport: u64,
    /// What we have sent and nobody has acknowledged, in order.
    pub outgoing: Vec<UnacknowledgedMessage>,
    /// What waits for other messages.
    pub incoming: Vec<IncomingMessage>,
    /// What we miss and ask for, by message id.
    pub outgoing_repair: Vec<(MessageId, OutgoingRepairEntry)>,
    /// What others miss and we answer, by message id.
    pub incoming_repair: Vec<(MessageId, IncomingRepairEntry)>,
}

impl ChannelMeta {
    /// Its bytes, the buffers in the order in which they are.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_number(&mut out, 1, SCHEMA_VERSION);
        put_number(&mut out, 2, self.lamport);
        for unacknowledged in &self.outgoing {
            put_bytes(&mut out, 3, &unacknowledged.encode());
        }
        for incoming in &self.incoming {
            put_bytes(&mut out, 4, &incoming.encode());
        }
        for (id, entry) in &self.outgoing_repair {
            put_keyed(&mut out, 5, id, &entry.encode());
        }
        for (id, entry) in &self.incoming_repair {
            put_keyed(&mut out, 6, id, &entry.encode());
        }
        out
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`DecodeError`] when it, or anything in it, is malformed or incomplete, and `Version` when its version is not 1.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut version, mut lamport, mut meta) = (None, None, Self::default());
        for field in fields(bytes) {
            match field? {
                (1, Value::Varint(value)) => version = Some(value),
                (2, Value::Varint(value)) => lamport = Some(value),
                (3, Value::Bytes(bytes)) => meta.outgoing.push(UnacknowledgedMessage::decode(bytes)?),
                (4, Value::Bytes(bytes)) => meta.incoming.push(IncomingMessage::decode(bytes)?),
                (5, Value::Bytes(bytes)) => {
                    let (id, entry) = keyed(bytes)?;
                    meta.outgoing_repair.push((id, OutgoingRepairEntry::decode(entry)?));
                }
                (6, Value::Bytes(bytes)) => {
                    let (id, entry) = keyed(bytes)?;
                    meta.incoming_repair.push((id, IncomingRepairEntry::decode(entry)?));
                }
                _ => {}
            }
        }
        let version = required(version, "schema_version")?;
        if version != SCHEMA_VERSION {
            return Err(DecodeError::Version(version));
        }
        meta.lamport = signed(required(lamport, "lamport")?, "lamport")?;
        Ok(meta)
    }
}

/// All that a channel is started from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChannelData {
    /// The fast-changing state.
    pub meta: ChannelMeta,
    /// The log, oldest first.
    pub history: Vec<Message>,
}

impl ChannelData {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, 1, &self.meta.encode());
        for message in &self.history {
            put_message(&mut out, 2, message);
        }
        out
    }

    /// Reads it.
    ///
    /// # Errors
    /// As [`ChannelMeta::decode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut meta, mut history) = (None, Vec::new());
        for field in fields(bytes) {
            match field? {
                (1, Value::Bytes(bytes)) => meta = Some(bytes),
                (2, Value::Bytes(bytes)) => history.push(READING.message(bytes)?),
                _ => {}
            }
        }
        Ok(Self { meta: ChannelMeta::decode(required(meta, "meta")?)?, history })
    }
}

/// How a log changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HistoryUpdate {
    /// What was added, oldest first.
    pub append: Vec<Message>,
    /// What was dropped.
    pub evict: Vec<MessageId>,
}

impl HistoryUpdate {
    /// Its bytes. nim-sds cannot write an update without any change, and stops when it is to: leave those away.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for message in &self.append {
            put_message(&mut out, 1, message);
        }
        for id in &self.evict {
            put_bytes(&mut out, 2, id.as_bytes());
        }
        out
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`DecodeError`] when anything in it is malformed, also where nim takes such an update for one without any change.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut update = Self::default();
        for field in fields(bytes) {
            match field? {
                (1, Value::Bytes(bytes)) => update.append.push(READING.message(bytes)?),
                (2, Value::Bytes(bytes)) => update.evict.push(bytes.into()),
                _ => {}
            }
        }
        Ok(update)
    }
}

fn fields(bytes: &[u8]) -> Fields<'_> {
    Fields::new(bytes, Rules::Nim)
}

fn required<T>(value: Option<T>, name: &'static str) -> Result<T, DecodeError> {
    value.ok_or(DecodeError::Missing(name))
}

/// A number that nim, which calculates with signed ones, would not stop at.
fn signed(value: u64, field: &'static str) -> Result<u64, DecodeError> {
    if value > i64::MAX.cast_unsigned() { Err(DecodeError::TooHigh { field, value }) } else { Ok(value) }
}

fn put_message(out: &mut Vec<u8>, field: u64, message: &Message) {
    put_bytes(out, field, &wire::encode(message, Dialect::Nim));
}

fn put_keyed(out: &mut Vec<u8>, field: u64, id: &MessageId, entry: &[u8]) {
    let mut pair = Vec::new();
    put_bytes(&mut pair, 1, id.as_bytes());
    put_bytes(&mut pair, 2, entry);
    put_bytes(out, field, &pair);
}

fn keyed(bytes: &[u8]) -> Result<(MessageId, &[u8]), DecodeError> {
    let (mut id, mut entry) = (None, None);
    for field in fields(bytes) {
        match field? {
            (1, Value::Bytes(bytes)) => id = Some(bytes),
            (2, Value::Bytes(bytes)) => entry = Some(bytes),
            _ => {}
        }
    }
    Ok((required(id, "the id of a repair")?.into(), required(entry, "the entry of a repair")?))
}
