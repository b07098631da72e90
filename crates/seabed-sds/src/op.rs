//! `Op`: one face for async callers and for threads.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::Result;
use crate::shared::Shared;

/// An operation: await it, or [`wait`](Op::wait) for it on a thread. It runs where it is awaited, and needs no runtime.
///
/// Dropping it is safe at any point. One that has not begun does nothing. What one that was committing has written stays
/// written, and what it was about to release is released by whoever uses the channel next, the timer included: nothing is
/// delivered twice, and nothing that was committed goes unsaid. Without a timer the channel is due at once
/// ([`next_due_ms`](crate::SdsManager::next_due_ms)).
///
/// One that has begun holds its channel until it is done or dropped: do not keep it without polling it.
#[must_use = "nothing happens until it is awaited or waited for"]
pub struct Op<T> {
    run: Pin<Box<dyn Future<Output = Result<T>> + Send>>,
    shared: Arc<Shared>,
}

impl<T> Op<T> {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        future: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Self {
        Self { run: Box::pin(future), shared: shared.clone() }
    }

    /// Blocks this thread until the operation is done, and calls the callbacks that it brings about.
    ///
    /// # Errors
    /// Whatever the operation answers.
    pub fn wait(mut self) -> Result<T> {
        let answer = pollster::block_on(&mut self.run);
        self.shared.dispatcher.run();
        answer
    }
}

impl<T> Future for Op<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.run.as_mut().poll(context);
        if polled.is_ready() {
            // Not here: a callback that waits would keep this thread from carrying on what it waits for.
            self.shared.dispatcher.hand_over();
        }
        polled
    }
}

impl<T> Drop for Op<T> {
    /// One that ends early may have released what others began.
    fn drop(&mut self) {
        self.shared.dispatcher.hand_over();
    }
}

impl<T> fmt::Debug for Op<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Op")
    }
}
