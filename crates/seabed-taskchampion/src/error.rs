//! Errors: the kernel's, with its kinds, so that a caller has one vocabulary.

use std::fmt::Write as _;

use seabed_kv::Tenant;

pub use seabed_kv::{Error, ErrorKind, Result};

/// How many bytes of a key are a client's id, and how many of those are told: the id is the credential.
const CLIENT_BYTES: usize = 16;
const CLIENT_BYTES_TOLD: usize = 4;

/// A stored row that does not read as what its category says.
pub(crate) fn damaged(tenant: &Tenant, category: &str, key: &[u8]) -> Error {
    let mut message = String::from("the row ");
    for (position, byte) in key.iter().enumerate() {
        // Writing to a string never fails.
        let _ = match position {
            CLIENT_BYTES_TOLD => write!(message, "..."),
            CLIENT_BYTES_TOLD..CLIENT_BYTES => Ok(()),
            _ => write!(message, "{byte:02x}"),
        };
    }
    let _ = write!(message, " of {category} is damaged; run `seabed verify` and restore from a backup");
    Error::new(ErrorKind::Corrupt, message).in_tenant(tenant.id())
}

/// Nothing was applied, and the same request may succeed in a moment.
pub(crate) fn busy(tenant: &Tenant, message: &str) -> Error {
    Error::new(ErrorKind::Busy, message).in_tenant(tenant.id())
}
