//! The index of a log, kept while nobody has its file open: then the next opening need not read all of the log to make it again.
//!
//! It holds for exactly the files that it was made of. Any other program that wrote to them meanwhile has changed their times, or left a
//! frame behind the last one of the index where times are coarse, and then the log is read. What it says of the log is in the log, too: SQLite checks the index by its checksum, and every recovery makes it anew.

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
        // Looked at before the index is read and after: a program that writes in between has changed one of the two.
        let before = vfs.is_none().then(|| schema::stamps(path));
        let kept = ffi::read_index(connection).ok().flatten().and_then(|words| {
            let files = match before {
                Some(before) => {
                    let header = ffi::log_header(connection).ok().flatten()?;
                    Some(schema::FileState::with_header(path, header).filter(|files| files.was(before))?)
                }
                None => None,
            };
            Some(Kept { words, files })
        });
        *self.0 = State::Left(kept);
    }

    /// Whether there was an index to keep.
    pub(super) fn has_kept(&self) -> bool {
        matches!(&*self.0, State::Left(Some(_)))
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
            let is_current = || {
                let frames = ffi::frames_of(&kept.words);
                kept.files.as_ref().is_none_or(|files| files.is_current(path, frames))
            };
            // What stands in the way, SQLite will meet and tell.
            if ffi::write_index(connection, &kept.words, is_current).unwrap_or(false) {
                return Ok(true);
            }
        }
        if vfs.is_none() {
            // It may have been mapped above, and SQLite has not opened the log that would let go of it.
            schema::check_log_header(path).inspect_err(|_| ffi::leave_index(connection))?;
        }
        Ok(false)
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    /// Times may be as coarse as some milliseconds, so that two changes of the log have the same.
    #[test]
    fn an_index_that_lacks_a_frame_is_none_also_when_the_times_are_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let connection = Connection::open(at("made.db")).unwrap();
        connection
            .execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t (a); INSERT INTO t VALUES (1)")
            .unwrap();
        let words = ffi::read_index(&connection).unwrap().unwrap();
        let header = ffi::log_header(&connection).unwrap().unwrap();
        for (inserts, is_current) in [(0, true), (1, false)] {
            for _ in 0..inserts {
                connection.execute_batch("INSERT INTO t VALUES (2)").unwrap();
            }
            let copy = at(&format!("copy-{inserts}.db"));
            for suffix in ["", "-wal"] {
                let [from, to] = [at("made.db"), copy.clone()].map(|path| {
                    let mut path = path.into_os_string();
                    path.push(suffix);
                    path
                });
                std::fs::copy(from, to).unwrap();
            }
            let kept = Kept { words: words.clone(), files: schema::FileState::with_header(&copy, header) };
            let opened = Connection::open(&copy).unwrap();
            assert_eq!(State::Left(Some(kept)).open(&opened, &copy, None).unwrap(), is_current);
            let rows: i64 = opened.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
            assert_eq!(rows, 1 + inserts);
        }
    }
}
