//! The mailbox of a tenant, and the one task that empties it: while a statement is on its way, the next requests gather.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Semaphore;

use super::batch::{Committing, Stopped};
use super::{Dialect, Shared, batch, portable};
use crate::backend::Admission;
use crate::batch::DurabilityGate;
use crate::limits::SNAPSHOTS_MAX;
use crate::mailbox::{Mailbox, Request};
use crate::op::{Completer, pending};
use crate::sync::{Mutex, lock};
use crate::{Batch, Commit, Durability, Error, ErrorKind, Op, Outcome, Refusal, Result, TenantId};

/// What is known of commits that were acknowledged before they were durable.
#[derive(Debug, Default)]
struct Relaxed {
    /// The epoch of the server in which they were committed.
    epoch: Option<i64>,
    /// Those that the server may have lost, from a position to a position.
    lost: Vec<(u64, u64)>,
}

/// How many losses are told apart.
const LOSSES_MAX: usize = 16;

/// What the server answers for one request.
#[derive(Debug)]
pub(super) enum Verdict {
    Applied { deleted: u64 },
    Refused(Refusal),
}

/// What writes one tenant: one statement after another, so that its writes take effect in the order of the calls.
pub(super) struct Writer {
    pub(super) id: TenantId,
    pub(super) shared: Arc<Shared>,
    mailbox: Mutex<Mailbox>,
    seq: AtomicU64,
    durable_seq: AtomicU64,
    relaxed: Mutex<Relaxed>,
    commits: AtomicU64,
    groups: AtomicU64,
    unobserved_failures: Arc<AtomicU64>,
    /// Bounds the snapshots of this tenant.
    pub(super) snapshots: Arc<Semaphore>,
}

impl Writer {
    pub(super) fn new(id: TenantId, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            mailbox: Mutex::new(Mailbox::new(id.clone())),
            id,
            shared,
            seq: AtomicU64::new(0),
            durable_seq: AtomicU64::new(0),
            relaxed: Mutex::default(),
            commits: AtomicU64::new(0),
            groups: AtomicU64::new(0),
            unobserved_failures: Arc::default(),
            snapshots: Arc::new(Semaphore::new(SNAPSHOTS_MAX)),
        })
    }

    /// Queues a request: it is in the mailbox when this returns, or it failed.
    pub(super) fn submit(
        self: &Arc<Self>,
        batch: Batch,
        durability: Durability,
        admission: Admission,
    ) -> Op<Outcome> {
        let (completer, op) = pending(self.unobserved_failures.clone());
        let mut mailbox = lock(&self.mailbox);
        if mailbox.submit(Request { batch, durability }, admission, completer) {
            self.run(&mut mailbox);
        }
        op
    }

    /// Sends what is queued and makes it durable. Whoever closes again waits for the same end.
    pub(super) fn close(self: &Arc<Self>) -> Op<()> {
        let (completer, op) = pending(self.unobserved_failures.clone());
        let mut mailbox = lock(&self.mailbox);
        if mailbox.close(completer) {
            self.run(&mut mailbox);
        }
        op
    }

    pub(super) fn is_closed(&self) -> bool {
        lock(&self.mailbox).ending
    }

    pub(super) fn closed(&self) -> Error {
        lock(&self.mailbox).closed()
    }

    /// Batches committed, groups committed, failures that nobody awaited.
    pub(super) fn counters(&self) -> (u64, u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.commits), read(&self.groups), read(&self.unobserved_failures))
    }

    fn run(self: &Arc<Self>, mailbox: &mut Mailbox) {
        if !mailbox.scheduled {
            mailbox.scheduled = true;
            let task = Task { writer: self.clone(), over: false };
            self.shared.handle().spawn(async move { task.run().await });
        }
    }

    /// Commits one group, or the beginning of it; whether it was durable is the dialect's to say.
    async fn commit(&self, requests: &[Request]) -> (Vec<Result<Verdict>>, bool) {
        if self.shared.dialect == Dialect::Portable {
            return (portable::commit(&self.shared, &self.id, requests).await, true);
        }
        let durable = requests.iter().any(|request| request.durability == Durability::Durable);
        let (seq, durable_seq) = (self.seq.load(Ordering::Relaxed), self.durable_seq.load(Ordering::Acquire));
        let relied_on = if durable_seq < seq { lock(&self.relaxed).epoch } else { None };
        let commit = Committing { durable, relied_on };
        let verdicts = match batch::commit(&self.shared, &self.id, requests, commit).await {
            Ok(committed) => {
                if let Some(epoch) = committed.epoch {
                    lock(&self.relaxed).epoch = Some(epoch);
                }
                committed.verdicts.into_iter().map(Ok).collect()
            }
            Err(Stopped::Lost) => {
                self.lose(durable_seq, seq);
                self.refuse_waiting();
                requests.iter().map(|_| Err(batch::lost())).collect()
            }
            Err(Stopped::Failed(error)) => requests.iter().map(|_| Err(error.clone())).collect(),
        };
        (verdicts, durable)
    }

    /// Notes that what came after `durable_seq` may be gone, and goes on from what the server holds.
    fn lose(&self, durable_seq: u64, seq: u64) {
        tracing::error!(tenant = %self.id, commits = seq - durable_seq, "PostgreSQL may have lost relaxed commits");
        let mut relaxed = lock(&self.relaxed);
        relaxed.epoch = None;
        if relaxed.lost.len() == LOSSES_MAX
            && let Some(last) = relaxed.lost.last_mut()
        {
            last.1 = seq;
        } else {
            relaxed.lost.push((durable_seq, seq));
        }
        drop(relaxed);
        self.durable_seq.store(seq, Ordering::Release);
    }

    /// What was queued by then would be applied to a state that lacks what its caller had seen before: a crash may take the last relaxed
    /// commits, and nothing from their middle.
    fn refuse_waiting(&self) {
        let (requests, completers) = lock(&self.mailbox).take_all();
        for (request, completer) in requests.iter().zip(completers) {
            completer.complete(Err(batch::lost().in_tenant(&self.id).in_batch(&request.batch)));
        }
    }

    fn is_lost(&self, seq: u64) -> bool {
        lock(&self.relaxed).lost.iter().any(|(from, to)| (from + 1..=*to).contains(&seq))
    }

    async fn commit_group(self: &Arc<Self>, mut requests: Vec<Request>, completers: Vec<Completer<Outcome>>) {
        let mut completers = completers.into_iter();
        while !requests.is_empty() {
            let (mut verdicts, durable) = self.commit(&requests).await;
            if verdicts.is_empty() {
                verdicts.extend(requests.iter().map(|_| Err(unanswered())));
            }
            let rest = requests.split_off(verdicts.len().min(requests.len()));
            self.answer(verdicts, durable, &requests, &mut completers);
            requests = rest;
        }
    }

    /// Tells the callers of one commit.
    fn answer(
        self: &Arc<Self>,
        verdicts: Vec<Result<Verdict>>,
        durable: bool,
        requests: &[Request],
        completers: &mut impl Iterator<Item = Completer<Outcome>>,
    ) {
        self.groups.fetch_add(1, Ordering::Relaxed);
        let failed = verdicts.iter().any(Result::is_err);
        for ((verdict, request), completer) in verdicts.into_iter().zip(requests).zip(completers) {
            completer.complete(match verdict {
                Ok(Verdict::Applied { deleted }) => {
                    let seq = self.seq.fetch_add(1, Ordering::Relaxed) + 1;
                    // A flush is a batch without writes.
                    self.commits.fetch_add(u64::from(!request.batch.writes().is_empty()), Ordering::Relaxed);
                    if durable && !failed {
                        self.durable_seq.store(seq, Ordering::Release);
                    }
                    Ok(Outcome::Applied(if durable {
                        Commit::durable(seq, deleted)
                    } else {
                        Commit::relaxed(seq, deleted, self.clone())
                    }))
                }
                Ok(Verdict::Refused(refusal)) => Ok(Outcome::Refused(refusal)),
                Err(error) => Err(error.in_tenant(&self.id).in_batch(&request.batch)),
            });
        }
    }

    /// The last that is done for the tenant.
    async fn end(&self) -> Result<()> {
        if self.durable_seq.load(Ordering::Acquire) == self.seq.load(Ordering::Relaxed) {
            return Ok(());
        }
        let flush = Request { batch: Batch::new(), durability: Durability::Durable };
        let (verdicts, _) = self.commit(&[flush]).await;
        verdicts
            .into_iter()
            .try_for_each(|verdict| verdict.map(|_| ()))
            .map_err(|error| error.in_tenant(&self.id))
    }

    fn ended(&self, ended: Result<()>) {
        let waiting = lock(&self.mailbox).end(ended);
        waiting.tell();
    }
}

/// A server whose functions are not ours.
fn unanswered() -> Error {
    Error::new(ErrorKind::Backend, "PostgreSQL answered nothing; verify that its functions are Seabed's")
        .unknown()
}

/// The task, while it runs.
struct Task {
    writer: Arc<Writer>,
    /// Whether it came to its end.
    over: bool,
}

impl Task {
    async fn run(mut self) {
        let writer = self.writer.clone();
        loop {
            let group = {
                let mut mailbox = lock(&writer.mailbox);
                if mailbox.is_empty() && !mailbox.ending {
                    mailbox.scheduled = false;
                    self.over = true;
                    return;
                }
                mailbox.take_group()
            };
            if group.0.is_empty() {
                // It stays `scheduled`, so that nothing is sent for it again.
                let ended = writer.end().await;
                if ended.is_ok() {
                    writer.durable_seq.store(writer.seq.load(Ordering::Relaxed), Ordering::Release);
                }
                self.over = true;
                return writer.ended(ended);
            }
            writer.commit_group(group.0, group.1).await;
        }
    }
}

impl Drop for Task {
    /// A panic, or a runtime that was torn down, costs this tenant and no other.
    fn drop(&mut self) {
        if !self.over {
            let message = "the task that writes the tenant was torn down; open the tenant again";
            self.writer.ended(Err(Error::new(ErrorKind::Backend, message).in_tenant(&self.writer.id)));
        }
    }
}

impl DurabilityGate for Writer {
    fn wait_durable(self: Arc<Self>, seq: u64) -> Op<()> {
        // In this order: a loss is noted before what precedes it counts as settled.
        let settled = self.durable_seq.load(Ordering::Acquire) >= seq;
        if self.is_lost(seq) {
            return Op::ready(Err(batch::lost().unknown().in_tenant(&self.id)));
        }
        if settled {
            return Op::ready(Ok(()));
        }
        let flush = self.submit(Batch::new(), Durability::Durable, Admission::Wait);
        Op::from_future(async move {
            flush.await?;
            // Another flush may have learnt of the loss meanwhile.
            if self.is_lost(seq) {
                return Err(batch::lost().unknown().in_tenant(&self.id));
            }
            Ok(())
        })
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("tenant", &self.id).finish_non_exhaustive()
    }
}
