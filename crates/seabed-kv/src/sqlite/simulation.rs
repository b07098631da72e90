//! The group commit without threads, for simulators that bring their own disk as a SQLite VFS. Not covered by semver.

use std::path::Path;

use super::cache::CacheBudget;
use super::engine::SqliteEngine;
pub use super::engine::{EngineOptions, StoredRow};
use crate::limits::CACHE_BYTES_MAX;
use crate::scheduler::{Engine as _, Request, Rest, Verdict};
use crate::{Batch, Commit, Durability, Outcome, Result};

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
        let verdicts = self.0.commit_group(&requests);
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
