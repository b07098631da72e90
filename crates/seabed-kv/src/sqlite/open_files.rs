//! Which tenants hold their files open: a bounded number, and whoever was not used for the longest time lets go first.
//!
//! 1. A tenant is listed from the first time that it is used. Each use notes its number, unless the one before was by the same tenant.
//! 2. When there are too many, the one that was used least lately lets go: of its readers, then of its writer, without a checkpoint and so
//!    without a flush. The log stays and is read again when the tenant is. One that is at work keeps its files and counts as used.
//! 3. Letting go is announced first: the tenant is off the list. Whoever uses it meanwhile is done with it after that, and lists it
//!    again. So no file stays open that is not listed, except for as long as it is used.
//! 4. Those that nobody uses for long are closed properly, log and all, by a thread of their own; those that let go before, too.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use super::cache::CacheBudget;
use super::engine::SqliteEngine;
use super::reader_pool::ReaderPool;
use crate::scheduler::{Actor, Rest};
use crate::sync::{Mutex, lock, spawn};
use crate::{Error, ErrorKind, Result};

/// How many that are at work are passed over before there may be one too many for a while.
const VICTIMS_MAX: usize = 8;

/// The list of one store.
pub(super) struct OpenFiles {
    tenants_max: usize,
    pub(super) cache: CacheBudget,
    listed: Mutex<Vec<Arc<Files>>>,
    /// Those that let go since the last sweep: each has left a log.
    released: Mutex<Vec<Arc<Files>>>,
    /// Counts how often another tenant was used than before, and sweeps.
    clock: AtomicU64,
    /// When it was swept the last time.
    swept: AtomicU64,
}

/// The files of one tenant, whoever holds them.
pub(super) struct Files {
    all: Arc<OpenFiles>,
    readers: Arc<ReaderPool>,
    writer: OnceLock<Weak<Actor<SqliteEngine>>>,
    used: AtomicU64,
    is_listed: AtomicBool,
    is_released: AtomicBool,
    /// The tenant was closed; what its writer still has to do is done with the files open.
    is_closed: AtomicBool,
}

impl OpenFiles {
    pub(super) fn new(tenants_max: usize, cache: CacheBudget) -> Arc<Self> {
        Arc::new(Self {
            tenants_max,
            cache,
            listed: Mutex::default(),
            released: Mutex::default(),
            clock: AtomicU64::new(0),
            swept: AtomicU64::new(0),
        })
    }

    /// Sweeps from time to time, until the answer is dropped.
    pub(super) fn sweep_every(self: &Arc<Self>, interval: Duration) -> Result<Sender<()>> {
        let (sweeping, ended) = channel::<()>();
        let all = Arc::downgrade(self);
        let sweep = move || {
            while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                let Some(all) = all.upgrade() else { return };
                all.sweep();
            }
        };
        spawn("seabed-sweep".to_owned(), sweep).map_err(|error| {
            Error::new(ErrorKind::Backend, format!("the sweeping thread could not be started: {error}"))
                .with_source(error)
        })?;
        Ok(sweeping)
    }

    /// Closes what was not used since the last sweep.
    fn sweep(&self) {
        let since = self.swept.swap(self.tick(), Ordering::Relaxed);
        let idle = |files: &Arc<Files>| files.used.load(Ordering::Relaxed) < since;
        let mut listed = lock(&self.listed);
        let (idle, busy): (Vec<_>, Vec<_>) = std::mem::take(&mut *listed).into_iter().partition(idle);
        *listed = busy;
        for files in &idle {
            files.is_listed.store(false, Ordering::SeqCst);
        }
        drop(listed);
        for files in idle {
            if !files.rest(Rest::Closed) {
                self.list(&files);
            }
        }
        let released = std::mem::take(&mut *lock(&self.released));
        for files in released {
            files.is_released.store(false, Ordering::SeqCst);
            // One that is in use again is closed when it no longer is.
            if !files.is_listed.load(Ordering::SeqCst) {
                files.rest(Rest::Closed);
            }
        }
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn list(&self, files: &Arc<Files>) {
        let mut listed = lock(&self.listed);
        if !files.is_closed.load(Ordering::SeqCst) && !files.is_listed.swap(true, Ordering::SeqCst) {
            files.used.store(self.tick(), Ordering::Relaxed);
            listed.push(files.clone());
        }
    }

    /// Makes room for the tenant that was listed last.
    fn make_room(&self, new: &Arc<Files>) {
        for _ in 0..VICTIMS_MAX {
            let victim = {
                let mut listed = lock(&self.listed);
                if listed.len() <= self.tenants_max {
                    return;
                }
                let others = listed.iter().enumerate().filter(|(_, files)| !Arc::ptr_eq(files, new));
                let Some((at, _)) = others.min_by_key(|(_, files)| files.used.load(Ordering::Relaxed)) else {
                    return;
                };
                let victim = listed.swap_remove(at);
                victim.is_listed.store(false, Ordering::SeqCst);
                victim
            };
            if !victim.rest(Rest::Released) {
                self.list(&victim);
            } else if !victim.is_released.swap(true, Ordering::SeqCst) {
                lock(&self.released).push(victim);
            }
        }
    }
}

impl Files {
    pub(super) fn new(all: Arc<OpenFiles>, readers: Arc<ReaderPool>) -> Arc<Self> {
        Arc::new(Self {
            all,
            readers,
            writer: OnceLock::new(),
            used: AtomicU64::new(0),
            is_listed: AtomicBool::new(false),
            is_released: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
        })
    }

    pub(super) fn set_writer(&self, writer: &Arc<Actor<SqliteEngine>>) {
        // There is one, set once.
        let _ = self.writer.set(Arc::downgrade(writer));
    }

    /// Called after each use.
    pub(super) fn used(self: &Arc<Self>) {
        if self.used.load(Ordering::Relaxed) != self.all.clock.load(Ordering::Relaxed) {
            self.used.store(self.all.tick(), Ordering::Relaxed);
        }
        if !self.is_listed.load(Ordering::SeqCst) {
            self.all.list(self);
            self.all.make_room(self);
        }
    }

    /// Called when the tenant is closed.
    pub(super) fn forget(self: &Arc<Self>) {
        let mut listed = lock(&self.all.listed);
        self.is_closed.store(true, Ordering::SeqCst);
        listed.retain(|files| !Arc::ptr_eq(files, self));
        drop(listed);
        if self.is_released.load(Ordering::SeqCst) {
            lock(&self.all.released).retain(|files| !Arc::ptr_eq(files, self));
        }
    }

    /// Lets go of the files; `false` when somebody is at work with them.
    fn rest(&self, how: Rest) -> bool {
        let writer = self.writer.get().and_then(Weak::upgrade);
        self.readers.rest() && writer.is_none_or(|writer| writer.rest(how))
    }
}
