//! The file: how it is made, and what is looked at before one is trusted. To the byte of its schema it is logos-delivery's.

use std::fs::File;
use std::io::{ErrorKind as IoErrorKind, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::cache::CacheShare;
use super::ffi;
use super::frames::FrameChain;
use crate::{Error, ErrorKind, Result};

/// The one table, in upstream's very words: its file and ours have the same schema text.
pub(super) const CREATE_TABLE: &str = "CREATE TABLE kv (
      category BLOB NOT NULL,
      key      BLOB NOT NULL,
      payload  BLOB NOT NULL,
      PRIMARY KEY (category, key)
    ) WITHOUT ROWID";

/// Upstream's version of the schema, in `user_version`.
pub(super) const USER_VERSION: i64 = 1;

/// New files: at 4 KiB a row of 1 KiB spills into overflow pages (3.4x the file, 3x the get).
const PAGE_BYTES: u32 = 8_192;

const LOG_HEADER_BYTES: u64 = 32;
/// The most that a creation leaves in the log: the first page and the table's, a frame each.
const CREATED_LOG_BYTES: u64 = LOG_HEADER_BYTES + 2 * (24 + PAGE_BYTES as u64);

/// The oldest SQLite without the WAL-reset race, in which a checkpoint beside a commit loses committed pages.
const SQLITE_VERSION_MIN: i32 = 3_051_003;

/// A connection that other processes may hold up for at most this long.
pub(super) const BUSY_MS_MAX: u64 = 5_000;

/// Refuses to run on a SQLite that loses data.
pub(super) fn check_sqlite_version(version: i32) -> Result<()> {
    if version >= SQLITE_VERSION_MIN {
        return Ok(());
    }
    let number =
        |version: i32| format!("{}.{}.{}", version / 1_000_000, version / 1_000 % 1_000, version % 1_000);
    Err(Error::new(
        ErrorKind::Unsupported,
        format!(
            "this program was built with SQLite {}, which can lose committed data when a checkpoint meets a commit; \
             build it with {} or newer",
            number(version),
            number(SQLITE_VERSION_MIN)
        ),
    ))
}

/// Opens the writer's connection to a tenant's file, making the file when it is not there. This process has no connection to it yet.
///
/// A file that is not ours is refused before anything of it changes.
pub(super) fn open_writer(path: &Path, vfs: Option<&str>) -> Result<Connection> {
    check_sqlite_version(rusqlite::version_number())?;
    // A simulated disk's files cannot be looked at from outside.
    if vfs.is_none() {
        prepare(path)?;
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let connection = open(path, vfs, flags)?;
    accept(&connection, path, vfs)?;
    as_writer(connection)
}

/// Looks at a file that is there, and makes the one that is not.
fn prepare(path: &Path) -> Result<()> {
    check_header(path)?;
    remove_leftover_log(path)?;
    make_private(path);
    Ok(())
}

/// Removes a log whose file is gone: the removal of its tenant came so far, and no further. (A file is in its directory before the first
/// commit, so there never was one that holds anything of a tenant.) SQLite would do so too, but only when it first reads the
/// file: what is killed between the two would leave an empty file with a log, which is that of a tenant that was cut off.
fn remove_leftover_log(path: &Path) -> Result<()> {
    let is_gone = std::fs::symlink_metadata(path).is_err_and(|error| error.kind() == IoErrorKind::NotFound);
    if !is_gone || !has_log(path) {
        return Ok(());
    }
    let log = sibling(path, "-wal");
    std::fs::remove_file(&log).map_err(|error| {
        Error::new(ErrorKind::Backend, format!("{} cannot be removed: {error}", log.display()))
            .with_source(error)
    })?;
    // Before the file is made again: of two changes the later one may survive alone.
    sync_directory(path)
}

/// Makes a file that is not there one that only its owner may read, whatever the root lets in; SQLite gives the files beside it the same
/// mode.
fn make_private(path: &Path) {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    // What keeps it from being made SQLite meets as well, and names.
    drop(options.open(path));
}

/// Opens the writer's connection once more. Readers of this process may be at the file.
pub(super) fn open_writer_again(path: &Path, vfs: Option<&str>) -> Result<Connection> {
    as_writer(open(path, vfs, OpenFlags::SQLITE_OPEN_READ_WRITE)?)
}

fn as_writer(connection: Connection) -> Result<Connection> {
    // From here on the writer decides when to carry over, closing after a failure included.
    set(&connection, DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    if cfg!(target_os = "macos") {
        connection.pragma_update(None, "fullfsync", true).map_err(sql)?;
        connection.pragma_update(None, "checkpoint_fullfsync", true).map_err(sql)?;
    }
    Ok(connection)
}

/// Makes a new file ours, or finds that an existing one is.
fn accept(connection: &Connection, path: &Path, vfs: Option<&str>) -> Result<()> {
    // Until the file is known to be ours, closing it must carry nothing over; without a log there is nothing to carry, and
    // closing removes what SQLite has put beside the file.
    set(connection, DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, vfs.is_some() || has_log(path))?;
    if is_new(connection)? {
        refuse_lost_log(connection, path)?;
        create(connection)?;
        if vfs.is_none() {
            sync_directory(path)?;
        }
    }
    check_schema(connection)?;
    set(connection, DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    let mode: String = connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0)).map_err(sql)?;
    if mode != "wal" {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("{} has journal mode {mode}, which cannot become WAL", path.display()),
        ));
    }
    Ok(())
}

/// Opens a read-only connection to a file that the writer has open.
pub(super) fn open_reader(path: &Path, mmap_bytes: u64) -> Result<Connection> {
    // A root is absolute, so its paths are no URIs; those of files that nobody writes are.
    let connection = open(path, None, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI)?;
    connection.pragma_update(None, "mmap_size", mmap_bytes).map_err(sql)?;
    Ok(connection)
}

/// Looks at a file that nobody writes before anything of it is trusted, and answers the size of its pages.
pub(super) fn check_copy(path: &Path, uri: &Path) -> Result<usize> {
    check_header(path)?;
    let connection = open_reader(uri, 0)?;
    check_schema(&connection)?;
    connection.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(sql)
}

fn open(path: &Path, vfs: Option<&str>, flags: OpenFlags) -> Result<Connection> {
    // A connection is used by one thread at a time: our locks see to it, SQLite's own are not needed.
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match (vfs, ffi::vfs_alone()) {
        (None, Some(alone)) => open_alone(path, flags, alone),
        (None, None) => Connection::open_with_flags(path, flags),
        (Some(vfs), _) => Connection::open_with_flags_and_vfs(path, flags, vfs),
    };
    let connection = connection.map_err(|error| in_file(path, error))?;
    connection.busy_timeout(Duration::from_millis(BUSY_MS_MAX)).map_err(sql)?;
    set(&connection, DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    set(&connection, DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    Ok(connection)
}

/// Opens a file that no other process may use meanwhile, so that the index of its log need not be shared: a third of what opening costs.
/// Where another process has it open already, it is shared after all.
fn open_alone(path: &Path, flags: OpenFlags, vfs: &str) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags_and_vfs(path, flags, vfs)?;
    // A reader takes no lock that keeps others out; it finds the index wherever the writer has it.
    if flags.contains(OpenFlags::SQLITE_OPEN_READ_ONLY) || ffi::lock_shared(&connection).is_ok() {
        return Ok(connection);
    }
    Connection::open_with_flags(path, flags)
}

/// Sets what a connection caches, unless it is what it caches anyway.
pub(super) fn set_cache(connection: &Connection, share: &CacheShare, default_size: i64) -> Result<()> {
    // Negative: in KiB.
    let size = i64::try_from(share.bytes / 1024).map_or(i64::MIN, |kib| -kib);
    if size == default_size {
        Ok(())
    } else {
        connection.pragma_update(None, "cache_size", size).map_err(sql)
    }
}

pub(super) fn set(connection: &Connection, option: DbConfig, on: bool) -> Result<()> {
    connection.set_db_config(option, on).map(|_| ()).map_err(sql)
}

/// Whether the file has no content yet, or was left by a creation that did not end.
fn is_new(connection: &Connection) -> Result<bool> {
    Ok(user_version(connection)? == 0 && schema_texts(connection)?.is_empty())
}

/// A log that holds more than a creation writes, and of which nothing can be read, is damaged: making the file anew would write over
/// all that was acknowledged.
fn refuse_lost_log(connection: &Connection, path: &Path) -> Result<()> {
    let page_bytes: u64 = connection.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(sql)?;
    let log_bytes = ffi::log_bytes(connection).map_err(sql)?;
    if log_bytes <= LOG_HEADER_BYTES + 2 * (24 + page_bytes) {
        return Ok(());
    }
    let message = format!(
        "{} has no tables, and its log of {log_bytes} bytes is damaged at its beginning; both were left as they are: restore \
         from a backup",
        path.display()
    );
    Err(Error::new(ErrorKind::Corrupt, message))
}

fn create(connection: &Connection) -> Result<()> {
    connection.pragma_update(None, "page_size", PAGE_BYTES).map_err(sql)?;
    connection.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(())).map_err(sql)?;
    connection
        .execute_batch(&format!(
            "BEGIN IMMEDIATE; {CREATE_TABLE}; PRAGMA user_version={USER_VERSION}; COMMIT"
        ))
        .map_err(sql)
}

pub(super) fn user_version(connection: &Connection) -> Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(sql)
}

fn schema_texts(connection: &Connection) -> Result<Vec<String>> {
    // As bytes: a damaged text need not be UTF-8, and is then another schema.
    let mut statement =
        connection.prepare("SELECT CAST(coalesce(sql, name) AS BLOB) FROM sqlite_schema").map_err(sql)?;
    let texts = statement
        .query_map([], |row| Ok(String::from_utf8_lossy(row.get_ref(0)?.as_blob()?).into_owned()))
        .map_err(sql)?;
    texts.collect::<Result<_, _>>().map_err(sql)
}

fn check_schema(connection: &Connection) -> Result<()> {
    let version = user_version(connection)?;
    if version != USER_VERSION {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the file has schema version {version} (user_version); this version of Seabed works with {USER_VERSION}"
            ),
        ));
    }
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let texts = schema_texts(connection)?;
    match texts.as_slice() {
        // The root of the table is read too, before switching to WAL writes to a file that turns out to be damaged.
        [text] if squeeze(text) == squeeze(CREATE_TABLE) => connection
            .query_row("SELECT count(*) FROM (SELECT 1 FROM kv LIMIT 1)", [], |_| Ok(()))
            .map_err(sql),
        _ => Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the file is a database of another kind: instead of the one table kv it has {}",
                if texts.is_empty() { "no table".to_owned() } else { squeeze(&texts.join("; ")) }
            ),
        )),
    }
}

/// Looks at the first bytes of an existing file before SQLite does: what is no database, or cannot be whole, is refused without a
/// lock taken or a file made beside it.
///
/// Called only while no connection of this process has the file open: closing any descriptor of it drops SQLite's locks.
fn check_header(path: &Path) -> Result<()> {
    let cannot_read = |error: std::io::Error| {
        Error::new(ErrorKind::Backend, format!("{} cannot be read: {error}", path.display()))
            .with_source(error)
    };
    let mut header = Vec::with_capacity(100);
    let file_bytes = match File::open(path) {
        Ok(file) => {
            let file_bytes = file.metadata().map_err(cannot_read)?.len();
            file.take(100).read_to_end(&mut header).map_err(cannot_read)?;
            file_bytes
        }
        Err(error) if error.kind() == IoErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot_read(error)),
    };
    if file_bytes == 0 {
        // SQLite takes the log of an empty file for a leftover, and deletes it.
        return match log_bytes(path) {
            0..=CREATED_LOG_BYTES => Ok(()),
            log_bytes => Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "{} is empty and has a log of {log_bytes} bytes: its content was cut off; both were left as they are",
                    path.display()
                ),
            )),
        };
    }
    check_log_header(path)?;
    let unsupported = |what: &str| {
        Error::new(ErrorKind::Unsupported, format!("{} {what}; it was left as it is", path.display()))
    };
    let corrupt = |what: String| {
        Error::new(ErrorKind::Corrupt, format!("{} {what}; it was left as it is", path.display()))
    };
    if !header.starts_with(b"SQLite format 3\0") {
        return Err(unsupported("is not a SQLite database"));
    }
    let Ok(header) = <[u8; 100]>::try_from(header) else {
        return Err(corrupt(format!("ends after {file_bytes} bytes, in the middle of its header")));
    };
    let [.., page_high, page_low, write_version, read_version] =
        header.first_chunk::<20>().copied().unwrap_or([0; 20]);
    let page_bytes = match u16::from_be_bytes([page_high, page_low]) {
        1 => 65_536,
        bytes if bytes >= 512 && bytes.is_power_of_two() => u64::from(bytes),
        bytes => return Err(corrupt(format!("claims pages of {bytes} bytes"))),
    };
    if write_version > 2 || read_version > 2 {
        return Err(unsupported("was written by a newer SQLite, in a format this one does not write"));
    }
    if write_version == 1 && file_bytes > page_bytes && sibling_bytes(path, "-journal") > 0 {
        return Err(unsupported("has a rollback journal, which would be played back into it by opening it"));
    }
    // A checkpoint writes page 1, with the new size, before the pages behind it, and the last of them may not have found room, or time:
    // with a log a short file is in order, to the byte. So is a first page of which its creation has left a part, beside a
    // journal: it is begun anew.
    if has_log(path) || file_bytes <= page_bytes && sibling_bytes(path, "-journal") > 0 {
        return Ok(());
    }
    if file_bytes % page_bytes != 0 {
        return Err(corrupt(format!(
            "has {file_bytes} bytes, not a whole number of pages of {page_bytes}: it was cut off"
        )));
    }
    let word = |at: usize| {
        header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes)
    };
    let size_is_valid = word(24) == word(92);
    let pages = u64::from(word(28));
    if size_is_valid && pages * page_bytes > file_bytes {
        return Err(corrupt(format!(
            "has {file_bytes} bytes of the {} it should have: it was cut off",
            pages * page_bytes
        )));
    }
    Ok(())
}

/// Refuses a log whose header is damaged: SQLite would take it for an empty one, and write over every commit in it. The header is
/// flushed before the first commit behind it, and lies in one sector.
pub(super) fn check_log_header(path: &Path) -> Result<()> {
    // A file that was extended and never written is zeros.
    let Some(header) = log_header(path).filter(|header| *header != [0; 32]) else { return Ok(()) };
    if FrameChain::begin(&header).is_some() {
        return Ok(());
    }
    let message = format!(
        "the log of {} is damaged in its header; both were left as they are: restore from a backup",
        path.display()
    );
    Err(Error::new(ErrorKind::Corrupt, message))
}

/// The header of the log; `None` when there is no log, or it is shorter.
fn log_header(path: &Path) -> Option<[u8; 32]> {
    let mut header = [0; 32];
    File::open(sibling(path, "-wal")).and_then(|mut log| log.read_exact(&mut header)).ok()?;
    Some(header)
}

/// Of a file its device, number, length, and when it was changed, by the file system's own clock.
type Stamp = [u64; 5];

/// What a file and its log look like from outside.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FileState {
    stamps: [Stamp; 2],
    /// Anew in each log: times may be as coarse as some milliseconds.
    log_header: [u8; 32],
}

impl FileState {
    /// How the file and its log are now, of which the header is known; `None` when one is not there.
    pub(super) fn with_header(path: &Path, log_header: [u8; 32]) -> Option<Self> {
        Some(Self { stamps: stamps(path)?, log_header })
    }

    fn with_log(path: &Path, log: &mut File) -> Option<Self> {
        let mut log_header = [0; 32];
        log.read_exact(&mut log_header).ok()?;
        let stamps = [stamp(&std::fs::metadata(path).ok()?)?, stamp(&log.metadata().ok()?)?];
        Some(Self { stamps, log_header })
    }

    /// Whether it was so at that time, too.
    pub(super) fn was(&self, before: Option<[Stamp; 2]>) -> bool {
        before == Some(self.stamps)
    }

    /// Whether file and log are still so, and the log ends behind its first frames: one that follows them has the salts of its header, a frame
    /// of an earlier log has others. (It would be there without a trace where two changes have the same time.)
    pub(super) fn is_current(&self, path: &Path, frames: usize) -> bool {
        let Ok(mut log) = File::open(sibling(path, "-wal")) else { return false };
        if Self::with_log(path, &mut log).as_ref() != Some(self) {
            return false;
        }
        let header = |range| self.log_header.get(range).and_then(|bytes: &[u8]| bytes.try_into().ok());
        let page_bytes = header(8..12).map_or(0, u32::from_be_bytes);
        let mut salts = [0; 8];
        let at = 32 + frames as u64 * (24 + u64::from(page_bytes)) + 8;
        let read = log.seek(SeekFrom::Start(at)).and_then(|_| log.read_exact(&mut salts));
        // What cannot be read is not there.
        read.is_err() || self.log_header.get(16..24) != Some(&salts[..])
    }
}

/// The times of the file and of its log.
pub(super) fn stamps(path: &Path) -> Option<[Stamp; 2]> {
    let of = |path: &Path| stamp(&std::fs::metadata(path).ok()?);
    Some([of(path)?, of(&sibling(path, "-wal"))?])
}

#[cfg(unix)]
#[allow(clippy::unnecessary_wraps, reason = "elsewhere there is none")]
fn stamp(file: &std::fs::Metadata) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    let changed = [file.ctime().cast_unsigned(), file.ctime_nsec().cast_unsigned()];
    Some([file.dev(), file.ino(), file.len(), changed[0], changed[1]])
}

#[cfg(not(unix))]
fn stamp(_: &std::fs::Metadata) -> Option<Stamp> {
    None
}

/// Whether commits may sit in a log beside the file.
pub(super) fn has_log(path: &Path) -> bool {
    log_bytes(path) > 0
}

fn log_bytes(path: &Path) -> u64 {
    sibling_bytes(path, "-wal")
}

fn sibling_bytes(path: &Path, suffix: &str) -> u64 {
    std::fs::metadata(sibling(path, suffix)).map_or(0, |file| file.len())
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut sibling = path.as_os_str().to_owned();
    sibling.push(suffix);
    sibling.into()
}

/// Makes the entry of a new file in its directory durable.
pub(super) fn sync_directory(path: &Path) -> Result<()> {
    let directory = path.parent().unwrap_or(path);
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| {
        Error::new(ErrorKind::Backend, format!("{} cannot be flushed: {error}", directory.display()))
            .with_source(error)
    })
}

/// An error of SQLite's as one of ours.
pub(super) fn sql(error: rusqlite::Error) -> Error {
    use rusqlite::{Error as Sql, ErrorCode};
    let (kind, message) = match (&error, error.sqlite_error_code()) {
        // A value of another type than its column can hold: the schema says BLOB NOT NULL.
        (
            Sql::InvalidColumnType(..) | Sql::FromSqlConversionFailure(..) | Sql::IntegralValueOutOfRange(..),
            _,
        )
        | (_, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)) => {
            (ErrorKind::Corrupt, format!("the file is damaged ({error}); restore it from a backup"))
        }
        (_, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)) => (
            ErrorKind::Busy,
            format!("another program holds the file ({error}); close it there, then try again"),
        ),
        (_, Some(ErrorCode::OperationInterrupted)) => (
            ErrorKind::Timeout,
            "the read took long and was ended, because the log needs room or the tenant is closed; read in smaller parts, \
             or when less is written"
                .to_owned(),
        ),
        (_, Some(ErrorCode::TooBig)) => (ErrorKind::InvalidArgument, format!("too big for SQLite ({error})")),
        (_, Some(ErrorCode::DiskFull)) => {
            (ErrorKind::Backend, format!("the disk is full ({error}); make room, then try again"))
        }
        // Our statements are right, so what SQLite cannot make sense of is the file: its format, its encoding, its schema.
        (_, Some(ErrorCode::Unknown)) => (
            ErrorKind::Unsupported,
            format!("SQLite cannot work with the file ({error}); it is of another kind, or damaged"),
        ),
        _ => (ErrorKind::Backend, format!("SQLite failed: {error}")),
    };
    Error::new(kind, message).with_source(error)
}

fn in_file(path: &Path, error: rusqlite::Error) -> Error {
    let ours = sql(error);
    Error::new(ours.kind(), format!("{}: {ours}", path.display())).with_source(ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever drops a tenant may be killed once its file is gone, and whoever opens it next before SQLite has looked at it.
    #[test]
    fn what_is_left_of_a_dropped_tenant_is_no_damaged_one_however_often_its_opening_is_begun() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.db");
        std::fs::write(sibling(&path, "-wal"), vec![7; 100_000]).unwrap();
        prepare(&path).unwrap();
        prepare(&path).unwrap();
        assert!(!sibling(&path, "-wal").exists());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    }

    #[test]
    fn a_sqlite_with_the_wal_reset_race_is_refused() {
        for old in [3_051_002, 3_040_001] {
            let error = check_sqlite_version(old).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("3.51.3"), "{error}");
        }
        check_sqlite_version(3_051_003).unwrap();
        check_sqlite_version(rusqlite::version_number()).unwrap();
    }
}
