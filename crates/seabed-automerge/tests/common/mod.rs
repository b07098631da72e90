//! What the tests share: documents in a store that fails and counts as it is told.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use automerge::transaction::Transactable as _;
use automerge::{Automerge, AutomergeError, ROOT, ReadDoc as _};
use pollster::block_on;
use seabed_automerge::{DocStore, DocumentId, DocumentPersister, PersistentAutomerge, verify};
use seabed_kv::{Batch, Durability, Error, ErrorKind, KeyRange, Op, Outcome, Page, ScanSpec, Store, Tenant};
use seabed_testkit::Layer;

pub const NOW_MS: u64 = 1_700_000_000_000;

pub type Document = PersistentAutomerge<DocumentPersister>;

pub fn id(number: u8) -> DocumentId {
    DocumentId::from_bytes([number; 16])
}

pub fn documents(store: &Store) -> DocStore {
    block_on(DocStore::open(store)).unwrap()
}

pub fn load(store: &DocStore, document: DocumentId) -> Document {
    PersistentAutomerge::load(DocumentPersister::open(store, document).unwrap()).unwrap()
}

/// Puts a key; answers whether it was stored.
pub fn put(document: &mut Document, key: &str) -> bool {
    document.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, key, key)).is_ok()
}

pub fn keys(document: &Automerge) -> Vec<String> {
    document.keys(ROOT).collect()
}

/// What a fresh handle finds.
pub fn stored(store: &DocStore, document: DocumentId) -> Vec<String> {
    keys(load(store, document).document())
}

/// A document in memory with that many changes.
pub fn plain(changes: usize) -> Automerge {
    let mut document = Automerge::new();
    for number in 0..changes {
        document
            .transact::<_, _, AutomergeError>(|tx| {
                tx.put(ROOT, format!("key {}", number % 1_000), number as u64)
            })
            .unwrap();
    }
    document
}

pub fn tenant(store: &Store) -> Tenant {
    store.tenant("automerge-00").unwrap()
}

/// Every row of the tenant that documents are in.
pub fn rows(store: &Store) -> BTreeMap<(String, Vec<u8>), Vec<u8>> {
    let tenant = tenant(store);
    let mut all = BTreeMap::new();
    for category in tenant.categories().wait().unwrap() {
        for row in tenant.scan(ScanSpec::new(&category, KeyRange::all())).collect().wait().unwrap() {
            all.insert((String::from_utf8(category.clone()).unwrap(), row.key.into_bytes()), row.payload);
        }
    }
    all
}

pub fn categories(store: &Store) -> Vec<String> {
    let mut categories: Vec<_> = rows(store).into_keys().map(|(category, _)| category).collect();
    categories.dedup();
    categories
}

/// Asserts that the store is sound, and nothing is left but what a sweep takes.
pub fn assert_sound(store: &Store) {
    let report = block_on(verify(&tenant(store))).unwrap();
    assert_eq!(report.findings, Vec::<String>::new());
}

/// How a write misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails and was not applied.
    NotApplied,
    /// It fails, was applied, and nobody knows.
    AppliedUnknown,
    /// It fails, was not applied, and nobody knows.
    NotAppliedUnknown,
}

/// What happens to writes, and what they and reads cost.
#[derive(Debug, Default)]
pub struct Oddities {
    /// How many writes are let through before they fail; `None` for all.
    pub writes_left: Option<u64>,
    /// What happens to the next Durable write with checks.
    pub fault: Option<Fault>,
    pub applied: u64,
    pub durable: u64,
    pub flushes: u64,
    /// The bytes of all batches that were applied: checks and writes.
    pub bytes: u64,
    /// The bytes of what they wrote.
    pub written: u64,
    pub reads: u64,
}

/// A layer over a store that misbehaves as it is told.
#[derive(Debug, Default)]
pub struct Odd {
    oddities: Arc<Mutex<Oddities>>,
}

impl Odd {
    pub fn store() -> (Store, Arc<Mutex<Oddities>>) {
        let (store, odd) = Self::default().over(Store::memory());
        (store, odd.oddities.clone())
    }

    fn count_read(&self) {
        self.oddities.lock().unwrap().reads += 1;
    }
}

impl Layer for Odd {
    fn get(&self, tenant: &Tenant, category: &[u8], key: &[u8]) -> Op<Option<Vec<u8>>> {
        self.count_read();
        tenant.get(category, key)
    }

    fn exists(&self, tenant: &Tenant, category: &[u8], key: &[u8]) -> Op<bool> {
        self.count_read();
        tenant.exists(category, key)
    }

    fn count(&self, tenant: &Tenant, category: &[u8], range: &KeyRange) -> Op<u64> {
        self.count_read();
        tenant.count(category, range)
    }

    fn scan_page(&self, tenant: &Tenant, spec: ScanSpec) -> Op<Page> {
        self.count_read();
        tenant.scan_page(spec)
    }

    fn apply(&self, tenant: &Tenant, batch: Batch, durability: Durability) -> Op<Outcome> {
        let mut oddities = self.oddities.lock().unwrap();
        let failed = || {
            let text = "a fault that the test planted";
            Error::new(ErrorKind::Backend, text).in_tenant(tenant.id())
        };
        match &mut oddities.writes_left {
            Some(0) => return Op::ready(Err(failed())),
            Some(left) => *left -= 1,
            None => {}
        }
        oddities.applied += 1;
        oddities.durable += u64::from(durability == Durability::Durable);
        oddities.bytes += batch.bytes() as u64;
        let mut writes = Batch::new();
        for write in batch.writes() {
            writes.write(write.clone());
        }
        oddities.written += writes.bytes() as u64;
        let fault = if batch.checks().is_empty() { None } else { oddities.fault.take() };
        drop(oddities);
        match fault {
            None => tenant.apply(batch, durability),
            Some(Fault::NotApplied) => Op::ready(Err(failed())),
            Some(Fault::NotAppliedUnknown) => Op::ready(Err(failed().unknown())),
            Some(Fault::AppliedUnknown) => {
                let _ = tenant.apply(batch, durability).wait();
                Op::ready(Err(failed().unknown()))
            }
        }
    }

    fn flush(&self, tenant: &Tenant) -> Op<()> {
        let mut oddities = self.oddities.lock().unwrap();
        if oddities.writes_left == Some(0) {
            return Op::ready(Err(Error::new(ErrorKind::Backend, "a fault that the test planted")));
        }
        oddities.flushes += 1;
        tenant.flush()
    }
}
