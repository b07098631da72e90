//! A store whose one tenant lies on a simulated disk, without threads: every run is a function of its seed.
#![allow(unreachable_pub, reason = "each test binary uses its part")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use seabed_kv::backend::{Admission, Backend, TenantBackend, TenantReport, TenantStats, View};
use seabed_kv::sqlite::simulation::{Engine, EngineOptions};
use seabed_kv::{
    Batch, Durability, Error, ErrorKind, KeyRange, Op, Outcome, Page, Row, ScanSpec, Store, TenantId,
};
use seabed_testkit::Disk;

/// What a SQLite tenant answers with its pages of 8 KiB.
const INLINE_LIMIT: usize = 1_960;

type Rows = BTreeMap<(Vec<u8>, Vec<u8>), Vec<u8>>;

#[derive(Debug, Clone)]
pub struct OnDisk {
    disk: Disk,
    options: EngineOptions,
}

impl OnDisk {
    /// The log is carried over now and then, so that power goes in the middle of that too.
    pub fn store(disk: &Disk) -> Store {
        let options = EngineOptions { checkpoint_bytes: 60_000, ..EngineOptions::default() };
        Store::with_backend(Arc::new(Self { disk: disk.clone(), options }))
    }

    fn path(&self) -> PathBuf {
        self.disk.path("tenant.db")
    }
}

#[derive(Debug)]
struct OnDiskTenant {
    engine: Mutex<Engine>,
    rows: Mutex<Rows>,
}

impl OnDiskTenant {
    fn read<T>(&self, read: impl FnOnce(&Rows) -> T) -> Op<T> {
        Op::ready(Ok(read(&self.rows.lock().unwrap())))
    }

    fn look(&self, engine: &Engine) {
        // After a failure the rows are those that were last seen; whoever goes on is told by the next write.
        if let Ok(rows) = engine.rows() {
            *self.rows.lock().unwrap() =
                rows.into_iter().map(|(category, key, payload)| ((category, key), payload)).collect();
        }
    }
}

impl Backend for OnDisk {
    fn own(&self) -> Op<()> {
        Op::ready(Ok(()))
    }

    fn open(&self, _: &TenantId) -> Op<Arc<dyn TenantBackend>> {
        let opened = Engine::open(&self.path(), Some(self.disk.vfs()), self.options.clone()).map(|engine| {
            let tenant = OnDiskTenant { engine: Mutex::new(engine), rows: Mutex::default() };
            let engine = tenant.engine.lock().unwrap();
            tenant.look(&engine);
            drop(engine);
            Arc::new(tenant) as Arc<dyn TenantBackend>
        });
        Op::ready(opened)
    }

    fn list(&self) -> Op<Vec<TenantId>> {
        Op::ready(TenantId::new("automerge-00").map(|id| vec![id]))
    }

    fn remove(&self, _: &TenantId) -> Op<()> {
        Op::ready(Ok(()))
    }

    fn close(&self) -> Op<()> {
        Op::ready(Ok(()))
    }
}

impl View for OnDiskTenant {
    fn get(&self, category: &[u8], key: &[u8]) -> Op<Option<Vec<u8>>> {
        self.read(|rows| rows.get(&(category.to_vec(), key.to_vec())).cloned())
    }

    fn exists(&self, category: &[u8], key: &[u8]) -> Op<bool> {
        self.read(|rows| rows.contains_key(&(category.to_vec(), key.to_vec())))
    }

    fn count(&self, category: &[u8], range: &KeyRange) -> Op<u64> {
        self.read(|rows| rows.keys().filter(|(of, key)| of == category && range.contains(key)).count() as u64)
    }

    fn scan_page(&self, spec: ScanSpec) -> Op<Page> {
        self.read(|rows| {
            let found = rows.iter().filter(|((of, key), _)| *of == spec.category && spec.range.contains(key));
            let row = |((_, key), payload): (&(Vec<u8>, Vec<u8>), &Vec<u8>)| Row {
                key: key.clone().into(),
                payload: payload.clone(),
            };
            Page { rows: found.map(row).take(spec.limit.unwrap_or(usize::MAX)).collect(), next: None }
        })
    }

    fn categories(&self) -> Op<Vec<Vec<u8>>> {
        self.read(|rows| {
            let mut categories: Vec<_> = rows.keys().map(|(category, _)| category.clone()).collect();
            categories.dedup();
            categories
        })
    }
}

impl TenantBackend for OnDiskTenant {
    fn apply(&self, batch: Batch, durability: Durability, _: Admission) -> Op<Outcome> {
        let mut engine = self.engine.lock().unwrap();
        let answer = engine.commit_group(vec![(batch, durability)]).pop();
        self.look(&engine);
        Op::ready(answer.unwrap())
    }

    fn flush(&self) -> Op<()> {
        Op::ready(self.engine.lock().unwrap().flush())
    }

    fn snapshot(&self) -> Op<Arc<dyn View>> {
        Op::ready(Err(Error::new(ErrorKind::Unsupported, "this layer takes no snapshots")))
    }

    fn inline_limit(&self) -> usize {
        INLINE_LIMIT
    }

    fn verify(&self) -> Op<TenantReport> {
        Op::ready(Ok(TenantReport::default()))
    }

    fn stats(&self) -> Op<TenantStats> {
        Op::ready(Ok(TenantStats::default()))
    }

    fn is_closed(&self) -> bool {
        false
    }

    fn close(&self) -> Op<()> {
        Op::ready(Ok(()))
    }
}
