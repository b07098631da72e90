//! The one connection that writes a tenant's file: how it is opened, and what it commits with.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::Connection;

use super::cache::CacheShare;
use super::ffi;
use super::log_index::Gate;
use super::schema::{self, sql};
use super::statements::PUT;
use crate::{Durability, Result};

/// An open connection.
pub(super) struct Writer {
    pub(super) connection: ffi::Source,
    pub(super) known: Known,
    /// Whether its index was kept from the last time.
    pub(super) has_kept_index: bool,
    /// Whether the log is cut to its bound when it begins anew.
    pub(super) is_log_limited: bool,
    /// How often it was used since it was opened; from the third time on that makes no difference.
    uses: u8,
    /// The durability that the connection commits with now, where it is known.
    level: Option<Durability>,
    /// Bytes of the log that hold commits, told by SQLite after each commit that wrote.
    pub(super) log_bytes: Arc<AtomicU64>,
    cache: CacheShare,
}

/// What is learned of a file and of SQLite when the file is opened first, and holds each time after.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    pub(super) page_bytes: usize,
    /// What every connection caches unless it is told otherwise, as SQLite counts: pages, or below zero KiB.
    cache_size: i64,
    /// Whether every connection commits Durable unless it is told otherwise.
    is_full: bool,
}

/// What SQLite calls the durability of Durable.
const SYNCHRONOUS_FULL: i64 = 2;

impl Writer {
    /// Opens a tenant's file for the first time.
    pub(super) fn open_first(path: &Path, vfs: Option<&str>, cache: CacheShare) -> Result<Self> {
        let connection = schema::open_writer(path, vfs)?;
        // This reads, and so opens the log, and recovers it when another process left it.
        schema::user_version(&connection)?;
        let default = |pragma| connection.query_row(pragma, [], |row| row.get(0)).map_err(sql);
        let known = Known {
            page_bytes: connection.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(sql)?,
            cache_size: default("PRAGMA cache_size")?,
            is_full: default("PRAGMA synchronous")? == SYNCHRONOUS_FULL,
        };
        Self::begin(connection, cache, known, false)
    }

    /// Opens it again: less is looked at, because it was ours when it was let go.
    pub(super) fn open_again(
        path: &Path,
        vfs: Option<&str>,
        cache: CacheShare,
        known: Known,
        is_log_listed: bool,
        gate: &Gate<'_>,
    ) -> Result<Self> {
        let connection = schema::open_writer_again(path, vfs)?;
        let has_kept_index = gate.open(&connection, path, vfs)?;
        // A statement that is needed next reads the schema, and so opens the log.
        let read = || connection.prepare_cached(PUT).map(drop).map_err(sql);
        ffi::opening_log(is_log_listed && has_kept_index, read)
            .inspect_err(|_| ffi::leave_index(&connection))?;
        Self::begin(connection, cache, known, has_kept_index)
    }

    fn begin(
        mut connection: Connection,
        cache: CacheShare,
        known: Known,
        has_kept_index: bool,
    ) -> Result<Self> {
        let log_bytes = Arc::new(AtomicU64::new(ffi::log_bytes(&connection).map_err(sql)?));
        // In the place of SQLite's own, which checkpoints: the writer does so between groups, when it decides to.
        let told = log_bytes.clone();
        connection
            .wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, frames| {
                let frames = u64::try_from(frames).unwrap_or(0);
                told.store(frames * known.page_bytes as u64, Ordering::Relaxed);
                Ok(())
            }))
            .map_err(sql)?;
        Ok(Self {
            connection: ffi::Source::new(connection),
            known,
            has_kept_index,
            is_log_limited: false,
            uses: 0,
            level: known.is_full.then_some(Durability::Durable),
            log_bytes,
            cache,
        })
    }

    /// How long it waits where another program holds the file.
    pub(super) fn wait_at_most(&self, ms: u64) -> Result<()> {
        self.connection.busy_timeout(Duration::from_millis(ms)).map_err(sql)
    }

    /// What it commits with from here on.
    pub(super) fn set_level(&mut self, level: Durability) -> rusqlite::Result<()> {
        if self.level != Some(level) {
            let pragma = match level {
                Durability::Durable => "PRAGMA synchronous=FULL",
                Durability::Relaxed => "PRAGMA synchronous=NORMAL",
            };
            self.connection.prepare_cached(pragma)?.execute([])?;
            self.level = Some(level);
        }
        Ok(())
    }

    /// Called after each group. Where more tenants are used than may be open, nearly all that are opened are evicted before a second use.
    /// So the pages of the first are not kept: they are a fifth of what an open tenant takes, and a second use reads them again in some
    /// microseconds. With that one it is set what the connection may cache; until then it is as much as SQLite lets every connection.
    pub(super) fn used(&mut self) -> Result<()> {
        match self.uses {
            0 => self.connection.release_memory().map_err(sql)?,
            1 => schema::set_cache(&self.connection, &self.cache, self.known.cache_size)?,
            _ => return Ok(()),
        }
        self.uses += 1;
        Ok(())
    }

    /// Ends what a failed group has begun.
    pub(super) fn roll_back(&self) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "a failed group could not be rolled back; its connection is opened again");
        }
    }
}
