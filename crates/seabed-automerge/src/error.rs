//! Errors: the kernel's, with its kinds, so that a caller has one vocabulary.

use std::fmt::Write as _;
use std::ops::Range;

use seabed_kv::Tenant;

pub use seabed_kv::{Error, ErrorKind, Result};

use crate::limits::DOCUMENT_BYTES_MAX;

/// Which bytes of a key are not told: most of the document's id, which it begins with, because whoever knows it may ask for it.
const KEY_BYTES_HIDDEN: Range<usize> = 4..16;

/// A stored row that does not read as what its category says.
pub(crate) fn damaged(tenant: &Tenant, category: &str, key: &[u8]) -> Error {
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
