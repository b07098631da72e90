//! Moving in from the original server and back: its databases, read, and that of SQLite written, with ids and bytes as they are.
//!
//! `chain` decides, without SQL, whether what a database holds of a client is one history. `import` reads the SQLite file,
//! `postgres/import` the database of the original's other build, `client` brings one client's history in,
//! `salvage` reads around damage of a file, and `export` writes one.

mod chain;
mod client;
mod export;
mod import;
mod postgres {
    pub(super) mod import;
}
mod salvage;
mod source;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use seabed_kv::Result;
use serde::Serialize;
use uuid::Uuid;

use crate::TaskChampion;
use crate::error::damaged;
use crate::keys::{IMPORTED, VERSION, VersionRow, client_key, imported_from_bytes, pair_key};
use crate::shard::Shard;
use crate::value::Value;

use client::{Import, Moved};
use import::{Foreign, History, SqliteFile};
use postgres::import::Database;
use source::Source;

/// The name that the original gives its database, in its data directory.
pub const ORIGINAL_FILE: &str = "taskchampion-sync-server.sqlite3";

/// How many refused clients a report spells out; the number of all is beside them.
pub const REFUSED_MAX: usize = 1_000;

/// What is said of a client one of whose values cannot be read.
const DAMAGED: &str = "the file is damaged where its versions or its snapshot lie; take it from a backup, or repair a copy with \
                       `sqlite3 FILE .recover`";

/// How much was read or written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// How many clients.
    pub clients: u64,
    /// How many versions they have.
    pub versions: u64,
    /// How many bytes of versions.
    pub version_bytes: u64,
    /// How many snapshots they have.
    pub snapshots: u64,
    /// How many bytes of snapshots.
    pub snapshot_bytes: u64,
}

impl Totals {
    fn add_snapshot(&mut self, bytes: u64) {
        self.snapshots += 1;
        self.snapshot_bytes += bytes;
    }

    fn add_version(&mut self, bytes: u64) {
        self.versions += 1;
        self.version_bytes += bytes;
    }
}

/// A client that was not imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// Its id, as the original's database has it.
    pub client: String,
    /// Why, in a sentence that begins after the client's name.
    pub why: String,
}

/// What an import found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ImportReport {
    /// What the original's database holds, but for what was refused.
    pub found: Totals,
    /// What was written. A client of which only new versions came counts here too.
    pub written: Totals,
    /// How many clients were here already, to the byte.
    pub unchanged: u64,
    /// How many of those have newer versions here than in the original.
    pub newer_here: u64,
    /// How many clients were not imported.
    pub refused: u64,
    /// The first [`REFUSED_MAX`] of them.
    pub refusals: Vec<Refused>,
    /// The names of all of them, as the database has them.
    #[serde(skip)]
    pub refused_names: BTreeSet<String>,
}

/// What an export wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ExportReport {
    /// What the new database holds.
    pub written: Totals,
}

/// How far a move has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// How many clients there are.
    pub clients: u64,
    /// How many of them are done.
    pub clients_done: u64,
    /// How many versions have been written.
    pub versions_done: u64,
}

/// Where the original's database is, given the file or the directory that it is in.
pub fn original_file(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(ORIGINAL_FILE) } else { path.to_owned() }
}

/// Looks whether there is a database of the original at `file`, before anything is made for what it holds.
///
/// # Errors
/// `Unsupported` when it cannot be read as such a database.
pub fn check_original(file: &Path) -> Result<()> {
    SqliteFile::open(file)?.histories().map(|_| ())
}

/// Looks whether the database of the session is one of the original's, before anything is made for what it holds.
///
/// # Errors
/// `Unsupported` when it has other tables, or its user may not read them; `Backend` when it fails.
pub async fn check_original_postgres(session: &tokio_postgres::Client) -> Result<()> {
    Database::open(session).await?.close().await
}

impl TaskChampion {
    /// Imports every client of the original server's database at `file`, which is read in one view and never changed.
    ///
    /// Each client is checked to be one chain before anything of it is written, and compared byte for byte afterwards. A client that is new
    /// here is visible only when it is whole. One that is here already is compared; what the original has beyond it is added step by step,
    /// so that cut off it has a beginning of that, which is a whole chain too; and one that has another history or snapshot here is
    /// refused while the others go on. So it may be repeated, and after a crash or a drop it is simply run
    /// again. The store must serve nobody meanwhile. `now_unix_s` is asked once a client: where several processes share the store each
    /// client has [an hour](crate::IMPORTING_MS_MAX). Reads on the calling thread, and holds one value at a time. When it
    /// answers, everything is durable.
    ///
    /// ```
    /// use seabed_taskchampion::{Config, TaskChampion, original_file};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # pollster::block_on(async {
    /// let taskchampion = TaskChampion::open(&seabed_kv::Store::memory(), Config::default()).await?;
    /// let file = original_file(directory.path());
    /// taskchampion.export_original(&file, |_| {}).await?;
    /// let report = taskchampion.import_original(&file, || 1_700_000_000, |progress| println!("{progress:?}")).await?;
    /// assert_eq!((report.found.clients, report.refused), (0, 0));
    /// # Ok::<(), seabed_kv::Error>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Unsupported` when the file cannot be read as such a database, or was changed while nothing guarded the view of it (in a
    /// directory that is read-only here); those of the store. What is wrong with a single client is no error but a refusal in the
    /// report: also that a damaged page took a part of it.
    pub async fn import_original(
        &self,
        file: &Path,
        mut now_unix_s: impl FnMut() -> u64,
        mut progress: impl FnMut(Progress),
    ) -> Result<ImportReport> {
        let file = SqliteFile::open(file)?;
        let mut moving = Moving::new(self, file.clients, &mut now_unix_s, &mut progress);
        let mut histories = file.histories()?;
        let mut reading = histories.read()?;
        while let Some(foreign) = reading.next()? {
            moving.client(Source::File(&file), foreign).await?;
        }
        moving.finish().await
    }

    /// The same from the database of the original's PostgreSQL build. `session` is a connection to it that nobody else uses; after an
    /// error, or dropped, this leaves it in a transaction that only reads: close it then. The future needs the runtime that drives the
    /// session.
    ///
    /// # Errors
    /// `Unsupported` when the database has other tables, or its user may not read them; `Backend` when it fails; those of the store.
    pub async fn import_original_postgres(
        &self,
        session: &tokio_postgres::Client,
        mut now_unix_s: impl FnMut() -> u64,
        mut progress: impl FnMut(Progress),
    ) -> Result<ImportReport> {
        let database = Database::open(session).await?;
        let mut moving = Moving::new(self, database.clients, &mut now_unix_s, &mut progress);
        let mut after = None;
        loop {
            let page = database.page(after).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.client);
            for client in page {
                let foreign = database.foreign(client).await?;
                moving.client(Source::Database(&database), foreign).await?;
            }
        }
        for stray in database.strays().await? {
            moving.client(Source::Database(&database), stray).await?;
        }
        database.close().await?;
        moving.finish().await
    }

    /// The clients of the original's database whose latest version is not the one that was imported: they were pushed to, or
    /// came into being, since. Names as the database has them.
    ///
    /// # Errors
    /// Those of [`import_original`](Self::import_original).
    pub async fn changed_since_import(&self, file: &Path) -> Result<Vec<String>> {
        let mut changed = Vec::new();
        for found in SqliteFile::open(file)?.latest()? {
            let same = match found.ids {
                Some((client, latest)) => self.shard(client).imported(client).await? == Some(latest),
                None => false,
            };
            if !same {
                changed.push(found.name);
            }
        }
        Ok(changed)
    }
}

/// An import under way.
struct Moving<'a> {
    taskchampion: &'a TaskChampion,
    now_unix_s: &'a mut dyn FnMut() -> u64,
    report: ImportReport,
    so_far: Progress,
    progress: &'a mut dyn FnMut(Progress),
}

impl<'a> Moving<'a> {
    fn new(
        taskchampion: &'a TaskChampion,
        clients: u64,
        now_unix_s: &'a mut dyn FnMut() -> u64,
        progress: &'a mut dyn FnMut(Progress),
    ) -> Self {
        let so_far = Progress { clients, ..Progress::default() };
        Self { taskchampion, now_unix_s, report: ImportReport::default(), so_far, progress }
    }

    /// Imports one client, or notes why it is none.
    async fn client(&mut self, source: Source<'_>, foreign: Foreign) -> Result<()> {
        let moved = match &foreign.history {
            Err(why) => Moved::Refused(why.clone()),
            Ok(history) => {
                let (so_far, progress) = (&mut self.so_far, &mut *self.progress);
                let mut tick = || {
                    so_far.versions_done += 1;
                    progress(*so_far);
                };
                let shard = self.taskchampion.shard(history.client).clone();
                let now_unix_s = (self.now_unix_s)();
                let import = Import { shard, source, history, now_unix_s, tick: &mut tick };
                match import.run().await {
                    // Its own loss; what was written of it is a beginning, or nothing.
                    Err(_) if source.take_damage() => Moved::Refused(DAMAGED.to_owned()),
                    moved => moved?,
                }
            }
        };
        source.check_unchanged()?;
        self.report.add(foreign.name, foreign.history.ok().as_ref(), moved);
        self.so_far.clients_done += 1;
        // Where a file is damaged, they cannot be counted before.
        self.so_far.clients = self.so_far.clients.max(self.so_far.clients_done);
        (self.progress)(self.so_far);
        Ok(())
    }

    /// Makes everything durable, so that it may be told.
    async fn finish(self) -> Result<ImportReport> {
        for shard in self.taskchampion.shards() {
            shard.tenant.flush().await?;
        }
        Ok(self.report)
    }
}

impl ImportReport {
    fn add(&mut self, client: String, history: Option<&History>, moved: Moved) {
        if let (Some(history), false) = (history, matches!(moved, Moved::Refused(_))) {
            self.found.clients += 1;
            for link in &history.chain {
                self.found.add_version(link.bytes);
            }
            if let Some(snapshot) = &history.snapshot {
                self.found.add_snapshot(snapshot.bytes);
            }
        }
        match moved {
            Moved::Written(written) => {
                self.written.clients += 1;
                self.written.versions += written.versions;
                self.written.version_bytes += written.version_bytes;
                self.written.snapshots += written.snapshots;
                self.written.snapshot_bytes += written.snapshot_bytes;
            }
            Moved::Unchanged { newer_here } => {
                self.unchanged += 1;
                self.newer_here += u64::from(newer_here);
            }
            Moved::Refused(why) => {
                self.refused += 1;
                self.refused_names.insert(client.clone());
                if self.refusals.len() < REFUSED_MAX {
                    self.refusals.push(Refused { client, why });
                }
            }
        }
    }
}

impl Shard {
    /// The row of the version that follows `parent`.
    async fn version_row(&self, client: Uuid, parent: Uuid) -> Result<Option<VersionRow>> {
        let key = pair_key(client, parent);
        let Some(bytes) = self.tenant.get(VERSION, key).await? else { return Ok(None) };
        VersionRow::from_bytes(&bytes).map(Some).ok_or_else(|| damaged(&self.tenant, VERSION, &key))
    }

    async fn version_value(&self, client: Uuid, parent: Uuid) -> Result<Value> {
        let row = self.version_row(client, parent).await?;
        let row = row.ok_or_else(|| damaged(&self.tenant, VERSION, &pair_key(client, parent)))?;
        Ok(Value::new(row.value, &self.staging))
    }

    /// The latest version that the client had when it was last imported; `None` when it never was.
    async fn imported(&self, client: Uuid) -> Result<Option<Uuid>> {
        let key = client_key(client);
        let Some(bytes) = self.tenant.get(IMPORTED, key).await? else { return Ok(None) };
        let read = imported_from_bytes(&bytes).ok_or_else(|| damaged(&self.tenant, IMPORTED, &key))?;
        Ok(Some(read.0))
    }
}
