//! Errors: the kernel's, with its kinds, so that a caller has one vocabulary.

use seabed_kv::Tenant;

pub(crate) use seabed_kv::spread::damaged;
pub use seabed_kv::{Error, ErrorKind, Result};

/// Nothing was applied, and the same request may succeed in a moment.
pub(crate) fn busy(tenant: &Tenant, message: &str) -> Error {
    Error::new(ErrorKind::Busy, message).in_tenant(tenant.id())
}
