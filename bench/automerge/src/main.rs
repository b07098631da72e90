//! Documents in our store, against automerge alone: the limit that no storage can be better than.
//!
//! `bench-automerge DIRECTORY CASE` prints a line of JSON a quantity. Both sides run in this process, in turns.

mod counting;

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use automerge::{Automerge, AutomergeError, ROOT, transaction::Transactable};
use counting::Counts;
use measure::Observed;
use pollster::block_on;
use seabed_automerge::{DocStore, DocumentId, DocumentPersister, PersistentAutomerge};
use seabed_kv::{KeyRange, ScanSpec, Store};
use seabed_testkit::Layer as _;

/// Single changes of the document that is loaded.
const CHANGES: u64 = 10_000;
/// How many documents are opened, and how many changes each has.
const DOCUMENTS: u64 = 1_000;
const DOCUMENT_CHANGES: u64 = 100;
/// How many transactions are timed alone, and by each of the writers.
const TRANSACTIONS: u64 = 400;
const WRITERS: u64 = 16;
/// How often something that has no flushes in it is repeated; the median counts.
const REPEATED: usize = 5;

type Document = PersistentAutomerge<DocumentPersister>;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [directory, case] = arguments.as_slice() else {
        panic!("bench-automerge DIRECTORY transactions|writers|load|life|open")
    };
    let directory = Path::new(directory).join(case);
    match case.as_str() {
        "transactions" => transactions(&directory),
        "writers" => writers(&directory),
        "load" => load(&directory),
        "life" => life(&directory),
        "open" => open(&directory),
        case => panic!("there is no case {case}"),
    }
}

/// What a call took.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    wall_us: f64,
    cpu_us: f64,
    flushes: f64,
}

fn cost<T>(work: impl FnOnce() -> T) -> (T, Cost) {
    let own = Observed::Own;
    let (cpu_us, flushes, began) = (own.cpu_us(), own.flushes(), Instant::now());
    let done = work();
    let wall_us = began.elapsed().as_secs_f64() * 1e6;
    let cost =
        Cost { wall_us, cpu_us: (own.cpu_us() - cpu_us) as f64, flushes: (own.flushes() - flushes) as f64 };
    (done, cost)
}

fn median(mut costs: Vec<Cost>) -> Cost {
    let mut middle = |of: fn(&Cost) -> f64| {
        costs.sort_by(|a, b| of(a).total_cmp(&of(b)));
        of(&costs[costs.len() / 2])
    };
    Cost {
        wall_us: middle(|cost| cost.wall_us),
        cpu_us: middle(|cost| cost.cpu_us),
        flushes: middle(|cost| cost.flushes),
    }
}

fn print(case: &str, ours: Cost, plain: Cost) {
    println!(
        r#"{{"case":"{case}","wall_us":{:.1},"plain_wall_us":{:.1},"cpu_us":{:.1},"plain_cpu_us":{:.1},"flushes":{:.3},"plain_flushes":{:.3}}}"#,
        ours.wall_us, plain.wall_us, ours.cpu_us, plain.cpu_us, ours.flushes, plain.flushes
    );
}

fn print_bytes(case: &str, bytes: u64, plain_bytes: u64) {
    println!(r#"{{"case":"{case}","bytes":{bytes},"plain_bytes":{plain_bytes}}}"#);
}

/// The change that everything here is made of, and that the peers were measured with.
fn edit(document: &mut impl Transactable, number: u64) -> Result<(), AutomergeError> {
    document.put(ROOT, format!("k{}", number % 1_000), format!("{number:016}"))
}

fn plain(changes: u64) -> Automerge {
    let mut document = Automerge::new();
    for number in 0..changes {
        document.transact::<_, _, AutomergeError>(|tx| edit(tx, number)).expect("a plain put");
    }
    document
}

fn sqlite(directory: &Path) -> Store {
    Store::sqlite(directory).expect("a store")
}

fn documents(store: &Store) -> DocStore {
    block_on(DocStore::open(store)).expect("documents")
}

fn id(number: u64) -> DocumentId {
    DocumentId::from_bytes((u128::from(number) * 0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835).to_be_bytes())
}

fn persister(documents: &DocStore, number: u64) -> DocumentPersister {
    DocumentPersister::open(documents, id(number)).expect("a persister")
}

fn document(documents: &DocStore, number: u64) -> Document {
    PersistentAutomerge::load(persister(documents, number)).expect("it loads")
}

fn transact(document: &mut Document, number: u64) {
    document.transact::<_, _, AutomergeError>(|tx| edit(tx, number)).expect("stored");
}

/// A transaction and its durable commit, against a transaction and what a careful program would do by hand: append its change, flush.
fn transactions(directory: &Path) {
    let store = sqlite(directory);
    let documents = documents(&store);
    let mut ours = document(&documents, 0);
    let mut plain = Automerge::new();
    let mut file = File::create(directory.join("changes")).expect("a file");
    let (mut of_ours, mut of_plain) = (Vec::new(), Vec::new());
    for number in 0..TRANSACTIONS {
        of_ours.push(cost(|| transact(&mut ours, number)).1);
        let by_hand = cost(|| {
            plain.transact::<_, _, AutomergeError>(|tx| edit(tx, number)).expect("a plain put");
            let change = plain.get_last_local_change().expect("just made");
            file.write_all(change.raw_bytes()).expect("written");
            file.sync_data().expect("flushed");
        });
        of_plain.push(by_hand.1);
    }
    print("transaction, durable", median(of_ours), median(of_plain));
    store.close().wait().expect("closed");
}

/// Sixteen programs at once, each with a document of its own; for each operation.
fn writers(directory: &Path) {
    let store = sqlite(directory);
    let documents = documents(&store);
    let ((), all) = cost(|| {
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let documents = &documents;
                scope.spawn(move || {
                    let mut document = document(documents, writer);
                    for number in 0..TRANSACTIONS {
                        transact(&mut document, number);
                    }
                });
            }
        });
    });
    let operations = (WRITERS * TRANSACTIONS) as f64;
    let each = |all: f64| all / operations;
    let ours = Cost { wall_us: each(all.wall_us), cpu_us: each(all.cpu_us), flushes: each(all.flushes) };
    let alone = cost(|| {
        let mut plain = Automerge::new();
        let mut file = File::create(directory.join("changes")).expect("a file");
        for number in 0..TRANSACTIONS {
            plain.transact::<_, _, AutomergeError>(|tx| edit(tx, number)).expect("a plain put");
            let change = plain.get_last_local_change().expect("just made");
            file.write_all(change.raw_bytes()).expect("written");
            file.sync_data().expect("flushed");
        }
    });
    let each = |all: f64| all / TRANSACTIONS as f64;
    let alone =
        Cost { wall_us: each(alone.1.wall_us), cpu_us: each(alone.1.cpu_us), flushes: each(alone.1.flushes) };
    print("16 writers, durable", ours, alone);
    store.close().wait().expect("closed");
}

/// Ten thousand single changes, each a commit of its own: loaded, then compacted and loaded.
fn load(directory: &Path) {
    let store = sqlite(directory);
    let documents = documents(&store);
    let mut writer = PersistentAutomerge::load(persister(&documents, 0).relaxed()).expect("it loads");
    for number in 0..CHANGES {
        transact(&mut writer, number);
    }
    writer.flush().expect("flushed");
    let changes = writer.document().save_after(&[]);
    let save = writer.document().save();
    compare_loads("load of 10,000 single changes", &documents, &changes);
    print_bytes("stored, of raw", row_bytes(&store), changes.len() as u64);
    print_bytes("file, of raw", file_bytes(&store), changes.len() as u64);
    writer.compact(&[]).expect("compacted");
    compare_loads("load of the snapshot", &documents, &save);
    block_on(documents.maintain(u64::MAX)).expect("swept");
    print_bytes("stored, of save", row_bytes(&store), save.len() as u64);
    store.close().wait().expect("closed");
}

fn compare_loads(case: &str, documents: &DocStore, buffer: &[u8]) {
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..REPEATED {
        ours.push(cost(|| drop(document(documents, 0))).1);
        plain.push(cost(|| drop(Automerge::load(buffer).expect("it loads"))).1);
    }
    print(case, median(ours), median(plain));
}

/// Keys, categories and payloads of the documents' rows.
fn row_bytes(store: &Store) -> u64 {
    let tenant = store.tenant("automerge-00").expect("open");
    let mut bytes = 0;
    for category in tenant.categories().wait().expect("categories") {
        let mut rows = tenant.scan(ScanSpec::new(&category, KeyRange::all()));
        while let Some(row) = block_on(rows.next()) {
            let row = row.expect("a row");
            bytes += (category.len() + row.key.as_bytes().len() + row.payload.len()) as u64;
        }
    }
    bytes
}

fn file_bytes(store: &Store) -> u64 {
    store.tenant("automerge-00").expect("open").stats().wait().expect("stats").data_bytes
}

/// What is given to the kernel while a document grows to ten thousand changes, compacted whenever it is worth it.
fn life(directory: &Path) {
    let (store, counts) = Counts::default().over(sqlite(directory));
    let documents = documents(&store);
    let mut document = PersistentAutomerge::load(persister(&documents, 0).relaxed()).expect("it loads");
    let before = counts.bytes();
    let (compactions, cpu) = cost(|| {
        let mut compactions = 0;
        for number in 0..CHANGES {
            transact(&mut document, number);
            let report = document.compact_with(&[], Default::default()).expect("compacted");
            compactions += u64::from(report.compacted);
        }
        compactions
    });
    print_bytes(
        "given to the kernel over a life, of raw",
        counts.bytes() - before,
        document.document().save_after(&[]).len() as u64,
    );
    let (_, alone) = cost(|| plain(CHANGES));
    let each = |cost: Cost| Cost {
        wall_us: cost.wall_us / CHANGES as f64,
        cpu_us: cost.cpu_us / CHANGES as f64,
        flushes: cost.flushes / CHANGES as f64,
    };
    print(
        &format!("a change of that life, with its part of {compactions} compactions"),
        each(cpu),
        each(alone),
    );
    store.close().wait().expect("closed");
}

/// A thousand documents opened, from single changes and compacted; and what that writes.
fn open(directory: &Path) {
    let (store, counts) = Counts::default().over(sqlite(directory));
    let documents = documents(&store);
    let plain = plain(DOCUMENT_CHANGES);
    let changes = plain.get_changes(&[]);
    for number in 0..DOCUMENTS {
        let mut document =
            PersistentAutomerge::load(persister(&documents, number).relaxed()).expect("it loads");
        for change in &changes {
            document.apply_changes([change.clone()]).expect("stored");
        }
    }
    open_all("1,000 documents of 100 changes", &documents, &counts, &plain.save_after(&[]));
    for number in 0..DOCUMENTS {
        document(&documents, number).compact(&[]).expect("compacted");
    }
    open_all("1,000 documents, compacted", &documents, &counts, &plain.save());
    store.close().wait().expect("closed");
}

fn open_all(case: &str, documents: &DocStore, counts: &Counts, buffer: &[u8]) {
    let written = counts.batches();
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..REPEATED {
        ours.push(cost(|| (0..DOCUMENTS).for_each(|number| drop(document(documents, number)))).1);
        plain.push(cost(|| (0..DOCUMENTS).for_each(|_| drop(Automerge::load(buffer).expect("it loads")))).1);
    }
    print(case, median(ours), median(plain));
    print_bytes(&format!("batches written by opening {case}"), counts.batches() - written, 0);
}
