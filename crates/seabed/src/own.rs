//! The tenant of the program itself, `seabed`: which store this is, what must be in it, what it has imported, and that it can write.

use std::collections::BTreeSet;
use std::path::Path;

use seabed_kv::spread::{Spread, shards_from_bytes, shards_to_bytes};
use seabed_kv::{Batch, Durability, Error, ErrorKind, KeyRange, Outcome, ScanSpec, Store, Tenant, TenantId};
use uuid::Uuid;

use crate::copy::Place;
use crate::output::Exit;
use crate::store_url::StoreUrl;
use crate::tokens;

/// Its id.
pub(crate) const TENANT: &str = "seabed";

/// What wrote it: four bytes of version, then the program, as every layer's.
const FORMAT: &str = "seabed.format";
const FORMAT_VERSION: u32 = 1;
/// Which store this is: sixteen random bytes, from its first batch on. A restored one keeps them, a copy has its own.
const STORE: &str = "seabed.store";
/// A row for each layer that has shards here, under the layer's name: how many. A shard that is not there is lost then, and not new.
const LAYER: &str = "seabed.layer";
/// A row for each foreign file whose last import has ended well: under where it is, which of its clients were left out.
const IMPORTED: &str = "seabed.imported";
/// The row of a store that is being copied into: how far it is.
const COPYING: &str = "seabed.copying";
/// The row that is written to find out whether rows can be written.
const READY: &str = "seabed.ready";

/// The layers whose shards the program makes.
pub(crate) const LAYERS: [&Spread; 2] = [&seabed_automerge::SPREAD, &seabed_taskchampion::SPREAD];

/// How many findings of this tenant are spelled out.
const FINDINGS_MAX: usize = 1_000;

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
        batch.check_absent(STORE, b"").put(STORE, b"", *Uuid::new_v4().as_bytes());
        tenant.apply(batch, Durability::Durable).await?;
        return Ok(tenant);
    };
    match row.split_first_chunk() {
        Some((version, _)) if u32::from_be_bytes(*version) == FORMAT_VERSION => {
            give_id(&tenant).await?;
            Ok(tenant)
        }
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

/// One that an earlier version made has no id yet.
async fn give_id(tenant: &Tenant) -> Result<(), Error> {
    if tenant.exists(STORE, b"").await? {
        return Ok(());
    }
    let mut batch = Batch::new();
    batch.check_absent(STORE, b"").put(STORE, b"", *Uuid::new_v4().as_bytes());
    unless_full(tenant.apply(batch, Durability::Durable).await)
}

/// What is only noted can wait until there is room.
fn unless_full(noted: Result<Outcome, Error>) -> Result<(), Error> {
    match noted {
        Err(error) if error.is_disk_full() => {
            tracing::warn!(%error, "a row of the program's own was not written; the next start does it");
            Ok(())
        }
        noted => noted.map(drop),
    }
}

/// Which store this is; `None` when the program has written nothing into it.
///
/// # Errors
/// Those of the store; `Corrupt` for a row that is no id.
pub(crate) async fn store_id(store: &Store) -> Result<Option<Uuid>, Error> {
    if !store.list().await?.iter().any(|id| id.as_str() == TENANT) {
        return Ok(None);
    }
    let tenant = open(store).await?;
    let Some(row) = tenant.get(STORE, b"").await? else { return Ok(None) };
    Uuid::from_slice(&row).map(Some).map_err(|error| {
        let message = format!("the row of {STORE} is damaged; restore from a backup");
        Error::new(ErrorKind::Corrupt, message).in_tenant(tenant.id()).with_source(error)
    })
}

/// Remembers that a layer has shards here, so that a lost one is not taken for one that never was.
///
/// # Errors
/// Those of the store; `Corrupt` when its first shard is missing.
pub(crate) async fn remember_layer(store: &Store, spread: &Spread) -> Result<(), Error> {
    let tenant = open(store).await?;
    if tenant.exists(LAYER, spread.layer).await? {
        return Ok(());
    }
    let Some(shards) = spread.count(store).await? else { return Ok(()) };
    let mut batch = Batch::new();
    batch.check_absent(LAYER, spread.layer).put(LAYER, spread.layer, shards_to_bytes(shards));
    unless_full(tenant.apply(batch, Durability::Durable).await)
}

/// Forgets it, because the layer is to be as if it never was here.
///
/// # Errors
/// Those of the store.
pub(crate) async fn forget_layer(store: &Store, spread: &Spread) -> Result<(), Error> {
    open(store).await?.delete(LAYER, spread.layer).await.map(drop)
}

/// The shards that were made here and are not here any more, with what is to be said of each. Makes nothing.
///
/// # Errors
/// Those of the store; `Corrupt` for a row that does not read.
pub(crate) async fn missing_shards(store: &Store) -> Result<Vec<(TenantId, Error)>, Error> {
    let mut missing = Vec::new();
    for spread in LAYERS {
        let Some(shards) = remembered(store, spread).await? else { continue };
        let there = spread.numbers(store).await?;
        for number in (0..shards).filter(|number| !there.contains(number)) {
            missing.push((spread.tenant_id(number).parse()?, spread.missing(number)));
        }
    }
    Ok(missing)
}

/// Refuses a store that has lost a layer: an empty one in its place would tell every device that what it has never was.
///
/// # Errors
/// `Corrupt`, naming the shard; those of the store.
pub(crate) async fn refuse_missing(store: &Store) -> Result<(), Error> {
    for spread in LAYERS {
        refuse_missing_of(store, spread).await?;
    }
    Ok(())
}

/// The same, of one layer.
///
/// # Errors
/// As [`refuse_missing`].
pub(crate) async fn refuse_missing_of(store: &Store, spread: &Spread) -> Result<(), Error> {
    if remembered(store, spread).await?.is_some() && spread.count(store).await?.is_none() {
        return Err(spread.missing(0));
    }
    Ok(())
}

/// How many shards a layer had when it was opened here first; `None` when it never was.
async fn remembered(store: &Store, spread: &Spread) -> Result<Option<u16>, Error> {
    if !store.list().await?.iter().any(|id| id.as_str() == TENANT) {
        return Ok(None);
    }
    let tenant = store.open(TENANT).await?;
    let Some(row) = tenant.get(LAYER, spread.layer).await? else { return Ok(None) };
    shards_from_bytes(&row).map(Some).ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, format!("the row of {LAYER} is damaged; restore from a backup"))
            .in_tenant(tenant.id())
    })
}

/// What is wrong with the rows of this tenant, a sentence each.
///
/// # Errors
/// Those of the store's reads.
pub(crate) async fn verify(tenant: &Tenant) -> Result<Vec<String>, Error> {
    let mut findings = Vec::new();
    if !tenant.exists(FORMAT, b"").await? {
        findings.push(format!("the row of {FORMAT} is missing"));
    }
    for category in [FORMAT, STORE, LAYER, IMPORTED, COPYING, READY, tokens::TOKEN] {
        let mut rows = tenant.scan(ScanSpec::new(category, KeyRange::all()));
        while let Some(row) = rows.next().await {
            let row = row?;
            if !reads(category, row.key.as_bytes(), &row.payload) && findings.len() < FINDINGS_MAX {
                let key = row.key.as_bytes().escape_ascii();
                findings.push(format!("the row '{key}' of {category} does not read"));
            }
        }
    }
    Ok(findings)
}

/// Whether a row is what its category says.
fn reads(category: &str, key: &[u8], payload: &[u8]) -> bool {
    match category {
        FORMAT => {
            let version = payload.first_chunk().map(|version| u32::from_be_bytes(*version));
            key.is_empty() && version == Some(FORMAT_VERSION)
        }
        STORE => key.is_empty() && payload.len() == 16,
        LAYER => shards_from_bytes(payload).is_some(),
        // Earlier builds left both empty.
        IMPORTED => payload.is_empty() || serde_json::from_slice::<BTreeSet<String>>(payload).is_ok(),
        COPYING => key.is_empty() && serde_json::from_slice::<Place>(payload).is_ok(),
        READY => key.is_empty() && matches!(payload.len(), 0 | 8),
        _ => tokens::reads(key, payload),
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
    [FORMAT, READY, COPYING, STORE, LAYER].iter().any(|ours| ours.as_bytes() == category)
}

/// The note of the copy into this store; `None` when none is under way. Makes nothing in a store that holds nothing.
///
/// # Errors
/// Those of the store; `Corrupt` when the row does not read.
pub(crate) async fn copying(store: &Store) -> Result<Option<Note>, Error> {
    if !store.list().await?.iter().any(|id| id.as_str() == TENANT) {
        return Ok(None);
    }
    copying_into(&store.open(TENANT).await?).await
}

/// The same, where the tenant is open.
///
/// # Errors
/// As [`copying`].
pub(crate) async fn copying_into(tenant: &Tenant) -> Result<Option<Note>, Error> {
    let Some(row) = tenant.get(COPYING, b"").await? else { return Ok(None) };
    serde_json::from_slice(&row).map(|place| Some(Note { place, row })).map_err(|error| {
        let message = format!("the row of {COPYING} is damaged; empty the store, and copy into it again");
        Error::new(ErrorKind::Corrupt, message).in_tenant(tenant.id()).with_source(error)
    })
}

/// How far a copy is, as it was noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) place: Place,
    /// To the byte, so that it can be told whether it is still that one.
    row: Vec<u8>,
}

/// Notes how far the copy into this store is, durably, in the place of the note before (none at its beginning). `None` when that one is not
/// there any more: somebody else copies into the store, or has ended it.
///
/// # Errors
/// Those of the store.
pub(crate) async fn note_copying(
    store: &Store,
    before: Option<&Note>,
    place: Place,
) -> Result<Option<Note>, Error> {
    let row = serde_json::to_vec(&place).map_err(|error| {
        Error::new(ErrorKind::InvalidArgument, "the place of a copy cannot be written").with_source(error)
    })?;
    let mut batch = Batch::new();
    match before {
        Some(before) => batch.check_equals(COPYING, b"", before.row.clone()),
        None => batch.check_absent(COPYING, b""),
    };
    batch.put(COPYING, b"", row.clone());
    let noted = open(store).await?.apply(batch, Durability::Durable).await?;
    Ok(noted.is_applied().then_some(Note { place, row }))
}

/// Removes the note, because the copy has ended; false when it is not there any more.
///
/// # Errors
/// Those of the store.
pub(crate) async fn end_copying(store: &Store, note: &Note) -> Result<bool, Error> {
    let mut batch = Batch::new();
    batch.check_equals(COPYING, b"", note.row.clone()).delete(COPYING, b"");
    Ok(open(store).await?.apply(batch, Durability::Durable).await?.is_applied())
}

/// Refuses a store that is a part of another one so far.
///
/// # Errors
/// Exit code 2, when a copy into it has not ended; those of the store.
pub(crate) async fn refuse_copying(store: &Store, url: &StoreUrl) -> anyhow::Result<()> {
    match copying(store).await? {
        None => Ok(()),
        Some(Note { place: Place { source, .. }, .. }) => Err(Exit::usage(format!(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_row_that_does_not_read_is_found() {
        let store = Store::memory();
        let tenant = open(&store).await.unwrap();
        seabed_taskchampion::TaskChampion::open(&store, seabed_taskchampion::Config::default())
            .await
            .unwrap();
        remember_layer(&store, &seabed_taskchampion::SPREAD).await.unwrap();
        write(&tenant, 7).await.unwrap();
        remember_import(&store, None, Path::new("/file"), &["alice".to_owned()]).await.unwrap();
        let tokens = tokens::Tokens::open(&store).await.unwrap();
        tokens.create("phone", tokens::Scope::Read).await.unwrap();
        assert_eq!(verify(&tenant).await.unwrap(), Vec::<String>::new());
        let mut damaged = 0;
        for category in tenant.categories().await.unwrap() {
            for row in tenant.scan(ScanSpec::new(&category, KeyRange::all())).collect().await.unwrap() {
                tenant.put(&category, &row.key, *b"x").await.unwrap();
                let findings = verify(&tenant).await.unwrap();
                assert_eq!(findings.len(), 1, "{}", category.escape_ascii());
                assert!(findings[0].contains(std::str::from_utf8(&category).unwrap()), "{findings:?}");
                tenant.put(&category, &row.key, row.payload).await.unwrap();
                damaged += 1;
            }
        }
        assert_eq!(damaged, 6);
        tenant.put(COPYING, b"", *b"{}").await.unwrap();
        assert_eq!(verify(&tenant).await.unwrap().len(), 1);
        tenant.delete(FORMAT, b"").await.unwrap();
        assert_eq!(verify(&tenant).await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_store_has_one_id_for_ever_and_one_of_an_earlier_version_gets_one() {
        let store = Store::memory();
        assert_eq!(store_id(&store).await.unwrap(), None);
        assert!(store.list().await.unwrap().is_empty(), "looking makes nothing");
        let tenant = open(&store).await.unwrap();
        let id = store_id(&store).await.unwrap();
        assert!(id.is_some());
        open(&store).await.unwrap();
        assert_eq!(store_id(&store).await.unwrap(), id);
        tenant.delete(STORE, b"").await.unwrap();
        let given = store_id(&store).await.unwrap();
        assert!(given.is_some() && given != id);
        assert_eq!(store_id(&store).await.unwrap(), given);
    }
}
