//! What the tests share: a world with a settable clock and counted ids, and a store that pends, fails, and forgets to answer.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use pollster::block_on;
use seabed_kv::{
    Batch, Durability, Error, ErrorKind, KeyRange, Op, Outcome, Page, Refusal, ScanSpec, Store, Tenant,
};
use seabed_taskchampion::{
    AddSnapshot, AddVersion, ChildVersion, Config, GetSnapshot, TaskChampion, Upload, verify,
};
use seabed_testkit::Layer;
use uuid::Uuid;

pub const DAY_S: u64 = 86_400;
pub const START_S: u64 = 1_700_000_000;

/// A store of each kind, with what keeps its files alive.
pub fn stores() -> Vec<(&'static str, Store, Option<tempfile::TempDir>)> {
    let directory = tempfile::tempdir().unwrap();
    let sqlite = Store::sqlite(directory.path().join("data")).unwrap();
    vec![("memory", Store::memory(), None), ("sqlite", sqlite, Some(directory))]
}

/// Every row of the tenant that clients are in.
pub fn rows(store: &Store) -> BTreeMap<(String, Vec<u8>), Vec<u8>> {
    let tenant = store.tenant("taskchampion-00").unwrap();
    let mut all = BTreeMap::new();
    for category in tenant.categories().wait().unwrap() {
        for row in tenant.scan(ScanSpec::new(&category, KeyRange::all())).collect().wait().unwrap() {
            let category = String::from_utf8(category.clone()).unwrap();
            all.insert((category, row.key.into_bytes()), row.payload);
        }
    }
    all
}

/// Asserts that the store is sound, and nothing is left but what a sweep takes.
pub fn assert_sound(store: &Store) {
    let report = block_on(verify(&store.tenant("taskchampion-00").unwrap())).unwrap();
    assert_eq!(report.findings, Vec::<String>::new());
}

/// The layer with a clock and ids of its own.
pub struct World {
    pub store: Store,
    pub taskchampion: TaskChampion,
    pub now_s: u64,
    ids: AtomicU64,
}

impl World {
    pub fn new(store: Store) -> Self {
        Self::with(store, Config::default())
    }

    pub fn with(store: Store, config: Config) -> Self {
        let taskchampion = block_on(TaskChampion::open(&store, config)).unwrap();
        Self { store, taskchampion, now_s: START_S, ids: AtomicU64::new(1) }
    }

    /// A fresh id; version ids, client ids and staged ids are all different.
    pub fn id(&self) -> Uuid {
        Uuid::from_u128(0x5EED << 64 | u128::from(self.ids.fetch_add(1, Ordering::Relaxed)))
    }

    pub fn upload(&self, client: Uuid, bytes: &[u8]) -> Upload {
        block_on(async {
            let mut upload = self.taskchampion.upload(client, self.id(), self.now_s * 1_000);
            for part in bytes.chunks(60_000) {
                upload.write(part).await.unwrap();
            }
            upload.finish().await.unwrap()
        })
    }

    pub fn push(&self, client: Uuid, parent: Uuid, bytes: &[u8]) -> AddVersion {
        let (upload, version) = (self.upload(client, bytes), self.id());
        block_on(self.taskchampion.add_version(upload, parent, version, self.now_s)).unwrap().release()
    }

    /// A push that must be accepted: the new version's id.
    pub fn pushed(&self, client: Uuid, parent: Uuid, bytes: &[u8]) -> Uuid {
        match self.push(client, parent, bytes) {
            AddVersion::Added { version, .. } => version,
            other => panic!("not added: {other:?}"),
        }
    }

    /// A client with a chain of that many versions, from the first to the latest.
    pub fn chain(&self, client: Uuid, length: usize) -> Vec<Uuid> {
        let mut chain = Vec::new();
        for number in 0..length {
            let parent = chain.last().copied().unwrap_or_default();
            chain.push(self.pushed(client, parent, format!("version {number}").as_bytes()));
        }
        chain
    }

    pub fn snapshot(&self, client: Uuid, version: Uuid, bytes: &[u8]) -> AddSnapshot {
        let upload = self.upload(client, bytes);
        block_on(self.taskchampion.add_snapshot(upload, version, self.now_s)).unwrap().release()
    }

    pub fn child(&self, client: Uuid, parent: Uuid) -> Child {
        block_on(async {
            match self.taskchampion.get_child_version(client, parent).await.unwrap().release() {
                ChildVersion::Found { version, parent: found, value } => {
                    assert_eq!(found, parent);
                    let (bytes, value) = (value.bytes(), value.collect().await.unwrap());
                    assert_eq!(bytes, value.len() as u64);
                    Child::Found(version, value)
                }
                ChildVersion::UpToDate => Child::UpToDate,
                ChildVersion::Gone => Child::Gone,
                ChildVersion::NoSuchClient => Child::NoSuchClient,
            }
        })
    }

    pub fn current_snapshot(&self, client: Uuid) -> Current {
        block_on(async {
            match self.taskchampion.get_snapshot(client).await.unwrap().release() {
                GetSnapshot::Found { version, value } => {
                    Current::Found(version, value.collect().await.unwrap())
                }
                GetSnapshot::NoSnapshot => Current::NoSnapshot,
                GetSnapshot::NoSuchClient => Current::NoSuchClient,
            }
        })
    }
}

/// What `get_child_version` found, as a value that compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Child {
    Found(Uuid, Vec<u8>),
    UpToDate,
    Gone,
    NoSuchClient,
}

/// What `get_snapshot` found, as a value that compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Current {
    Found(Uuid, Vec<u8>),
    NoSnapshot,
    NoSuchClient,
}

/// How a write misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails and was not applied.
    NotApplied(ErrorKind),
    /// It fails, was applied, and nobody knows.
    AppliedUnknown,
    /// It fails, was not applied, and nobody knows.
    NotAppliedUnknown,
    /// Its first check of a client's row does not hold: somebody was quicker.
    Refused,
}

/// How an operation behaves that goes through [`Odd`].
#[derive(Debug, Default)]
pub struct Oddities {
    /// Each operation answers at the second poll.
    pub pends: bool,
    /// A write that is dropped before its second poll never happens, as in a full mailbox.
    pub withdraws: bool,
    /// What happens to Durable writes with checks; the first of them first.
    pub faults: Vec<Fault>,
    /// How many Durable writes to let through before the faults.
    pub faults_after: usize,
    /// What has been done so far.
    pub cost: Cost,
}

/// What requests cost the store.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// How many batches were applied.
    pub applied: u64,
    /// How many of them Durable.
    pub durable: u64,
    /// The bytes of all of them.
    pub written: u64,
    /// How often it was read: rows, pages, counts.
    pub reads: u64,
    /// The bytes of what was read; a row that was counted is one.
    pub read: u64,
}

impl Cost {
    /// What came after `before`.
    fn since(self, before: Self) -> Self {
        Self {
            applied: self.applied - before.applied,
            durable: self.durable - before.durable,
            written: self.written - before.written,
            reads: self.reads - before.reads,
            read: self.read - before.read,
        }
    }
}

/// What a request answers and costs.
pub fn cost<T>(oddities: &Mutex<Oddities>, request: impl FnOnce() -> T) -> (T, Cost) {
    let before = oddities.lock().unwrap().cost;
    let answer = request();
    (answer, oddities.lock().unwrap().cost.since(before))
}

/// A layer over a store in memory that misbehaves as it is told.
#[derive(Debug, Default)]
pub struct Odd {
    oddities: Arc<Mutex<Oddities>>,
    shared: bool,
}

impl Odd {
    pub fn store() -> (Store, Arc<Mutex<Oddities>>) {
        let (store, odd) = Self::default().over(Store::memory());
        (store, odd.oddities.clone())
    }

    /// One store as two processes have it that share it, and as neither of them has it.
    pub fn shared() -> [Store; 3] {
        let inner = Store::memory();
        let share = || Self { shared: true, ..Self::default() }.over(inner.clone()).0;
        [share(), share(), inner.clone()]
    }
}

impl Odd {
    /// Counts a read and, once it has answered, its bytes.
    fn counted<T: Send + 'static>(&self, read: Op<T>, bytes: impl Fn(&T) -> u64 + Send + 'static) -> Op<T> {
        self.oddities.lock().unwrap().cost.reads += 1;
        let oddities = self.oddities.clone();
        read.map(move |found| {
            oddities.lock().unwrap().cost.read += bytes(&found);
            found
        })
    }

    fn later<T: Send + 'static>(&self, begin: impl FnOnce() -> Op<T> + Send + 'static) -> Op<T> {
        let (pends, withdraws) = {
            let oddities = self.oddities.lock().unwrap();
            (oddities.pends, oddities.withdraws)
        };
        if !pends {
            return begin();
        }
        if withdraws {
            return Op::from_future(async move {
                once_pending().await;
                begin().await
            });
        }
        let begun = begin();
        Op::from_future(async move {
            once_pending().await;
            begun.await
        })
    }
}

/// Pends once.
async fn once_pending() {
    let mut pended = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut pended, true) {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

impl Layer for Odd {
    fn is_shared(&self) -> bool {
        self.shared
    }

    fn get(&self, tenant: &Tenant, category: &[u8], key: &[u8]) -> Op<Option<Vec<u8>>> {
        let (tenant, category, key) = (tenant.clone(), category.to_vec(), key.to_vec());
        let read = self.later(move || tenant.get(category, key));
        self.counted(read, |row| row.as_ref().map_or(0, |row| row.len() as u64))
    }

    fn exists(&self, tenant: &Tenant, category: &[u8], key: &[u8]) -> Op<bool> {
        self.counted(tenant.exists(category, key), |_| 0)
    }

    fn count(&self, tenant: &Tenant, category: &[u8], range: &KeyRange) -> Op<u64> {
        self.counted(tenant.count(category, range), |rows| *rows)
    }

    fn scan_page(&self, tenant: &Tenant, spec: ScanSpec) -> Op<Page> {
        let tenant = tenant.clone();
        let read = self.later(move || tenant.scan_page(spec));
        self.counted(read, |page| {
            page.rows.iter().map(|row| (row.key.as_bytes().len() + row.payload.len()) as u64).sum()
        })
    }

    fn apply(&self, tenant: &Tenant, batch: Batch, durability: Durability) -> Op<Outcome> {
        let fault = {
            let mut oddities = self.oddities.lock().unwrap();
            oddities.cost.applied += 1;
            oddities.cost.durable += u64::from(durability == Durability::Durable);
            oddities.cost.written += batch.bytes() as u64;
            if durability == Durability::Relaxed || oddities.faults.is_empty() {
                None
            } else if oddities.faults_after > 0 {
                oddities.faults_after -= 1;
                None
            } else {
                Some(oddities.faults.remove(0))
            }
        };
        // Names a row, as the kernel's errors do.
        let key = batch.checks().first().map_or(&[][..], |check| check.key.as_bytes());
        let text = format!("a fault that the test planted, key {:?}", key.escape_ascii().to_string());
        let failed = |kind| {
            Error::new(kind, text.clone())
                .in_tenant(tenant.id())
                .with_source(std::io::Error::other("a cause that the test planted"))
        };
        match fault {
            None => {
                let tenant = tenant.clone();
                self.later(move || tenant.apply(batch, durability))
            }
            Some(Fault::NotApplied(kind)) => Op::ready(Err(failed(kind))),
            Some(Fault::NotAppliedUnknown) => Op::ready(Err(failed(ErrorKind::Backend).unknown())),
            Some(Fault::Refused) => {
                let client = batch.checks().iter().position(|check| check.category == b"taskchampion.client");
                let refusal =
                    Refusal { check: client.expect("every request checks its client"), found: None };
                Op::ready(Ok(Outcome::Refused(refusal)))
            }
            Some(Fault::AppliedUnknown) => {
                let _ = tenant.apply(batch, durability).wait();
                Op::ready(Err(failed(ErrorKind::Backend).unknown()))
            }
        }
    }
}

/// Polls a future that many times and drops it; its answer, when it was done before.
pub fn poll_times<F: Future>(future: F, times: usize) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    for _ in 0..times {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
    }
    None
}
