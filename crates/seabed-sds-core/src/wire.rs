//! Messages as bytes, in each of the dialects that run under the name SDS.
//!
//! nim-sds and `@waku/sds` number the fields of a message differently and cannot read each other; a third numbering is that of
//! the Logos chat library. Seabed writes the first two and reads all three, told or by looking ([`ReadDialect::Auto`]).
//! What each field is, and what readers accept, is in `docs/formats/sds.md`.
//!
//! Whatever the bytes, reading ends in a message or in a [`DecodeError`]. Nothing is copied before it was held against
//! [`WireLimits`].

mod error;
mod layout;
pub(crate) mod protobuf;
pub(crate) mod read;
pub(crate) mod write;

pub use self::error::DecodeError;
use self::protobuf::{Fields, Value};
use self::read::{CHANNEL_ID, Presence, Reading};
use crate::limits::{CAUSAL_HISTORY_MAX, REPAIR_REQUEST_MAX, WIRE_BYTES_MAX};
use crate::{HINT_BYTES_MAX, ID_BYTES_MAX, Message};

/// How messages are written; also which hashes and which form of filter go with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Dialect {
    /// nim-sds, and with it sds-go, status-go and logos-delivery.
    #[default]
    Nim,
    /// The specification's field numbers, as `@waku/sds` writes them.
    Spec,
}

/// Which messages are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ReadDialect {
    /// Those of one dialect; bytes of another are an error or, rarely, nonsense.
    Strict(Dialect),
    /// Those of every layout: which one it is shows in the bytes.
    #[default]
    Auto,
}

/// What the fields of a message were numbered like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// nim-sds.
    Nim,
    /// The specification.
    Spec,
    /// The Logos chat library's `ReliablePayload`, which is read only.
    Logos,
}

impl Layout {
    /// Whose hashes and filters go with it.
    pub fn dialect(self) -> Dialect {
        match self {
            Self::Nim => Dialect::Nim,
            Self::Spec | Self::Logos => Dialect::Spec,
        }
    }
}

/// What a message may hold that is read. Bytes and entries beyond are an error that names the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireLimits {
    /// The largest message, in bytes.
    pub wire_bytes_max: usize,
    /// The longest id.
    pub id_bytes_max: usize,
    /// The longest retrieval hint.
    pub hint_bytes_max: usize,
    /// The longest causal history, in entries.
    pub causal_history_max: usize,
    /// The longest repair request, in entries.
    pub repair_request_max: usize,
    /// Whether ids may be bytes that are not UTF-8, as they may for nim-sds.
    pub accept_non_utf8: bool,
    /// Whether the fields of dialect N are those that nim-sds 0.3 wants: all of them there, and ids may be empty.
    pub as_nim_reads: bool,
}

impl WireLimits {
    /// None, as nim-sds has none: memory is bounded by a small multiple of what arrives. Lamport values beyond `i64::MAX`, at which nim-sds
    /// stops, are refused all the same.
    pub const OFF: Self = Self {
        wire_bytes_max: usize::MAX,
        id_bytes_max: usize::MAX,
        hint_bytes_max: usize::MAX,
        causal_history_max: usize::MAX,
        repair_request_max: usize::MAX,
        accept_non_utf8: true,
        as_nim_reads: false,
    };
}

impl Default for WireLimits {
    fn default() -> Self {
        Self {
            wire_bytes_max: WIRE_BYTES_MAX,
            id_bytes_max: ID_BYTES_MAX,
            hint_bytes_max: HINT_BYTES_MAX,
            causal_history_max: CAUSAL_HISTORY_MAX,
            repair_request_max: REPAIR_REQUEST_MAX,
            accept_non_utf8: false,
            as_nim_reads: false,
        }
    }
}

/// A message that was read, and how it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The message.
    pub message: Message,
    /// How its fields were numbered.
    pub layout: Layout,
}

/// The bytes of a message, to the byte as the dialect's own implementation writes them.
///
/// In [`Dialect::Nim`] every field but the sender and the lists is always there, as readers of nim-sds 0.3 require; only the
/// Lamport value of an ephemeral message, which that dialect does not know, is left out.
///
/// ```
/// use seabed_sds_core::{Message, wire::{self, Dialect, ReadDialect, WireLimits}};
///
/// let message = Message {
///     message_id: "m1".into(),
///     channel_id: "room".into(),
///     lamport: Some(7),
///     content: Some(b"hello".as_slice().into()),
///     ..Message::default()
/// };
/// let bytes = wire::encode(&message, Dialect::Nim);
/// assert_eq!(bytes, b"\x0a\x02m1\x10\x07\x22\x04room\x2a\x05hello\x32\x00");
/// let read = wire::decode(&bytes, ReadDialect::Auto, &WireLimits::default())?;
/// assert_eq!((read.message, read.layout), (message, wire::Layout::Nim));
/// # Ok::<(), seabed_sds_core::DecodeError>(())
/// ```
pub fn encode(message: &Message, dialect: Dialect) -> Vec<u8> {
    let mut out = Vec::with_capacity(write::len_max(message, dialect));
    match dialect {
        Dialect::Nim => write::nim(message, &mut out),
        Dialect::Spec => write::spec(message, &mut out),
    }
    out
}

/// Reads a message.
///
/// Fields may come in any order, the last value of a field counts, a field of another wire type than its own is passed over, and so
/// are unknown ones. In nim's dialect an empty content, filter, hint or sender is the same as none.
///
/// # Errors
/// [`DecodeError`], and nothing was changed: bytes that peers of the dialect would refuse, too; a message without ids, or one with neither a
/// Lamport value nor content; Lamport values beyond `i64::MAX`; what is beyond `limits`.
pub fn decode(wire: &[u8], read: ReadDialect, limits: &WireLimits) -> Result<Decoded, DecodeError> {
    if wire.len() > limits.wire_bytes_max {
        return Err(DecodeError::TooLarge { length: wire.len(), limit: limits.wire_bytes_max });
    }
    let layout = layout_of(wire, read)?;
    let as_nim = limits.as_nim_reads && layout == Layout::Nim;
    let presence = if as_nim { Presence::Stored } else { Presence::Wire };
    let message = Reading { layout, limits, presence }.message(wire)?;
    Ok(Decoded { message, layout })
}

/// The channel that a message is of: what a manager of many has to know before it asks the right one to read it. Nothing is
/// copied, and nothing of the message is looked at but its channel id and where fields begin. Ids are bounded as by
/// [`WireLimits::default`]: who keeps a channel for each must not be made to keep long ones.
///
/// ```
/// # use seabed_sds_core::wire::{self, ReadDialect};
/// let wire = b"\x0a\x02m1\x10\x07\x22\x04room\x2a\x05hello\x32\x00";
/// assert_eq!(wire::peek_channel_id(wire, ReadDialect::Auto), Ok(b"room".as_slice()));
/// ```
///
/// # Errors
/// As [`decode`], for what it looks at.
pub fn peek_channel_id(wire: &[u8], read: ReadDialect) -> Result<&[u8], DecodeError> {
    let layout = layout_of(wire, read)?;
    let mut found = None;
    for field in Fields::new(wire, layout.rules()) {
        if let (number, Value::Bytes(bytes)) = field?
            && number == layout.numbers().channel_id
        {
            found = Some(bytes);
        }
    }
    let found = found.filter(|id| !id.is_empty()).ok_or(DecodeError::Missing(CHANNEL_ID))?;
    read::fits(CHANNEL_ID, Some(found), ID_BYTES_MAX)
}

fn layout_of(wire: &[u8], read: ReadDialect) -> Result<Layout, DecodeError> {
    match read {
        ReadDialect::Strict(Dialect::Nim) => Ok(Layout::Nim),
        ReadDialect::Strict(Dialect::Spec) => Ok(Layout::Spec),
        ReadDialect::Auto => layout::detect(wire),
    }
}
