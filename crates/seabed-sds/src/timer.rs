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

use crate::caught;
use crate::driver::{Loaded, Slot};
use crate::limits::SLEEP_MS_MAX;
use crate::lock::lock;
use crate::shared::Shared;
use crate::{Error, Result};

/// Does what is due in one channel, and ends what was begun there by callers that went away. A failure is logged where it happens, and the
/// channel is due again later.
async fn sweep(shared: Arc<Shared>, slot: Arc<Slot>, waits_for_room: bool) {
    if waits_for_room {
        shared.room().await;
    } else if shared.is_full() {
        return;
    }
    let Ok(mut guard) = slot.clone().enter(&shared).await else { return };
    if shared.require_open().is_err() {
        return;
    }
    let due = match guard.load(|| None).await {
        Ok(Loaded::Absent) => Ok(()),
        Ok(Loaded::There | Loaded::Made) => guard.operate(Input::Tick(Sweep::All)).await.map(drop),
        Err(error) => Err(error),
    };
    if let Err(error) = due {
        tracing::error!(channel = %slot.id, %error, "what was due was not done; it is tried again");
        guard.retry_later();
    }
}

/// Sweeps in progress, at most one a channel.
pub(crate) struct Sweeps {
    shared: Arc<Shared>,
    running: BTreeMap<ChannelId, Running>,
    /// Whether a sweep waits until those who listen have left room, or leaves its channel due.
    wait_for_room: bool,
}

struct Running {
    slot: Arc<Slot>,
    sweep: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Sweeps {
    pub(crate) fn new(shared: &Arc<Shared>, wait_for_room: bool) -> Self {
        Self { shared: shared.clone(), running: BTreeMap::new(), wait_for_room }
    }

    /// Begins one in each of these channels that has none.
    pub(crate) fn add(&mut self, due: Vec<Arc<Slot>>) {
        for slot in due {
            self.running.entry(slot.id.clone()).or_insert_with(|| Running {
                sweep: Box::pin(sweep(self.shared.clone(), slot.clone(), self.wait_for_room)),
                slot,
            });
        }
    }

    /// Carries all of them on; ready when none is left.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.running.retain(|id, running| match caught::poll(running.sweep.as_mut(), context) {
            Ok(polled) => polled.is_pending(),
            Err(panic) => {
                tracing::error!(channel = %id, panic, "what was due panicked; it is tried again");
                running.slot.retry_later(&self.shared);
                false
            }
        });
        if self.running.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// The thread, when it runs.
pub(crate) struct Timer {
    shared: Arc<Shared>,
    running: Mutex<Option<Started>>,
}

struct Started {
    thread: JoinHandle<()>,
    /// Dropped to make the thread end.
    wanted: Arc<()>,
}

impl Timer {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, running: Mutex::default() }
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
        *running = Some(Started { thread, wanted });
        Ok(())
    }

    /// Ends the thread and waits for that, unless it is the one that asks: a store may.
    pub(crate) fn stop(&self) {
        // Under the lock to the end: the alarm is of one thread at a time.
        let mut running = lock(&self.running);
        let Some(Started { thread, wanted }) = running.take() else { return };
        drop(wanted);
        thread.thread().unpark();
        if thread.thread().id() != thread::current().id() && thread.join().is_err() {
            tracing::error!("the timer had panicked");
        }
        self.shared.alarm.take_down();
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(shared: &Arc<Shared>, wanted: &Weak<()>) {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut sweeps = Sweeps::new(shared, true);
    shared.alarm.set_up();
    while wanted.strong_count() > 0 && !shared.closed.load(Ordering::SeqCst) {
        let now_ms = shared.clock.now_ms();
        shared.tell_sync_due(now_ms);
        sweeps.add(shared.registry.due(now_ms));
        // A channel that is being swept is due until that is over; it wakes this thread then.
        let due_ms = match sweeps.poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(()) => shared.next_due_ms(),
            Poll::Pending => {
                shared.registry.next_due_after_ms(now_ms).into_iter().chain(shared.sync_due_ms()).min()
            }
        };
        // Not here: a callback may wait for what only this thread carries on.
        shared.dispatcher.hand_over();
        shared.alarm.sleeps_until(due_ms.unwrap_or(u64::MAX));
        let sleep_ms = due_ms.map_or(SLEEP_MS_MAX, |due| due.saturating_sub(shared.clock.now_ms()));
        thread::park_timeout(Duration::from_millis(sleep_ms.min(SLEEP_MS_MAX)));
        shared.alarm.awake();
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
