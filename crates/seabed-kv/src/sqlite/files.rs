//! Files that nobody writes, such as copies: read and verified where they lie, without a lock or a log beside them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::cache::CacheBudget;
use super::log_index::LogIndex;
use super::reader_pool::ReaderPool;
use super::{schema, verify};
use crate::backend::{Admission, Backend, TenantBackend, TenantReport, TenantStats, View};
use crate::limits::CACHE_BYTES_MAX;
use crate::{Batch, Durability, Error, ErrorKind, KeyRange, Op, Outcome, Page, Result, ScanSpec, TenantId};

/// Tenants as files with names of any kind.
#[derive(Debug)]
pub(crate) struct SqliteFiles(BTreeMap<TenantId, PathBuf>);

impl SqliteFiles {
    pub(crate) fn new(files: impl IntoIterator<Item = (TenantId, PathBuf)>) -> Self {
        Self(files.into_iter().collect())
    }

    fn open_tenant(&self, id: &TenantId) -> Result<Arc<dyn TenantBackend>> {
        let Some(path) = self.0.get(id) else {
            let message = format!("there is no file for it among these {}", self.0.len());
            return Err(Error::new(ErrorKind::TenantNotFound, message));
        };
        let path = std::path::absolute(path).map_err(|error| super::root::cannot("resolve", path, error))?;
        let immutable = immutable(&path);
        let page_bytes = schema::check_copy(&path, &immutable)?;
        // A copy may lie on another machine's disk, or on one that is unplugged.
        let readers = ReaderPool::unmapped(
            id.clone(),
            immutable,
            page_bytes,
            CacheBudget::new(CACHE_BYTES_MAX),
            LogIndex::default(),
        );
        Ok(Arc::new(FileTenant { path, readers, is_closed: AtomicBool::new(false) }))
    }
}

/// The file as a URI that tells SQLite that nothing changes it: then it takes no lock and looks for no log.
fn immutable(path: &Path) -> PathBuf {
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' => {
                uri.push(char::from(*byte));
            }
            _ => {
                let _ = write!(uri, "%{byte:02X}");
            }
        }
    }
    uri.push_str("?immutable=1");
    PathBuf::from(OsString::from(uri))
}

fn read_only() -> Error {
    let message = "the file is opened as one that nobody writes; restore it into a store to write to it";
    Error::new(ErrorKind::Unsupported, message)
}

impl Backend for SqliteFiles {
    fn own(&self) -> Op<()> {
        Op::ready(Ok(()))
    }

    fn open(&self, id: &TenantId) -> Op<Arc<dyn TenantBackend>> {
        Op::ready(self.open_tenant(id).map_err(|error| error.in_tenant(id)))
    }

    fn list(&self) -> Op<Vec<TenantId>> {
        Op::ready(Ok(self.0.keys().cloned().collect()))
    }

    fn remove(&self, id: &TenantId) -> Op<()> {
        Op::ready(Err(read_only().in_tenant(id)))
    }

    fn close(&self) -> Op<()> {
        Op::ready(Ok(()))
    }
}

#[derive(Debug)]
struct FileTenant {
    path: PathBuf,
    readers: Arc<ReaderPool>,
    is_closed: AtomicBool,
}

impl View for FileTenant {
    fn get(&self, category: &[u8], key: &[u8]) -> Op<Option<Vec<u8>>> {
        self.readers.get(category, key)
    }

    fn exists(&self, category: &[u8], key: &[u8]) -> Op<bool> {
        self.readers.exists(category, key)
    }

    fn count(&self, category: &[u8], range: &KeyRange) -> Op<u64> {
        self.readers.count(category, range)
    }

    fn scan_page(&self, spec: ScanSpec) -> Op<Page> {
        self.readers.scan_page(spec)
    }

    fn categories(&self) -> Op<Vec<Vec<u8>>> {
        self.readers.categories()
    }
}

impl TenantBackend for FileTenant {
    fn apply(&self, _: Batch, _: Durability, _: Admission) -> Op<Outcome> {
        Op::ready(Err(read_only()))
    }

    fn flush(&self) -> Op<()> {
        Op::ready(Ok(()))
    }

    fn snapshot(&self) -> Op<Arc<dyn View>> {
        Op::ready(self.readers.snapshot())
    }

    fn inline_limit(&self) -> usize {
        self.readers.inline_limit()
    }

    fn verify(&self) -> Op<TenantReport> {
        Op::ready(verify::file(&self.readers))
    }

    fn stats(&self) -> Op<TenantStats> {
        let data_bytes = std::fs::metadata(&self.path).map_or(0, |file| file.len());
        Op::ready(Ok(TenantStats { data_bytes, ..TenantStats::default() }))
    }

    fn close(&self) -> Op<()> {
        self.is_closed.store(true, Ordering::Relaxed);
        self.readers.close();
        Op::ready(Ok(()))
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }
}
