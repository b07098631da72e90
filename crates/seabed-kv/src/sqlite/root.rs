//! The root directory: made with its first tenant, owned by one process, on a disk of this machine.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use crate::{Error, ErrorKind, Result};

/// The file whose lock owns the root.
pub(super) const LOCK_FILE: &str = "LOCK";

/// The file that marks a root whose restore has not ended.
pub(super) const RESTORING_FILE: &str = "RESTORING";

/// The lock of a root, held until every file below it is closed.
#[derive(Debug)]
pub(crate) struct RootLock(#[allow(dead_code, reason = "the lock lasts as long as the file is open")] File);

/// Checks that `root` can be a directory, touching nothing.
pub(super) fn check(root: &Path) -> Result<()> {
    if root.as_os_str().is_empty() {
        return Err(Error::invalid("the root of the store is empty; give it a directory"));
    }
    for ancestor in root.ancestors() {
        match std::fs::metadata(ancestor) {
            Ok(found) if found.is_dir() => return Ok(()),
            Ok(_) => {
                let message = format!(
                    "{} cannot be the root of a store: {} is not a directory",
                    root.display(),
                    ancestor.display()
                );
                return Err(Error::invalid(message));
            }
            // Nothing here yet, or a file in the way further up.
            Err(_) => {}
        }
    }
    Ok(())
}

/// Makes the root and takes its lock, unless it holds a part of a backup.
pub(super) fn own(root: &Path) -> Result<RootLock> {
    let owned = lock(root)?;
    if root.join(RESTORING_FILE).exists() {
        let message = format!(
            "the restore into {} has not ended, so tenants may be missing; run it again, into the same directory",
            root.display()
        );
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    Ok(owned)
}

/// Makes the root and takes its lock.
pub(super) fn lock(root: &Path) -> Result<RootLock> {
    check(root)?;
    create_directory(root)?;
    refuse_network(root)?;
    let path = root.join(LOCK_FILE);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| cannot("open", &path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(RootLock(file)),
        Err(TryLockError::WouldBlock) => {
            let message = format!(
                "{} is in use by another process, which holds its {LOCK_FILE}; stop that one first",
                root.display()
            );
            Err(Error::new(ErrorKind::Busy, message))
        }
        Err(TryLockError::Error(error)) => Err(cannot("lock", &path, error)),
    }
}

/// Makes a directory that only its owner may look into, and each missing one above it, and makes their entries durable: what is flushed
/// into it later is then there after a power cut. One that is there stays as it is.
///
/// ```
/// let place = tempfile::tempdir()?;
/// let directory = place.path().join("backups/monday");
/// seabed_kv::sqlite::create_directory(&directory)?;
/// assert!(directory.is_dir());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// `Backend` when it cannot be made or flushed: make it, or let this user.
pub fn create_directory(root: &Path) -> Result<()> {
    let missing: Vec<&Path> =
        root.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    // What is stored may be a credential, as TaskChampion's client ids are.
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(root).map_err(|error| cannot("make", root, error))?;
    for made in missing {
        let parent = match made.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        File::open(&parent)
            .and_then(|parent| parent.sync_all())
            .map_err(|error| cannot("flush", &parent, error))?;
    }
    Ok(())
}

/// A network file system has neither the shared memory nor the locks that the log needs.
fn refuse_network(root: &Path) -> Result<()> {
    #[cfg(target_os = "linux")]
    {
        let found = rustix::fs::statfs(root).map_err(|error| cannot("examine", root, error.into()))?;
        refuse_network_magic(root, u32::try_from(found.f_type & 0xFFFF_FFFF).unwrap_or(0))?;
    }
    Ok(())
}

/// Judges the number by which Linux knows the file system.
#[cfg(target_os = "linux")]
fn refuse_network_magic(root: &Path, magic: u32) -> Result<()> {
    // From linux/magic.h.
    const NETWORK: [(u32, &str); 8] = [
        (0x6969, "NFS"),
        (0xFF53_4D42, "CIFS"),
        (0xFE53_4D42, "SMB2"),
        (0x517B, "SMB"),
        (0x0102_1997, "9p"),
        (0x5346_414F, "AFS"),
        (0x00C3_6400, "Ceph"),
        (0x0BD0_0BD0, "Lustre"),
    ];
    let Some((_, name)) = NETWORK.iter().find(|(network, _)| *network == magic) else { return Ok(()) };
    let message = format!(
        "{} is on a network file system ({name}); put the store on a disk of this machine",
        root.display()
    );
    Err(Error::new(ErrorKind::Unsupported, message))
}

pub(super) fn cannot(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Backend, format!("cannot {what} {}: {error}", path.display())).with_source(error)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_refused_by_name_and_disks_are_not() {
        for (magic, name) in [
            (0x6969, "NFS"),
            (0xFF53_4D42, "CIFS"),
            (0xFE53_4D42, "SMB2"),
            (0x0102_1997, "9p"),
            (0x00C3_6400, "Ceph"),
        ] {
            let error = refuse_network_magic(Path::new("/srv/data"), magic).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            let said = error.to_string();
            assert!(said.contains("/srv/data") && said.contains(&format!("({name})")), "{said}");
        }
        // ext4, xfs, btrfs, tmpfs, overlayfs, zfs.
        for magic in [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0x794C_7630, 0x2FC1_2FC1] {
            refuse_network_magic(Path::new("/srv/data"), magic).unwrap();
        }
        // And the one that these tests run on is asked.
        let root = tempfile::tempdir().unwrap();
        refuse_network(root.path()).unwrap();
    }
}
