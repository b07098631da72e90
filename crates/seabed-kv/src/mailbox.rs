//! The mailbox of a tenant: requests in the order of their calls, within bounds, until it ends.

use std::collections::VecDeque;

use crate::backend::Admission;
use crate::limits::{
    GROUP_BYTES_MAX, GROUP_REQUESTS_MAX, MAILBOX_BYTES_MAX, MAILBOX_REQUESTS_MAX, MAILBOX_WAITING_BYTES_MAX,
    MAILBOX_WAITING_MAX,
};
use crate::op::Completer;
use crate::{Batch, Durability, Error, ErrorKind, Outcome, Result, TenantId};

/// One batch on its way to what writes the tenant. An empty Durable one is a flush.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) batch: Batch,
    pub(crate) durability: Durability,
}

/// What is to be written, and who waits for it.
pub(crate) struct Mailbox {
    tenant: TenantId,
    /// In the order of the calls; each will be executed, also when its `Op` is dropped.
    queue: VecDeque<Entry>,
    queue_bytes: usize,
    /// Whether somebody empties it, or is about to.
    pub(crate) scheduled: bool,
    /// Those who wait for the close, which comes after the queue.
    closing: Vec<Completer<()>>,
    /// Nothing is queued any more.
    pub(crate) ending: bool,
    /// What writes the tenant is gone, and this is how it went.
    ended: Option<Result<()>>,
}

struct Entry {
    request: Request,
    completer: Completer<Outcome>,
}

/// Requests, and who waits for each of them.
pub(crate) type Group = (Vec<Request>, Vec<Completer<Outcome>>);

impl Mailbox {
    pub(crate) fn new(tenant: TenantId) -> Self {
        Self {
            tenant,
            queue: VecDeque::new(),
            queue_bytes: 0,
            scheduled: false,
            closing: Vec::new(),
            ending: false,
            ended: None,
        }
    }

    /// Queues a request; when it cannot, tells why and is `false`.
    pub(crate) fn submit(
        &mut self,
        request: Request,
        admission: Admission,
        completer: Completer<Outcome>,
    ) -> bool {
        let refused = if self.ending {
            self.closed()
        } else if !self.has_room_for(request.batch.held_bytes(), admission) {
            self.full(admission)
        } else {
            self.queue_bytes += request.batch.held_bytes();
            self.queue.push_back(Entry { request, completer });
            return true;
        };
        completer.complete(Err(refused.in_batch(&request.batch)));
        false
    }

    fn has_room_for(&self, bytes: usize, admission: Admission) -> bool {
        let (requests_max, bytes_max) = bounds(admission);
        self.queue.is_empty() || (self.queue.len() < requests_max && self.queue_bytes + bytes <= bytes_max)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// What one flush will serve.
    pub(crate) fn take_group(&mut self) -> Group {
        let (mut group, mut bytes) = (Group::default(), 0);
        while let Some(entry) = self.queue.front() {
            bytes += entry.request.batch.bytes();
            if group.0.len() == GROUP_REQUESTS_MAX || (bytes > GROUP_BYTES_MAX && !group.0.is_empty()) {
                break;
            }
            if let Some(entry) = self.queue.pop_front() {
                self.queue_bytes -= entry.request.batch.held_bytes();
                group.0.push(entry.request);
                group.1.push(entry.completer);
            }
        }
        group
    }

    /// All that waits.
    #[cfg(feature = "postgres")]
    pub(crate) fn take_all(&mut self) -> Group {
        self.queue_bytes = 0;
        self.queue.drain(..).map(|entry| (entry.request, entry.completer)).unzip()
    }

    /// Lets the queue be the last; when it has come to its end, tells how that went and is `false`.
    pub(crate) fn close(&mut self, completer: Completer<()>) -> bool {
        if let Some(ended) = &self.ended {
            completer.complete(ended.clone());
            return false;
        }
        self.ending = true;
        self.closing.push(completer);
        true
    }

    #[cfg(any(feature = "sqlite", test))]
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Ends it. Those who still wait are told by [`Waiting::tell`], without its lock.
    pub(crate) fn end(&mut self, ended: Result<()>) -> Waiting {
        self.ending = true;
        self.ended = Some(ended.clone());
        Waiting {
            queue: std::mem::take(&mut self.queue),
            closing: std::mem::take(&mut self.closing),
            closed: self.closed(),
            ended,
        }
    }

    pub(crate) fn closed(&self) -> Error {
        Error::new(ErrorKind::Closed, "the tenant is closed; open it again").in_tenant(&self.tenant)
    }

    fn full(&self, admission: Admission) -> Error {
        let (requests, bytes) = bounds(admission);
        let message = format!(
            "the mailbox is full ({requests} requests or {bytes} bytes wait); nothing was applied, try again later"
        );
        Error::new(ErrorKind::Busy, message).in_tenant(&self.tenant)
    }
}

fn bounds(admission: Admission) -> (usize, usize) {
    match admission {
        Admission::Try => (MAILBOX_REQUESTS_MAX, MAILBOX_BYTES_MAX),
        Admission::Wait => (MAILBOX_WAITING_MAX, MAILBOX_WAITING_BYTES_MAX),
    }
}

/// Those who waited when a mailbox ended.
pub(crate) struct Waiting {
    queue: VecDeque<Entry>,
    closing: Vec<Completer<()>>,
    closed: Error,
    ended: Result<()>,
}

impl Waiting {
    pub(crate) fn tell(self) {
        for entry in self.queue {
            entry.completer.complete(Err(self.closed.clone().in_batch(&entry.request.batch)));
        }
        for completer in self.closing {
            completer.complete(self.ended.clone());
        }
    }
}
