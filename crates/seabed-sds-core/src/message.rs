//! What travels: messages, and the names in them. How they become bytes is `wire`.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use sha3::{Digest as _, Keccak256};

/// A name from the network: bytes in order, cheap to clone.
///
/// Peers compare ids as byte strings (sds.md section 3.2), so no id is ever normalised. Whether one that is not UTF-8 is
/// refused is for who decodes to say.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name {
            /// The first bytes: most comparisons end here, and need not look elsewhere in memory.
            first: [u8; 8],
            bytes: Arc<[u8]>,
        }

        impl $name {
            /// The bytes of the id.
            pub fn as_bytes(&self) -> &[u8] {
                &self.bytes
            }

            /// Whether it is the empty id.
            pub fn is_empty(&self) -> bool {
                self.bytes.is_empty()
            }
        }

        /// As its bytes have, which a map may be asked with.
        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.as_bytes().hash(state);
            }
        }

        /// A map by id can be asked with the bytes of one.
        impl Borrow<[u8]> for $name {
            fn borrow(&self) -> &[u8] {
                self.as_bytes()
            }
        }

        impl From<&[u8]> for $name {
            fn from(bytes: &[u8]) -> Self {
                let mut first = [0; 8];
                for (one, byte) in first.iter_mut().zip(bytes) {
                    *one = *byte;
                }
                Self { first, bytes: Arc::from(bytes) }
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::from(text.as_bytes())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{}", String::from_utf8_lossy(self.as_bytes()))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{:?}", String::from_utf8_lossy(self.as_bytes()))
            }
        }
    };
}

id! {
    /// Names a message, unique for ever; chosen by the application or the layer above.
    MessageId
}
id! {
    /// Names a channel: the group that shares a log.
    ChannelId
}
id! {
    /// Names a participant. The empty one takes no part in repair (sds.md section 17).
    ParticipantId
}

/// A message that another one rests on, or that somebody misses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HistoryEntry {
    /// Which message.
    pub message_id: MessageId,
    /// What helps to fetch it from elsewhere, such as a store's key; opaque (sds.md section 16).
    pub retrieval_hint: Option<Arc<[u8]>>,
    /// Who sent it; none, or empty, when unknown. On the wire of the specification the two differ by two bytes.
    pub sender_id: Option<ParticipantId>,
}

impl HistoryEntry {
    /// Who sent it, when that is known.
    pub fn sender(&self) -> Option<&ParticipantId> {
        self.sender_id.as_ref().filter(|sender| !sender.is_empty())
    }
}

/// One SDS message, whatever the dialect of its bytes.
///
/// ```
/// use seabed_sds_core::Message;
///
/// let message = Message {
///     message_id: "m1".into(),
///     channel_id: "room".into(),
///     sender_id: "alice".into(),
///     lamport: Some(7),
///     content: Some(b"hello".as_slice().into()),
///     ..Message::default()
/// };
/// assert!(!message.is_sync() && !message.is_ephemeral());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// Who sent it; empty when the sender does not say.
    pub sender_id: ParticipantId,
    /// Its name.
    pub message_id: MessageId,
    /// The channel that it belongs to.
    pub channel_id: ChannelId,
    /// Its logical time, in the unit of the channel's dialect; at most `i64::MAX`. None: ephemeral.
    pub lamport: Option<u64>,
    /// What the sender had last delivered, oldest first.
    pub causal_history: Vec<HistoryEntry>,
    /// The filter of what the sender has received, in the bytes of the dialect; `None` when there is none.
    pub bloom_filter: Option<Arc<[u8]>>,
    /// What the sender misses and asks for.
    pub repair_request: Vec<HistoryEntry>,
    /// What the application said. None or empty: a sync message, when there is a Lamport value.
    pub content: Option<Arc<[u8]>>,
}

impl Message {
    /// Whether it only tells what its sender knows: a Lamport value and no content (sds.md section 1).
    pub fn is_sync(&self) -> bool {
        self.lamport.is_some() && self.content.as_ref().is_none_or(|content| content.is_empty())
    }

    /// Whether it is delivered once and never kept: content without a Lamport value (sds.md section 1).
    pub fn is_ephemeral(&self) -> bool {
        self.lamport.is_none() && self.content.as_ref().is_some_and(|content| !content.is_empty())
    }
}

/// An id for a message, the way logos-delivery makes them: lower-case hex of Keccak-256 over sender, decimal nanoseconds of Unix time and
/// content, so that equal contents get different ids (sds.md section 25).
///
/// ```
/// use seabed_sds_core::derive_message_id;
///
/// let id = derive_message_id(&"alice".into(), 1_760_000_000_000_000_000, b"hello");
/// assert_eq!(id.as_bytes().len(), 64);
/// assert_ne!(id, derive_message_id(&"alice".into(), 1_760_000_000_000_000_001, b"hello"));
/// ```
pub fn derive_message_id(sender: &ParticipantId, now_ns: u128, content: &[u8]) -> MessageId {
    let mut hash = Keccak256::new();
    hash.update(sender.as_bytes());
    hash.update(now_ns.to_string());
    hash.update(content);
    let mut hex = String::with_capacity(64);
    for byte in hash.finalize() {
        hex.extend([byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).unwrap_or('0')));
    }
    hex.as_str().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_in_the_order_of_their_bytes() {
        let mut all: Vec<Vec<u8>> = vec![Vec::new()];
        for length in 1..=10 {
            for last in [0, 1, 0x7F, 0xFF] {
                all.push([vec![b'a'; length - 1], vec![last]].concat());
                all.push([vec![0; length - 1], vec![last]].concat());
            }
        }
        for one in &all {
            for other in &all {
                let (left, right) = (MessageId::from(one.as_slice()), MessageId::from(other.as_slice()));
                assert_eq!(
                    (left.cmp(&right), left == right),
                    (one.cmp(other), one == other),
                    "{one:?} {other:?}"
                );
            }
        }
    }

    /// Keccak-256 of the single character 0, as published for that hash.
    #[test]
    fn a_derived_id_is_keccak_256_over_sender_time_and_content() {
        let id = derive_message_id(&ParticipantId::default(), 0, b"");
        assert_eq!(id.to_string(), "044852b2a670ade5407e78fb2863c51de9fcb96542a07186fe3aeda6bb8a116d");
        let parts = derive_message_id(&"alice".into(), 17, b"hello");
        assert_eq!(parts, derive_message_id(&"alice1".into(), 7, b"hello"), "nothing is put between");
    }
}
