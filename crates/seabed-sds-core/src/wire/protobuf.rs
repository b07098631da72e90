//! The bytes below the messages: protobuf's fields, read as strictly as the peers of a dialect read them.

use crate::DecodeError;

const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const BYTES: u64 = 2;
const GROUP_START: u64 = 3;
const GROUP_END: u64 = 4;
const FIXED_32: u64 = 5;

/// What a reader lets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rules {
    /// As nim's minprotobuf: numbers in their shortest form, no groups (sds.md section 3.2).
    Nim,
    /// As `@waku/sds`: numbers in any form, groups skipped (sds.md section 3.3).
    Spec,
}

/// What a field holds. Fixed numbers and groups are of no field that is known, so they are only stepped over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Other,
}

/// The fields of a message in the order in which they come; ends after the first error.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
    rules: Rules,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8], rules: Rules) -> Self {
        Self { rest: bytes, rules }
    }

    fn field(&mut self) -> Result<(u64, Value<'a>), DecodeError> {
        let key = self.varint()?;
        let value = match key & 7 {
            VARINT => Value::Varint(self.varint()?),
            BYTES => Value::Bytes(self.bytes()?),
            GROUP_START if self.rules == Rules::Spec => self.group()?,
            wire_type => self.fixed(wire_type)?,
        };
        Ok((key >> 3, value))
    }

    /// Steps over a group and those in it, however deep.
    fn group(&mut self) -> Result<Value<'a>, DecodeError> {
        let mut depth = 1_usize;
        while depth > 0 {
            match self.varint()? & 7 {
                VARINT => drop(self.varint()?),
                BYTES => drop(self.bytes()?),
                GROUP_START => depth += 1,
                GROUP_END => depth -= 1,
                wire_type => drop(self.fixed(wire_type)?),
            }
        }
        Ok(Value::Other)
    }

    fn fixed(&mut self, wire_type: u64) -> Result<Value<'a>, DecodeError> {
        let length = match wire_type {
            FIXED_64 => 8,
            FIXED_32 => 4,
            #[allow(clippy::cast_possible_truncation, reason = "three bits")]
            other => return Err(DecodeError::WireType(other as u8)),
        };
        self.take(length).map(|_| Value::Other)
    }

    fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.varint()?;
        self.take(usize::try_from(length).map_err(|_| DecodeError::Truncated)?)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, DecodeError> {
        // Nearly all of them: keys and lengths.
        if let [byte @ ..0x80, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok((*byte).into());
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0;
        for (count, byte) in self.rest.iter().enumerate() {
            let low = u64::from(byte & 0x7F);
            // Of the tenth byte one bit is left; there is no eleventh.
            if count > 9 || (count == 9 && low > 1) {
                return Err(DecodeError::Varint);
            }
            value |= low << (7 * count);
            if byte & 0x80 == 0 {
                if *byte == 0 && count > 0 && self.rules == Rules::Nim {
                    return Err(DecodeError::Varint);
                }
                self.rest = self.rest.get(count + 1..).unwrap_or_default();
                return Ok(value);
            }
        }
        Err(DecodeError::Truncated)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// Appends the key and the value of a number.
pub(crate) fn put_number(out: &mut Vec<u8>, field: u64, value: u64) {
    put_varint(out, field << 3 | VARINT);
    put_varint(out, value);
}

/// Appends the key and the value of bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    put_head(out, field, value.len());
    out.extend_from_slice(value);
}

/// Appends the key and the length of bytes that follow.
pub(crate) fn put_head(out: &mut Vec<u8>, field: u64, length: usize) {
    put_varint(out, field << 3 | BYTES);
    put_varint(out, length as u64);
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        #[allow(clippy::cast_possible_truncation, reason = "the low seven bits")]
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    #[allow(clippy::cast_possible_truncation, reason = "less than 128")]
    out.push(value as u8);
}

/// How many bytes [`put_bytes`] appends.
pub(crate) fn bytes_len(field: u64, length: usize) -> usize {
    varint_len(field << 3) + varint_len(length as u64) + length
}

/// How many bytes [`put_varint`] appends.
pub(crate) fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], rules: Rules) -> Result<Vec<(u64, Value<'_>)>, DecodeError> {
        Fields::new(bytes, rules).collect()
    }

    #[test]
    fn numbers_have_the_length_that_is_told() {
        for shift in 0..64 {
            for value in [1_u64 << shift, (1 << shift) - 1, !0 >> shift] {
                let mut bytes = Vec::new();
                put_varint(&mut bytes, value);
                assert_eq!(bytes.len(), varint_len(value), "{value}");
                put_number(&mut bytes, 20, value);
                let number = bytes.split_off(varint_len(value));
                assert_eq!(read(&number, Rules::Nim), Ok(vec![(20, Value::Varint(value))]));
            }
        }
    }

    #[test]
    fn longer_numbers_than_needed_are_for_the_specification_only() {
        for bytes in [b"\x08\x80\x00".as_slice(), b"\x88\x00\x07", b"\x0a\x81\x00x"] {
            assert_eq!(read(bytes, Rules::Nim), Err(DecodeError::Varint), "{bytes:?}");
            assert_eq!(read(bytes, Rules::Spec).map(|fields| fields.len()), Ok(1), "{bytes:?}");
        }
        for bytes in
            [b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02".as_slice(), &[0x80; 12], &[0x08, 0x80, 0x80]]
        {
            assert!(read(bytes, Rules::Nim).is_err() && read(bytes, Rules::Spec).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn groups_are_skipped_whatever_is_in_them_or_refused() {
        // Group 1 holds a number, bytes that look like its end, both fixed numbers and a group.
        let group = b"\x0b\x08\x01\x12\x01\x0c\x1d\x0c\x0c\x0c\x0c\x21\x0c\x0c\x0c\x0c\x0c\x0c\x0c\x0c\x2b\x2c\x0c\x10\x05";
        assert_eq!(read(group, Rules::Spec), Ok(vec![(1, Value::Other), (2, Value::Varint(5))]));
        assert_eq!(read(group, Rules::Nim), Err(DecodeError::WireType(3)));
        assert_eq!(read(b"\x0b\x08\x01", Rules::Spec), Err(DecodeError::Truncated));
        assert_eq!(read(b"\x0c", Rules::Spec), Err(DecodeError::WireType(4)));
        let deep = [vec![0x0B; 100_000], vec![0x0C; 100_000]].concat();
        assert_eq!(read(&deep, Rules::Spec), Ok(vec![(1, Value::Other)]));
    }

    #[test]
    fn a_length_past_the_end_is_an_error_of_any_size() {
        for bytes in [
            b"\x0a\x01".as_slice(),
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x0d\x01",
            b"\x09\x01",
        ] {
            assert_eq!(read(bytes, Rules::Nim), Err(DecodeError::Truncated));
        }
    }
}
