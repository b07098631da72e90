//! The tenant of the program itself, `seabed`: what it has imported, and that it can write.

use std::collections::BTreeSet;
use std::path::Path;

use seabed_kv::{Batch, Durability, Error, ErrorKind, Store, Tenant};

/// Its id.
pub(crate) const TENANT: &str = "seabed";

/// What wrote it: four bytes of version, then the program, as every layer's.
const FORMAT: &str = "seabed.format";
const FORMAT_VERSION: u32 = 1;
/// A row for each foreign file whose last import has ended well: under where it is, which of its clients were left out.
const IMPORTED: &str = "seabed.imported";
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
/// there. Makes nothing in a directory that holds no store. `root` is the directory of the store; both are canonical.
///
/// # Errors
/// Those of the store.
pub(crate) async fn imported(
    store: &Store,
    root: &Path,
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
pub(crate) async fn forget_import(store: &Store, root: &Path, file: &Path) -> Result<(), Error> {
    open(store).await?.delete(IMPORTED, import_key(root, file)).await?;
    Ok(())
}

/// Remembers that the import of the file has ended well, and which of its clients it left out.
///
/// # Errors
/// Those of the store.
pub(crate) async fn remember_import(
    store: &Store,
    root: &Path,
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

/// Where the file is; seen from the store when it lies in there, so that both may be moved together.
fn import_key(root: &Path, file: &Path) -> Vec<u8> {
    file.strip_prefix(root).unwrap_or(file).as_os_str().as_encoded_bytes().to_vec()
}

/// Writes a row, durably. `now_ms` makes it another one than the last: bytes that do not change are not written.
///
/// # Errors
/// Those of the store: it takes no writes.
pub(crate) async fn write(tenant: &Tenant, now_ms: u64) -> Result<(), Error> {
    tenant.put(READY, b"", now_ms.to_be_bytes()).await
}
