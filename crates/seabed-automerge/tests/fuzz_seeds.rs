//! Every fuzz target of this crate over its seeds, and over each of them cut or altered anywhere: the gate has no fuzzer.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what the helpers of a test cannot have fails the test"
)]

mod common;

use std::path::{Path, PathBuf};

use common::*;
use seabed_automerge::{Persister as _, decode_row, fuzz_chunks, fuzz_rows};
use seabed_kv::Store;

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target)
}

/// The seeds of a target, by name.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = folder(target);
    let entries = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{} cannot be read: {error}", directory.display()));
    let read = |path: PathBuf| {
        (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap())
    };
    let mut seeds: Vec<_> = entries.map(|entry| read(entry.unwrap().path())).collect();
    seeds.sort();
    assert!(seeds.len() >= 5, "the seeds of {target}: {seeds:?}");
    seeds
}

/// `step` is how far apart the places are that are cut and altered.
fn run(target: &str, function: fn(&[u8]), bytes: &[u8], step: usize) {
    for (_, seed) in seeds(target) {
        function(&seed);
        for length in (0..seed.len()).step_by(step) {
            function(&seed[..length]);
            for byte in bytes {
                let mut altered = seed.clone();
                altered[length] = *byte;
                function(&altered);
            }
        }
        function(&[seed, b"more".to_vec()].concat());
    }
}

#[test]
fn rows_of_documents() {
    run("documents", fuzz_rows, &[0, 1, 2, 3, 0x80, 0xFF], 1);
}

#[test]
fn chunks() {
    run("chunks", fuzz_chunks, &[0, 0x85, 0xFF], 7);
}

/// What a client of automerge-repo wrote.
#[cfg(feature = "http")]
#[test]
fn frames() {
    run("frames", seabed_automerge::fuzz_frames, &[0, 0x5B, 0xA1, 0xFF], 3);
}

/// A seed that does not read as what its name says leads a fuzzer nowhere. With `UPDATE` in the environment missing seeds are written.
#[test]
fn the_seeds_are_what_their_names_say() {
    if std::env::var_os("UPDATE").is_some() && !folder("chunks").exists() {
        write();
    }
    #[cfg(feature = "http")]
    if std::env::var_os("UPDATE").is_some() && !folder("frames").join("sync-asks").exists() {
        write_frames();
    }
    let mut kinds = std::collections::BTreeSet::new();
    for (name, seed) in seeds("documents") {
        let kind = name.split('-').next().unwrap();
        let key = match kind {
            "format" | "shards" => 0,
            "change" | "quarantine" => 24,
            "snapshot" => 48,
            _ => 16,
        };
        let row = decode_row(format!("automerge.{kind}").as_bytes(), &vec![7; key], &seed).unwrap();
        assert_eq!(row.get("damaged"), None, "{name}: {row}");
        kinds.insert(kind.to_owned());
    }
    let expected = ["change", "deleted", "document", "format", "peer", "quarantine", "shards", "snapshot"];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), expected);
}

fn write() {
    let documents_folder = folder("documents");
    let chunks = folder("chunks");
    for folder in [&documents_folder, &chunks] {
        std::fs::create_dir_all(folder).unwrap();
    }
    let write = |folder: &Path, name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
    let document = plain(4);
    let changes = document.get_changes(&[]);
    write(&chunks, "change", changes[0].raw_bytes());
    write(&chunks, "changes", &document.save_after(&[]));
    write(&chunks, "snapshot", &document.save());
    write(&chunks, "snapshot-and-changes", &[document.save(), plain(2).save_after(&[])].concat());
    write(&chunks, "orphan", changes[2].raw_bytes());
    write(&chunks, "empty", b"");
    write(&chunks, "bundle", document.bundle(changes.iter().map(automerge::Change::hash)).unwrap().bytes());
    let mut large = changes[0].clone();
    write(&chunks, "compressed", &large.bytes());

    let store = Store::memory();
    let documents = documents(&store);
    assert!(put(&mut load(&documents, id(1)), "1"));
    load(&documents, id(1)).compact(&[]).unwrap();
    assert!(put(&mut load(&documents, id(2)), "1"));
    let mut classic = load(&documents, id(3)).close().unwrap();
    classic.insert_changes(vec![(automerge::ActorId::from([7]), 1, b"opaque".to_vec())]).unwrap();
    classic.set_sync_state(b"peer".to_vec(), vec![0x43, 0]).unwrap();
    pollster::block_on(documents.delete(id(4), 9)).unwrap();
    for ((category, key), row) in rows(&store) {
        let kind = category.strip_prefix("automerge.").unwrap();
        let name = key.first().map_or(kind.to_owned(), |first| format!("{kind}-{first}"));
        write(&documents_folder, &name, &row);
    }
    let reference = [&[0xCC; 16][..], &[0, 0, 0, 0, 0, 0, 0, 9]].concat();
    write(&documents_folder, "change-staged", &[&[2][..], &reference].concat());
    write(&documents_folder, "snapshot-staged", &[&[2][..], &reference].concat());
    let quarantined =
        [&[1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 1, b'k', 0, 3][..], b"why", b"\x01damaged"].concat();
    write(&documents_folder, "quarantine", &quarantined);
}

/// What a client says that knows the document of the target in part: it has nothing, has one change of its own, or asks for one by its hash.
#[cfg(feature = "http")]
fn write_frames() {
    use automerge::sync::{State, SyncDoc as _};
    use automerge::transaction::Transactable as _;
    use automerge::{ActorId, Automerge, AutomergeError, ROOT};
    use ciborium::cbor;
    use ciborium::value::Value;

    let with = |actor: u8, keys: &[&str]| {
        let mut document = Automerge::new().with_actor(ActorId::from([actor; 16]));
        for key in keys {
            document.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, *key, *key)).unwrap();
        }
        document
    };
    let write = |name: &str, kind: &str, data: Vec<u8>| {
        let frame = cbor!({
            "type" => kind, "senderId" => "client", "targetId" => "server", "documentId" => id(1).to_string(),
            "data" => Value::Bytes(data),
        });
        let mut bytes = Vec::new();
        ciborium::into_writer(&frame.unwrap(), &mut bytes).unwrap();
        std::fs::write(folder("frames").join(name), bytes).unwrap();
    };
    let (ours, mut theirs) = (with(7, &["one", "two"]), with(8, &["three"]));
    let nothing = Automerge::new().generate_sync_message(&mut State::new()).unwrap();
    write("sync-nothing", "request", nothing.clone().encode());
    let mut asks = theirs.generate_sync_message(&mut State::new()).unwrap();
    asks.need = ours.get_heads();
    write("sync-asks", "sync", asks.encode());
    let mut state = State::new();
    theirs.receive_sync_message(&mut state, nothing).unwrap();
    write("sync-whole", "sync", theirs.generate_sync_message(&mut state).unwrap().encode());
    let mut state = State::new();
    let first = ours.generate_sync_message(&mut State::new()).unwrap();
    theirs.receive_sync_message(&mut state, first).unwrap();
    write("sync-both", "sync", theirs.generate_sync_message(&mut state).unwrap().encode());
}
