//! Layers whose data are spread over tenants by the hash of an id: which tenants there are, and the rows that say what they hold.
//!
//! A layer's tenants are `<layer>-00`, `<layer>-01`, ... One flush then serves all that are in one, and a distributed store can spread
//! them over its machines. How many there are is written when the store is made, and stays. Each has a row `<layer>.format`, and the
//! first one a row `<layer>.shards`.
//!
//! ```
//! use seabed_kv::{Store, spread::{Spread, shard_of}};
//!
//! const NOTES: Spread = Spread { layer: "notes", version: 1, data: "notes", item: "note" };
//! let store = Store::memory();
//! let shards = pollster::block_on(NOTES.open(&store))?;
//! assert_eq!(shards.len(), 1, "one file, one flush");
//! assert_eq!(shards[shard_of(&[7; 16], shards.len())].id().as_str(), "notes-00");
//! # Ok::<(), seabed_kv::Error>(())
//! ```

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::Range;

use crate::{Batch, Durability, Error, ErrorKind, Result, Store, Tenant};

/// How many shards a new store gets. One file, one flush: on a single machine more of them only divide the group commit.
const SHARDS_NEW: u16 = 1;

/// How many one gets that several processes share: each commits for itself, so that many are at it at once, and a distributed database
/// can spread them over its machines.
const SHARDS_NEW_SHARED: u16 = 64;

/// How many a store may have: the two digits of a tenant id name no more.
pub const SHARDS_MAX: u16 = 100;

/// How often a row that others keep creating and removing is read again.
const FORMAT_ATTEMPTS_MAX: usize = 8;

/// The layout of the row of shards.
const SHARDS_VERSION: u8 = 1;

/// Which bytes of a key are not told: most of the id that it begins with, because whoever knows it may use it.
const KEY_BYTES_HIDDEN: Range<usize> = 4..16;

/// A layer, as its tenants and their first rows show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread {
    /// What its tenants and categories begin with.
    pub layer: &'static str,
    /// The version of the format that it reads and writes.
    pub version: u32,
    /// What its data are called in an error: "TaskChampion data".
    pub data: &'static str,
    /// What one of its items is called: "client".
    pub item: &'static str,
}

/// The row `<layer>.format`: which layout the tenant has, and who made it. Four bytes, big-endian, and text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatRow {
    /// The version of the layout.
    pub version: u32,
    /// The program that wrote it.
    pub writer: String,
}

impl FormatRow {
    /// The row of this program.
    pub fn ours(version: u32) -> Self {
        Self { version, writer: writer() }
    }

    /// Its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.version.to_be_bytes().to_vec();
        bytes.extend_from_slice(self.writer.as_bytes());
        bytes
    }

    /// The row of these bytes; `None` when they are none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (version, writer) = bytes.split_first_chunk::<4>()?;
        let writer = String::from_utf8(writer.to_vec()).ok()?;
        Some(Self { version: u32::from_be_bytes(*version), writer })
    }
}

/// This program, as it signs what it writes.
fn writer() -> String {
    format!("seabed {}", env!("CARGO_PKG_VERSION"))
}

/// The row `<layer>.shards`: its layout, and two bytes of number, big-endian.
pub fn shards_to_bytes(shards: u16) -> Vec<u8> {
    let mut bytes = vec![SHARDS_VERSION];
    bytes.extend_from_slice(&shards.to_be_bytes());
    bytes
}

/// How many shards that row says there are; `None` when it is none, or names fewer than one or more than [`SHARDS_MAX`].
pub fn shards_from_bytes(bytes: &[u8]) -> Option<u16> {
    let (SHARDS_VERSION, shards) = bytes.split_first().map(|(version, rest)| (*version, rest))? else {
        return None;
    };
    let shards = u16::from_be_bytes(shards.try_into().ok()?);
    (1..=SHARDS_MAX).contains(&shards).then_some(shards)
}

/// Which of `shards` holds what belongs to an id: FNV-1a over its sixteen bytes, written into the formats for ever.
pub fn shard_of(id: &[u8; 16], shards: usize) -> usize {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in id {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let shards = u64::try_from(shards).unwrap_or(1).max(1);
    usize::try_from(hash % shards).unwrap_or(0)
}

/// A stored row that does not read as what its category says. Of the id that its key begins with four bytes are told.
pub fn damaged(tenant: &Tenant, category: &str, key: &[u8]) -> Error {
    let mut message = String::from("the row ");
    for (position, byte) in key.iter().enumerate() {
        // Writing to a string never fails.
        if !KEY_BYTES_HIDDEN.contains(&position) {
            let _ = write!(message, "{byte:02x}");
        } else if position == KEY_BYTES_HIDDEN.start {
            message.push_str("...");
        }
    }
    let _ = write!(message, " of {category} is damaged; run `seabed verify` and restore from a backup");
    Error::new(ErrorKind::Corrupt, message).in_tenant(tenant.id())
}

impl Spread {
    /// Opens every shard of the store, making those of a new store. A shard that is missing is an error: an empty one in its place would
    /// tell that what is in it never was. Of a store with one shard, as a directory has, nothing is left that could tell a lost one from one that
    /// never was: a program that must know remembers that it has made it, and asks [`count`](Self::count) first. Any number of processes may do it at once where they [share](Store::is_shared) the store.
    ///
    /// # Errors
    /// Those of the store; `Unsupported` for data of a later version, naming both versions; `Corrupt` when a shard is missing or does not
    /// say what it is; `Busy` when others keep making and removing it.
    pub async fn open(&self, store: &Store) -> Result<Vec<Tenant>> {
        let there = self.numbers(store).await?;
        // In a shared store they may be about to be made: the first one comes last.
        if !store.is_shared() && there.first().is_some_and(|first| *first > 0) {
            return Err(self.missing(0));
        }
        let first = store.open(self.tenant_id(0)).await?;
        let shards = match self.read_first(&first).await? {
            Some(shards) => shards,
            None => self.create(store, &first, &there).await?,
        };
        // Listed anew, because who made the first one has made the others before.
        let there = self.numbers(store).await?;
        let mut all = vec![first];
        // All begin before the first is waited for: over a network each takes its time.
        let begin = |number| there.contains(&number).then(|| store.open(self.tenant_id(number)));
        let opening: Vec<_> = (1..shards).map(begin).collect();
        for (number, opening) in (1..shards).zip(opening) {
            let tenant = opening.ok_or_else(|| self.missing(number))?.await?;
            let row = tenant.get(self.format(), b"").await?.ok_or_else(|| self.missing(number))?;
            self.check_format(&tenant, &row)?;
            all.push(tenant);
        }
        Ok(all)
    }

    /// How many shards the store has; `None` when it holds nothing of this layer. Makes nothing.
    ///
    /// # Errors
    /// Those of the store; `Unsupported` for data of a later version; `Corrupt` when the first shard is missing or does not say.
    pub async fn count(&self, store: &Store) -> Result<Option<u16>> {
        let there = self.numbers(store).await?;
        if there.is_empty() {
            return Ok(None);
        }
        if !there.contains(&0) {
            return Err(self.missing(0));
        }
        let first = store.open(self.tenant_id(0)).await?;
        self.read_first(&first).await?.map(Some).ok_or_else(|| self.missing(0))
    }

    /// The numbers of the shards whose tenants are in the store.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn numbers(&self, store: &Store) -> Result<BTreeSet<u16>> {
        Ok(store.list().await?.iter().filter_map(|id| self.number(id.as_str())).collect())
    }

    /// The id of a shard's tenant.
    pub fn tenant_id(&self, number: u16) -> String {
        format!("{}-{number:02}", self.layer)
    }

    /// The number in a shard's tenant id: the layer's name and two digits.
    pub fn number(&self, tenant_id: &str) -> Option<u16> {
        let digits = tenant_id.strip_prefix(self.layer)?.strip_prefix('-')?;
        // A number may be written with a sign, an id may not.
        let plain = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse().ok().filter(|_| plain)
    }

    /// What is said of a shard that should be there.
    pub fn missing(&self, number: u16) -> Error {
        let message = format!(
            "the shard {} is missing or empty, and with it every {} in it; restore it from a backup",
            self.tenant_id(number),
            self.item
        );
        Error::new(ErrorKind::Corrupt, message)
    }

    fn format(&self) -> String {
        format!("{}.format", self.layer)
    }

    fn shards(&self) -> String {
        format!("{}.shards", self.layer)
    }

    /// The number of shards, as the first one says; `None` when it does not yet.
    async fn read_first(&self, first: &Tenant) -> Result<Option<u16>> {
        let Some(row) = first.get(self.format(), b"").await? else { return Ok(None) };
        self.check_format(first, &row)?;
        // Written in one batch with the format row, so it is there.
        let row = first.get(self.shards(), b"").await?.unwrap_or_default();
        shards_from_bytes(&row).map(Some).ok_or_else(|| damaged(first, &self.shards(), b""))
    }

    /// Makes the shards of a new store and answers how many there are then. The first one gets its rows when the others have theirs, so
    /// that nobody serves a part of them; whoever was cut off, or has company, is carried on.
    async fn create(&self, store: &Store, first: &Tenant, there: &BTreeSet<u16>) -> Result<u16> {
        for number in there.iter().filter(|number| **number > 0) {
            let begun = store.is_shared() && {
                let categories = store.open(self.tenant_id(*number)).await?.categories().await?;
                categories.iter().all(|category| category == self.format().as_bytes())
            };
            if !begun {
                // Something in it: another process made the first one in the meantime, or it was lost.
                return self.read_first(first).await?.ok_or_else(|| self.missing(0));
            }
        }
        let shards = if store.is_shared() { SHARDS_NEW_SHARED } else { SHARDS_NEW };
        let ours = FormatRow::ours(self.version).to_bytes();
        // All begin before the first is waited for, so that they share the flushes.
        let opening: Vec<_> = (1..shards).map(|number| store.open(self.tenant_id(number))).collect();
        let mut marking = Vec::with_capacity(opening.len());
        for opening in opening {
            let mut batch = Batch::new();
            batch.check_absent(self.format(), b"").put(self.format(), b"", ours.clone());
            marking.push(opening.await?.apply(batch, Durability::Durable));
        }
        for marking in marking {
            marking.await?;
        }
        for _ in 0..FORMAT_ATTEMPTS_MAX {
            let mut batch = Batch::new();
            batch.check_absent(self.format(), b"").put(self.format(), b"", ours.clone());
            batch.check_absent(self.shards(), b"").put(self.shards(), b"", shards_to_bytes(shards));
            first.apply(batch, Durability::Durable).await?;
            if let Some(shards) = self.read_first(first).await? {
                return Ok(shards);
            }
        }
        let message = "the format row keeps changing; open the store again";
        Err(Error::new(ErrorKind::Busy, message).in_tenant(first.id()))
    }

    fn check_format(&self, tenant: &Tenant, row: &[u8]) -> Result<()> {
        let row = FormatRow::from_bytes(row).ok_or_else(|| damaged(tenant, &self.format(), b""))?;
        match row.version {
            0 => Err(damaged(tenant, &self.format(), b"")),
            version if version == self.version => Ok(()),
            version => {
                let message = format!(
                    "{} in format {version}, written by {:?}; this is {}, which reads format {}: use that version or a later one",
                    self.data,
                    row.writer,
                    writer(),
                    self.version
                );
                Err(Error::new(ErrorKind::Unsupported, message).in_tenant(tenant.id()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTES: Spread = Spread { layer: "notes", version: 1, data: "notes", item: "note" };

    #[test]
    fn only_two_digits_are_a_layers() {
        for (id, number) in [
            ("notes-00", Some(0)),
            ("notes-63", Some(63)),
            ("notes-000", None),
            ("notes-0a", None),
            ("notes-+1", None),
            ("notes-٠١", None),
            ("notes", None),
            ("notes00", None),
            ("others-00", None),
            ("", None),
        ] {
            assert_eq!(NOTES.number(id), number, "{id}");
        }
        for number in [0, 7, 99] {
            assert_eq!(NOTES.number(&NOTES.tenant_id(number)), Some(number));
        }
    }

    #[test]
    fn the_hash_is_the_one_that_stored_data_was_spread_by() {
        let id = |number: u128| number.to_be_bytes();
        let long = id(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
        assert_eq!((shard_of(&long, 1), shard_of(&id(0), 1)), (0, 0));
        let spread: Vec<_> = (0..8).map(|number| shard_of(&id(number), 64)).collect();
        assert_eq!(spread, [37, 50, 63, 12, 25, 38, 51, 0]);
    }

    #[test]
    fn rows_have_their_bytes_and_no_others() {
        assert_eq!(shards_to_bytes(64), [1, 0, 64]);
        assert_eq!(shards_from_bytes(&[1, 0, 64]), Some(64));
        for odd in [&[][..], &[1], &[1, 0], &[2, 0, 64], &[1, 0, 64, 0], &[1, 0, 0], &[1, 0, 101]] {
            assert_eq!(shards_from_bytes(odd), None, "{odd:?}");
        }
        let format = FormatRow { version: 1, writer: "seabed 0.1.0".to_owned() };
        assert_eq!(format.to_bytes(), b"\0\0\0\x01seabed 0.1.0");
        assert_eq!(FormatRow::from_bytes(&format.to_bytes()), Some(format));
        assert_eq!(FormatRow::from_bytes(&[0, 0, 1]), None);
        assert_eq!(FormatRow::from_bytes(&[0, 0, 0, 1, 0xFF]), None);
    }
}
