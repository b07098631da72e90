//! Moving in from automerge-repo's directories and back out: repeatable, with a report, and nothing lost on the way.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what the helpers of a test cannot have fails the test"
)]

mod common;

use std::fs;
use std::path::Path;

use common::*;
use pollster::block_on;
use seabed_automerge::{Append, DocStore, DocumentId, ImportReport};
use seabed_kv::{ErrorKind, Store};

/// Writes a value as automerge-repo does.
fn write(root: &Path, document: DocumentId, kind: &str, name: &str, bytes: &[u8]) {
    let id = document.to_string();
    let folder = root.join(&id[..2]).join(&id[2..]).join(kind);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(name), bytes).unwrap();
}

/// A directory as a server leaves it: its own id, snapshots, single changes, a sync state.
fn directory(root: &Path) {
    fs::create_dir_all(root.join("st")).unwrap();
    fs::write(root.join("st/orage-adapter-id"), "3760df37-a4c6-4f66-9ecd-732039a9385d").unwrap();
    let document = plain(40);
    write(root, id(1), "snapshot", "aaaa", &document.save());
    write(root, id(1), "sync-state", "peer", &[0x43, 0]);
    let changes = plain(10).get_changes(&[]);
    for (number, change) in changes.iter().enumerate() {
        // In the order of hashes, which is none.
        write(root, id(2), "incremental", &format!("{}", 9 - number), change.raw_bytes());
    }
}

fn import(documents: &DocStore, root: &Path) -> ImportReport {
    block_on(documents.import_directory(root, NOW_MS, || [7; 16])).unwrap()
}

#[test]
fn an_import_can_be_repeated_and_brings_what_is_new() {
    let place = tempfile::tempdir().unwrap();
    directory(place.path());
    let store = Store::memory();
    let documents = documents(&store);
    let report = import(&documents, place.path());
    assert_eq!((report.documents, report.imported, report.unchanged, report.changes), (2, 2, 0, 50));
    assert_eq!((report.damaged, report.refused), (0, 0), "{:?}", report.refusals);
    assert_eq!((stored(&documents, id(1)).len(), stored(&documents, id(2)).len()), (40, 10));
    assert_sound(&store);
    let before = rows(&store);
    let report = import(&documents, place.path());
    assert_eq!((report.imported, report.unchanged), (0, 2));
    assert_eq!(rows(&store), before);
    // Something new on both sides.
    assert!(put(&mut load(&documents, id(1)), "here"));
    write(place.path(), id(1), "snapshot", "bbbb", &plain(3).save());
    let report = import(&documents, place.path());
    assert_eq!((report.imported, report.unchanged, report.changes), (1, 1, 3));
    assert!(stored(&documents, id(1)).contains(&"here".to_owned()));
    assert_sound(&store);
}

#[test]
fn an_export_is_what_an_import_takes() {
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    directory(&from);
    let documents = documents(&Store::memory());
    import(&documents, &from);
    let report = block_on(documents.export_directory(&to, None)).unwrap();
    assert_eq!((report.documents, report.written, report.refused), (2, 2, 0));
    let again = block_on(documents.export_directory(&to, None)).unwrap();
    assert_eq!((again.documents, again.written), (2, 0), "what is there is left as it is");
    let others = common::documents(&Store::memory());
    assert_eq!(import(&others, &to).imported, 2);
    for number in [1, 2] {
        let heads = |documents: &DocStore| load(documents, id(number)).document().get_heads();
        assert_eq!(heads(&others), heads(&documents));
    }
    // After a change another snapshot lies beside the first, and both load.
    assert!(put(&mut load(&documents, id(1)), "later"));
    let report = block_on(documents.export_directory(&to, Some(id(1)))).unwrap();
    assert_eq!((report.documents, report.written), (1, 1));
    assert_eq!(import(&others, &to).changes, 1);
    let names: Vec<_> = walk(&to);
    assert!(names.iter().all(|name| !name.contains("part")), "{names:?}");
}

#[test]
fn an_export_overwrites_nothing_and_leaves_nothing_out() {
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("some/where");
    let documents = documents(&Store::memory());
    let changes = plain(4).get_changes(&[]);
    let waiting = Append {
        changes: vec![changes[0].clone(), changes[1].clone(), changes[3].clone()],
        now_unix_ms: NOW_MS,
        ..Append::default()
    };
    block_on(documents.append(id(1), None, waiting, ())).unwrap();
    let export = || block_on(documents.export_directory(&to, None)).unwrap();
    let report = export();
    assert_eq!((report.documents, report.written, report.refused), (1, 2, 0));
    let others = common::documents(&Store::memory());
    import(&others, &to);
    load(&others, id(1)).apply_changes([changes[2].clone()]).unwrap();
    assert_eq!(stored(&others, id(1)).len(), 4, "what waited came along");
    // The same state in other bytes, as automerge-repo would have written it.
    let snapshot = walk(&to).into_iter().find(|path| path.contains("snapshot")).unwrap();
    let mut same = automerge::Automerge::new();
    same.apply_changes(changes[..2].to_vec()).unwrap();
    let other_bytes = same.save_nocompress();
    let other_bytes = [other_bytes, changes[0].raw_bytes().to_vec()].concat();
    fs::write(&snapshot, &other_bytes).unwrap();
    let report = export();
    assert_eq!((report.written, report.refused), (0, 0));
    assert!(fs::read(&snapshot).unwrap() == other_bytes);
    // What does not read is no reason to take it away.
    fs::write(&snapshot, b"damaged").unwrap();
    let report = export();
    assert_eq!((report.written, report.refused), (0, 1));
    assert!(snapshot.ends_with(&report.refusals[0].what), "{:?}", report.refusals);
    assert_eq!(fs::read(&snapshot).unwrap(), b"damaged");
}

fn walk(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names.extend(walk(&path));
        } else {
            names.push(path.display().to_string());
        }
    }
    names
}

#[test]
fn what_is_damaged_is_told_and_the_rest_comes_in() {
    let place = tempfile::tempdir().unwrap();
    directory(place.path());
    let changes = plain(6).get_changes(&[]);
    for (number, change) in changes.iter().enumerate() {
        let mut bytes = change.raw_bytes().to_vec();
        if number == 4 {
            bytes.truncate(30);
        }
        write(place.path(), id(3), "incremental", &format!("{number}"), &bytes);
    }
    let store = Store::memory();
    let documents = documents(&store);
    let report = import(&documents, place.path());
    assert_eq!((report.documents, report.imported, report.damaged), (3, 3, 1));
    assert!(report.refusals[0].what.ends_with("incremental/4"), "{:?}", report.refusals);
    assert_eq!(stored(&documents, id(3)).len(), 4);
    assert_sound(&store);
    // The change behind the hole is here and waits: when the hole is filled it shows.
    write(place.path(), id(3), "incremental", "4", changes[4].raw_bytes());
    let report = import(&documents, place.path());
    assert_eq!((report.imported, report.damaged, report.changes), (1, 0, 1));
    assert_eq!(stored(&documents, id(3)).len(), 6);
    let before = rows(&store);
    assert_eq!(import(&documents, place.path()).unchanged, 3);
    assert_eq!(rows(&store), before);
}

#[test]
fn what_was_deleted_or_splits_a_document_is_refused() {
    let place = tempfile::tempdir().unwrap();
    directory(place.path());
    let store = Store::memory();
    let documents = documents(&store);
    block_on(documents.delete(id(1), 9)).unwrap();
    let actor = plain(1).get_changes(&[])[0].actor_id().clone();
    let one_of = |key: &str| {
        use automerge::transaction::Transactable as _;
        let mut document = automerge::Automerge::new().with_actor(actor.clone());
        document.transact::<_, _, automerge::AutomergeError>(|tx| tx.put(automerge::ROOT, key, 1)).unwrap();
        document.get_changes(&[])
    };
    load(&documents, id(3)).apply_changes(one_of("here")).unwrap();
    write(place.path(), id(3), "incremental", "1", one_of("there")[0].raw_bytes());
    let report = import(&documents, place.path());
    assert_eq!((report.documents, report.imported, report.refused), (3, 1, 2));
    let why: Vec<_> = report.refusals.iter().map(|refused| refused.why.as_str()).collect();
    assert!(
        why.iter().any(|why| why.contains("deleted")) && why.iter().any(|why| why.contains("duplicate seq"))
    );
    assert_eq!(stored(&documents, id(3)), ["here"]);
    assert_sound(&store);
}

#[test]
fn a_directory_that_is_none_is_refused_and_an_empty_one_is_nothing() {
    let place = tempfile::tempdir().unwrap();
    let documents = documents(&Store::memory());
    let missing = block_on(documents.import_directory(&place.path().join("none"), NOW_MS, || [7; 16]));
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::InvalidArgument);
    fs::create_dir_all(place.path().join("ab/no document/snapshot")).unwrap();
    fs::write(place.path().join("file"), b"x").unwrap();
    assert_eq!(import(&documents, place.path()), ImportReport::default());
}
