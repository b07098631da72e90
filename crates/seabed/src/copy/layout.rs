//! Where the rows of a copy go: shards are recomputed, and what a store keeps for itself stays.

use seabed_kv::{Error, ErrorKind, Key};
use seabed_taskchampion::Placement;

use crate::own;

/// Whether a store that holds nothing yet may have rows of that category, which are then its own.
pub(super) fn is_bookkeeping(tenant: &str, category: &[u8]) -> bool {
    if tenant == own::TENANT {
        return own::is_bookkeeping(category);
    }
    seabed_taskchampion::is_ours(tenant) && seabed_taskchampion::is_bookkeeping(category)
}

/// Whether rows of that category are in a store that was served and never had a document. They belong to documents, and are copied with them.
pub(super) fn is_of_documents(tenant: &str, category: &[u8]) -> bool {
    seabed_automerge::is_ours(tenant) && seabed_automerge::is_bookkeeping(category)
}

/// Where rows go.
pub(super) struct Layout {
    pub(super) shards: Option<u16>,
}

impl Layout {
    /// Where a row belongs; `None` for one that stays.
    pub(super) fn place(
        &self,
        tenant: &str,
        category: &[u8],
        key: &Key,
        payload: &[u8],
    ) -> Result<Option<Placed>, Error> {
        if let (true, Some(shards)) = (seabed_taskchampion::is_ours(tenant), self.shards) {
            return match seabed_taskchampion::place(category, key.as_bytes(), payload, shards) {
                Placement::Tenant { id, staged } => {
                    Ok(Some(Placed { tenant: id, staged: staged.map(|value| value.id) }))
                }
                Placement::Left => Ok(None),
                Placement::Unknown => {
                    let category = category.escape_ascii();
                    let message = format!(
                        "a row of {category} is of no kind that this version knows, or damaged; `seabed verify` tells more"
                    );
                    Err(Error::new(ErrorKind::Unsupported, message).in_tenant(&tenant.parse()?))
                }
            };
        }
        Ok((!is_bookkeeping(tenant, category)).then(|| Placed { tenant: tenant.to_owned(), staged: None }))
    }
}

/// Where a row belongs: in this tenant, and before it the chunks of the value of that id.
pub(super) struct Placed {
    pub(super) tenant: String,
    pub(super) staged: Option<[u8; 16]>,
}
