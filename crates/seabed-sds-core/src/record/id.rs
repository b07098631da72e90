//! Ids in rows. Those of nim-sds' applications are hashes in hexadecimal digits, which take half their room as bytes.

use super::field::{Reader, Writer};
use crate::{MessageId, RecordError};

/// The bytes of an id as they are, after their length.
const PLAIN: u8 = 0;
/// 64 lower-case hexadecimal digits, as 32 bytes.
const HEX: u8 = 1;
/// The same after `0x`.
const PREFIXED_HEX: u8 = 2;

const PREFIX: &[u8] = b"0x";
const HASH_BYTES: usize = 32;

/// In which form an id is written. Only one of exactly that spelling has a short one, so that every id comes back as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    Hex([u8; HASH_BYTES]),
    PrefixedHex([u8; HASH_BYTES]),
}

impl Form {
    pub(super) fn of(id: &MessageId) -> Self {
        let bytes = id.as_bytes();
        match (bytes.len(), bytes.strip_prefix(PREFIX)) {
            (64, _) => hash(bytes).map_or(Self::Plain, Self::Hex),
            (66, Some(digits)) => hash(digits).map_or(Self::Plain, Self::PrefixedHex),
            _ => Self::Plain,
        }
    }

    pub(super) fn tag(&self) -> u8 {
        match self {
            Self::Plain => PLAIN,
            Self::Hex(_) => HEX,
            Self::PrefixedHex(_) => PREFIXED_HEX,
        }
    }

    /// What follows the tag.
    pub(super) fn write(&self, id: &MessageId, to: &mut Writer) {
        match self {
            Self::Plain => drop(to.bytes(id.as_bytes())),
            Self::Hex(hash) | Self::PrefixedHex(hash) => drop(to.rest(hash)),
        }
    }
}

/// An id with its form before it.
pub(super) fn write(id: &MessageId, to: &mut Writer) {
    let form = Form::of(id);
    form.write(id, to.byte(form.tag()));
}

pub(super) fn read(from: &mut Reader<'_>) -> Result<MessageId, RecordError> {
    let tag = from.byte()?;
    read_tagged(tag, from)
}

/// An id whose form was told before.
pub(super) fn read_tagged(tag: u8, from: &mut Reader<'_>) -> Result<MessageId, RecordError> {
    let id = match tag {
        PLAIN => MessageId::from(from.bytes()?),
        HEX => digits(b"", from.array()?),
        PREFIXED_HEX => digits(PREFIX, from.array()?),
        other => return Err(RecordError::Flag(other)),
    };
    // Else two spellings of one id would be two rows.
    if Form::of(&id).tag() == tag { Ok(id) } else { Err(RecordError::Flag(tag)) }
}

fn hash(digits: &[u8]) -> Option<[u8; HASH_BYTES]> {
    let mut hash = [0; HASH_BYTES];
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
        *byte = value(*high)? << 4 | value(*low)?;
    }
    Some(hash)
}

fn value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

fn digits(prefix: &[u8], hash: [u8; HASH_BYTES]) -> MessageId {
    let digit = |value: u8| if value < 10 { b'0' + value } else { b'a' + value - 10 };
    let mut text = [0; PREFIX.len() + 2 * HASH_BYTES];
    let places = text.iter_mut();
    let bytes =
        prefix.iter().copied().chain(hash.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
    let length = prefix.len() + 2 * HASH_BYTES;
    for (place, byte) in places.zip(bytes) {
        *place = byte;
    }
    MessageId::from(text.get(..length).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_comes_back_and_hashes_take_half_their_room() {
        let hash = "00ff".repeat(16);
        for (id, bytes) in [
            (hash.clone(), 33),
            (format!("0x{hash}"), 33),
            (format!("0X{hash}"), 68),
            (hash.to_uppercase(), 66),
            (format!("0x{}", hash.to_uppercase()), 68),
            (format!("{hash}00"), 68),
            (format!("{}g", &hash[1..]), 66),
            (format!("0x{}g", &hash[1..]), 68),
            (format!("0x{}", &hash[2..]), 66),
            ("m1".to_owned(), 4),
            (String::new(), 2),
        ] {
            let id = MessageId::from(id.as_str());
            let mut written = Writer::default();
            write(&id, &mut written);
            assert_eq!((read(&mut Reader(&written.0)), written.0.len()), (Ok(id), bytes));
        }
        let not_text = MessageId::from([0xFF; 64].as_slice());
        let mut written = Writer::default();
        write(&not_text, &mut written);
        assert_eq!(read(&mut Reader(&written.0)), Ok(not_text));
    }

    #[test]
    fn an_id_has_one_form() {
        let mut written = Writer::default();
        written.byte(PLAIN).bytes("00ff".repeat(16).as_bytes());
        assert_eq!(read(&mut Reader(&written.0)), Err(RecordError::Flag(PLAIN)));
        assert_eq!(read(&mut Reader(&[3])), Err(RecordError::Flag(3)));
        assert_eq!(read(&mut Reader(&[HEX, 0])), Err(RecordError::Truncated));
    }
}
