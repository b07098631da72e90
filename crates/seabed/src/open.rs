//! From a URL to a store. The one place that names a backend.

use std::path::{Path, PathBuf};

use seabed_kv::{ErrorKind, Store};

use crate::backup::manifest;
use crate::node::Node;
use crate::output::Exit;
use crate::own;
use crate::store_url::StoreUrl;

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
    let missing = url.root().is_some_and(|root| !root.is_dir());
    if missing || store(url)?.list().await?.is_empty() {
        return Err(Exit::usage(format!(
            "there is no store in {}; name another with --store or --data-dir",
            url.absolute()
        )));
    }
    own(url, verb).await
}

/// The directory as an absolute path, for messages; it need not exist.
pub(crate) fn absolute(root: &Path) -> PathBuf {
    root.canonicalize().or_else(|_| std::path::absolute(root)).unwrap_or_else(|_| root.to_owned())
}
