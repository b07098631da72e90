//! Fields of rows: fixed integers, big-endian, and bytes after their length, which is a short number.

use std::sync::Arc;

use crate::RecordError;

/// Appends fields.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn byte(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    pub(super) fn flag(&mut self, value: bool) -> &mut Self {
        self.byte(u8::from(value))
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn maybe_u64(&mut self, value: Option<u64>) -> &mut Self {
        match value {
            Some(value) => self.byte(1).u64(value),
            None => self.byte(0),
        }
    }

    /// A number that is nearly always small: seven bits a byte, the lowest first, the highest bit set in all but the last.
    pub(super) fn short(&mut self, value: usize) -> &mut Self {
        let mut left = value as u64;
        loop {
            let [low, ..] = left.to_le_bytes();
            left >>= 7;
            if left == 0 {
                return self.byte(low);
            }
            self.byte(low | 0x80);
        }
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.short(bytes.len()).rest(bytes)
    }

    pub(super) fn maybe_bytes(&mut self, bytes: Option<&[u8]>) -> &mut Self {
        match bytes {
            Some(bytes) => self.byte(1).bytes(bytes),
            None => self.byte(0),
        }
    }

    /// The last field needs no length.
    pub(super) fn rest(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

/// Takes fields off the front.
#[derive(Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], RecordError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(RecordError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        self.take(N)?.try_into().map_err(|_| RecordError::Truncated)
    }

    pub(super) fn byte(&mut self) -> Result<u8, RecordError> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    pub(super) fn flag(&mut self) -> Result<bool, RecordError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(RecordError::Flag(other)),
        }
    }

    pub(super) fn u32(&mut self) -> Result<u32, RecordError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, RecordError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(super) fn maybe_u64(&mut self) -> Result<Option<u64>, RecordError> {
        if self.flag()? { Ok(Some(self.u64()?)) } else { Ok(None) }
    }

    /// A number in its shortest form: what reads encodes to the same bytes again.
    pub(super) fn short(&mut self) -> Result<usize, RecordError> {
        let mut value = 0_usize;
        for shift in (0..=28).step_by(7) {
            let byte = self.byte()?;
            value |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return if byte == 0 && shift > 0 { Err(RecordError::Number) } else { Ok(value) };
            }
        }
        Err(RecordError::Number)
    }

    /// As many items as the row says, each read from the row: a count that lies ends the row, before anything is allocated for it.
    pub(super) fn list<T>(
        &mut self,
        count: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, RecordError>,
    ) -> Result<Vec<T>, RecordError> {
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], RecordError> {
        let count = self.short()?;
        self.take(count)
    }

    pub(super) fn maybe_bytes(&mut self) -> Result<Option<Arc<[u8]>>, RecordError> {
        if self.flag()? { Ok(Some(self.bytes()?.into())) } else { Ok(None) }
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// Nothing may be left: what reads encodes to the same bytes again.
    pub(super) fn end(&self) -> Result<(), RecordError> {
        if self.0.is_empty() { Ok(()) } else { Err(RecordError::TooLong(self.0.len())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_numbers_have_one_form() {
        for (value, bytes) in [(0, 1), (0x7F, 1), (0x80, 2), (0x3FFF, 2), (0x4000, 3), (0xFFFF_FFFF, 5)] {
            let mut written = Writer::default();
            written.short(value);
            assert_eq!((Reader(&written.0).short(), written.0.len()), (Ok(value), bytes));
        }
        assert_eq!(Reader(&[0x80, 0]).short(), Err(RecordError::Number), "longer than needed");
        assert_eq!(Reader(&[0xFF; 5]).short(), Err(RecordError::Number), "more than is ever written");
        assert_eq!(Reader(&[0x80]).short(), Err(RecordError::Truncated));
    }
}
