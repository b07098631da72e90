//! Tenants that let go of their files for others, or because nobody uses them: nobody notices but the clock.
#![cfg(not(shuttle))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests say what failed by panicking"
)]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use seabed_kv::sqlite::SqliteOptions;
use seabed_kv::{Batch, Durability, ErrorKind, KeyRange, Outcome, ScanSpec, Store, Tenant};

const OPEN_MAX: usize = 4;
/// What may be in use on top: each of the kernel's writer threads may still be putting a tenant down.
const WRITERS: usize = 4;

fn store(root: &Path) -> Store {
    let options = SqliteOptions { open_tenants_max: OPEN_MAX, ..SqliteOptions::default() };
    Store::sqlite_with(root, options).unwrap()
}

fn tenants(store: &Store, count: usize) -> Vec<Tenant> {
    (0..count).map(|number| store.open(format!("t{number}")).wait().unwrap()).collect()
}

/// The tenants that have files open, by the account of the kernel.
fn open_files(root: &Path) -> BTreeSet<String> {
    let root = root.canonicalize().unwrap();
    let links = std::fs::read_dir("/proc/self/fd").unwrap();
    links
        .filter_map(|link| std::fs::read_link(link.unwrap().path()).ok())
        .filter_map(|file| {
            file.strip_prefix(&root).ok()?.to_str()?.split_once(".db").map(|(id, _)| id.to_owned())
        })
        .collect()
}

/// Uses the others until a tenant has let go. The writer thread that served it may still be putting it down.
fn evict(root: &Path, evicted: &Tenant, others: &[Tenant]) {
    while open_files(root).contains(evicted.id().as_str()) {
        for tenant in others {
            tenant.exists("c", b"k").wait().unwrap();
        }
    }
}

#[test]
fn a_bounded_number_has_its_files_open_and_all_have_their_data() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let tenants = tenants(&store, 20);
    for round in 0..3_u64 {
        for (number, tenant) in tenants.iter().enumerate() {
            let number = number as u64;
            tenant.put("c", b"k", (round * 100 + number).to_be_bytes()).wait().unwrap();
            assert!(open_files(root.path()).len() <= OPEN_MAX + WRITERS, "{:?}", open_files(root.path()));
        }
        for (number, tenant) in tenants.iter().enumerate() {
            let number = number as u64;
            let found = tenant.get("c", b"k").wait().unwrap();
            assert_eq!(found, Some((round * 100 + number).to_be_bytes().to_vec()));
            assert!(open_files(root.path()).len() <= OPEN_MAX + WRITERS);
        }
    }
    store.close().wait().unwrap();
    assert_eq!(open_files(root.path()), BTreeSet::new());
}

#[test]
fn the_one_that_was_used_least_lately_lets_go() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let tenants = tenants(&store, 10);
    // Nothing was written, so nobody is at work but us.
    for turn in [6, 7, 8, 9, 6, 7, 8, 0] {
        tenants[turn].get("c", b"k").wait().unwrap();
    }
    let open = open_files(root.path());
    assert!(open.contains("t0") && !open.contains("t9") && open.contains("t8"), "{open:?}");
}

#[test]
fn the_one_that_is_used_often_stays_while_many_are_used_once() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let tenants = tenants(&store, 20);
    for _ in 0..8 {
        tenants[0].get("c", b"k").wait().unwrap();
        tenants[1].get("c", b"k").wait().unwrap();
    }
    for tenant in &tenants[2..] {
        tenant.get("c", b"k").wait().unwrap();
    }
    let open = open_files(root.path());
    assert!(open.contains("t0") && open.contains("t1") && open.contains("t19"), "{open:?}");
}

#[test]
fn an_evicted_tenant_is_open_for_the_program() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let tenants = tenants(&store, 3 * OPEN_MAX);
    evict(root.path(), &tenants[0], &tenants[1..]);
    assert!(store.has("t0"));
    store.put("t0", "c", b"k", b"by id").wait().unwrap();
    assert_eq!(tenants[0].get("c", b"k").wait().unwrap(), Some(b"by id".to_vec()));
    assert_eq!(store.open("t0").wait().unwrap().count("c", &KeyRange::all()).wait().unwrap(), 1);

    // Closed and dropped while its files are: its handles answer Closed, and the file goes.
    evict(root.path(), &tenants[0], &tenants[1..]);
    store.close_tenant("t0").wait().unwrap();
    assert_eq!(tenants[0].get("c", b"k").wait().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(tenants[0].put("c", b"k", b"late").wait().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(store.open("t0").wait().unwrap().get("c", b"k").wait().unwrap(), Some(b"by id".to_vec()));
    evict(root.path(), &tenants[1], &tenants[2..]);
    store.drop_tenant("t1").wait().unwrap();
    assert!(!root.path().join("t1.db").exists() && !root.path().join("t1.db-wal").exists());
}

#[test]
fn letting_go_carries_nothing_over_and_what_was_relaxed_can_still_be_made_durable() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let tenants = tenants(&store, 1);
    let file = || std::fs::read(root.path().join("t0.db")).unwrap();
    let before = file();
    let mut batch = Batch::new();
    batch.put("c", b"k", b"relaxed");
    let Outcome::Applied(commit) = tenants[0].apply(batch, Durability::Relaxed).wait().unwrap() else {
        panic!("nothing was checked");
    };
    let others: Vec<_> =
        (1..=OPEN_MAX).map(|number| store.open(format!("t{number}")).wait().unwrap()).collect();
    evict(root.path(), &tenants[0], &others);
    assert!(file() == before, "what is in the log stays there");
    assert!(root.path().join("t0.db-wal").metadata().unwrap().len() > 0);
    // The commit is remembered, and a flush behind it finds what to flush.
    commit.wait_durable().wait().unwrap();
    assert!(open_files(root.path()).contains("t0"));
    assert_eq!(tenants[0].get("c", b"k").wait().unwrap(), Some(b"relaxed".to_vec()));
    let mut again = Batch::new();
    again.check_equals("c", b"k", b"relaxed").put("c", b"k", b"durable");
    let Outcome::Applied(later) = tenants[0].apply(again, Durability::Durable).wait().unwrap() else {
        panic!("the check holds");
    };
    assert!(later.seq > commit.seq, "an opening that the program did not make is no new sequence");
}

#[test]
fn a_file_that_was_moved_away_or_damaged_meanwhile_is_not_made_anew() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let tenants = tenants(&store, 3 * OPEN_MAX);
    for tenant in &tenants[..2] {
        tenant.put("c", b"k", b"x").wait().unwrap();
    }
    evict(root.path(), &tenants[0], &tenants[2..]);
    evict(root.path(), &tenants[1], &tenants[2..]);
    let (file, moved) = (root.path().join("t0.db"), root.path().join("elsewhere"));
    std::fs::rename(&file, &moved).unwrap();
    assert!(tenants[0].put("c", b"k", b"y").wait().is_err());
    assert!(!file.exists(), "nothing was made in its place");
    std::fs::rename(&moved, &file).unwrap();
    assert_eq!(tenants[0].get("c", b"k").wait().unwrap(), Some(b"x".to_vec()));

    let log = root.path().join("t1.db-wal");
    let mut damaged = std::fs::read(&log).unwrap();
    damaged[13] ^= 1;
    std::fs::write(&log, &damaged).unwrap();
    assert_eq!(tenants[1].put("c", b"k", b"y").wait().unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(std::fs::read(&log).unwrap() == damaged, "what is left can be looked at");
}

#[test]
fn a_snapshot_keeps_its_tenant_open() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let tenants = tenants(&store, 3 * OPEN_MAX);
    tenants[0].put("c", b"k", b"old").wait().unwrap();
    let snapshot = tenants[0].snapshot().wait().unwrap();
    for tenant in &tenants[1..] {
        tenant.put("c", b"k", b"x").wait().unwrap();
    }
    tenants[0].put("c", b"k", b"new").wait().unwrap();
    for tenant in &tenants[1..] {
        tenant.exists("c", b"k").wait().unwrap();
    }
    assert!(open_files(root.path()).contains("t0"));
    assert_eq!(snapshot.get("c", b"k").wait().unwrap(), Some(b"old".to_vec()));
}

#[test]
fn a_tenant_that_nobody_uses_is_closed_whole() {
    let root = tempfile::tempdir().unwrap();
    let options = SqliteOptions { idle_ms_max: 20, ..SqliteOptions::default() };
    let store = Store::sqlite_with(root.path(), options).unwrap();
    let tenant = store.open("t").wait().unwrap();
    let mut batch = Batch::new();
    batch.put("c", b"k", b"x");
    tenant.apply(batch, Durability::Relaxed).wait().unwrap();
    // The sweeping thread comes by on its own.
    while !open_files(root.path()).is_empty() {
        std::thread::yield_now();
    }
    assert!(!root.path().join("t.db-wal").exists(), "the log was carried over and removed");
    // The log of one that let go for others is carried over, too.
    let others = SqliteOptions { open_tenants_max: 1, idle_ms_max: 20, ..SqliteOptions::default() };
    let other_root = tempfile::tempdir().unwrap();
    let other_store = Store::sqlite_with(other_root.path(), others).unwrap();
    for tenant in tenants(&other_store, 6) {
        let mut batch = Batch::new();
        batch.put("c", b"k", b"x");
        tenant.apply(batch, Durability::Relaxed).wait().unwrap();
    }
    while (0..6).any(|number| other_root.path().join(format!("t{number}.db-wal")).exists()) {
        std::thread::yield_now();
    }
    other_store.close().wait().unwrap();
    assert!(store.has("t"));
    assert_eq!(tenant.get("c", b"k").wait().unwrap(), Some(b"x".to_vec()));
    tenant.put("c", b"k", b"y").wait().unwrap();
    assert_eq!(tenant.get("c", b"k").wait().unwrap(), Some(b"y".to_vec()));
    store.close().wait().unwrap();
}

#[test]
fn many_threads_use_more_tenants_than_may_be_open() {
    const TENANTS: u64 = 24;
    let root = tempfile::tempdir().unwrap();
    let options = SqliteOptions { open_tenants_max: 3, idle_ms_max: 1, ..SqliteOptions::default() };
    let store = Store::sqlite_with(root.path(), options).unwrap();
    let written: Vec<AtomicU64> = (0..TENANTS).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let (store, written) = (&store, &written);
            scope.spawn(move || {
                for turn in 0..150_u64 {
                    // Each thread goes its own way through them.
                    let number = (thread * 7 + turn * (2 * thread + 1)) % TENANTS;
                    let tenant = store.open(format!("t{number}")).wait().unwrap();
                    let durability = if turn % 3 == 0 { Durability::Durable } else { Durability::Relaxed };
                    let mut batch = Batch::new();
                    let key = [thread.to_be_bytes(), turn.to_be_bytes()].concat();
                    batch.check_absent("c", &key).put("c", &key, b"x");
                    assert!(tenant.apply(batch, durability).wait().unwrap().is_applied());
                    written[usize::try_from(number).unwrap()].fetch_add(1, Ordering::Relaxed);
                    assert!(tenant.exists("c", &key).wait().unwrap(), "read your writes");
                    if turn % 20 == 0 {
                        tenant.scan(ScanSpec::new("c", KeyRange::all())).collect().wait().unwrap();
                    }
                }
            });
        }
    });
    store.close().wait().unwrap();
    let store = Store::sqlite(root.path()).unwrap();
    for (number, written) in written.iter().enumerate() {
        let tenant = store.open(format!("t{number}")).wait().unwrap();
        let found = tenant.count("c", &KeyRange::all()).wait().unwrap();
        assert_eq!(found, written.load(Ordering::Relaxed), "t{number}");
        assert!(tenant.verify().wait().unwrap().findings.is_empty());
    }
}
