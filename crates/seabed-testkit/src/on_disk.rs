//! A tenant on a simulated disk, behind the face that layers use: reads come from memory, and every batch is committed on the disk first.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use seabed_kv::backend::{Admission, Backend, TenantBackend, TenantReport, TenantStats, View};
use seabed_kv::sqlite::simulation::{Engine, EngineOptions};
use seabed_kv::{Batch, Durability, KeyRange, Op, Outcome, Page, Result, ScanSpec, Store, Tenant, TenantId};

use crate::Disk;

/// A store of one tenant on a [`Disk`], for layers that are tested through power cuts.
///
/// ```
/// use seabed_testkit::{Disk, OnDisk};
///
/// let disk = Disk::new(1);
/// let tenant = OnDisk::open(&disk, "layer")?.tenant();
/// tenant.put("category", b"key", b"durable").wait()?;
/// disk.cut(2);
/// let again = OnDisk::open(&disk, "layer")?.tenant();
/// assert_eq!(again.get("category", b"key").wait()?, Some(b"durable".to_vec()));
/// # Ok::<(), seabed_kv::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct OnDisk {
    memory: Tenant,
    engine: Arc<Mutex<Engine>>,
}

impl OnDisk {
    /// Opens the tenant of that name, with what the disk holds of it.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn open(disk: &Disk, name: &str) -> Result<Self> {
        Self::open_with(disk, name, EngineOptions::default())
    }

    /// The same with other options, as to carry the log over more often.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn open_with(disk: &Disk, name: &str, options: EngineOptions) -> Result<Self> {
        let path = disk.path(&format!("{name}.db"));
        let engine = Engine::open(Path::new(&path), Some(disk.vfs()), options)?;
        let memory = Store::memory().open(name).wait()?;
        for (category, key, payload) in engine.rows()? {
            memory.put(category, key, payload).wait()?;
        }
        Ok(Self { memory, engine: Arc::new(Mutex::new(engine)) })
    }

    /// The store that has this tenant.
    pub fn store(&self) -> Store {
        Store::with_backend(Arc::new(self.clone()))
    }

    /// The tenant as layers have it.
    ///
    /// # Panics
    /// Never: it is open.
    #[allow(clippy::expect_used, reason = "opening gives what is there, without a call that can fail")]
    pub fn tenant(&self) -> Tenant {
        self.store().open(self.memory.id().as_str()).wait().expect("it is open")
    }

    /// After a commit of which nobody knows: what the disk has now, when it can still be read.
    fn look_again(&self, engine: &Engine) -> Result<()> {
        let Ok(rows) = engine.rows() else { return Ok(()) };
        for category in self.memory.categories().wait()? {
            for row in self.memory.scan(ScanSpec::new(&category, KeyRange::all())).collect().wait()? {
                self.memory.delete(&category, &row.key).wait()?;
            }
        }
        for (category, key, payload) in rows {
            self.memory.put(category, key, payload).wait()?;
        }
        Ok(())
    }

    /// The engine beneath.
    pub fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for OnDisk {
    fn own(&self) -> Op<()> {
        Op::ready(Ok(()))
    }

    fn open(&self, _: &TenantId) -> Op<Arc<dyn TenantBackend>> {
        Op::ready(Ok(Arc::new(self.clone())))
    }

    fn list(&self) -> Op<Vec<TenantId>> {
        Op::ready(Ok(vec![self.memory.id().clone()]))
    }

    fn remove(&self, _: &TenantId) -> Op<()> {
        Op::ready(Ok(()))
    }

    fn close(&self) -> Op<()> {
        Op::ready(Ok(()))
    }
}

impl View for OnDisk {
    fn get(&self, category: &[u8], key: &[u8]) -> Op<Option<Vec<u8>>> {
        self.memory.get(category, key)
    }

    fn exists(&self, category: &[u8], key: &[u8]) -> Op<bool> {
        self.memory.exists(category, key)
    }

    fn count(&self, category: &[u8], range: &KeyRange) -> Op<u64> {
        self.memory.count(category, range)
    }

    fn scan_page(&self, spec: ScanSpec) -> Op<Page> {
        self.memory.scan_page(spec)
    }

    fn categories(&self) -> Op<Vec<Vec<u8>>> {
        self.memory.categories()
    }
}

impl TenantBackend for OnDisk {
    fn apply(&self, batch: Batch, durability: Durability, _: Admission) -> Op<Outcome> {
        let mut engine = self.engine();
        let mut answers = engine.commit_group(vec![(batch.clone(), durability)]);
        match answers.pop() {
            Some(Ok(outcome)) if outcome.is_applied() => self.memory.apply(batch, durability),
            Some(Ok(refused)) => Op::ready(Ok(refused)),
            Some(Err(failed)) => Op::ready(self.look_again(&engine).and(Err(failed))),
            None => self.memory.apply(Batch::new(), durability),
        }
    }

    fn flush(&self) -> Op<()> {
        Op::ready(self.engine().flush())
    }

    fn snapshot(&self) -> Op<Arc<dyn View>> {
        Op::ready(Ok(Arc::new(self.clone())))
    }

    fn inline_limit(&self) -> usize {
        self.memory.inline_limit()
    }

    fn verify(&self) -> Op<TenantReport> {
        self.memory.verify()
    }

    fn stats(&self) -> Op<TenantStats> {
        self.memory.stats()
    }

    fn close(&self) -> Op<()> {
        Op::ready(Ok(()))
    }

    fn is_closed(&self) -> bool {
        false
    }
}
