//! What callers hold: a store and its tenants.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::backend::{Admission, Backend, Copied, TenantBackend, TenantReport, TenantStats, View};
use crate::memory::MemoryBackend;
use crate::sync::{Mutex, lock};
use crate::{
    Batch, Durability, Error, ErrorKind, KeyRange, Op, Outcome, Page, Result, Scan, ScanSpec, TenantId,
};

/// A root that holds tenants: a directory, or memory. Cheap to clone.
///
/// ```
/// use seabed_kv::{Durability, KeyRange, ScanSpec, Store};
///
/// let store = Store::memory();
/// let tenant = store.open("notes").wait()?;
/// tenant.put("note", b"1", b"hello").wait()?;
/// assert_eq!(tenant.get("note", b"1").wait()?, Some(b"hello".to_vec()));
/// let rows = tenant.scan(ScanSpec::new("note", KeyRange::all())).collect().wait()?;
/// assert_eq!(rows.len(), 1);
/// store.close().wait()?;
/// # Ok::<(), seabed_kv::Error>(())
/// ```
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    backend: Arc<dyn Backend>,
    open: Mutex<Registry>,
}

#[derive(Default)]
struct Registry {
    tenants: BTreeMap<TenantId, Tenant>,
    closed: bool,
}

impl Store {
    /// A store in memory: nothing survives the process, and Durable means nothing more than Relaxed.
    pub fn memory() -> Self {
        Self::with_backend(Arc::new(MemoryBackend::default()))
    }

    /// A store in the directory `root`, a SQLite file a tenant. Nothing is touched before the first tenant is opened.
    ///
    /// ```
    /// # use seabed_kv::Store;
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let root = directory.path().join("data");
    /// let store = Store::sqlite(&root)?;
    /// let tenant = store.open("notes").wait()?;
    /// tenant.put("note", b"1", b"survives a power cut").wait()?;
    /// store.close().wait()?;
    /// assert!(root.join("notes.db").exists());
    /// # Ok::<(), seabed_kv::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument` for a root that is empty, a file, or below a file.
    #[cfg(feature = "sqlite")]
    pub fn sqlite(root: impl AsRef<Path>) -> Result<Self> {
        let backend = crate::sqlite::SqliteBackend::new(root.as_ref())?;
        Ok(Self::with_backend(Arc::new(backend)))
    }

    /// The files of tenants that nobody writes, such as [copies](Tenant::backup), to be read and verified where they lie: nothing is
    /// written, locked or made beside them. Every write is refused as Unsupported.
    ///
    /// ```
    /// # use seabed_kv::Store;
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let store = Store::sqlite(directory.path().join("data"))?;
    /// # let copy = directory.path().join("copy");
    /// let tenant = store.open("notes").wait()?;
    /// tenant.put("note", b"1", b"hello").wait()?;
    /// tenant.backup(&copy, None).wait()?;
    ///
    /// let copies = Store::sqlite_files([("notes".parse()?, copy)]);
    /// let report = copies.open("notes").wait()?.verify().wait()?;
    /// assert_eq!((report.rows, report.findings.len()), (1, 0));
    /// # store.close().wait()?;
    /// # Ok::<(), seabed_kv::Error>(())
    /// ```
    #[cfg(feature = "sqlite")]
    pub fn sqlite_files(files: impl IntoIterator<Item = (TenantId, std::path::PathBuf)>) -> Self {
        Self::with_backend(Arc::new(crate::sqlite::SqliteFiles::new(files)))
    }

    /// Becomes the owner of the root now, instead of with the first opened tenant: makes the directory and takes its `LOCK`.
    ///
    /// # Errors
    /// `Busy` when another process owns it, `Unsupported` on a network file system, `Backend` when it cannot be made.
    pub fn own(&self) -> Result<()> {
        self.0.backend.own()
    }

    /// A store over a backend of any kind.
    pub fn with_backend(backend: Arc<dyn Backend>) -> Self {
        Self(Arc::new(Inner { backend, open: Mutex::default() }))
    }

    /// Opens a tenant, creating it when it is not there; a tenant that is open already is the same one.
    ///
    /// With the SQLite backend this does its 0.1 to 2 ms of file system work on the caller's thread.
    ///
    /// # Errors
    /// `InvalidArgument` for an id that [`TenantId::new`] refuses, `Closed` after [`close`](Store::close), `Unsupported` or `Corrupt` for a
    /// file that is not ours, which is left untouched, `Busy` when another process owns the root, `Backend` when files cannot be
    /// made.
    pub fn open(&self, id: impl AsRef<str>) -> Op<Tenant> {
        Op::ready(TenantId::new(id).and_then(|id| self.open_tenant(id)))
    }

    fn open_tenant(&self, id: TenantId) -> Result<Tenant> {
        // The registry is locked meanwhile, so that a tenant is never opened twice.
        let mut registry = lock(&self.0.open);
        if registry.closed {
            return Err(Error::new(ErrorKind::Closed, "the store is closed; make a new one"));
        }
        if let Some(tenant) = registry.tenants.get(&id) {
            return Ok(tenant.clone());
        }
        let tenant = Tenant { id: id.clone(), backend: self.0.backend.open(&id).wait()? };
        registry.tenants.insert(id, tenant.clone());
        Ok(tenant)
    }

    /// The tenant of that id, when the program has opened it.
    ///
    /// # Errors
    /// `InvalidArgument` for an id that [`TenantId::new`] refuses, `TenantNotFound` when it is not open. The disk is not
    /// touched.
    pub fn tenant(&self, id: impl AsRef<str>) -> Result<Tenant> {
        let id = TenantId::new(id)?;
        let tenant = lock(&self.0.open).tenants.get(&id).cloned();
        tenant.ok_or_else(|| {
            Error::new(ErrorKind::TenantNotFound, "the tenant is not open; open it first").in_tenant(&id)
        })
    }

    /// Every tenant that exists, open or not, in ascending order of ids.
    pub fn list(&self) -> Op<Vec<TenantId>> {
        self.0.backend.list()
    }

    /// Applies what is queued for a tenant, closes it and keeps its data. Ok when it is not open.
    ///
    /// # Errors
    /// `InvalidArgument` for an id that [`TenantId::new`] refuses, `Backend` when the last flush failed.
    pub fn close_tenant(&self, id: impl AsRef<str>) -> Op<()> {
        match TenantId::new(id) {
            Ok(id) => self.close_open(&id),
            Err(error) => Op::ready(Err(error)),
        }
    }

    fn close_open(&self, id: &TenantId) -> Op<()> {
        let tenant = lock(&self.0.open).tenants.remove(id);
        tenant.map_or_else(|| Op::ready(Ok(())), |tenant| tenant.backend.close())
    }

    /// Closes a tenant and removes it with everything it holds. Ok when it does not exist.
    ///
    /// # Errors
    /// `InvalidArgument` for an id that [`TenantId::new`] refuses, `Backend` when an existing file cannot be removed.
    pub fn drop_tenant(&self, id: impl AsRef<str>) -> Op<()> {
        let id = match TenantId::new(id) {
            Ok(id) => id,
            Err(error) => return Op::ready(Err(error)),
        };
        let close = self.close_open(&id);
        let store = self.clone();
        Op::from_future(async move {
            // What a tenant about to be removed could not flush is of no concern.
            if let Err(error) = close.await {
                tracing::warn!(%error, "closing a tenant before removing it failed");
            }
            store.0.backend.remove(&id).await
        })
    }

    /// Closes every tenant and the store: what is queued is applied and made durable first. Later calls answer Closed. Twice is
    /// fine.
    ///
    /// # Errors
    /// Through the `Op`: the first failure of a tenant's last flush; the others are closed all the same.
    pub fn close(&self) -> Op<()> {
        let tenants = {
            let mut open = lock(&self.0.open);
            open.closed = true;
            std::mem::take(&mut open.tenants)
        };
        let closing: Vec<_> = tenants.into_values().map(|tenant| tenant.backend.close()).collect();
        let backend = self.0.backend.clone();
        Op::from_future(async move {
            let mut first_failure = Ok(());
            for close in closing {
                first_failure = first_failure.and(close.await);
            }
            first_failure.and(backend.close().await)
        })
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.0.backend).finish()
    }
}

/// An isolated ordered map with a commit sequence of its own (upstream: a job). Cheap to clone; every clone is the same tenant.
///
/// Every read sees every write that was acknowledged before it began. Writes take effect in the order of the calls, and
/// each is queued when the call returns: its [`Op`] may be dropped and the write still happens.
#[derive(Clone)]
pub struct Tenant {
    id: TenantId,
    backend: Arc<dyn TenantBackend>,
}

impl Tenant {
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

    /// Reads rows in order, page by page.
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

    /// Applies a batch. When the mailbox is full the request waits for room, in the order of the calls, and dropping its `Op`
    /// until then withdraws it.
    ///
    /// # Errors
    /// Through the `Op`: `InvalidArgument` for a batch beyond a limit; `Backend` with
    /// [`Applied::Unknown`](crate::Applied::Unknown) when the flush failed; `Closed`.
    pub fn apply(&self, batch: Batch, durability: Durability) -> Op<Outcome> {
        self.submit(batch, durability, Admission::Wait)
    }

    /// The same, but answers `Busy` when the mailbox is full.
    ///
    /// # Errors
    /// Through the `Op`: as [`apply`](Tenant::apply), and `Busy`, after which nothing was applied.
    pub fn try_apply(&self, batch: Batch, durability: Durability) -> Op<Outcome> {
        self.submit(batch, durability, Admission::Try)
    }

    fn submit(&self, batch: Batch, durability: Durability, admission: Admission) -> Op<Outcome> {
        match batch.validate() {
            Ok(()) => self.backend.apply(batch, durability, admission),
            Err(error) => Op::ready(Err(error.in_tenant(&self.id))),
        }
    }

    /// Inserts a row or replaces its payload, durably.
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

    /// Removes a row, durably; answers whether it was there.
    pub fn delete(&self, category: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Op<bool> {
        let mut batch = Batch::new();
        batch.delete(category, key);
        self.apply(batch, Durability::Durable)
            .map(|outcome| matches!(outcome, Outcome::Applied(commit) if commit.deleted > 0))
    }

    /// Removes every row of the category whose key begins with `prefix`, durably; answers how many there were.
    pub fn delete_prefix(&self, category: impl AsRef<[u8]>, prefix: impl AsRef<[u8]>) -> Op<u64> {
        let mut batch = Batch::new();
        batch.delete_prefix(category, prefix);
        self.apply(batch, Durability::Durable).map(|outcome| match outcome {
            Outcome::Applied(commit) => commit.deleted,
            Outcome::Refused(_) => 0,
        })
    }

    /// Makes every commit acknowledged so far durable, and every write queued so far.
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
    /// Runs on the caller's thread. A copy may hold Relaxed commits that a power cut would still take from the tenant itself.
    ///
    /// # Errors
    /// `Unsupported` where tenants are no files; `Busy` while another backup of this tenant runs; `InvalidArgument` when `to`
    /// exists; `Backend` when it cannot be written, or the tenant cannot be read.
    pub fn backup(&self, to: impl AsRef<Path>, previous: Option<&Path>) -> Op<Copied> {
        self.backend.backup(to.as_ref(), previous)
    }

    /// What the tenant takes now.
    pub fn stats(&self) -> Op<TenantStats> {
        self.backend.stats()
    }
}

impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tenant").field(&self.id).finish()
    }
}

/// A view of a tenant that does not change. It pins the log, so it answers Timeout when it is older than
/// [`SNAPSHOT_AGE_MS_MAX`](crate::limits::SNAPSHOT_AGE_MS_MAX): take another one.
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
