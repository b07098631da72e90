//! Shards: the tenants among which clients are spread, and the rows that say what they are.

use std::collections::BTreeSet;
#[cfg(feature = "upstream")]
use std::sync::Arc;

use seabed_kv::staged::Staging;
use seabed_kv::{Batch, Durability, Error, ErrorKind, Store, Tenant};
use uuid::Uuid;

use crate::error::{Result, busy, damaged};
use crate::keys::{
    CLIENT, ClientRow, FORMAT, FORMAT_VERSION, FormatRow, INLINE_RESERVE_BYTES, LAYER, SHARDS, client_key,
    shards_from_bytes, shards_to_bytes, writer,
};
#[cfg(feature = "upstream")]
use crate::upstream::Locks;

/// How many shards a new store gets. One file, one flush: on a single machine more of them only divide the group commit.
const SHARDS_NEW: u16 = 1;

/// How many one gets that several processes share: each commits for itself, so that many are at it at once, and a distributed database
/// can spread them over its machines.
const SHARDS_NEW_SHARED: u16 = 64;

/// How often a row that others keep creating and removing is read again.
const FORMAT_ATTEMPTS_MAX: usize = 8;

/// One tenant of clients.
#[derive(Debug, Clone)]
pub(crate) struct Shard {
    pub(crate) tenant: Tenant,
    pub(crate) staging: Staging,
    #[cfg(feature = "upstream")]
    pub(crate) locks: Arc<Locks>,
}

impl Shard {
    pub(crate) fn new(tenant: Tenant) -> Self {
        Self {
            staging: Staging::new(tenant.clone(), LAYER),
            tenant,
            #[cfg(feature = "upstream")]
            locks: Arc::default(),
        }
    }

    /// The longest value that is kept in a row.
    pub(crate) fn inline_max(&self) -> usize {
        self.tenant.inline_limit().saturating_sub(INLINE_RESERVE_BYTES)
    }

    /// The row of a client.
    pub(crate) async fn client_row(&self, client: Uuid) -> Result<Option<ClientRow>> {
        let key = client_key(client);
        let Some(row) = self.tenant.get(CLIENT, key).await? else { return Ok(None) };
        ClientRow::from_bytes(&row).map(Some).ok_or_else(|| damaged(&self.tenant, CLIENT, &key))
    }
}

/// Opens every shard of the store, making those of a new store. A shard that is missing is an error: an empty one in its place would
/// tell its clients that they never were.
pub(crate) async fn open(store: &Store) -> Result<Vec<Shard>> {
    let there = shard_numbers(store).await?;
    // In a shared store they may be about to be made: the first one comes last.
    if !store.is_shared() && there.first().is_some_and(|first| *first > 0) {
        return Err(missing(0));
    }
    let first = store.open(shard_id(0)).await?;
    let shards = match read_first(&first).await? {
        Some(shards) => shards,
        None => create(store, &first, &there).await?,
    };
    // Listed anew, because who made the first one has made the others before.
    let there = shard_numbers(store).await?;
    let mut all = vec![Shard::new(first)];
    // All begin before the first is waited for: over a network each takes its time.
    let begin = |number| there.contains(&number).then(|| store.open(shard_id(number)));
    let opening: Vec<_> = (1..shards).map(begin).collect();
    for (number, opening) in (1..shards).zip(opening) {
        let tenant = opening.ok_or_else(|| missing(number))?.await?;
        let row = tenant.get(FORMAT, b"").await?.ok_or_else(|| missing(number))?;
        check_format(&tenant, &row)?;
        all.push(Shard::new(tenant));
    }
    Ok(all)
}

/// How many shards the store has; `None` when it holds nothing of this layer. Makes nothing.
///
/// # Errors
/// Those of the store; `Unsupported` for data of a later version; `Corrupt` when the first shard is missing or does not say.
pub async fn shard_count(store: &Store) -> Result<Option<u16>> {
    let there = shard_numbers(store).await?;
    if there.is_empty() {
        return Ok(None);
    }
    if !there.contains(&0) {
        return Err(missing(0));
    }
    let first = store.open(shard_id(0)).await?;
    read_first(&first).await?.map(Some).ok_or_else(|| missing(0))
}

/// The numbers of the shards whose tenants are in the store.
pub(crate) async fn shard_numbers(store: &Store) -> Result<BTreeSet<u16>> {
    Ok(store.list().await?.iter().filter_map(|id| shard_number(id.as_str())).collect())
}

/// The number of shards, as the first one says; `None` when it does not yet.
async fn read_first(first: &Tenant) -> Result<Option<u16>> {
    let Some(row) = first.get(FORMAT, b"").await? else { return Ok(None) };
    check_format(first, &row)?;
    // Written in one batch with the format row, so it is there.
    let row = first.get(SHARDS, b"").await?.unwrap_or_default();
    shards_from_bytes(&row).map(Some).ok_or_else(|| damaged(first, SHARDS, b""))
}

/// Makes the shards of a new store and answers how many there are then. The first one gets its rows when the others have theirs, so
/// that nobody serves a part of them; whoever was cut off, or has company, is carried on.
async fn create(store: &Store, first: &Tenant, there: &BTreeSet<u16>) -> Result<u16> {
    for number in there.iter().filter(|number| **number > 0) {
        let begun = store.is_shared() && {
            let categories = store.open(shard_id(*number)).await?.categories().await?;
            categories.iter().all(|category| category == FORMAT.as_bytes())
        };
        if !begun {
            // Clients in it: another process made the first one in the meantime, or it was lost.
            return read_first(first).await?.ok_or_else(|| missing(0));
        }
    }
    let shards = if store.is_shared() { SHARDS_NEW_SHARED } else { SHARDS_NEW };
    // All begin before the first is waited for, so that they share the flushes.
    let opening: Vec<_> = (1..shards).map(|number| store.open(shard_id(number))).collect();
    let mut marking = Vec::with_capacity(opening.len());
    for opening in opening {
        let mut batch = Batch::new();
        batch.check_absent(FORMAT, b"").put(FORMAT, b"", FormatRow::ours().to_bytes());
        marking.push(opening.await?.apply(batch, Durability::Durable));
    }
    for marking in marking {
        marking.await?;
    }
    for _ in 0..FORMAT_ATTEMPTS_MAX {
        let mut batch = Batch::new();
        batch.check_absent(FORMAT, b"").put(FORMAT, b"", FormatRow::ours().to_bytes());
        batch.check_absent(SHARDS, b"").put(SHARDS, b"", shards_to_bytes(shards));
        first.apply(batch, Durability::Durable).await?;
        if let Some(shards) = read_first(first).await? {
            return Ok(shards);
        }
    }
    Err(busy(first, "the format row keeps changing; open the store again"))
}

/// What is said of a shard that should be there.
pub(crate) fn missing(number: u16) -> Error {
    let message = format!(
        "the shard {} is missing or empty, and with it every client in it; restore it from a backup",
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
                "TaskChampion data in format {version}, written by {:?}; this is {}, which reads format \
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

/// Whether this layer keeps its data in the tenant of that id: `taskchampion-` and two digits.
///
/// ```
/// assert!(seabed_taskchampion::is_ours("taskchampion-00"));
/// assert!(!seabed_taskchampion::is_ours("taskchampion-0") && !seabed_taskchampion::is_ours("sds"));
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

/// Which of `shards` a client's rows are in: FNV-1a over the sixteen bytes of its id, written into the format for ever.
pub(crate) fn shard_of(client: Uuid, shards: usize) -> usize {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in client.into_bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
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
            ("taskchampion-00", true),
            ("taskchampion-63", true),
            ("taskchampion-000", false),
            ("taskchampion-0a", false),
            ("taskchampion-٠١", false),
            ("taskchampion", false),
            ("taskchampion00", false),
            ("automerge-00", false),
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
        let client = Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
        assert_eq!((shard_of(client, 1), shard_of(Uuid::nil(), 1)), (0, 0));
        let spread: Vec<_> = (0..8).map(|id| shard_of(Uuid::from_u128(id), 64)).collect();
        assert_eq!(spread, [37, 50, 63, 12, 25, 38, 51, 0]);
    }
}
