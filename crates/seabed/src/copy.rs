//! A copy of everything in one store into another, of any kind and with any number of shards.
//!
//! 1. Rows are read from the source in the order of tenants, categories and keys, and put, gathered, into the tenants of the destination.
//! 2. Once what was gathered is on its disk the place that was reached is noted there. A copy that was cut off goes on from it; what was
//!    written beyond it is written again. Until the copy has ended nobody can open the destination for anything else.
//! 3. Both stores are read again, row by row. Only when they hold the same is the note removed.
//!
//! Each copy signs the note with a token of its own, and writes it again only where it is still its own. Where several processes share the
//! destination, a note that is written again meanwhile is that of a copy that lives, which another one does not take over; and servers
//! that find a note serve no more.

mod compare;
mod layout;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use seabed_kv::{Batch, Durability, Error, ErrorKind, Key, KeyRange, Outcome, ScanSpec, Store, Tenant};
use seabed_taskchampion::{CHUNK_CATEGORY, Config, TaskChampion};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use self::layout::{Layout, Placed, is_bookkeeping, is_of_documents};
use crate::own::{self, Note};

/// How many bytes of rows are gathered before they are written, unless one row is longer.
const GATHERED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How many rows are.
const GATHERED_ROWS_MAX: usize = 8_192;
/// How old the note may become while there is nothing to write.
const NOTE_MS_MAX: u64 = 2_000;
/// How long a note stays the same before its copy counts as dead, where it may be another process's.
const SILENCE_MS_MAX: u64 = 15_000;

/// How far a copy has come: the row of `seabed.copying`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// What is copied, for whoever goes on; without secrets.
    pub(crate) source: String,
    /// The last row that is there: its tenant in the source, its category and its key, in hexadecimal digits. Empty at the beginning.
    tenant: String,
    category: String,
    key: String,
    /// Whose note it is: random, for each run. Notes of earlier versions have none.
    #[serde(default)]
    token: Uuid,
    /// How often this run has written it.
    #[serde(default)]
    count: u64,
}

/// How far it is, for people.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Progress {
    /// Whether everything was written, and is now compared.
    pub(crate) comparing: bool,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

/// What was copied, all of it compared.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Whether it went on where an earlier one was cut off.
    pub(crate) resumed: bool,
    pub(crate) rows: u64,
    /// Bytes of categories, keys and payloads.
    pub(crate) bytes: u64,
    /// Those of the destination.
    pub(crate) tenants: Vec<TenantCopied>,
}

#[derive(Debug, Serialize)]
pub(crate) struct TenantCopied {
    pub(crate) id: String,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// The sum of the BLAKE3 hashes of its rows, the same in both stores.
    pub(crate) checksum: String,
}

/// Why a copy did not end.
#[derive(Debug)]
pub(crate) enum Failed {
    /// Nothing was written: the destination or the source is not what it must be, in a sentence.
    Refused(String),
    /// The same copy goes on when it is run again.
    Store(Error),
    /// Both were read, and are not the same.
    Differs(String),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

/// Copies everything. `source` is how the source is called.
pub(crate) async fn run(
    from: &Store,
    source: &str,
    to: &Store,
    mut progress: impl FnMut(Progress) + Send,
) -> Result<Report, Failed> {
    let (mut copy, resumed) = Copy::begin(from, source, to, &mut progress).await?;
    copy.everything().await?;
    let tenants = compare::compare(&mut copy).await?;
    for spread in own::LAYERS {
        if spread.count(from).await?.is_some() {
            own::remember_layer(to, spread).await?;
        }
    }
    if !own::end_copying(to, &copy.note).await? {
        return Err(taken_over().into());
    }
    Ok(Report {
        resumed,
        rows: tenants.iter().map(|tenant| tenant.rows).sum(),
        bytes: tenants.iter().map(|tenant| tenant.bytes).sum(),
        tenants,
    })
}

/// Where an earlier copy of the same source stopped; or the beginning, noted, in a store that holds nothing.
async fn begin(source: &str, to: &Store) -> Result<(Note, bool), Failed> {
    if let Some(note) = own::copying(to).await? {
        if note.place.source == source {
            return Ok((take_over(to, note).await?, true));
        }
        let place = note.place;
        return Err(Failed::Refused(format!(
            "a copy of {} into it has not ended; run that one again, or empty it",
            place.source
        )));
    }
    let mut unused = Vec::new();
    for id in to.list().await? {
        let tenant = to.open(id.as_str()).await?;
        for category in tenant.categories().await? {
            if is_of_documents(id.as_str(), &category) {
                unused.push((tenant.clone(), category));
            } else if !is_bookkeeping(id.as_str(), &category) {
                return Err(Failed::Refused(format!(
                    "it holds other data, in tenant {id}; name a new directory or an empty database"
                )));
            }
        }
    }
    // Of a server that has had no document: the source brings its own, or the next server makes it anew.
    if !unused.is_empty() {
        own::forget_layer(to, &seabed_automerge::SPREAD).await?;
    }
    for (tenant, category) in unused {
        let mut batch = Batch::new();
        batch.delete_prefix(category, b"");
        tenant.apply(batch, Durability::Durable).await?;
    }
    let place = Place {
        source: source.to_owned(),
        tenant: String::new(),
        category: String::new(),
        key: String::new(),
        token: Uuid::new_v4(),
        count: 0,
    };
    let note = own::note_copying(to, None, place).await?.ok_or_else(under_way)?;
    Ok((note, false))
}

/// Goes on with a copy that was cut off, as its only one. What it had under way when it stopped are rows of the same source: written late,
/// they are what this one writes.
async fn take_over(to: &Store, note: Note) -> Result<Note, Failed> {
    // Who owns the store alone has its lock: nobody else can be at it.
    if to.is_shared() {
        tokio::time::sleep(Duration::from_millis(SILENCE_MS_MAX)).await;
        if own::copying(to).await?.as_ref() != Some(&note) {
            return Err(under_way());
        }
    }
    let place = Place { token: Uuid::new_v4(), count: 0, ..note.place.clone() };
    own::note_copying(to, Some(&note), place).await?.ok_or_else(under_way)
}

fn under_way() -> Failed {
    Failed::Refused(
        "another copy into it is under way, or has just ended; wait for it, or stop it".to_owned(),
    )
}

fn taken_over() -> Error {
    let message = "another copy into the same store has taken over, or ended it: leave it to that one";
    Error::new(ErrorKind::Busy, message)
}

/// How many shards the destination has; it gets them when the source has any, before the first row is there: whoever opens the layer
/// removes what a deletion has left, and that was perhaps copied.
async fn shards_of(to: &Store, of_source: Option<u16>, begun: bool) -> Result<Option<u16>, Error> {
    if of_source.is_none() {
        return Ok(None);
    }
    if !begun {
        TaskChampion::open(to, Config::default()).await?;
    }
    seabed_taskchampion::shard_count(to).await
}

struct Copy<'a> {
    from: Store,
    to: Store,
    layout: Layout,
    /// The last row that was gathered.
    place: Place,
    /// What was noted last, and when: the last row that is written.
    note: Note,
    noted: Instant,
    gathered: BTreeMap<String, Batch>,
    gathered_bytes: usize,
    gathered_rows: usize,
    so_far: Progress,
    /// Called for each place that is noted.
    progress: &'a mut (dyn FnMut(Progress) + Send),
}

impl<'a> Copy<'a> {
    /// Where it goes on, and whether that is not the beginning.
    async fn begin(
        from: &Store,
        source: &str,
        to: &Store,
        progress: &'a mut (dyn FnMut(Progress) + Send),
    ) -> Result<(Self, bool), Failed> {
        // First, so that a source of a later version makes nothing.
        let shards = seabed_taskchampion::shard_count(from).await?;
        let (note, resumed) = begin(source, to).await?;
        let place = note.place.clone();
        let layout = Layout { shards: shards_of(to, shards, !place.tenant.is_empty()).await? };
        let copy = Self {
            from: from.clone(),
            to: to.clone(),
            layout,
            place,
            note,
            noted: Instant::now(),
            gathered: BTreeMap::new(),
            gathered_bytes: 0,
            gathered_rows: 0,
            so_far: Progress::default(),
            progress,
        };
        Ok((copy, resumed))
    }

    async fn everything(&mut self) -> Result<(), Error> {
        let begin = self.place.clone();
        for id in self.from.list().await? {
            if id.as_str() < begin.tenant.as_str() {
                continue;
            }
            let tenant = self.from.open(id.as_str()).await?;
            if !seabed_taskchampion::is_ours(id.as_str()) {
                // Also when it holds nothing.
                self.to.open(id.as_str()).await?;
            }
            for category in tenant.categories().await? {
                let name = hex::encode(&category);
                let mut range = KeyRange::all();
                if id.as_str() == begin.tenant {
                    if name < begin.category {
                        continue;
                    }
                    if name == begin.category {
                        range.start = after(&begin.key)?;
                    }
                }
                self.category(&tenant, &category, range).await?;
            }
            self.write().await?;
            leave(&self.from, id.as_str()).await?;
            if !seabed_taskchampion::is_ours(id.as_str()) && id.as_str() != own::TENANT {
                leave(&self.to, id.as_str()).await?;
            }
        }
        Ok(())
    }

    async fn category(&mut self, tenant: &Tenant, category: &[u8], range: KeyRange) -> Result<(), Error> {
        let mut rows = tenant.scan(ScanSpec::new(category, range));
        while let Some(row) = rows.next().await {
            let row = row?;
            // Rows that stay are read, too, and may be many.
            self.alive().await?;
            let placed = self.layout.place(tenant.id().as_str(), category, &row.key, &row.payload)?;
            let key = row.key.clone();
            if let Some(Placed { tenant: to, staged }) = placed {
                if let Some(value) = staged {
                    let mut chunks = tenant.scan(ScanSpec::new(CHUNK_CATEGORY, KeyRange::prefix(value)));
                    while let Some(chunk) = chunks.next().await {
                        let chunk = chunk?;
                        self.add(&to, CHUNK_CATEGORY.as_bytes(), &chunk.key, chunk.payload).await?;
                        self.alive().await?;
                    }
                }
                self.add(&to, category, &row.key, row.payload).await?;
            }
            tenant.id().as_str().clone_into(&mut self.place.tenant);
            self.place.category = hex::encode(category);
            self.place.key = hex::encode(key.as_bytes());
        }
        Ok(())
    }

    async fn add(&mut self, to: &str, category: &[u8], key: &Key, payload: Vec<u8>) -> Result<(), Error> {
        let bytes = category.len() + key.as_bytes().len() + payload.len();
        if self.gathered_bytes.saturating_add(bytes) > GATHERED_BYTES_MAX
            || self.gathered_rows >= GATHERED_ROWS_MAX
        {
            self.write().await?;
        }
        self.gathered_bytes += bytes;
        self.gathered_rows += 1;
        self.so_far.rows += 1;
        self.so_far.bytes += bytes as u64;
        self.gathered.entry(to.to_owned()).or_default().put(category, key, payload);
        Ok(())
    }

    /// Writes what was gathered, and then, once that is durable, how far it goes.
    async fn write(&mut self) -> Result<(), Error> {
        self.gathered_bytes = 0;
        self.gathered_rows = 0;
        // Whoever has taken over may have ended, and be served: nothing of this copy may come after that.
        if own::copying(&self.to).await?.as_ref() != Some(&self.note) {
            return Err(taken_over());
        }
        let (mut tenants, mut applying) = (Vec::new(), Vec::new());
        for (id, batch) in std::mem::take(&mut self.gathered) {
            let tenant = self.to.open(id).await?;
            // All begin before the first is waited for.
            applying.push(tenant.apply(batch, Durability::Relaxed));
            tenants.push(tenant);
        }
        for applied in applying {
            match applied.await? {
                Outcome::Applied(_) => {}
                // A batch of puts alone has nothing to be refused for.
                Outcome::Refused(_) => {
                    return Err(Error::new(
                        ErrorKind::Backend,
                        "the destination refused rows without a condition",
                    ));
                }
            }
        }
        let flushing: Vec<_> = tenants.iter().map(Tenant::flush).collect();
        for flushed in flushing {
            flushed.await?;
        }
        self.note(self.place.clone()).await?;
        (self.progress)(self.so_far);
        Ok(())
    }

    /// Notes a place, all before which is written.
    async fn note(&mut self, place: Place) -> Result<(), Error> {
        let (token, count) = (self.note.place.token, self.note.place.count.wrapping_add(1));
        let place = Place { token, count, ..place };
        self.note = own::note_copying(&self.to, Some(&self.note), place).await?.ok_or_else(taken_over)?;
        self.noted = Instant::now();
        Ok(())
    }

    /// Shows others that this copy lives, now and then. It is where it was: what is gathered is not written.
    async fn alive(&mut self) -> Result<(), Error> {
        if self.noted.elapsed() < Duration::from_millis(NOTE_MS_MAX) {
            return Ok(());
        }
        self.note(self.note.place.clone()).await
    }
}

/// The key that follows one in hexadecimal digits.
fn after(digits: &str) -> Result<Key, Error> {
    let mut key = hex::decode(digits).map_err(|error| {
        Error::new(
            ErrorKind::Corrupt,
            "the note of how far the copy came is damaged; empty the destination and copy again",
        )
        .with_source(error)
    })?;
    key.push(0);
    Ok(Key::raw(key))
}

/// Closes a tenant, so that ten thousand of them do not stay open.
async fn leave(store: &Store, id: &str) -> Result<(), Error> {
    store.close_tenant(id).await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use seabed_automerge::{Append, Appended, DocStore, DocumentId};
    use uuid::Uuid;

    use super::*;

    /// A store in memory, which as a database has sixty-four shards, or as a directory one.
    async fn empty(shards: u16) -> Store {
        let store = Store::memory();
        for number in 0..shards {
            let tenant = store.open(format!("taskchampion-{number:02}")).await.unwrap();
            tenant.put("taskchampion.format", b"", *b"\0\0\0\x01seabed test").await.unwrap();
        }
        let first = store.open("taskchampion-00").await.unwrap();
        first.put("taskchampion.shards", b"", [&[1][..], &shards.to_be_bytes()].concat()).await.unwrap();
        store
    }

    async fn push(layer: &TaskChampion, client: Uuid, parent: Uuid, bytes: &[u8]) -> Uuid {
        let mut upload = layer.upload(client, Uuid::new_v4(), 1);
        upload.write(bytes).await.unwrap();
        let (upload, version) = (upload.finish().await.unwrap(), Uuid::new_v4());
        let _added = layer.add_version(upload, parent, version, 1).await.unwrap().release();
        version
    }

    /// Clients with versions and snapshots in rows and in chunks, the program's own rows, and a tenant of nobody this version knows.
    async fn fill(store: &Store) {
        let layer = TaskChampion::open(store, Config::default()).await.unwrap();
        for number in 0_u8..20 {
            let client = Uuid::from_u128(u128::from(number) << 64 | 5);
            let mut parent = Uuid::nil();
            for version in 0_u8..5 {
                let bytes = vec![version; if (number + version) % 4 == 0 { 90_000 } else { 50 }];
                parent = push(&layer, client, parent, &bytes).await;
            }
            let mut upload = layer.upload(client, Uuid::new_v4(), 1);
            upload.write(&vec![number; usize::from(number) * 1_000]).await.unwrap();
            let upload = upload.finish().await.unwrap();
            let _kept = layer.add_snapshot(upload, parent, 1).await.unwrap().release();
        }
        // An upload that was given up: chunks that nobody needs.
        let mut upload = layer.upload(Uuid::from_u128(5), Uuid::new_v4(), 1);
        upload.write(&vec![0; 500_000]).await.unwrap();
        // A client whose deletion was cut off.
        let first = store.open("taskchampion-00").await.unwrap();
        let (client, version) = ([9; 16], [8; 16]);
        first.put("taskchampion.deleting", client, [&[1][..], &[0; 8]].concat()).await.unwrap();
        let row = [&[1][..], &version, &[0; 8], b"\x01bytes"].concat();
        first.put("taskchampion.version", [client, [0; 16]].concat(), row).await.unwrap();
        first
            .put("taskchampion.parent", [client, version].concat(), [&[1][..], &[0; 16]].concat())
            .await
            .unwrap();
        own::open(store).await.unwrap().put("seabed.imported", b"file", *b"[]").await.unwrap();
        let other = store.open("later").await.unwrap();
        for number in 0_u32..3_000 {
            other.put("a category", number.to_be_bytes(), vec![0; 3_000]).await.unwrap();
        }
        other.put("", b"", *b"").await.unwrap();
        store.open("empty").await.unwrap();
    }

    /// Every row that another store gets, wherever its shards have it.
    async fn rows(store: &Store) -> BTreeSet<(String, Vec<u8>, Vec<u8>, Vec<u8>)> {
        let mut rows = BTreeSet::new();
        for id in store.list().await.unwrap() {
            let ours = seabed_taskchampion::is_ours(id.as_str());
            let name = if ours { "taskchampion" } else { id.as_str() };
            let tenant = store.open(id.as_str()).await.unwrap();
            for category in tenant.categories().await.unwrap() {
                if category == b"taskchampion.pending" || is_bookkeeping(id.as_str(), &category) {
                    continue;
                }
                for row in tenant.scan(ScanSpec::new(&category, KeyRange::all())).collect().await.unwrap() {
                    rows.insert((name.to_owned(), category.clone(), row.key.into_bytes(), row.payload));
                }
            }
        }
        rows
    }

    async fn assert_sound(store: &Store) {
        for id in store.list().await.unwrap() {
            if seabed_taskchampion::is_ours(id.as_str()) {
                let tenant = store.open(id.as_str()).await.unwrap();
                let report = seabed_taskchampion::verify_in(store, &tenant).await.unwrap();
                assert_eq!(report.findings, Vec::<String>::new());
            }
        }
    }

    #[tokio::test]
    async fn a_copy_and_the_copy_of_it_hold_the_same_whatever_the_number_of_shards() {
        let source = Store::memory();
        fill(&source).await;
        let many = empty(64).await;
        let report = run(&source, "source", &many, |_| {}).await.unwrap();
        assert!(!report.resumed && report.rows > 3_000, "{report:?}");
        assert_sound(&many).await;
        let one = Store::memory();
        assert_eq!(run(&many, "many", &one, |_| {}).await.unwrap().rows, report.rows);
        assert_sound(&one).await;
        let (many, mut expected) = (rows(&many).await, rows(&source).await);
        assert_eq!(many, rows(&one).await);
        // The chunks of what nobody refers to stayed behind.
        let gone: Vec<_> = expected.difference(&many).cloned().collect();
        assert!(!gone.is_empty() && gone.iter().all(|(_, category, ..)| category == b"taskchampion.chunk"));
        expected.retain(|row| !gone.contains(row));
        assert_eq!(expected, many);
        assert!(one.list().await.unwrap().iter().any(|id| id.as_str() == "empty"));
        assert_eq!(own::copying(&one).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_destination_that_was_served_and_never_had_a_document_takes_what_the_source_has() {
        let new_id = || [7; 16];
        for with_documents in [false, true] {
            let (source, to) = (Store::memory(), Store::memory());
            fill(&source).await;
            if with_documents {
                DocStore::open(&source).await.unwrap().storage_id(new_id).await.unwrap();
            }
            TaskChampion::open(&to, Config::default()).await.unwrap();
            DocStore::open(&to).await.unwrap().storage_id(|| [8; 16]).await.unwrap();
            run(&source, "source", &to, |_| {}).await.unwrap();
            let documents = DocStore::open(&to).await.unwrap();
            assert_eq!(documents.storage_id(new_id).await.unwrap(), [7; 16]);

            // One document, though, is data.
            let (document, append) = (DocumentId::from_bytes([1; 16]), Append::default());
            let to = Store::memory();
            let documents = DocStore::open(&to).await.unwrap();
            assert!(matches!(
                documents.append(document, None, append, ()).await.unwrap(),
                Appended::Applied { .. }
            ));
            let refused = run(&source, "source", &to, |_| {}).await.unwrap_err();
            assert!(matches!(refused, Failed::Refused(_)), "{refused:?}");
            assert!(documents.meta(document).await.unwrap().is_some());
            assert!(rows(&to).await.iter().any(|(_, category, ..)| category == b"automerge.format"));
        }
    }

    #[tokio::test]
    async fn a_copy_goes_on_from_every_place_it_noted() {
        let source = Store::memory();
        fill(&source).await;
        let mut noted = 0_usize;
        loop {
            let to = empty(64).await;
            // Whoever looks at its progress dies when it has noted that many places.
            let copying = tokio::spawn({
                let (source, to) = (source.clone(), to.clone());
                async move {
                    let mut left = noted;
                    run(&source, "source", &to, |progress: Progress| {
                        assert!(progress.comparing || left > 0, "killed");
                        left -= usize::from(!progress.comparing);
                    })
                    .await
                    .unwrap();
                }
            });
            let ended = copying.await.is_ok();
            if ended {
                break;
            }
            assert!(own::copying(&to).await.unwrap().is_some(), "it says that it has not ended");
            assert!(run(&source, "another", &to, |_| {}).await.is_err(), "another does not go on with it");
            let report = run(&source, "source", &to, |_| {}).await.unwrap();
            assert!(report.resumed);
            assert_sound(&to).await;
            noted += 1;
        }
        assert!(noted > 3, "there were places to go on from");
    }

    #[tokio::test]
    async fn a_slow_copy_shows_that_it_lives_and_does_not_say_that_it_is_further() {
        let (source, to) = (Store::memory(), Store::memory());
        fill(&source).await;
        let nothing = &mut |_| {};
        let (mut copy, _) = Copy::begin(&source, "source", &to, nothing).await.unwrap();
        let long_ago = Instant::now().checked_sub(Duration::from_millis(NOTE_MS_MAX)).unwrap();
        let later = source.tenant("later").unwrap();
        let begun = copy.note.clone();
        copy.noted = long_ago;
        copy.category(&later, b"", KeyRange::all()).await.unwrap();
        assert!(!copy.gathered.is_empty() && copy.place.category.is_empty() && copy.place.tenant == "later");
        let noted = own::copying(&to).await.unwrap().unwrap();
        assert_ne!(noted, begun, "it showed that it lives");
        let written = Place { count: begun.place.count, ..noted.place };
        assert_eq!(written, begun.place, "what it has read is not written");
        // Killed here, the next one has all of it.
        drop(copy);
        run(&source, "source", &to, |_| {}).await.unwrap();
        assert_eq!(rows(&to).await.len(), {
            let other = Store::memory();
            run(&source, "source", &other, |_| {}).await.unwrap();
            rows(&other).await.len()
        });
    }

    #[tokio::test]
    async fn a_copy_whose_note_is_not_its_own_any_more_writes_nothing_and_ends_nothing() {
        let source = Store::memory();
        fill(&source).await;
        for taken_over_at in [1, 2, usize::MAX] {
            let to = Store::memory();
            let (mut noted, mut rows_then) = (0, None);
            let own = own::open(&to).await.unwrap();
            let later = || {
                to.tenant("later")
                    .map_or(0, |tenant| tenant.count("a category", &KeyRange::all()).wait().unwrap())
            };
            let copied = run(&source, "source", &to, |progress: Progress| {
                noted += 1;
                if rows_then.is_none() && (noted == taken_over_at || progress.comparing) {
                    let row = own.get("seabed.copying", b"").wait().unwrap().unwrap();
                    let place = serde_json::from_slice::<Place>(&row).unwrap();
                    let other = Place { token: Uuid::from_u128(7), ..place };
                    own.put("seabed.copying", b"", serde_json::to_vec(&other).unwrap()).wait().unwrap();
                    rows_then = Some(later());
                }
            })
            .await;
            assert!(matches!(copied, Err(Failed::Store(error)) if error.kind() == ErrorKind::Busy));
            assert_eq!(own::copying(&to).await.unwrap().unwrap().place.token, Uuid::from_u128(7));
            assert_eq!(Some(later()), rows_then);
            // The one that took over, or the next one, goes on.
            assert!(run(&source, "source", &to, |_| {}).await.unwrap().resumed);
            assert_sound(&to).await;
        }
    }
}
