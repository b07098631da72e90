//! What a backend does for the kernel. Obligations:
//!
//! 1. A batch is applied whole or not at all, its checks all before its writes, one batch of a tenant after another, in the
//!    order of the calls.
//! 2. A Durable batch is acknowledged only when it, and every commit before it, survives a power cut; a refusal only when what
//!    it was refused by does.
//! 3. What was acknowledged is seen by every read that starts later, from any thread.
//! 4. Durable writes are never seen by a read before they are durable.
//! 5. No future needs an ambient runtime: a backend that needs one owns it. Dropping any [`Op`] is safe.
//! 6. A failed commit answers Unknown unless the backend knows that nothing was applied.
//! 7. Nothing holds a transaction open between two calls, except a snapshot, and that at most for its age.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::{Batch, Durability, Error, ErrorKind, KeyRange, Op, Outcome, Page, ScanSpec, TenantId};

/// A place that holds tenants.
pub trait Backend: Send + Sync + fmt::Debug {
    /// Becomes the owner of the place now, instead of with the first opened tenant.
    ///
    /// # Errors
    /// `Busy` when another process owns it, `Unsupported` where it cannot be owned, `Backend` when it cannot be made.
    fn own(&self) -> Op<()>;

    /// Whether several processes may own the place at once. Then what one of them reads another may change at any time.
    fn is_shared(&self) -> bool {
        false
    }

    /// A way to tell the other processes that share the place what has changed; `None` where there are none, or no way. Each call opens
    /// another one.
    fn hints(&self) -> Option<Arc<dyn Hints>> {
        None
    }

    /// Opens a tenant, creating it when it is not there. The caller opens a tenant once at a time.
    fn open(&self, id: &TenantId) -> Op<Arc<dyn TenantBackend>>;

    /// Every tenant that exists, in ascending order of ids.
    fn list(&self) -> Op<Vec<TenantId>>;

    /// Removes a tenant that is closed, with everything it holds; Ok when there is none.
    fn remove(&self, id: &TenantId) -> Op<()>;

    /// Closes the backend, after its tenants were closed. Twice is fine.
    fn close(&self) -> Op<()>;
}

/// What processes that share a store tell each other, so that they look sooner. Any hint may be lost, and none is the truth: whoever relies
/// on something looks.
pub trait Hints: Send + Sync + fmt::Debug {
    /// Tells all others, soon. To be called after what it speaks of is durable. A hint longer than
    /// [`HINT_BYTES_MAX`](crate::limits::HINT_BYTES_MAX) is dropped, and one for which there is no room.
    fn tell(&self, hint: &[u8]);

    /// What others have told, at least one hint; anybody may have who may connect to the database.
    ///
    /// # Errors
    /// `Closed` once the store is.
    fn hear(&self) -> Op<Vec<Vec<u8>>>;
}

/// Reads of one view of a tenant: of what is committed now, or of a snapshot.
pub trait View: Send + Sync + fmt::Debug {
    /// The payload of a row; `None` when there is none.
    fn get(&self, category: &[u8], key: &[u8]) -> Op<Option<Vec<u8>>>;

    /// Whether a row exists, without reading its payload.
    fn exists(&self, category: &[u8], key: &[u8]) -> Op<bool>;

    /// How many rows of the category lie in the range.
    fn count(&self, category: &[u8], range: &KeyRange) -> Op<u64>;

    /// The first page of a scan, at most [`PAGE_ROWS_MAX`](crate::limits::PAGE_ROWS_MAX) rows and little more than
    /// [`PAGE_BYTES_MAX`](crate::limits::PAGE_BYTES_MAX) bytes.
    fn scan_page(&self, spec: ScanSpec) -> Op<Page>;

    /// The categories that hold rows, in ascending order.
    fn categories(&self) -> Op<Vec<Vec<u8>>>;
}

/// Whether a write waits behind a long queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Waits behind the others.
    Wait,
    /// Is told Busy.
    Try,
}

/// One open tenant.
pub trait TenantBackend: View {
    /// Applies a batch that is within the limits. The request is queued before this returns.
    fn apply(&self, batch: Batch, durability: Durability, admission: Admission) -> Op<Outcome>;

    /// Makes every commit acknowledged so far durable.
    fn flush(&self) -> Op<()>;

    /// A view that does not change, for at most [`SNAPSHOT_AGE_MS_MAX`](crate::limits::SNAPSHOT_AGE_MS_MAX).
    fn snapshot(&self) -> Op<Arc<dyn View>>;

    /// The largest payload that is stored beside its key, for keys and categories of at most 50 bytes together: what layers
    /// cut larger values into.
    fn inline_limit(&self) -> usize;

    /// Checks everything that can be checked and counts what it examined.
    fn verify(&self) -> Op<TenantReport>;

    /// Copies the tenant into a new file, as [`Tenant::backup`](crate::Tenant::backup) says. Unsupported unless the backend does it.
    fn backup(&self, to: &Path, previous: Option<&Path>) -> Op<Copied> {
        let _ = (to, previous);
        let message = "this backend keeps its tenants in no files, so there is nothing to copy";
        Op::ready(Err(Error::new(ErrorKind::Unsupported, message)))
    }

    /// What the tenant takes now.
    fn stats(&self) -> Op<TenantStats>;

    /// Applies what is queued, makes it durable and releases the tenant's resources. Later calls answer Closed. A second close waits
    /// for the first.
    fn close(&self) -> Op<()>;

    /// Whether it was closed, or has failed beyond repair: then the store opens the tenant anew.
    fn is_closed(&self) -> bool;
}

/// What [`Tenant::verify`](crate::Tenant::verify) examined and found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantReport {
    /// How many rows were read.
    pub rows: u64,
    /// How many bytes of categories, keys and payloads they hold.
    pub bytes: u64,
    /// What is wrong, a sentence each; empty for a sound tenant.
    pub findings: Vec<String>,
}

/// What [`Tenant::backup`](crate::Tenant::backup) did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// The copy is in its file, and on the disk.
    Written,
    /// The copy would have been the previous one, to the byte; there is no new file.
    Unchanged,
}

/// What a tenant takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TenantStats {
    /// Bytes of its data, with free pages.
    pub data_bytes: u64,
    /// Bytes of its log, waiting for a checkpoint.
    pub log_bytes: u64,
    /// Batches committed since it was opened.
    pub commits: u64,
    /// Groups committed since it was opened: batches a group is what group commit gains.
    pub groups: u64,
    /// Failed writes whose `Op` had been dropped, since it was opened.
    pub unobserved_failures: u64,
}
