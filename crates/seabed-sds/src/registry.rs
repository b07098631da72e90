//! Which channels are in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use seabed_sds_core::ChannelId;

use crate::driver::Slot;
use crate::lock::lock;

/// A place for each channel that somebody uses.
#[derive(Default)]
pub(crate) struct Registry(Mutex<BTreeMap<ChannelId, Arc<Slot>>>);

impl Registry {
    /// The place of a channel, made when there is none.
    pub(crate) fn slot(&self, id: &ChannelId) -> Arc<Slot> {
        let mut slots = lock(&self.0);
        if let Some(slot) = slots.get(id) {
            return slot.clone();
        }
        let slot = Arc::new(Slot::new(id.clone()));
        slots.insert(id.clone(), slot.clone());
        slot
    }

    pub(crate) fn all(&self) -> Vec<Arc<Slot>> {
        lock(&self.0).values().cloned().collect()
    }

    /// Those that want to be looked at by then.
    pub(crate) fn due(&self, now_ms: u64) -> Vec<Arc<Slot>> {
        let due = |slot: &&Arc<Slot>| slot.due_ms().is_some_and(|due| due <= now_ms);
        lock(&self.0).values().filter(due).cloned().collect()
    }

    /// When the first of them wants to be looked at.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        lock(&self.0).values().filter_map(|slot| slot.due_ms()).min()
    }

    /// When the first of those that do not want it yet does.
    pub(crate) fn next_due_after_ms(&self, now_ms: u64) -> Option<u64> {
        lock(&self.0).values().filter_map(|slot| slot.due_ms()).filter(|due| *due > now_ms).min()
    }

    pub(crate) fn forget(&self, slot: &Arc<Slot>) {
        let mut slots = lock(&self.0);
        if slots.get(&slot.id).is_some_and(|there| Arc::ptr_eq(there, slot)) {
            slots.remove(&slot.id);
        }
    }
}
