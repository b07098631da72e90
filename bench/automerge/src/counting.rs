//! Counts what a store is given.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use seabed_kv::{Batch, Durability, Op, Outcome, Tenant};
use seabed_testkit::Layer;

/// What was given.
#[derive(Debug, Default)]
pub struct Counts {
    batches: AtomicU64,
    bytes: AtomicU64,
}

impl Counts {
    pub fn batches(&self) -> u64 {
        self.batches.load(Relaxed)
    }

    /// Checks and writes.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
}

impl Layer for Counts {
    fn apply(&self, tenant: &Tenant, batch: Batch, durability: Durability) -> Op<Outcome> {
        self.batches.fetch_add(1, Relaxed);
        self.bytes.fetch_add(batch.bytes() as u64, Relaxed);
        tenant.apply(batch, durability)
    }
}
