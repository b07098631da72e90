//! From a URL to a store. The one place that names a backend.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use seabed_kv::{ErrorKind, Store, TenantId};
use seabed_taskchampion::ORIGINAL_FILE;

use crate::backup::manifest;
use crate::node::{Node, layer};
use crate::output::Exit;
use crate::own;
use crate::server::socket;
use crate::store_url::StoreUrl;

/// What lies beside tenants, and says nothing about whose directory it is: the kernel's files, the socket, what a file system keeps for
/// itself. Hidden files do not, either.
const BESIDE: [&str; 4] = ["LOCK", "RESTORING", socket::NAME, "lost+found"];
/// How many files of somebody else an error names.
const NAMED_MAX: usize = 3;

/// The store of that URL. Nothing is read or created yet.
pub(crate) fn store(url: &StoreUrl) -> anyhow::Result<Store> {
    let root = match url {
        StoreUrl::Sqlite(root) => root,
        StoreUrl::Memory => return Ok(Store::memory()),
        StoreUrl::Postgres(url) => return Ok(Store::postgres(url)?),
    };
    // Its copies look like tenants, and opened as such they would be written to.
    if root.join(manifest::FILE).exists() {
        return Err(Exit::usage(format!(
            "{} is a backup: check it with `seabed verify --backup`, or make a store out of it with `seabed restore`",
            absolute(root).display()
        )));
    }
    Ok(Store::sqlite(root)?)
}

/// The store, owned by this process, where one process owns it: for what nobody may be served beside. `verb` is what is to be done.
///
/// # Errors
/// When a server, or another command, owns it; when a copy into it has not ended, or a part of it is lost.
pub(crate) async fn own(url: &StoreUrl, verb: &str) -> anyhow::Result<Node> {
    let node = own_unfinished(url, verb)?;
    own::refuse_copying(&node.store, &node.url).await?;
    own::refuse_missing(&node.store).await?;
    Ok(node)
}

/// The same, also when a copy into it has not ended.
///
/// # Errors
/// When a server, or another command, owns it.
pub(crate) fn own_unfinished(url: &StoreUrl, verb: &str) -> anyhow::Result<Node> {
    let store = store(url)?;
    refuse_foreign(url)?;
    store.own().map_err(|error| match error.kind() {
        ErrorKind::Busy if url.root().is_some() => anyhow::anyhow!(
            "cannot {verb} while a server, or another command, works on the store in {}; stop it, and run this again",
            url.absolute()
        ),
        _ => error.into(),
    })?;
    // Only now: the directory may just have been made.
    Ok(Node::new(store, url.absolute()))
}

/// The same, of a store that is there: one that is not is never made.
///
/// # Errors
/// As [`own()`]; exit code 2 when there is none.
pub(crate) async fn own_existing(url: &StoreUrl, verb: &str) -> anyhow::Result<Node> {
    refuse_absent(url).await?;
    own(url, verb).await
}

/// What a directory is.
enum Found {
    Nothing,
    Empty,
    /// A store; or the directory of the original server, which a store may lie in.
    Ours,
    /// Somebody else's: the names of what is in it, for people.
    Foreign(String),
}

/// Looks at what is in a directory.
///
/// # Errors
/// Exit code 2 when this user may not.
fn look(root: &Path) -> anyhow::Result<Found> {
    let listed = std::fs::read_dir(root).and_then(|entries| {
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()
    });
    let mut names = match listed {
        Ok(names) => names,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Found::Nothing);
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(Exit::usage(format!(
                "cannot look into {}: permission denied; run this as the user of the server, to whom it belongs",
                absolute(root).display()
            )));
        }
        Err(error) => return Err(error).with_context(|| format!("cannot list {}", absolute(root).display())),
    };
    // A program that embeds the kernel calls its tenants what it likes; the lock tells that they are a store's.
    let locked = names.iter().any(|name| name == "LOCK");
    let is_tenant =
        |name: &str| TenantId::from_file_name(name).is_some_and(|id| locked || layer(&id).is_some());
    if names.iter().any(|name| is_tenant(name) || name.starts_with(ORIGINAL_FILE)) {
        return Ok(Found::Ours);
    }
    names.retain(|name| !name.starts_with('.') && !BESIDE.contains(&name.as_str()));
    if names.is_empty() {
        return Ok(Found::Empty);
    }
    names.sort();
    let more = names.len().saturating_sub(NAMED_MAX);
    names.truncate(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Ok(Found::Foreign(names.join(", ") + &more))
}

/// Refuses a directory in which something else lives: a store that is made there would lie among its files.
///
/// # Errors
/// Exit code 2, naming them; when this user may not look.
pub(crate) fn refuse_foreign(url: &StoreUrl) -> anyhow::Result<()> {
    match url.root().map(look).transpose()? {
        Some(Found::Foreign(names)) => Err(Exit::usage(format!(
            "{} holds no store, but something else ({names}); name a new or empty directory, such as {}",
            url.absolute(),
            absolute(url.root().unwrap_or(Path::new(""))).join("seabed-data").display()
        ))),
        _ => Ok(()),
    }
}

/// Refuses a place that holds no store: what only looks never makes one.
///
/// # Errors
/// Exit code 2; also when this user may not look. Those of the store.
pub(crate) async fn refuse_absent(url: &StoreUrl) -> anyhow::Result<()> {
    let why = match url.root().map(look).transpose()? {
        Some(Found::Nothing) => ": no such directory".to_owned(),
        Some(Found::Foreign(names)) => {
            // A backup says so itself.
            store(url)?;
            format!(", but something else ({names})")
        }
        _ if store(url)?.list().await?.is_empty() => String::new(),
        _ => return Ok(()),
    };
    let place = url.absolute();
    Err(Exit::usage(format!(
        "there is no store in {place}{why}; name another, or start one with `seabed serve`"
    )))
}

/// The directory as an absolute path, for messages; it need not exist.
pub(crate) fn absolute(root: &Path) -> PathBuf {
    root.canonicalize().or_else(|_| std::path::absolute(root)).unwrap_or_else(|_| root.to_owned())
}
