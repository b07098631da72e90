//! Views of a tenant: of what is committed now, each read on a pooled connection, or of a snapshot, which is a read-only transaction on a
//! connection of its own for a bounded time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use deadpool::managed::Object;
use tokio::sync::{Mutex, MutexGuard, OwnedSemaphorePermit, Semaphore};

use super::connection::{Connection, Server};
use super::pause;
use super::queue::Writer;
use super::reader::Reader;
use crate::backend::{TenantReport, TenantStats, View};
use crate::limits::{POSTGRES_RETRIES_MAX, SNAPSHOT_AGE_MS_MAX, SNAPSHOTS_MAX};
use crate::{Error, ErrorKind, KeyRange, Op, Page, Result, ScanSpec};

/// A view of one tenant. Every read is a task of the store's own, so dropping its `Op` leaves nothing half read.
#[derive(Clone)]
pub(super) struct PostgresView {
    writer: Arc<Writer>,
    /// What a snapshot holds; `None` for what is committed now.
    snapshot: Option<Arc<Snapshot>>,
}

/// A snapshot; it ends with the last that holds it, or with its time.
struct Snapshot {
    writer: Arc<Writer>,
    pinned: Arc<Mutex<Option<Pinned>>>,
}

/// The connection that a snapshot has for itself.
struct Pinned {
    connection: Object<Server>,
    _permits: [OwnedSemaphorePermit; 2],
}

/// A connection for one read.
enum Held<'a> {
    Pooled(Box<Object<Server>>),
    Pinned(MutexGuard<'a, Option<Pinned>>),
}

/// Runs a read as a task: once more when the connection turns out to be lost, which an idle one may have been for long.
macro_rules! read {
    ($view:expr, |$reader:ident| $read:expr) => {{
        let view = $view.clone();
        $view.writer.shared.spawn(async move {
            let mut again = view.snapshot.is_none();
            let mut conflicts = 0;
            loop {
                let held = view.hold().await?;
                let $reader = view.reader(held.connection(&view)?);
                match $read.await {
                    Err(failure) if again && failure.is_lost() => again = false,
                    // Where reads are serializable, too.
                    Err(failure)
                        if view.snapshot.is_none()
                            && failure.is_conflict()
                            && conflicts < POSTGRES_RETRIES_MAX =>
                    {
                        drop(held);
                        pause(conflicts).await;
                        conflicts += 1;
                    }
                    done => return done.map_err(|failure| failure.of_read().in_tenant(&view.writer.id)),
                }
            }
        })
    }};
}

impl PostgresView {
    /// What is committed now.
    pub(super) fn fresh(writer: Arc<Writer>) -> Self {
        Self { writer, snapshot: None }
    }

    /// A view that does not change.
    pub(super) fn snapshot(&self) -> Op<Arc<dyn View>> {
        let writer = self.writer.clone();
        self.writer.shared.spawn(async move {
            let snapshot = Snapshot::take(&writer).await.map_err(|error| error.in_tenant(&writer.id))?;
            Ok(Arc::new(Self { writer, snapshot: Some(snapshot) }) as Arc<dyn View>)
        })
    }

    pub(super) fn verify(&self) -> Op<TenantReport> {
        read!(self, |reader| reader.verify())
    }

    pub(super) fn stats(&self) -> Op<TenantStats> {
        read!(self, |reader| reader.stats())
    }

    async fn hold(&self) -> Result<Held<'_>> {
        if self.writer.is_closed() {
            return Err(self.writer.closed());
        }
        if let Some(snapshot) = &self.snapshot {
            return Ok(Held::Pinned(snapshot.pinned.lock().await));
        }
        let connection = self.writer.shared.connection().await;
        Ok(Held::Pooled(Box::new(connection.map_err(|error| error.in_tenant(&self.writer.id))?)))
    }

    fn reader<'a>(&'a self, connection: &'a Connection) -> Reader<'a> {
        Reader { connection, sql: &self.writer.shared.sql, tenant: self.writer.id.as_str().as_bytes() }
    }
}

impl View for PostgresView {
    fn get(&self, category: &[u8], key: &[u8]) -> Op<Option<Vec<u8>>> {
        let (category, key) = (category.to_vec(), key.to_vec());
        read!(self, |reader| reader.get(&category, &key))
    }

    fn exists(&self, category: &[u8], key: &[u8]) -> Op<bool> {
        let (category, key) = (category.to_vec(), key.to_vec());
        read!(self, |reader| reader.exists(&category, &key))
    }

    fn count(&self, category: &[u8], range: &KeyRange) -> Op<u64> {
        let (category, range) = (category.to_vec(), range.clone());
        read!(self, |reader| reader.count(&category, &range))
    }

    fn scan_page(&self, spec: ScanSpec) -> Op<Page> {
        read!(self, |reader| reader.scan_page(&spec))
    }

    fn categories(&self) -> Op<Vec<Vec<u8>>> {
        read!(self, |reader| reader.categories())
    }
}

impl fmt::Debug for PostgresView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresView").field("tenant", &self.writer.id).finish_non_exhaustive()
    }
}

impl Held<'_> {
    fn connection(&self, view: &PostgresView) -> Result<&Connection> {
        let pinned = match self {
            Self::Pooled(connection) => return Ok(connection),
            Self::Pinned(pinned) => pinned.as_ref(),
        };
        pinned.map(|pinned| &*pinned.connection).ok_or_else(|| {
            let message = format!("the snapshot is older than {SNAPSHOT_AGE_MS_MAX} ms; take another one");
            Error::new(ErrorKind::Timeout, message).in_tenant(&view.writer.id)
        })
    }
}

impl Snapshot {
    /// Begins the transaction, and lets a task end it in time.
    async fn take(writer: &Arc<Writer>) -> Result<Arc<Self>> {
        if writer.is_closed() {
            return Err(writer.closed());
        }
        let shared = &writer.shared;
        let permits = [
            permit(&writer.snapshots, SNAPSHOTS_MAX, "tenant")?,
            // Others need connections, too.
            permit(&shared.snapshots, shared.snapshots_max(), "store")?,
        ];
        let connection = shared.connection().await?;
        connection.begin(&shared.sql.BEGIN_SNAPSHOT).await.map_err(super::Failure::of_read)?;
        let pinned = Arc::new(Mutex::new(Some(Pinned { connection, _permits: permits })));
        let (held, sql) = (pinned.clone(), shared.sql.END_SNAPSHOT.clone());
        shared.handle().spawn(async move {
            tokio::time::sleep(Duration::from_millis(SNAPSHOT_AGE_MS_MAX)).await;
            end(&held, &sql).await;
        });
        Ok(Arc::new(Self { writer: writer.clone(), pinned }))
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let (pinned, shared) = (self.pinned.clone(), self.writer.shared.clone());
        shared.clone().handle().spawn(async move { end(&pinned, &shared.sql.END_SNAPSHOT).await });
    }
}

fn permit(snapshots: &Arc<Semaphore>, bound: usize, of: &str) -> Result<OwnedSemaphorePermit> {
    snapshots.clone().try_acquire_owned().map_err(|_| {
        let message = format!("{bound} snapshots of this {of} are open; drop one, or try again later");
        Error::new(ErrorKind::Busy, message)
    })
}

async fn end(pinned: &Mutex<Option<Pinned>>, sql: &str) {
    let pinned = pinned.lock().await.take();
    if let Some(pinned) = pinned
        && let Err(failure) = pinned.connection.end(sql).await
    {
        // The connection is given up, and with it the transaction.
        tracing::debug!(?failure, "a snapshot could not be ended");
    }
}
