//! A backup: a directory of copies and a manifest that names them (`docs/formats/backup.md`).
//!
//! A copy carries its hash in its name, so one never takes the place of another. The manifest is written last and replaced in one step:
//! until then the backup before is what the directory holds, whole, whatever happens.

pub(crate) mod manifest;

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use seabed_kv::{Copied, ErrorKind, Store, TenantId};
use serde::{Deserialize, Serialize};

use crate::node::{Failure, Node, now_unix_s, sentence};
use manifest::{Entry, Manifest, Missing, NotRead};

/// The file whose lock says that a backup into the directory is under way.
const LOCK_FILE: &str = "LOCK";
/// The copy that is being written.
const PARTIAL_FILE: &str = "copy.partial";

/// What `POST /api/backup` answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The store: its directory, absolute.
    pub(crate) store: String,
    /// The directory of the backup, absolute.
    pub(crate) backup: String,
    /// Whether every tenant of the store is in the backup as it is now.
    pub(crate) complete: bool,
    pub(crate) copied: u64,
    pub(crate) unchanged: u64,
    pub(crate) failed: u64,
    /// Bytes of all copies that the backup consists of.
    pub(crate) bytes: u64,
    pub(crate) tenants: Vec<TenantCopied>,
}

/// What became of one tenant.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TenantCopied {
    pub(crate) id: String,
    pub(crate) outcome: Outcome,
    /// Null when it failed, as the numbers are.
    pub(crate) file: Option<String>,
    pub(crate) bytes: Option<u64>,
    pub(crate) rows: Option<u64>,
    /// Why it failed; null when it did not.
    pub(crate) error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// There is a new copy.
    Copied,
    /// The copy of an earlier backup is what a new one would be, to the byte.
    Unchanged,
    /// It could not be copied. If the backup before had it, that copy stays.
    Failed,
}

/// How far the backups of a store have come that run now.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    tenants: AtomicU64,
    done: AtomicU64,
}

/// What `GET /api/backup` answers: zeros when none runs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Running {
    /// Tenants that are to be copied.
    pub(crate) tenants: u64,
    /// Those of them that were.
    pub(crate) done: u64,
}

impl Progress {
    pub(crate) fn now(&self) -> Running {
        Running { tenants: self.tenants.load(Ordering::Relaxed), done: self.done.load(Ordering::Relaxed) }
    }
}

/// One backup's share of the progress, given back when it ends, however it ends.
struct Share<'a> {
    progress: &'a Progress,
    tenants: u64,
    done: u64,
}

impl<'a> Share<'a> {
    fn new(progress: &'a Progress, tenants: u64) -> Self {
        progress.tenants.fetch_add(tenants, Ordering::Relaxed);
        Self { progress, tenants, done: 0 }
    }

    fn one_done(&mut self) {
        self.progress.done.fetch_add(1, Ordering::Relaxed);
        self.done += 1;
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.progress.done.fetch_sub(self.done, Ordering::Relaxed);
        self.progress.tenants.fetch_sub(self.tenants, Ordering::Relaxed);
    }
}

/// Copies every tenant into a directory, on the thread that asks for it.
pub(crate) async fn run(node: &Node, to: &Path) -> Result<Report, Failure> {
    if !to.is_absolute() {
        return Err(Failure::bad_request(format!("'{}' is no absolute path", to.display())));
    }
    if node.url.root().is_none() {
        return Err(Failure::bad_request(format!(
            "{} is no directory of files: back up a PostgreSQL database with pg_dump or pg_basebackup; `seabed copy` writes a store into \
             a directory, which `seabed backup` takes",
            node.url
        )));
    }
    let store = node.url.to_string();
    let place = Place::prepare(to.to_owned(), &store)?;
    let mut manifest = Manifest::new(store, now_unix_s());
    let mut report = Report {
        store: manifest.store.clone(),
        backup: to.display().to_string(),
        complete: true,
        copied: 0,
        unchanged: 0,
        failed: 0,
        bytes: 0,
        tenants: Vec::new(),
    };
    let ids = node.tenants(None).await?;
    let mut share = Share::new(&node.backups, ids.len() as u64);
    for id in ids {
        let before = place.sound_copy(&id);
        match place.copy(node, &id, before) {
            Ok((outcome, entry)) => report.add(&id, outcome, Some(&entry), None, &mut manifest),
            Err(Failed::Tenant(why)) => {
                report.add(&id, Outcome::Failed, before, Some(why), &mut manifest);
            }
            Err(Failed::Backup(failure)) => return Err(failure),
        }
        share.one_done();
    }
    if manifest.tenants.is_empty() {
        let why = report.tenants.into_iter().find_map(|tenant| tenant.error).unwrap_or_default();
        return Err(Failure::internal(format!("no tenant could be copied: {why}")));
    }
    place.finish(&manifest)?;
    Ok(report)
}

impl Report {
    fn add(
        &mut self,
        id: &TenantId,
        outcome: Outcome,
        entry: Option<&Entry>,
        error: Option<String>,
        manifest: &mut Manifest,
    ) {
        match outcome {
            Outcome::Copied => self.copied += 1,
            Outcome::Unchanged => self.unchanged += 1,
            Outcome::Failed => self.failed += 1,
        }
        self.complete &= outcome != Outcome::Failed;
        let of_now = entry.filter(|_| outcome != Outcome::Failed);
        self.tenants.push(TenantCopied {
            id: id.as_str().to_owned(),
            outcome,
            file: of_now.map(|entry| entry.file.clone()),
            bytes: of_now.map(|entry| entry.bytes),
            rows: of_now.map(|entry| entry.rows),
            error: error.clone(),
        });
        match entry {
            Some(entry) => {
                self.bytes += entry.bytes;
                manifest.tenants.push(entry.clone());
            }
            None => manifest
                .missing
                .push(Missing { id: id.as_str().to_owned(), error: error.unwrap_or_default() }),
        }
    }
}

/// Why a tenant was not copied.
enum Failed {
    /// The others may be.
    Tenant(String),
    /// Nothing can be.
    Backup(Failure),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Tenant(error.to_string())
    }
}

impl From<seabed_kv::Error> for Failed {
    fn from(error: seabed_kv::Error) -> Self {
        match error.kind() {
            ErrorKind::Closed => Self::Backup(error.into()),
            _ => Self::Tenant(sentence(error)),
        }
    }
}

/// The directory of a backup, locked.
struct Place {
    directory: PathBuf,
    /// The backup that it holds.
    before: Option<Manifest>,
    _lock: File,
}

impl Place {
    /// Makes the directory, or sees that what it holds is a backup of the same store.
    fn prepare(directory: PathBuf, store: &str) -> Result<Self, Failure> {
        let cannot = |what: &str, error: io::Error| {
            Failure::internal(format!("cannot {what} {}: {}", directory.display(), io_sentence(&error)))
        };
        let mut builder = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(builder.recursive(true), 0o700);
        builder.create(&directory).map_err(|error| cannot("make", error))?;
        let mut foreign = None;
        for entry in fs::read_dir(&directory).map_err(|error| cannot("list", error))? {
            let name = entry.map_err(|error| cannot("list", error))?.file_name();
            if !name.to_str().is_some_and(is_ours) {
                foreign = Some(name);
            }
        }
        let is_backup = directory.join(manifest::FILE).exists();
        if let Some(name) = foreign.filter(|_| !is_backup) {
            return Err(Failure::bad_request(format!(
                "{} holds other things ({}) and no backup; choose an empty directory or a new one",
                directory.display(),
                name.display()
            )));
        }
        let lock = File::create(directory.join(LOCK_FILE)).map_err(|error| cannot("write to", error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::new(
                    axum::http::StatusCode::SERVICE_UNAVAILABLE,
                    format!(
                        "another backup into {} is under way; wait until it has ended",
                        directory.display()
                    ),
                ));
            }
            Err(TryLockError::Error(error)) => return Err(cannot("lock", error)),
        }
        // Under the lock: the backup that is there may have become another while it was waited for.
        let before = match Manifest::read(&directory) {
            Ok(before) => Some(before),
            Err(NotRead::Absent) => None,
            Err(NotRead::Unsupported(why) | NotRead::Damaged(why)) => {
                return Err(Failure::bad_request(format!(
                    "{} holds a backup that this program cannot go on with: {why}; choose another directory",
                    directory.display()
                )));
            }
            Err(NotRead::Failed(error)) => return Err(cannot("read the manifest in", error)),
        };
        if let Some(before) = &before
            && before.store != store
        {
            return Err(Failure::bad_request(format!(
                "{} holds a backup of another store, {}; choose another directory for that of {store}",
                directory.display(),
                before.store
            )));
        }
        let place = Self { directory, before, _lock: lock };
        // What was left by a backup that was interrupted, so that there is room. Without a manifest nobody knows what copies are
        // good for: they stay until there is a backup.
        match &place.before {
            Some(before) => place.tidy(before),
            None => drop(fs::remove_file(place.directory.join(PARTIAL_FILE))),
        }
        Ok(place)
    }

    /// The earlier copy of a tenant. One that is no more what was written is none: a new one takes its place, or the tenant is missing.
    fn sound_copy(&self, id: &TenantId) -> Option<&Entry> {
        self.before.as_ref()?.entry(id).filter(|before| {
            let file = self.directory.join(&before.file);
            hash_file(&file).is_ok_and(|(hash, bytes)| hash == before.blake3 && bytes == before.bytes)
        })
    }

    fn copy(&self, node: &Node, id: &TenantId, before: Option<&Entry>) -> Result<(Outcome, Entry), Failed> {
        let previous = before.map(|before| self.directory.join(&before.file));
        let partial = self.directory.join(PARTIAL_FILE);
        let copied = node.visit(id)?.backup(&partial, previous.as_deref()).wait()?;
        if let (Copied::Unchanged, Some(before)) = (copied, before) {
            return Ok((Outcome::Unchanged, before.clone()));
        }
        let entry = examine(id, &partial).and_then(|entry| {
            fs::rename(&partial, self.directory.join(&entry.file))?;
            Ok(entry)
        });
        if entry.is_err() {
            // The next copy needs the place; what it cannot be made in is told by that one.
            let _ = fs::remove_file(&partial);
        }
        entry.map(|entry| (Outcome::Copied, entry))
    }

    /// Makes the copies the backup that the directory holds.
    fn finish(&self, manifest: &Manifest) -> Result<(), Failure> {
        let written = sync(&self.directory).and_then(|()| manifest.write(&self.directory));
        written.map_err(|error| {
            let error = io_sentence(&error);
            let place = self.directory.display();
            Failure::internal(format!(
                "cannot write the manifest in {place}: {error}; the backup before, if any, is as it was"
            ))
        })?;
        self.tidy(manifest);
        Ok(())
    }

    /// Removes copies that the manifest does not name. What cannot be removed is only in the way, and `verify` shows it.
    fn tidy(&self, manifest: &Manifest) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
            let named = [LOCK_FILE, manifest::FILE].contains(&name.as_str())
                || manifest.tenants.iter().any(|entry| entry.file == name);
            if !named && is_ours(&name) {
                let _ = fs::remove_file(self.directory.join(name));
            }
        }
    }
}

/// Reads the copy as whoever restores it will, and describes it.
fn examine(id: &TenantId, copy: &Path) -> Result<Entry, Failed> {
    let files = Store::sqlite_files([(id.clone(), copy.to_owned())]);
    let report = files.open(id.as_str()).wait()?.verify().wait()?;
    if let Some(finding) = report.findings.first() {
        return Err(Failed::Tenant(format!(
            "the tenant is damaged ({} findings, the first: {finding}); it was not copied, and a copy from before stays",
            report.findings.len()
        )));
    }
    let (blake3, bytes) = hash_file(copy)?;
    let file = manifest::file_name(id, &blake3);
    Ok(Entry {
        id: id.as_str().to_owned(),
        file,
        bytes,
        rows: report.rows,
        blake3,
        copied_unix_s: now_unix_s(),
    })
}

/// The entries of a backup's directory that its manifest does not account for.
pub(crate) fn extras(directory: &Path, manifest: &Manifest) -> io::Result<Vec<String>> {
    let mut extras = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let known = [LOCK_FILE, manifest::FILE].contains(&name.as_str())
            || manifest.tenants.iter().any(|entry| entry.file == name);
        if !known {
            extras.push(name);
        }
    }
    extras.sort();
    Ok(extras)
}

/// Whether a file of that name in the directory of a backup is a backup's.
pub(crate) fn is_ours(name: &str) -> bool {
    [LOCK_FILE, PARTIAL_FILE, manifest::FILE, manifest::PARTIAL_FILE].contains(&name)
        || manifest::is_copy(name)
}

/// The hash of a file, in hexadecimal digits, and its length.
pub(crate) fn hash_file(path: &Path) -> io::Result<(String, u64)> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok((hasher.finalize().to_hex().to_string(), hasher.count()))
}

/// Makes the entries of a directory durable.
pub(crate) fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn io_sentence(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("{error}; it is the server that writes, when one runs: its user must be allowed to")
        }
        io::ErrorKind::StorageFull => format!("the disk is full ({error}); make room, then try again"),
        _ => error.to_string(),
    }
}
