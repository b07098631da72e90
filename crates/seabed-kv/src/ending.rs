//! The end of a tenant or of a store: one operation that several may wait for.
//!
//! Whoever closes or drops a tenant gets an [`Op`] and may drop it halfway. Who opens the same tenant next must not meet the old one
//! still writing, or its file about to be removed; so the end stays known to the store until it is over, and whoever waits for
//! it carries it on.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use crate::sync::{Mutex, MutexGuard, lock, try_lock};
use crate::{Op, Result};

/// An operation that is carried on by whoever waits for it, and answers each of them the same.
pub(crate) struct Ending {
    state: Mutex<State>,
    /// Apart from the state, which is locked while a step runs: the step itself may wake.
    waiting: Mutex<Vec<Waker>>,
}

enum State {
    Running(Op<()>),
    Over(Result<()>),
}

impl Ending {
    /// An end that has not begun.
    pub(crate) fn new(steps: impl Future<Output = Result<()>> + Send + 'static) -> Arc<Self> {
        let state = Mutex::new(State::Running(Op::from_future(steps)));
        Arc::new(Self { state, waiting: Mutex::default() })
    }

    /// Goes as far as it can now, so that an `Op` that is dropped at once has begun all the same.
    pub(crate) fn begin(self: &Arc<Self>) -> Poll<Result<()>> {
        self.poll(Waker::noop())
    }

    /// Done when the end is over.
    pub(crate) async fn over(self: Arc<Self>) -> Result<()> {
        std::future::poll_fn(|context| self.poll(context.waker())).await
    }

    /// As [`begin`](Ending::begin); where somebody is at a step, which may take long, it is not waited for.
    pub(crate) fn try_begin(self: &Arc<Self>) -> Poll<Result<()>> {
        try_lock(&self.state).map_or(Poll::Pending, |state| self.step(state, Waker::noop()))
    }

    fn poll(self: &Arc<Self>, waker: &Waker) -> Poll<Result<()>> {
        self.step(lock(&self.state), waker)
    }

    fn step(self: &Arc<Self>, mut state: MutexGuard<'_, State>, waker: &Waker) -> Poll<Result<()>> {
        let result = match &mut *state {
            State::Over(result) => return Poll::Ready(result.clone()),
            State::Running(step) => {
                // Noted before the step runs, so that no wake is missed.
                let mut waiting = lock(&self.waiting);
                if !waiting.iter().any(|known| known.will_wake(waker)) {
                    waiting.push(waker.clone());
                }
                drop(waiting);
                match Pin::new(step).poll(&mut Context::from_waker(&Waker::from(self.clone()))) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(result) => result,
                }
            }
        };
        *state = State::Over(result.clone());
        drop(state);
        self.wake_by_ref();
        Poll::Ready(result)
    }
}

impl Wake for Ending {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    /// Everybody: who wakes first carries it on, and the others may have gone.
    fn wake_by_ref(self: &Arc<Self>) {
        for waker in std::mem::take(&mut *lock(&self.waiting)) {
            waker.wake();
        }
    }
}

impl fmt::Debug for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ending")
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::op::pending;
    use crate::{Error, ErrorKind};

    #[test]
    fn everybody_who_waits_is_answered_the_same_once() {
        let (completer, first_step) = pending::<()>(Arc::default());
        let steps = Arc::new(AtomicU64::new(0));
        let counted = steps.clone();
        let ending = Ending::new(async move {
            first_step.await?;
            counted.fetch_add(1, Ordering::Relaxed);
            Err(Error::new(ErrorKind::Backend, "no"))
        });
        assert!(ending.begin().is_pending());
        // One that polls and goes leaves the others their turn.
        let mut gone = Op::from_future(ending.clone().over());
        assert!(Pin::new(&mut gone).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(gone);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let ending = ending.clone();
                std::thread::spawn(move || Op::from_future(ending.over()).wait())
            })
            .collect();
        completer.complete(Ok(()));
        for thread in threads {
            assert_eq!(thread.join().unwrap().unwrap_err().kind(), ErrorKind::Backend);
        }
        assert_eq!(steps.load(Ordering::Relaxed), 1);
        assert!(Op::from_future(ending.over()).wait().is_err());
    }
}
