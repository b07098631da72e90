//! Rows: categories, keys, and the bytes of each record (`docs/formats/automerge.md`).
//!
//! Each record begins with the number of its layout. Decoders take any bytes and are strict, so that what they read encodes to the same
//! bytes again: a check on a row is a check on what was decoded from it.

use seabed_kv::KeyReader;
pub(crate) use seabed_kv::spread::{FormatRow, shards_from_bytes, shards_to_bytes};
use seabed_kv::staged::Staged;

use crate::DocumentId;
use crate::meta::Meta;

/// The name under which the kernel's staged values of this layer go.
pub(crate) const LAYER: &str = "automerge";

/// Which layout the tenant has, and who made it: one row, with an empty key.
pub(crate) const FORMAT: &str = "automerge.format";
/// How many shards the store has: one row, with an empty key, in the first shard.
pub(crate) const SHARDS: &str = "automerge.shards";
/// Under which id clients know the store: one row, with an empty key, in the first shard.
pub(crate) const IDENTITY: &str = "automerge.identity";
/// Document id to what each request needs to know of the document.
pub(crate) const DOCUMENT: &str = "automerge.document";
/// Document id and number to the changes of one commit, in the order in which they were stored.
pub(crate) const CHANGE: &str = "automerge.change";
/// Document id and SHA-256 to the snapshot with that digest.
pub(crate) const SNAPSHOT: &str = "automerge.snapshot";
/// Document id and peer to the state of synchronisation with that peer.
pub(crate) const PEER: &str = "automerge.peer";
/// Document id and number to what could not be read of the document.
pub(crate) const QUARANTINE: &str = "automerge.quarantine";
/// Document id, once the document was deleted.
pub(crate) const DELETED: &str = "automerge.deleted";

/// The layout that this crate writes.
pub(crate) const FORMAT_VERSION: u32 = 1;

const RECORD_VERSION: u8 = 1;

/// What a record adds to its bytes, and what its key and category exceed the kernel's 50 bytes by.
pub(crate) const INLINE_RESERVE_BYTES: usize = 32;

/// The key of a document's rows in `automerge.document` and `.deleted`, and the beginning of all its others.
pub(crate) fn document_key(document: DocumentId) -> [u8; 16] {
    *document.as_bytes()
}

/// The document that a key is of.
pub(crate) fn read_document_key(key: &[u8]) -> Option<DocumentId> {
    Some(DocumentId::from_bytes(key.try_into().ok()?))
}

/// The key of a row in `automerge.change` and `.quarantine`.
pub(crate) fn numbered_key(document: DocumentId, number: u64) -> [u8; 24] {
    let mut key = [0; 24];
    let (first, second) = key.split_at_mut(16);
    first.copy_from_slice(document.as_bytes());
    second.copy_from_slice(&number.to_be_bytes());
    key
}

pub(crate) fn read_numbered_key(key: &[u8]) -> Option<(DocumentId, u64)> {
    let (document, number) = key.split_at_checked(16)?;
    Some((read_document_key(document)?, u64::from_be_bytes(number.try_into().ok()?)))
}

/// The key of a row in `automerge.snapshot`.
pub(crate) fn snapshot_key(document: DocumentId, digest: [u8; 32]) -> [u8; 48] {
    let mut key = [0; 48];
    let (first, second) = key.split_at_mut(16);
    first.copy_from_slice(document.as_bytes());
    second.copy_from_slice(&digest);
    key
}

pub(crate) fn read_snapshot_key(key: &[u8]) -> Option<(DocumentId, [u8; 32])> {
    let (document, digest) = key.split_at_checked(16)?;
    Some((read_document_key(document)?, digest.try_into().ok()?))
}

/// The key of a row in `automerge.peer`. The document's id has a fixed length, so no peer of one document begins like another's.
pub(crate) fn peer_key(document: DocumentId, peer: &[u8]) -> Vec<u8> {
    [document.as_bytes(), peer].concat()
}

pub(crate) fn read_peer_key(key: &[u8]) -> Option<(DocumentId, &[u8])> {
    let (document, peer) = key.split_at_checked(16)?;
    Some((read_document_key(document)?, peer))
}

/// The row of `automerge.identity`.
pub(crate) fn identity_to_bytes(id: [u8; 16]) -> Vec<u8> {
    [&[RECORD_VERSION][..], &id].concat()
}

pub(crate) fn identity_from_bytes(bytes: &[u8]) -> Option<[u8; 16]> {
    record(bytes)?.rest().try_into().ok()
}

/// Where the bytes of a value are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stored {
    Inline(Vec<u8>),
    Staged(Staged),
}

impl Stored {
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Staged(value) => value.bytes,
        }
    }

    pub(crate) fn staged(&self) -> Option<Staged> {
        match self {
            Self::Inline(_) => None,
            Self::Staged(value) => Some(*value),
        }
    }

    fn append_to(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Inline(value) => bytes.extend_from_slice(value),
            Self::Staged(value) => bytes.extend_from_slice(&value.to_bytes()),
        }
    }

    fn read(staged: bool, bytes: &[u8]) -> Option<Self> {
        Some(if staged { Self::Staged(Staged::from_bytes(bytes)?) } else { Self::Inline(bytes.to_vec()) })
    }
}

/// A row of `automerge.change`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChangeRow {
    /// Where a change that need not be one was stored by a caller of [`Persister`](crate::Persister): `None` for changes that tell
    /// themselves.
    pub(crate) address: Option<Address>,
    pub(crate) value: Stored,
}

/// Actor and sequence number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address {
    pub(crate) actor: Vec<u8>,
    pub(crate) seq: u64,
}

impl ChangeRow {
    /// Plain rows hold nothing but changes.
    pub(crate) fn is_plain(&self) -> bool {
        self.address.is_none() && self.value.staged().is_none()
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let staged = u8::from(self.value.staged().is_some());
        let mut bytes = Vec::new();
        match &self.address {
            None => bytes.push(1 + staged),
            Some(address) => {
                bytes.push(3 + staged);
                push_short(&mut bytes, &address.actor);
                bytes.extend_from_slice(&address.seq.to_be_bytes());
            }
        }
        self.value.append_to(&mut bytes);
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut record = KeyReader::new(bytes);
        let tag = record.byte()?;
        let address = match tag {
            1 | 2 => None,
            3 | 4 => Some(Address { actor: record.bytes()?.to_vec(), seq: record.uint()? }),
            _ => return None,
        };
        Some(Self { address, value: Stored::read(tag % 2 == 0, record.rest())? })
    }
}

/// Bytes with their length in front. Ids of actors and peers, keys and reasons are far shorter than that says; what is not is cut.
fn push_short(bytes: &mut Vec<u8>, value: &[u8]) {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(value.get(..usize::from(length)).unwrap_or(value));
}

/// The row of `automerge.snapshot`.
pub(crate) fn snapshot_to_bytes(value: &Stored) -> Vec<u8> {
    let mut bytes = vec![1 + u8::from(value.staged().is_some())];
    value.append_to(&mut bytes);
    bytes
}

pub(crate) fn snapshot_from_bytes(bytes: &[u8]) -> Option<Stored> {
    let mut record = KeyReader::new(bytes);
    let tag = record.byte()?;
    if !(1..=2).contains(&tag) {
        return None;
    }
    Stored::read(tag == 2, record.rest())
}

/// A row of `automerge.peer`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerRow {
    pub(crate) written_unix_s: u64,
    pub(crate) state: Vec<u8>,
}

impl PeerRow {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![RECORD_VERSION];
        bytes.extend_from_slice(&self.written_unix_s.to_be_bytes());
        bytes.extend_from_slice(&self.state);
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut record = record(bytes)?;
        Some(Self { written_unix_s: record.uint()?, state: record.rest().to_vec() })
    }
}

/// A row of `automerge.quarantine`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QuarantineRow {
    pub(crate) since_unix_s: u64,
    /// Whether it was a snapshot, and not changes.
    pub(crate) snapshot: bool,
    /// The key that the row had.
    pub(crate) key: Vec<u8>,
    pub(crate) reason: String,
    /// The row as it was: what a staged value had, its chunks have still.
    pub(crate) payload: Vec<u8>,
}

impl QuarantineRow {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![RECORD_VERSION];
        bytes.extend_from_slice(&self.since_unix_s.to_be_bytes());
        bytes.push(u8::from(self.snapshot));
        push_short(&mut bytes, &self.key);
        push_short(&mut bytes, self.reason.as_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut record = record(bytes)?;
        Some(Self {
            since_unix_s: record.uint()?,
            snapshot: record.bool()?,
            key: record.bytes()?.to_vec(),
            reason: record.str()?.to_owned(),
            payload: record.rest().to_vec(),
        })
    }

    /// The staged value that the row referred to, whose chunks stay with it.
    pub(crate) fn staged(&self) -> Option<Staged> {
        if self.snapshot {
            snapshot_from_bytes(&self.payload)?.staged()
        } else {
            ChangeRow::from_bytes(&self.payload)?.value.staged()
        }
    }
}

/// The row of `automerge.deleted`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeletedRow {
    /// Whether rows of the document may still be there.
    pub(crate) removing: bool,
    pub(crate) since_unix_s: u64,
}

impl DeletedRow {
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = vec![RECORD_VERSION, u8::from(self.removing)];
        bytes.extend_from_slice(&self.since_unix_s.to_be_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut record = record(bytes)?;
        let row = Self { removing: record.bool()?, since_unix_s: record.uint()? };
        record.rest().is_empty().then_some(row)
    }
}

pub(crate) fn record(bytes: &[u8]) -> Option<KeyReader<'_>> {
    let mut reader = KeyReader::new(bytes);
    (reader.byte()? == RECORD_VERSION).then_some(reader)
}

/// Reads `data` as every kind of row: nothing may panic, and what reads must write the same bytes again.
#[doc(hidden)]
pub fn fuzz_rows(data: &[u8]) {
    fn same(data: &[u8], again: Option<Vec<u8>>) {
        assert!(again.is_none_or(|again| again == data), "a row did not read as it is written");
    }
    same(data, FormatRow::from_bytes(data).map(|row| row.to_bytes()));
    same(data, shards_from_bytes(data).map(shards_to_bytes));
    same(data, identity_from_bytes(data).map(identity_to_bytes));
    same(data, Meta::from_bytes(data).map(|row| row.to_bytes()));
    same(data, ChangeRow::from_bytes(data).map(|row| row.to_bytes()));
    same(data, snapshot_from_bytes(data).map(|row| snapshot_to_bytes(&row)));
    same(data, PeerRow::from_bytes(data).map(|row| row.to_bytes()));
    same(data, QuarantineRow::from_bytes(data).map(|row| row.to_bytes()));
    same(data, DeletedRow::from_bytes(data).map(DeletedRow::to_bytes));
    same(data, read_document_key(data).map(|document| document_key(document).to_vec()));
    same(data, read_numbered_key(data).map(|(document, number)| numbered_key(document, number).to_vec()));
    same(data, read_snapshot_key(data).map(|(document, digest)| snapshot_key(document, digest).to_vec()));
    same(data, read_peer_key(data).map(|(document, peer)| peer_key(document, peer)));
    let (key, payload) = data.split_at(data.len() / 2);
    for category in crate::inspect::CATEGORIES {
        assert!(crate::decode_row(category.as_bytes(), key, payload).is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `docs/formats/automerge.md`, to the byte: rows like these are on disks.
    #[test]
    fn rows_have_the_documented_bytes() {
        let document = DocumentId::from_bytes([0xAA; 16]);
        let nine = [0, 0, 0, 0, 0, 0, 0, 9];
        let staged = Stored::Staged(Staged { id: [0xCC; 16], bytes: 9 });
        let inline = Stored::Inline(b"xy".to_vec());
        let reference = [&[0xCC; 16][..], &nine].concat();
        let change = |address, value| ChangeRow { address, value }.to_bytes();
        let address = || Some(Address { actor: b"me".to_vec(), seq: 9 });
        assert_eq!(change(None, inline.clone()), b"\x01xy");
        assert_eq!(change(None, staged.clone()), [&[2][..], &reference].concat());
        assert_eq!(change(address(), inline.clone()), [b"\x03\0\x02me", &nine[..], b"xy"].concat());
        assert_eq!(change(address(), staged.clone()), [b"\x04\0\x02me", &nine[..], &reference].concat());
        assert_eq!(snapshot_to_bytes(&inline), b"\x01xy");
        assert_eq!(snapshot_to_bytes(&staged), [&[2][..], &reference].concat());
        let peer = PeerRow { written_unix_s: 9, state: b"xy".to_vec() };
        assert_eq!(peer.to_bytes(), [&[1][..], &nine, b"xy"].concat());
        let quarantined = QuarantineRow {
            since_unix_s: 9,
            snapshot: true,
            key: b"k".to_vec(),
            reason: "why".to_owned(),
            payload: b"xy".to_vec(),
        };
        assert_eq!(quarantined.to_bytes(), [&[1][..], &nine, b"\x01\0\x01k\0\x03whyxy"].concat());
        let deleted = DeletedRow { removing: true, since_unix_s: 9 };
        assert_eq!(deleted.to_bytes(), [&[1, 1][..], &nine].concat());
        assert_eq!(shards_to_bytes(64), [1, 0, 64]);
        assert_eq!(identity_to_bytes([0xAA; 16]), [&[1][..], &[0xAA; 16]].concat());
        let format = FormatRow { version: 1, writer: "seabed 0.1.0".to_owned() };
        assert_eq!(format.to_bytes(), b"\0\0\0\x01seabed 0.1.0");
        assert_eq!(numbered_key(document, 9).to_vec(), [&[0xAA; 16][..], &nine].concat());
        assert_eq!(snapshot_key(document, [7; 32]).to_vec(), [&[0xAA; 16][..], &[7; 32]].concat());
        assert_eq!(peer_key(document, b"p"), [&[0xAA; 16][..], b"p"].concat());
    }

    #[test]
    fn a_longer_or_newer_row_is_refused() {
        for shards in [0, 101] {
            assert_eq!(shards_from_bytes(&shards_to_bytes(shards)), None);
        }
        let mut deleted = DeletedRow { removing: false, since_unix_s: 1 }.to_bytes();
        deleted.push(0);
        assert_eq!(DeletedRow::from_bytes(&deleted), None);
        for tag in [0, 5] {
            assert_eq!(ChangeRow::from_bytes(&[tag, 1]), None);
        }
        assert_eq!(snapshot_from_bytes(&[3]), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_do_no_harm(data: Vec<u8>) {
            fuzz_rows(&data);
        }
    }
}
