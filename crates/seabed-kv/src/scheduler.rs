//! Writers: a fixed pool of threads, and tenants as actors with a bounded mailbox.
//!
//! A tenant with requests stands in the run queue once, so no two threads ever write it. A thread takes what has
//! gathered, has it committed as one group, answers everybody, and puts the tenant at the back of the queue. No timer waits
//! for company: the flush in progress is the timer. More threads than cores are right, because they mostly wait for flushes.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::backend::Admission;
use crate::batch::DurabilityGate;
use crate::mailbox::Mailbox;
pub(crate) use crate::mailbox::Request;
use crate::op::pending;
use crate::sync::{Condvar, Mutex, MutexGuard, lock, spawn, wait};
use crate::{Batch, Commit, Durability, Error, ErrorKind, Op, Outcome, Refusal, Result, TenantId};

/// What an engine answers for one request.
#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    Applied { seq: u64, deleted: u64 },
    Refused(Refusal),
}

/// What writes a tenant. Its calls come one after another, from any writer thread.
pub(crate) trait Engine: Send + 'static {
    /// Applies the requests as one group and answers each, in order; or the first ones, when their answers are large, and then the others
    /// are the next group. Acknowledged Durable requests, and refusals, are durable
    /// when this returns.
    fn commit_group(&mut self, requests: &[Request]) -> Vec<Result<Verdict>>;

    /// The last commit that is known to survive a power cut.
    fn durable_seq(&self) -> u64;

    /// What is to be done once the group was answered: checkpoints.
    fn maintain(&mut self);

    /// Why it can do nothing more: its tenant is then closed.
    fn failure(&self) -> Option<Error> {
        None
    }

    /// Lets go of its files, which are opened again when they are needed; `false` when it needs them now.
    fn rest(&mut self, how: Rest) -> bool;

    /// Makes everything durable and lets go of the tenant.
    fn close(self) -> Result<()>;
}

/// How a tenant that is not in use lets go of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// As they are, without a flush: somebody else needs the room.
    Released,
    /// Whole, as at the end: there is time.
    Closed,
}

/// A tenant as an actor: its mailbox, its engine, and its place in the pool.
pub(crate) struct Actor<E: Engine> {
    tenant: TenantId,
    mailbox: Mutex<Mailbox>,
    /// Locked by the one writer thread that runs the actor; `None` once closed.
    engine: Mutex<Option<E>>,
    pool: Arc<Pool<E>>,
    durable_seq: AtomicU64,
    commits: AtomicU64,
    groups: AtomicU64,
    unobserved_failures: Arc<AtomicU64>,
}

impl<E: Engine> Actor<E> {
    pub(crate) fn new(tenant: TenantId, engine: E, pool: Arc<Pool<E>>) -> Arc<Self> {
        Arc::new(Self {
            mailbox: Mutex::new(Mailbox::new(tenant.clone())),
            tenant,
            durable_seq: AtomicU64::new(engine.durable_seq()),
            engine: Mutex::new(Some(engine)),
            pool,
            commits: AtomicU64::new(0),
            groups: AtomicU64::new(0),
            unobserved_failures: Arc::default(),
        })
    }

    /// Queues a request: it is in the mailbox when this returns, or it failed.
    pub(crate) fn submit(
        self: &Arc<Self>,
        batch: Batch,
        durability: Durability,
        admission: Admission,
    ) -> Op<Outcome> {
        let (completer, op) = pending(self.unobserved_failures.clone());
        let mut mailbox = lock(&self.mailbox);
        if mailbox.submit(Request { batch, durability }, admission, completer) {
            self.schedule(&mut mailbox);
        }
        op
    }

    /// Executes what is queued, then closes the engine. Whoever closes again waits for the same end.
    pub(crate) fn close(self: &Arc<Self>) -> Op<()> {
        let (completer, op) = pending(self.unobserved_failures.clone());
        let mut mailbox = lock(&self.mailbox);
        if mailbox.close(completer) {
            self.schedule(&mut mailbox);
        }
        op
    }

    /// Does something with the engine between two groups, on this thread.
    #[cfg(feature = "sqlite")]
    pub(crate) fn with_engine<T>(self: &Arc<Self>, work: impl FnOnce(&mut E) -> Result<T>) -> Result<T> {
        let mut engine = lock(&self.engine);
        let done = engine.as_mut().map_or_else(|| Err(lock(&self.mailbox).closed()), work);
        self.end_if_failed(engine);
        done.map_err(|error| error.in_tenant(&self.tenant))
    }

    /// Lets the engine rest; `false` when there is something to do for it. Never waits.
    #[cfg(any(feature = "sqlite", test))]
    pub(crate) fn rest(self: &Arc<Self>, how: Rest) -> bool {
        let mailbox = lock(&self.mailbox);
        if mailbox.has_ended() {
            return true;
        }
        if mailbox.scheduled {
            return false;
        }
        drop(mailbox);
        let Ok(mut guard) = self.engine.try_lock() else { return false };
        let Some(engine) = guard.as_mut() else { return true };
        let rested = engine.rest(how);
        self.durable_seq.store(engine.durable_seq(), Ordering::Release);
        self.end_if_failed(guard);
        rested
    }

    /// Has a writer thread end the tenant of an engine that can do nothing more.
    #[cfg(any(feature = "sqlite", test))]
    fn end_if_failed(self: &Arc<Self>, engine: MutexGuard<'_, Option<E>>) {
        let has_failed = engine.as_ref().is_some_and(|engine| engine.failure().is_some());
        drop(engine);
        if has_failed {
            self.schedule(&mut lock(&self.mailbox));
        }
    }

    /// Whether it was closed, or its engine failed beyond repair.
    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.mailbox).ending
    }

    fn schedule(self: &Arc<Self>, mailbox: &mut Mailbox) {
        if !mailbox.scheduled {
            mailbox.scheduled = true;
            self.pool.push(self.clone());
        }
    }

    /// Executes one group, on a writer thread. A panic, or an engine that can do nothing more, costs this tenant, not its writer thread and
    /// with it every other tenant.
    fn run(self: &Arc<Self>) {
        let ran = catch_unwind(AssertUnwindSafe(|| self.run_group()));
        let failure = ran.unwrap_or_else(|_| {
            let message =
                "the engine panicked; what was acknowledged as Relaxed may not have reached the disk";
            Some(Error::new(ErrorKind::Backend, message))
        });
        let mut mailbox = lock(&self.mailbox);
        if let Some(error) = failure {
            tracing::error!(tenant = %self.tenant, %error, "the tenant is closed");
            mailbox.ending = true;
            // Nobody closes it: what it has in its memory may be anything.
            self.end(mailbox, |_| Err(error));
            return;
        }
        if mailbox.is_empty() && mailbox.ending {
            self.end(mailbox, |engine| engine.map_or(Ok(()), E::close));
            return;
        }
        mailbox.scheduled = false;
        if !mailbox.is_empty() {
            // At the back of the run queue: other tenants come first.
            self.schedule(&mut mailbox);
        }
    }

    /// The last that is done for the tenant. It stays `scheduled`, so that nothing is done for it again.
    fn end(&self, mailbox: MutexGuard<'_, Mailbox>, close: impl FnOnce(Option<E>) -> Result<()>) {
        drop(mailbox);
        let engine = lock(&self.engine).take();
        let closed = catch_unwind(AssertUnwindSafe(|| close(engine))).unwrap_or_else(|_| {
            let message =
                "closing the tenant panicked; what was acknowledged as Relaxed may not have reached the disk";
            Err(Error::new(ErrorKind::Backend, message))
        });
        let closed = closed.map_err(|error| error.in_tenant(&self.tenant));
        let waiting = lock(&self.mailbox).end(closed);
        waiting.tell();
    }

    /// Answers why the engine can do nothing more.
    fn run_group(self: &Arc<Self>) -> Option<Error> {
        let (requests, completers) = lock(&self.mailbox).take_group();
        let mut engine = lock(&self.engine);
        let engine = engine.as_mut()?;
        if requests.is_empty() {
            return engine.failure();
        }
        let (mut left, mut completers) = (&requests[..], completers.into_iter());
        while !left.is_empty() {
            let verdicts = engine.commit_group(left);
            self.durable_seq.store(engine.durable_seq(), Ordering::Release);
            self.groups.fetch_add(1, Ordering::Relaxed);
            let (group, rest) = left.split_at(verdicts.len().clamp(1, left.len()));
            left = rest;
            for ((verdict, completer), request) in verdicts.into_iter().zip(&mut completers).zip(group) {
                completer.complete(self.answer(verdict, request));
            }
        }
        engine.maintain();
        engine.failure()
    }

    fn answer(self: &Arc<Self>, verdict: Result<Verdict>, request: &Request) -> Result<Outcome> {
        match verdict {
            Ok(Verdict::Applied { seq, deleted }) => {
                // A flush is a batch without writes.
                self.commits.fetch_add(u64::from(!request.batch.writes().is_empty()), Ordering::Relaxed);
                Ok(Outcome::Applied(match request.durability {
                    Durability::Durable => Commit::durable(seq, deleted),
                    Durability::Relaxed => Commit::relaxed(seq, deleted, self.clone()),
                }))
            }
            Ok(Verdict::Refused(refusal)) => Ok(Outcome::Refused(refusal)),
            Err(error) => Err(error.in_tenant(&self.tenant).in_batch(&request.batch)),
        }
    }

    /// Batches committed, groups committed, failures that nobody awaited.
    pub(crate) fn counters(&self) -> (u64, u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.commits), read(&self.groups), read(&self.unobserved_failures))
    }
}

impl<E: Engine> DurabilityGate for Actor<E> {
    fn wait_durable(self: Arc<Self>, seq: u64) -> Op<()> {
        if self.durable_seq.load(Ordering::Acquire) >= seq {
            return Op::ready(Ok(()));
        }
        self.submit(Batch::new(), Durability::Durable, Admission::Wait).map(|_| ())
    }
}

impl<E: Engine> fmt::Debug for Actor<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Actor").field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

/// The run queue of the writer threads.
pub(crate) struct Pool<E: Engine> {
    state: Mutex<PoolState<E>>,
    runnable: Condvar,
}

struct PoolState<E: Engine> {
    queue: VecDeque<Arc<Actor<E>>>,
    /// Threads that wait for an actor: waking nobody is a system call, too.
    waiting: usize,
    stopping: bool,
}

/// Keeps the writer threads alive: when the last clone is dropped, they end what is queued and stop.
pub(crate) struct PoolOwner<E: Engine>(Arc<OwnedPool<E>>);

struct OwnedPool<E: Engine>(Arc<Pool<E>>);

impl<E: Engine> Clone for PoolOwner<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<E: Engine> PoolOwner<E> {
    /// Starts `threads` writers.
    pub(crate) fn start(threads: usize) -> Result<Self> {
        let state = PoolState { queue: VecDeque::new(), waiting: 0, stopping: false };
        let pool = Arc::new(Pool { state: Mutex::new(state), runnable: Condvar::new() });
        // Owned from here on, so that a thread that cannot be made stops those that were.
        let owner = Self(Arc::new(OwnedPool(pool.clone())));
        for number in 0..threads {
            let pool = pool.clone();
            spawn(format!("seabed-writer-{number}"), move || pool.run()).map_err(|error| {
                Error::new(ErrorKind::Backend, format!("the writer threads could not be started: {error}"))
                    .with_source(error)
            })?;
        }
        Ok(owner)
    }

    pub(crate) fn pool(&self) -> Arc<Pool<E>> {
        self.0.0.clone()
    }
}

impl<E: Engine> Drop for OwnedPool<E> {
    fn drop(&mut self) {
        lock(&self.0.state).stopping = true;
        self.0.runnable.notify_all();
    }
}

impl<E: Engine> Pool<E> {
    fn push(&self, actor: Arc<Actor<E>>) {
        let mut state = lock(&self.state);
        state.queue.push_back(actor);
        let waiting = state.waiting > 0;
        drop(state);
        if waiting {
            self.runnable.notify_one();
        }
    }

    fn run(&self) {
        while let Some(actor) = self.next() {
            actor.run();
        }
    }

    /// The next actor with requests; `None` when the pool stops and the queue is empty.
    fn next(&self) -> Option<Arc<Actor<E>>> {
        let mut state = lock(&self.state);
        loop {
            if let Some(actor) = state.queue.pop_front() {
                return Some(actor);
            }
            if state.stopping {
                return None;
            }
            state.waiting += 1;
            state = wait(&self.runnable, state);
            state.waiting -= 1;
        }
    }
}

#[cfg(all(test, shuttle))]
mod shuttle_tests;

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    /// Panics over a batch that writes nothing, and when it is closed if it was told to.
    struct Panicking {
        at_close: bool,
    }

    impl Engine for Panicking {
        fn commit_group(&mut self, requests: &[Request]) -> Vec<Result<Verdict>> {
            assert!(requests.iter().all(|request| !request.batch.writes().is_empty()), "planted");
            requests.iter().map(|_| Ok(Verdict::Applied { seq: 1, deleted: 0 })).collect()
        }

        fn durable_seq(&self) -> u64 {
            1
        }

        fn maintain(&mut self) {}

        fn rest(&mut self, _: Rest) -> bool {
            true
        }

        fn close(self) -> Result<()> {
            assert!(!self.at_close, "planted");
            Ok(())
        }
    }

    fn write() -> Batch {
        let mut batch = Batch::new();
        batch.put("c", b"k", b"x");
        batch
    }

    #[test]
    fn a_panic_ends_its_tenant_and_nothing_else() {
        let owner = PoolOwner::start(1).unwrap();
        let actor =
            |id: &str, at_close| Actor::new(TenantId::new(id).unwrap(), Panicking { at_close }, owner.pool());
        let submit = |actor: &Arc<Actor<Panicking>>, batch| {
            actor.submit(batch, Durability::Durable, Admission::Wait).wait()
        };
        let (dying, other) = (actor("dying", false), actor("other", true));
        assert!(submit(&dying, write()).is_ok());
        let error = submit(&dying, Batch::new()).unwrap_err();
        assert_eq!((error.kind(), error.applied()), (ErrorKind::Closed, crate::Applied::Unknown));
        // The thread that answers still has to end the tenant. Whether what was Relaxed reached the disk nobody knows.
        let error = dying.close().wait().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Backend);
        assert!(error.to_string().contains("Relaxed"), "{error}");
        assert!(dying.is_closed());
        assert_eq!(submit(&dying, write()).unwrap_err().kind(), ErrorKind::Closed);

        // The one writer thread lives, also after a panic while closing.
        assert!(submit(&other, write()).is_ok());
        assert_eq!(other.close().wait().unwrap_err().kind(), ErrorKind::Backend);
        assert_eq!(other.close().wait().unwrap_err().kind(), ErrorKind::Backend);
        assert!(submit(&actor("third", false), write()).is_ok());
    }
}
