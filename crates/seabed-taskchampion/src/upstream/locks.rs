//! A lock for each client that a transaction holds or waits for, and nothing for all others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use seabed_kv::Tenant;
use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

use crate::error::Result;

/// The locks of one shard.
#[derive(Debug, Default)]
pub(crate) struct Locks(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    clients: BTreeMap<Uuid, Entry>,
    /// How many commits were ever dropped before the store had answered them.
    abandoned: u64,
    /// How many of those have taken effect by now, or never will.
    settled: u64,
}

#[derive(Debug, Default)]
struct Entry {
    lock: Arc<tokio::sync::Mutex<()>>,
    /// Who holds it and who waits for it.
    users: usize,
}

impl Locks {
    /// Waits for the client's lock, in the order of the calls. May be dropped at any await.
    pub(super) async fn lock(self: &Arc<Self>, client: Uuid) -> ClientLock {
        let lock = {
            let mut state = self.state();
            let entry = state.clients.entry(client).or_default();
            entry.users += 1;
            entry.lock.clone()
        };
        // From here on the user is counted out by the drop, also when this future is dropped while it waits.
        let mut waiting = ClientLock { locks: self.clone(), client, guard: None, committing: false };
        waiting.guard = Some(lock.lock_owned().await);
        waiting
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's lock, held until it is dropped.
#[derive(Debug)]
pub(super) struct ClientLock {
    locks: Arc<Locks>,
    client: Uuid,
    guard: Option<OwnedMutexGuard<()>>,
    committing: bool,
}

impl ClientLock {
    /// Says that a batch is on its way to the store: dropped from now on, nobody knows when it takes effect.
    pub(super) fn commit_begins(&mut self) {
        self.committing = true;
    }

    /// Says that the store has answered.
    pub(super) fn commit_ends(&mut self) {
        self.committing = false;
    }

    /// Waits until no commit that was dropped in the middle is on its way any more. A holder that read the client before such a
    /// batch took effect would be refused at its own commit, and callers do not try again. Costs nothing where no commit was
    /// dropped. May be dropped at any await.
    pub(super) async fn settle(&self, tenant: &Tenant) -> Result<()> {
        let abandoned = {
            let state = self.locks.state();
            if state.settled >= state.abandoned {
                return Ok(());
            }
            state.abandoned
        };
        // Writes take effect in the order of the calls, and a flush answers after all that were queued before it.
        tenant.flush().await?;
        let mut state = self.locks.state();
        state.settled = state.settled.max(abandoned);
        Ok(())
    }
}

impl Drop for ClientLock {
    fn drop(&mut self) {
        if self.committing {
            self.locks.state().abandoned += 1;
        }
        // Released before it is counted out: as long as it is held, everybody must find the same lock.
        self.guard = None;
        let mut state = self.locks.state();
        if let Some(entry) = state.clients.get_mut(&self.client) {
            entry.users -= 1;
            if entry.users == 0 {
                state.clients.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    fn poll<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    fn clients(locks: &Locks) -> usize {
        locks.state().clients.len()
    }

    /// How many commits were abandoned, how many of them are settled.
    fn counts(locks: &Locks) -> (u64, u64) {
        let state = locks.state();
        (state.abandoned, state.settled)
    }

    #[test]
    fn only_clients_in_use_take_room() {
        let locks = Arc::new(Locks::default());
        for number in 0..1_000 {
            let held = poll(pin!(locks.lock(Uuid::from_u128(number)))).unwrap();
            assert!(poll(pin!(locks.lock(Uuid::from_u128(number)))).is_none());
            assert_eq!(clients(&locks), 1);
            drop(held);
            assert_eq!(clients(&locks), 0);
        }
    }

    #[test]
    fn one_client_waits_in_order_and_others_do_not() {
        let locks = Arc::new(Locks::default());
        let (client, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let first = poll(pin!(locks.lock(client))).unwrap();
        let (mut second, mut third) = (pin!(locks.lock(client)), pin!(locks.lock(client)));
        assert!(poll(second.as_mut()).is_none() && poll(third.as_mut()).is_none());
        assert!(poll(pin!(locks.lock(other))).is_some());
        drop(first);
        assert!(poll(third.as_mut()).is_none());
        let second = poll(second.as_mut()).unwrap();
        assert!(poll(third.as_mut()).is_none());
        drop(second);
        drop(poll(third.as_mut()).unwrap());
        assert_eq!(clients(&locks), 0);
    }

    #[test]
    fn who_stops_waiting_hands_the_lock_on() {
        let locks = Arc::new(Locks::default());
        let client = Uuid::from_u128(1);
        let first = poll(pin!(locks.lock(client))).unwrap();
        let mut waits = Box::pin(locks.lock(client));
        let mut handed = Box::pin(locks.lock(client));
        let mut last = Box::pin(locks.lock(client));
        assert!([&mut waits, &mut handed, &mut last].into_iter().all(|lock| poll(lock.as_mut()).is_none()));
        drop(waits);
        drop(first);
        // The lock is this one's now, though it was not polled since.
        drop(handed);
        drop(poll(last.as_mut()).unwrap());
        assert_eq!(clients(&locks), 0);
    }

    #[test]
    fn an_abandoned_commit_is_settled_once_for_everybody() {
        let store = seabed_kv::Store::memory();
        let tenant = store.open("locks").wait().unwrap();
        let locks = Arc::new(Locks::default());
        let lock = |client| poll(pin!(locks.lock(Uuid::from_u128(client)))).unwrap();
        let mut answered = lock(1);
        answered.commit_begins();
        answered.commit_ends();
        drop(answered);
        assert_eq!(counts(&locks), (0, 0));
        let mut abandoned = lock(1);
        abandoned.commit_begins();
        drop(abandoned);
        assert_eq!(counts(&locks), (1, 0));
        pollster::block_on(lock(2).settle(&tenant)).unwrap();
        assert_eq!(counts(&locks), (1, 1));
        // Nothing is on its way any more, so a store that would refuse is not asked.
        store.close().wait().unwrap();
        pollster::block_on(lock(3).settle(&tenant)).unwrap();
    }
}
