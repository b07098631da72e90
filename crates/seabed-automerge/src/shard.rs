//! Shards: the tenants among which documents are spread, and the rows that say what they are.

use std::collections::BTreeSet;

use seabed_kv::staged::{Staged, Staging};
use seabed_kv::{Batch, Durability, Store, Tenant};

use crate::DocumentId;
use crate::error::{Error, ErrorKind, Result, busy, damaged};
use crate::keys::{
    DOCUMENT, FORMAT, FORMAT_VERSION, FormatRow, INLINE_RESERVE_BYTES, LAYER, SHARDS, Stored, document_key,
    shards_from_bytes, shards_to_bytes, writer,
};
use crate::meta::Meta;

/// How many shards a new store gets. One file, one flush: on a single machine more of them only divide the group commit.
const SHARDS_NEW: u16 = 1;

/// How often a row that others keep creating and removing is read again.
const FORMAT_ATTEMPTS_MAX: usize = 8;

/// One tenant of documents.
#[derive(Debug, Clone)]
pub(crate) struct Shard {
    pub(crate) tenant: Tenant,
    pub(crate) staging: Staging,
}

impl Shard {
    pub(crate) fn new(tenant: Tenant) -> Self {
        Self { staging: Staging::new(tenant.clone(), LAYER), tenant }
    }

    /// The longest value that is kept in a row beside its key.
    pub(crate) fn inline_max(&self) -> usize {
        self.tenant.inline_limit().saturating_sub(INLINE_RESERVE_BYTES)
    }

    /// The row of a document.
    pub(crate) async fn meta(&self, document: DocumentId) -> Result<Option<Meta>> {
        let key = document_key(document);
        let Some(row) = self.tenant.get(DOCUMENT, key).await? else { return Ok(None) };
        Meta::from_bytes(&row).map(Some).ok_or_else(|| damaged(&self.tenant, DOCUMENT, &key))
    }

    /// The bytes of a stored value.
    pub(crate) async fn read(&self, stored: Stored) -> Result<Vec<u8>> {
        match stored {
            Stored::Inline(bytes) => Ok(bytes),
            Stored::Staged(value) => self.read_staged(value).await,
        }
    }

    pub(crate) async fn read_staged(&self, value: Staged) -> Result<Vec<u8>> {
        // Not as much as the row says: a damaged one may say anything.
        let mut bytes = Vec::new();
        let mut reader = self.staging.reader(value);
        while let Some(part) = reader.next().await? {
            bytes.extend_from_slice(&part);
        }
        Ok(bytes)
    }
}

/// Opens every shard of the store, making that of a new store. A shard that is missing is an error: an empty one in its place would
/// tell that its documents never were.
pub(crate) async fn open(store: &Store) -> Result<Vec<Shard>> {
    let there = shard_numbers(store).await?;
    if there.first().is_some_and(|first| *first > 0) {
        return Err(missing(0));
    }
    let first = store.open(shard_id(0)).await?;
    let shards = identify_first(&first, there.len() > 1).await?;
    let mut all = vec![Shard::new(first)];
    for number in 1..shards {
        if !there.contains(&number) {
            return Err(missing(number));
        }
        let tenant = store.open(shard_id(number)).await?;
        let row = tenant.get(FORMAT, b"").await?.ok_or_else(|| missing(number))?;
        check_format(&tenant, &row)?;
        all.push(Shard::new(tenant));
    }
    Ok(all)
}

/// The numbers of the shards whose tenants are in the store.
pub(crate) async fn shard_numbers(store: &Store) -> Result<BTreeSet<u16>> {
    Ok(store.list().await?.iter().filter_map(|id| shard_number(id.as_str())).collect())
}

/// Reads what the first shard says and answers the number of shards. Without a word of it, and without `others`, the store is new: it
/// gets the rows. A store that begins with more than one shard would have to make the others before.
async fn identify_first(tenant: &Tenant, others: bool) -> Result<u16> {
    for _ in 0..FORMAT_ATTEMPTS_MAX {
        if let Some(row) = tenant.get(FORMAT, b"").await? {
            check_format(tenant, &row)?;
            // Written in one batch with the format row, so it is there.
            let row = tenant.get(SHARDS, b"").await?.unwrap_or_default();
            return shards_from_bytes(&row).ok_or_else(|| damaged(tenant, SHARDS, b""));
        }
        if others {
            return Err(missing(0));
        }
        let mut batch = Batch::new();
        batch.check_absent(FORMAT, b"").put(FORMAT, b"", FormatRow::ours().to_bytes());
        batch.check_absent(SHARDS, b"").put(SHARDS, b"", shards_to_bytes(SHARDS_NEW));
        tenant.apply(batch, Durability::Durable).await?;
    }
    Err(busy(tenant, "the format row keeps changing; open the store again"))
}

/// What is said of a shard that should be there.
pub(crate) fn missing(number: u16) -> Error {
    let message = format!(
        "the shard {} is missing or empty, and with it every document in it; restore it from a backup",
        shard_id(number)
    );
    Error::new(ErrorKind::Corrupt, message)
}

fn check_format(tenant: &Tenant, row: &[u8]) -> Result<()> {
    let row = FormatRow::from_bytes(row).ok_or_else(|| damaged(tenant, FORMAT, b""))?;
    match row.version {
        FORMAT_VERSION => Ok(()),
        0 => Err(damaged(tenant, FORMAT, b"")),
        version => {
            let message = format!(
                "Automerge documents in format {version}, written by {:?}; this is {}, which reads format \
                 {FORMAT_VERSION}: use that version or a later one",
                row.writer,
                writer()
            );
            Err(Error::new(ErrorKind::Unsupported, message).in_tenant(tenant.id()))
        }
    }
}

/// The id of a shard's tenant.
pub(crate) fn shard_id(number: u16) -> String {
    format!("{LAYER}-{number:02}")
}

/// Whether this layer keeps its data in the tenant of that id: `automerge-` and two digits.
///
/// ```
/// assert!(seabed_automerge::is_ours("automerge-00"));
/// assert!(!seabed_automerge::is_ours("automerge-0") && !seabed_automerge::is_ours("sds"));
/// ```
pub fn is_ours(tenant_id: &str) -> bool {
    shard_number(tenant_id).is_some()
}

/// The number in a shard's tenant id.
pub(crate) fn shard_number(tenant_id: &str) -> Option<u16> {
    let digits = tenant_id.strip_prefix(LAYER)?.strip_prefix('-')?;
    // A number may be written with a sign, an id may not.
    let plain = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

/// Which of `shards` a document's rows are in: FNV-1a over the sixteen bytes of its id, written into the format for ever.
pub(crate) fn shard_of(document: DocumentId, shards: usize) -> usize {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in document.as_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let shards = u64::try_from(shards).unwrap_or(1).max(1);
    usize::try_from(hash % shards).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_digits_are_ours() {
        for (id, ours) in [
            ("automerge-00", true),
            ("automerge-63", true),
            ("automerge-000", false),
            ("automerge-0a", false),
            ("automerge-٠١", false),
            ("automerge", false),
            ("taskchampion-00", false),
            ("", false),
        ] {
            assert_eq!(is_ours(id), ours, "{id}");
        }
        for number in [0, 7, 99] {
            assert_eq!(shard_number(&shard_id(number)), Some(number));
        }
    }

    #[test]
    fn the_hash_is_the_one_that_stored_data_was_spread_by() {
        let id = |number: u128| DocumentId::from_bytes(number.to_be_bytes());
        assert_eq!((shard_of(id(5), 1), shard_of(id(0), 1)), (0, 0));
        let spread: Vec<_> = (0..8).map(|number| shard_of(id(number), 64)).collect();
        assert_eq!(spread, [37, 50, 63, 12, 25, 38, 51, 0]);
    }
}
