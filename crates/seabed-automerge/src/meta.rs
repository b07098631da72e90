//! What is known of a document without reading it: counters, and which commits there were.

use crate::StoredSizes;

/// The layout of the row.
const VERSION: u8 = 1;

/// How many numbers follow the version.
const NUMBERS: usize = 13;

/// The state of a document at one of its commits, as its row in `automerge.document` has it. Opaque but for its counters: it is what
/// a caller of [`DocStore`](crate::DocStore) expects to find when it writes, so that nothing is written over what it has not seen.
///
/// ```
/// use seabed_automerge::{DocStore, DocumentId};
///
/// # pollster::block_on(async {
/// let store = DocStore::open(&seabed_kv::Store::memory()).await?;
/// // There is none of a document that was never written.
/// assert_eq!(store.meta(DocumentId::from_bytes([7; 16])).await?, None);
/// # Ok::<(), seabed_kv::Error>(())
/// # })?;
/// # Ok::<(), seabed_kv::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// Counts what removes or rewrites rows, so that who has read up to `next` knows whether that is still so.
    pub(crate) generation: u64,
    /// The number of the next row of changes.
    pub(crate) next: u64,
    /// Rows of changes.
    pub(crate) rows: u64,
    /// Those of them that hold more than plain changes: staged ones, and such as have an address.
    pub(crate) odd_rows: u64,
    pub(crate) changes: u64,
    pub(crate) change_bytes: u64,
    pub(crate) snapshots: u64,
    pub(crate) snapshot_bytes: u64,
    pub(crate) peers: u64,
    pub(crate) peer_bytes: u64,
    /// How many rows were ever put into quarantine.
    pub(crate) quarantined: u64,
    pub(crate) created_unix_s: u64,
    pub(crate) written_unix_s: u64,
}

impl Meta {
    /// A document that has nothing yet.
    pub(crate) fn new(now_unix_s: u64) -> Self {
        Self { created_unix_s: now_unix_s, written_unix_s: now_unix_s, ..Self::default() }
    }

    /// The same document without its rows: their counters begin again.
    pub(crate) fn emptied(self) -> Self {
        Self { rows: 0, odd_rows: 0, changes: 0, change_bytes: 0, snapshots: 0, snapshot_bytes: 0, ..self }
    }

    /// How many bytes are stored of the document.
    pub fn sizes(&self) -> StoredSizes {
        let bytes = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        StoredSizes {
            changes: bytes(self.change_bytes),
            document: bytes(self.snapshot_bytes),
            sync_states: bytes(self.peer_bytes),
        }
    }

    /// How many changes are stored one by one, and not in a snapshot.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// How many rows of the document could not be read and are kept in quarantine.
    pub fn quarantined(&self) -> u64 {
        self.quarantined
    }

    fn numbers(&mut self) -> [&mut u64; NUMBERS] {
        [
            &mut self.generation,
            &mut self.next,
            &mut self.rows,
            &mut self.odd_rows,
            &mut self.changes,
            &mut self.change_bytes,
            &mut self.snapshots,
            &mut self.snapshot_bytes,
            &mut self.peers,
            &mut self.peer_bytes,
            &mut self.quarantined,
            &mut self.created_unix_s,
            &mut self.written_unix_s,
        ]
    }

    /// Short, because each commit writes it: thirty bytes or so.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        for number in self.clone().numbers() {
            push_number(&mut bytes, *number);
        }
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (version, mut rest) = bytes.split_first()?;
        let mut meta = Self::default();
        for number in meta.numbers() {
            *number = read_number(&mut rest)?;
        }
        (*version == VERSION && rest.is_empty()).then_some(meta)
    }
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow.
fn push_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7F) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push((number & 0x7F) as u8);
}

/// Reads a number in the one way in which it is written.
pub(crate) fn read_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7F);
        let shifted = part << shift;
        if shifted >> shift != part {
            return None;
        }
        number |= shifted;
        if byte & 0x80 == 0 {
            return (part != 0 || shift == 0).then_some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `docs/formats/automerge.md`, to the byte.
    #[test]
    fn the_row_has_the_documented_bytes() {
        let meta = Meta {
            generation: 1,
            next: 300,
            rows: 2,
            odd_rows: 3,
            changes: 4,
            change_bytes: 5,
            snapshots: 6,
            snapshot_bytes: 7,
            peers: 8,
            peer_bytes: 9,
            quarantined: 10,
            created_unix_s: 11,
            written_unix_s: 12,
        };
        let bytes = meta.to_bytes();
        assert_eq!(bytes, [1, 1, 0xAC, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(Meta::from_bytes(&bytes), Some(meta));
    }

    #[test]
    fn numbers_read_in_the_one_way_in_which_they_are_written() {
        for number in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            push_number(&mut bytes, number);
            assert_eq!(read_number(&mut &bytes[..]), Some(number));
            bytes.pop();
            assert_eq!(read_number(&mut &bytes[..]), None, "{number} cut off");
        }
        for odd in [
            &[0x80, 0][..],
            &[0xFF, 0x80, 0],
            &[0xFF; 10],
            &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 2],
        ] {
            assert_eq!(read_number(&mut &odd[..]), None, "{odd:?}");
        }
    }
}
