//! Errors: the kernel's, with its kinds, so that a caller has one vocabulary.

use seabed_kv::{Key, Tenant};

pub use seabed_kv::{Error, ErrorKind, Result};

/// A stored row that does not read as what its category says.
pub(crate) fn damaged(tenant: &Tenant, category: &str, key: &[u8]) -> Error {
    let message = format!(
        "the row {:?} of {category} is damaged; run `seabed verify` and restore from a backup",
        Key::raw(key)
    );
    Error::new(ErrorKind::Corrupt, message).in_tenant(tenant.id())
}

/// Nothing was applied, and the same request may succeed in a moment.
pub(crate) fn busy(tenant: &Tenant, message: &str) -> Error {
    Error::new(ErrorKind::Busy, message).in_tenant(tenant.id())
}
