//! `bench-automerge DIR CASE SECONDS`: documents over the store, and automerge alone beside them, as a line of JSON a case. Run it through
//! `bench/run.sh automerge`, which preloads the flush model.

use std::path::Path;
use std::thread;

use automerge::transaction::Transactable;
use automerge::{Automerge, AutomergeError, ROOT};
use measure::{Meter, Observed};
use seabed_automerge::{DocStore, DocumentId, DocumentPersister, PersistentAutomerge};
use seabed_kv::{KeyRange, ScanSpec, Store};

/// How many changes the large document has: one put of sixteen bytes each.
const CHANGES: u64 = 10_000;
/// How many documents there are of a hundred changes.
const DOCUMENTS: u32 = 1_000;
/// How many writers share flushes.
const WRITERS: u32 = 16;

fn id(number: u32) -> DocumentId {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    // Spread over the tenant as random ids are.
    bytes[4..8].copy_from_slice(&number.wrapping_mul(2_654_435_761).to_be_bytes());
    bytes.rotate_left(4);
    DocumentId::from_bytes(bytes)
}

fn edit(document: &mut Automerge, number: u64) {
    document
        .transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, format!("k{}", number % 1_000), "sixteen bytes ok"))
        .expect("a plain put");
}

fn plain(changes: u64) -> Automerge {
    let mut document = Automerge::new();
    for number in 0..changes {
        edit(&mut document, number);
    }
    document
}

type Document = PersistentAutomerge<DocumentPersister>;

fn load(documents: &DocStore, number: u32) -> Document {
    let persister = DocumentPersister::open(documents, id(number)).expect("a document");
    PersistentAutomerge::load(persister).expect("it loads")
}

fn store_edit(document: &mut Document, number: u64) {
    document
        .transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, format!("k{}", number % 1_000), "sixteen bytes ok"))
        .expect("stored");
}

/// Bytes of the tenant: in rows, and of its file with its log.
fn taken(store: &Store) -> (u64, u64) {
    let tenant = store.tenant("automerge-00").expect("open");
    let mut rows = 0;
    for category in tenant.categories().wait().expect("categories") {
        for row in tenant.scan(ScanSpec::new(&category, KeyRange::all())).collect().wait().expect("rows") {
            rows += (category.len() + row.key.as_bytes().len() + row.payload.len()) as u64;
        }
    }
    (rows, tenant.stats().wait().expect("stats").data_bytes)
}

/// A store with the documents of a case, in a fresh directory.
fn prepared(root: &Path, case: &str) -> (Store, DocStore, bool) {
    let root = root.join(case);
    let fresh = !root.exists();
    let store = Store::sqlite(root).expect("a directory");
    let documents = pollster::block_on(DocStore::open(&store)).expect("a store");
    (store, documents, fresh)
}

/// The large document, change by change in rows of its own as single edits leave it.
fn single_changes(documents: &DocStore, number: u32, changes: u64) {
    let persister = DocumentPersister::open(documents, id(number)).expect("a document").relaxed();
    let mut document = PersistentAutomerge::load(persister).expect("it loads");
    for number in 0..changes {
        store_edit(&mut document, number);
    }
    document.flush().expect("flushed");
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [root, case, seconds] = arguments.as_slice() else { panic!("bench-automerge DIR CASE SECONDS") };
    let (root, seconds): (&Path, f64) = (root.as_ref(), seconds.parse().expect("seconds"));
    match case.as_str() {
        "transact_plain" => {
            let mut document = plain(100);
            let meter = Meter::start(seconds, Observed::Own);
            let mut laps = meter.laps();
            while let Some(lap) = laps.next() {
                edit(&mut document, lap);
            }
            meter.print(case, [laps], &[]);
        }
        "transact" => {
            let (store, documents, _) = prepared(root, case);
            let mut document = load(&documents, 1);
            let meter = Meter::start(seconds, Observed::Own);
            let mut laps = meter.laps();
            while let Some(lap) = laps.next() {
                store_edit(&mut document, lap);
            }
            meter.print(case, [laps], &[]);
            store.close().wait().expect("closed");
        }
        "transact_16" => {
            let (store, documents, _) = prepared(root, case);
            let meter = Meter::start(seconds, Observed::Own);
            let threads: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let (documents, mut laps) = (documents.clone(), meter.laps());
                    thread::spawn(move || {
                        let mut document = load(&documents, writer);
                        while let Some(lap) = laps.next() {
                            store_edit(&mut document, lap);
                        }
                        laps
                    })
                })
                .collect();
            let laps: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("a writer")).collect();
            meter.print(case, laps, &[]);
            store.close().wait().expect("closed");
        }
        "load_changes" | "load_compacted" => {
            let (store, documents, fresh) = prepared(root, case);
            if fresh {
                single_changes(&documents, 1, CHANGES);
                if case == "load_compacted" {
                    load(&documents, 1).compact(&[]).expect("compacted");
                    pollster::block_on(documents.maintain(u64::MAX)).expect("swept");
                }
            }
            let document = load(&documents, 1);
            let raw = document.document().save_after(&[]).len() as u64;
            let save = document.document().save().len() as u64;
            let (rows, file) = taken(&store);
            let meter = Meter::start(seconds, Observed::Own);
            let mut laps = meter.laps();
            while laps.next().is_some() {
                load(&documents, 1);
            }
            let fields = [("raw_bytes", raw), ("save_bytes", save), ("row_bytes", rows), ("file_bytes", file)];
            meter.print(case, [laps], &fields);
            store.close().wait().expect("closed");
        }
        "load_changes_plain" | "load_compacted_plain" => {
            let document = plain(CHANGES);
            let bytes = if case == "load_compacted_plain" { document.save() } else { document.save_after(&[]) };
            let meter = Meter::start(seconds, Observed::Own);
            let mut laps = meter.laps();
            while laps.next().is_some() {
                Automerge::load(&bytes).expect("it loads");
            }
            meter.print(case, [laps], &[]);
        }
        "open_changes" | "open_compacted" => {
            let (store, documents, fresh) = prepared(root, case);
            if fresh {
                for number in 0..DOCUMENTS {
                    single_changes(&documents, number, 100);
                    if case == "open_compacted" {
                        load(&documents, number).compact(&[]).expect("compacted");
                    }
                }
            }
            let commits = || store.tenant("automerge-00").expect("open").stats().wait().expect("stats").commits;
            let before = commits();
            let meter = Meter::start(seconds, Observed::Own);
            let mut laps = meter.laps();
            while laps.next().is_some() {
                for number in 0..DOCUMENTS {
                    load(&documents, number);
                }
            }
            meter.print(case, [laps], &[("writes", commits() - before)]);
            store.close().wait().expect("closed");
        }
        "open_compacted_plain" => {
            let saved: Vec<_> = (0..DOCUMENTS).map(|_| plain(100).save()).collect();
            let meter = Meter::start(seconds, Observed::Own);
            let mut laps = meter.laps();
            while laps.next().is_some() {
                for bytes in &saved {
                    Automerge::load(bytes).expect("it loads");
                }
            }
            meter.print(case, [laps], &[]);
        }
        other => panic!("no case {other}"),
    }
}
