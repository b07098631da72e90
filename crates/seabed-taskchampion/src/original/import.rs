//! Reads the SQLite database of the original server. It is opened read-only, in one view, and never changed.

use std::cell::{Cell, OnceCell};
use std::path::{Path, PathBuf};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row, Rows, Statement};
use seabed_kv::{Error, ErrorKind, Result};
use uuid::Uuid;

use super::chain::{Link, SnapshotHead, check_snapshot, order, read_id};
use super::salvage::{self, Salvaged};

// Named column by column: whoever ran the original may have added others. `quote` shows any value as text of its own, so
// that both lists come in one order whatever stands where an id should.
const CLIENTS: &str = "SELECT quote(client_id) AS name, rowid, latest_version_id, snapshot_version_id,
        versions_since_snapshot, snapshot_timestamp, typeof(snapshot), length(snapshot)
    FROM clients ORDER BY name";
const VERSIONS: &str = "SELECT quote(client_id) AS name, rowid, version_id, parent_version_id,
        typeof(history_segment), length(history_segment)
    FROM versions ORDER BY name, rowid";
const LATEST: &str = "SELECT client_id, latest_version_id FROM clients ORDER BY rowid";
const CLIENT_COUNT: &str = "SELECT count(*) FROM clients";
const VERSION_BYTES: &str = "SELECT history_segment FROM versions WHERE rowid = ?1";
const SNAPSHOT_BYTES: &str = "SELECT snapshot FROM clients WHERE rowid = ?1";

/// The original's database, opened.
#[derive(Debug)]
pub(super) struct SqliteFile {
    connection: Connection,
    path: PathBuf,
    /// How many clients it has, as far as that can be told.
    pub(super) clients: u64,
    /// How the file was when it was opened as one that nobody changes; `None` where SQLite itself sees to one view of it.
    unguarded: Option<FileState>,
    /// Whether the last value that was asked for lies in a damaged part of the file.
    met_damage: Cell<bool>,
    /// What could be read of a damaged file.
    salvaged: OnceCell<Salvaged>,
}

/// What a file looks like from outside, and whether there is a log or a journal beside it.
#[derive(Debug, PartialEq, Eq)]
struct FileState {
    identity: Option<[i64; 6]>,
    has_unread: bool,
}

impl FileState {
    fn of(path: &Path) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        let identity = std::fs::metadata(path).ok().map(|file| {
            [
                file.ino().cast_signed(),
                file.len().cast_signed(),
                file.mtime(),
                file.mtime_nsec(),
                file.ctime(),
                file.ctime_nsec(),
            ]
        });
        Self { identity, has_unread: has_beside(path, LOG) || has_beside(path, JOURNAL) }
    }
}

/// The latest version of a client.
#[derive(Debug)]
pub(super) struct Latest {
    /// The client's id as it is written.
    pub(super) name: String,
    /// The client and its latest version; `None` when one of them is no id.
    pub(super) ids: Option<(Uuid, Uuid)>,
}

/// One client of it, or what stands in a client's place.
#[derive(Debug)]
pub(super) struct Foreign {
    /// The client's id as it is written.
    pub(super) name: String,
    /// Its history, or why it is none, in a sentence.
    pub(super) history: Result<History, String>,
}

/// A history that is one chain.
#[derive(Debug)]
pub(super) struct History {
    pub(super) client: Uuid,
    /// The newest version, or what the first one is to follow; nil when there is neither.
    pub(super) latest: Uuid,
    /// From the first version to the latest.
    pub(super) chain: Vec<Link>,
    pub(super) snapshot: Option<SnapshotHead>,
    /// Where the snapshot's bytes are.
    pub(super) row: i64,
}

impl History {
    /// What its first version follows, or is to follow.
    pub(super) fn goes_on_from(&self) -> Uuid {
        self.chain.first().map_or(self.latest, |first| first.parent)
    }
}

impl SqliteFile {
    /// Opens the database and begins the view that everything is read from.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut unguarded = None;
        let opened = Connection::open_with_flags(path, flags).and_then(begin);
        let (connection, clients) = match opened {
            Err(error) if is_closed_place(&error) && !has_beside(path, LOG) && !has_beside(path, JOURNAL) => {
                // Even a reader makes files beside a database in WAL mode. Where none can be made we cannot, and without a log, or a journal of
                // what is to be undone, everything is in the file itself. Somebody else may still write, in whose view the place is not closed: then what is read
                // from here on is of two states, and looked at for that.
                unguarded = Some(FileState::of(path));
                Connection::open_with_flags(immutable(path), flags | OpenFlags::SQLITE_OPEN_URI)
                    .and_then(begin)
            }
            opened => opened,
        }
        .map_err(|error| unreadable(path, error))?;
        Ok(Self {
            connection,
            path: path.to_owned(),
            clients,
            unguarded,
            met_damage: Cell::new(false),
            salvaged: OnceCell::new(),
        })
    }

    /// Called before what was read is made use of.
    ///
    /// # Errors
    /// `Unsupported` when the file was changed since it was opened, and nothing guarded what was read against that.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        if self.unguarded.as_ref().is_none_or(|opened| *opened == FileState::of(&self.path)) {
            return Ok(());
        }
        let message = format!(
            "{} was changed while it was read, and the directory is read-only here, so that nothing keeps the two apart: stop the original \
             server, then try again, or read a copy of it, with its -wal when there is one, in a directory of your own",
            self.path.display()
        );
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    /// Whether the last value that could not be read lies in a damaged part of the file; forgets it.
    pub(super) fn take_damage(&self) -> bool {
        self.met_damage.take()
    }

    /// Prepares to read the clients one by one.
    pub(super) fn histories(&self) -> Result<Histories<'_>> {
        let prepare = |sql| self.connection.prepare(sql).map_err(|error| self.unreadable(error));
        let (clients, versions) = (prepare(CLIENTS)?, prepare(VERSIONS)?);
        Ok(Histories { source: self, clients, versions, lost: Lost::Nothing })
    }

    /// The latest version of each client. Reads no version.
    pub(super) fn latest(&self) -> Result<Vec<Latest>> {
        let read = || {
            let mut statement = match self.salvaged()? {
                Some(salvaged) => salvaged.connection.prepare(salvage::LATEST)?,
                None => self.connection.prepare(LATEST)?,
            };
            let rows = statement.query_map([], |row| {
                let name = text(row, 0)?.trim_matches('\'').to_owned();
                let latest = match row.get_ref(1)? {
                    ValueRef::Null => Ok(Uuid::nil()),
                    _ => read_id("its latest version", &text(row, 1)?),
                };
                let ids = read_id("its id", &name).and_then(|client| Ok((client, latest?))).ok();
                Ok(Latest { name, ids })
            })?;
            rows.collect::<rusqlite::Result<_>>()
        };
        read().map_err(|error| self.unreadable(error))
    }

    /// What can be read of a damaged file; `None` for one that is sound.
    fn salvaged(&self) -> rusqlite::Result<Option<&Salvaged>> {
        if self.salvaged.get().is_none() && salvage::is_damaged(&self.connection)? {
            let salvaged = Salvaged::from(&self.connection)?;
            return Ok(Some(self.salvaged.get_or_init(|| salvaged)));
        }
        Ok(self.salvaged.get())
    }

    /// The bytes of a version.
    pub(super) fn version_bytes(&self, link: &Link) -> Result<Vec<u8>> {
        self.blob(VERSION_BYTES, link.row)
    }

    /// The bytes of a client's snapshot.
    pub(super) fn snapshot_bytes(&self, history: &History) -> Result<Vec<u8>> {
        self.blob(SNAPSHOT_BYTES, history.row)
    }

    fn blob(&self, sql: &str, row: i64) -> Result<Vec<u8>> {
        let read = || self.connection.prepare_cached(sql)?.query_row([row], |row| row.get(0));
        read().map_err(|error| {
            self.met_damage.set(is_damage(&error));
            self.unreadable(error)
        })
    }

    fn unreadable(&self, error: rusqlite::Error) -> Error {
        unreadable(&self.path, error)
    }
}

fn begin(connection: Connection) -> rusqlite::Result<(Connection, u64)> {
    // One view from the first read to the last, also when the original still runs.
    connection.execute_batch("BEGIN")?;
    let clients = match connection.query_row(CLIENT_COUNT, [], |row| row.get(0)) {
        Err(error) if is_damage(&error) => 0,
        clients => clients?,
    };
    Ok((connection, clients))
}

/// Whether a part of the file is not what SQLite writes.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseCorrupt)
}

fn is_closed_place(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{CannotOpen, ReadOnly};
    matches!(error.sqlite_error_code(), Some(CannotOpen | ReadOnly))
}

/// What holds the newest commits of a database in WAL mode.
const LOG: &str = "-wal";
/// What holds the bytes before a transaction that has not ended, of a database in another mode.
const JOURNAL: &str = "-journal";

/// Whether something is in the file of that ending beside the database.
fn has_beside(path: &Path, end: &str) -> bool {
    let mut beside = path.as_os_str().to_owned();
    beside.push(end);
    std::fs::metadata(beside).is_ok_and(|beside| beside.len() > 0)
}

/// The address under which SQLite opens a file that nobody changes.
fn immutable(path: &Path) -> String {
    let path = path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    format!("file:{path}?immutable=1")
}

fn unreadable(path: &Path, error: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    let half_written = is_closed_place(&error) && has_beside(path, JOURNAL);
    let path = path.display();
    let message = match error.sqlite_error_code() {
        _ if half_written => format!(
            "{path} was left in the middle of a transaction, which {path}-journal undoes, and nothing is changed here: start the original \
             server and stop it again, or run `sqlite3 FILE .tables` on a copy of the two, and import that"
        ),
        Some(NotADatabase) => format!("{path} is no SQLite database"),
        Some(DatabaseCorrupt) => {
            format!("{path} is damaged; take it from a backup, or repair a copy with `sqlite3 FILE .recover`")
        }
        // What SQLite says of a statement that does not fit the tables.
        Some(rusqlite::ErrorCode::Unknown) => {
            format!("{path} is not the database of a taskchampion-sync-server: its tables are others")
        }
        Some(rusqlite::ErrorCode::DatabaseBusy) => {
            format!("{path} is being written to; stop the original server and try again")
        }
        _ => format!(
            "cannot read {path}; a copy of it, with its -wal when there is one, in a directory of your own may help"
        ),
    };
    Error::new(ErrorKind::Unsupported, message).with_source(error)
}

/// What of the database cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    Nothing,
    /// No version.
    Clients,
    Versions,
}

/// Every client of the database, in the order of their names.
pub(super) struct Histories<'a> {
    source: &'a SqliteFile,
    clients: Statement<'a>,
    versions: Statement<'a>,
    lost: Lost,
}

impl Histories<'_> {
    /// Begins to read.
    pub(super) fn read(&mut self) -> Result<Reading<'_>> {
        let source = self.source;
        let failed = |error| source.unreadable(error);
        if let Some(Salvaged { connection, misses_versions }) = source.salvaged().map_err(failed)? {
            self.lost = if *misses_versions { Lost::Versions } else { Lost::Clients };
            self.clients = connection.prepare(salvage::CLIENTS).map_err(failed)?;
            self.versions = connection.prepare(salvage::VERSIONS).map_err(failed)?;
        }
        let mut reading = Reading {
            source,
            lost: self.lost,
            clients: self.clients.query([]).map_err(failed)?,
            versions: self.versions.query([]).map_err(failed)?,
            client: None,
            version: None,
        };
        reading.advance_client()?;
        reading.advance_version()?;
        Ok(reading)
    }
}

/// The place between two clients. Holds the versions of one client at a time.
pub(super) struct Reading<'a> {
    source: &'a SqliteFile,
    lost: Lost,
    clients: Rows<'a>,
    versions: Rows<'a>,
    /// The next of each list, read ahead.
    client: Option<Named<ClientRow>>,
    version: Option<Named<Link>>,
}

/// A row with the client that it names; what was read of it, or what is wrong with it.
struct Named<T> {
    name: String,
    row: Result<T, String>,
}

/// What a client's row says.
pub(super) struct ClientRow {
    pub(super) latest: Uuid,
    pub(super) snapshot: Option<SnapshotHead>,
    pub(super) row: i64,
}

impl Reading<'_> {
    /// The next client; `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<Foreign>> {
        let name = match (&self.client, &self.version) {
            (None, None) => return Ok(None),
            (Some(client), None) => client.name.clone(),
            (None, Some(version)) => version.name.clone(),
            (Some(client), Some(version)) => client.name.as_str().min(&version.name).to_owned(),
        };
        let (mut clients, mut links) = (Vec::new(), Vec::new());
        while let Some(client) = self.client.take_if(|client| client.name == name) {
            clients.push(client.row);
            self.advance_client()?;
        }
        let mut wrong = None;
        while let Some(version) = self.version.take_if(|version| version.name == name) {
            match version.row {
                Ok(link) => links.push(link),
                Err(why) => wrong = wrong.or(Some(why)),
            }
            self.advance_version()?;
        }
        let shown = name.trim_matches('\'').to_owned();
        let history = match wrong {
            Some(why) => Err(why),
            None => history(&shown, clients, links).and_then(|history| self.check_beginning(history)),
        };
        let history = history.map_err(|why| match self.lost {
            Lost::Nothing => why,
            Lost::Clients | Lost::Versions => {
                format!("{why} (the file is damaged, and parts of it cannot be read)")
            }
        });
        Ok(Some(Foreign { name: shown, history }))
    }

    /// A chain may begin after a version that is elsewhere; not after one that is lost.
    fn check_beginning(&self, history: History) -> Result<History, String> {
        let before = history.goes_on_from();
        if self.lost != Lost::Versions
            || before.is_nil()
            || !salvage::may_be_lost(&self.source.connection, before)
        {
            return Ok(history);
        }
        Err(format!("it begins after version {before}, which cannot be read"))
    }

    fn advance_client(&mut self) -> Result<()> {
        let row = self.clients.next().and_then(|row| row.map(client_row).transpose());
        self.client = row.map_err(|error| self.source.unreadable(error))?;
        Ok(())
    }

    fn advance_version(&mut self) -> Result<()> {
        let row = self.versions.next().and_then(|row| row.map(version_row).transpose());
        self.version = row.map_err(|error| self.source.unreadable(error))?;
        Ok(())
    }
}

/// What the rows of one name are together.
pub(super) fn history(
    name: &str,
    clients: Vec<Result<ClientRow, String>>,
    links: Vec<Link>,
) -> Result<History, String> {
    let client = read_id("its id", name)?;
    let mut clients = clients.into_iter();
    let row = match (clients.next(), clients.next(), links.first()) {
        (Some(row), None, _) => row?,
        (Some(_), Some(_), _) => return Err("it is there twice".to_owned()),
        (None, _, Some(link)) => {
            return Err(format!("version {} names it, but there is no such client", link.version));
        }
        (None, _, None) => return Err("there is no such client".to_owned()),
    };
    let chain = order(row.latest, links)?;
    if let Some(snapshot) = &row.snapshot {
        check_snapshot(snapshot, &chain)?;
    }
    Ok(History { client, latest: row.latest, chain, snapshot: row.snapshot, row: row.row })
}

fn client_row(row: &Row<'_>) -> rusqlite::Result<Named<ClientRow>> {
    let (name, number) = (text(row, 0)?, row.get(1)?);
    if row.get_ref(6)?.as_str() == Ok(salvage::LOST) {
        return Ok(Named { name, row: Err("its row cannot be read".to_owned()) });
    }
    let latest = match row.get_ref(2)? {
        ValueRef::Null => Ok(Uuid::nil()),
        _ => read_id("its latest version", &text(row, 2)?),
    };
    // As the original reads it: without one of the three there is no snapshot.
    let mut parts = [ValueRef::Null; 3];
    for (part, column) in parts.iter_mut().zip(3..) {
        *part = row.get_ref(column)?;
    }
    let snapshot = if parts.contains(&ValueRef::Null) {
        Ok(None)
    } else {
        let version = read_id("the version of its snapshot", &text(row, 3)?);
        let numbers = (unsigned(row, 4)?, unsigned(row, 5)?);
        let bytes = blob_length(row, 6, 7)?;
        version.and_then(|version| match (numbers, bytes) {
            ((Some(versions_since), Some(unix_s)), Some(bytes)) => {
                Ok(Some(SnapshotHead { version, unix_s, versions_since, bytes }))
            }
            (_, None) => Err(format!("its snapshot of version {version} has no bytes")),
            _ => Err(format!("its snapshot of version {version} has a time or a count that is none")),
        })
    };
    let row = latest.and_then(|latest| Ok(ClientRow { latest, snapshot: snapshot?, row: number }));
    Ok(Named { name, row })
}

fn version_row(row: &Row<'_>) -> rusqlite::Result<Named<Link>> {
    let (name, number) = (text(row, 0)?, row.get(1)?);
    let (version, parent) = (text(row, 2)?, text(row, 3)?);
    let bytes = blob_length(row, 4, 5)?;
    let link = read_id("the id of a version", &version).and_then(|version| {
        let parent = read_id(&format!("the parent of version {version}"), &parent)?;
        let bytes = bytes.ok_or_else(|| format!("version {version} has no bytes"))?;
        Ok(Link { version, parent, bytes, row: number })
    });
    Ok(Named { name, row: link })
}

/// Any value as text, for ids and for what stands in their place.
fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    Ok(match row.get_ref(column)? {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => String::from_utf8_lossy(bytes).into_owned(),
    })
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<u64>> {
    Ok(row.get_ref(column)?.as_i64().ok().and_then(|number| u64::try_from(number).ok()))
}

/// The length of a blob, from the columns of its type and length; `None` when it is something else.
fn blob_length(row: &Row<'_>, type_of: usize, length: usize) -> rusqlite::Result<Option<u64>> {
    if row.get_ref(type_of)?.as_str().ok() != Some("blob") {
        return Ok(None);
    }
    unsigned(row, length)
}
