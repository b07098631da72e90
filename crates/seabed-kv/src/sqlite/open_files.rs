//! Which tenants hold their files open: a bounded number, and whoever is used least often, lately, lets go first.
//!
//! 1. A tenant is listed from the first time that it is used. Each use is noted, unless the one before was by the same tenant.
//! 2. When there are too many, the one that is worth least ([`Worth`]) lets go: of its readers, then of its writer, without a checkpoint
//!    and so without a flush. The log stays and is read again when the tenant is. One that is at work keeps its files.
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
use super::worth::Worth;
use crate::scheduler::{Actor, Rest};
use crate::sync::{Mutex, lock, spawn};
use crate::{Error, ErrorKind, Result};

/// How many that are at work are passed over before there may be one too many for a while.
const VICTIMS_MAX: usize = 8;

/// The list of one store.
pub(super) struct OpenFiles {
    tenants_max: usize,
    pub(super) cache: CacheBudget,
    listed: Mutex<Vec<Listed>>,
    /// Those that let go since the last sweep: each has left a log.
    released: Mutex<Vec<Arc<Files>>>,
    /// Counts how often another tenant was used than before, and sweeps.
    clock: AtomicU64,
    /// When it was swept the last time.
    swept: AtomicU64,
}

/// A tenant on the list.
struct Listed {
    files: Arc<Files>,
    /// What it was worth when that was asked last. It is worth no less now.
    worth_min: f64,
}

/// The files of one tenant, whoever holds them.
pub(super) struct Files {
    all: Arc<OpenFiles>,
    readers: Arc<ReaderPool>,
    writer: OnceLock<Weak<Actor<SqliteEngine>>>,
    /// The number of its last use.
    used: AtomicU64,
    worth: Worth,
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
            // Not where every tenant stands that was never used.
            clock: AtomicU64::new(1),
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
        let idle = |listed: &Listed| listed.files.used.load(Ordering::Relaxed) < since;
        let mut listed = lock(&self.listed);
        let (idle, busy): (Vec<_>, Vec<_>) = std::mem::take(&mut *listed).into_iter().partition(idle);
        *listed = busy;
        for Listed { files, .. } in &idle {
            files.is_listed.store(false, Ordering::SeqCst);
        }
        drop(listed);
        for Listed { files, .. } in idle {
            if !files.rest(Rest::Closed) {
                files.note_use();
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
            listed.push(Listed { files: files.clone(), worth_min: files.worth.get() });
        }
    }

    /// Makes room for the tenant that was listed last.
    fn make_room(&self, new: &Arc<Files>) {
        let mut at_work = Vec::new();
        while at_work.len() < VICTIMS_MAX {
            let victim = {
                let mut listed = lock(&self.listed);
                if listed.len() + at_work.len() <= self.tenants_max {
                    break;
                }
                let Some(at) = worth_least(&mut listed, new) else { break };
                let victim = listed.swap_remove(at).files;
                victim.is_listed.store(false, Ordering::SeqCst);
                victim
            };
            if !victim.rest(Rest::Released) {
                at_work.push(victim);
            } else if !victim.is_released.swap(true, Ordering::SeqCst) {
                lock(&self.released).push(victim);
            }
        }
        for files in at_work {
            self.list(&files);
        }
    }
}

/// Where the one stands that is worth least, of all but one.
fn worth_least(listed: &mut [Listed], but: &Arc<Files>) -> Option<usize> {
    let mut least: Option<(usize, f64)> = None;
    for (at, listed) in listed.iter_mut().enumerate() {
        let is_more = |worth: f64| least.is_some_and(|(_, least)| worth >= least);
        // Most are passed over by what stands in the list: what each is worth now is anywhere in memory.
        if is_more(listed.worth_min) || Arc::ptr_eq(&listed.files, but) {
            continue;
        }
        listed.worth_min = listed.files.worth.get();
        if !is_more(listed.worth_min) {
            least = Some((at, listed.worth_min));
        }
    }
    least.map(|(at, _)| at)
}

impl Files {
    pub(super) fn new(all: Arc<OpenFiles>, readers: Arc<ReaderPool>) -> Arc<Self> {
        Arc::new(Self {
            all,
            readers,
            writer: OnceLock::new(),
            used: AtomicU64::new(0),
            worth: Worth::none(),
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
            self.note_use();
        }
        if !self.is_listed.load(Ordering::SeqCst) {
            self.all.list(self);
            self.all.make_room(self);
        }
    }

    fn note_use(&self) {
        let number = self.all.tick();
        self.used.store(number, Ordering::Relaxed);
        self.worth.note(number, self.all.tenants_max);
    }

    /// Called when the tenant is closed.
    pub(super) fn forget(self: &Arc<Self>) {
        let mut listed = lock(&self.all.listed);
        self.is_closed.store(true, Ordering::SeqCst);
        listed.retain(|listed| !Arc::ptr_eq(&listed.files, self));
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
