//! The tenant of the program itself, `seabed`: what it has imported, and that it can write.

use std::collections::BTreeSet;
use std::path::Path;

use seabed_kv::{Batch, Durability, Error, ErrorKind, Store, Tenant};

use crate::copy::Place;
use crate::output::Exit;
use crate::store_url::StoreUrl;

/// Its id.
pub(crate) const TENANT: &str = "seabed";

/// What wrote it: four bytes of version, then the program, as every layer's.
const FORMAT: &str = "seabed.format";
const FORMAT_VERSION: u32 = 1;
/// A row for each foreign file whose last import has ended well: under where it is, which of its clients were left out.
const IMPORTED: &str = "seabed.imported";
/// The row of a store that is being copied into: how far it is.
const COPYING: &str = "seabed.copying";
/// The row that is written to find out whether rows can be written.
const READY: &str = "seabed.ready";

/// Opens it, making it in a new store.
///
/// # Errors
/// Those of the store; `Unsupported` for one of a later version.
pub(crate) async fn open(store: &Store) -> Result<Tenant, Error> {
    let tenant = store.open(TENANT).await?;
    let Some(row) = tenant.get(FORMAT, b"").await? else {
        let row = [FORMAT_VERSION.to_be_bytes().as_slice(), writer().as_bytes()].concat();
        let mut batch = Batch::new();
        batch.check_absent(FORMAT, b"").put(FORMAT, b"", row);
        tenant.apply(batch, Durability::Durable).await?;
        return Ok(tenant);
    };
    match row.split_first_chunk() {
        Some((version, _)) if u32::from_be_bytes(*version) == FORMAT_VERSION => Ok(tenant),
        Some((version, by)) => Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "its format is {}, written by '{}'; this is {}, which reads format {FORMAT_VERSION}: use that version or a later one",
                u32::from_be_bytes(*version),
                String::from_utf8_lossy(by),
                writer(),
            ),
        )
        .in_tenant(tenant.id())),
        None => Err(Error::new(ErrorKind::Corrupt, format!("the row of {FORMAT} is damaged; restore from a backup"))
            .in_tenant(tenant.id())),
    }
}

/// This program, as it signs what it writes.
pub(crate) fn writer() -> String {
    format!("seabed {}", env!("CARGO_PKG_VERSION"))
}

/// Whether the last import of that file has ended well; then the clients that it left out knowingly, under the names that they have
/// there. Makes nothing in a directory that holds no store. `root` is the directory of the store, when it has one; both are canonical.
///
/// # Errors
/// Those of the store.
pub(crate) async fn imported(
    store: &Store,
    root: Option<&Path>,
    file: &Path,
) -> Result<Option<BTreeSet<String>>, Error> {
    if !store.list().await?.iter().any(|id| id.as_str() == TENANT) {
        return Ok(None);
    }
    let row = open(store).await?.get(IMPORTED, import_key(root, file)).await?;
    // One that does not read, as an earlier build wrote them, is none: importing again is all that it takes.
    Ok(row.and_then(|row| serde_json::from_slice(&row).ok()))
}

/// Forgets that the file was imported: until the import that now begins has ended, what is here may be a part of it.
///
/// # Errors
/// Those of the store.
pub(crate) async fn forget_import(store: &Store, root: Option<&Path>, file: &Path) -> Result<(), Error> {
    open(store).await?.delete(IMPORTED, import_key(root, file)).await?;
    Ok(())
}

/// Remembers that the import of the file has ended well, and which of its clients it left out.
///
/// # Errors
/// Those of the store.
pub(crate) async fn remember_import(
    store: &Store,
    root: Option<&Path>,
    file: &Path,
    left_out: &[String],
) -> Result<(), Error> {
    let row = serde_json::to_vec(left_out).map_err(|error| {
        Error::new(
            ErrorKind::InvalidArgument,
            "the names of the clients that were left out cannot be written",
        )
        .with_source(error)
    })?;
    open(store).await?.put(IMPORTED, import_key(root, file), row).await
}

/// Whether a store may have rows of that category, in this tenant, that are about itself alone: another one does not get them.
pub(crate) fn is_bookkeeping(category: &[u8]) -> bool {
    [FORMAT, READY, COPYING].iter().any(|ours| ours.as_bytes() == category)
}

/// How far the copy into this store is; `None` when none is under way. Makes nothing in a store that holds nothing.
///
/// # Errors
/// Those of the store; `Corrupt` when the row does not read.
pub(crate) async fn copying(store: &Store) -> Result<Option<Place>, Error> {
    if !store.list().await?.iter().any(|id| id.as_str() == TENANT) {
        return Ok(None);
    }
    let tenant = store.open(TENANT).await?;
    let Some(row) = tenant.get(COPYING, b"").await? else { return Ok(None) };
    serde_json::from_slice(&row).map(Some).map_err(|error| {
        let message = format!("the row of {COPYING} is damaged; empty the store, and copy into it again");
        Error::new(ErrorKind::Corrupt, message).in_tenant(tenant.id()).with_source(error)
    })
}

/// Notes how far the copy into this store is, durably; or that it has ended.
///
/// # Errors
/// Those of the store.
pub(crate) async fn set_copying(store: &Store, place: Option<&Place>) -> Result<(), Error> {
    let tenant = open(store).await?;
    let Some(place) = place else { return tenant.delete(COPYING, b"").await.map(|_| ()) };
    let row = serde_json::to_vec(place).map_err(|error| {
        Error::new(ErrorKind::InvalidArgument, "the place of a copy cannot be written").with_source(error)
    })?;
    tenant.put(COPYING, b"", row).await
}

/// Refuses a store that is a part of another one so far.
///
/// # Errors
/// Exit code 2, when a copy into it has not ended; those of the store.
pub(crate) async fn refuse_copying(store: &Store, url: &StoreUrl) -> anyhow::Result<()> {
    match copying(store).await? {
        None => Ok(()),
        Some(Place { source, .. }) => Err(Exit::usage(format!(
            "the copy of {source} into {url} has not ended; run `seabed copy` again, and it goes on where it stopped"
        ))),
    }
}

/// Where the file is; seen from the store when it lies in there, so that both may be moved together.
fn import_key(root: Option<&Path>, file: &Path) -> Vec<u8> {
    root.and_then(|root| file.strip_prefix(root).ok()).unwrap_or(file).as_os_str().as_encoded_bytes().to_vec()
}

/// Writes a row, durably. `now_ms` makes it another one than the last: bytes that do not change are not written.
///
/// # Errors
/// Those of the store: it takes no writes.
pub(crate) async fn write(tenant: &Tenant, now_ms: u64) -> Result<(), Error> {
    tenant.put(READY, b"", now_ms.to_be_bytes()).await
}
