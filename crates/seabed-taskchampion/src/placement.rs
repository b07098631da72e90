//! Where each row of this layer belongs in another store, which may have another number of shards. Pure.

use seabed_kv::staged::Staged;

use crate::inspect::{CATEGORIES, CHUNK, PENDING};
use crate::keys::{CLIENT, ClientRow, FORMAT, SHARDS, VERSION, VersionRow, read_client_key, read_pair_key};
use crate::shard::{SPREAD, shard_of};

/// What becomes of a row when its store is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// It goes into this tenant as it is, and before it the chunks of the value that it refers to, if any: the rows of
    /// [`CHUNK_CATEGORY`] whose keys begin with the value's id.
    Tenant {
        /// The id of the tenant.
        id: String,
        /// The value.
        staged: Option<Staged>,
    },
    /// It stays: the other store has such a row of its own, or it goes with the row that refers to it, or nobody needs it.
    Left,
    /// It is of no kind that this version knows, or its key is damaged: nobody can tell where it belongs.
    Unknown,
}

/// The category of the chunks of large values.
pub const CHUNK_CATEGORY: &str = CHUNK;

/// Where a row of one of this layer's tenants belongs in a store of that many shards ([`shard_count`](crate::shard_count)).
///
/// ```
/// use seabed_taskchampion::{Placement, place};
///
/// let shards = place(b"taskchampion.shards", b"", &[1, 0, 64], 1);
/// assert_eq!(shards, Placement::Left);
/// let parent = place(b"taskchampion.parent", &[7; 32], b"", 64);
/// assert_eq!(parent, Placement::Tenant { id: "taskchampion-53".to_owned(), staged: None });
/// assert_eq!(place(b"sds.meta", b"", b"", 64), Placement::Unknown);
/// ```
pub fn place(category: &[u8], key: &[u8], payload: &[u8], shards: u16) -> Placement {
    let Some(category) = CATEGORIES.into_iter().find(|ours| ours.as_bytes() == category) else {
        return Placement::Unknown;
    };
    if [FORMAT, SHARDS, CHUNK, PENDING].contains(&category) {
        return Placement::Left;
    }
    let client =
        if key.len() == 16 { read_client_key(key) } else { read_pair_key(key).map(|(client, _)| client) };
    let Some(client) = client else { return Placement::Unknown };
    // A row that does not read goes as it is: damage is for `verify` to tell.
    let staged = match category {
        CLIENT => ClientRow::from_bytes(payload).and_then(|row| row.snapshot?.staged()),
        VERSION => VersionRow::from_bytes(payload).and_then(|row| row.value.staged()),
        _ => None,
    };
    let shard = u16::try_from(shard_of(client, usize::from(shards))).unwrap_or(0);
    Placement::Tenant { id: SPREAD.tenant_id(shard), staged }
}

/// Whether rows of that category are there before the first client is.
pub fn is_bookkeeping(category: &[u8]) -> bool {
    [FORMAT, SHARDS].iter().any(|ours| ours.as_bytes() == category)
}
