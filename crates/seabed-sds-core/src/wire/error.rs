//! What was wrong with what somebody sent or stored.

use thiserror::Error;

/// Why bytes are not read. Nothing was changed; what a peer sends again will be refused again.
///
/// ```
/// use seabed_sds_core::{DecodeError, wire};
///
/// let cut_off = wire::decode(b"\x0a\x09msg", wire::ReadDialect::Auto, &wire::WireLimits::default());
/// assert_eq!(cut_off.unwrap_err(), DecodeError::Truncated);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// More bytes than are read.
    #[error("the message has {length} bytes, more than the {limit} that are read")]
    TooLarge {
        /// How many bytes it has.
        length: usize,
        /// The bound.
        limit: usize,
    },
    /// It ends in the middle of a field, or a length reaches past its end.
    #[error("the bytes are cut off, or a length in them reaches past their end")]
    Truncated,
    /// A number in more bytes than it needs, where peers refuse that, or larger than 64 bits.
    #[error("a number is not written in its shortest form, or does not fit 64 bits")]
    Varint,
    /// A kind of field that no reader of the dialect knows.
    #[error("the wire type {0} is not one of this dialect")]
    WireType(u8),
    /// Neither dialect's way to say which message it is.
    #[error("the bytes are a message of no dialect that is known here")]
    UnknownDialect,
    /// A field that must be there is not, or is empty and must not be.
    #[error("{0} is missing or empty")]
    Missing(&'static str),
    /// Neither a Lamport value nor content: nothing that could be delivered or acted upon.
    #[error("the message has neither a Lamport value nor content")]
    Meaningless,
    /// An id that is not text, which JSON, JavaScript and C callers would mangle.
    #[error("{0} is not UTF-8; a reader that accepts other bytes has to be told so")]
    NotUtf8(&'static str),
    /// An id or a hint beyond its bound.
    #[error("{field} has {length} bytes, more than the {limit} that are read")]
    TooLong {
        /// Which.
        field: &'static str,
        /// How many bytes it has.
        length: usize,
        /// The bound.
        limit: usize,
    },
    /// A list beyond its bound.
    #[error("{field} has more than the {limit} entries that are read")]
    TooMany {
        /// Which list.
        field: &'static str,
        /// The bound.
        limit: usize,
    },
    /// A Lamport value or a time that peers, which calculate with signed numbers, would stop at.
    #[error("{field} is {value}, more than a signed number of 64 bits can be")]
    TooHigh {
        /// Which.
        field: &'static str,
        /// What it is.
        value: u64,
    },
    /// A filter that is not consulted; the message that it came with is read all the same.
    #[error("the filter is ignored: {0}")]
    Filter(&'static str),
    /// A stored state of another version.
    #[error("the state has the version {0}; this program reads version 1")]
    Version(u64),
}
