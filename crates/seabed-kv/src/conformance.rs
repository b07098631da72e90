//! The battery that each backend passes, ours or yours (feature `conformance`).
//!
//! ```
//! # #[cfg(feature = "conformance")]
//! seabed_kv::conformance::run(seabed_kv::Store::memory);
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a battery of tests says what failed by panicking"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use crate::limits::{
    BATCH_BYTES_MAX, BATCH_STEPS_MAX, CATEGORY_BYTES_MAX, KEY_BYTES_MAX, PAGE_BYTES_MAX, PAGE_ROWS_MAX,
    PAYLOAD_BYTES_MAX,
};
use crate::{
    Applied, Batch, Durability, ErrorKind, Key, KeyRange, Op, Outcome, Refusal, Row, ScanSpec, Store, Tenant,
};

/// A rule of the kernel's contract and the function that checks it on an empty store.
pub type Case = (&'static str, fn(&Store));

/// Every rule of the battery.
pub const CASES: &[Case] = &[
    ("a row is put, read and replaced", put_get_replace),
    ("a delete says whether the row was there", delete_hit_and_miss),
    ("a batch is all or nothing", batch_all_or_nothing),
    ("writes of a batch take effect in the order given", batch_in_order),
    ("each check holds and refuses, and says what it found", each_check),
    ("checks are made before the first write", checks_before_writes),
    ("an empty batch is a success", empty_batch),
    ("a prefix delete removes exactly what begins with it", prefix_delete),
    ("empty keys, payloads and categories are values", empty_values),
    ("scans go both ways over half-open, open-ended and prefix ranges", scans),
    ("a range that ends before it starts is empty", reversed_range),
    ("long scans go on where a page ended, in both directions", paging),
    ("scans, counts and lookups agree over rows of any size", rows_of_any_size),
    ("keys sort as bytes", keys_sort_as_bytes),
    ("categories and tenants do not see each other", isolation),
    ("categories are listed in order", categories),
    ("closing keeps the data", reopen),
    ("a second open is the same tenant", same_tenant),
    ("closed handles answer Closed", closed),
    ("what is not open is TenantNotFound, and closing it is Ok", not_open),
    ("a dropped tenant is gone", drop_tenant),
    ("a snapshot does not change", snapshot),
    ("a scan sees what is written ahead of it", scan_is_not_a_snapshot),
    ("a limit that is exceeded is named, and nothing is applied", limits),
    ("the largest payload, key and category are stored", largest),
    ("conditional batches of many threads lose no update", compare_and_swap),
    ("an acknowledged write is seen by every later read", read_your_writes),
    ("dropped writes happen, in the order of the calls", fire_and_forget),
    ("operations may be dropped at once", dropped_operations),
    ("a relaxed commit can be waited for", relaxed),
    ("commits are counted upwards", sequence),
    ("verify counts what it examined", verify),
];

/// Runs every case on a store of its own and panics with the list of those that failed.
///
/// # Panics
/// When a case fails.
pub fn run(empty_store: impl Fn() -> Store) {
    let mut failed = Vec::new();
    for (name, case) in CASES {
        let store = empty_store();
        let outcome = catch_unwind(AssertUnwindSafe(|| case(&store)));
        let closed = store.close().wait();
        if outcome.is_err() || closed.is_err() {
            failed.push(*name);
        }
    }
    assert!(failed.is_empty(), "{} of {} cases failed: {failed:#?}", failed.len(), CASES.len());
}

fn open(store: &Store) -> Tenant {
    store.open("battery").wait().unwrap()
}

fn apply(tenant: &Tenant, build: impl FnOnce(&mut Batch)) -> Outcome {
    let mut batch = Batch::new();
    build(&mut batch);
    tenant.apply(batch, Durability::Durable).wait().unwrap()
}

fn refused(outcome: Outcome) -> Refusal {
    outcome.applied().expect_err("the batch should have been refused")
}

fn rows(tenant: &Tenant, spec: ScanSpec) -> Vec<(Vec<u8>, Vec<u8>)> {
    let rows = tenant.scan(spec).collect().wait().unwrap();
    rows.into_iter().map(|Row { key, payload }| (key.into_bytes(), payload)).collect()
}

fn keys(tenant: &Tenant, spec: ScanSpec) -> Vec<Vec<u8>> {
    rows(tenant, spec).into_iter().map(|(key, _)| key).collect()
}

fn put_get_replace(store: &Store) {
    let tenant = open(store);
    assert_eq!(tenant.get("c", b"k").wait().unwrap(), None);
    assert!(!tenant.exists("c", b"k").wait().unwrap());
    tenant.put("c", b"k", b"one").wait().unwrap();
    assert_eq!(tenant.get("c", b"k").wait().unwrap(), Some(b"one".to_vec()));
    assert!(tenant.exists("c", b"k").wait().unwrap());
    tenant.put("c", b"k", b"two").wait().unwrap();
    assert_eq!(tenant.get("c", b"k").wait().unwrap(), Some(b"two".to_vec()));
    assert_eq!(tenant.count("c", &KeyRange::all()).wait().unwrap(), 1);
}

fn delete_hit_and_miss(store: &Store) {
    let tenant = open(store);
    tenant.put("c", b"k", b"x").wait().unwrap();
    assert!(tenant.delete("c", b"k").wait().unwrap());
    assert!(!tenant.delete("c", b"k").wait().unwrap());
    assert_eq!(tenant.get("c", b"k").wait().unwrap(), None);
}

fn batch_all_or_nothing(store: &Store) {
    let tenant = open(store);
    tenant.put("c", b"there", b"x").wait().unwrap();
    let outcome = apply(&tenant, |batch| {
        batch.check_absent("c", b"new").check_absent("c", b"there");
        batch.put("c", b"new", b"1").delete("c", b"there").put("d", b"other", b"2");
    });
    assert_eq!(refused(outcome), Refusal { check: 1, found: Some(b"x".to_vec()) });
    assert_eq!(rows(&tenant, ScanSpec::new("c", KeyRange::all())), [(b"there".to_vec(), b"x".to_vec())]);
    assert_eq!(tenant.count("d", &KeyRange::all()).wait().unwrap(), 0);
    let outcome = apply(&tenant, |batch| {
        batch.check_absent("c", b"new").check_exists("c", b"there");
        batch.put("c", b"new", b"1").delete("c", b"there").put("d", b"other", b"2");
    });
    assert!(outcome.is_applied());
    assert_eq!(keys(&tenant, ScanSpec::new("c", KeyRange::all())), [b"new".to_vec()]);
    assert_eq!(tenant.get("d", b"other").wait().unwrap(), Some(b"2".to_vec()));
}

fn batch_in_order(store: &Store) {
    let tenant = open(store);
    let outcome = apply(&tenant, |batch| {
        batch.put("c", b"a1", b"x").put("c", b"a2", b"x").delete_prefix("c", b"a").put("c", b"a1", b"y");
        batch
            .put("c", b"b", b"1")
            .put("c", b"b", b"2")
            .delete("c", b"gone")
            .put("c", b"d", b"x")
            .delete("c", b"d");
    });
    assert_eq!(outcome.applied().unwrap().deleted, 3);
    let expected = [(b"a1".to_vec(), b"y".to_vec()), (b"b".to_vec(), b"2".to_vec())];
    assert_eq!(rows(&tenant, ScanSpec::new("c", KeyRange::all())), expected);
}

type Build = Box<dyn Fn(&mut Batch)>;

fn each_check(store: &Store) {
    use sha2::Digest as _;
    let tenant = open(store);
    tenant.put("c", b"there", b"value").wait().unwrap();
    let digest = |bytes: &[u8]| sha2::Sha256::digest(bytes).into();
    let holding: [Build; 4] = [
        Box::new(|batch| {
            batch.check_absent("c", b"missing");
        }),
        Box::new(|batch| {
            batch.check_exists("c", b"there");
        }),
        Box::new(|batch| {
            batch.check_equals("c", b"there", b"value");
        }),
        Box::new(move |batch| {
            batch.check_sha256("c", b"there", digest(b"value"));
        }),
    ];
    let failing: [(Build, Option<&[u8]>); 6] = [
        (
            Box::new(|batch| {
                batch.check_absent("c", b"there");
            }),
            Some(b"value"),
        ),
        (
            Box::new(|batch| {
                batch.check_exists("c", b"missing");
            }),
            None,
        ),
        (
            Box::new(|batch| {
                batch.check_equals("c", b"there", b"other");
            }),
            Some(b"value"),
        ),
        (
            Box::new(|batch| {
                batch.check_equals("c", b"missing", b"");
            }),
            None,
        ),
        (
            Box::new(move |batch| {
                batch.check_sha256("c", b"there", digest(b"other"));
            }),
            Some(b"value"),
        ),
        (
            Box::new(move |batch| {
                batch.check_sha256("c", b"missing", digest(b""));
            }),
            None,
        ),
    ];
    for check in &holding {
        assert!(apply(&tenant, |batch| check(batch)).is_applied());
    }
    for (check, found) in &failing {
        let outcome = apply(&tenant, |batch| {
            holding[0](batch);
            check(batch);
            batch.put("c", b"never", b"x");
        });
        assert_eq!(refused(outcome), Refusal { check: 1, found: found.map(<[u8]>::to_vec) });
    }
    assert!(!tenant.exists("c", b"never").wait().unwrap());
}

fn checks_before_writes(store: &Store) {
    let tenant = open(store);
    let outcome = apply(&tenant, |batch| {
        batch.put("c", b"k", b"x").check_exists("c", b"k");
    });
    assert_eq!(refused(outcome), Refusal { check: 0, found: None });
    assert!(!tenant.exists("c", b"k").wait().unwrap());
}

fn empty_batch(store: &Store) {
    let tenant = open(store);
    for durability in [Durability::Durable, Durability::Relaxed] {
        assert!(tenant.apply(Batch::new(), durability).wait().unwrap().is_applied());
    }
}

fn prefix_delete(store: &Store) {
    let tenant = open(store);
    let all: [&[u8]; 7] = [b"", b"a", b"ab", b"ab\xff", b"b", b"\xff", b"\xff\xff\x01"];
    apply(&tenant, |batch| {
        for key in all {
            batch.put("c", key, b"x").put("other", key, b"x");
        }
    });
    for (prefix, count) in [(&b"ab"[..], 2), (b"\xff", 2), (b"zzz", 0), (b"", 3), (b"", 0)] {
        assert_eq!(tenant.delete_prefix("c", prefix).wait().unwrap(), count, "{}", prefix.escape_ascii());
    }
    assert_eq!(tenant.count("other", &KeyRange::all()).wait().unwrap(), 7);
}

fn empty_values(store: &Store) {
    let tenant = open(store);
    for category in ["", "c"] {
        for key in [&b""[..], b"k"] {
            tenant.put(category, key, b"").wait().unwrap();
            assert_eq!(tenant.get(category, key).wait().unwrap(), Some(Vec::new()));
        }
        assert_eq!(keys(&tenant, ScanSpec::new(category, KeyRange::all())), [b"".to_vec(), b"k".to_vec()]);
        assert_eq!(tenant.count(category, &KeyRange::prefix(b"")).wait().unwrap(), 2);
        assert!(
            apply(&tenant, |batch| {
                batch.check_equals(category, b"", b"");
            })
            .is_applied()
        );
        assert!(tenant.delete(category, b"").wait().unwrap());
    }
}

fn scans(store: &Store) {
    let tenant = open(store);
    apply(&tenant, |batch| {
        for key in ["a", "b", "ba", "bb", "c"] {
            batch.put("c", key, key).put("b", key, b"other").put("d", key, b"other");
        }
    });
    let table: [(KeyRange, &[&str]); 8] = [
        (KeyRange::all(), &["a", "b", "ba", "bb", "c"]),
        (KeyRange::new("b", "c"), &["b", "ba", "bb"]),
        (KeyRange::new("", "b"), &["a"]),
        (KeyRange::new("bb", ""), &["bb", "c"]),
        (KeyRange::new("b\0", "bb\0"), &["ba", "bb"]),
        (KeyRange::prefix("b"), &["b", "ba", "bb"]),
        (KeyRange::prefix("bb"), &["bb"]),
        (KeyRange::new("d", ""), &[]),
    ];
    for (range, expected) in table {
        let expected: Vec<_> =
            expected.iter().map(|key| (key.as_bytes().to_vec(), key.as_bytes().to_vec())).collect();
        let spec = ScanSpec::new("c", range.clone());
        assert_eq!(rows(&tenant, spec.clone()), expected, "{range:?}");
        assert_eq!(tenant.count("c", &range).wait().unwrap(), expected.len() as u64, "{range:?}");
        let reversed: Vec<_> = expected.iter().rev().cloned().collect();
        assert_eq!(rows(&tenant, spec.clone().reverse()), reversed, "{range:?} reversed");
        for limit in 0..3 {
            let first = expected.iter().take(limit).cloned().collect::<Vec<_>>();
            assert_eq!(rows(&tenant, spec.clone().limit(limit)), first, "{range:?} limit {limit}");
            let last = reversed.iter().take(limit).cloned().collect::<Vec<_>>();
            assert_eq!(
                rows(&tenant, spec.clone().reverse().limit(limit)),
                last,
                "{range:?} reversed limit {limit}"
            );
        }
        let bare: Vec<_> = expected.iter().map(|(key, _)| (key.clone(), Vec::new())).collect();
        assert_eq!(rows(&tenant, spec.keys_only()), bare, "{range:?} keys only");
    }
}

fn reversed_range(store: &Store) {
    let tenant = open(store);
    tenant.put("c", b"m", b"x").wait().unwrap();
    for range in [KeyRange::new("z", "a"), KeyRange::new("m", "m")] {
        assert_eq!(keys(&tenant, ScanSpec::new("c", range.clone())).len(), 0);
        assert_eq!(keys(&tenant, ScanSpec::new("c", range.clone()).reverse()).len(), 0);
        assert_eq!(tenant.count("c", &range).wait().unwrap(), 0);
    }
}

fn paging(store: &Store) {
    let tenant = open(store);
    let total = PAGE_ROWS_MAX * 2 + 7;
    let numbers: Vec<Vec<u8>> =
        (0..total).map(|number| Key::of(number as u64).unwrap().into_bytes()).collect();
    apply(&tenant, |batch| {
        for key in &numbers {
            batch.put("small", key, key.as_slice());
        }
    });
    // Backwards, a page may be full with the first of all keys.
    tenant.put("first", b"", vec![7; PAGE_BYTES_MAX]).wait().unwrap();
    let page = tenant.scan_page(ScanSpec::new("first", KeyRange::all()).reverse()).wait().unwrap();
    assert_eq!((page.rows.len(), page.next), (1, None));
    // Few rows of many bytes: a page ends by its bytes, too.
    for key in numbers.iter().take(12) {
        tenant.put("large", key, vec![7; PAGE_BYTES_MAX / 3]).wait().unwrap();
    }
    for (category, count) in [("small", total), ("large", 12)] {
        let spec = ScanSpec::new(category, KeyRange::all());
        let expected = &numbers[..count];
        assert_eq!(keys(&tenant, spec.clone()), expected);
        let reversed: Vec<_> = expected.iter().rev().cloned().collect();
        assert_eq!(keys(&tenant, spec.clone().reverse()), reversed);
        assert_eq!(keys(&tenant, spec.clone().limit(count - 1)), &expected[..count - 1]);
        let (mut next, mut pages, mut seen) = (Some(spec), 0, 0);
        while let Some(spec) = next {
            let page = tenant.scan_page(spec).wait().unwrap();
            assert!(page.rows.len() <= PAGE_ROWS_MAX);
            (next, pages, seen) = (page.next, pages + 1, seen + page.rows.len());
        }
        assert_eq!((pages >= 3, seen), (true, count), "{category}: {pages} pages");
    }
}

fn rows_of_any_size(store: &Store) {
    let tenant = open(store);
    let inline = tenant.inline_limit();
    let sizes = [0, 1, inline - 1, inline, inline + 1, inline * 2, 9_000, 70_000, 1 << 20];
    for (number, size) in sizes.iter().enumerate() {
        tenant.put("mixed", [number as u8], vec![number as u8; *size]).wait().unwrap();
        tenant.put("large", [number as u8], vec![number as u8; 20_000 + size]).wait().unwrap();
    }
    for (category, extra) in [("mixed", 0), ("large", 20_000)] {
        for start in 0..sizes.len() {
            let range = KeyRange::new([start as u8], [7]);
            let expected: Vec<_> =
                (start..7.max(start)).map(|number| (vec![number as u8], sizes[number] + extra)).collect();
            let spec = ScanSpec::new(category, range.clone());
            let found = |spec| {
                rows(&tenant, spec).into_iter().map(|(key, payload)| (key, payload.len())).collect::<Vec<_>>()
            };
            assert_eq!(found(spec.clone()), expected);
            assert_eq!(found(spec.clone().reverse()), expected.iter().rev().cloned().collect::<Vec<_>>());
            assert_eq!(keys(&tenant, spec.keys_only()).len(), expected.len());
            assert_eq!(tenant.count(category, &range).wait().unwrap(), expected.len() as u64);
        }
        let open_ended = ScanSpec::new(category, KeyRange::all()).reverse();
        assert_eq!(keys(&tenant, open_ended).len(), sizes.len());
        assert_eq!(tenant.get(category, [8]).wait().unwrap().unwrap().len(), (1 << 20) + extra);
        assert!(tenant.exists(category, [8]).wait().unwrap());
    }
}

fn keys_sort_as_bytes(store: &Store) {
    let tenant = open(store);
    let mut all: Vec<Vec<u8>> = vec![
        vec![],
        vec![0],
        vec![0, 0],
        vec![0, 255],
        vec![1],
        vec![127],
        vec![128],
        vec![255],
        vec![255; 3],
    ];
    for key in all.iter().rev() {
        tenant.put("c", key, b"").wait().unwrap();
    }
    all.sort();
    assert_eq!(keys(&tenant, ScanSpec::new("c", KeyRange::all())), all);
}

fn isolation(store: &Store) {
    let (one, two) = (open(store), store.open("another").wait().unwrap());
    one.put("c", b"k", b"one").wait().unwrap();
    assert_eq!(one.get("d", b"k").wait().unwrap(), None);
    assert_eq!(two.get("c", b"k").wait().unwrap(), None);
    two.put("c", b"k", b"two").wait().unwrap();
    assert_eq!(one.get("c", b"k").wait().unwrap(), Some(b"one".to_vec()));
    assert_eq!(one.delete_prefix("d", b"").wait().unwrap(), 0);
    let ids: Vec<_> = store.list().wait().unwrap().iter().map(|id| id.as_str().to_owned()).collect();
    assert_eq!(ids, ["another", "battery"]);
}

fn categories(store: &Store) {
    let tenant = open(store);
    assert!(tenant.categories().wait().unwrap().is_empty());
    for category in [&b"b"[..], b"", b"ab", b"\xff", b"a"] {
        tenant.put(category, b"1", b"x").wait().unwrap();
        tenant.put(category, b"2", b"x").wait().unwrap();
    }
    tenant.delete_prefix(b"b", b"").wait().unwrap();
    assert_eq!(tenant.categories().wait().unwrap(), [&b""[..], b"a", b"ab", b"\xff"]);
}

fn reopen(store: &Store) {
    let tenant = open(store);
    for number in 0..100_u64 {
        let mut batch = Batch::new();
        batch.put("c", Key::of(number).unwrap(), vec![7; number as usize * 50]);
        tenant.apply(batch, Durability::Relaxed).wait().unwrap();
    }
    let before = rows(&tenant, ScanSpec::new("c", KeyRange::all()));
    store.close_tenant("battery").wait().unwrap();
    assert_eq!(rows(&open(store), ScanSpec::new("c", KeyRange::all())), before);
}

fn same_tenant(store: &Store) {
    let (first, second) = (open(store), open(store));
    first.put("c", b"k", b"x").wait().unwrap();
    assert_eq!(second.get("c", b"k").wait().unwrap(), Some(b"x".to_vec()));
    assert_eq!(store.tenant("battery").unwrap().get("c", b"k").wait().unwrap(), Some(b"x".to_vec()));
    store.close_tenant("battery").wait().unwrap();
    assert_eq!(second.get("c", b"k").wait().unwrap_err().kind(), ErrorKind::Closed);
}

fn closed(store: &Store) {
    let tenant = open(store);
    tenant.put("c", b"k", b"x").wait().unwrap();
    let commit = apply(&tenant, |batch| {
        batch.put("c", b"k", b"y");
    })
    .applied()
    .unwrap();
    let before = tenant.snapshot().wait().unwrap();
    let mut scanning = tenant.scan(ScanSpec::new("c", KeyRange::all()));
    store.close_tenant("battery").wait().unwrap();
    let mut batch = Batch::new();
    batch.put("c", b"k", b"z");
    let errors = [
        before.get("c", b"k").wait().unwrap_err(),
        before.scan(ScanSpec::new("c", KeyRange::all())).collect().wait().unwrap_err(),
        Op::from_future(async move { scanning.next().await.unwrap() }).wait().unwrap_err(),
        tenant.get("c", b"k").wait().unwrap_err(),
        tenant.exists("c", b"k").wait().unwrap_err(),
        tenant.count("c", &KeyRange::all()).wait().unwrap_err(),
        tenant.scan(ScanSpec::new("c", KeyRange::all())).collect().wait().unwrap_err(),
        tenant.categories().wait().unwrap_err(),
        tenant.apply(batch.clone(), Durability::Durable).wait().unwrap_err(),
        tenant.try_apply(batch, Durability::Relaxed).wait().unwrap_err(),
        tenant.delete("c", b"k").wait().unwrap_err(),
        tenant.flush().wait().unwrap_err(),
        tenant.snapshot().wait().unwrap_err(),
        tenant.verify().wait().unwrap_err(),
    ];
    for error in errors {
        assert_eq!((error.kind(), error.applied()), (ErrorKind::Closed, Applied::No), "{error}");
        assert!(error.to_string().contains("battery"), "{error} names its tenant");
    }
    commit.wait_durable().wait().unwrap();
    store.close().wait().unwrap();
    store.close().wait().unwrap();
    assert_eq!(store.open("battery").wait().unwrap_err().kind(), ErrorKind::Closed);
}

fn not_open(store: &Store) {
    assert_eq!(store.tenant("battery").unwrap_err().kind(), ErrorKind::TenantNotFound);
    store.close_tenant("battery").wait().unwrap();
    store.drop_tenant("battery").wait().unwrap();
    assert!(store.list().wait().unwrap().is_empty());
    for id in ["", &"x".repeat(201)] {
        assert_eq!(store.open(id).wait().unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(store.close_tenant(id).wait().unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(store.drop_tenant(id).wait().unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(store.tenant(id).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}

fn drop_tenant(store: &Store) {
    let tenant = open(store);
    tenant.put("c", b"k", b"x").wait().unwrap();
    store.drop_tenant("battery").wait().unwrap();
    assert_eq!(tenant.get("c", b"k").wait().unwrap_err().kind(), ErrorKind::Closed);
    assert!(store.list().wait().unwrap().is_empty());
    assert_eq!(open(store).get("c", b"k").wait().unwrap(), None);
}

fn snapshot(store: &Store) {
    let tenant = open(store);
    tenant.put("c", b"1", b"old").wait().unwrap();
    tenant.put("c", b"2", b"old").wait().unwrap();
    let snapshot = tenant.snapshot().wait().unwrap();
    tenant.put("c", b"1", b"new").wait().unwrap();
    tenant.delete("c", b"2").wait().unwrap();
    tenant.put("c", b"3", b"new").wait().unwrap();
    assert_eq!(snapshot.get("c", b"1").wait().unwrap(), Some(b"old".to_vec()));
    assert!(snapshot.exists("c", b"2").wait().unwrap());
    assert_eq!(snapshot.count("c", &KeyRange::all()).wait().unwrap(), 2);
    let keys = snapshot.scan(ScanSpec::new("c", KeyRange::all())).collect().wait().unwrap();
    assert_eq!(keys.len(), 2);
    drop(snapshot);
    assert_eq!(tenant.get("c", b"1").wait().unwrap(), Some(b"new".to_vec()));
}

fn scan_is_not_a_snapshot(store: &Store) {
    let tenant = open(store);
    let key = |number: usize| Key::of(number as u64).unwrap();
    apply(&tenant, |batch| {
        for number in 0..=PAGE_ROWS_MAX {
            batch.put("c", key(number), b"x");
        }
    });
    let first = tenant.scan_page(ScanSpec::new("c", KeyRange::all())).wait().unwrap();
    assert_eq!(first.rows.len(), PAGE_ROWS_MAX);
    tenant.delete("c", key(0)).wait().unwrap();
    tenant.put("c", key(PAGE_ROWS_MAX + 1), b"x").wait().unwrap();
    let rest = keys(&tenant, first.next.unwrap());
    assert_eq!(rest, [key(PAGE_ROWS_MAX).into_bytes(), key(PAGE_ROWS_MAX + 1).into_bytes()]);
}

fn limits(store: &Store) {
    let tenant = open(store);
    let many = |count: usize| {
        let mut batch = Batch::new();
        for _ in 0..count {
            batch.delete("c", b"");
        }
        batch
    };
    let one = |category: usize, key: usize, payload: usize| {
        let mut batch = Batch::new();
        batch.put(vec![b'c'; category], vec![b'k'; key], vec![0; payload]);
        batch
    };
    let mut sum = one(1, 1, BATCH_BYTES_MAX / 2);
    sum.put("c", b"2", vec![0; BATCH_BYTES_MAX / 2]);
    let mut checked = Batch::new();
    checked.check_equals("c", b"1", vec![0; BATCH_BYTES_MAX]);
    let table = [
        (one(CATEGORY_BYTES_MAX + 1, 1, 1), CATEGORY_BYTES_MAX),
        (one(1, KEY_BYTES_MAX + 1, 1), KEY_BYTES_MAX),
        (one(1, 1, PAYLOAD_BYTES_MAX + 1), PAYLOAD_BYTES_MAX),
        (sum, BATCH_BYTES_MAX),
        (checked, BATCH_BYTES_MAX),
        (many(BATCH_STEPS_MAX + 1), BATCH_STEPS_MAX),
    ];
    for (batch, limit) in table {
        let error = tenant.apply(batch, Durability::Durable).wait().unwrap_err();
        assert_eq!((error.kind(), error.applied()), (ErrorKind::InvalidArgument, Applied::No));
        assert!(error.to_string().contains(&limit.to_string()), "{error} should name {limit}");
    }
    assert!(tenant.categories().wait().unwrap().is_empty());
}

fn largest(store: &Store) {
    let tenant = open(store);
    let (category, key) = (vec![b'c'; CATEGORY_BYTES_MAX], vec![b'k'; KEY_BYTES_MAX]);
    tenant.put(&category, &key, b"x").wait().unwrap();
    assert_eq!(tenant.get(&category, &key).wait().unwrap(), Some(b"x".to_vec()));
    assert_eq!(keys(&tenant, ScanSpec::new(&category, KeyRange::prefix(b"k"))), [key]);
    let payload = vec![7; PAYLOAD_BYTES_MAX];
    tenant.put("c", b"k", payload.clone()).wait().unwrap();
    assert!(tenant.get("c", b"k").wait().unwrap() == Some(payload));
}

fn compare_and_swap(store: &Store) {
    const THREADS: u64 = 8;
    const ROUNDS: u64 = 50;
    let tenant = open(store);
    tenant.put("c", b"sum", 0_u64.to_be_bytes()).wait().unwrap();
    thread::scope(|scope| {
        for number in 0..THREADS {
            let tenant = tenant.clone();
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let mut found = tenant.get("c", b"sum").wait().unwrap();
                    loop {
                        let before = found.unwrap();
                        let sum = u64::from_be_bytes(before.as_slice().try_into().unwrap()) + 1;
                        let outcome = apply(&tenant, |batch| {
                            batch.check_equals("c", b"sum", before).put("c", b"sum", sum.to_be_bytes());
                            batch.put("log", Key::of((number, round)).unwrap(), sum.to_be_bytes());
                        });
                        match outcome {
                            Outcome::Applied(_) => break,
                            Outcome::Refused(refusal) => found = refusal.found,
                        }
                    }
                }
            });
        }
    });
    assert_eq!(tenant.get("c", b"sum").wait().unwrap(), Some((THREADS * ROUNDS).to_be_bytes().to_vec()));
    let mut sums: Vec<_> =
        rows(&tenant, ScanSpec::new("log", KeyRange::all())).into_iter().map(|(_, sum)| sum).collect();
    sums.sort();
    assert_eq!(sums, (1..=THREADS * ROUNDS).map(|sum| sum.to_be_bytes().to_vec()).collect::<Vec<_>>());
}

fn read_your_writes(store: &Store) {
    let tenant = open(store);
    for round in 0..100_u64 {
        let durability = if round % 2 == 0 { Durability::Durable } else { Durability::Relaxed };
        let mut batch = Batch::new();
        batch.put("c", b"k", round.to_be_bytes());
        tenant.apply(batch, durability).wait().unwrap();
        let reader = tenant.clone();
        let seen = thread::spawn(move || reader.get("c", b"k").wait().unwrap()).join().unwrap();
        assert_eq!(seen, Some(round.to_be_bytes().to_vec()));
    }
}

fn fire_and_forget(store: &Store) {
    let tenant = open(store);
    for number in 0..1_000_u64 {
        let mut batch = Batch::new();
        batch.put("c", b"last", number.to_be_bytes()).put("c", Key::of(number).unwrap(), b"x");
        drop(tenant.apply(batch, Durability::Relaxed));
    }
    tenant.flush().wait().unwrap();
    assert_eq!(tenant.get("c", b"last").wait().unwrap(), Some(999_u64.to_be_bytes().to_vec()));
    assert_eq!(tenant.count("c", &KeyRange::all()).wait().unwrap(), 1_001);
}

fn dropped_operations(store: &Store) {
    let tenant = open(store);
    for number in 0..50_u64 {
        let mut batch = Batch::new();
        batch.put("c", Key::of(number).unwrap(), b"x");
        drop(tenant.try_apply(batch, Durability::Durable));
        drop(tenant.get("c", b"k"));
        drop(tenant.scan(ScanSpec::new("c", KeyRange::all())).collect());
        drop(tenant.snapshot());
        drop(tenant.flush());
        drop(tenant.verify());
        drop(store.open("battery"));
    }
    drop(store.list());
    tenant.flush().wait().unwrap();
    assert_eq!(tenant.count("c", &KeyRange::all()).wait().unwrap(), 50);
}

fn relaxed(store: &Store) {
    let tenant = open(store);
    let mut batch = Batch::new();
    batch.put("c", b"k", b"x");
    let commit = tenant.apply(batch, Durability::Relaxed).wait().unwrap().applied().unwrap();
    assert_eq!(tenant.get("c", b"k").wait().unwrap(), Some(b"x".to_vec()));
    drop(commit.wait_durable());
    commit.wait_durable().wait().unwrap();
    commit.wait_durable().wait().unwrap();
}

fn sequence(store: &Store) {
    let tenant = open(store);
    let mut last = 0;
    for number in 0..20_u64 {
        let durability = if number % 3 == 0 { Durability::Durable } else { Durability::Relaxed };
        let mut batch = Batch::new();
        batch.put("c", b"k", number.to_be_bytes());
        let commit = tenant.apply(batch, durability).wait().unwrap().applied().unwrap();
        assert!(commit.seq > last);
        last = commit.seq;
    }
    assert_eq!(tenant.stats().wait().unwrap().commits, 20);
}

fn verify(store: &Store) {
    let tenant = open(store);
    apply(&tenant, |batch| {
        batch.put("ab", b"cde", b"f").put("", b"", b"").put("x", b"y", vec![0; 10_000]);
    });
    let report = tenant.verify().wait().unwrap();
    assert_eq!((report.rows, report.bytes, report.findings), (3, 10_008, Vec::new()));
}
