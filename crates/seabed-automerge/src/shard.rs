//! Shards: the tenants among which documents are spread.

use seabed_kv::spread::Spread;
use seabed_kv::staged::{Staged, Staging, Sweep};
use seabed_kv::{Store, Tenant};

use crate::DocumentId;
use crate::error::{Result, damaged};
use crate::keys::{
    DOCUMENT, FORMAT, FORMAT_VERSION, IDENTITY, INLINE_RESERVE_BYTES, LAYER, SHARDS, Stored, document_key,
};
use crate::meta::Meta;

/// The layer, as its tenants show it.
pub const SPREAD: Spread =
    Spread { layer: LAYER, version: FORMAT_VERSION, data: "Automerge documents", item: "document" };

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

    /// Removes what writers have left, and completes deletions: while nobody else is at it.
    pub(crate) async fn tidy(&self) -> Result<()> {
        self.staging.sweep(Sweep::Everything).await?;
        self.finish_deletions().await
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

/// Opens every shard of the store, making those of a new store.
pub(crate) async fn open(store: &Store) -> Result<Vec<Shard>> {
    Ok(SPREAD.open(store).await?.into_iter().map(Shard::new).collect())
}

/// Whether this layer keeps its data in the tenant of that id: `automerge-` and two digits.
///
/// ```
/// assert!(seabed_automerge::is_ours("automerge-00"));
/// assert!(!seabed_automerge::is_ours("automerge-0") && !seabed_automerge::is_ours("sds"));
/// ```
pub fn is_ours(tenant_id: &str) -> bool {
    SPREAD.number(tenant_id).is_some()
}

/// Whether rows of that category are in the layer's tenants before the first document is.
///
/// ```
/// assert!(seabed_automerge::is_bookkeeping(b"automerge.format"));
/// assert!(!seabed_automerge::is_bookkeeping(b"automerge.document"));
/// ```
pub fn is_bookkeeping(category: &[u8]) -> bool {
    [FORMAT, SHARDS, IDENTITY].iter().any(|ours| ours.as_bytes() == category)
}

/// Which of `shards` a document's rows are in.
pub(crate) fn shard_of(document: DocumentId, shards: usize) -> usize {
    seabed_kv::spread::shard_of(document.as_bytes(), shards)
}
