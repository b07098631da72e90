//! The group commit without threads, for simulators that bring their own disk as a SQLite VFS. Not covered by semver.

use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags};

use super::cache::CacheBudget;
pub use super::engine::{EngineOptions, StoredRow};
use super::engine::{SqliteEngine, all_rows};
use super::schema::sql;
use super::{SqliteBackend, SqliteOptions};
use crate::limits::CACHE_BYTES_MAX;
use crate::scheduler::{Engine as _, Request, Rest, Verdict};
use crate::{Batch, Commit, Durability, Outcome, Result, Store};

/// A view of a tenant's file that does not change, on a connection of its own: what a snapshot is.
#[derive(Debug)]
pub struct View(Connection);

impl View {
    /// Begins one of what is committed now, through the named VFS.
    ///
    /// # Errors
    /// `Busy` when the log is being changed, `Corrupt` or `Backend`.
    pub fn open(path: &Path, vfs: &str) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags_and_vfs(path, flags, vfs).map_err(sql)?;
        // The view begins with the first read.
        connection.execute_batch("BEGIN; SELECT 1 FROM kv LIMIT 1").map_err(sql)?;
        Ok(Self(connection))
    }

    /// Every row, in the order of categories and keys.
    ///
    /// # Errors
    /// `Corrupt` or `Backend`.
    pub fn rows(&self) -> Result<Vec<StoredRow>> {
        all_rows(&self.0)
    }
}

/// A store whose tenants have such engines.
///
/// # Errors
/// As [`Store::sqlite`].
pub fn store(root: &Path, options: EngineOptions) -> Result<Store> {
    let backend = SqliteBackend::new(root, SqliteOptions::default())?.with_engine(options);
    Ok(Store::with_backend(Arc::new(backend)))
}

/// The engine of one tenant: what a writer thread runs, called directly.
#[derive(Debug)]
pub struct Engine(SqliteEngine);

impl Engine {
    /// Opens or makes a tenant's file through the named VFS.
    ///
    /// # Errors
    /// As [`Store::open`](crate::Store::open).
    pub fn open(path: &Path, vfs: Option<&str>, options: EngineOptions) -> Result<Self> {
        SqliteEngine::open(path, vfs, options, None, CacheBudget::new(CACHE_BYTES_MAX)).map(Self)
    }

    /// Applies the requests as one group and answers each, in order.
    pub fn commit_group(&mut self, group: Vec<(Batch, Durability)>) -> Vec<Result<Outcome>> {
        let requests: Vec<Request> =
            group.into_iter().map(|(batch, durability)| Request { batch, durability }).collect();
        let mut verdicts = Vec::with_capacity(requests.len());
        while let Some(left) = requests.get(verdicts.len()..).filter(|left| !left.is_empty()) {
            verdicts.extend(self.0.commit_group(left));
        }
        self.0.maintain();
        let outcome = |verdict| match verdict {
            Verdict::Applied { seq, deleted } => Outcome::Applied(Commit::durable(seq, deleted)),
            Verdict::Refused(refusal) => Outcome::Refused(refusal),
        };
        verdicts.into_iter().map(|verdict| verdict.map(outcome)).collect()
    }

    /// Makes every commit so far durable.
    ///
    /// # Errors
    /// `Backend` when the flush failed.
    pub fn flush(&mut self) -> Result<()> {
        let request = Request { batch: Batch::new(), durability: Durability::Durable };
        self.0.commit_group(&[request]).into_iter().try_for_each(|verdict| verdict.map(|_| ()))
    }

    /// Carries the log over into the file.
    ///
    /// # Errors
    /// `Backend` when a write or a flush failed; nothing that was acknowledged is lost.
    pub fn checkpoint(&mut self) -> Result<()> {
        self.0.checkpoint()
    }

    /// Lets go of the file as a tenant does that is not in use: without a flush, or closed properly.
    pub fn rest(&mut self, closed: bool) -> bool {
        self.0.rest(if closed { Rest::Closed } else { Rest::Released })
    }

    /// Whether a carrying over has failed: a tenant then lets its readers go before it writes again, and so must who holds a [`View`].
    pub fn lets_readers_go(&self) -> bool {
        self.0.is_file_in_doubt()
    }

    /// Every row, in the order of categories and keys.
    ///
    /// # Errors
    /// `Corrupt` or `Backend`.
    pub fn rows(&self) -> Result<Vec<StoredRow>> {
        self.0.rows()
    }

    /// Closes the file as a clean shutdown does.
    ///
    /// # Errors
    /// `Backend` when the last flush failed.
    pub fn close(self) -> Result<()> {
        self.0.close()
    }
}
