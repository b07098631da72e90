//! Periodic work: one thread for all channels, which sleeps until something is due. Channels are swept at once, so that one whose
//! store is slow holds up no other.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use seabed_sds_core::{ChannelId, Input, Sweep};

use crate::driver::{Loaded, Slot};
use crate::lock::lock;
use crate::shared::Shared;
use crate::{Error, Result};

/// The longest the timer sleeps, in milliseconds: a clock that was set forward is noticed after that.
const SLEEP_MS_MAX: u64 = 60_000;

/// Does what is due in one channel. A failure is logged where it happens, and the channel is due again later.
async fn sweep(shared: Arc<Shared>, slot: Arc<Slot>) {
    shared.events.room().await;
    let Some(mut guard) = slot.clone().enter(&shared).await else { return };
    let due = match guard.load(&shared, || false).await {
        Ok(Loaded::There) => guard.operate(&shared, Input::Tick(Sweep::All)).await.map(drop),
        // Only a channel that was lost with its commit is not in memory, and nothing of it is in the store.
        Ok(_) => {
            guard.leave_empty(&shared);
            Ok(())
        }
        Err(error) => Err(error),
    };
    if let Err(error) = due {
        tracing::error!(channel = %slot.id, %error, "what was due was not done; it is tried again");
        guard.retry_later(&shared);
    }
}

/// Sweeps in progress, at most one a channel.
#[derive(Default)]
pub(crate) struct Sweeps(BTreeMap<ChannelId, Pin<Box<dyn Future<Output = ()> + Send>>>);

impl Sweeps {
    /// Begins one, unless the channel has one.
    pub(crate) fn add(&mut self, shared: Arc<Shared>, slot: Arc<Slot>) {
        self.0.entry(slot.id.clone()).or_insert_with(|| Box::pin(sweep(shared, slot)));
    }

    /// Carries all of them on; ready when none is left.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.0.retain(|_, sweep| sweep.as_mut().poll(context).is_pending());
        if self.0.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// The thread, when it runs.
pub(crate) struct Timer {
    shared: Weak<Shared>,
    running: Mutex<Option<Running>>,
}

struct Running {
    thread: JoinHandle<()>,
    /// Dropped to make the thread end.
    wanted: Arc<()>,
}

impl Timer {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::downgrade(shared), running: Mutex::default() }
    }

    pub(crate) fn start(&self) -> Result<()> {
        let mut running = lock(&self.running);
        if running.is_some() {
            return Ok(());
        }
        let wanted = Arc::new(());
        let (shared, still_wanted) = (self.shared.clone(), Arc::downgrade(&wanted));
        let thread =
            thread::Builder::new().name("sds-timer".into()).spawn(move || run(&shared, &still_wanted));
        let thread =
            thread.map_err(|error| Error::InvalidArgument(format!("no thread for the timer: {error}")))?;
        *running = Some(Running { thread, wanted });
        Ok(())
    }

    /// Something may be due earlier than before.
    pub(crate) fn wake(&self) {
        if let Some(running) = &*lock(&self.running) {
            running.thread.thread().unpark();
        }
    }

    /// Ends the thread and waits for that, unless it is the one that asks: a callback may.
    pub(crate) fn stop(&self) {
        let Some(Running { thread, wanted }) = lock(&self.running).take() else { return };
        drop(wanted);
        thread.thread().unpark();
        if thread.thread().id() != thread::current().id() && thread.join().is_err() {
            tracing::error!("the timer had panicked");
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(shared: &Weak<Shared>, wanted: &Weak<()>) {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut sweeps = Sweeps::default();
    while wanted.strong_count() > 0
        && let Some(shared) = shared.upgrade()
        && !shared.closed.load(Ordering::SeqCst)
    {
        let now_ms = shared.clock.now_ms();
        shared.tell_sync_due(now_ms);
        for slot in shared.registry.due(now_ms) {
            sweeps.add(shared.clone(), slot);
        }
        // A channel that is being swept is due until that is over; it wakes this thread then.
        let due_ms = match sweeps.poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(()) => shared.next_due_ms(),
            Poll::Pending => shared.registry.next_due_after_ms(now_ms),
        };
        shared.dispatcher.run();
        let sleep_ms = due_ms.map_or(SLEEP_MS_MAX, |due| due.saturating_sub(shared.clock.now_ms()));
        drop(shared);
        thread::park_timeout(Duration::from_millis(sleep_ms.min(SLEEP_MS_MAX)));
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
