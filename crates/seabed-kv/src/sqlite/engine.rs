//! The group commit: a plain function over a connection and its requests.
//!
//! 1. Every check of a request is made before its first write; a refused request writes nothing.
//! 2. One transaction and one flush serve the group. It is Durable when one of its members is.
//! 3. Nothing is answered before what it says is durable, Relaxed acknowledgements apart.
//! 4. After a failed flush nobody knows what the disk holds: the group is Unknown, and before anything else is written the log is
//!    written again in place and flushed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[cfg(feature = "simulation")]
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::cache::CacheBudget;
use super::log_index::LogIndex;
use super::open_files::Files;
use super::schema::{self, BUSY_MS_MAX, sql};
use super::statements::Statements;
use super::writer::{Known, Writer};
use super::{ffi, reader_pool::ReaderPool, root::RootLock};
use crate::limits::{GROUP_REFUSED_BYTES_MAX, LOG_BYTES_MAX, LOG_CHECKPOINT_BYTES, LOG_REOPENED_BYTES};
use crate::scheduler::{Engine, Request, Rest, Verdict};
use crate::{Durability, Error, ErrorKind, Result};

/// What the engine of one tenant needs to know.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "simulation"), allow(unreachable_pub, reason = "simulators set them"))]
pub struct EngineOptions {
    /// When the log is carried over into the file.
    pub checkpoint_bytes: u64,
    /// Beyond this the log takes no more.
    pub log_bytes_max: u64,
    /// How long another program may hold up a group, or a checkpoint.
    pub busy_ms_max: u64,
    /// Answers Durable requests before their flush: the planted fault that the simulator must find.
    #[cfg(feature = "simulation")]
    pub plant_early_acknowledgement: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            checkpoint_bytes: LOG_CHECKPOINT_BYTES,
            log_bytes_max: LOG_BYTES_MAX,
            busy_ms_max: BUSY_MS_MAX,
            #[cfg(feature = "simulation")]
            plant_early_acknowledgement: false,
        }
    }
}

/// The only writer of one tenant's file, and the only one that checkpoints it.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, and any of them may hold with any other"
)]
pub(crate) struct SqliteEngine {
    path: PathBuf,
    vfs: Option<String>,
    options: EngineOptions,
    /// Those who may pin the log; the simulator has none.
    pub(super) readers: Option<Arc<ReaderPool>>,
    /// Where it is noted that the file is in use; the simulator has none.
    pub(super) files: Option<Arc<Files>>,
    pub(super) index: LogIndex,
    cache: CacheBudget,
    known: Known,
    /// `None` at rest, and after a failed reopening.
    connection: Option<Writer>,
    seq: u64,
    durable_seq: u64,
    /// Whether all of the log has been carried over, so that the next commit begins it anew, unless a reader stands in it.
    carried_over: bool,
    /// Whether the log's place in its directory was flushed since the log was made.
    is_log_listed: bool,
    /// Whether all of the log had to be read when the file was opened again, and will be when it is again.
    was_reopened: bool,
    /// Whether a flush failed since the log was last written again.
    poisoned: bool,
    /// Whether it may have been a flush of the file.
    is_file_in_doubt: bool,
    /// Whether the log was not flushed when the file was let go of, and not looked at since.
    is_log_in_doubt: bool,
    /// Why the tenant was given up.
    lost: Option<Error>,
    /// Held until the file is closed.
    _lock: Option<Arc<RootLock>>,
}

/// A category, a key and a payload.
#[cfg(feature = "simulation")]
pub type StoredRow = (Vec<u8>, Vec<u8>, Vec<u8>);

/// When a group failed.
enum Failure {
    /// Before its COMMIT: nothing of it was applied.
    Before(Error),
    /// In its COMMIT or the flush: nobody knows.
    During(Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Before(sql(error))
    }
}

impl SqliteEngine {
    /// Opens a tenant's file, making it when it is not there.
    pub(super) fn open(
        path: &Path,
        vfs: Option<&str>,
        options: EngineOptions,
        lock: Option<Arc<RootLock>>,
        cache: CacheBudget,
    ) -> Result<Self> {
        let writer = Writer::open_first(path, vfs, cache.share())?;
        writer.wait_at_most(options.busy_ms_max)?;
        // The process before may have been killed between a write and its flush, or after a failed one: what the cache shows us is
        // not yet what the disk holds, and we are about to tell others of it.
        if !ffi::rewrite_log(&writer.connection).map_err(sql)? {
            return Err(lost_commits());
        }
        ffi::carry_over_anew(&writer.connection).map_err(sql)?;
        Ok(Self {
            path: path.to_owned(),
            vfs: vfs.map(str::to_owned),
            options,
            readers: None,
            files: None,
            index: LogIndex::default(),
            cache,
            known: writer.known,
            connection: Some(writer),
            seq: 0,
            durable_seq: 0,
            carried_over: false,
            is_log_listed: false,
            was_reopened: false,
            poisoned: false,
            is_file_in_doubt: false,
            is_log_in_doubt: false,
            lost: None,
            _lock: lock,
        })
    }

    /// A connection whose log is whole on the disk, with room in it.
    fn make_ready(&mut self) -> Result<()> {
        self.make_whole()?;
        if self.log_bytes() >= self.options.log_bytes_max {
            self.force_checkpoint()?;
        }
        Ok(())
    }

    /// A connection whose log is whole on the disk.
    fn make_whole(&mut self) -> Result<()> {
        if let Some(lost) = &self.lost {
            return Err(lost.clone());
        }
        if self.connection.is_none() {
            let writer = self.open_again()?;
            self.was_reopened = !writer.has_kept_index;
            self.connection = Some(writer);
        }
        if self.poisoned { self.write_log_again() } else { Ok(()) }
    }

    fn open_again(&mut self) -> Result<Writer> {
        match self.open_with_index() {
            // What was not flushed may be lost, and with it pages that are needed to open the file. Without the index they are not.
            Err(error) if error.kind() == ErrorKind::Corrupt && self.durable_seq < self.seq => {
                Err(self.give_up())
            }
            opened => opened,
        }
    }

    fn open_with_index(&mut self) -> Result<Writer> {
        let (vfs, mut gate) = (self.vfs.as_deref(), self.index.gate());
        let writer =
            Writer::open_again(&self.path, vfs, self.cache.share(), self.known, self.is_log_listed, &gate)?;
        writer.wait_at_most(self.options.busy_ms_max)?;
        gate.forget();
        // Otherwise another program may have made another one.
        self.is_log_listed &= writer.has_kept_index;
        self.is_log_in_doubt = self.durable_seq < self.seq;
        Ok(writer)
    }

    fn drop_connection(&mut self) {
        let gate = self.index.gate();
        self.connection = None;
        drop(gate);
    }

    /// Reads the valid bytes of the log, writes them back in place and flushes them. Then commits go on where the last known one
    /// ended.
    fn write_log_again(&mut self) -> Result<()> {
        // With the last connection goes the index of the log, which counts pages as carried over that a failed flush of the file has
        // lost: it is built anew from the log, and they are carried over again. Readers go because they would read such pages from
        // the file. (Otherwise they stay, also on a full disk.)
        let readers = self.readers.clone().filter(|_| self.is_file_in_doubt);
        let _paused = readers.as_ref().map(|readers| readers.pause());
        let Some(writer) = &self.connection else { return Ok(()) };
        if self.is_file_in_doubt {
            // A reader of another process keeps the index, and what it says. First, because it takes no disk that works.
            ffi::carry_over_anew(&writer.connection).map_err(sql)?;
        }
        let is_whole = ffi::rewrite_log(&writer.connection).map_err(|error| {
            let cause = sql(error);
            let message = format!(
                "a flush failed and the log cannot be written again: {cause}; the tenant takes no writes until it can"
            );
            Error::new(cause.kind(), message).with_source(cause)
        })?;
        if !is_whole {
            return Err(self.give_up());
        }
        // Whatever the failure left in the connection's memory goes with it.
        self.drop_connection();
        let writer = self.open_again()?;
        // A commit that changes nothing decides what became of the failed one: it comes behind it when its frames were recovered, and
        // over them when they were not. Without it they could come back at the next recovery.
        writer.connection.pragma_update(None, "user_version", schema::USER_VERSION).map_err(sql)?;
        self.connection = Some(writer);
        self.list_log()?;
        (self.poisoned, self.is_file_in_doubt, self.is_log_in_doubt) = (false, false, false);
        self.durable_seq = self.seq;
        Ok(())
    }

    /// Gives the tenant up: of its log something is gone that was acknowledged as Relaxed, and whatever is written behind that hole goes with
    /// it at the next recovery. Readers go, too, because the index still leads them there. Who opens the tenant again finds
    /// what is before the hole.
    fn give_up(&mut self) -> Error {
        if let Some(readers) = &self.readers {
            readers.close();
        }
        self.drop_connection();
        self.lost.insert(lost_commits()).clone()
    }

    /// Looks whether the log is whole, where something may have been lost of it while nobody had it open: no flush tells of that. A recovery
    /// would find out when the file is opened again; but it would read all of the log, for commits that may never be relied on.
    fn check_log(&mut self) -> Result<()> {
        let Some(writer) = self.connection.as_ref().filter(|_| self.is_log_in_doubt) else { return Ok(()) };
        if !ffi::is_log_whole(&writer.connection).map_err(sql)? {
            return Err(self.give_up());
        }
        self.is_log_in_doubt = false;
        Ok(())
    }

    /// Flushes the log's place in its directory, once for each log that was made. SQLite does so with the first flush of a log, and takes no
    /// failure of it for one, as where the process has no file left to open.
    fn list_log(&mut self) -> Result<()> {
        // The directory of a simulated disk cannot be reached from outside, and does not fail.
        if !self.is_log_listed && self.vfs.is_none() {
            schema::sync_directory(&self.path)?;
        }
        self.is_log_listed = true;
        Ok(())
    }

    /// The connection, opened again when that is due: what a backup copies.
    pub(super) fn source(&mut self) -> Result<&ffi::Source> {
        self.make_ready()?;
        self.check_log()?;
        let closed = || Error::new(ErrorKind::Backend, "the file could not be opened again");
        self.connection.as_ref().map(|writer| &writer.connection).ok_or_else(closed)
    }

    /// Closes the file as a failure does; the next call opens it again.
    #[cfg(test)]
    #[allow(clippy::unnecessary_wraps, reason = "to be passed to with_engine")]
    pub(super) fn lose_connection(&mut self) -> Result<()> {
        self.drop_connection();
        Ok(())
    }

    /// Gives up the backup that is under way.
    pub(super) fn end_copy(&self) {
        if let Some(writer) = &self.connection {
            writer.connection.end_copy();
        }
    }

    /// The size of the file's pages.
    pub(super) fn page_bytes(&self) -> usize {
        self.known.page_bytes
    }

    fn log_bytes(&self) -> u64 {
        self.connection.as_ref().map_or(0, |writer| writer.log_bytes.load(Ordering::Relaxed))
    }

    fn try_group(&mut self, requests: &[Request]) -> Result<Vec<Verdict>, Failure> {
        #[cfg(feature = "simulation")]
        let planted = self.options.plant_early_acknowledgement;
        #[cfg(not(feature = "simulation"))]
        let planted = false;
        let durable = requests.iter().any(|request| request.durability == Durability::Durable);
        let level = if durable && !planted { Durability::Durable } else { Durability::Relaxed };
        let mut seq = self.seq;
        let unsynced_before = self.durable_seq < self.seq;
        let writer = self
            .connection
            .as_mut()
            .ok_or_else(|| Failure::Before(Error::new(ErrorKind::Backend, "the file is closed")))?;
        writer.set_level(level)?;
        let connection = &writer.connection;
        let log_before = writer.log_bytes.swap(0, Ordering::Relaxed);
        let verdicts = (|| {
            connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
            let mut statements = Statements::new(connection);
            let mut verdicts = Vec::with_capacity(requests.len());
            let mut refused_bytes = 0;
            for request in requests {
                if refused_bytes >= GROUP_REFUSED_BYTES_MAX {
                    break;
                }
                verdicts.push(if let Some(refusal) = statements.refusal(&request.batch)? {
                    refused_bytes += refusal.found.as_ref().map_or(0, Vec::len);
                    Verdict::Refused(refusal)
                } else {
                    let deleted = statements.write(&request.batch)?;
                    seq += u64::from(!request.batch.writes().is_empty());
                    Verdict::Applied { seq, deleted }
                });
            }
            Ok::<_, rusqlite::Error>(verdicts)
        })();
        let verdicts = match verdicts {
            Ok(verdicts) => verdicts,
            Err(error) => {
                writer.log_bytes.store(log_before, Ordering::Relaxed);
                writer.roll_back();
                return Err(error.into());
            }
        };
        let committed = connection.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([]));
        // The hook ran when frames were written, and only then.
        let wrote = writer.log_bytes.load(Ordering::Relaxed) != 0;
        if wrote {
            self.carried_over = false;
        } else {
            writer.log_bytes.store(log_before, Ordering::Relaxed);
        }
        committed.map_err(|error| Failure::During(sql(error)))?;
        self.seq = seq;
        let synced_by_commit = wrote && level == Durability::Durable;
        let unsynced = if wrote { !synced_by_commit } else { unsynced_before };
        let refused = verdicts.iter().any(|verdict| matches!(verdict, Verdict::Refused(_)));
        // A refusal tells of the batch that it was refused by, and a Durable request that changed nothing of the one that it
        // found done: COMMIT without frames flushes nothing.
        let syncs = unsynced && (level == Durability::Durable || refused) && !planted;
        if syncs {
            ffi::sync_log(connection).map_err(|error| Failure::During(sql(error)))?;
        }
        if syncs || synced_by_commit {
            self.check_log().and_then(|()| self.list_log()).map_err(Failure::During)?;
        }
        if syncs || !unsynced || planted {
            self.durable_seq = seq;
        }
        Ok(verdicts)
    }

    fn answer_group(&mut self, requests: &[Request]) -> Vec<Result<Verdict>> {
        let failed = |error: &Error| requests.iter().map(|_| Err(error.clone())).collect();
        if let Err(error) = self.make_ready() {
            return failed(&error);
        }
        let result = self.try_group(requests).map_err(|failure| match failure {
            // What was lost of the log is no damage to the file.
            Failure::Before(error) if error.kind() == ErrorKind::Corrupt => {
                Failure::Before(self.check_log().err().unwrap_or(error))
            }
            other => other,
        });
        match result {
            Ok(verdicts) => verdicts.into_iter().map(Ok).collect(),
            // One of them cannot be written; the others must not suffer for it. (A file that another program holds is no
            // request's fault.)
            Err(Failure::Before(error)) if requests.len() > 1 && error.kind() != ErrorKind::Busy => {
                self.poisoned |= error.kind() == ErrorKind::Backend;
                self.answer_each(requests)
            }
            Err(Failure::Before(error)) => {
                // A large batch writes to the log before its COMMIT, and that may have failed.
                self.poisoned |= error.kind() == ErrorKind::Backend;
                failed(&error)
            }
            Err(Failure::During(error)) => {
                self.poisoned = true;
                if let Some(writer) = &self.connection {
                    writer.roll_back();
                }
                // At once, so that whoever reads after the answer reads what stays. While the disk fails, the next group tries
                // again.
                if let Err(error) = self.make_ready() {
                    tracing::error!(file = %self.path.display(), %error, "the log could not be written again");
                }
                failed(&error.unknown())
            }
        }
    }

    fn answer_each(&mut self, requests: &[Request]) -> Vec<Result<Verdict>> {
        let (mut verdicts, mut refused_bytes) = (Vec::with_capacity(requests.len()), 0);
        for request in requests {
            if refused_bytes >= GROUP_REFUSED_BYTES_MAX {
                break;
            }
            for verdict in self.answer_group(std::slice::from_ref(request)) {
                if let Ok(Verdict::Refused(refusal)) = &verdict {
                    refused_bytes += refusal.found.as_ref().map_or(0, Vec::len);
                }
                verdicts.push(verdict);
            }
        }
        verdicts
    }

    /// Carries the log over as far as readers allow.
    pub(crate) fn checkpoint(&mut self) -> Result<()> {
        // After a failed flush the disk may hold a shorter log than we read: carried over, it would be older than the file.
        self.make_whole()?;
        self.run_checkpoint("PRAGMA wal_checkpoint(PASSIVE)")
    }

    /// Carries the log over and cuts it off, unless somebody reads from it just now. A log that was only carried over would begin anew with
    /// the next commit; but a tenant that is evicted before that reads all of it again, and carries it over again.
    fn cut_log(&mut self) -> Result<()> {
        self.make_whole()?;
        if let Some(readers) = &self.readers {
            readers.end_idle_views();
        }
        let wait =
            |engine: &Self, ms| engine.connection.as_ref().map_or(Ok(()), |writer| writer.wait_at_most(ms));
        wait(self, 0)?;
        let cut = self.run_checkpoint("PRAGMA wal_checkpoint(TRUNCATE)");
        wait(self, self.options.busy_ms_max)?;
        cut
    }

    /// Carries the whole log over, waiting for readers; those that pin it for too long are let go.
    fn force_checkpoint(&mut self) -> Result<()> {
        let readers = self.readers.clone();
        let _stopped = readers.as_ref().map(|readers| readers.stop_long_reads());
        if let Some(readers) = &readers {
            readers.expire();
            readers.end_idle_views();
        }
        self.run_checkpoint("PRAGMA wal_checkpoint(TRUNCATE)")?;
        if self.log_bytes() < self.options.log_bytes_max {
            return Ok(());
        }
        let message = format!(
            "the log has reached its cap of {} bytes and something reads from it; nothing was applied, try again later",
            self.options.log_bytes_max
        );
        Err(Error::new(ErrorKind::Busy, message))
    }

    fn run_checkpoint(&mut self, pragma: &str) -> Result<()> {
        // Into the file comes nothing that is not in the log.
        self.check_log()?;
        let Some(writer) = &mut self.connection else { return Ok(()) };
        // Before the log can begin anew: here, because most tenants are closed before theirs is long.
        if !writer.is_log_limited {
            writer.connection.pragma_update(None, "journal_size_limit", LOG_CHECKPOINT_BYTES).map_err(sql)?;
            writer.is_log_limited = true;
        }
        let result = writer.connection.query_row(pragma, [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
        });
        match result {
            Ok((_, frames, carried)) => {
                // Both are -1 when another program was at it.
                self.carried_over = frames >= 0 && frames == carried;
                if self.carried_over {
                    // The log was flushed first.
                    self.durable_seq = self.seq;
                    self.was_reopened = false;
                }
                if frames == 0 {
                    // Cut off.
                    writer.log_bytes.store(0, Ordering::Relaxed);
                }
                Ok(())
            }
            Err(error) => {
                let error = sql(error);
                self.poisoned |= error.kind() != ErrorKind::Busy;
                self.is_file_in_doubt |= error.kind() != ErrorKind::Busy && !error.is_disk_full();
                // At once, because until then readers are shown what the file may have lost. While the disk fails, the next group
                // tries again, and whoever looks after tenants that nobody uses.
                if self.is_file_in_doubt
                    && let Err(error) = self.make_whole()
                {
                    tracing::error!(file = %self.path.display(), %error, "the log could not be written again");
                }
                Err(error)
            }
        }
    }

    /// As after a failed flush.
    #[cfg(all(test, not(shuttle)))]
    pub(super) fn poison(&mut self) {
        (self.poisoned, self.is_file_in_doubt) = (true, true);
    }

    /// Whether a flush of the file has failed: readers end before the next write.
    #[cfg(feature = "simulation")]
    pub(super) fn is_file_in_doubt(&self) -> bool {
        self.is_file_in_doubt
    }

    /// Every row, in order: what a simulator compares.
    #[cfg(feature = "simulation")]
    pub(super) fn rows(&self) -> Result<Vec<StoredRow>> {
        let closed = || Error::new(ErrorKind::Backend, "the file could not be opened again");
        let writer = self.connection.as_ref().ok_or_else(closed)?;
        all_rows(&writer.connection)
    }
}

#[cfg(feature = "simulation")]
pub(super) fn all_rows(connection: &Connection) -> Result<Vec<StoredRow>> {
    let mut statement =
        connection.prepare("SELECT category,key,payload FROM kv ORDER BY category,key").map_err(sql)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).map_err(sql)?;
    rows.collect::<Result<_, _>>().map_err(sql)
}

fn lost_commits() -> Error {
    let message = "a write of the log never reached the disk, and commits that were acknowledged as Relaxed are lost; the tenant is \
                   closed: open it again to go on with what was durable";
    Error::new(ErrorKind::Backend, message)
}

impl Engine for SqliteEngine {
    fn commit_group(&mut self, requests: &[Request]) -> Vec<Result<Verdict>> {
        if let (Some(readers), true) = (&self.readers, self.carried_over) {
            readers.end_idle_views();
        }
        let verdicts = self.answer_group(requests);
        if let Some(readers) = &self.readers {
            readers.group_ended();
        }
        verdicts
    }

    fn durable_seq(&self) -> u64 {
        self.durable_seq
    }

    fn maintain(&mut self) {
        if let Some(Err(error)) = self.connection.as_mut().map(Writer::used) {
            tracing::warn!(file = %self.path.display(), %error, "a connection caches more than its share");
        }
        if let Some(files) = &self.files {
            files.used();
        }
        let due_bytes = self.options.checkpoint_bytes;
        let due_bytes = if self.was_reopened { due_bytes.min(LOG_REOPENED_BYTES) } else { due_bytes };
        if self.log_bytes() < due_bytes || self.carried_over || self.poisoned {
            return;
        }
        // What was acknowledged stays; the next group finds out whether the file can be written again.
        let carried = if self.was_reopened { self.cut_log() } else { self.checkpoint() };
        if let Err(error) = carried {
            tracing::error!(file = %self.path.display(), %error, "a checkpoint failed");
        }
    }

    fn failure(&self) -> Option<Error> {
        self.lost.clone()
    }

    fn rest(&mut self, how: Rest) -> bool {
        if self.lost.is_some() || self.connection.is_none() && how == Rest::Released {
            return true;
        }
        // Nobody else may come to do it.
        if self.poisoned
            && how == Rest::Closed
            && let Err(error) = self.make_whole()
        {
            tracing::error!(file = %self.path.display(), %error, "the log could not be written again");
            return false;
        }
        // After a failed flush the connection goes only once the log was written again, and a copy is done sooner than begun again.
        if self.poisoned || self.connection.as_ref().is_some_and(|writer| writer.connection.is_copied()) {
            return false;
        }
        if how == Rest::Closed {
            // It may have let go of its file before; its log is read again for the last time.
            // (A simulated disk cannot be looked at from outside.)
            if self.connection.is_none() && self.vfs.is_none() && !schema::has_log(&self.path) {
                return true;
            }
            if let Err(error) = self.make_whole().and_then(|()| self.close_file()) {
                tracing::error!(file = %self.path.display(), %error, "a tenant that nobody uses was not closed cleanly");
                self.poisoned |= error.kind() == ErrorKind::Backend;
                return false;
            }
        } else {
            // What is not flushed yet is in the log, and stays known to be: the next opening goes on from there.
            let mut gate = self.index.gate();
            if let Some(writer) = &self.connection {
                gate.keep(&writer.connection, &self.path, self.vfs.as_deref());
                // A log that is read again ends where something of it was lost, and nobody would notice.
                if !gate.has_kept()
                    && self.durable_seq < self.seq
                    && let Err(error) = ffi::sync_log(&writer.connection)
                {
                    tracing::error!(file = %self.path.display(), %error, "a log could not be flushed");
                    gate.forget();
                    self.poisoned = true;
                    return false;
                }
            }
            self.connection = None;
        }
        self.carried_over = false;
        true
    }

    fn close(mut self) -> Result<()> {
        // At rest, with nothing to flush: what the log holds is read by the next opening.
        if self.connection.is_none() && !self.poisoned && self.durable_seq == self.seq {
            return Ok(());
        }
        // However long the log is: nothing more is written to it.
        self.make_whole()?;
        self.close_file()
    }
}

impl SqliteEngine {
    /// Makes everything durable, carries the log over and removes it, where nobody else has the file open.
    fn close_file(&mut self) -> Result<()> {
        let Some(writer) = &self.connection else { return Ok(()) };
        if self.durable_seq < self.seq {
            ffi::sync_log(&writer.connection).map_err(sql)?;
            self.check_log()?;
            self.list_log()?;
            self.durable_seq = self.seq;
        }
        let Some(writer) = &self.connection else { return Ok(()) };
        // From here on nothing can be lost, only left for the next opening.
        schema::set(&writer.connection, DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        let _gate = self.index.gate();
        let Some(writer) = self.connection.take() else { return Ok(()) };
        self.is_log_listed = false;
        writer.connection.flush_prepared_statement_cache();
        writer.connection.close().map_err(|(_, error)| sql(error))
    }
}

impl Drop for SqliteEngine {
    fn drop(&mut self) {
        self.drop_connection();
    }
}

#[allow(clippy::missing_fields_in_debug, reason = "a connection has nothing to show")]
impl std::fmt::Debug for SqliteEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteEngine").field("path", &self.path).field("seq", &self.seq).finish()
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;
    use crate::Batch;

    #[test]
    fn a_group_ends_when_its_refusals_are_large_and_the_others_are_the_next() {
        const ROW_BYTES: usize = 3 * 1024 * 1024;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.db");
        let options = EngineOptions::default();
        let mut engine = SqliteEngine::open(&path, None, options, None, CacheBudget::new(1 << 20)).unwrap();
        let request = |batch| Request { batch, durability: Durability::Durable };
        let (mut row, mut refused) = (Batch::new(), Batch::new());
        row.put("c", b"k", vec![7; ROW_BYTES]);
        refused.check_absent("c", b"k");
        assert!(engine.commit_group(&[request(row)]).iter().all(Result::is_ok));
        let requests = vec![request(refused); 10];
        let (mut answered, mut groups) = (0, 0);
        while answered < requests.len() {
            let verdicts = engine.commit_group(&requests[answered..]);
            assert!(verdicts.iter().all(|verdict| matches!(verdict, Ok(Verdict::Refused(refusal))
                if refusal.found.as_ref().is_some_and(|found| found.len() == ROW_BYTES))));
            assert!(!verdicts.is_empty() && (verdicts.len() - 1) * ROW_BYTES < GROUP_REFUSED_BYTES_MAX);
            (answered, groups) = (answered + verdicts.len(), groups + 1);
        }
        assert_eq!((answered, groups), (10, 4));
    }
}
