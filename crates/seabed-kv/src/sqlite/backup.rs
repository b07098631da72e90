//! The online backup: a tenant copied page by page between the groups of its writer.
//!
//! The backup belongs to the writer's own connection, so SQLite carries every commit over into the pages that were copied already: at
//! the end the copy is the tenant as it is at that moment, between two groups. The writer is held up for one step at a time, and who
//! waits for it goes first.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags};

use super::engine::SqliteEngine;
use super::ffi;
use super::schema::{sql, sync_directory};
use crate::backend::{Admission, Copied};
use crate::scheduler::Actor;
use crate::sync::{Mutex, lock};
use crate::{Batch, Durability, Error, ErrorKind, Result};

/// How many pages are copied while the writer waits: 1 MiB, less than a millisecond.
const STEP_PAGES: u16 = 128;

/// How often a copy begins again when the file was opened anew meanwhile, as it is after a failed flush.
const ATTEMPTS_MAX: usize = 8;

/// Copies a tenant into the new file `to`.
pub(super) fn copy(
    actor: &Arc<Actor<SqliteEngine>>,
    copying: &Mutex<()>,
    to: &Path,
    previous: Option<&Path>,
) -> Result<Copied> {
    // The copy belongs to the writer's connection, which carries one at a time: others wait, each on its caller's thread.
    let _one_at_a_time = lock(copying);
    create(to)?;
    let copied = write(actor, to).and_then(|()| keep(to, previous));
    if !matches!(copied, Ok(Copied::Written)) {
        // What is left of a failure is named by it; an unchanged copy that cannot be removed is only in the way.
        let _ = std::fs::remove_file(to);
    }
    copied
}

fn create(to: &Path) -> Result<()> {
    let mut options = File::options();
    options.write(true).create_new(true);
    // As private as the root that it is a copy of.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(to).map(drop).map_err(|error| {
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            Error::invalid(format!("{} exists; a copy is written into a new file", to.display()))
        } else {
            failed("make", to, error)
        }
    })
}

fn write(actor: &Arc<Actor<SqliteEngine>>, to: &Path) -> Result<()> {
    for _ in 0..ATTEMPTS_MAX {
        if attempt(actor, to)? {
            return Ok(());
        }
        tracing::warn!(to = %to.display(), "the file was opened anew while it was copied; the copy begins again");
        // What there is of the last attempt must not be taken for a beginning of this one.
        File::create(to).map_err(|error| failed("begin again", to, error))?;
    }
    let message = format!(
        "the file was opened anew {ATTEMPTS_MAX} times while it was copied; look at its disk, then try again"
    );
    Err(Error::new(ErrorKind::Busy, message))
}

/// Copies from the first page to the last; `false` when the connection it was copied from is gone.
fn attempt(actor: &Arc<Actor<SqliteEngine>>, to: &Path) -> Result<bool> {
    let destination = open_destination(to).map_err(|error| in_copy(to, error))?;
    actor
        .with_engine(|engine| engine.source()?.begin_copy(destination).map_err(|error| in_copy(to, error)))?;
    let copied = steps(actor, to);
    if copied.is_err() {
        // Also when the tenant was closed: then it went with its connection.
        let _ = actor.with_engine(|engine| {
            engine.end_copy();
            Ok(())
        });
    }
    copied
}

fn steps(actor: &Arc<Actor<SqliteEngine>>, to: &Path) -> Result<bool> {
    let (mut pages, mut left_before) = (STEP_PAGES, u32::MAX);
    loop {
        let step = actor
            .with_engine(|engine| engine.source()?.step_copy(pages).map_err(|error| in_copy(to, error)))?;
        match step {
            ffi::Copied::Whole => return Ok(true),
            ffi::Copied::Lost => return Ok(false),
            ffi::Copied::More(left) => {
                if left >= left_before {
                    // The tenant grows as fast as it is copied, or another program writes to it: larger steps come to an end.
                    pages = pages.saturating_mul(2);
                }
                left_before = left;
            }
        }
        // Whoever waits goes first: a mutex alone would let this thread in again and again. An empty request queues behind them,
        // and writes and flushes nothing.
        actor.submit(Batch::new(), Durability::Relaxed, Admission::Wait).wait()?;
    }
}

fn open_destination(to: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let destination = Connection::open_with_flags(to, flags)?;
    // A copy that is interrupted is thrown away, and one that is whole is flushed once, at its end.
    destination.execute_batch("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF")?;
    Ok(destination)
}

/// Flushes the copy, unless it is the previous one.
fn keep(to: &Path, previous: Option<&Path>) -> Result<Copied> {
    if let Some(previous) = previous
        && is_same(to, previous).map_err(|error| failed("compare with the previous copy", to, error))?
    {
        return Ok(Copied::Unchanged);
    }
    File::open(to).and_then(|file| file.sync_all()).map_err(|error| failed("flush", to, error))?;
    sync_directory(to)?;
    Ok(Copied::Written)
}

/// Whether two files hold the same bytes. A previous copy that is not there is another.
fn is_same(new: &Path, previous: &Path) -> std::io::Result<bool> {
    let mut previous = match File::open(previous) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut new = File::open(new)?;
    let mut left = new.metadata()?.len();
    if previous.metadata()?.len() != left {
        return Ok(false);
    }
    let (mut ours, mut theirs) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(ours.len());
        let (Some(ours), Some(theirs)) = (ours.get_mut(..length), theirs.get_mut(..length)) else {
            return Ok(false);
        };
        new.read_exact(ours)?;
        previous.read_exact(theirs)?;
        if ours != theirs {
            return Ok(false);
        }
        left -= length as u64;
    }
    Ok(true)
}

fn failed(what: &str, to: &Path, error: std::io::Error) -> Error {
    let hint = if error.kind() == std::io::ErrorKind::StorageFull { "the disk is full: " } else { "" };
    Error::new(ErrorKind::Backend, format!("cannot {what} {}: {hint}{error}", to.display()))
        .with_source(error)
}

fn in_copy(to: &Path, error: rusqlite::Error) -> Error {
    let ours = sql(error);
    Error::new(ours.kind(), format!("copying to {}: {ours}", to.display())).with_source(ours)
}

#[cfg(test)]
mod tests {
    use super::super::cache::CacheBudget;
    use super::super::engine::EngineOptions;
    use super::*;
    use crate::TenantId;
    use crate::scheduler::PoolOwner;

    const ROWS: u32 = 1_500;

    fn tenant(directory: &Path) -> (PoolOwner<SqliteEngine>, Arc<Actor<SqliteEngine>>) {
        let (pool, cache) = (PoolOwner::start(1).unwrap(), CacheBudget::new(1 << 20));
        let engine =
            SqliteEngine::open(&directory.join("t.db"), None, EngineOptions::default(), None, cache).unwrap();
        let actor = Actor::new(TenantId::new("t").unwrap(), engine, pool.pool());
        for row in 0..ROWS {
            let mut batch = Batch::new();
            batch.put("c", row.to_be_bytes(), vec![7; 4_000]);
            drop(actor.submit(batch, Durability::Relaxed, Admission::Wait));
        }
        actor.submit(Batch::new(), Durability::Durable, Admission::Wait).wait().unwrap();
        (pool, actor)
    }

    fn rows(file: &Path) -> u32 {
        let copy = Connection::open(file).unwrap();
        copy.query_row("SELECT count(*) FROM kv WHERE length(payload)=4000", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_connection_that_is_lost_begins_the_copy_again_and_closes_well() {
        let directory = tempfile::tempdir().unwrap();
        let (_pool, actor) = tenant(directory.path());
        let to = directory.path().join("copy");
        create(&to).unwrap();
        let begin = || {
            let destination = open_destination(&to).unwrap();
            actor.with_engine(|engine| {
                let source = engine.source()?;
                source.begin_copy(destination).map_err(sql)?;
                source.step_copy(STEP_PAGES).map_err(sql)
            })
        };
        assert!(matches!(begin().unwrap(), ffi::Copied::More(left) if left > u32::from(STEP_PAGES)));
        // What was closed under the copy can be opened, written and closed again: SQLite did close it.
        actor.with_engine(SqliteEngine::lose_connection).unwrap();
        let step = actor.with_engine(|engine| engine.source()?.step_copy(STEP_PAGES).map_err(sql)).unwrap();
        assert!(matches!(step, ffi::Copied::Lost), "{step:?}");
        let mutex = Mutex::new(());
        assert_eq!(copy(&actor, &mutex, &to, None).unwrap_err().kind(), ErrorKind::InvalidArgument);
        std::fs::remove_file(&to).unwrap();
        assert_eq!(copy(&actor, &mutex, &to, None).unwrap(), Copied::Written);
        assert_eq!(rows(&to), ROWS);

        assert!(matches!(begin().unwrap(), ffi::Copied::More(_)));
        actor.close().wait().unwrap();
        assert!(!directory.path().join("t.db-wal").exists(), "a close with a copy under way is a clean one");
    }

    #[test]
    fn a_connection_that_is_lost_again_and_again_ends_in_an_error_or_a_copy() {
        let directory = tempfile::tempdir().unwrap();
        let (_pool, actor) = tenant(directory.path());
        let to = directory.path().join("copy");
        let mutex = Mutex::new(());
        let done = std::sync::atomic::AtomicBool::new(false);
        let copied = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    actor.with_engine(SqliteEngine::lose_connection).unwrap();
                    std::thread::yield_now();
                }
            });
            let copied = copy(&actor, &mutex, &to, None);
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            copied
        });
        match copied {
            Ok(_) => assert_eq!(rows(&to), ROWS),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
                assert!(!to.exists(), "what did not become a copy is removed");
            }
        }
        std::fs::remove_file(&to).ok();
        assert_eq!(copy(&actor, &mutex, &to, None).unwrap(), Copied::Written);
    }

    #[test]
    fn copies_of_a_tenant_that_are_asked_for_at_once_are_made_one_after_another() {
        let directory = tempfile::tempdir().unwrap();
        let (_pool, actor) = tenant(directory.path());
        let mutex = Mutex::default();
        std::thread::scope(|scope| {
            for number in 0..4 {
                let (to, actor, mutex) = (directory.path().join(format!("{number}")), &actor, &mutex);
                scope.spawn(move || assert_eq!(copy(actor, mutex, &to, None).unwrap(), Copied::Written));
            }
        });
        let length = |number| std::fs::metadata(directory.path().join(format!("{number}"))).unwrap().len();
        assert!((1..4).all(|number| length(number) == length(0)));
    }
}
