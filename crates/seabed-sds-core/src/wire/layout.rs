//! Which number each field has: the whole difference between the dialects but for what is inside a filter (sds.md section 2).

use super::protobuf::{Fields, Rules, Value};
use super::{Dialect, Layout};
use crate::DecodeError;

/// The number of a field that a layout does not have: no key can hold it.
const NONE: u64 = u64::MAX;

/// The field numbers of a layout.
#[derive(Debug)]
pub(super) struct Numbers {
    pub(super) sender_id: u64,
    pub(super) message_id: u64,
    pub(super) channel_id: u64,
    pub(super) lamport: u64,
    pub(super) causal_history: u64,
    pub(super) bloom_filter: u64,
    pub(super) repair_request: u64,
    pub(super) content: u64,
}

pub(super) const NIM: Numbers = Numbers {
    sender_id: 7,
    message_id: 1,
    channel_id: 4,
    lamport: 2,
    causal_history: 3,
    bloom_filter: 6,
    repair_request: 13,
    content: 5,
};

pub(super) const SPEC: Numbers = Numbers {
    sender_id: 1,
    message_id: 2,
    channel_id: 3,
    lamport: 10,
    causal_history: 11,
    bloom_filter: 12,
    repair_request: 13,
    content: 20,
};

const LOGOS: Numbers = Numbers { sender_id: 7, repair_request: NONE, ..SPEC };

/// The field numbers inside a history entry, the same in every layout.
pub(crate) const ENTRY_MESSAGE_ID: u64 = 1;
pub(crate) const ENTRY_RETRIEVAL_HINT: u64 = 2;
pub(crate) const ENTRY_SENDER_ID: u64 = 3;

impl Layout {
    pub(super) fn numbers(self) -> &'static Numbers {
        match self {
            Self::Nim => &NIM,
            Self::Spec => &SPEC,
            Self::Logos => &LOGOS,
        }
    }

    pub(super) fn rules(self) -> Rules {
        self.dialect().into()
    }
}

impl From<Dialect> for Rules {
    fn from(dialect: Dialect) -> Self {
        match dialect {
            Dialect::Nim => Self::Nim,
            Dialect::Spec => Self::Spec,
        }
    }
}

/// Which layout bytes have: field 2 is a number in one dialect and an id in the others, and every message but one that nim itself
/// would refuse has it.
pub(super) fn detect(wire: &[u8]) -> Result<Layout, DecodeError> {
    let mut seen = Seen::default();
    let mut spec = false;
    // Read as the more lenient dialect: whether nim would read it is found when it is read as nim's.
    for field in Fields::new(wire, Rules::Spec) {
        match field? {
            (2, Value::Varint(_)) if !spec => return Ok(Layout::Nim),
            (2, Value::Bytes(_)) => spec = true,
            (1, Value::Bytes(_)) => seen.first = true,
            (4, Value::Bytes(_)) => seen.fourth = true,
            (5, Value::Bytes(_)) => seen.fifth = true,
            (7, Value::Bytes(_)) => seen.seventh = true,
            _ => {}
        }
    }
    match seen {
        Seen { seventh: true, first: false, .. } if spec => Ok(Layout::Logos),
        _ if spec => Ok(Layout::Spec),
        Seen { first: true, fourth: true, fifth: true, .. } => Ok(Layout::Nim),
        _ => Err(DecodeError::UnknownDialect),
    }
}

/// The fields that tell layouts apart.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a field that was there")]
struct Seen {
    first: bool,
    fourth: bool,
    fifth: bool,
    seventh: bool,
}
