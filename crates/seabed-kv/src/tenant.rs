//! What callers read and write: a tenant, and views of it that do not change.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::backend::{Admission, Copied, TenantBackend, TenantReport, TenantStats, View};
use crate::op::pending;
use crate::{Batch, Durability, Error, KeyPart, KeyRange, Op, Outcome, Page, Scan, ScanSpec, TenantId};

/// An isolated ordered map with a commit sequence of its own (upstream: a job). Cheap to clone; every clone is the same tenant.
///
/// Every read sees every write that was acknowledged before it began. Writes take effect in the order of the calls, and
/// each is queued when the call returns: its [`Op`] may be dropped and the write still happens.
///
/// Every method answers `Closed` once the tenant was closed or dropped, or its store closed, and `Backend` or `Corrupt` when the
/// disk fails or holds what it must not. Categories, keys and payloads have the bounds of [`limits`](crate::limits). Dropping the
/// `Op` of a read is without effect. Each read and write is also on the [`Store`](crate::Store), by tenant id.
#[derive(Clone)]
pub struct Tenant {
    id: TenantId,
    pub(crate) backend: Arc<dyn TenantBackend>,
    /// Failures before the backend was asked, that nobody awaited.
    unobserved_failures: Arc<AtomicU64>,
}

impl Tenant {
    /// A tenant that its backend has opened.
    pub(crate) fn new(id: TenantId, backend: Arc<dyn TenantBackend>) -> Self {
        Self { id, backend, unobserved_failures: Arc::default() }
    }

    /// The id it was opened under.
    pub fn id(&self) -> &TenantId {
        &self.id
    }

    /// The payload of a row; `None` when there is none.
    pub fn get(&self, category: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Op<Option<Vec<u8>>> {
        self.backend.get(category.as_ref(), key.as_ref())
    }

    /// Whether a row exists, without reading its payload.
    pub fn exists(&self, category: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Op<bool> {
        self.backend.exists(category.as_ref(), key.as_ref())
    }

    /// How many rows of the category lie in the range.
    pub fn count(&self, category: impl AsRef<[u8]>, range: &KeyRange) -> Op<u64> {
        self.backend.count(category.as_ref(), range)
    }

    /// Reads rows in order, page by page; nothing is read before the first row is asked for.
    pub fn scan(&self, spec: ScanSpec) -> Scan {
        Scan::new(self.backend.clone(), spec)
    }

    /// One page of rows, and where to go on.
    pub fn scan_page(&self, spec: ScanSpec) -> Op<Page> {
        self.backend.scan_page(spec)
    }

    /// The categories that hold rows, in ascending order.
    pub fn categories(&self) -> Op<Vec<Vec<u8>>> {
        self.backend.categories()
    }

    /// A view that does not change, readable for five seconds ([`SNAPSHOT_AGE_MS_MAX`](crate::limits::SNAPSHOT_AGE_MS_MAX)).
    pub fn snapshot(&self) -> Op<Snapshot> {
        self.backend.snapshot().map(Snapshot)
    }

    /// Applies a batch. The request is queued when this returns: its `Op` may be dropped.
    ///
    /// # Errors
    /// Through the `Op`: `InvalidArgument` for a batch beyond a limit; `Busy` when more than
    /// [`MAILBOX_WAITING_MAX`](crate::limits::MAILBOX_WAITING_MAX) requests or
    /// [`MAILBOX_WAITING_BYTES_MAX`](crate::limits::MAILBOX_WAITING_BYTES_MAX) bytes wait; `Backend` with
    /// [`Applied::Unknown`](crate::Applied::Unknown) when the flush failed; `Closed`.
    pub fn apply(&self, batch: Batch, durability: Durability) -> Op<Outcome> {
        self.submit(batch, durability, Admission::Wait)
    }

    /// The same, but answers `Busy` rather than wait behind more than
    /// [`MAILBOX_REQUESTS_MAX`](crate::limits::MAILBOX_REQUESTS_MAX) requests or
    /// [`MAILBOX_BYTES_MAX`](crate::limits::MAILBOX_BYTES_MAX) bytes.
    ///
    /// # Errors
    /// Through the `Op`: as [`apply`](Tenant::apply), and `Busy`, after which nothing was applied.
    pub fn try_apply(&self, batch: Batch, durability: Durability) -> Op<Outcome> {
        self.submit(batch, durability, Admission::Try)
    }

    fn submit(&self, batch: Batch, durability: Durability, admission: Admission) -> Op<Outcome> {
        match batch.validate() {
            Ok(()) => self.backend.apply(batch, durability, admission),
            Err(error) => self.failed(error.in_batch(&batch)),
        }
    }

    /// A failure that is logged and counted when nobody awaits it, like those of the backend.
    fn failed<T>(&self, error: Error) -> Op<T> {
        let (completer, op) = pending(self.unobserved_failures.clone());
        completer.complete(Err(error.in_tenant(&self.id)));
        op
    }

    /// Inserts a row or replaces its payload, durably. Dropping the `Op` changes nothing, as with [`apply`](Tenant::apply).
    ///
    /// # Errors
    /// As [`apply`](Tenant::apply).
    pub fn put(
        &self,
        category: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
        payload: impl Into<Vec<u8>>,
    ) -> Op<()> {
        let mut batch = Batch::new();
        batch.put(category, key, payload);
        self.apply(batch, Durability::Durable).map(|_| ())
    }

    /// Inserts a row, durably, or replaces its payload by `payload` in the encoding that keys have: what
    /// [`KeyReader`](crate::KeyReader) takes apart again.
    ///
    /// ```
    /// # use seabed_kv::{KeyReader, Store};
    /// # let tenant = Store::memory().open("notes").wait()?;
    /// tenant.put_encoded("note", b"1", ("hello", 7_i64, true)).wait()?;
    /// let payload = tenant.get("note", b"1").wait()?.unwrap();
    /// let mut fields = KeyReader::new(&payload);
    /// assert_eq!((fields.str(), fields.int(), fields.bool()), (Some("hello"), Some(7), Some(true)));
    /// # Ok::<(), seabed_kv::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`apply`](Tenant::apply), and `InvalidArgument` for a text or bytes component longer than 65,535 bytes.
    pub fn put_encoded(
        &self,
        category: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
        payload: impl KeyPart,
    ) -> Op<()> {
        let mut batch = Batch::new();
        match batch.put_encoded(category, key, payload) {
            Ok(_) => self.apply(batch, Durability::Durable).map(|_| ()),
            Err(error) => self.failed(error),
        }
    }

    /// Removes a row, durably; answers whether it was there.
    ///
    /// # Errors
    /// As [`apply`](Tenant::apply).
    pub fn delete(&self, category: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Op<bool> {
        let mut batch = Batch::new();
        batch.delete(category, key);
        self.apply(batch, Durability::Durable)
            .map(|outcome| matches!(outcome, Outcome::Applied(commit) if commit.deleted > 0))
    }

    /// Removes every row of the category whose key begins with `prefix`, durably; answers how many there were. An empty
    /// prefix is the whole category.
    ///
    /// # Errors
    /// As [`apply`](Tenant::apply).
    pub fn delete_prefix(&self, category: impl AsRef<[u8]>, prefix: impl AsRef<[u8]>) -> Op<u64> {
        let mut batch = Batch::new();
        batch.delete_prefix(category, prefix);
        self.apply(batch, Durability::Durable).map(|outcome| match outcome {
            Outcome::Applied(commit) => commit.deleted,
            Outcome::Refused(_) => 0,
        })
    }

    /// Makes every commit acknowledged so far durable, and every write queued so far; reads that start later see them all.
    ///
    /// # Errors
    /// As [`apply`](Tenant::apply).
    pub fn flush(&self) -> Op<()> {
        self.backend.flush()
    }

    /// The largest payload that is stored beside its key, for keys and categories of at most 50 bytes together. Cut larger
    /// values into chunks of it: [`staged`](crate::staged) does.
    pub fn inline_limit(&self) -> usize {
        self.backend.inline_limit()
    }

    /// Checks the structure and reads every row. Takes about one read of the file, on the caller's thread.
    pub fn verify(&self) -> Op<TenantReport> {
        self.backend.verify()
    }

    /// Copies the tenant, as it is at one of its commit boundaries, into the file `to`, which must not exist yet. The copy holds
    /// everything that was acknowledged before the call; writes go on meanwhile, and later ones may be in it. It is one plain SQLite
    /// file of the same format, flushed with its entry in its directory before this answers; after an error there is none.
    ///
    /// With `previous`, an earlier copy, a tenant that has not changed since is not kept twice: when the new copy is the same to the
    /// byte it is removed unflushed, and the answer is [`Unchanged`](Copied::Unchanged).
    ///
    /// Runs on the caller's thread, one copy of a tenant after another. A copy may hold Relaxed commits that a power cut would still take from the tenant itself.
    ///
    /// # Errors
    /// `Unsupported` where tenants are no files; `InvalidArgument` when `to` exists; `Backend` when it cannot be written, or the tenant cannot be read.
    pub fn backup(&self, to: impl AsRef<Path>, previous: Option<&Path>) -> Op<Copied> {
        self.backend.backup(to.as_ref(), previous)
    }

    /// What the tenant takes now.
    pub fn stats(&self) -> Op<TenantStats> {
        let unobserved_failures = self.unobserved_failures.load(Ordering::Relaxed);
        self.backend.stats().map(move |mut stats| {
            stats.unobserved_failures += unobserved_failures;
            stats
        })
    }
}

impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tenant").field(&self.id).finish()
    }
}

/// A view of a tenant that does not change. It pins the log, so it answers Timeout when it is older than
/// [`SNAPSHOT_AGE_MS_MAX`](crate::limits::SNAPSHOT_AGE_MS_MAX): take another one. With its tenant closed it answers Closed.
#[derive(Clone)]
pub struct Snapshot(Arc<dyn View>);

impl Snapshot {
    /// The payload of a row; `None` when there is none.
    pub fn get(&self, category: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Op<Option<Vec<u8>>> {
        self.0.get(category.as_ref(), key.as_ref())
    }

    /// Whether a row exists, without reading its payload.
    pub fn exists(&self, category: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Op<bool> {
        self.0.exists(category.as_ref(), key.as_ref())
    }

    /// How many rows of the category lie in the range.
    pub fn count(&self, category: impl AsRef<[u8]>, range: &KeyRange) -> Op<u64> {
        self.0.count(category.as_ref(), range)
    }

    /// Reads rows in order, page by page, all of them from this view.
    pub fn scan(&self, spec: ScanSpec) -> Scan {
        Scan::new(self.0.clone(), spec)
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Snapshot")
    }
}
