//! A new root out of copies. Until the last one is in its place and everything is flushed, nobody can open it.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::root::{self, LOCK_FILE, RESTORING_FILE, RootLock, cannot};
use super::schema::sync_directory;
use crate::{Error, ErrorKind, Result, TenantId};

/// A root that is being filled with [copies](crate::Tenant::backup) of tenants.
///
/// ```
/// # use seabed_kv::{Store, sqlite::Restore};
/// # let directory = tempfile::tempdir().unwrap();
/// # let store = Store::sqlite(directory.path().join("data"))?;
/// # let (copy, root) = (directory.path().join("copy"), directory.path().join("new"));
/// # store.open("notes").wait()?.put("note", b"1", b"hello").wait()?;
/// # store.open("notes").wait()?.backup(&copy, None).wait()?;
/// let restore = Restore::begin(&root)?;
/// restore.add(&"notes".parse()?, &copy)?;
/// assert!(Store::sqlite(&root)?.open("notes").wait().is_err(), "not yet");
/// restore.finish()?;
/// let restored = Store::sqlite(&root)?.open("notes").wait()?;
/// assert_eq!(restored.get("note", b"1").wait()?, Some(b"hello".to_vec()));
/// # store.close().wait()?;
/// # Ok::<(), seabed_kv::Error>(())
/// ```
#[derive(Debug)]
pub struct Restore {
    root: PathBuf,
    _lock: RootLock,
}

impl Restore {
    /// Makes the root and marks it, so that it cannot be opened before [`finish`](Restore::finish). What a restore that was
    /// interrupted has left in it is removed.
    ///
    /// # Errors
    /// `InvalidArgument` when something else is there, `Busy` when another process owns it, `Unsupported` on a network file
    /// system, `Backend` when it cannot be made.
    pub fn begin(root: &Path) -> Result<Self> {
        let root = std::path::absolute(root).map_err(|error| cannot("resolve", root, error))?;
        // Before anything is made in a place that is not ours, and again once nobody else can make anything there.
        leftovers(&root)?;
        let lock = root::lock(&root)?;
        for path in leftovers(&root)? {
            std::fs::remove_file(&path).map_err(|error| cannot("remove", &path, error))?;
        }
        let marker = root.join(RESTORING_FILE);
        let marked = File::create(&marker).and_then(|file| file.sync_all());
        marked.map_err(|error| cannot("mark", &marker, error))?;
        sync_directory(&marker)?;
        Ok(Self { root, _lock: lock })
    }

    /// Puts a tenant in its place, flushed, and answers where that is. The copy is taken as it is: verify it there, with
    /// [`Store::sqlite_files`](crate::Store::sqlite_files).
    ///
    /// # Errors
    /// `InvalidArgument` when the tenant is there already, `Backend` when the copy cannot be read or the file not be written.
    pub fn add(&self, id: &TenantId, copy: &Path) -> Result<PathBuf> {
        let place = self.root.join(id.file_name());
        let copied = || {
            let mut from = File::open(copy)?;
            let mut to = create_private(&place)?;
            std::io::copy(&mut from, &mut to)?;
            to.sync_all()
        };
        match copied() {
            Ok(()) => Ok(place),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let message = format!("{} is there already; each tenant is restored once", place.display());
                Err(Error::invalid(message).in_tenant(id))
            }
            Err(error) => {
                let message = format!("cannot copy {} to {}: {error}", copy.display(), place.display());
                Err(Error::new(ErrorKind::Backend, message).with_source(error).in_tenant(id))
            }
        }
    }

    /// Makes the root one that can be opened.
    ///
    /// # Errors
    /// `Backend` when it cannot be flushed. Unless the mark is gone already, the restore is then to be done again.
    pub fn finish(self) -> Result<()> {
        let marker = self.root.join(RESTORING_FILE);
        // The tenants first: without its mark the root must have all of them, after a power cut too.
        sync_directory(&marker)?;
        std::fs::remove_file(&marker).map_err(|error| cannot("remove", &marker, error))?;
        sync_directory(&marker)
    }
}

/// Makes a file that only its owner may read, as the copy is.
fn create_private(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// The tenants that an interrupted restore has left; none in a directory that is new or empty.
fn leftovers(root: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(cannot("list", root, error)),
    };
    let interrupted = root.join(RESTORING_FILE).exists();
    let mut leftovers = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| cannot("list", root, error))?.file_name();
        if name == LOCK_FILE || name == RESTORING_FILE {
            continue;
        }
        if !interrupted || name.to_str().and_then(TenantId::from_file_name).is_none() {
            return Err(Error::invalid(format!(
                "{} is not empty: it holds {}; restore into a new directory",
                root.display(),
                name.display()
            )));
        }
        leftovers.push(root.join(name));
    }
    Ok(leftovers)
}
