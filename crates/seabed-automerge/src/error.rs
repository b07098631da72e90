//! Errors: the kernel's, with its kinds, so that a caller has one vocabulary.

use seabed_kv::Tenant;

pub(crate) use seabed_kv::spread::damaged;
pub use seabed_kv::{Error, ErrorKind, Result};

use crate::limits::DOCUMENT_BYTES_MAX;

/// Nothing was applied, and the same request may succeed in a moment.
pub(crate) fn busy(tenant: &Tenant, message: &str) -> Error {
    Error::new(ErrorKind::Busy, message).in_tenant(tenant.id())
}

/// An argument that can never be right.
pub(crate) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

pub(crate) fn too_large(tenant: &Tenant, bytes: u64) -> Error {
    let message = format!(
        "the document would take {bytes} bytes, more than the {DOCUMENT_BYTES_MAX} allowed (DOCUMENT_BYTES_MAX); compact it"
    );
    invalid(message).in_tenant(tenant.id())
}
