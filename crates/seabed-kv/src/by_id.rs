//! Each read and write of a tenant, on the store by the tenant's id.
//!
//! For callers that have an id at hand and no handle: the store finds the tenant among the open ones and calls the method of the same
//! name. A tenant that the program has not opened, or has closed, is `TenantNotFound`, for writes too (upstream logs and drops
//! those), and the disk is not touched. Who works with one tenant for long holds a [`Tenant`] and saves the look-up.

use crate::{
    Batch, Durability, KeyPart, KeyRange, Op, Outcome, Page, Scan, ScanSpec, Snapshot, Store, Tenant,
};

/// Reads and writes by tenant id. Each does what the method of [`Tenant`] with its name does; besides, it answers `InvalidArgument`
/// for an id that [`TenantId::new`](crate::TenantId::new) refuses, `TenantNotFound` when the tenant is not open, and `Closed` after
/// [`Store::close`].
///
/// ```
/// use seabed_kv::{ErrorKind, Store};
///
/// let store = Store::memory();
/// store.open("notes").wait()?;
/// store.put("notes", "note", b"1", b"hello").wait()?;
/// assert_eq!(store.get("notes", "note", b"1").wait()?, Some(b"hello".to_vec()));
/// let refused = store.put("other", "note", b"1", b"hello").wait().unwrap_err();
/// assert_eq!(refused.kind(), ErrorKind::TenantNotFound);
/// # Ok::<(), seabed_kv::Error>(())
/// ```
impl Store {
    /// [`Tenant::get`] by id.
    pub fn get(
        &self,
        id: impl AsRef<str>,
        category: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
    ) -> Op<Option<Vec<u8>>> {
        self.read(id, |tenant| tenant.get(category, key))
    }

    /// [`Tenant::exists`] by id.
    pub fn exists(&self, id: impl AsRef<str>, category: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Op<bool> {
        self.read(id, |tenant| tenant.exists(category, key))
    }

    /// [`Tenant::count`] by id.
    pub fn count(&self, id: impl AsRef<str>, category: impl AsRef<[u8]>, range: &KeyRange) -> Op<u64> {
        self.read(id, |tenant| tenant.count(category, range))
    }

    /// [`Tenant::scan`] by id. A tenant that is not open is an error in place of the first row.
    pub fn scan(&self, id: impl AsRef<str>, spec: ScanSpec) -> Scan {
        match self.tenant(id) {
            Ok(tenant) => tenant.scan(spec),
            Err(error) => Scan::failed(error),
        }
    }

    /// [`Tenant::scan_page`] by id.
    pub fn scan_page(&self, id: impl AsRef<str>, spec: ScanSpec) -> Op<Page> {
        self.read(id, |tenant| tenant.scan_page(spec))
    }

    /// [`Tenant::categories`] by id.
    pub fn categories(&self, id: impl AsRef<str>) -> Op<Vec<Vec<u8>>> {
        self.read(id, Tenant::categories)
    }

    /// [`Tenant::snapshot`] by id.
    pub fn snapshot(&self, id: impl AsRef<str>) -> Op<Snapshot> {
        self.read(id, Tenant::snapshot)
    }

    /// [`Tenant::apply`] by id.
    pub fn apply(&self, id: impl AsRef<str>, batch: Batch, durability: Durability) -> Op<Outcome> {
        match self.tenant(id) {
            Ok(tenant) => tenant.apply(batch, durability),
            Err(error) => Op::ready(Err(error.in_batch(&batch))),
        }
    }

    /// [`Tenant::try_apply`] by id.
    pub fn try_apply(&self, id: impl AsRef<str>, batch: Batch, durability: Durability) -> Op<Outcome> {
        match self.tenant(id) {
            Ok(tenant) => tenant.try_apply(batch, durability),
            Err(error) => Op::ready(Err(error.in_batch(&batch))),
        }
    }

    /// [`Tenant::put`] by id.
    pub fn put(
        &self,
        id: impl AsRef<str>,
        category: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
        payload: impl Into<Vec<u8>>,
    ) -> Op<()> {
        self.write(id, category, key, |tenant, category, key| tenant.put(category, key, payload))
    }

    /// [`Tenant::put_encoded`] by id.
    pub fn put_encoded(
        &self,
        id: impl AsRef<str>,
        category: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
        payload: impl KeyPart,
    ) -> Op<()> {
        self.write(id, category, key, |tenant, category, key| tenant.put_encoded(category, key, payload))
    }

    /// [`Tenant::delete`] by id.
    pub fn delete(&self, id: impl AsRef<str>, category: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Op<bool> {
        self.write(id, category, key, |tenant, category, key| tenant.delete(category, key))
    }

    /// [`Tenant::delete_prefix`] by id.
    pub fn delete_prefix(
        &self,
        id: impl AsRef<str>,
        category: impl AsRef<[u8]>,
        prefix: impl AsRef<[u8]>,
    ) -> Op<u64> {
        self.write(id, category, prefix, |tenant, category, prefix| tenant.delete_prefix(category, prefix))
    }

    /// [`Tenant::flush`] by id.
    pub fn flush(&self, id: impl AsRef<str>) -> Op<()> {
        self.read(id, Tenant::flush)
    }

    fn read<T>(&self, id: impl AsRef<str>, step: impl FnOnce(&Tenant) -> Op<T>) -> Op<T> {
        match self.tenant(id) {
            Ok(tenant) => step(&tenant),
            Err(error) => Op::ready(Err(error)),
        }
    }

    /// The error names the row, too: it is logged when nobody awaits it.
    fn write<T>(
        &self,
        id: impl AsRef<str>,
        category: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
        step: impl FnOnce(&Tenant, &[u8], &[u8]) -> Op<T>,
    ) -> Op<T> {
        let (category, key) = (category.as_ref(), key.as_ref());
        match self.tenant(id) {
            Ok(tenant) => step(&tenant, category, key),
            Err(error) => Op::ready(Err(error.in_row(category, key))),
        }
    }
}
