//! What callers hold: a store and its tenants.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use crate::backend::{Admission, Backend, Copied, TenantBackend, TenantReport, TenantStats, View};
use crate::ending::Ending;
use crate::memory::MemoryBackend;
use crate::op::pending;
use crate::sync::{Mutex, MutexGuard, lock};
use crate::{
    Batch, Durability, Error, ErrorKind, KeyPart, KeyRange, Op, Outcome, Page, Result, Scan, ScanSpec,
    TenantId,
};

/// A root that holds tenants: a directory, or memory (upstream: Persistency). Cheap to clone; every clone is the same store.
///
/// A store that is dropped without [`close`](Store::close) applies what is queued all the same, on its writer threads; only a
/// close that is awaited tells whether it reached the disk.
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
    registry: Mutex<Registry>,
}

#[derive(Default)]
struct Registry {
    tenants: BTreeMap<TenantId, Entry>,
    /// Set by the first close.
    closing: Option<Arc<Ending>>,
}

/// What the store knows of a tenant that the program has opened.
enum Entry {
    Open(Tenant),
    /// Being opened, by a backend that takes its time: who opens it waits, so that a tenant is never opened twice.
    Opening(Arc<Opening>),
    /// Being closed or dropped: who opens it waits, too.
    Leaving(Arc<Ending>),
}

/// A tenant on its way.
struct Opening {
    ending: Arc<Ending>,
    /// What came of it.
    tenant: Arc<Mutex<Option<Tenant>>>,
}

impl Opening {
    fn new(id: TenantId, backend: Op<Arc<dyn TenantBackend>>) -> Arc<Self> {
        let tenant = Arc::new(Mutex::new(None));
        let opened = tenant.clone();
        let ending = Ending::new(async move {
            let backend = backend.await?;
            *lock(&opened) = Some(Tenant { id, backend, unobserved_failures: Arc::default() });
            Ok(())
        });
        Arc::new(Self { ending, tenant })
    }
}

impl Registry {
    fn require_open(&self) -> Result<()> {
        match self.closing {
            None => Ok(()),
            Some(_) => Err(Error::new(ErrorKind::Closed, "the store is closed; make a new one")),
        }
    }
}

impl Registry {
    /// Notes what came of an opening that is over: whoever began it may have gone.
    fn settle(&mut self, id: &TenantId) {
        let Some(Entry::Opening(opening)) = self.tenants.get(id) else { return };
        let opening = opening.clone();
        if opening.ending.begin().is_ready() {
            match lock(&opening.tenant).take() {
                Some(tenant) => self.tenants.insert(id.clone(), Entry::Open(tenant)),
                None => self.tenants.remove(id),
            };
        }
    }
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
        Self::sqlite_with(root, crate::sqlite::SqliteOptions::default())
    }

    /// The same, for those with thousands of tenants.
    ///
    /// ```
    /// use seabed_kv::Store;
    /// use seabed_kv::sqlite::SqliteOptions;
    ///
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let root = directory.path();
    /// let store = Store::sqlite_with(root, SqliteOptions { open_tenants_max: 2, ..SqliteOptions::default() })?;
    /// let tenants: Vec<_> = (0..20).map(|number| store.open(format!("t{number}")).wait()).collect::<Result<_, _>>()?;
    /// // Each is open for the program; two of them have their files open.
    /// for tenant in &tenants {
    ///     tenant.put("note", b"1", tenant.id().as_str()).wait()?;
    /// }
    /// assert_eq!(tenants[0].get("note", b"1").wait()?, Some(b"t0".to_vec()));
    /// store.close().wait()?;
    /// # Ok::<(), seabed_kv::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`sqlite`](Store::sqlite).
    #[cfg(feature = "sqlite")]
    pub fn sqlite_with(root: impl AsRef<Path>, options: crate::sqlite::SqliteOptions) -> Result<Self> {
        let backend = crate::sqlite::SqliteBackend::new(root.as_ref(), options)?;
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
    /// `Busy` when another process owns it, `Unsupported` on a network file system, `Backend` when it cannot be made, `Closed` after
    /// [`close`](Store::close).
    pub fn own(&self) -> Result<()> {
        let owned = {
            let registry = lock(&self.0.registry);
            registry.require_open()?;
            self.0.backend.own()
        };
        // A server may take its time; nobody else waits for it.
        owned.wait()
    }

    /// Whether other processes may own this store at the same time, as with a database: what this one has not read just now may be
    /// another by now, and what was begun and not ended may be somebody else's work. A directory has one owner, and memory too.
    ///
    /// ```
    /// assert!(!seabed_kv::Store::memory().is_shared());
    /// ```
    pub fn is_shared(&self) -> bool {
        self.0.backend.is_shared()
    }

    /// A store in a PostgreSQL database, which any number of processes may share: `postgres://USER:PASSWORD@HOST:PORT/DATABASE`. With
    /// `postgres+portable://..` it keeps to what other databases of that protocol document, too. Nothing is touched before the first
    /// tenant is opened.
    ///
    /// Names outside this machine are reached with TLS, unless the address says `?sslmode=disable`.
    ///
    /// ```no_run
    /// # use seabed_kv::Store;
    /// let store = Store::postgres("postgres://seabed:secret@db.example.org/seabed")?;
    /// let tenant = store.open("notes").wait()?;
    /// tenant.put("note", b"1", b"survives a power cut").wait()?;
    /// store.close().wait()?;
    /// # Ok::<(), seabed_kv::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument` for an address that is malformed, `Backend` when threads cannot be started.
    #[cfg(feature = "postgres")]
    pub fn postgres(url: &str) -> Result<Self> {
        Self::postgres_with(url, crate::postgres::PostgresOptions::default())
    }

    /// The same, for those with a schema of their own or many connections.
    ///
    /// ```no_run
    /// use seabed_kv::Store;
    /// use seabed_kv::postgres::PostgresOptions;
    ///
    /// let options = PostgresOptions { schema: "staging".to_owned(), ..PostgresOptions::default() };
    /// let store = Store::postgres_with("postgres://seabed@%2Frun%2Fpostgresql/seabed", options)?;
    /// # Ok::<(), seabed_kv::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`postgres`](Store::postgres).
    #[cfg(feature = "postgres")]
    pub fn postgres_with(url: &str, options: crate::postgres::PostgresOptions) -> Result<Self> {
        Ok(Self::with_backend(Arc::new(crate::postgres::PostgresBackend::new(url, options)?)))
    }

    /// A store over a backend of any kind.
    pub fn with_backend(backend: Arc<dyn Backend>) -> Self {
        Self(Arc::new(Inner { backend, registry: Mutex::default() }))
    }

    /// Opens a tenant, creating it when it is not there; a tenant that is open already is the same one.
    ///
    /// With the SQLite backend this does its 0.1 to 2 ms of file system work on the caller's thread. While the tenant is being
    /// closed or dropped it waits until that is over, and then opens what is left. A dropped `Op` has opened the tenant or not.
    ///
    /// # Errors
    /// `InvalidArgument` for an id that [`TenantId::new`] refuses, `Closed` after [`close`](Store::close), `Unsupported` or `Corrupt` for a
    /// file that is not ours, which is left untouched, `Busy` when another process owns the root, `Backend` when files cannot be
    /// made.
    pub fn open(&self, id: impl AsRef<str>) -> Op<Tenant> {
        match TenantId::new(id) {
            Ok(id) => self.open_checked(id),
            Err(error) => Op::ready(Err(error)),
        }
    }

    fn open_checked(&self, id: TenantId) -> Op<Tenant> {
        match self.open_or_wait(&id) {
            Ok(Entry::Open(tenant)) => Op::ready(Ok(tenant)),
            Ok(Entry::Opening(opening)) => {
                // It goes on where it is awaited; begun now, an `Op` that is dropped at once has opened the tenant all the same.
                let _ = opening.ending.begin();
                let store = self.clone();
                Op::from_future(async move {
                    opening.ending.clone().over().await?;
                    store.open_checked(id).await
                })
            }
            Ok(Entry::Leaving(ending)) => {
                let (store, over) = (self.clone(), self.over(id.clone(), ending));
                Op::from_future(async move {
                    // What it could not flush, those were told who closed it.
                    let _ = over.await;
                    store.open_checked(id).await
                })
            }
            Err(error) => Op::ready(Err(error)),
        }
    }

    fn open_or_wait(&self, id: &TenantId) -> Result<Entry> {
        // The registry is locked meanwhile, so that a tenant is never opened twice.
        let mut registry = lock(&self.0.registry);
        registry.require_open()?;
        registry.settle(id);
        match registry.tenants.get(id) {
            Some(Entry::Open(tenant)) if !tenant.backend.is_closed() => {
                return Ok(Entry::Open(tenant.clone()));
            }
            // It failed beyond repair; a new one begins with what is on the disk.
            Some(Entry::Open(tenant)) => tenant.backend.close().wait().unwrap_or_else(|error| {
                tracing::warn!(%error, "a tenant that failed had not closed cleanly");
            }),
            Some(Entry::Opening(opening)) => return Ok(Entry::Opening(opening.clone())),
            Some(Entry::Leaving(ending)) => return Ok(Entry::Leaving(ending.clone())),
            None => {}
        }
        match self.0.backend.open(id).now() {
            Ok(backend) => {
                let tenant =
                    Tenant { id: id.clone(), backend: backend?, unobserved_failures: Arc::default() };
                registry.tenants.insert(id.clone(), Entry::Open(tenant.clone()));
                Ok(Entry::Open(tenant))
            }
            Err(backend) => {
                let opening = Opening::new(id.clone(), backend);
                registry.tenants.insert(id.clone(), Entry::Opening(opening.clone()));
                Ok(Entry::Opening(opening))
            }
        }
    }

    /// Whether the program has opened that tenant and not closed it since. The disk is not touched: a tenant that exists and is
    /// not open is in [`list`](Store::list) alone.
    pub fn has(&self, id: impl AsRef<str>) -> bool {
        self.tenant(id).is_ok()
    }

    /// The tenant of that id, when the program has opened it.
    ///
    /// # Errors
    /// `InvalidArgument` for an id that [`TenantId::new`] refuses, `TenantNotFound` when it is not open, `Closed` after
    /// [`close`](Store::close). The disk is not touched.
    pub fn tenant(&self, id: impl AsRef<str>) -> Result<Tenant> {
        let id = TenantId::new(id)?;
        let mut registry = lock(&self.0.registry);
        registry.require_open().map_err(|error| error.in_tenant(&id))?;
        registry.settle(&id);
        match registry.tenants.get(&id) {
            Some(Entry::Open(tenant)) => Ok(tenant.clone()),
            Some(Entry::Opening(_) | Entry::Leaving(_)) | None => {
                let message = "the tenant is not open; open it first";
                Err(Error::new(ErrorKind::TenantNotFound, message).in_tenant(&id))
            }
        }
    }

    /// Every tenant that exists, open or not, in ascending order of ids.
    ///
    /// # Errors
    /// Through the `Op`: `Backend` when the root cannot be read, `Closed` after [`close`](Store::close).
    pub fn list(&self) -> Op<Vec<TenantId>> {
        let open = lock(&self.0.registry).require_open();
        match open {
            Ok(()) => self.0.backend.list(),
            Err(error) => Op::ready(Err(error)),
        }
    }

    /// Applies what is queued for a tenant, closes it and keeps its data. Ok when it is not open.
    ///
    /// From the call on the tenant is not open: its handles answer Closed. The `Op` may be dropped; who opens the tenant next
    /// waits until it is closed.
    ///
    /// # Errors
    /// Through the `Op`: `InvalidArgument` for an id that [`TenantId::new`] refuses, `Backend` when the last flush failed.
    pub fn close_tenant(&self, id: impl AsRef<str>) -> Op<()> {
        let id = match TenantId::new(id) {
            Ok(id) => id,
            Err(error) => return Op::ready(Err(error)),
        };
        let mut registry = lock(&self.0.registry);
        let Some(entry) = registry.tenants.remove(&id) else { return Op::ready(Ok(())) };
        self.end(registry, id, Ending::new(entry.end()))
    }

    /// Closes a tenant and removes it with everything it holds: its file, `-wal` and `-shm`. Ok when it does not exist.
    ///
    /// From the call on the tenant is not open: its handles answer Closed, what they had queued is applied and then removed. Await
    /// the `Op`: when it is dropped, the files of a tenant that was open are removed as soon as somebody opens, closes or drops the
    /// tenant or closes the store.
    ///
    /// # Errors
    /// Through the `Op`: `InvalidArgument` for an id that [`TenantId::new`] refuses, `Backend` when an existing file cannot be removed
    /// (drop it again once it can), `Busy` when another process owns the root, `Closed` after [`close`](Store::close).
    pub fn drop_tenant(&self, id: impl AsRef<str>) -> Op<()> {
        let id = match TenantId::new(id) {
            Ok(id) => id,
            Err(error) => return Op::ready(Err(error)),
        };
        let mut registry = lock(&self.0.registry);
        if let Err(error) = registry.require_open() {
            return Op::ready(Err(error.in_tenant(&id)));
        }
        let entry = registry.tenants.remove(&id);
        let (backend, removed) = (self.0.backend.clone(), id.clone());
        let ending = Ending::new(async move {
            // What a tenant about to be removed could not flush is of no concern.
            if let Some(entry) = entry
                && let Err(error) = entry.end().await
            {
                tracing::warn!(%error, "closing a tenant before removing it failed");
            }
            backend.remove(&removed).await
        });
        self.end(registry, id, ending)
    }

    /// Begins the end of a tenant and notes it, so that nobody opens the tenant before it is over.
    fn end(&self, mut registry: MutexGuard<'_, Registry>, id: TenantId, ending: Arc<Ending>) -> Op<()> {
        registry.tenants.insert(id.clone(), Entry::Leaving(ending.clone()));
        drop(registry);
        self.over(id, ending)
    }

    /// Carries an end on until it is over; then it is forgotten.
    fn over(&self, id: TenantId, ending: Arc<Ending>) -> Op<()> {
        if let Poll::Ready(result) = ending.begin() {
            self.forget(&id, &ending);
            return Op::ready(result);
        }
        let store = self.clone();
        Op::from_future(async move {
            let result = ending.clone().over().await;
            store.forget(&id, &ending);
            result
        })
    }

    fn forget(&self, id: &TenantId, over: &Arc<Ending>) {
        let mut registry = lock(&self.0.registry);
        // Another end, or the tenant opened anew, may stand there by now.
        if matches!(registry.tenants.get(id), Some(Entry::Leaving(ending)) if Arc::ptr_eq(ending, over)) {
            registry.tenants.remove(id);
        }
    }

    /// Closes every tenant and the store: what is queued is applied and made durable first. Later calls answer Closed. Twice is
    /// fine: each caller is answered when the store is closed.
    ///
    /// From the call on no tenant is open. Await the `Op` to know that everything is on disk and another process may own the root.
    ///
    /// # Errors
    /// Through the `Op`: the first failure of a tenant's last flush; the others are closed all the same.
    pub fn close(&self) -> Op<()> {
        let mut registry = lock(&self.0.registry);
        let tenants = std::mem::take(&mut registry.tenants);
        let backend = self.0.backend.clone();
        let close = || {
            Ending::new(async move {
                let endings: Vec<_> = tenants.into_values().map(|entry| Ending::new(entry.end())).collect();
                // All begin before the first is waited for: their flushes overlap.
                for ending in &endings {
                    let _ = ending.begin();
                }
                let mut first_failure = Ok(());
                for ending in endings {
                    first_failure = first_failure.and(ending.over().await);
                }
                first_failure.and(backend.close().await)
            })
        };
        let closing = registry.closing.get_or_insert_with(close).clone();
        drop(registry);
        match closing.begin() {
            Poll::Ready(result) => Op::ready(result),
            Poll::Pending => Op::from_future(closing.over()),
        }
    }

    /// Whether [`close`](Store::close) was called.
    #[cfg(feature = "sqlite")]
    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.0.registry).closing.is_some()
    }
}

impl Entry {
    /// Closes what is open, or waits until what is leaving has left.
    async fn end(self) -> Result<()> {
        match self {
            Self::Open(tenant) => tenant.backend.close().await,
            Self::Opening(opening) => {
                // What could not be opened need not be closed; who opened it is told why.
                let _ = opening.ending.clone().over().await;
                let tenant = lock(&opening.tenant).take();
                match tenant {
                    Some(tenant) => tenant.backend.close().await,
                    None => Ok(()),
                }
            }
            Self::Leaving(ending) => ending.over().await,
        }
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
///
/// Every method answers `Closed` once the tenant was closed or dropped, or its store closed, and `Backend` or `Corrupt` when the
/// disk fails or holds what it must not. Categories, keys and payloads have the bounds of [`limits`](crate::limits). Dropping the
/// `Op` of a read is without effect. Each read and write is also on the [`Store`], by tenant id.
#[derive(Clone)]
pub struct Tenant {
    id: TenantId,
    backend: Arc<dyn TenantBackend>,
    /// Failures before the backend was asked, that nobody awaited.
    unobserved_failures: Arc<AtomicU64>,
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
