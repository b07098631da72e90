//! Rows: categories, keys, and the bytes of each record (`docs/formats/taskchampion.md`).
//!
//! Each record begins with the version of its layout. Decoders take any bytes and are strict, so that what they read encodes
//! to the same bytes again: a check on a row is a check on what was decoded from it.

use seabed_kv::KeyReader;
pub(crate) use seabed_kv::spread::{FormatRow, shards_from_bytes, shards_to_bytes};
use seabed_kv::staged::Staged;
use uuid::Uuid;

/// The name under which the kernel's staged values of this layer go.
pub(crate) const LAYER: &str = "taskchampion";

/// Which layout the tenant has, and who made it: one row, with an empty key.
pub(crate) const FORMAT: &str = "taskchampion.format";
/// How many shards the store has: one row, with an empty key, in the first shard.
pub(crate) const SHARDS: &str = "taskchampion.shards";
/// Client id to what each request needs to know of the client.
pub(crate) const CLIENT: &str = "taskchampion.client";
/// Client id and parent to the version with that parent.
pub(crate) const VERSION: &str = "taskchampion.version";
/// Client id and version id to its parent.
pub(crate) const PARENT: &str = "taskchampion.parent";
/// Client id to a snapshot that is small enough for a row.
pub(crate) const SNAPSHOT: &str = "taskchampion.snapshot";
/// Client id, while the rows of a deleted client are being removed, or those of an imported one are not all there yet.
pub(crate) const DELETING: &str = "taskchampion.deleting";
/// Client id to the oldest versions that were dropped because a snapshot covers them.
pub(crate) const DROPPED: &str = "taskchampion.dropped";
/// Client id to what its history was when it was last imported.
pub(crate) const IMPORTED: &str = "taskchampion.imported";

/// The layout that this crate writes.
pub(crate) const FORMAT_VERSION: u32 = 1;

const RECORD_VERSION: u8 = 1;

/// What a version's record adds to its bytes, and what its key and category exceed the kernel's 50 bytes by.
pub(crate) const INLINE_RESERVE_BYTES: usize = 32;

/// The key of a client's rows in `taskchampion.client`, `.snapshot`, `.deleting`, `.dropped` and `.imported`.
pub(crate) fn client_key(client: Uuid) -> [u8; 16] {
    client.into_bytes()
}

/// The key of a row in `taskchampion.version` and `taskchampion.parent`.
pub(crate) fn pair_key(client: Uuid, version: Uuid) -> [u8; 32] {
    let mut key = [0; 32];
    let (first, second) = key.split_at_mut(16);
    first.copy_from_slice(client.as_bytes());
    second.copy_from_slice(version.as_bytes());
    key
}

/// The two ids in the key of a version or parent row.
pub(crate) fn read_pair_key(key: &[u8]) -> Option<(Uuid, Uuid)> {
    let (client, version) = key.split_at_checked(16)?;
    Some((Uuid::from_slice(client).ok()?, Uuid::from_slice(version).ok()?))
}

/// The id that a client key is.
pub(crate) fn read_client_key(key: &[u8]) -> Option<Uuid> {
    Uuid::from_slice(key).ok()
}

/// Where the bytes of a version are.
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
}

/// A row of `taskchampion.client`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientRow {
    /// The newest version; nil when there is none.
    pub(crate) latest: Uuid,
    pub(crate) created_unix_s: u64,
    pub(crate) last_push_unix_s: u64,
    pub(crate) versions: u64,
    pub(crate) version_bytes: u64,
    pub(crate) snapshot: Option<SnapshotMeta>,
}

/// What a client's row says of its snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SnapshotMeta {
    pub(crate) version: Uuid,
    /// When it was uploaded.
    pub(crate) unix_s: u64,
    /// Versions added since it was uploaded, whichever version it was taken at.
    pub(crate) versions_since: u64,
    pub(crate) bytes: u64,
    /// The id of its staged value; `None` when it is a row of `taskchampion.snapshot`.
    pub(crate) staged: Option<[u8; 16]>,
}

impl SnapshotMeta {
    pub(crate) fn staged(&self) -> Option<Staged> {
        self.staged.map(|id| Staged { id, bytes: self.bytes })
    }
}

impl ClientRow {
    /// A client that has nothing yet.
    pub(crate) fn new(now_unix_s: u64) -> Self {
        Self {
            latest: Uuid::nil(),
            created_unix_s: now_unix_s,
            last_push_unix_s: now_unix_s,
            versions: 0,
            version_bytes: 0,
            snapshot: None,
        }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![RECORD_VERSION];
        bytes.extend_from_slice(self.latest.as_bytes());
        for number in [self.created_unix_s, self.last_push_unix_s, self.versions, self.version_bytes] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        let Some(snapshot) = &self.snapshot else {
            bytes.push(0);
            return bytes;
        };
        bytes.push(if snapshot.staged.is_some() { 2 } else { 1 });
        bytes.extend_from_slice(snapshot.version.as_bytes());
        for number in [snapshot.unix_s, snapshot.versions_since, snapshot.bytes] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(snapshot.staged.as_ref().map_or(&[], |id| id));
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut record = record(bytes)?;
        let mut row = Self {
            latest: read_uuid(&mut record)?,
            created_unix_s: record.uint()?,
            last_push_unix_s: record.uint()?,
            versions: record.uint()?,
            version_bytes: record.uint()?,
            snapshot: None,
        };
        let tag = record.byte()?;
        if tag == 1 || tag == 2 {
            row.snapshot = Some(SnapshotMeta {
                version: read_uuid(&mut record)?,
                unix_s: record.uint()?,
                versions_since: record.uint()?,
                bytes: record.uint()?,
                staged: if tag == 2 { Some(record.raw(16)?.try_into().ok()?) } else { None },
            });
        }
        (tag <= 2 && record.rest().is_empty()).then_some(row)
    }
}

/// A row of `taskchampion.version`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VersionRow {
    pub(crate) version: Uuid,
    pub(crate) received_unix_s: u64,
    pub(crate) value: Stored,
}

impl VersionRow {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![RECORD_VERSION];
        bytes.extend_from_slice(self.version.as_bytes());
        bytes.extend_from_slice(&self.received_unix_s.to_be_bytes());
        match &self.value {
            Stored::Inline(value) => {
                bytes.push(1);
                bytes.extend_from_slice(value);
            }
            Stored::Staged(value) => {
                bytes.push(2);
                bytes.extend_from_slice(&value.to_bytes());
            }
        }
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut record = record(bytes)?;
        let (version, received_unix_s) = (read_uuid(&mut record)?, record.uint()?);
        let value = match record.byte()? {
            1 => Stored::Inline(record.rest().to_vec()),
            2 => Stored::Staged(Staged::from_bytes(record.rest())?),
            _ => return None,
        };
        Some(Self { version, received_unix_s, value })
    }
}

/// The row of `taskchampion.parent`: the parent of the version in its key.
pub(crate) fn parent_to_bytes(parent: Uuid) -> Vec<u8> {
    let mut bytes = vec![RECORD_VERSION];
    bytes.extend_from_slice(parent.as_bytes());
    bytes
}

pub(crate) fn parent_from_bytes(bytes: &[u8]) -> Option<Uuid> {
    let mut record = record(bytes)?;
    let parent = read_uuid(&mut record)?;
    record.rest().is_empty().then_some(parent)
}

/// The row of `taskchampion.snapshot`: the version it was taken at, so that a reader notices when row and client row are of
/// two moments, then the snapshot.
pub(crate) fn snapshot_to_bytes(version: Uuid, value: &[u8]) -> Vec<u8> {
    let mut bytes = parent_to_bytes(version);
    bytes.extend_from_slice(value);
    bytes
}

pub(crate) fn snapshot_from_bytes(bytes: &[u8]) -> Option<(Uuid, Vec<u8>)> {
    let mut record = record(bytes)?;
    Some((read_uuid(&mut record)?, record.rest().to_vec()))
}

/// The row of `taskchampion.deleting`: since when.
pub(crate) fn deleting_to_bytes(now_unix_s: u64) -> Vec<u8> {
    let mut bytes = vec![RECORD_VERSION];
    bytes.extend_from_slice(&now_unix_s.to_be_bytes());
    bytes
}

pub(crate) fn deleting_from_bytes(bytes: &[u8]) -> Option<u64> {
    let mut record = record(bytes)?;
    let since = record.uint()?;
    record.rest().is_empty().then_some(since)
}

/// A row of `taskchampion.dropped`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DroppedRow {
    /// The newest of the versions that were dropped: the parent of the first one that is left.
    pub(crate) last: Uuid,
    /// How many versions were dropped in all.
    pub(crate) versions: u64,
    /// How many bytes they had.
    pub(crate) version_bytes: u64,
}

impl DroppedRow {
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = parent_to_bytes(self.last);
        bytes.extend_from_slice(&self.versions.to_be_bytes());
        bytes.extend_from_slice(&self.version_bytes.to_be_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut record = record(bytes)?;
        let row =
            Self { last: read_uuid(&mut record)?, versions: record.uint()?, version_bytes: record.uint()? };
        record.rest().is_empty().then_some(row)
    }
}

/// The row of `taskchampion.imported`: the latest version that the imported history had, and when.
pub(crate) fn imported_to_bytes(latest: Uuid, now_unix_s: u64) -> Vec<u8> {
    let mut bytes = parent_to_bytes(latest);
    bytes.extend_from_slice(&now_unix_s.to_be_bytes());
    bytes
}

pub(crate) fn imported_from_bytes(bytes: &[u8]) -> Option<(Uuid, u64)> {
    let mut record = record(bytes)?;
    let read = (read_uuid(&mut record)?, record.uint()?);
    record.rest().is_empty().then_some(read)
}

fn record(bytes: &[u8]) -> Option<KeyReader<'_>> {
    let mut reader = KeyReader::new(bytes);
    (reader.byte()? == RECORD_VERSION).then_some(reader)
}

fn read_uuid(record: &mut KeyReader<'_>) -> Option<Uuid> {
    Uuid::from_slice(record.raw(16)?).ok()
}

/// Reads `data` as every kind of row: nothing may panic, and what reads must write the same bytes again.
#[doc(hidden)]
pub fn fuzz_rows(data: &[u8]) {
    fn same(data: &[u8], again: Option<Vec<u8>>) {
        assert!(again.is_none_or(|again| again == data), "a row did not read as it is written");
    }
    same(data, FormatRow::from_bytes(data).map(|row| row.to_bytes()));
    same(data, shards_from_bytes(data).map(shards_to_bytes));
    same(data, ClientRow::from_bytes(data).map(|row| row.to_bytes()));
    same(data, VersionRow::from_bytes(data).map(|row| row.to_bytes()));
    same(data, parent_from_bytes(data).map(parent_to_bytes));
    same(data, snapshot_from_bytes(data).map(|(version, value)| snapshot_to_bytes(version, &value)));
    same(data, deleting_from_bytes(data).map(deleting_to_bytes));
    same(data, DroppedRow::from_bytes(data).map(DroppedRow::to_bytes));
    same(data, imported_from_bytes(data).map(|(latest, now)| imported_to_bytes(latest, now)));
    same(data, read_pair_key(data).map(|(client, version)| pair_key(client, version).to_vec()));
    same(data, read_client_key(data).map(|client| client_key(client).to_vec()));
    let half = data.len() / 2;
    let (key, payload) = data.split_at(half);
    for category in crate::inspect::CATEGORIES {
        assert!(crate::decode_row(category.as_bytes(), key, payload).is_some());
        let _ = crate::place(category.as_bytes(), key, payload, 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `docs/formats/taskchampion.md`, to the byte: rows like these are on disks.
    #[test]
    fn rows_have_the_documented_bytes() {
        let id = |byte| Uuid::from_bytes([byte; 16]);
        let number = |byte| [0, 0, 0, 0, 0, 0, 0, byte];
        let mut expected = vec![1];
        expected.extend([0xAA; 16]);
        expected.extend([number(1), number(2), number(3), number(4)].concat());
        let mut row = ClientRow {
            latest: id(0xAA),
            created_unix_s: 1,
            last_push_unix_s: 2,
            versions: 3,
            version_bytes: 4,
            snapshot: None,
        };
        assert_eq!(row.to_bytes(), [&expected[..], &[0]].concat());
        let meta = SnapshotMeta { version: id(0xBB), unix_s: 5, versions_since: 6, bytes: 7, staged: None };
        let snapshot = [&[0xBB; 16][..], &number(5), &number(6), &number(7)].concat();
        row.snapshot = Some(meta);
        assert_eq!(row.to_bytes(), [&expected[..], &[1], &snapshot].concat());
        row.snapshot = Some(SnapshotMeta { staged: Some([0xCC; 16]), ..meta });
        assert_eq!(row.to_bytes(), [&expected[..], &[2], &snapshot, &[0xCC; 16]].concat());

        let version = |value| VersionRow { version: id(0xAA), received_unix_s: 9, value }.to_bytes();
        let head = [&[1][..], &[0xAA; 16], &number(9)].concat();
        assert_eq!(version(Stored::Inline(b"xy".to_vec())), [&head[..], b"\x01xy"].concat());
        let staged = Staged { id: [0xCC; 16], bytes: 8 };
        assert_eq!(version(Stored::Staged(staged)), [&head[..], &[2], &[0xCC; 16], &number(8)].concat());

        assert_eq!(parent_to_bytes(id(0xAA)), [&[1][..], &[0xAA; 16]].concat());
        assert_eq!(snapshot_to_bytes(id(0xAA), b"xy"), [&[1][..], &[0xAA; 16], b"xy"].concat());
        assert_eq!(deleting_to_bytes(9), [&[1][..], &number(9)].concat());
        let dropped = DroppedRow { last: id(0xAA), versions: 3, version_bytes: 4 };
        assert_eq!(dropped.to_bytes(), [&[1][..], &[0xAA; 16], &number(3), &number(4)].concat());
        assert_eq!(imported_to_bytes(id(0xAA), 9), [&[1][..], &[0xAA; 16], &number(9)].concat());
        assert_eq!(shards_to_bytes(64), [1, 0, 64]);
        let format = FormatRow { version: 1, writer: "seabed 0.1.0".to_owned() };
        assert_eq!(format.to_bytes(), b"\0\0\0\x01seabed 0.1.0");
        assert_eq!(pair_key(id(1), id(2)), *[[1; 16], [2; 16]].concat());
    }

    #[test]
    fn a_longer_or_newer_row_is_refused() {
        let mut row = ClientRow::new(5).to_bytes();
        assert!(ClientRow::from_bytes(&row).is_some());
        row.push(0);
        assert_eq!(ClientRow::from_bytes(&row), None);
        row.pop();
        row[0] = 2;
        assert_eq!(ClientRow::from_bytes(&row), None);
        for shards in [0, 101] {
            assert_eq!(shards_from_bytes(&shards_to_bytes(shards)), None);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_do_no_harm(data: Vec<u8>) {
            fuzz_rows(&data);
        }
    }
}
