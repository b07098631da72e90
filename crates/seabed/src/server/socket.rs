//! `<root>/seabed.sock`: where a running server answers the commands of its owner.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// The name of the socket inside the root.
pub(crate) const NAME: &str = "seabed.sock";

/// The socket of a root, removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    owner: u32,
}

impl Socket {
    /// Listens on the socket of `root`. Only for who holds the root's lock: a socket that is there already is then a dead
    /// server's, and is replaced.
    pub(crate) fn bind(root: &Path) -> io::Result<Self> {
        let path = root.join(NAME);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = short(root, |short| UnixListener::bind(short))?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        let owner = std::fs::metadata(&path)?.uid();
        Ok(Self { listener, path, owner })
    }

    /// The next connection of the owner or of root. Others are dropped: they can only have come between the binding and the
    /// setting of its mode.
    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            let peer = stream.peer_cred()?.uid();
            if peer == self.owner || peer == 0 {
                return Ok(stream);
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Who finds it later replaces it.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Connects to the server of `root`.
pub(crate) fn connect(root: &Path) -> io::Result<UnixStream> {
    // Connecting to a socket does not wait: it is there and listens, or it fails.
    let stream = short(root, |short| std::os::unix::net::UnixStream::connect(short))?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// Calls with a path to the socket that is short: the kernel takes at most 107 bytes, and roots may be longer.
fn short<T>(root: &Path, call: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let path = root.join(NAME);
    if path.as_os_str().len() < 100 {
        return call(&path);
    }
    let directory = File::open(root)?;
    call(&PathBuf::from(format!("/proc/self/fd/{}/{NAME}", directory.as_raw_fd())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_long_root_and_a_dead_socket_are_no_obstacle() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().join("x".repeat(120));
        std::fs::create_dir(&root).unwrap();
        // A server that was killed leaves its socket behind.
        drop(short(&root, |path| std::os::unix::net::UnixListener::bind(path)).unwrap());
        assert!(connect(&root).is_err());

        let socket = Socket::bind(&root).unwrap();
        let _connected = connect(&root).unwrap();
        assert!(socket.accept().await.is_ok());
        let mode = std::fs::metadata(root.join(NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(socket);
        assert!(!root.join(NAME).exists());
    }
}
