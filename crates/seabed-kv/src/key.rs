//! Keys: bytes in order, built from typed components.
//!
//! Two families of components stand side by side. Upstream's (`str`, `bytes`, `int`, `uint`, `bool`, `byte`) are bit for bit
//! those of logos-delivery; its strings carry their length in front, so they sort **by length first** and no prefix
//! of a text can be scanned. The ordered ones (`text`, `blob`) are for new layers: they sort as their bytes do and
//! `text_prefix` finds everything that begins with a text. Never mix the two in one position of one category.

use std::borrow::Borrow;
use std::fmt;

use crate::limits::COMPONENT_BYTES_MAX;
use crate::{Error, Result};

/// A key: bytes that sort as bytes.
///
/// ```
/// # use seabed_kv::Key;
/// let key = Key::of(("chan", 7i64, true))?;
/// assert_eq!(key.as_bytes(), b"\x00\x04chan\x80\0\0\0\0\0\0\x07\x01");
///
/// let note = Key::builder().text("doc/a/1").uint(3).build()?;
/// assert!(note.as_bytes().starts_with(Key::builder().text_prefix("doc/a").build()?.as_bytes()));
/// # Ok::<(), seabed_kv::Error>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Vec<u8>);

impl Key {
    /// A key of exactly these bytes.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// A key of the components of `value`, in upstream's encoding.
    ///
    /// # Errors
    /// `InvalidArgument` when a text or bytes component is longer than 65,535 bytes.
    pub fn of(value: impl KeyPart) -> Result<Self> {
        let mut builder = Self::builder();
        value.append_to(&mut builder);
        builder.build()
    }

    /// A builder without components.
    pub fn builder() -> KeyBuilder {
        KeyBuilder::default()
    }

    /// The bytes of the key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes of the key, owned.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Key {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0.escape_ascii())
    }
}

/// Appends components; the first one that does not fit is reported by [`build`](KeyBuilder::build).
#[derive(Debug, Clone, Default)]
pub struct KeyBuilder {
    bytes: Vec<u8>,
    oversized: Option<usize>,
}

impl KeyBuilder {
    /// Text with a two-byte length in front (upstream's `string`): sorts by length first.
    #[must_use]
    pub fn str(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    /// Bytes with a two-byte length in front (upstream's `seq[byte]`): sorts by length first.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        match u16::try_from(bytes.len()) {
            Ok(length) => {
                self.bytes.extend_from_slice(&length.to_be_bytes());
                self.bytes.extend_from_slice(bytes);
            }
            Err(_) => self.oversized = self.oversized.or(Some(bytes.len())),
        }
        self
    }

    /// A signed integer or the ordinal of an enumeration: eight bytes, big-endian, sign bit flipped.
    #[must_use]
    pub fn int(self, value: i64) -> Self {
        self.uint(value.cast_unsigned() ^ (1 << 63))
    }

    /// An unsigned integer: eight bytes, big-endian.
    #[must_use]
    pub fn uint(mut self, value: u64) -> Self {
        self.bytes.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A boolean: one byte.
    #[must_use]
    pub fn bool(self, value: bool) -> Self {
        self.byte(u8::from(value))
    }

    /// A byte, or upstream's one-byte character.
    #[must_use]
    pub fn byte(mut self, value: u8) -> Self {
        self.bytes.push(value);
        self
    }

    /// These bytes and nothing else: an embedded key, or an id of fixed length.
    #[must_use]
    pub fn raw(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.bytes.extend_from_slice(bytes.as_ref());
        self
    }

    /// Ordered text: 00 is written as 00 FF, the end as 00 01.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        self.blob(text.as_bytes())
    }

    /// Ordered bytes: 00 is written as 00 FF, the end as 00 01.
    #[must_use]
    pub fn blob(mut self, bytes: &[u8]) -> Self {
        self.push_escaped(bytes);
        self.bytes.extend_from_slice(&[0x00, 0x01]);
        self
    }

    /// The beginning of an ordered text, for a prefix scan: the text without its end.
    #[must_use]
    pub fn text_prefix(mut self, text: &str) -> Self {
        self.push_escaped(text.as_bytes());
        self
    }

    fn push_escaped(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.bytes.push(byte);
            if byte == 0x00 {
                self.bytes.push(0xFF);
            }
        }
    }

    /// Any value that has an encoding as a part of a key.
    #[must_use]
    pub fn part(mut self, value: impl KeyPart) -> Self {
        value.append_to(&mut self);
        self
    }

    fn append(&mut self, step: impl FnOnce(Self) -> Self) {
        *self = step(std::mem::take(self));
    }

    /// The key.
    ///
    /// # Errors
    /// `InvalidArgument` when a component with a two-byte length was longer than 65,535 bytes.
    pub fn build(self) -> Result<Key> {
        match self.oversized {
            None => Ok(Key(self.bytes)),
            Some(length) => Err(Error::invalid(format!(
                "a key component has {length} bytes, more than the {COMPONENT_BYTES_MAX} that its two-byte length can say"
            ))),
        }
    }
}

/// What can stand in a key or a payload, in upstream's encoding. Implement it for a structure field by field:
///
/// ```
/// # use seabed_kv::{Key, KeyBuilder, KeyPart};
/// struct Position { channel: String, lamport: i64 }
/// impl KeyPart for Position {
///     fn append_to(&self, key: &mut KeyBuilder) {
///         (&self.channel, self.lamport).append_to(key);
///     }
/// }
/// let key = Key::of(Position { channel: "c".into(), lamport: 1 })?;
/// assert_eq!(key, Key::of(("c", 1i64))?);
/// # Ok::<(), seabed_kv::Error>(())
/// ```
pub trait KeyPart {
    /// Appends this value's bytes to the key.
    fn append_to(&self, key: &mut KeyBuilder);
}

macro_rules! key_parts {
    ($($type:ty => |$key:ident, $value:ident| $append:expr;)*) => {$(
        impl KeyPart for $type {
            fn append_to(&self, key: &mut KeyBuilder) {
                let $value = self;
                key.append(|$key| $append);
            }
        }
    )*};
}

key_parts! {
    str => |key, value| key.str(value);
    String => |key, value| key.str(value);
    [u8] => |key, value| key.bytes(value);
    Vec<u8> => |key, value| key.bytes(value);
    i8 => |key, value| key.int(i64::from(*value));
    i16 => |key, value| key.int(i64::from(*value));
    i32 => |key, value| key.int(i64::from(*value));
    i64 => |key, value| key.int(*value);
    u8 => |key, value| key.byte(*value);
    u16 => |key, value| key.uint(u64::from(*value));
    u32 => |key, value| key.uint(u64::from(*value));
    u64 => |key, value| key.uint(*value);
    bool => |key, value| key.bool(*value);
    Key => |key, value| key.raw(value);
}

impl<T: KeyPart + ?Sized> KeyPart for &T {
    fn append_to(&self, key: &mut KeyBuilder) {
        (**self).append_to(key);
    }
}

macro_rules! key_tuples {
    ($($($name:ident)+;)*) => {$(
        impl<$($name: KeyPart),+> KeyPart for ($($name,)+) {
            #[allow(non_snake_case, reason = "each variable is named after its type parameter")]
            fn append_to(&self, key: &mut KeyBuilder) {
                let ($($name,)+) = self;
                $($name.append_to(key);)+
            }
        }
    )*};
}

key_tuples! {
    A;
    A B;
    A B C;
    A B C D;
    A B C D E;
    A B C D E F;
}

/// Takes the components of a key apart again, in the order in which they were appended. Never panics, whatever the bytes.
#[derive(Debug, Clone, Copy)]
pub struct KeyReader<'a>(&'a [u8]);

impl<'a> KeyReader<'a> {
    /// A reader at the beginning of `key`.
    pub fn new(key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self(key.as_ref())
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// Bytes with a two-byte length; `None` when they are not there.
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let mut rest = *self;
        let length = u16::from_be_bytes(rest.array()?);
        let bytes = rest.take(usize::from(length))?;
        *self = rest;
        Some(bytes)
    }

    /// Text with a two-byte length; `None` when it is not there or not UTF-8.
    pub fn str(&mut self) -> Option<&'a str> {
        let mut rest = *self;
        let text = std::str::from_utf8(rest.bytes()?).ok()?;
        *self = rest;
        Some(text)
    }

    /// A signed integer; `None` when fewer than eight bytes are left.
    pub fn int(&mut self) -> Option<i64> {
        self.uint().map(|value| (value ^ (1 << 63)).cast_signed())
    }

    /// An unsigned integer; `None` when fewer than eight bytes are left.
    pub fn uint(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A boolean; `None` when the next byte is neither 0 nor 1.
    pub fn bool(&mut self) -> Option<bool> {
        match self.0.first()? {
            0 => self.take(1).map(|_| false),
            1 => self.take(1).map(|_| true),
            _ => None,
        }
    }

    /// A byte; `None` at the end.
    pub fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// `length` bytes as they are; `None` when fewer are left.
    pub fn raw(&mut self, length: usize) -> Option<&'a [u8]> {
        self.take(length)
    }

    /// Ordered bytes; `None` when no end mark follows.
    pub fn blob(&mut self) -> Option<Vec<u8>> {
        let mut rest = *self;
        let mut bytes = Vec::new();
        loop {
            match (rest.byte()?, rest.0.first()) {
                (0x00, Some(0xFF)) => {
                    bytes.push(0x00);
                    rest.byte()?;
                }
                (0x00, Some(0x01)) => {
                    rest.byte()?;
                    *self = rest;
                    return Some(bytes);
                }
                (0x00, _) => return None,
                (byte, _) => bytes.push(byte),
            }
        }
    }

    /// Ordered text; `None` when no end mark follows or it is not UTF-8.
    pub fn text(&mut self) -> Option<String> {
        let mut rest = *self;
        let text = String::from_utf8(rest.blob()?).ok()?;
        *self = rest;
        Some(text)
    }

    /// All bytes that are left.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// Keys from `start` up to, not including, `stop`; an empty `stop` is no bound (upstream's rule).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct KeyRange {
    /// The first key that may be in the range.
    pub start: Key,
    /// The first key beyond the range; empty for none.
    pub stop: Key,
}

impl KeyRange {
    /// Every key of a category, the empty one too.
    pub fn all() -> Self {
        Self::default()
    }

    /// The half-open range `[start, stop)`; an empty `stop` is unbounded.
    pub fn new(start: impl AsRef<[u8]>, stop: impl AsRef<[u8]>) -> Self {
        Self { start: Key::raw(start.as_ref()), stop: Key::raw(stop.as_ref()) }
    }

    /// Every key that begins with `prefix`.
    ///
    /// The end is the prefix with its last byte that is not FF incremented and the rest cut off; a prefix of FF alone
    /// has no end.
    pub fn prefix(prefix: impl AsRef<[u8]>) -> Self {
        let prefix = prefix.as_ref();
        let mut stop = prefix.to_vec();
        while let Some(last) = stop.pop() {
            if let Some(next) = last.checked_add(1) {
                stop.push(next);
                break;
            }
        }
        Self { start: Key::raw(prefix), stop: Key(stop) }
    }

    /// Whether `key` lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start.as_bytes() <= key && (self.stop.0.is_empty() || key < self.stop.as_bytes())
    }

    /// Whether no key can lie in the range.
    pub fn is_empty(&self) -> bool {
        !self.stop.0.is_empty() && self.start >= self.stop
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_component_past_its_length_is_refused() {
        let long = "x".repeat(65_536);
        assert_eq!(Key::of(long.as_str()).unwrap_err().kind(), crate::ErrorKind::InvalidArgument);
        assert!(Key::of(&long[1..]).is_ok());
    }

    proptest! {
        #[test]
        fn ordered_bytes_sort_as_they_are(a: Vec<u8>, b: Vec<u8>, tail_a: Vec<u8>, tail_b: Vec<u8>) {
            let encode = |bytes: &[u8], tail: &[u8]| Key::builder().blob(bytes).raw(tail).build().unwrap();
            if a != b {
                prop_assert_eq!(encode(&a, &tail_a).cmp(&encode(&b, &tail_b)), a.cmp(&b));
            }
        }

        #[test]
        fn components_read_back(text: String, blob: Vec<u8>, int: i64, uint: u64, flag: bool, rest: Vec<u8>) {
            let key = Key::builder().str(&text).blob(&blob).int(int).text(&text).uint(uint).bool(flag).raw(&rest).build().unwrap();
            let mut reader = KeyReader::new(&key);
            prop_assert_eq!(reader.str(), Some(text.as_str()));
            prop_assert_eq!(reader.blob(), Some(blob));
            prop_assert_eq!(reader.int(), Some(int));
            prop_assert_eq!(reader.text(), Some(text));
            prop_assert_eq!(reader.uint(), Some(uint));
            prop_assert_eq!(reader.bool(), Some(flag));
            prop_assert_eq!(reader.rest(), rest.as_slice());
        }

        #[test]
        fn integers_sort_as_numbers(a: i64, b: i64) {
            prop_assert_eq!(Key::of(a).unwrap().cmp(&Key::of(b).unwrap()), a.cmp(&b));
        }

        #[test]
        fn a_prefix_range_holds_exactly_what_begins_with_it(prefix: Vec<u8>, key: Vec<u8>) {
            prop_assert_eq!(KeyRange::prefix(&prefix).contains(&key), key.starts_with(&prefix));
        }
    }
}
