//! `Op`: one face for async callers and for threads.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use crate::sync::{Condvar, Mutex, lock, thread, wait};
use crate::{Error, ErrorKind, Result};

/// An operation that has been started: await it, or [`wait`](Op::wait) for it on a thread. It needs no runtime.
///
/// Dropping it is always safe: a write is applied all the same, and a failure that nobody awaited is logged and counted. What is made
/// of several steps (closing a store, dropping a tenant) runs where it is awaited, and ends between two steps when it is dropped.
#[must_use = "a read does nothing for you, and a write may have failed, unless you await it or call wait()"]
pub struct Op<T>(State<T>);

enum State<T> {
    Ready(Option<Result<T>>),
    Pending(Arc<Shared<T>>),
    Future(Pin<Box<dyn Future<Output = Result<T>> + Send>>),
}

struct Shared<T> {
    slot: Mutex<Slot<T>>,
    changed: Condvar,
    unobserved_failures: Arc<AtomicU64>,
}

struct Slot<T> {
    result: Option<Result<T>>,
    waker: Option<Waker>,
    /// Whether a thread waits on `changed`: waking nobody is a system call, too.
    waiting: bool,
    dropped: bool,
}

/// The other end of a pending [`Op`].
pub(crate) struct Completer<T>(Option<Arc<Shared<T>>>);

/// A pending operation and its completer. `unobserved_failures` counts failures whose `Op` was dropped.
pub(crate) fn pending<T>(unobserved_failures: Arc<AtomicU64>) -> (Completer<T>, Op<T>) {
    let slot = Slot { result: None, waker: None, waiting: false, dropped: false };
    let shared = Arc::new(Shared { slot: Mutex::new(slot), changed: Condvar::new(), unobserved_failures });
    (Completer(Some(shared.clone())), Op(State::Pending(shared)))
}

impl<T> Op<T> {
    /// An operation that is done.
    pub fn ready(result: Result<T>) -> Self {
        Self(State::Ready(Some(result)))
    }

    /// An operation made of others. It runs where it is awaited.
    pub fn from_future(future: impl Future<Output = Result<T>> + Send + 'static) -> Self {
        Self(State::Future(Box::pin(future)))
    }

    /// The same operation with another result. The conversion runs where the result is awaited.
    pub fn map<U: 'static>(self, convert: impl FnOnce(T) -> U + Send + 'static) -> Op<U>
    where
        T: Send + 'static,
    {
        match &self.0 {
            State::Ready(_) => Op::ready(self.wait().map(convert)),
            _ => Op::from_future(async move { self.await.map(convert) }),
        }
    }

    /// Blocks this thread until the operation is done.
    ///
    /// # Errors
    /// Whatever the operation answers.
    pub fn wait(mut self) -> Result<T> {
        match &mut self.0 {
            State::Ready(result) => result.take().unwrap_or_else(|| Err(taken())),
            State::Pending(shared) => {
                let mut slot = lock(&shared.slot);
                loop {
                    if let Some(result) = slot.result.take() {
                        return result;
                    }
                    slot.waiting = true;
                    slot = wait(&shared.changed, slot);
                }
            }
            State::Future(future) => block_on(future.as_mut()),
        }
    }
}

fn taken() -> Error {
    Error::invalid("the operation was polled again after it had answered")
}

impl<T> Future for Op<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Ready(result) => Poll::Ready(result.take().unwrap_or_else(|| Err(taken()))),
            State::Pending(shared) => {
                let mut slot = lock(&shared.slot);
                if let Some(result) = slot.result.take() {
                    drop(slot);
                    self.0 = State::Ready(None);
                    return Poll::Ready(result);
                }
                match &mut slot.waker {
                    Some(waker) => waker.clone_from(context.waker()),
                    none => *none = Some(context.waker().clone()),
                }
                Poll::Pending
            }
            State::Future(future) => future.as_mut().poll(context),
        }
    }
}

impl<T> Unpin for Op<T> {}

impl<T> Drop for Op<T> {
    fn drop(&mut self) {
        match &self.0 {
            State::Pending(shared) => {
                let mut slot = lock(&shared.slot);
                slot.dropped = true;
                if let Some(Err(error)) = slot.result.take() {
                    shared.report_unobserved(&error);
                }
            }
            State::Ready(Some(Err(error))) => log_unobserved(error),
            _ => {}
        }
    }
}

impl<T> fmt::Debug for Op<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            State::Ready(_) => "Op(ready)",
            State::Pending(_) | State::Future(_) => "Op(pending)",
        })
    }
}

impl<T> Shared<T> {
    fn report_unobserved(&self, error: &Error) {
        self.unobserved_failures.fetch_add(1, Ordering::Relaxed);
        log_unobserved(error);
    }
}

fn log_unobserved(error: &Error) {
    tracing::error!(%error, "an operation that nobody awaited failed");
}

impl<T> Completer<T> {
    /// Hands over the result and wakes who waits for it.
    pub(crate) fn complete(mut self, result: Result<T>) {
        self.finish(result);
    }

    fn finish(&mut self, result: Result<T>) {
        let Some(shared) = self.0.take() else { return };
        let mut slot = lock(&shared.slot);
        if slot.dropped {
            if let Err(error) = &result {
                shared.report_unobserved(error);
            }
            return;
        }
        slot.result = Some(result);
        let (waker, waiting) = (slot.waker.take(), slot.waiting);
        drop(slot);
        if waiting {
            shared.changed.notify_all();
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Drop for Completer<T> {
    /// Reached only when a queue is torn down around a request, or a writer panicked: nobody knows how far it came.
    fn drop(&mut self) {
        self.finish(Err(Error::new(
            ErrorKind::Closed,
            "the store was torn down before the operation answered",
        )
        .unknown()));
    }
}

impl<T> fmt::Debug for Completer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Completer")
    }
}

struct Parker(thread::Thread);

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(mut future: Pin<&mut (dyn Future<Output = T> + Send)>) -> T {
    let waker = Waker::from(Arc::new(Parker(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        thread::park();
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    fn counter() -> Arc<AtomicU64> {
        Arc::new(AtomicU64::new(0))
    }

    #[test]
    fn a_failure_that_nobody_awaits_is_counted_once_whenever_the_op_is_dropped() {
        let failed = || Err::<(), _>(Error::invalid("no"));
        let count = counter();
        let (completer, op) = pending(count.clone());
        drop(op);
        completer.complete(failed());
        assert_eq!(count.load(Ordering::Relaxed), 1);

        let (completer, op) = pending(count.clone());
        completer.complete(failed());
        drop(op);
        assert_eq!(count.load(Ordering::Relaxed), 2);

        let (completer, op) = pending(count.clone());
        completer.complete(failed());
        assert!(op.wait().is_err());
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_lost_completer_answers_closed_and_unknown() {
        let (completer, op) = pending::<()>(counter());
        drop(completer);
        let error = op.wait().unwrap_err();
        assert_eq!((error.kind(), error.applied()), (ErrorKind::Closed, crate::Applied::Unknown));
    }

    #[test]
    fn an_op_wakes_a_thread_and_a_task() {
        for map in [false, true] {
            let (completer, op) = pending::<u8>(counter());
            let op = if map { op.map(|value| value) } else { op };
            let thread = thread::spawn(move || op.wait());
            completer.complete(Ok(7));
            assert_eq!(thread.join().unwrap().unwrap(), 7);
        }
    }
}
