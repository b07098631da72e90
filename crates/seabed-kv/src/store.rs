//! What callers hold first: a store, which knows what tenants are open.

use std::collections::BTreeMap;
use std::fmt;
#[cfg(feature = "sqlite")]
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;

use crate::backend::Backend;
use crate::ending::Ending;
use crate::memory::MemoryBackend;
use crate::sync::{Mutex, MutexGuard, lock};
use crate::{Error, ErrorKind, Op, Result, Tenant, TenantId};

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
    /// Being opened, which may take its time: who opens it waits, so that a tenant is never opened twice.
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
    /// Nothing of it has begun. The tenant that stood there failed beyond repair; a new one begins with what is on the disk.
    fn new(id: TenantId, backend: Arc<dyn Backend>, failed: Option<Tenant>) -> Arc<Self> {
        let tenant = Arc::new(Mutex::new(None));
        let place = tenant.clone();
        let ending = Ending::new(async move {
            if let Some(failed) = failed
                && let Err(error) = failed.backend.close().await
            {
                tracing::warn!(%error, "a tenant that failed had not closed cleanly");
            }
            let opened = backend.open(&id).await?;
            *lock(&place) = Some(Tenant::new(id, opened));
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
        if opening.ending.try_begin().is_ready() {
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

    /// A way to tell the other processes that share this store what has changed, and to hear it from them: so that they look sooner than
    /// they would. `None` where nobody shares it, or where there is no way; with PostgreSQL it is one connection more.
    ///
    /// ```
    /// assert!(seabed_kv::Store::memory().hints().is_none());
    /// ```
    pub fn hints(&self) -> Option<Arc<dyn crate::backend::Hints>> {
        self.0.backend.hints()
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
    /// With the SQLite backend this does its file system work on the caller's thread: 0.1 to 2 ms, and more where a process that was killed
    /// left a long log, which is read and flushed first. Other tenants do not wait for it. While the tenant is being
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
            // It goes on where it is awaited; begun now, an `Op` that is dropped at once has opened the tenant all the same.
            Ok(Entry::Opening(opening)) => match opening.ending.begin() {
                Poll::Ready(Ok(())) => self.open_checked(id),
                Poll::Ready(Err(error)) => Op::ready(Err(error)),
                Poll::Pending => {
                    let store = self.clone();
                    Op::from_future(async move {
                        opening.ending.clone().over().await?;
                        store.open_checked(id).await
                    })
                }
            },
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

    /// What there is of a tenant, and where there is nothing an opening that has not begun: it may take long, as where another process
    /// left a long log, and the registry is everybody's.
    fn open_or_wait(&self, id: &TenantId) -> Result<Entry> {
        let mut registry = lock(&self.0.registry);
        registry.require_open()?;
        registry.settle(id);
        let failed = match registry.tenants.get(id) {
            Some(Entry::Open(tenant)) if tenant.backend.is_closed() => Some(tenant.clone()),
            Some(Entry::Open(tenant)) => return Ok(Entry::Open(tenant.clone())),
            Some(Entry::Opening(opening)) => return Ok(Entry::Opening(opening.clone())),
            Some(Entry::Leaving(ending)) => return Ok(Entry::Leaving(ending.clone())),
            None => None,
        };
        let opening = Opening::new(id.clone(), self.0.backend.clone(), failed);
        registry.tenants.insert(id.clone(), Entry::Opening(opening.clone()));
        Ok(Entry::Opening(opening))
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

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::sync::OnceLock;

    use super::*;
    use crate::backend::TenantBackend;

    /// A place in memory that looks, while it opens a tenant, whether others are kept from theirs.
    #[derive(Debug, Default)]
    struct Looking {
        memory: MemoryBackend,
        store: OnceLock<Store>,
        found_free: Mutex<Vec<bool>>,
    }

    impl Backend for Looking {
        fn own(&self) -> Op<()> {
            self.memory.own()
        }

        fn open(&self, id: &TenantId) -> Op<Arc<dyn TenantBackend>> {
            // Whoever asks for that tenant meanwhile is told that it is not open, and does not wait for it either.
            let is_free = |store: &Store| store.0.registry.try_lock().is_ok() && !store.has(id.as_str());
            lock(&self.found_free).push(self.store.get().is_some_and(is_free));
            self.memory.open(id)
        }

        fn list(&self) -> Op<Vec<TenantId>> {
            self.memory.list()
        }

        fn remove(&self, id: &TenantId) -> Op<()> {
            self.memory.remove(id)
        }

        fn close(&self) -> Op<()> {
            self.memory.close()
        }
    }

    #[test]
    fn while_a_tenant_is_opened_the_others_are_not_kept_waiting() {
        let backend = Arc::new(Looking::default());
        let store = Store::with_backend(backend.clone());
        backend.store.set(store.clone()).unwrap();
        let tenant = store.open("t").wait().unwrap();
        tenant.put("c", b"k", b"x").wait().unwrap();
        // An `Op` that is dropped has opened its tenant all the same.
        drop(store.open("u"));
        assert!(store.has("u"));
        assert_eq!(*lock(&backend.found_free), [true, true]);
    }
}
