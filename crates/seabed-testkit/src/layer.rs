//! What a test puts between a store and those who use it: a layer that counts, fails or waits as the test wants.

use std::fmt;
use std::sync::Arc;

use seabed_kv::backend::{Admission, Backend, TenantBackend, TenantReport, TenantStats, View};
use seabed_kv::{
    Batch, Durability, Error, ErrorKind, KeyRange, Op, Outcome, Page, ScanSpec, Store, Tenant, TenantId,
};

/// What happens to a tenant's operations; each is passed on unless the layer says otherwise.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use seabed_kv::{Op, Store, Tenant};
/// use seabed_testkit::Layer;
///
/// #[derive(Debug, Default)]
/// struct Gets(AtomicU64);
///
/// impl Layer for Gets {
///     fn get(&self, tenant: &Tenant, category: &[u8], key: &[u8]) -> Op<Option<Vec<u8>>> {
///         self.0.fetch_add(1, Ordering::Relaxed);
///         tenant.get(category, key)
///     }
/// }
///
/// let (store, layer) = Gets::default().over(Store::memory());
/// store.open("t").wait()?.get("category", b"key").wait()?;
/// assert_eq!(layer.0.load(Ordering::Relaxed), 1);
/// # Ok::<(), seabed_kv::Error>(())
/// ```
pub trait Layer: fmt::Debug + Send + Sync + 'static {
    /// A store whose operations go through the layer, and the layer.
    fn over(self, store: Store) -> (Store, Arc<Self>)
    where
        Self: Sized,
    {
        let layer = Arc::new(self);
        (Store::with_backend(Arc::new(Layered { inner: store, layer: layer.clone() })), layer)
    }

    /// See [`Backend::is_shared`].
    fn is_shared(&self) -> bool {
        false
    }

    /// See [`View::get`].
    fn get(&self, tenant: &Tenant, category: &[u8], key: &[u8]) -> Op<Option<Vec<u8>>> {
        tenant.get(category, key)
    }

    /// See [`View::exists`].
    fn exists(&self, tenant: &Tenant, category: &[u8], key: &[u8]) -> Op<bool> {
        tenant.exists(category, key)
    }

    /// See [`View::count`].
    fn count(&self, tenant: &Tenant, category: &[u8], range: &KeyRange) -> Op<u64> {
        tenant.count(category, range)
    }

    /// See [`View::scan_page`].
    fn scan_page(&self, tenant: &Tenant, spec: ScanSpec) -> Op<Page> {
        tenant.scan_page(spec)
    }

    /// See [`TenantBackend::apply`].
    fn apply(&self, tenant: &Tenant, batch: Batch, durability: Durability) -> Op<Outcome> {
        tenant.apply(batch, durability)
    }

    /// See [`TenantBackend::flush`].
    fn flush(&self, tenant: &Tenant) -> Op<()> {
        tenant.flush()
    }
}

#[derive(Debug)]
struct Layered<L> {
    inner: Store,
    layer: Arc<L>,
}

#[derive(Debug)]
struct LayeredTenant<L> {
    inner: Tenant,
    layer: Arc<L>,
}

impl<L: Layer> Backend for Layered<L> {
    fn own(&self) -> Op<()> {
        Op::ready(self.inner.own())
    }

    fn is_shared(&self) -> bool {
        self.layer.is_shared()
    }

    fn open(&self, id: &TenantId) -> Op<Arc<dyn TenantBackend>> {
        let tenant = self.inner.open(id.as_str()).wait();
        let layer = self.layer.clone();
        Op::ready(tenant.map(|inner| Arc::new(LayeredTenant { inner, layer }) as Arc<dyn TenantBackend>))
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

impl<L: Layer> View for LayeredTenant<L> {
    fn get(&self, category: &[u8], key: &[u8]) -> Op<Option<Vec<u8>>> {
        self.layer.get(&self.inner, category, key)
    }

    fn exists(&self, category: &[u8], key: &[u8]) -> Op<bool> {
        self.layer.exists(&self.inner, category, key)
    }

    fn count(&self, category: &[u8], range: &KeyRange) -> Op<u64> {
        self.layer.count(&self.inner, category, range)
    }

    fn scan_page(&self, spec: ScanSpec) -> Op<Page> {
        self.layer.scan_page(&self.inner, spec)
    }

    fn categories(&self) -> Op<Vec<Vec<u8>>> {
        self.inner.categories()
    }
}

impl<L: Layer> TenantBackend for LayeredTenant<L> {
    fn apply(&self, batch: Batch, durability: Durability, _: Admission) -> Op<Outcome> {
        self.layer.apply(&self.inner, batch, durability)
    }

    fn flush(&self) -> Op<()> {
        self.layer.flush(&self.inner)
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
