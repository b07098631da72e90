//! The backend in memory: for tests and for data that may go with the process. It is also the model that random programs
//! compare the others against, so it is written to be read.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::backend::{Admission, Backend, TenantBackend, TenantReport, TenantStats, View};
use crate::scan::PageBuilder;
use crate::sync::{Mutex, lock};
use crate::{
    Batch, Check, Commit, Durability, Error, ErrorKind, KeyRange, Op, Outcome, Page, Refusal, ScanSpec,
    TenantId, Write,
};

type Rows = BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>;

/// Tenants in memory. A closed one keeps its data for the next open.
#[derive(Debug, Default)]
pub(crate) struct MemoryBackend {
    tenants: Mutex<BTreeMap<TenantId, Arc<Mutex<Data>>>>,
}

#[derive(Debug, Default, Clone)]
struct Data {
    rows: Rows,
    commits: u64,
}

impl Backend for MemoryBackend {
    fn own(&self) -> Op<()> {
        Op::ready(Ok(()))
    }

    fn open(&self, id: &TenantId) -> Op<Arc<dyn TenantBackend>> {
        let data = lock(&self.tenants).entry(id.clone()).or_default().clone();
        lock(&data).commits = 0;
        Op::ready(Ok(Arc::new(MemoryTenant { id: id.clone(), data: Arc::new(Mutex::new(Some(data))) })))
    }

    fn list(&self) -> Op<Vec<TenantId>> {
        Op::ready(Ok(lock(&self.tenants).keys().cloned().collect()))
    }

    fn remove(&self, id: &TenantId) -> Op<()> {
        lock(&self.tenants).remove(id);
        Op::ready(Ok(()))
    }

    fn close(&self) -> Op<()> {
        Op::ready(Ok(()))
    }
}

#[derive(Debug)]
struct MemoryTenant {
    id: TenantId,
    data: OpenData,
}

/// What a tenant and its snapshots read; `None` once it is closed.
type OpenData = Arc<Mutex<Option<Arc<Mutex<Data>>>>>;

impl MemoryTenant {
    fn with<T>(&self, step: impl FnOnce(&mut Data) -> T) -> Op<T> {
        let data = lock(&self.data).clone();
        Op::ready(match data {
            Some(data) => Ok(step(&mut lock(&data))),
            None => Err(closed(&self.id)),
        })
    }
}

fn closed(id: &TenantId) -> Error {
    Error::new(ErrorKind::Closed, "the tenant is closed; open it again").in_tenant(id)
}

impl Data {
    fn get(&self, category: &[u8], key: &[u8]) -> Option<&Vec<u8>> {
        self.rows.get(category)?.get(key)
    }

    fn range(
        &self,
        category: &[u8],
        range: &KeyRange,
    ) -> impl DoubleEndedIterator<Item = (&Vec<u8>, &Vec<u8>)> {
        let stop = range.stop.as_bytes();
        let bounds = (
            Bound::Included(range.start.as_bytes()),
            if stop.is_empty() { Bound::Unbounded } else { Bound::Excluded(stop) },
        );
        // BTreeMap panics on a range that ends before it starts.
        let rows = self.rows.get(category).filter(|_| !range.is_empty());
        rows.into_iter().flat_map(move |rows| rows.range::<[u8], _>(bounds))
    }

    fn page(&self, spec: &ScanSpec) -> Page {
        let rows = self.range(&spec.category, &spec.range);
        let mut rows: Box<dyn Iterator<Item = _>> =
            if spec.reverse { Box::new(rows.rev()) } else { Box::new(rows) };
        let mut page = PageBuilder::new(spec);
        while !page.is_full() {
            let Some((key, payload)) = rows.next() else { return page.finish(true) };
            page.push(key, if spec.keys_only { Vec::new() } else { payload.clone() });
        }
        page.finish(rows.next().is_none())
    }

    fn refusal(&self, checks: &[Check]) -> Option<Refusal> {
        checks.iter().enumerate().find_map(|(position, check)| {
            let found = self.get(&check.category, check.key.as_bytes());
            let holds = check.condition.holds(found.map(Vec::as_slice));
            (!holds).then(|| Refusal { check: position, found: found.cloned() })
        })
    }

    fn write(&mut self, write: &Write) -> u64 {
        match write {
            Write::Put { category, key, payload } => {
                self.rows
                    .entry(category.clone())
                    .or_default()
                    .insert(key.as_bytes().to_vec(), payload.clone());
                0
            }
            Write::Delete { category, key } => {
                let removed = self.rows.get_mut(category).and_then(|rows| rows.remove(key.as_bytes()));
                u64::from(removed.is_some())
            }
            Write::DeletePrefix { category, prefix } => {
                let Some(rows) = self.rows.get_mut(category) else { return 0 };
                let before = rows.len();
                rows.retain(|key, _| !key.starts_with(prefix.as_bytes()));
                (before - rows.len()) as u64
            }
        }
    }

    fn categories(&self) -> Vec<Vec<u8>> {
        self.rows.iter().filter(|(_, rows)| !rows.is_empty()).map(|(category, _)| category.clone()).collect()
    }
}

impl View for MemoryTenant {
    fn get(&self, category: &[u8], key: &[u8]) -> Op<Option<Vec<u8>>> {
        self.with(|data| data.get(category, key).cloned())
    }

    fn exists(&self, category: &[u8], key: &[u8]) -> Op<bool> {
        self.with(|data| data.get(category, key).is_some())
    }

    fn count(&self, category: &[u8], range: &KeyRange) -> Op<u64> {
        self.with(|data| data.range(category, range).count() as u64)
    }

    fn scan_page(&self, spec: ScanSpec) -> Op<Page> {
        self.with(|data| data.page(&spec))
    }

    fn categories(&self) -> Op<Vec<Vec<u8>>> {
        self.with(|data| data.categories())
    }
}

impl TenantBackend for MemoryTenant {
    fn apply(&self, batch: Batch, _: Durability, _: Admission) -> Op<Outcome> {
        self.with(|data| {
            if let Some(refusal) = data.refusal(batch.checks()) {
                return Outcome::Refused(refusal);
            }
            let deleted = batch.writes().iter().map(|write| data.write(write)).sum();
            data.commits += 1;
            Outcome::Applied(Commit::durable(data.commits, deleted))
        })
    }

    fn flush(&self) -> Op<()> {
        self.with(|_| ())
    }

    fn snapshot(&self) -> Op<Arc<dyn View>> {
        let (id, tenant) = (self.id.clone(), self.data.clone());
        self.with(|data| Arc::new(MemorySnapshot { id, tenant, data: data.clone() }) as Arc<dyn View>)
    }

    fn inline_limit(&self) -> usize {
        // What the SQLite backend has with its 8 KiB pages, so that layers behave alike on both.
        1_960
    }

    fn verify(&self) -> Op<TenantReport> {
        self.with(|data| {
            let mut report = TenantReport::default();
            for (category, rows) in &data.rows {
                for (key, payload) in rows {
                    report.rows += 1;
                    report.bytes += (category.len() + key.len() + payload.len()) as u64;
                }
            }
            report
        })
    }

    fn stats(&self) -> Op<TenantStats> {
        let report = self.verify();
        Op::ready(report.wait().and_then(|report| {
            let commits = self.with(|data| data.commits).wait()?;
            Ok(TenantStats { data_bytes: report.bytes, commits, groups: commits, ..TenantStats::default() })
        }))
    }

    fn close(&self) -> Op<()> {
        *lock(&self.data) = None;
        Op::ready(Ok(()))
    }

    fn is_closed(&self) -> bool {
        lock(&self.data).is_none()
    }
}

#[derive(Debug)]
struct MemorySnapshot {
    id: TenantId,
    tenant: OpenData,
    data: Data,
}

impl MemorySnapshot {
    fn with<T>(&self, step: impl FnOnce(&Data) -> T) -> Op<T> {
        let open = lock(&self.tenant).is_some();
        Op::ready(if open { Ok(step(&self.data)) } else { Err(closed(&self.id)) })
    }
}

impl View for MemorySnapshot {
    fn get(&self, category: &[u8], key: &[u8]) -> Op<Option<Vec<u8>>> {
        self.with(|data| data.get(category, key).cloned())
    }

    fn exists(&self, category: &[u8], key: &[u8]) -> Op<bool> {
        self.with(|data| data.get(category, key).is_some())
    }

    fn count(&self, category: &[u8], range: &KeyRange) -> Op<u64> {
        self.with(|data| data.range(category, range).count() as u64)
    }

    fn scan_page(&self, spec: ScanSpec) -> Op<Page> {
        self.with(|data| data.page(&spec))
    }

    fn categories(&self) -> Op<Vec<Vec<u8>>> {
        self.with(Data::categories)
    }
}
