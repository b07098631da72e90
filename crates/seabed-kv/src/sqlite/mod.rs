//! The SQLite backend: a file a tenant, one writer each out of a pool of threads, reads on the caller's thread.

mod backup;
mod cache;
mod engine;
mod ffi;
mod files;
mod frames;
mod log_index;
mod open_files;
mod reader;
mod reader_pool;
mod restore;
mod root;
mod schema;
mod statements;
mod verify;
mod worth;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

pub use ffi::tune_process;
pub use restore::Restore;
pub use root::create_directory;

use self::cache::CacheBudget;
use self::engine::{EngineOptions, SqliteEngine};
pub(crate) use self::files::SqliteFiles;
use self::open_files::{Files, OpenFiles};
use self::reader_pool::ReaderPool;
use self::root::RootLock;
use crate::backend::{Admission, Backend, Copied, TenantBackend, TenantReport, TenantStats, View};
use crate::limits::{CACHE_BYTES_MAX, OPEN_TENANTS_MAX, TENANT_IDLE_MS_MAX};
use crate::scheduler::{Actor, PoolOwner};
use crate::sync::{Mutex, lock};
use crate::{Batch, Durability, KeyRange, Op, Outcome, Page, Result, ScanSpec, TenantId};

#[cfg(feature = "simulation")]
pub mod simulation;

/// How many files one tenant may have open: its file, log and index, and two for each of its readers.
const FILES_A_TENANT: u64 = 3 + 2 * reader_pool::READERS_MAX as u64;

/// How many writer threads serve all tenants of a store. More than cores, because they mostly wait for flushes.
const WRITER_THREADS: usize = 4;

/// The version of SQLite that this program was built with.
pub fn version() -> &'static str {
    rusqlite::version()
}

/// How a store uses its machine. What it stores, and what it promises, does not depend on it.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// How many tenants hold their files open at once; those in use at a moment count on top. The one that is used least often,
    /// lately, lets go of its files for the next, without a flush, and opens them again when it is used: about 0.2 ms. By default
    /// [`OPEN_TENANTS_MAX`]. Never more than an eleventh of the files that the process may open: as many as
    /// one tenant takes that is read by several threads.
    pub open_tenants_max: usize,
    /// How much all connections cache, beyond 128 KiB each. By default [`CACHE_BYTES_MAX`].
    pub cache_bytes_max: u64,
    /// How long a tenant may be unused before its file is closed properly, its log carried over and removed. By default
    /// [`TENANT_IDLE_MS_MAX`].
    pub idle_ms_max: u64,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            open_tenants_max: OPEN_TENANTS_MAX,
            cache_bytes_max: CACHE_BYTES_MAX,
            idle_ms_max: TENANT_IDLE_MS_MAX,
        }
    }
}

/// Tenants as files of one directory.
pub(crate) struct SqliteBackend {
    root: PathBuf,
    options: SqliteOptions,
    engine: EngineOptions,
    /// What exists from the first opened tenant on: the lock of the root and the writer threads.
    running: Mutex<Option<Running>>,
}

#[derive(Clone)]
struct Running {
    /// The directory, as long as it is owned, whatever becomes of links to it.
    root: PathBuf,
    lock: Arc<RootLock>,
    writers: PoolOwner<SqliteEngine>,
    files: Arc<OpenFiles>,
    /// Ends the sweeping with the last clone.
    sweeping: Sender<()>,
}

impl SqliteBackend {
    /// A store in the directory `root`; nothing is touched before it is owned or a tenant is opened.
    pub(crate) fn new(root: &Path, options: SqliteOptions) -> Result<Self> {
        root::check(root)?;
        let root = std::path::absolute(root).map_err(|error| root::cannot("resolve", root, error))?;
        Ok(Self { root, options, engine: EngineOptions::default(), running: Mutex::default() })
    }

    /// The same with other options for its engines: for tests.
    #[cfg(feature = "simulation")]
    pub(crate) fn with_engine(self, engine: EngineOptions) -> Self {
        Self { engine, ..self }
    }

    fn running(&self) -> Result<Running> {
        let mut running = lock(&self.running);
        if let Some(running) = &*running {
            return Ok(running.clone());
        }
        // Where a link leads now is what is owned, and stays the root whatever becomes of the link.
        create_directory(&self.root)?;
        let root =
            std::fs::canonicalize(&self.root).map_err(|error| root::cannot("resolve", &self.root, error))?;
        let lock = Arc::new(root::own(&root)?);
        let writers = PoolOwner::start(WRITER_THREADS)?;
        let files_max = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let tenants_max = files_max
            .map_or(usize::MAX, |files| usize::try_from(files / FILES_A_TENANT).unwrap_or(usize::MAX));
        let tenants_max = self.options.open_tenants_max.min(tenants_max).max(1);
        let files = OpenFiles::new(tenants_max, CacheBudget::new(self.options.cache_bytes_max));
        let sweeping = files.sweep_every(Duration::from_millis(self.options.idle_ms_max.max(1)))?;
        Ok(running.insert(Running { root, lock, writers, files, sweeping }).clone())
    }

    /// Where the files are.
    fn place(&self) -> PathBuf {
        lock(&self.running).as_ref().map_or_else(|| self.root.clone(), |running| running.root.clone())
    }

    fn open_tenant(&self, id: &TenantId) -> Result<Arc<dyn TenantBackend>> {
        let running = self.running()?;
        let path = running.root.join(id.file_name());
        let cache = &running.files.cache;
        let mut engine =
            SqliteEngine::open(&path, None, self.engine.clone(), Some(running.lock.clone()), cache.clone())?;
        let readers = ReaderPool::new(
            id.clone(),
            path.clone(),
            engine.page_bytes(),
            cache.clone(),
            engine.index.clone(),
        );
        let files = Files::new(running.files.clone(), readers.clone());
        (engine.readers, engine.files) = (Some(readers.clone()), Some(files.clone()));
        let actor = Actor::new(id.clone(), engine, running.writers.pool());
        files.set_writer(&actor);
        files.used();
        Ok(Arc::new(SqliteTenant {
            path,
            readers,
            files,
            actor,
            copying: Mutex::default(),
            _writers: running.writers,
            _sweeping: running.sweeping,
        }))
    }
}

impl Backend for SqliteBackend {
    fn own(&self) -> Op<()> {
        Op::ready(self.running().map(|_| ()))
    }

    fn open(&self, id: &TenantId) -> Op<Arc<dyn TenantBackend>> {
        Op::ready(self.open_tenant(id).map_err(|error| error.in_tenant(id)))
    }

    fn list(&self) -> Op<Vec<TenantId>> {
        let list = || {
            let root = self.place();
            let entries = match std::fs::read_dir(&root) {
                Ok(entries) => entries,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(root::cannot("list", &root, error)),
            };
            let mut ids = Vec::new();
            for entry in entries {
                let entry = entry.map_err(|error| root::cannot("list", &root, error))?;
                ids.extend(entry.file_name().to_str().and_then(TenantId::from_file_name));
            }
            ids.sort();
            Ok(ids)
        };
        Op::ready(list())
    }

    fn remove(&self, id: &TenantId) -> Op<()> {
        let remove = || {
            let path = self.place().join(id.file_name());
            // Not `exists`, which takes a file that cannot be looked at for one that is not there.
            match std::fs::symlink_metadata(&path) {
                Ok(_) => {}
                // Not there, or a removal did not come further.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    if !schema::has_log(&path) {
                        return Ok(());
                    }
                }
                Err(error) => return Err(root::cannot("examine", &path, error)),
            }
            // Owned first: another process may have the file open.
            let path = self.running()?.root.join(id.file_name());
            // The log last: with the file gone it is nobody's, while a file without its log would be an older state.
            for suffix in ["", "-wal", "-shm"] {
                let mut file = path.clone().into_os_string();
                file.push(suffix);
                let file = PathBuf::from(file);
                match std::fs::remove_file(&file) {
                    Ok(()) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => return Err(root::cannot("remove", &file, error)),
                }
                if suffix.is_empty() {
                    schema::sync_directory(&path)?;
                }
            }
            Ok(())
        };
        Op::ready(remove().map_err(|error| error.in_tenant(id)))
    }

    fn close(&self) -> Op<()> {
        // The last tenant, or its writer thread, lets go of the lock.
        lock(&self.running).take();
        Op::ready(Ok(()))
    }
}

impl fmt::Debug for SqliteBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteBackend").field("root", &self.root).finish_non_exhaustive()
    }
}

/// One open file.
struct SqliteTenant {
    path: PathBuf,
    readers: Arc<ReaderPool>,
    files: Arc<Files>,
    actor: Arc<Actor<SqliteEngine>>,
    /// Locked by the one backup that may run.
    copying: Mutex<()>,
    // Not the lock of the root: a handle that outlives the store must not keep it.
    _writers: PoolOwner<SqliteEngine>,
    _sweeping: Sender<()>,
}

impl SqliteTenant {
    fn read<T>(&self, read: Op<T>) -> Op<T> {
        self.files.used();
        read
    }
}

impl View for SqliteTenant {
    fn get(&self, category: &[u8], key: &[u8]) -> Op<Option<Vec<u8>>> {
        self.read(self.readers.get(category, key))
    }

    fn exists(&self, category: &[u8], key: &[u8]) -> Op<bool> {
        self.read(self.readers.exists(category, key))
    }

    fn count(&self, category: &[u8], range: &KeyRange) -> Op<u64> {
        self.read(self.readers.count(category, range))
    }

    fn scan_page(&self, spec: ScanSpec) -> Op<Page> {
        self.read(self.readers.scan_page(spec))
    }

    fn categories(&self) -> Op<Vec<Vec<u8>>> {
        self.read(self.readers.categories())
    }
}

impl TenantBackend for SqliteTenant {
    fn apply(&self, batch: Batch, durability: Durability, admission: Admission) -> Op<Outcome> {
        self.actor.submit(batch, durability, admission)
    }

    fn flush(&self) -> Op<()> {
        self.actor.submit(Batch::new(), Durability::Durable, Admission::Wait).map(|_| ())
    }

    fn snapshot(&self) -> Op<Arc<dyn View>> {
        self.read(Op::ready(self.readers.snapshot()))
    }

    fn inline_limit(&self) -> usize {
        self.readers.inline_limit()
    }

    fn verify(&self) -> Op<TenantReport> {
        self.read(Op::ready(verify::file(&self.readers)))
    }

    fn backup(&self, to: &Path, previous: Option<&Path>) -> Op<Copied> {
        self.read(Op::ready(backup::copy(&self.actor, &self.copying, to, previous)))
    }

    fn stats(&self) -> Op<TenantStats> {
        let (commits, groups, unobserved_failures) = self.actor.counters();
        let size = |suffix: &str| {
            let mut path = self.path.clone().into_os_string();
            path.push(suffix);
            std::fs::metadata(path).map_or(0, |file| file.len())
        };
        Op::ready(Ok(TenantStats {
            data_bytes: size(""),
            log_bytes: size("-wal"),
            commits,
            groups,
            unobserved_failures,
        }))
    }

    fn close(&self) -> Op<()> {
        self.files.forget();
        self.readers.close();
        self.actor.close()
    }

    fn is_closed(&self) -> bool {
        self.actor.is_closed()
    }
}

impl Drop for SqliteTenant {
    /// A store that is dropped without a close applies what is queued all the same, on its writer threads.
    fn drop(&mut self) {
        self.files.forget();
        self.readers.close();
        drop(self.actor.close());
    }
}

impl fmt::Debug for SqliteTenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteTenant").field("path", &self.path).finish_non_exhaustive()
    }
}
