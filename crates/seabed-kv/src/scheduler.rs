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
use crate::limits::{
    GROUP_BYTES_MAX, GROUP_REQUESTS_MAX, MAILBOX_BYTES_MAX, MAILBOX_REQUESTS_MAX, MAILBOX_WAITING_MAX,
};
use crate::op::{Completer, pending};
use crate::sync::{Condvar, Mutex, lock, spawn, wait};
use crate::{Batch, Commit, Durability, Error, ErrorKind, Op, Outcome, Refusal, Result, TenantId};

/// One batch on its way to a tenant's engine. An empty Durable one is a flush.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) batch: Batch,
    pub(crate) durability: Durability,
}

/// What an engine answers for one request.
#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    Applied { seq: u64, deleted: u64 },
    Refused(Refusal),
}

/// What writes a tenant. Its calls come one after another, from any writer thread.
pub(crate) trait Engine: Send + 'static {
    /// Applies the requests as one group and answers each, in order. Acknowledged Durable requests, and refusals, are durable
    /// when this returns.
    fn commit_group(&mut self, requests: &[Request]) -> Vec<Result<Verdict>>;

    /// The last commit that is known to survive a power cut.
    fn durable_seq(&self) -> u64;

    /// What is to be done once the group was answered: checkpoints.
    fn maintain(&mut self);

    /// Makes everything durable and lets go of the tenant.
    fn close(self) -> Result<()>;
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

#[derive(Default)]
struct Mailbox {
    /// Requests that will be executed.
    queue: VecDeque<Entry>,
    queue_bytes: usize,
    /// Requests that wait for room, in the order of the calls; each is withdrawn when its `Op` is dropped.
    waiting: VecDeque<Entry>,
    /// Whether the actor stands in the run queue or is being run.
    scheduled: bool,
    /// Set by a close: the request that ends the mailbox.
    closing: Option<Completer<()>>,
    closed: bool,
}

struct Entry {
    request: Request,
    completer: Completer<Outcome>,
}

impl Mailbox {
    fn has_room_for(&self, bytes: usize) -> bool {
        self.queue.is_empty()
            || (self.queue.len() < MAILBOX_REQUESTS_MAX && self.queue_bytes + bytes <= MAILBOX_BYTES_MAX)
    }

    fn push(&mut self, entry: Entry) {
        self.queue_bytes += entry.request.batch.bytes();
        self.queue.push_back(entry);
    }

    /// Lets in what waits for room, in order.
    fn admit_waiting(&mut self) {
        while let Some(entry) = self.waiting.front() {
            if !self.has_room_for(entry.request.batch.bytes()) {
                return;
            }
            if let Some(entry) = self.waiting.pop_front()
                && entry.completer.admit()
            {
                self.push(entry);
            }
        }
    }

    /// What one flush will serve.
    fn take_group(&mut self) -> (Vec<Request>, Vec<Completer<Outcome>>) {
        let (mut requests, mut completers, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some(entry) = self.queue.front() {
            bytes += entry.request.batch.bytes();
            if requests.len() == GROUP_REQUESTS_MAX || (bytes > GROUP_BYTES_MAX && !requests.is_empty()) {
                break;
            }
            if let Some(entry) = self.queue.pop_front() {
                self.queue_bytes -= entry.request.batch.bytes();
                requests.push(entry.request);
                completers.push(entry.completer);
            }
        }
        self.admit_waiting();
        (requests, completers)
    }
}

impl<E: Engine> Actor<E> {
    pub(crate) fn new(tenant: TenantId, engine: E, pool: Arc<Pool<E>>) -> Arc<Self> {
        Arc::new(Self {
            tenant,
            mailbox: Mutex::default(),
            durable_seq: AtomicU64::new(engine.durable_seq()),
            engine: Mutex::new(Some(engine)),
            pool,
            commits: AtomicU64::new(0),
            groups: AtomicU64::new(0),
            unobserved_failures: Arc::default(),
        })
    }

    /// Queues a request. It is in the mailbox, or waits for room in it, when this returns.
    pub(crate) fn submit(
        self: &Arc<Self>,
        batch: Batch,
        durability: Durability,
        admission: Admission,
    ) -> Op<Outcome> {
        let mut mailbox = lock(&self.mailbox);
        if mailbox.closed {
            return self.failed(self.closed().in_batch(&batch));
        }
        let has_room = mailbox.waiting.is_empty() && mailbox.has_room_for(batch.bytes());
        if !has_room && (admission == Admission::Try || mailbox.waiting.len() >= MAILBOX_WAITING_MAX) {
            return self.failed(self.busy().in_batch(&batch));
        }
        let (completer, op) = pending(has_room, self.unobserved_failures.clone());
        let entry = Entry { request: Request { batch, durability }, completer };
        if has_room {
            mailbox.push(entry);
        } else {
            mailbox.waiting.push_back(entry);
        }
        self.schedule(&mut mailbox);
        op
    }

    /// Executes what is queued, then closes the engine. A second close is Ok at once.
    pub(crate) fn close(self: &Arc<Self>) -> Op<()> {
        let mut mailbox = lock(&self.mailbox);
        if mailbox.closed {
            return Op::ready(Ok(()));
        }
        mailbox.closed = true;
        let (completer, op) = pending(true, self.unobserved_failures.clone());
        mailbox.closing = Some(completer);
        self.schedule(&mut mailbox);
        op
    }

    /// Does something with the engine between two groups, on this thread.
    #[cfg(feature = "sqlite")]
    pub(crate) fn with_engine<T>(&self, work: impl FnOnce(&mut E) -> Result<T>) -> Result<T> {
        let done = lock(&self.engine).as_mut().map_or_else(|| Err(self.closed()), work);
        done.map_err(|error| error.in_tenant(&self.tenant))
    }

    fn schedule(self: &Arc<Self>, mailbox: &mut Mailbox) {
        if !mailbox.scheduled {
            mailbox.scheduled = true;
            self.pool.push(self.clone());
        }
    }

    /// Executes one group, on a writer thread.
    fn run(self: &Arc<Self>) {
        let (requests, completers) = lock(&self.mailbox).take_group();
        let mut engine = lock(&self.engine);
        if !requests.is_empty() {
            self.run_group(&mut engine, &requests, completers);
        }
        let closing = {
            let mut mailbox = lock(&self.mailbox);
            if mailbox.queue.is_empty() { mailbox.closing.take() } else { None }
        };
        if let Some(completer) = closing {
            let result = engine.take().map_or(Ok(()), E::close);
            completer.complete(result.map_err(|error| error.in_tenant(&self.tenant)));
        }
        drop(engine);
        let mut mailbox = lock(&self.mailbox);
        mailbox.scheduled = false;
        if !mailbox.queue.is_empty() || mailbox.closing.is_some() {
            // At the back of the run queue: other tenants come first.
            self.schedule(&mut mailbox);
        }
    }

    fn run_group(
        self: &Arc<Self>,
        engine: &mut Option<E>,
        requests: &[Request],
        completers: Vec<Completer<Outcome>>,
    ) {
        let Some(running) = engine.as_mut() else {
            for (completer, request) in completers.into_iter().zip(requests) {
                completer.complete(Err(self.closed().in_batch(&request.batch)));
            }
            return;
        };
        // A panic costs this tenant, not its writer thread, and with it every other tenant.
        let Ok(verdicts) = catch_unwind(AssertUnwindSafe(|| running.commit_group(requests))) else {
            tracing::error!(tenant = %self.tenant, "the engine panicked; the tenant is closed");
            *engine = None;
            lock(&self.mailbox).closed = true;
            return; // Each completer answers Closed and Unknown as it is dropped.
        };
        self.durable_seq.store(running.durable_seq(), Ordering::Release);
        self.groups.fetch_add(1, Ordering::Relaxed);
        for ((verdict, completer), request) in verdicts.into_iter().zip(completers).zip(requests) {
            completer.complete(match verdict {
                Ok(Verdict::Applied { seq, deleted }) => {
                    self.commits.fetch_add(1, Ordering::Relaxed);
                    Ok(Outcome::Applied(match request.durability {
                        Durability::Durable => Commit::durable(seq, deleted),
                        Durability::Relaxed => Commit::relaxed(seq, deleted, self.clone()),
                    }))
                }
                Ok(Verdict::Refused(refusal)) => Ok(Outcome::Refused(refusal)),
                Err(error) => Err(error.in_tenant(&self.tenant).in_batch(&request.batch)),
            });
        }
        running.maintain();
    }

    /// A failure that is logged and counted when nobody awaits it, like every other.
    fn failed(&self, error: Error) -> Op<Outcome> {
        let (completer, op) = pending(true, self.unobserved_failures.clone());
        completer.complete(Err(error));
        op
    }

    fn closed(&self) -> Error {
        Error::new(ErrorKind::Closed, "the tenant is closed; open it again").in_tenant(&self.tenant)
    }

    fn busy(&self) -> Error {
        let message = format!(
            "the mailbox is full ({MAILBOX_REQUESTS_MAX} requests or {MAILBOX_BYTES_MAX} bytes); nothing was applied, try again later"
        );
        Error::new(ErrorKind::Busy, message).in_tenant(&self.tenant)
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
