//! The index of a log, kept while nobody has its file open: then the next opening need not read all of the log to make it again.
//!
//! It holds for exactly the files that it was made of. Any other program that wrote to them meanwhile has changed their times, and then the
//! log is read. What it says of the log is in the log, too: SQLite checks the index by its checksum, and every recovery makes it anew.

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;

use super::{ffi, schema};
use crate::Result;
use crate::sync::{Mutex, MutexGuard, lock};

/// The index of one tenant's log, for whoever opens its file next.
#[derive(Debug, Clone, Default)]
pub(super) struct LogIndex(Arc<Mutex<State>>);

#[derive(Debug, Default)]
enum State {
    /// The writer has the file open, or nobody ever let go of it.
    #[default]
    InUse,
    /// The file was let go: with its index, where that can be told.
    Left(Option<Kept>),
}

#[derive(Debug)]
struct Kept {
    /// Its head, and a word for each frame.
    words: Vec<u32>,
    /// `None` on a simulated disk, which nobody else writes to.
    files: Option<schema::FileState>,
}

impl LogIndex {
    /// While the answer lives nobody else opens or closes a connection to the file. SQLite notes in one place for all of them that no
    /// other process has the file; one that is open, and has not locked it yet when the last other one goes, would rely on that note in vain.
    pub(super) fn gate(&self) -> Gate<'_> {
        Gate(lock(&self.0))
    }
}

/// See [`LogIndex::gate`].
pub(super) struct Gate<'a>(MutexGuard<'a, State>);

impl Gate<'_> {
    /// Called by the writer before it closes the last connection.
    pub(super) fn keep(&mut self, connection: &Connection, path: &Path, vfs: Option<&str>) {
        let kept = ffi::read_index(connection).ok().flatten().and_then(|words| {
            let files = if vfs.is_none() { Some(schema::file_state(path)?) } else { None };
            Some(Kept { words, files })
        });
        *self.0 = State::Left(kept);
    }

    /// Called by the writer with a connection that has read nothing yet; answers whether the log need not be read.
    ///
    /// # Errors
    /// `Corrupt` for a log that is damaged in its header.
    pub(super) fn open(&self, connection: &Connection, path: &Path, vfs: Option<&str>) -> Result<bool> {
        self.0.open(connection, path, vfs)
    }

    /// The same by a reader. Beside the writer there is nothing to do.
    pub(super) fn open_beside(&self, connection: &Connection, path: &Path) -> Result<()> {
        match &*self.0 {
            State::InUse => Ok(()),
            left @ State::Left(_) => left.open(connection, path, None).map(|_| ()),
        }
    }

    /// Called by the writer once it has opened the file: from here on the index changes.
    pub(super) fn forget(&mut self) {
        *self.0 = State::InUse;
    }
}

impl State {
    fn open(&self, connection: &Connection, path: &Path, vfs: Option<&str>) -> Result<bool> {
        if let Self::Left(Some(kept)) = self {
            let is_current =
                || kept.files.as_ref().is_none_or(|files| schema::file_state(path).as_ref() == Some(files));
            // What stands in the way, SQLite will meet and tell.
            if ffi::write_index(connection, &kept.words, is_current).unwrap_or(false) {
                return Ok(true);
            }
        }
        if vfs.is_none() {
            schema::check_log_header(path)?;
        }
        Ok(false)
    }
}
