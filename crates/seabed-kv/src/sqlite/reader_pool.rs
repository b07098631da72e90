//! Reads: inline on the caller's thread, on pooled read-only connections.
//!
//! A connection keeps its view open between reads for as long as nothing is committed: beginning one takes three system calls, a third
//! of a hot get. After each group, before it answers, the writer ends the views of idle connections, and those that are at
//! work end theirs when they are done; so none pins the log for longer than one read or one page takes. A snapshot pins it for at
//! most its age: past it the reader is taken away, by the next read or by the writer that needs the room. A read that takes long (a count
//! of millions, a verification) is ended by the writer that needs the room.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::cache::CacheBudget;
use super::ffi;
use super::log_index::LogIndex;
use super::reader::{self, Reader};
use super::schema::{self, sql};
use crate::backend::View;
use crate::limits::{SNAPSHOT_AGE_MS_MAX, SNAPSHOTS_MAX};
use crate::sync::{Condvar, Mutex, MutexGuard, lock, wait};
use crate::{Error, ErrorKind, KeyRange, Op, Page, Result, ScanSpec, TenantId};

/// How many connections serve reads of one tenant at once; further ones wait for their turn.
pub(super) const READERS_MAX: usize = 4;

/// How much of a file a read-only connection maps: 1.4 to 1.9 times the speed of copying pages. Only readers map, so a stray pointer
/// cannot write, and an address range costs no memory.
const MMAP_BYTES: u64 = 256 * 1024 * 1024;

/// After so many steps of SQLite's machine, some milliseconds of them, a read is a long one.
const SHORT_READ_STEPS: i32 = 100_000;

/// The read-only connections of one tenant.
pub(super) struct ReaderPool {
    tenant: TenantId,
    path: PathBuf,
    page_bytes: usize,
    /// How much of the file its connections map.
    map_bytes: u64,
    /// Counts the groups: a view of the generation before is an older state.
    generation: AtomicU64,
    state: Mutex<PoolState>,
    returned: Condvar,
    /// How many want long reads to end.
    stopping: Arc<AtomicUsize>,
    cache: CacheBudget,
    index: LogIndex,
}

#[derive(Default)]
struct PoolState {
    #[allow(clippy::vec_box, reason = "a reader is large and moves at every read")]
    idle: Vec<Box<Reader>>,
    /// Connections that exist, those at work included; those of snapshots are counted apart, once they are open.
    open: usize,
    /// Threads that wait for a connection to come back: waking nobody is a system call, too.
    waiting: usize,
    /// No connection may be opened: the log is being written again.
    paused: bool,
    closed: bool,
    snapshots: Vec<Weak<SnapshotState>>,
}

impl ReaderPool {
    pub(super) fn new(
        tenant: TenantId,
        path: PathBuf,
        page_bytes: usize,
        cache: CacheBudget,
        index: LogIndex,
    ) -> Arc<Self> {
        Arc::new(Self::of(tenant, path, page_bytes, cache, index))
    }

    /// The same, mapping nothing: a read that fails of a page that is mapped is no error, it ends the process (SIGBUS). For files that lie
    /// where reads fail, as on a disk that may be taken away.
    pub(super) fn unmapped(
        tenant: TenantId,
        path: PathBuf,
        page_bytes: usize,
        cache: CacheBudget,
        index: LogIndex,
    ) -> Arc<Self> {
        Arc::new(Self { map_bytes: 0, ..Self::of(tenant, path, page_bytes, cache, index) })
    }

    fn of(tenant: TenantId, path: PathBuf, page_bytes: usize, cache: CacheBudget, index: LogIndex) -> Self {
        Self {
            tenant,
            path,
            page_bytes,
            map_bytes: MMAP_BYTES,
            generation: AtomicU64::new(0),
            state: Mutex::default(),
            returned: Condvar::new(),
            stopping: Arc::default(),
            cache,
            index,
        }
    }

    /// The largest payload that is kept beside its key, for keys and categories of at most 50 bytes together.
    ///
    /// Of a WITHOUT ROWID row SQLite keeps `((page - 12) * 64 / 255) - 23` bytes in its page; more than that and every comparison
    /// with it reads the whole row from overflow pages.
    pub(super) fn inline_limit(&self) -> usize {
        self.local_bytes_max().saturating_sub(50 + reader::ROW_HEADER_BYTES)
    }

    fn local_bytes_max(&self) -> usize {
        (self.page_bytes.saturating_sub(12) * 64 / 255).saturating_sub(23)
    }

    /// Runs one read on a connection of its own.
    fn read<T>(&self, read: impl FnOnce(&Reader) -> Result<T>) -> Result<T> {
        let reader = self.borrow()?;
        // Before the view begins: one that is newer than its number is only ended too early.
        let generation = self.generation.load(Ordering::Acquire);
        let result = reader.view_of(generation).and_then(|()| read(&reader));
        if result.is_err() {
            reader.end_view();
        }
        self.give_back(reader);
        result.map_err(|error| error.in_tenant(&self.tenant))
    }

    /// Called by the writer after each group, before it answers: what was committed is seen by every read from here on, and no idle
    /// connection pins what was before.
    pub(super) fn group_ended(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.end_idle_views();
    }

    /// Called by the writer when the log is to begin anew: no view may stand in it.
    pub(super) fn end_idle_views(&self) {
        for reader in &lock(&self.state).idle {
            reader.end_view();
        }
    }

    fn borrow(&self) -> Result<Box<Reader>> {
        let mut state = lock(&self.state);
        loop {
            if state.closed {
                return Err(self.closed());
            }
            if let Some(reader) = state.idle.pop() {
                return Ok(reader);
            }
            if state.open < READERS_MAX && !state.paused {
                state.open += 1;
                break;
            }
            state = self.wait_for_return(state);
        }
        drop(state);
        self.open(self.map_bytes).inspect_err(|_| self.count_out(lock(&self.state)))
    }

    /// Counts in a connection that is not lent out, and so has no turn to wait for.
    fn count_in(&self) -> Result<MutexGuard<'_, PoolState>> {
        let mut state = lock(&self.state);
        while state.paused && !state.closed {
            state = self.wait_for_return(state);
        }
        if state.closed {
            return Err(self.closed());
        }
        state.open += 1;
        Ok(state)
    }

    fn count_out(&self, mut state: MutexGuard<'_, PoolState>) {
        state.open -= 1;
        drop(state);
        self.returned.notify_all();
    }

    fn wait_for_return<'a>(&self, mut state: MutexGuard<'a, PoolState>) -> MutexGuard<'a, PoolState> {
        state.waiting += 1;
        let mut state = wait(&self.returned, state);
        state.waiting -= 1;
        state
    }

    fn give_back(&self, reader: Box<Reader>) {
        let mut state = lock(&self.state);
        // Under the lock: the writer counts first and then looks through the idle ones.
        if !reader.is_in_view_of(self.generation.load(Ordering::Acquire)) {
            reader.end_view();
        }
        if state.closed || state.paused {
            // Before it is counted out: who waits for that relies on there being no connection.
            drop(reader);
            state.open -= 1;
        } else {
            state.idle.push(reader);
        }
        let waiting = state.waiting > 0;
        drop(state);
        if waiting {
            // All, because whoever closes waits for the last one.
            self.returned.notify_all();
        }
    }

    fn open(&self, map_bytes: u64) -> Result<Box<Reader>> {
        let gate = self.index.gate();
        let (stopping, cache) = (self.stopping.clone(), self.cache.share());
        let open = || {
            let mut connection = schema::open_reader(&self.path, map_bytes)?;
            let stop = move || stopping.load(Ordering::Relaxed) > 0;
            connection.progress_handler(SHORT_READ_STEPS, Some(stop)).map_err(sql)?;
            gate.open_beside(&connection, &self.path)?;
            // The first that is read of the file.
            schema::user_version(&connection).inspect_err(|_| ffi::leave_index(&connection))?;
            schema::set_cache(&connection, &cache, 0)?;
            Ok(connection)
        };
        let reader = open().and_then(|connection| {
            Reader::new(connection, self.local_bytes_max(), cache, self.index.clone())
        });
        reader.map(Box::new).map_err(|error| error.in_tenant(&self.tenant))
    }

    fn closed(&self) -> Error {
        Error::new(ErrorKind::Closed, "the tenant is closed; open it again").in_tenant(&self.tenant)
    }

    /// A connection that stands in a read transaction.
    pub(super) fn snapshot(self: &Arc<Self>) -> Result<Arc<dyn View>> {
        let expires = Instant::now() + Duration::from_millis(SNAPSHOT_AGE_MS_MAX);
        let snapshot = Arc::new(SnapshotState {
            reader: Mutex::default(),
            expires,
            closed: AtomicBool::new(false),
            tenant: self.tenant.clone(),
        });
        let mut state = self.count_in()?;
        state.snapshots.retain(|snapshot| snapshot.strong_count() > 0);
        if state.snapshots.len() >= SNAPSHOTS_MAX {
            self.count_out(state);
            let message = format!("{SNAPSHOTS_MAX} snapshots are open; drop one, or try again later");
            return Err(Error::new(ErrorKind::Busy, message).in_tenant(&self.tenant));
        }
        state.snapshots.push(Arc::downgrade(&snapshot));
        drop(state);
        let reader = self.open(self.map_bytes).and_then(|reader| {
            reader.pin().map_err(|error| error.in_tenant(&self.tenant))?;
            Ok(reader)
        });
        // Under the lock: whoever waits for all connections to end finds it counted, or in its snapshot.
        let state = lock(&self.state);
        let opened = match reader {
            Ok(reader) if !state.closed && !state.paused => {
                *lock(&snapshot.reader) = Some(reader);
                Ok(())
            }
            Ok(reader) => {
                // Before it is counted out. Unless the tenant is closed it stays empty, and says that it is to be taken again.
                drop(reader);
                if state.closed { Err(self.closed()) } else { Ok(()) }
            }
            Err(error) => Err(error),
        };
        self.count_out(state);
        opened.map(|()| Arc::new(SqliteSnapshot(snapshot)) as Arc<dyn View>)
    }

    /// Long reads end with Timeout until the answer is dropped; short ones do not notice.
    pub(super) fn stop_long_reads(&self) -> Stopped<'_> {
        self.stopping.fetch_add(1, Ordering::Relaxed);
        Stopped(self)
    }

    /// Closes every connection, waiting for those at work, and opens none until the answer is dropped.
    pub(super) fn pause(&self) -> Paused<'_> {
        let mut state = lock(&self.state);
        state.paused = true;
        self.close_all(state);
        Paused(self)
    }

    fn close_all(&self, mut state: MutexGuard<'_, PoolState>) {
        let stopped = self.stop_long_reads();
        state.open -= state.idle.len();
        state.idle.clear();
        while state.open > 0 {
            state = self.wait_for_return(state);
        }
        let (snapshots, closed) = (std::mem::take(&mut state.snapshots), state.closed);
        drop(state);
        for snapshot in snapshots.iter().filter_map(Weak::upgrade) {
            snapshot.closed.store(closed, Ordering::Relaxed);
            lock(&snapshot.reader).take();
        }
        drop(stopped);
    }

    /// Takes the readers of snapshots past their age away.
    pub(super) fn expire(&self) {
        let snapshots = lock(&self.state).snapshots.clone();
        for snapshot in snapshots.iter().filter_map(Weak::upgrade) {
            if Instant::now() >= snapshot.expires
                && let Ok(mut reader) = snapshot.reader.try_lock()
            {
                // One that is read from just now ends with its read.
                reader.take();
            }
        }
    }

    /// Closes the idle connections; `false`, and nothing is closed, when one is at work or a snapshot stands.
    pub(super) fn rest(&self) -> bool {
        self.expire();
        let mut state = lock(&self.state);
        let stands = |snapshot: &Weak<SnapshotState>| {
            // One that is read from just now stands, too.
            snapshot
                .upgrade()
                .is_some_and(|snapshot| snapshot.reader.try_lock().map_or(true, |reader| reader.is_some()))
        };
        if state.paused || state.open > state.idle.len() || state.snapshots.iter().any(stands) {
            return false;
        }
        state.open = 0;
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        drop(idle);
        true
    }

    /// Refuses further reads, waits for those that run, and closes every connection, so that the writer is the last.
    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        self.close_all(state);
    }

    /// One read for a verification, on a connection of its own: it maps nothing, because it is made to meet what cannot be read, and what
    /// it reads should not push out what the others have in their caches.
    pub(super) fn examine<T>(&self, read: impl FnOnce(&Reader) -> Result<T>) -> Result<T> {
        drop(self.count_in()?);
        let read =
            self.open(0).and_then(|reader| read(&reader).map_err(|error| error.in_tenant(&self.tenant)));
        self.count_out(lock(&self.state));
        read
    }
}

/// See [`ReaderPool::stop_long_reads`].
pub(super) struct Stopped<'a>(&'a ReaderPool);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.stopping.fetch_sub(1, Ordering::Relaxed);
    }
}

/// See [`ReaderPool::pause`].
pub(super) struct Paused<'a>(&'a ReaderPool);

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).paused = false;
        self.0.returned.notify_all();
    }
}

impl fmt::Debug for ReaderPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReaderPool").field("path", &self.path).finish_non_exhaustive()
    }
}

impl View for ReaderPool {
    fn get(&self, category: &[u8], key: &[u8]) -> Op<Option<Vec<u8>>> {
        Op::ready(self.read(|reader| reader.get(category, key)))
    }

    fn exists(&self, category: &[u8], key: &[u8]) -> Op<bool> {
        Op::ready(self.read(|reader| reader.exists(category, key)))
    }

    fn count(&self, category: &[u8], range: &KeyRange) -> Op<u64> {
        Op::ready(self.read(|reader| reader.count(category, range)))
    }

    fn scan_page(&self, spec: ScanSpec) -> Op<Page> {
        Op::ready(self.read(|reader| reader.page(&spec)))
    }

    fn categories(&self) -> Op<Vec<Vec<u8>>> {
        Op::ready(self.read(Reader::categories))
    }
}

struct SnapshotState {
    /// `None` once its age was up.
    reader: Mutex<Option<Box<Reader>>>,
    expires: Instant,
    /// Whether its tenant was closed.
    closed: AtomicBool,
    tenant: TenantId,
}

struct SqliteSnapshot(Arc<SnapshotState>);

impl SqliteSnapshot {
    fn read<T>(&self, read: impl FnOnce(&Reader) -> Result<T>) -> Op<T> {
        let mut reader = lock(&self.0.reader);
        if Instant::now() >= self.0.expires {
            reader.take();
        }
        let result = match reader.as_ref() {
            Some(reader) => read(reader),
            None if self.0.closed.load(Ordering::Relaxed) => {
                Err(Error::new(ErrorKind::Closed, "the tenant was closed under the snapshot; open it again"))
            }
            None => Err(Error::new(
                ErrorKind::Timeout,
                format!(
                    "the snapshot is older than {SNAPSHOT_AGE_MS_MAX} ms, or a flush failed since; take another one"
                ),
            )),
        };
        Op::ready(result.map_err(|error| error.in_tenant(&self.0.tenant)))
    }
}

impl fmt::Debug for SqliteSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteSnapshot").field("tenant", &self.0.tenant).finish_non_exhaustive()
    }
}

impl View for SqliteSnapshot {
    fn get(&self, category: &[u8], key: &[u8]) -> Op<Option<Vec<u8>>> {
        self.read(|reader| reader.get(category, key))
    }

    fn exists(&self, category: &[u8], key: &[u8]) -> Op<bool> {
        self.read(|reader| reader.exists(category, key))
    }

    fn count(&self, category: &[u8], range: &KeyRange) -> Op<u64> {
        self.read(|reader| reader.count(category, range))
    }

    fn scan_page(&self, spec: ScanSpec) -> Op<Page> {
        self.read(|reader| reader.page(&spec))
    }

    fn categories(&self) -> Op<Vec<Vec<u8>>> {
        self.read(Reader::categories)
    }
}

#[cfg(all(test, not(shuttle)))]
#[allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::scheduler::{Engine as _, Request};
    use crate::sqlite::engine::{EngineOptions, SqliteEngine};
    use crate::{Batch, Durability, Key};

    /// A file with many small rows, its engine, and readers of it.
    fn place() -> (tempfile::TempDir, SqliteEngine, Arc<ReaderPool>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.db");
        let cache = CacheBudget::new(1 << 20);
        let options = EngineOptions::default();
        let mut engine = SqliteEngine::open(&path, None, options, None, cache.clone()).unwrap();
        let readers = ReaderPool::new(
            TenantId::new("t").unwrap(),
            path,
            engine.page_bytes(),
            cache,
            engine.index.clone(),
        );
        engine.readers = Some(readers.clone());
        let mut batch = Batch::new();
        for number in 0..60_000_u64 {
            batch.put("c", Key::of(number).unwrap(), b"x");
        }
        let request = Request { batch, durability: Durability::Relaxed };
        assert!(engine.commit_group(&[request]).iter().all(Result::is_ok));
        (directory, engine, readers)
    }

    #[test]
    fn who_needs_the_log_ends_long_reads_and_not_short_ones() {
        let (_directory, _engine, readers) = place();
        let snapshot = readers.snapshot().unwrap();
        let stopped = readers.stop_long_reads();
        for long in [readers.count(b"c", &KeyRange::all()), snapshot.count(b"c", &KeyRange::all())] {
            let error = long.wait().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        }
        let first = Key::of(0_u64).unwrap();
        assert!(readers.exists(b"c", first.as_bytes()).wait().unwrap());
        assert_eq!(readers.scan_page(ScanSpec::new("c", KeyRange::all())).wait().unwrap().rows.len(), 1_024);
        drop(stopped);
        assert_eq!(readers.count(b"c", &KeyRange::all()).wait().unwrap(), 60_000);
        assert_eq!(snapshot.count(b"c", &KeyRange::all()).wait().unwrap(), 60_000);
    }

    #[test]
    fn a_pause_closes_every_connection_and_reads_wait_for_its_end() {
        let (_directory, _engine, readers) = place();
        assert!(readers.exists(b"c", b"none").wait().is_ok_and(|exists| !exists));
        let snapshot = readers.snapshot().unwrap();
        let paused = readers.pause();
        assert_eq!(lock(&readers.state).open, 0);
        assert_eq!(snapshot.exists(b"c", b"none").wait().unwrap_err().kind(), ErrorKind::Timeout);
        let (say, said) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..3 {
                let (say, readers) = (say.clone(), readers.clone());
                scope.spawn(move || {
                    say.send("asked").unwrap();
                    readers.count(b"c", &KeyRange::all()).wait().unwrap();
                    say.send("answered").unwrap();
                });
            }
            assert!((0..3).all(|_| said.recv().unwrap() == "asked"), "nobody is answered meanwhile");
            drop(paused);
            assert!((0..3).all(|_| said.recv().unwrap() == "answered"));
        });
    }

    #[test]
    fn the_log_is_written_again_without_readers_and_they_come_back() {
        let (_directory, mut engine, readers) = place();
        assert_eq!(readers.count(b"c", &KeyRange::all()).wait().unwrap(), 60_000);
        engine.poison();
        let mut batch = Batch::new();
        batch.put("d", b"after", b"x");
        let request = Request { batch, durability: Durability::Durable };
        assert!(engine.commit_group(&[request]).iter().all(Result::is_ok));
        assert!(readers.exists(b"d", b"after").wait().unwrap());
        assert_eq!(readers.count(b"c", &KeyRange::all()).wait().unwrap(), 60_000);
        engine.close().unwrap();
    }
}
