//! `Op`: one face for async callers and for threads.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::Result;

/// An operation: await it, or [`wait`](Op::wait) for it on a thread. It runs where it is awaited, and needs no runtime.
///
/// Dropping it is safe at any point. One that has not begun does nothing. What one that was committing has written stays
/// written, and what it was about to release is released by whoever uses the channel next, the timer included: nothing is
/// delivered twice, and nothing that was committed goes unsaid.
#[must_use = "nothing happens until it is awaited or waited for"]
pub struct Op<T>(Pin<Box<dyn Future<Output = Result<T>> + Send>>);

impl<T> Op<T> {
    pub(crate) fn new(future: impl Future<Output = Result<T>> + Send + 'static) -> Self {
        Self(Box::pin(future))
    }

    /// Blocks this thread until the operation is done.
    ///
    /// # Errors
    /// Whatever the operation answers.
    pub fn wait(self) -> Result<T> {
        pollster::block_on(self)
    }
}

impl<T> Future for Op<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(context)
    }
}

impl<T> fmt::Debug for Op<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Op")
    }
}
