//! Writes a database that the original server opens: its tables, in its words, because it makes only those that are missing.

use std::fs::File;
use std::path::Path;

use rusqlite::{Connection, OpenFlags, params};
use seabed_kv::{Error, ErrorKind, Result};
use uuid::Uuid;

use super::client::Import;
use super::import::SqliteFile;
use super::source::Source;
use super::{ExportReport, Progress};
use crate::TaskChampion;
use crate::clients::{ClientInfo, VersionInfo};
use crate::protocol::GetSnapshot;

// To the letter what the original's own database says of itself, blanks included: the layout is the interface.
const SCHEMA: [&str; 3] = [
    "CREATE TABLE clients (
                    client_id STRING PRIMARY KEY,
                    latest_version_id STRING,
                    snapshot_version_id STRING,
                    versions_since_snapshot INTEGER,
                    snapshot_timestamp INTEGER,
                    snapshot BLOB)",
    "CREATE TABLE versions (version_id STRING PRIMARY KEY, client_id STRING, parent_version_id STRING, history_segment BLOB)",
    "CREATE INDEX versions_by_parent ON versions (parent_version_id)",
];
const ADD_CLIENT: &str = "INSERT INTO clients (client_id, latest_version_id, snapshot_version_id,
        versions_since_snapshot, snapshot_timestamp, snapshot)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
const ADD_VERSION: &str = "INSERT INTO versions (version_id, client_id, parent_version_id, history_segment)
    VALUES (?1, ?2, ?3, ?4)";

impl TaskChampion {
    /// Writes every client into a new database at `file`, as the original server keeps them: it opens it and goes on. The
    /// file has that name only when it is whole, compared byte for byte and on disk. The store must serve nobody meanwhile.
    ///
    /// # Errors
    /// `InvalidArgument` when there is something of that name, or the log of a database that had it, or nothing can be made there; `Corrupt` when a history here is not
    /// whole; `Unsupported` when two clients share a version; those of the store and of the file system.
    pub async fn export_original(
        &self,
        file: &Path,
        mut progress: impl FnMut(Progress),
    ) -> Result<ExportReport> {
        if file.symlink_metadata().is_ok() {
            return Err(taken(file));
        }
        refuse_old_log(file)?;
        let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        let temporary = tempfile::Builder::new().prefix(".seabed-export-").tempfile_in(directory);
        let temporary = temporary.map_err(|error| {
            let message = format!("cannot write in {}", directory.display());
            let text = error.to_string();
            // What it was to be called until it is whole means nothing to anybody.
            let why = text.split(" at path ").next().unwrap_or_default();
            Error::new(ErrorKind::InvalidArgument, format!("{message}: {why}"))
        })?;
        let target = Target::create(temporary.path())?;
        let clients = self.clients().await?;
        let mut so_far = Progress { clients: clients.len() as u64, ..Progress::default() };
        let mut report = ExportReport::default();
        for client in &clients {
            let shard = self.shard(client.client);
            if let Some(error) = &client.error {
                let message = format!("client {} cannot be exported: {error}", client.client);
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
            let versions = self.versions(client.client).await?;
            if versions.len() as u64 != client.versions {
                let message = format!(
                    "client {} counts {} versions, but its chain has {}; run `seabed verify`",
                    client.client,
                    client.versions,
                    versions.len()
                );
                return Err(Error::new(ErrorKind::Corrupt, message).in_tenant(shard.tenant.id()));
            }
            for version in &versions {
                let bytes = shard.version_value(client.client, version.parent).await?.collect().await?;
                target.version(client.client, version, &bytes)?;
                report.written.add_version(bytes.len() as u64);
                so_far.versions_done += 1;
                progress(so_far);
            }
            let snapshot = match self.get_snapshot(client.client).await?.release() {
                GetSnapshot::Found { value, .. } => Some(value.collect().await?),
                GetSnapshot::NoSnapshot | GetSnapshot::NoSuchClient => None,
            };
            target.client(client, snapshot.as_deref())?;
            report.written.clients += 1;
            if let Some(snapshot) = &snapshot {
                report.written.add_snapshot(snapshot.len() as u64);
            }
            so_far.clients_done += 1;
            progress(so_far);
        }
        target.finish()?;
        self.compare_export(temporary.path(), clients.len()).await?;
        let failed = |error| {
            let message = format!("cannot make {} durable", file.display());
            Error::new(ErrorKind::Backend, message).with_source(error)
        };
        temporary.as_file().sync_all().map_err(failed)?;
        temporary.persist_noclobber(file).map_err(|error| match error.error.kind() {
            std::io::ErrorKind::AlreadyExists => taken(file),
            _ => failed(error.error),
        })?;
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
        Ok(report)
    }

    /// Reads the new database as an import would, and compares it with what is here.
    async fn compare_export(&self, file: &Path, clients: usize) -> Result<()> {
        let source = SqliteFile::open(file)?;
        let mut found = 0;
        let mut histories = source.histories()?;
        let mut reading = histories.read()?;
        while let Some(foreign) = reading.next()? {
            found += 1;
            let difference = match &foreign.history {
                Err(why) => Some(why.clone()),
                Ok(history) => {
                    let (shard, mut tick) = (self.shard(history.client).clone(), || {});
                    let import = Import {
                        shard,
                        source: Source::File(&source),
                        history,
                        now_unix_s: 0,
                        tick: &mut tick,
                    };
                    match import.difference(&history.chain, None).await? {
                        None if import.same_snapshot().await? => None,
                        None => Some("its snapshot is another one".to_owned()),
                        difference => difference,
                    }
                }
            };
            if let Some(why) = difference {
                let message = format!("client {}: {why}: the export went wrong", foreign.name);
                return Err(Error::new(ErrorKind::Backend, message));
            }
        }
        if found != clients {
            let message = format!("{clients} clients were exported, but {found} are there");
            return Err(Error::new(ErrorKind::Backend, message));
        }
        Ok(())
    }
}

/// SQLite would carry the log of another database, one that lay there before, over the new one: what comes out of that is neither.
fn refuse_old_log(file: &Path) -> Result<()> {
    for end in ["-wal", "-shm", "-journal"] {
        let mut beside = file.as_os_str().to_owned();
        beside.push(end);
        if Path::new(&beside).symlink_metadata().is_ok() {
            let message = format!(
                "{} is there, of a database that was called {}, and would be taken for a part of the new one: export into \
                 an empty directory, or move it away first (it may hold the last changes of that database)",
                Path::new(&beside).display(),
                file.display()
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
    }
    Ok(())
}

fn taken(file: &Path) -> Error {
    let message = format!("{} is there already and is not overwritten; name another file", file.display());
    Error::new(ErrorKind::InvalidArgument, message)
}

/// A database of the original that is being written.
#[derive(Debug)]
pub(super) struct Target {
    connection: Connection,
}

impl Target {
    /// Begins a database in an empty file.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let begin = || {
            let connection = Connection::open_with_flags(path, flags)?;
            // Nobody reads the file before it is whole, synced and renamed, so a journal would protect nothing.
            connection.pragma_update(None, "journal_mode", "OFF")?;
            connection.pragma_update(None, "synchronous", "OFF")?;
            connection.execute_batch("BEGIN")?;
            for statement in SCHEMA {
                connection.execute(statement, [])?;
            }
            Ok(connection)
        };
        Ok(Self { connection: begin().map_err(unwritable)? })
    }

    /// Adds a client and its snapshot.
    pub(super) fn client(&self, client: &ClientInfo, snapshot: Option<&[u8]>) -> Result<()> {
        let head = client.snapshot.as_ref();
        // The original counts in 32 bits, and reads seconds as a signed number.
        let since = head.map(|head| u32::try_from(head.versions_since).unwrap_or(u32::MAX));
        let taken = head.map(|head| i64::try_from(head.received_unix_s).unwrap_or(i64::MAX));
        let row = params![
            written(client.client),
            written(client.latest_version.unwrap_or_default()),
            head.map(|head| written(head.version)),
            since,
            taken,
            snapshot,
        ];
        self.execute(ADD_CLIENT, row)
    }

    /// Adds a version.
    pub(super) fn version(&self, client: Uuid, version: &VersionInfo, bytes: &[u8]) -> Result<()> {
        let row = params![written(version.version), written(client), written(version.parent), bytes];
        self.execute(ADD_VERSION, row).map_err(|error| {
            if !self.has_version(version.version) {
                return error;
            }
            let message = format!(
                "version {} of client {client} is a version of another client too, and the original has room for one: \
                 delete one of the two clients first",
                version.version
            );
            Error::new(ErrorKind::Unsupported, message)
        })
    }

    /// Completes the database.
    pub(super) fn finish(self) -> Result<()> {
        self.connection.execute_batch("COMMIT").map_err(unwritable)?;
        self.connection.close().map_err(|(_, error)| unwritable(error))
    }

    fn execute(&self, sql: &str, row: impl rusqlite::Params) -> Result<()> {
        let execute = || self.connection.prepare_cached(sql)?.execute(row);
        execute().map(|_| ()).map_err(unwritable)
    }

    fn has_version(&self, version: Uuid) -> bool {
        let found = self.connection.query_row(
            "SELECT 1 FROM versions WHERE version_id = ?1",
            [written(version)],
            |_| Ok(()),
        );
        found.is_ok()
    }
}

/// An id as the original writes it.
fn written(id: Uuid) -> String {
    id.hyphenated().to_string()
}

fn unwritable(error: rusqlite::Error) -> Error {
    Error::new(ErrorKind::Backend, "cannot write the database").with_source(error)
}
