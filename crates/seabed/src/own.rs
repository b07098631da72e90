//! The tenant of the program itself, `seabed`: what it has imported, and that it can write.

use std::path::Path;

use seabed_kv::{Batch, Durability, Error, ErrorKind, Store, Tenant};

/// Its id.
pub(crate) const TENANT: &str = "seabed";

/// What wrote it: four bytes of version, then the program, as every layer's.
const FORMAT: &str = "seabed.format";
const FORMAT_VERSION: u32 = 1;
/// A row for each foreign file that was imported: under its name, where it was.
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

/// Whether the store has imported a file of that name. Makes nothing in a directory that holds no store.
///
/// # Errors
/// Those of the store.
pub(crate) async fn has_imported(store: &Store, file: &str) -> Result<bool, Error> {
    if !store.list().await?.iter().any(|id| id.as_str() == TENANT) {
        return Ok(false);
    }
    open(store).await?.exists(IMPORTED, file).await
}

/// Remembers that the store has imported a file of that name, and where it was.
///
/// # Errors
/// Those of the store.
pub(crate) async fn remember_import(store: &Store, file: &str, path: &Path) -> Result<(), Error> {
    open(store).await?.put(IMPORTED, file, path.display().to_string()).await
}

/// Writes a row, durably. `now_ms` makes it another one than the last: bytes that do not change are not written.
///
/// # Errors
/// Those of the store: it takes no writes.
pub(crate) async fn write(tenant: &Tenant, now_ms: u64) -> Result<(), Error> {
    tenant.put(READY, b"", now_ms.to_be_bytes()).await
}
