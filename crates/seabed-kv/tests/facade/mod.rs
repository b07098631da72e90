//! What the tests of the facade share.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests say what failed by panicking")]

use seabed_kv::{Batch, Durability, Op, Outcome, Store, Tenant, conformance};

/// Checks a rule on an empty store of each kind.
pub(crate) fn everywhere(rule: impl Fn(&Store)) {
    let directory = tempfile::tempdir().unwrap();
    for store in [Store::memory(), Store::sqlite(directory.path().join("root")).unwrap()] {
        rule(&store);
        store.close().wait().unwrap();
    }
}

/// Checks a rule that the battery holds.
pub(crate) fn battery(name: &str) {
    let case = conformance::CASES.iter().find(|(case, _)| *case == name);
    everywhere(case.unwrap_or_else(|| panic!("the battery has no case {name:?}")).1);
}

pub(crate) fn open(store: &Store) -> Tenant {
    store.open("t").wait().unwrap()
}

pub(crate) fn relaxed(tenant: &Tenant, key: &[u8], payload: &[u8]) -> Op<Outcome> {
    let mut batch = Batch::new();
    batch.put("c", key, payload);
    tenant.apply(batch, Durability::Relaxed)
}
