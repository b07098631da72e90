//! Moving in from, and out to, the directories of automerge-repo's node filesystem storage.
//!
//! A file a value: `<first two characters of the document id>/<the rest>/snapshot/<name>` and `.../incremental/<name>`. Nothing is ever
//! overwritten with other contents, so a directory may be read while its owner writes, and imported again later.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use automerge::{Automerge, Change, ChangeHash};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::append::{Append, Appended};
use crate::chunks::Kind;
use crate::error::{Error, ErrorKind, Result, busy};
use crate::limits::{ATTEMPTS_MAX, DOCUMENT_BYTES_MAX};
use crate::salvage::{Piece, Salvaged, absorb, load, salvage};
use crate::{DocStore, DocumentId, chunks};

/// How many refusals a report spells out.
pub const REFUSED_MAX: usize = 1_000;

/// The kinds of values that are read, in the order in which they are.
const KINDS: [&str; 2] = ["snapshot", "incremental"];

/// What an import brought.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ImportReport {
    /// How many documents the directory has.
    pub documents: u64,
    /// How many of them brought something new.
    pub imported: u64,
    /// How many brought nothing that was not here.
    pub unchanged: u64,
    /// How many changes are new.
    pub changes: u64,
    /// How many bytes were read.
    pub bytes: u64,
    /// How many files could not be read in full; what of them can be is imported.
    pub damaged: u64,
    /// How many documents or files are refused or damaged, also those not spelled out.
    pub refused: u64,
    /// What is refused or damaged, and why, at most [`REFUSED_MAX`].
    pub refusals: Vec<Refused>,
}

/// What an export wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ExportReport {
    /// How many documents there are.
    pub documents: u64,
    /// How many files were written; the others were there.
    pub written: u64,
    /// How many bytes those have.
    pub bytes: u64,
    /// How many documents could not be exported, also those not spelled out.
    pub refused: u64,
    /// Which, and why, at most [`REFUSED_MAX`].
    pub refusals: Vec<Refused>,
}

/// What was not taken as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// The file, below the directory, or the document.
    pub what: String,
    /// Why.
    pub why: String,
}

impl ImportReport {
    fn refuse(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.refused += 1;
        if self.refusals.len() < REFUSED_MAX {
            self.refusals.push(Refused { what: what.into(), why: why.into() });
        }
    }
}

impl ExportReport {
    fn refuse(&mut self, what: String, why: String) {
        self.refused += 1;
        if self.refusals.len() < REFUSED_MAX {
            self.refusals.push(Refused { what, why });
        }
    }
}

/// A file that an export writes.
struct File {
    path: PathBuf,
    bytes: Vec<u8>,
    /// What a file of that name has, whoever wrote it: the heads of a snapshot.
    heads: Option<Vec<ChangeHash>>,
}

/// What became of a file.
enum Wrote {
    New,
    /// It was there, with the same state of the document.
    Nothing,
    /// Something else was there, and is left.
    Another,
}

/// A document's files.
struct Found {
    document: DocumentId,
    path: PathBuf,
}

impl DocStore {
    /// Takes in every document of a directory of automerge-repo's node filesystem storage (samod's is the same): each in one durable batch, merged with
    /// what is here. May be repeated, and what was cut off is completed by the next: what is here already is not stored twice. The directory is only
    /// read. Sync states are left: they cost a round trip each.
    ///
    /// Reads files on the caller's thread, one document at a time.
    ///
    /// # Errors
    /// `InvalidArgument` when there is no such directory, `Backend` when it cannot be read; those of the store. What is wrong with a document or a file is
    /// in the report.
    pub async fn import_directory(
        &self,
        root: &Path,
        now_unix_ms: u64,
        mut staged_id: impl FnMut() -> [u8; 16],
    ) -> Result<ImportReport> {
        let mut report = ImportReport::default();
        for found in find(root)? {
            report.documents += 1;
            let pieces = read(root, &found, &mut report)?;
            let salvaged = salvage(&pieces);
            for damaged in &salvaged.damaged {
                report.damaged += 1;
                let name = String::from_utf8_lossy(&damaged.piece.key).into_owned();
                report.refuse(name, damaged.reason());
            }
            match self.merge_in(found.document, &pieces, &salvaged, now_unix_ms, &mut staged_id).await? {
                Ok(0) => report.unchanged += 1,
                Ok(changes) => {
                    report.imported += 1;
                    report.changes += changes;
                }
                Err(why) => report.refuse(found.document.to_string(), why),
            }
        }
        Ok(report)
    }

    /// Adds to a document what is not here; answers how many changes that were, or why it is refused.
    pub(crate) async fn merge_in(
        &self,
        document: DocumentId,
        pieces: &[Piece],
        salvaged: &Salvaged,
        now_unix_ms: u64,
        staged_id: &mut impl FnMut() -> [u8; 16],
    ) -> Result<Result<u64, String>> {
        for _ in 0..ATTEMPTS_MAX {
            let loaded = self.load(document).await?;
            let (meta, bytes) = loaded.map_or((None, Vec::new()), |loaded| (Some(loaded.meta), loaded.bytes));
            let mut here = match load(&bytes) {
                Ok(here) => here,
                Err(why) => return Ok(Err(format!("what is here of it does not load: {why}"))),
            };
            let before = here.get_heads();
            if let Err(why) = absorb(&mut here, &salvaged.document.save()) {
                return Ok(Err(why));
            }
            let mut known = change_hashes(&bytes);
            let mut changes = here.get_changes(&before);
            // What waited here for what comes now is stored.
            changes.retain(|change| known.insert(change.hash()));
            changes.extend(orphans(&here, pieces, &mut known));
            let count = changes.len() as u64;
            if count == 0 && (meta.is_some() || pieces.is_empty()) {
                return Ok(Ok(0));
            }
            let append = Append { changes, now_unix_ms, staged_id: staged_id(), ..Append::default() };
            match self.append(document, meta.as_ref(), append, ()).await? {
                Appended::Applied { .. } => return Ok(Ok(count)),
                Appended::Behind { .. } => {}
                Appended::Deleted => return Ok(Err("it was deleted here".to_owned())),
            }
        }
        Err(busy(
            &self.shard(document).tenant,
            "the document is being written by too many at once; ask again",
        ))
    }

    /// Writes every document, or one, as a snapshot of a directory of automerge-repo's node filesystem storage, and what waits in it for others beside
    /// that. May be repeated: what is there is left as it is, and snapshots of other states are loaded together. Files are flushed, and their folders. Writes them on the caller's thread, one document at a time.
    ///
    /// # Errors
    /// `Backend` when a file cannot be written; those of the store. A document that does not load is in the report.
    pub async fn export_directory(&self, root: &Path, only: Option<DocumentId>) -> Result<ExportReport> {
        let mut report = ExportReport::default();
        let ids = match only {
            Some(document) => vec![document],
            None => self.documents().await?.iter().filter_map(|info| info.document.parse().ok()).collect(),
        };
        for document in ids {
            let loaded = match self.load(document).await {
                Ok(Some(loaded)) => load(&loaded.bytes),
                Ok(None) => continue,
                Err(error) if error.kind() == ErrorKind::Corrupt => Err(error.to_string()),
                Err(error) => return Err(error),
            };
            report.documents += 1;
            match loaded {
                Ok(loaded) => {
                    for file in files(root, document, &loaded)? {
                        match write_new(root, &file).map_err(|error| failed(&file.path, error))? {
                            Wrote::New => {
                                report.written += 1;
                                report.bytes += file.bytes.len() as u64;
                            }
                            Wrote::Nothing => {}
                            Wrote::Another => {
                                let path = file.path.strip_prefix(root).unwrap_or(&file.path);
                                let why = "a file of that name is there and does not read; move it away, and export again";
                                report.refuse(path.display().to_string(), why.to_owned());
                            }
                        }
                    }
                }
                Err(why) => report.refuse(document.to_string(), why),
            }
        }
        Ok(report)
    }
}

fn failed(path: &Path, error: io::Error) -> Error {
    Error::new(ErrorKind::Backend, format!("{}: {error}", path.display())).with_source(error)
}

/// Where a document's files lie.
fn folder(root: &Path, document: DocumentId) -> PathBuf {
    let id = document.to_string();
    let (first, rest) = id.split_at(2);
    root.join(first).join(rest)
}

/// The name of a snapshot, as automerge-repo makes it: SHA-256 of the heads in hexadecimal, one after the other.
fn heads_name(heads: &[ChangeHash]) -> String {
    let heads: String = heads.iter().map(ToString::to_string).collect();
    hex::encode(Sha256::digest(heads))
}

/// A document as a snapshot, and what waits in it for others as files of their own, named by what is in them: a snapshot's name tells
/// its heads, and so nothing of those.
fn files(root: &Path, document: DocumentId, loaded: &Automerge) -> Result<Vec<File>> {
    let folder = folder(root, document);
    let broken =
        |why: String| Error::new(ErrorKind::Corrupt, format!("automerge does not save {document:?}: {why}"));
    let saved = chunks::guarded(|| loaded.save()).map_err(broken)?;
    let heads = loaded.get_heads();
    let (mut snapshot, mut files) = (Vec::new(), Vec::new());
    for chunk in chunks::sift(&saved).whole {
        if chunk.kind == Kind::Document {
            snapshot.extend_from_slice(chunk.bytes);
            continue;
        }
        let path = folder.join("incremental").join(hex::encode(Sha256::digest(chunk.bytes)));
        files.push(File { path, bytes: chunk.bytes.to_vec(), heads: None });
    }
    let path = folder.join("snapshot").join(heads_name(&heads));
    files.insert(0, File { path, bytes: snapshot, heads: Some(heads) });
    Ok(files)
}

/// Writes a file that is not there, whole or not at all; one that is there is left as it is.
fn write_new(root: &Path, file: &File) -> io::Result<Wrote> {
    match fs::read(&file.path) {
        Ok(found) if found == file.bytes => return Ok(Wrote::Nothing),
        Ok(found) => {
            let same = load(&found).is_ok_and(|found| file.heads.as_ref() == Some(&found.get_heads()));
            return Ok(if same { Wrote::Nothing } else { Wrote::Another });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let folder = file.path.parent().unwrap_or(root);
    create_folders(folder)?;
    // Beside the folder of values, so that nobody takes what there is of it for one.
    let part = folder.with_extension("part");
    let mut writer = fs::File::create(&part)?;
    writer.write_all(&file.bytes)?;
    writer.sync_all()?;
    fs::rename(&part, &file.path)?;
    fs::File::open(folder)?.sync_all()?;
    Ok(Wrote::New)
}

/// Makes a folder and those above it, each with its entry on the disk.
fn create_folders(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = folder.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_folders(above)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs::File::open(above)?.sync_all()
}

/// How many documents [`DocStore::import_directory`] would find in a directory: to see that it is one of automerge-repo's before anything is
/// made for it.
///
/// # Errors
/// `InvalidArgument` when there is no such directory, `Backend` when it cannot be read.
pub fn documents_in(root: &Path) -> Result<u64> {
    Ok(find(root)?.len() as u64)
}

/// The documents of a directory, in the order of their names.
fn find(root: &Path) -> Result<Vec<Found>> {
    if !root.is_dir() {
        let message = format!("{} is no directory", root.display());
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    let mut all = Vec::new();
    for (first, folder) in entries(root)? {
        if first.len() != 2 || !folder.is_dir() {
            continue;
        }
        for (rest, path) in entries(&folder)? {
            // Others keep values of their own there, like the storage's id.
            if let (Ok(document), true) = (format!("{first}{rest}").parse(), path.is_dir()) {
                all.push(Found { document, path });
            }
        }
    }
    Ok(all)
}

/// Names and paths in a directory, sorted; none of one that is not there.
fn entries(path: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut entries = Vec::new();
    let read = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(entries),
        read => read.map_err(|error| failed(path, error))?,
    };
    for entry in read {
        let entry = entry.map_err(|error| failed(path, error))?;
        if let Ok(name) = entry.file_name().into_string() {
            entries.push((name, entry.path()));
        }
    }
    entries.sort();
    Ok(entries)
}

/// The values of a document.
fn read(root: &Path, found: &Found, report: &mut ImportReport) -> Result<Vec<Piece>> {
    let (mut pieces, mut total) = (Vec::new(), 0_u64);
    for kind in KINDS {
        for (_, path) in entries(&found.path.join(kind))? {
            let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            let size = match fs::metadata(&path) {
                // A compaction of the directory's owner took it away.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata.map_err(|error| failed(&path, error))?.len(),
            };
            total = total.saturating_add(size);
            if total > DOCUMENT_BYTES_MAX {
                report.refuse(
                    name,
                    format!("its document has more than {DOCUMENT_BYTES_MAX} bytes (DOCUMENT_BYTES_MAX)"),
                );
                continue;
            }
            let bytes = match fs::read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                bytes => bytes.map_err(|error| error.to_string()),
            };
            report.bytes += bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
            let snapshot = kind == "snapshot";
            pieces.push(Piece {
                snapshot,
                addressed: false,
                key: name.into_bytes(),
                payload: Vec::new(),
                bytes,
            });
        }
    }
    Ok(pieces)
}

/// The changes that are stored one by one.
fn change_hashes(stored: &[u8]) -> BTreeSet<ChangeHash> {
    chunks::sift(stored).whole.iter().filter_map(|chunk| Some(chunk.change()?.hash())).collect()
}

/// Changes that wait for others, and are not `known` to be stored: they come along.
fn orphans(here: &Automerge, pieces: &[Piece], known: &mut BTreeSet<ChangeHash>) -> Vec<Change> {
    let mut orphans = Vec::new();
    for bytes in pieces.iter().filter_map(|piece| piece.bytes.as_ref().ok()) {
        for change in chunks::sift(bytes).whole.iter().filter_map(chunks::Chunk::change) {
            if here.get_change_meta_by_hash(&change.hash()).is_none() && known.insert(change.hash()) {
                orphans.push(change);
            }
        }
    }
    orphans
}
