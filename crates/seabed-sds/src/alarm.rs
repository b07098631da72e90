//! What wakes the timer: something is due before it would have looked.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, Thread};

use crate::lock::lock;

/// Until when the timer sleeps, and who it is.
#[derive(Default)]
pub(crate) struct Alarm {
    /// 0 while there is no timer, and the end of time while it is awake: then it looks once more before it sleeps.
    until_ms: AtomicU64,
    sleeper: Mutex<Option<Thread>>,
}

impl Alarm {
    /// This thread is the timer from now on, and awake.
    pub(crate) fn set_up(&self) {
        *lock(&self.sleeper) = Some(thread::current());
        self.awake();
    }

    pub(crate) fn awake(&self) {
        self.until_ms.store(u64::MAX, Ordering::SeqCst);
    }

    /// To be called right before it sleeps. What became due since it looked has rung, and sleeping ends at once.
    pub(crate) fn sleeps_until(&self, due_ms: u64) {
        self.until_ms.store(due_ms, Ordering::SeqCst);
    }

    /// Something is due then.
    pub(crate) fn ring(&self, due_ms: u64) {
        if due_ms < self.until_ms.load(Ordering::SeqCst)
            && let Some(sleeper) = &*lock(&self.sleeper)
        {
            sleeper.unpark();
        }
    }

    /// There is no timer any more.
    pub(crate) fn take_down(&self) {
        self.until_ms.store(0, Ordering::SeqCst);
        *lock(&self.sleeper) = None;
    }
}
