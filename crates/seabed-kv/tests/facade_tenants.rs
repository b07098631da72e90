//! The contract of the store facade, rule by rule: tenants, roots and ids. Each test is named after its rule and runs on SQLite
//! and in memory, unless the rule speaks of files. What the battery of `seabed_kv::conformance` holds already is run from there,
//! under the name of the rule. `docs/features.md` lists all of them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests say what failed by panicking"
)]

mod facade;

use std::fs;
use std::path::Path;
use std::thread;

use facade::{battery, everywhere, open, relaxed};
use seabed_kv::{
    Applied, Batch, Durability, ErrorKind, Key, KeyRange, Result, ScanSpec, Store, Tenant, TenantId,
};

fn all(category: &str) -> ScanSpec {
    ScanSpec::new(category, KeyRange::all())
}

fn keys(tenant: &Tenant) -> Vec<Vec<u8>> {
    let rows = tenant.scan(all("c")).collect().wait().unwrap();
    rows.into_iter().map(|row| row.key.into_bytes()).collect()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What each read and write by id answers.
fn every_call_by_id(store: &Store, id: &str) -> Vec<(&'static str, Result<()>)> {
    let mut batch = Batch::new();
    batch.put("c", b"k", b"x");
    vec![
        ("get", store.get(id, "c", b"k").wait().map(drop)),
        ("exists", store.exists(id, "c", b"k").wait().map(drop)),
        ("count", store.count(id, "c", &KeyRange::all()).wait().map(drop)),
        ("scan", store.scan(id, all("c")).collect().wait().map(drop)),
        ("scan_page", store.scan_page(id, all("c")).wait().map(drop)),
        ("categories", store.categories(id).wait().map(drop)),
        ("snapshot", store.snapshot(id).wait().map(drop)),
        ("apply", store.apply(id, batch.clone(), Durability::Durable).wait().map(drop)),
        ("try_apply", store.try_apply(id, batch, Durability::Relaxed).wait().map(drop)),
        ("put", store.put(id, "c", b"k", b"x").wait()),
        ("put_encoded", store.put_encoded(id, "c", b"k", 7_u64).wait()),
        ("delete", store.delete(id, "c", b"k").wait().map(drop)),
        ("delete_prefix", store.delete_prefix(id, "c", b"k").wait().map(drop)),
        ("flush", store.flush(id).wait()),
    ]
}

/// Every call by id answers an error of this kind, which names the tenant unless there can be none of that id.
fn refused_by_id(store: &Store, id: &str, kind: ErrorKind) {
    for (call, answer) in every_call_by_id(store, id) {
        let error = answer.expect_err(call);
        assert_eq!((error.kind(), error.applied()), (kind, Applied::No), "{call}: {error}");
        assert_eq!(error.tenant().map(TenantId::as_str), (!id.is_empty()).then_some(id), "{call}: {error}");
    }
}

#[test]
fn a_second_open_is_the_same_tenant() {
    battery("a second open is the same tenant");
    everywhere(|store| {
        // Also when many open it at once: each sees what the others wrote.
        thread::scope(|scope| {
            for number in 0..8_u8 {
                scope.spawn(move || open(store).put("c", [number], b"x").wait().unwrap());
            }
        });
        assert_eq!(keys(&open(store)).len(), 8);
    });
}

#[test]
fn opening_again_finds_the_data() {
    battery("closing keeps the data");
}

#[test]
fn opening_waits_for_a_close_that_nobody_awaited() {
    everywhere(|store| {
        for round in 0..20_u8 {
            let tenant = open(store);
            // Queued behind each other in the old opening; the new one begins after them.
            for number in 0..50 {
                drop(relaxed(&tenant, b"last", &[round, number]));
            }
            drop(store.close_tenant("t"));
            assert_eq!(tenant.get("c", b"last").wait().unwrap_err().kind(), ErrorKind::Closed);
            let again = open(store);
            assert_eq!(again.get("c", b"last").wait().unwrap(), Some(vec![round, 49]));
            drop(relaxed(&again, b"last", b"again"));
            again.flush().wait().unwrap();
            assert_eq!(again.get("c", b"last").wait().unwrap(), Some(b"again".to_vec()));
        }
    });
}

#[test]
fn a_tenant_opened_while_it_is_dropped_is_a_new_one() {
    everywhere(|store| {
        let old = open(store);
        old.put("c", b"old", b"x").wait().unwrap();
        let dropping = store.drop_tenant("t");
        let new = open(store);
        new.put("c", b"new", b"x").wait().unwrap();
        dropping.wait().unwrap();
        assert_eq!(old.get("c", b"old").wait().unwrap_err().kind(), ErrorKind::Closed);
        // What the old one's end removes is not the new one's file.
        store.close_tenant("t").wait().unwrap();
        assert_eq!(keys(&open(store)), [b"new".to_vec()]);
    });
}

#[test]
fn every_read_and_write_is_also_on_the_store_by_id() {
    everywhere(|store| {
        open(store);
        store.put("t", "c", b"1", b"one").wait().unwrap();
        store.put_encoded("t", "c", b"2", "two").wait().unwrap();
        let mut batch = Batch::new();
        batch.check_absent("c", b"3").put("c", b"3", b"three").put("d", b"", b"");
        assert!(store.apply("t", batch.clone(), Durability::Durable).wait().unwrap().is_applied());
        assert!(!store.try_apply("t", batch, Durability::Relaxed).wait().unwrap().is_applied());
        store.flush("t").wait().unwrap();

        assert_eq!(store.get("t", "c", b"1").wait().unwrap(), Some(b"one".to_vec()));
        assert!(store.exists("t", "c", b"2").wait().unwrap());
        assert!(!store.exists("t", "c", b"4").wait().unwrap());
        assert_eq!(store.count("t", "c", &KeyRange::new("2", "")).wait().unwrap(), 2);
        let rows = store.scan("t", all("c").reverse()).collect().wait().unwrap();
        assert_eq!(rows, store.tenant("t").unwrap().scan(all("c").reverse()).collect().wait().unwrap());
        assert_eq!(store.scan_page("t", all("c").limit(2)).wait().unwrap().rows.len(), 2);
        assert_eq!(store.categories("t").wait().unwrap(), [b"c".to_vec(), b"d".to_vec()]);
        let before = store.snapshot("t").wait().unwrap();
        assert!(store.delete("t", "c", b"1").wait().unwrap());
        assert!(!store.delete("t", "c", b"1").wait().unwrap());
        assert_eq!(store.delete_prefix("t", "c", b"").wait().unwrap(), 2);
        assert_eq!(before.count("c", &KeyRange::all()).wait().unwrap(), 3);
        assert_eq!(store.count("t", "c", &KeyRange::all()).wait().unwrap(), 0);
    });
}

#[test]
fn by_id_on_a_tenant_that_is_not_open_is_tenant_not_found() {
    battery("what is not open is TenantNotFound, and closing it is Ok");
    everywhere(|store| {
        refused_by_id(store, "t", ErrorKind::TenantNotFound);
        assert!(store.list().wait().unwrap().is_empty(), "nothing was made");
        refused_by_id(store, "", ErrorKind::InvalidArgument);
        open(store).put("c", b"k", b"x").wait().unwrap();
        // One that exists and was closed, too.
        store.close_tenant("t").wait().unwrap();
        refused_by_id(store, "t", ErrorKind::TenantNotFound);
        assert_eq!(open(store).get("c", b"k").wait().unwrap(), Some(b"x".to_vec()));
    });
}

#[test]
fn by_id_on_a_tenant_that_is_not_open_touches_no_disk() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    let store = Store::sqlite(&root).unwrap();
    refused_by_id(&store, "t", ErrorKind::TenantNotFound);
    store.close_tenant("t").wait().unwrap();
    store.drop_tenant("t").wait().unwrap();
    assert!(!store.has("t"));
    assert!(!root.exists(), "not even the root");
    // A file that is there is not looked at: it need not even be a database.
    fs::create_dir(&root).unwrap();
    fs::write(root.join("t.db"), b"hello").unwrap();
    refused_by_id(&store, "t", ErrorKind::TenantNotFound);
    assert_eq!(names(&root), ["t.db"]);
    assert_eq!(fs::read(root.join("t.db")).unwrap(), b"hello");
}

#[test]
fn open_means_opened_by_the_program_and_not_closed() {
    everywhere(|store| {
        assert!(!store.has("t"));
        let tenant = open(store);
        tenant.put("c", b"k", b"x").wait().unwrap();
        assert!(store.has("t") && !store.has("other") && !store.has(""));
        drop(tenant);
        assert!(store.has("t"), "no handle is needed");
        store.close_tenant("t").wait().unwrap();
        assert!(!store.has("t"));
        assert_eq!(store.list().wait().unwrap().len(), 1, "it exists all the same");
        open(store);
        drop(store.drop_tenant("t"));
        assert!(!store.has("t"), "from the call on");
        open(store);
        store.close().wait().unwrap();
        assert!(!store.has("t"));
    });
}

#[test]
fn after_a_close_old_handles_answer_closed() {
    battery("closed handles answer Closed");
}

#[test]
fn after_a_drop_old_handles_answer_closed() {
    battery("a dropped tenant is gone");
    everywhere(|store| {
        let old = open(store);
        store.drop_tenant("t").wait().unwrap();
        let new = open(store);
        // The old handle does not reach the tenant that has the same id now.
        let errors = [
            old.put("c", b"k", b"x").wait().unwrap_err(),
            old.delete("c", b"k").wait().unwrap_err(),
            old.get("c", b"k").wait().unwrap_err(),
            old.scan(all("c")).collect().wait().unwrap_err(),
            old.flush().wait().unwrap_err(),
        ];
        for error in errors {
            assert_eq!((error.kind(), error.applied()), (ErrorKind::Closed, Applied::No), "{error}");
        }
        assert!(new.categories().wait().unwrap().is_empty());
    });
}

#[test]
fn after_the_store_is_closed_its_calls_answer_closed() {
    everywhere(|store| {
        open(store);
        let first = store.close();
        store.close().wait().unwrap();
        first.wait().unwrap();
        refused_by_id(store, "t", ErrorKind::Closed);
        let errors = [
            store.open("t").wait().unwrap_err(),
            store.tenant("t").unwrap_err(),
            store.list().wait().unwrap_err(),
            store.drop_tenant("t").wait().unwrap_err(),
            store.own().unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        }
        store.close_tenant("t").wait().unwrap();
    });
}

#[test]
fn closing_what_is_not_open_and_dropping_what_does_not_exist_are_ok() {
    everywhere(|store| {
        for id in ["t", "../t"] {
            store.close_tenant(id).wait().unwrap();
            store.drop_tenant(id).wait().unwrap();
        }
        open(store);
        for _ in 0..2 {
            store.close_tenant("t").wait().unwrap();
        }
        for _ in 0..2 {
            store.drop_tenant("t").wait().unwrap();
        }
        assert!(store.list().wait().unwrap().is_empty());
    });
}

#[test]
fn a_drop_closes_first_and_removes_the_file_with_its_log() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::sqlite(root.path()).unwrap();
    for was_open in [true, false] {
        let tenant = open(&store);
        for number in 0..100 {
            drop(relaxed(&tenant, &[number], b"x"));
        }
        tenant.flush().wait().unwrap();
        assert_eq!(names(root.path()), ["LOCK", "t.db", "t.db-shm", "t.db-wal"]);
        if !was_open {
            store.close_tenant("t").wait().unwrap();
        }
        store.drop_tenant("t").wait().unwrap();
        assert_eq!(names(root.path()), ["LOCK"]);
    }
}

#[test]
fn a_drop_whose_op_is_dropped_is_carried_on_by_the_next_call() {
    everywhere(|store| {
        for end in [Store::drop_tenant, Store::close_tenant] {
            open(store).put("c", b"k", b"x").wait().unwrap();
            drop(store.drop_tenant("t"));
            end(store, "t").wait().unwrap();
            assert!(store.list().wait().unwrap().is_empty());
        }
    });
}

#[test]
fn a_store_dropped_with_ends_that_nobody_awaited_lets_go_of_its_root() {
    let root = tempfile::tempdir().unwrap();
    for end in [Store::close_tenant, Store::drop_tenant, |store: &Store, _| store.close()] {
        let store = Store::sqlite(root.path()).unwrap();
        for number in 0..50 {
            drop(relaxed(&open(&store), &[number], b"x"));
        }
        drop(end(&store, "t"));
        drop(store);
        // The writer threads end behind us; the lock is free when they have.
        let again = Store::sqlite(root.path()).unwrap();
        while again.own().is_err_and(|error| error.kind() == ErrorKind::Busy) {
            thread::yield_now();
        }
        let left = keys(&open(&again)).len();
        assert!(left == 50 || left == 0, "whole or gone: {left}");
        again.drop_tenant("t").wait().unwrap();
        again.close().wait().unwrap();
    }
}

#[test]
fn a_drop_that_cannot_delete_an_existing_file_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::sqlite(root.path()).unwrap();
    store.own().unwrap();
    // No file system removes a directory as a file, whoever asks.
    let file = root.path().join("t.db");
    fs::create_dir(&file).unwrap();
    for _ in 0..2 {
        let error = store.drop_tenant("t").wait().unwrap_err();
        assert_eq!((error.kind(), error.tenant().unwrap().as_str()), (ErrorKind::Backend, "t"), "{error}");
        assert!(error.to_string().contains("t.db"), "{error}");
    }
    fs::remove_dir(&file).unwrap();
    store.drop_tenant("t").wait().unwrap();
    // A link to nowhere is there, too, although what it leads to is not.
    std::os::unix::fs::symlink("nowhere", &file).unwrap();
    store.drop_tenant("t").wait().unwrap();
    assert_eq!(names(root.path()), ["LOCK"]);
}

#[test]
fn a_tenant_dropped_while_threads_write_it_is_gone_whole() {
    everywhere(|store| {
        let tenant = &open(store);
        thread::scope(|scope| {
            for number in 0..4_u8 {
                scope.spawn(move || {
                    for round in 0_u64.. {
                        let durability =
                            if number % 2 == 0 { Durability::Durable } else { Durability::Relaxed };
                        let mut batch = Batch::new();
                        batch.put("c", Key::of((number, round)).unwrap(), b"x");
                        if let Err(error) = tenant.apply(batch, durability).wait() {
                            assert_eq!((error.kind(), error.applied()), (ErrorKind::Closed, Applied::No));
                            return;
                        }
                    }
                });
            }
            // Not before all of them write.
            while (0..4_u8)
                .any(|number| !tenant.exists("c", Key::of((number, 0_u64)).unwrap()).wait().unwrap())
            {
                thread::yield_now();
            }
            store.drop_tenant("t").wait().unwrap();
        });
        assert!(store.list().wait().unwrap().is_empty());
        assert!(open(store).categories().wait().unwrap().is_empty());
    });
}

// Roots and ids

#[test]
fn a_root_that_is_empty_a_file_or_below_a_file_is_refused_untouched() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("file");
    fs::write(&file, b"x").unwrap();
    for root in [Path::new(""), &file, &file.join("below"), &file.join("below/deeper")] {
        assert_eq!(Store::sqlite(root).unwrap_err().kind(), ErrorKind::InvalidArgument, "{}", root.display());
    }
    assert_eq!(names(place.path()), ["file"]);
    assert_eq!(fs::read(file).unwrap(), b"x");
}

#[test]
fn directories_and_lock_appear_with_the_first_opened_tenant() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("new/deep/root");
    let store = Store::sqlite(&root).unwrap();
    assert!(store.list().wait().unwrap().is_empty());
    assert!(!place.path().join("new").exists(), "nothing is made before the first tenant");
    open(&store);
    assert!(root.join("LOCK").exists() && root.join("t.db").exists());
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&root).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700, "what is stored is nobody else's to read");
}

#[test]
fn failing_to_make_the_root_or_its_lock_is_backend() {
    let place = tempfile::tempdir().unwrap();
    // A link to nowhere is no file, and cannot be made a directory either.
    let dangling = place.path().join("dangling");
    std::os::unix::fs::symlink(place.path().join("nowhere/at/all"), &dangling).unwrap();
    let taken = place.path().join("taken");
    fs::create_dir_all(taken.join("LOCK")).unwrap();
    for root in [dangling, taken] {
        let store = Store::sqlite(&root).unwrap();
        for error in [store.open("t").wait().unwrap_err(), store.own().unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Backend, "{error}");
            assert!(error.to_string().contains(root.to_str().unwrap()), "{error}");
        }
        assert!(!store.has("t"));
    }
}

#[test]
fn odd_tenant_ids_are_stored_safely() {
    let longest = "x".repeat(200);
    let mut ids = vec![
        "sds",
        "SDS",
        "a.b",
        ".hidden",
        ".",
        "..",
        "../t",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "nul\0",
        "канал-β",
        "%41",
        "A",
        "LOCK",
        "seabed.sock",
        "t.db",
        "t.db-wal",
        "t",
        " ",
        "\n",
        "\u{202e}",
        "~",
        "*?",
        &longest,
    ];
    ids.sort_unstable();
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("root");
    let store = Store::sqlite(&root).unwrap();
    for id in &ids {
        store.open(id).wait().unwrap().put("c", b"id", *id).wait().unwrap();
    }
    for id in &ids {
        assert_eq!(store.get(id, "c", b"id").wait().unwrap(), Some(id.as_bytes().to_vec()), "{id:?}");
    }
    store.close().wait().unwrap();
    // A file each, directly in the root, and nothing elsewhere.
    assert_eq!(names(place.path()), ["root"]);
    assert_eq!(names(&root).len(), ids.len() + 1, "{:?}", names(&root));
    let again = Store::sqlite(&root).unwrap();
    let listed = again.list().wait().unwrap();
    assert_eq!(listed.iter().map(TenantId::as_str).collect::<Vec<_>>(), ids);
    for id in &ids {
        let tenant = again.open(id).wait().unwrap();
        assert_eq!(tenant.get("c", b"id").wait().unwrap(), Some(id.as_bytes().to_vec()), "{id:?}");
        again.drop_tenant(id).wait().unwrap();
    }
    assert_eq!(names(&root), ["LOCK"]);
}
