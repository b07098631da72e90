//! An ordered, multi-tenant key-value kernel with conditional atomic batches and group commit.

pub mod backend;
mod batch;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod id;
mod key;
pub mod limits;
mod memory;
mod op;
mod scan;
#[cfg(any(feature = "sqlite", shuttle))]
mod scheduler;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod staged;
mod store;
mod sync;

pub use backend::{TenantReport, TenantStats};
pub use batch::{Batch, Check, Commit, Condition, Durability, Outcome, Refusal, Write};
pub use error::{Applied, Error, ErrorKind, Result};
pub use id::TenantId;
pub use key::{Key, KeyBuilder, KeyPart, KeyRange, KeyReader};
pub use op::Op;
pub use scan::{Page, Row, Scan, ScanSpec};
pub use store::{Snapshot, Store, Tenant};
