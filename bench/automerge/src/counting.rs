//! A backend that counts what it is given.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use seabed_kv::backend::{Admission, Backend, TenantBackend, TenantReport, TenantStats, View};
use seabed_kv::{
    Batch, Durability, Error, ErrorKind, KeyRange, Op, Outcome, Page, ScanSpec, Store, Tenant, TenantId,
};

/// What was given.
#[derive(Debug, Clone, Default)]
pub struct Counts(Arc<[AtomicU64; 2]>);

impl Counts {
    pub fn batches(&self) -> u64 {
        self.0[0].load(Relaxed)
    }

    /// Checks and writes.
    pub fn bytes(&self) -> u64 {
        self.0[1].load(Relaxed)
    }
}

#[derive(Debug)]
struct Counting {
    inner: Store,
    counts: Counts,
}

#[derive(Debug)]
struct CountingTenant {
    inner: Tenant,
    counts: Counts,
}

pub fn over(inner: Store) -> (Store, Counts) {
    let counts = Counts::default();
    (Store::with_backend(Arc::new(Counting { inner, counts: counts.clone() })), counts)
}

impl Backend for Counting {
    fn own(&self) -> Op<()> {
        Op::ready(self.inner.own())
    }

    fn open(&self, id: &TenantId) -> Op<Arc<dyn TenantBackend>> {
        let tenant = self.inner.open(id.as_str()).wait();
        let counts = self.counts.clone();
        Op::ready(tenant.map(|inner| Arc::new(CountingTenant { inner, counts }) as Arc<dyn TenantBackend>))
    }

    fn list(&self) -> Op<Vec<TenantId>> {
        self.inner.list()
    }

    fn remove(&self, id: &TenantId) -> Op<()> {
        self.inner.drop_tenant(id.as_str())
    }

    fn close(&self) -> Op<()> {
        self.inner.close()
    }
}

impl View for CountingTenant {
    fn get(&self, category: &[u8], key: &[u8]) -> Op<Option<Vec<u8>>> {
        self.inner.get(category, key)
    }

    fn exists(&self, category: &[u8], key: &[u8]) -> Op<bool> {
        self.inner.exists(category, key)
    }

    fn count(&self, category: &[u8], range: &KeyRange) -> Op<u64> {
        self.inner.count(category, range)
    }

    fn scan_page(&self, spec: ScanSpec) -> Op<Page> {
        self.inner.scan_page(spec)
    }

    fn categories(&self) -> Op<Vec<Vec<u8>>> {
        self.inner.categories()
    }
}

impl TenantBackend for CountingTenant {
    fn apply(&self, batch: Batch, durability: Durability, _: Admission) -> Op<Outcome> {
        self.counts.0[0].fetch_add(1, Relaxed);
        self.counts.0[1].fetch_add(batch.bytes() as u64, Relaxed);
        self.inner.apply(batch, durability)
    }

    fn flush(&self) -> Op<()> {
        self.inner.flush()
    }

    fn snapshot(&self) -> Op<Arc<dyn View>> {
        Op::ready(Err(Error::new(ErrorKind::Unsupported, "this layer takes no snapshots")))
    }

    fn inline_limit(&self) -> usize {
        self.inner.inline_limit()
    }

    fn verify(&self) -> Op<TenantReport> {
        self.inner.verify()
    }

    fn stats(&self) -> Op<TenantStats> {
        self.inner.stats()
    }

    fn is_closed(&self) -> bool {
        false
    }

    fn close(&self) -> Op<()> {
        Op::ready(Ok(()))
    }
}
