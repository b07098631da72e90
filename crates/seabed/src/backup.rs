//! A backup: a directory of copies and a manifest that names them (`docs/formats/backup.md`).
//!
//! A copy carries its hash in its name, so one never takes the place of another. The manifest is written last and replaced in one step:
//! until then the backup before is what the directory holds, whole, whatever happens.

pub(crate) mod manifest;

use std::collections::BTreeSet;
use std::error::Error as _;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;
use seabed_kv::{Copied, ErrorKind, Store, TenantId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::cli::verify;
use crate::node::{Failure, Node, now_unix_s, sentence};
use crate::own;
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
    /// What is wrong with tenants that were copied all the same.
    #[serde(default)]
    pub(crate) findings: u64,
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
    /// How much is wrong with what was copied; `seabed verify` names it.
    #[serde(default)]
    pub(crate) findings: u64,
    /// Why it failed, or what was found; null when all is well.
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
    let place = Place::prepare(to.to_owned(), &store, &which(node).await?)?;
    let mut manifest = Manifest::new(store, now_unix_s());
    manifest.store_id = place.store_id;
    let mut report = Report {
        store: manifest.store.clone(),
        backup: to.display().to_string(),
        complete: true,
        copied: 0,
        unchanged: 0,
        failed: 0,
        findings: 0,
        bytes: 0,
        tenants: Vec::new(),
    };
    let ids = node.tenants(None).await?;
    let mut share = Share::new(&node.backups, ids.len() as u64);
    for id in ids {
        let earlier = place.earlier(&id);
        match place.copy(node, &id, &earlier).await {
            Ok((outcome, entry)) => {
                let kept = if place.keep_sound(&id, &entry, &mut manifest) {
                    "; the last copy in which nothing was found is kept beside it"
                } else {
                    ""
                };
                let told = (entry.findings > 0)
                    .then(|| format!("{} findings, which `seabed verify` names{kept}", entry.findings));
                report.add(&id, outcome, Some(&entry), told, &mut manifest);
            }
            Err(Failed::Tenant(why)) => place.failed(&id, &earlier, &why, &mut report, &mut manifest),
            Err(Failed::Backup(failure)) => return Err(failure),
        }
        share.one_done();
    }
    for (id, why) in place.lost(node, &report).await? {
        place.failed(&id, &place.earlier(&id), &why, &mut report, &mut manifest);
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
        let findings = of_now.map_or(0, |entry| entry.findings);
        self.findings += findings;
        self.tenants.push(TenantCopied {
            id: id.as_str().to_owned(),
            outcome,
            file: of_now.map(|entry| entry.file.clone()),
            bytes: of_now.map(|entry| entry.bytes),
            rows: of_now.map(|entry| entry.rows),
            findings,
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

/// Which store is backed up.
enum Which {
    Known(Option<Uuid>),
    /// The tenant that says so cannot be read: it is not copied either, and the others are.
    Unread,
}

async fn which(node: &Node) -> Result<Which, Failure> {
    match own::store_id(&node.store).await {
        Ok(id) => Ok(Which::Known(id)),
        Err(error) if error.kind() == ErrorKind::Closed => Err(error.into()),
        Err(error) => {
            tracing::warn!(%error, "the id of the store cannot be read");
            Ok(Which::Unread)
        }
    }
}

/// What there is of a tenant in the backup before.
enum Earlier<'a> {
    Nothing,
    /// It is what was written.
    Sound(&'a Entry),
    /// It cannot be read now, which says nothing of what it is.
    Unread(&'a Entry),
    /// It is no more what was written. Its file stays until there is another copy.
    Damaged,
}

impl<'a> Earlier<'a> {
    /// What the manifest goes on naming when there is no other copy.
    fn entry(&self) -> Option<&'a Entry> {
        match self {
            Self::Sound(entry) | Self::Unread(entry) => Some(entry),
            Self::Nothing | Self::Damaged => None,
        }
    }
}

/// The directory of a backup, locked.
struct Place {
    directory: PathBuf,
    /// Which store it is of.
    store_id: Option<Uuid>,
    /// The backup that it holds.
    before: Option<Manifest>,
    _lock: File,
}

impl Place {
    /// Makes the directory, or sees that what it holds is a backup of the same store.
    fn prepare(directory: PathBuf, store: &str, which: &Which) -> Result<Self, Failure> {
        let cannot = |what: &str, error: io::Error| {
            Failure::internal(format!("cannot {what} {}: {}", directory.display(), io_sentence(&error)))
        };
        seabed_kv::sqlite::create_directory(&directory).map_err(|error| {
            let advice = match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
                Some(source) => io_advice(source),
                None => "",
            };
            Failure::internal(format!("{}{advice}", sentence(error)))
        })?;
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
        let lock = open_lock(&directory).map_err(|error| cannot("write to", error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::new(
                    axum::http::StatusCode::SERVICE_UNAVAILABLE,
                    format!(
                        "another backup into {}, or a check or a restore of it, is under way; wait until it has ended",
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
        let store_id = same_store(&directory, before.as_ref(), store, which)?;
        let place = Self { directory, store_id, before, _lock: lock };
        // What was left by a backup that was interrupted, so that there is room. Without a manifest nobody knows what copies are
        // good for: they stay until there is a backup.
        match &place.before {
            Some(before) => place.tidy(before),
            None => drop(fs::remove_file(place.directory.join(PARTIAL_FILE))),
        }
        Ok(place)
    }

    /// The earlier copy of a tenant, looked at.
    fn earlier(&self, id: &TenantId) -> Earlier<'_> {
        let Some(before) = self.before.as_ref().and_then(|before| before.entry(id)) else {
            return Earlier::Nothing;
        };
        match hash_file(&self.directory.join(&before.file)) {
            Ok((hash, bytes)) if hash == before.blake3 && bytes == before.bytes => Earlier::Sound(before),
            Ok(_) => Earlier::Damaged,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Earlier::Nothing,
            Err(error) => {
                tracing::warn!(%error, file = before.file, "an earlier copy cannot be read");
                Earlier::Unread(before)
            }
        }
    }

    /// Tenants that must be in the store and are not, with what is to be said of each: shards of layers, and whatever was there before.
    async fn lost(&self, node: &Node, report: &Report) -> Result<Vec<(TenantId, String)>, Failure> {
        let mut lost: Vec<_> = match own::missing_shards(&node.store).await {
            Ok(missing) => missing.into_iter().map(|(id, why)| (id, sentence(why))).collect(),
            Err(error) if error.kind() == ErrorKind::Closed => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "which shards must be there cannot be read");
                Vec::new()
            }
        };
        let Some(before) = &self.before else { return Ok(lost) };
        let told: BTreeSet<String> = report
            .tenants
            .iter()
            .map(|tenant| tenant.id.clone())
            .chain(lost.iter().map(|(id, _)| id.as_str().to_owned()))
            .collect();
        let ids = before.entries().map(|(id, _)| id);
        let ids = ids.chain(before.missing.iter().filter_map(|missing| TenantId::new(&missing.id).ok()));
        for id in ids.filter(|id| !told.contains(id.as_str())) {
            // Whoever removes its copies says that it is gone for good.
            let copies = self.copies_of(&id, report);
            if !copies.is_empty() {
                let why = format!(
                    "it was in the store and is not any more; if it was dropped on purpose, remove from the backup {}",
                    copies.join(" and ")
                );
                lost.push((id, why));
            }
        }
        Ok(lost)
    }

    /// The names of the copies of a tenant that are in the directory. (The name of another may begin in the same way, where both are long.)
    fn copies_of(&self, id: &TenantId, report: &Report) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.directory) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let is_others =
            |name: &String| report.tenants.iter().any(|tenant| tenant.file.as_ref() == Some(name));
        names.filter(|name| manifest::is_copy_of(id.as_str(), name) && !is_others(name)).collect()
    }

    /// Notes that there is no new copy of a tenant, and what remains of it.
    fn failed(
        &self,
        id: &TenantId,
        earlier: &Earlier<'_>,
        why: &str,
        report: &mut Report,
        manifest: &mut Manifest,
    ) {
        let stays = match earlier {
            Earlier::Sound(_) => "; the copy from before stays",
            Earlier::Unread(_) => "; the copy from before stays, but could not be read just now",
            Earlier::Damaged => {
                "; the copy from before is damaged as well, and is no part of the backup any more: its file stays"
            }
            Earlier::Nothing => "",
        };
        if let Some(entry) = earlier.entry() {
            self.keep_sound(id, entry, manifest);
        }
        report.add(id, Outcome::Failed, earlier.entry(), Some(format!("{why}{stays}")), manifest);
    }

    /// While the copy that counts has findings, the last one that had none is kept beside it, if there is one.
    fn keep_sound(&self, id: &TenantId, entry: &Entry, manifest: &mut Manifest) -> bool {
        let Some(before) = self.before.as_ref().filter(|_| entry.findings > 0) else { return false };
        let last = before.entry(id).filter(|last| last.findings == 0);
        let kept = || before.kept.iter().find(|kept| kept.id == id.as_str());
        let last = last.or_else(kept);
        manifest.kept.extend(last.cloned());
        last.is_some()
    }

    async fn copy(
        &self,
        node: &Node,
        id: &TenantId,
        earlier: &Earlier<'_>,
    ) -> Result<(Outcome, Entry), Failed> {
        let before = match earlier {
            Earlier::Sound(before) => Some(*before),
            _ => None,
        };
        let previous = before.map(|before| self.directory.join(&before.file));
        let partial = self.directory.join(PARTIAL_FILE);
        let copied = node.visit(id)?.backup(&partial, previous.as_deref()).wait()?;
        if let (Copied::Unchanged, Some(before)) = (copied, before) {
            return Ok((Outcome::Unchanged, before.clone()));
        }
        let entry = examine(id, &partial).await.and_then(|entry| {
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
            // Of a tenant that is missing, whatever there is of it may be all that is left.
            let is_last = manifest.missing.iter().any(|missing| manifest::is_copy_of(&missing.id, &name));
            if !manifest.names(&name) && !is_last && name != LOCK_FILE && is_ours(&name) {
                let _ = fs::remove_file(self.directory.join(name));
            }
        }
    }
}

/// Reads the copy as whoever restores it will, and describes it.
async fn examine(id: &TenantId, copy: &Path) -> Result<Entry, Failed> {
    let files = Store::sqlite_files([(id.clone(), copy.to_owned())]);
    let tenant = files.open(id.as_str()).await?;
    let report = tenant.verify().await?;
    if let Some(finding) = report.findings.first() {
        return Err(Failed::Tenant(format!(
            "the tenant is damaged ({} findings, the first: {finding}) and was not copied",
            report.findings.len()
        )));
    }
    // What its layer finds may be one client's trouble: the others' pushes are copied all the same.
    let findings = verify::of_layer(&tenant).await?.len() as u64;
    let (blake3, bytes) = hash_file(copy)?;
    let file = manifest::file_name(id, &blake3);
    Ok(Entry {
        id: id.as_str().to_owned(),
        file,
        bytes,
        rows: report.rows,
        blake3,
        copied_unix_s: now_unix_s(),
        findings,
    })
}

/// The entries of a backup's directory that its manifest does not account for.
pub(crate) fn extras(directory: &Path, manifest: &Manifest) -> io::Result<Vec<String>> {
    let mut extras = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !manifest.names(&name) && name != LOCK_FILE {
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

/// Keeps backups out of the directory, for as long as the answer is held. One that cannot be written to, or was copied without its lock, is
/// nobody's to back up into.
///
/// # Errors
/// A sentence, when a backup into it is under way.
pub(crate) fn lock_to_read(directory: &Path) -> Result<Option<File>, String> {
    let mut options = File::options();
    options.read(true).custom_flags(NOFOLLOW);
    let Ok(lock) = options.open(directory.join(LOCK_FILE)) else { return Ok(None) };
    match lock.try_lock_shared() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => {
            Err(format!("a backup into {} is under way; wait until it has ended", directory.display()))
        }
        // A file system without locks: whoever backs up into it fails there.
        Err(TryLockError::Error(error)) => {
            tracing::warn!(%error, "the lock of the backup cannot be taken");
            Ok(None)
        }
    }
}

/// A link in the place of a file of ours is somebody else's: what it leads to is not touched.
#[allow(clippy::cast_possible_wrap, reason = "the flags of open are an int")]
const NOFOLLOW: i32 = OFlags::NOFOLLOW.bits() as i32;

fn open_lock(directory: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(NOFOLLOW);
    options.open(directory.join(LOCK_FILE))
}

/// Sees that the backup in the directory is of this store, as far as both say which they are, and answers which it is.
fn same_store(
    directory: &Path,
    before: Option<&Manifest>,
    store: &str,
    which: &Which,
) -> Result<Option<Uuid>, Failure> {
    let of_backup = before.and_then(|before| before.store_id);
    let Which::Known(id) = which else { return Ok(of_backup) };
    if of_backup.is_none() || of_backup == *id {
        return Ok(*id);
    }
    Err(Failure::bad_request(format!(
        "{directory} holds a backup of the store that was in {store} before: the one that is there now is another, perhaps a new one \
         because a disk is not mounted. The backup was not touched. Mount the disk, or restore the backup with `seabed restore`; if the new \
         store is right, choose another directory for its backup",
        directory = directory.display(),
    )))
}

fn io_sentence(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull => format!("the disk is full ({error}); make room, then try again"),
        _ => format!("{error}{}", io_advice(error)),
    }
}

fn io_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; it is the server that writes, when one runs: its user must be allowed to"
        }
        _ => "",
    }
}
