//! Copies of tenants: whole, at a commit boundary, plain files; and a root out of them that opens only when it is complete.
#![cfg(not(shuttle))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests say what failed by panicking"
)]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use seabed_kv::sqlite::{Restore, SqliteOptions};
use seabed_kv::{Applied, Batch, Copied, Durability, ErrorKind, KeyRange, ScanSpec, Store, Tenant};

type Rows = Vec<(Vec<u8>, Vec<u8>, Vec<u8>)>;

fn rows(tenant: &Tenant) -> Rows {
    let mut rows = Vec::new();
    for category in tenant.categories().wait().unwrap() {
        for row in tenant.scan(ScanSpec::new(&category, KeyRange::all())).collect().wait().unwrap() {
            rows.push((category.clone(), row.key.into_bytes(), row.payload));
        }
    }
    rows
}

fn opened(file: &Path) -> Tenant {
    let files = Store::sqlite_files([("t".parse().unwrap(), file.to_owned())]);
    files.open("t").wait().unwrap()
}

/// Two rows that always tell the same number, and one for each number so far.
fn count_up(tenant: &Tenant, number: u64, durability: Durability) {
    let mut batch = Batch::new();
    batch.put("a", b"last", number.to_be_bytes());
    batch.put("log", number.to_be_bytes(), vec![u8::try_from(number % 251).unwrap(); 3_000]);
    batch.put("z", b"last", number.to_be_bytes());
    assert!(tenant.apply(batch, durability).wait().unwrap().is_applied());
}

/// The number that a copy was taken at, after everything in it was seen to be of that moment.
fn number_of(file: &Path) -> u64 {
    let copy = opened(file);
    let report = copy.verify().wait().unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    let last = |category: &str| {
        u64::from_be_bytes(copy.get(category, b"last").wait().unwrap().unwrap().try_into().unwrap())
    };
    let number = last("a");
    assert_eq!(last("z"), number, "a batch is in the copy whole or not at all");
    let log = copy.scan(ScanSpec::new("log", KeyRange::all())).collect().wait().unwrap();
    assert_eq!(log.len() as u64, number + 1, "and so is every one before it");
    for (expected, row) in log.iter().enumerate() {
        assert_eq!(row.key.as_bytes(), (expected as u64).to_be_bytes());
        assert_eq!(row.payload, vec![u8::try_from(expected % 251).unwrap(); 3_000]);
    }
    number
}

#[test]
fn a_copy_under_load_is_the_tenant_at_one_commit_with_everything_acknowledged_before() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::sqlite(directory.path().join("data")).unwrap();
    let tenant = store.open("t").wait().unwrap();
    for number in 0..1_500 {
        count_up(&tenant, number, Durability::Relaxed);
    }
    let (acknowledged, done) = (AtomicU64::new(1_499), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 1_500;
            while !done.load(Ordering::Relaxed) {
                let durability = if number % 3 == 0 { Durability::Durable } else { Durability::Relaxed };
                count_up(&tenant, number, durability);
                acknowledged.store(number, Ordering::Release);
                number += 1;
            }
        });
        let mut moved_on = 0;
        for copy in 0..6 {
            let before = acknowledged.load(Ordering::Acquire);
            let file = directory.path().join(format!("copy {copy}%?#.db"));
            assert_eq!(tenant.backup(&file, None).wait().unwrap(), Copied::Written);
            let number = number_of(&file);
            assert!(number >= before, "{number} was copied, {before} was acknowledged before");
            moved_on += u64::from(number > before);
        }
        done.store(true, Ordering::Relaxed);
        assert!(moved_on > 0, "writes went on while the tenant was copied");
    });
    store.close().wait().unwrap();
}

#[test]
fn a_copy_is_a_plain_file_that_opens_anywhere() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::sqlite(directory.path().join("data")).unwrap();
    let tenant = store.open("t").wait().unwrap();
    let mut batch = Batch::new();
    batch.put("", b"", b"").put("c", b"k", b"payload").put("c", b"large", vec![3; 1_000_000]);
    tenant.apply(batch, Durability::Relaxed).wait().unwrap();
    let file = directory.path().join("t.db");
    tenant.backup(&file, None).wait().unwrap();
    assert_eq!(rows(&opened(&file)), rows(&tenant), "relaxed commits are in it");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let beside: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(beside.len(), 2, "a copy needs nothing beside it: {beside:?}");

    let script = "import sqlite3,sys\n\
                  db=sqlite3.connect('file:'+sys.argv[1]+'?immutable=1',uri=True)\n\
                  print(db.execute('pragma integrity_check').fetchone()[0], db.execute('pragma user_version').fetchone()[0],\
                  db.execute('select count(*), sum(length(payload)) from kv').fetchone())";
    let output =
        Command::new("python3").arg("-c").arg(script).arg(&file).output().expect("python3 is needed");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "ok 1 (3, 1000007)");

    // As a tenant of a store of its own, to be written to.
    let other = Store::sqlite(directory.path()).unwrap();
    let copy = other.open("t").wait().unwrap();
    assert_eq!(rows(&copy), rows(&tenant));
    copy.put("c", b"k", b"another").wait().unwrap();
    other.close().wait().unwrap();
    assert_eq!(tenant.get("c", b"k").wait().unwrap(), Some(b"payload".to_vec()));
}

#[test]
fn only_a_tenant_that_did_not_change_is_not_kept_twice() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("data");
    let (first, next) = (directory.path().join("first"), directory.path().join("next"));
    let mut store = Store::sqlite(&root).unwrap();
    let mut tenant = store.open("t").wait().unwrap();
    for number in 0..400 {
        count_up(&tenant, number, Durability::Relaxed);
    }
    tenant.backup(&first, None).wait().unwrap();
    let unchanged = |tenant: &Tenant| {
        assert_eq!(tenant.backup(&next, Some(&first)).wait().unwrap(), Copied::Unchanged);
        assert!(!next.exists());
    };
    unchanged(&tenant);
    // The same bytes again, reads, a flush, a check, closing and opening: none of it is a change.
    count_up(&tenant, 399, Durability::Durable);
    tenant.flush().wait().unwrap();
    tenant.verify().wait().unwrap();
    unchanged(&tenant);
    for _ in 0..2 {
        store.close().wait().unwrap();
        store = Store::sqlite(&root).unwrap();
        tenant = store.open("t").wait().unwrap();
        unchanged(&tenant);
    }
    // One byte of one payload, with the size as it was.
    let row = tenant.get("log", 7_u64.to_be_bytes()).wait().unwrap().unwrap();
    let mut other = row.clone();
    other[2_999] ^= 1;
    tenant.put("log", 7_u64.to_be_bytes(), other).wait().unwrap();
    assert_eq!(tenant.backup(&next, Some(&first)).wait().unwrap(), Copied::Written);
    assert_eq!(fs::metadata(&next).unwrap().len(), fs::metadata(&first).unwrap().len());
    fs::remove_file(&next).unwrap();
    // And back again.
    tenant.put("log", 7_u64.to_be_bytes(), row).wait().unwrap();
    unchanged(&tenant);
    // A previous copy that is damaged, cut off or gone is another.
    let whole = fs::read(&first).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() - 1] ^= 1;
    for previous in [damaged, whole[..whole.len() - 1].to_vec(), [whole.clone(), vec![0]].concat()] {
        fs::write(&first, previous).unwrap();
        assert_eq!(tenant.backup(&next, Some(&first)).wait().unwrap(), Copied::Written);
        assert!(fs::read(&next).unwrap() == whole);
        fs::remove_file(&next).unwrap();
    }
    fs::remove_file(&first).unwrap();
    assert_eq!(tenant.backup(&next, Some(&first)).wait().unwrap(), Copied::Written);
}

#[test]
fn a_copy_that_cannot_be_made_leaves_nothing_and_harms_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::sqlite(directory.path().join("data")).unwrap();
    let tenant = store.open("t").wait().unwrap();
    count_up(&tenant, 0, Durability::Durable);
    let file = directory.path().join("mine");
    fs::write(&file, b"precious").unwrap();
    let error = tenant.backup(&file, None).wait().unwrap_err();
    assert_eq!((error.kind(), error.applied()), (ErrorKind::InvalidArgument, Applied::No));
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    let error = tenant.backup(directory.path().join("no/such/place"), None).wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Backend);
    assert!(error.to_string().contains("no/such/place"), "{error}");
    count_up(&tenant, 1, Durability::Durable);
    store.close().wait().unwrap();
    let error = tenant.backup(directory.path().join("late"), None).wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    assert!(!directory.path().join("late").exists());

    let memory = Store::memory();
    let error = memory.open("t").wait().unwrap().backup(&file, None).wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn files_are_only_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::sqlite(directory.path().join("data")).unwrap();
    count_up(&store.open("t").wait().unwrap(), 0, Durability::Durable);
    let file = directory.path().join("copy");
    store.tenant("t").unwrap().backup(&file, None).wait().unwrap();
    let before = fs::read(&file).unwrap();
    let files = Store::sqlite_files([("t".parse().unwrap(), file.clone())]);
    assert_eq!(files.list().wait().unwrap().len(), 1);
    let copy = files.open("t").wait().unwrap();
    assert_eq!(copy.put("c", b"k", b"x").wait().unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(copy.stats().wait().unwrap().data_bytes, before.len() as u64);
    assert_eq!(copy.snapshot().wait().unwrap().get("a", b"last").wait().unwrap(), Some(vec![0; 8]));
    assert_eq!(files.drop_tenant("t").wait().unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(files.open("other").wait().unwrap_err().kind(), ErrorKind::TenantNotFound);
    assert!(fs::read(&file).unwrap() == before);
    // What is no tenant's file is told as it is by a store.
    for (bytes, kind) in [(&b"hello"[..], ErrorKind::Unsupported), (&before[..5_000], ErrorKind::Corrupt)] {
        fs::write(&file, bytes).unwrap();
        let files = Store::sqlite_files([("t".parse().unwrap(), file.clone())]);
        assert_eq!(files.open("t").wait().unwrap_err().kind(), kind);
    }
}

#[test]
fn a_root_that_is_being_restored_opens_only_when_it_is_complete() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::sqlite(directory.path().join("data")).unwrap();
    let mut copies = Vec::new();
    for id in ["one", "two", "an/odd one"] {
        let tenant = store.open(id).wait().unwrap();
        count_up(&tenant, 0, Durability::Durable);
        let file = directory.path().join(format!("{}.copy", copies.len()));
        tenant.backup(&file, None).wait().unwrap();
        copies.push((tenant.id().clone(), file));
    }
    let root = directory.path().join("deep/new");
    // Interrupted after each step there is: unusable, and done again.
    for done in 0..=copies.len() {
        let restore = Restore::begin(&root).unwrap();
        let other = Restore::begin(&root).unwrap_err();
        assert_eq!(other.kind(), ErrorKind::Busy, "one at a time");
        for (id, file) in &copies[..done] {
            restore.add(id, file).unwrap();
        }
        drop(restore);
        let half = Store::sqlite(&root).unwrap();
        let error = half.open("one").wait().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("run it again"), "{error}");
        assert!(half.own().is_err());
    }
    let restore = Restore::begin(&root).unwrap();
    for (id, file) in &copies {
        let place = restore.add(id, file).unwrap();
        assert!(fs::read(place).unwrap() == fs::read(file).unwrap());
        assert_eq!(restore.add(id, file).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    restore.finish().unwrap();
    let restored = Store::sqlite(&root).unwrap();
    for (id, _) in &copies {
        let tenant = restored.open(id.as_str()).wait().unwrap();
        assert_eq!(rows(&tenant), rows(&store.tenant(id.as_str()).unwrap()));
    }
    restored.close().wait().unwrap();
    // A place that holds something is left alone.
    let error = Restore::begin(&root).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("not empty"), "{error}");
    assert_eq!(rows(&Store::sqlite(&root).unwrap().open("one").wait().unwrap()).len(), 3);
}

#[test]
fn copying_many_tenants_keeps_few_files_open() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("data");
    let options = SqliteOptions { open_tenants_max: 2, ..SqliteOptions::default() };
    let store = Store::sqlite_with(&root, options).unwrap();
    let tenants: Vec<_> = (0..12).map(|number| store.open(format!("t{number}")).wait().unwrap()).collect();
    for (number, tenant) in tenants.iter().enumerate() {
        count_up(tenant, 0, Durability::Durable);
        let copy = directory.path().join(format!("copy-{number}"));
        tenant.backup(&copy, None).wait().unwrap();
        assert_eq!(number_of(&copy), 0);
    }
    let mut open: Vec<_> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .filter(|path| path.starts_with(&root) && path.extension().is_some_and(|extension| extension == "db"))
        .collect();
    open.sort();
    open.dedup();
    assert!(open.len() <= 2, "{open:?}");
    // Those at rest are copied too, with what is only in their logs.
    for (number, tenant) in tenants.iter().enumerate() {
        let (copy, next) = (directory.path().join(format!("copy-{number}")), directory.path().join("next"));
        assert_eq!(tenant.backup(&next, Some(&copy)).wait().unwrap(), Copied::Unchanged);
    }
    store.close().wait().unwrap();
}

/// A read that fails of a mapped page is no error: it kills the process, and this test with it.
#[test]
fn a_verification_survives_pages_that_are_no_more_there() {
    let directory = tempfile::tempdir().unwrap();
    let (root, copy) = (directory.path().join("root"), directory.path().join("copy"));
    let fill = Store::sqlite(&root).unwrap();
    let tenant = fill.open("t").wait().unwrap();
    for number in 0..200 {
        count_up(&tenant, number, Durability::Relaxed);
    }
    tenant.backup(&copy, None).wait().unwrap();
    drop(tenant);
    fill.close().wait().unwrap();
    drop(fill);
    let store = Store::sqlite(&root).unwrap();
    for (tenant, file) in [(opened(&copy), copy), (store.open("t").wait().unwrap(), root.join("t.db"))] {
        assert!(tenant.verify().wait().unwrap().findings.is_empty());
        assert!(tenant.get("z", b"last").wait().unwrap().is_some());
        fs::File::options().write(true).open(&file).unwrap().set_len(8_192).unwrap();
        assert!(tenant.verify().wait().map_or(true, |report| !report.findings.is_empty()));
    }
}

#[test]
#[cfg(unix)]
fn files_are_their_owners_alone_also_in_a_directory_that_lets_others_in() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let (root, copy, new) =
        (directory.path().join("root"), directory.path().join("copy"), directory.path().join("new"));
    for root in [&root, &new] {
        fs::create_dir(root).unwrap();
        fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let store = Store::sqlite(&root).unwrap();
    let tenant = store.open("t").wait().unwrap();
    tenant.put("c", b"k", b"v").wait().unwrap();
    tenant.backup(&copy, None).wait().unwrap();
    let restore = Restore::begin(&new).unwrap();
    let restored = restore.add(&"t".parse().unwrap(), &copy).unwrap();
    for file in [root.join("t.db"), root.join("t.db-wal"), copy, restored] {
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
}
