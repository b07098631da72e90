//! Group commit, mailboxes, snapshots and the log, on the SQLite backend.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests say what failed by panicking"
)]

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use seabed_kv::limits::{
    BATCH_STEPS_MAX, LOG_BYTES_MAX, MAILBOX_BYTES_MAX, MAILBOX_REQUESTS_MAX, MAILBOX_WAITING_BYTES_MAX,
    PAYLOAD_BYTES_MAX, SNAPSHOT_AGE_MS_MAX, SNAPSHOTS_MAX,
};
use seabed_kv::sqlite::simulation::{self, EngineOptions};
use seabed_kv::{
    Applied, Batch, Durability, Error, ErrorKind, Key, KeyRange, Op, Outcome, ScanSpec, Store, Tenant,
};

struct Place {
    store: Store,
    tenant: Tenant,
    directory: tempfile::TempDir,
}

fn place() -> Place {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::sqlite(directory.path()).unwrap();
    let tenant = store.open("t").wait().unwrap();
    Place { store, tenant, directory }
}

/// One whose writes do not wait for long while another program holds the file.
fn impatient() -> Place {
    let directory = tempfile::tempdir().unwrap();
    let options = EngineOptions { busy_ms_max: 20, ..EngineOptions::default() };
    let store = simulation::store(directory.path(), options).unwrap();
    let tenant = store.open("t").wait().unwrap();
    Place { store, tenant, directory }
}

fn put(number: u64, payload: impl Into<Vec<u8>>) -> Batch {
    let mut batch = Batch::new();
    batch.put("c", Key::of(number).unwrap(), payload);
    batch
}

/// A write lock on the tenant's file, taken as another program would: writers wait behind it.
struct Held(rusqlite::Connection);

impl Held {
    fn on(place: &Place) -> Self {
        let connection = rusqlite::Connection::open(place.directory.path().join("t.db")).unwrap();
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        Self(connection)
    }

    fn release(self) {
        self.0.execute_batch("ROLLBACK").unwrap();
    }
}

#[test]
fn what_gathers_while_a_group_runs_is_one_group() {
    let place = place();
    let held = Held::on(&place);
    let writes: Vec<_> =
        (0..200).map(|number| place.tenant.apply(put(number, b"x"), Durability::Durable)).collect();
    held.release();
    for write in writes {
        assert!(write.wait().unwrap().is_applied());
    }
    let stats = place.tenant.stats().wait().unwrap();
    assert_eq!(stats.commits, 200);
    assert!(stats.groups <= 3, "{} groups", stats.groups);
}

#[test]
fn a_full_mailbox_says_busy_or_waits_in_order() {
    let place = place();
    let held = Held::on(&place);
    // The first is taken out and waits for the file; then the mailbox fills.
    let (accepted, busy) = fill(&place, || place.tenant.try_apply(put(1, b"x"), Durability::Relaxed));
    assert_eq!((busy.kind(), busy.applied(), busy.is_retryable()), (ErrorKind::Busy, Applied::No, true));
    assert!(busy.to_string().contains(&MAILBOX_REQUESTS_MAX.to_string()), "{busy}");
    assert!(accepted.len() >= MAILBOX_REQUESTS_MAX);
    // Those that wait come after them, in order, also when nobody awaits them.
    let mut order = Batch::new();
    order.put("c", b"order", b"first");
    let first = place.tenant.apply(order, Durability::Durable);
    let mut dropped = Batch::new();
    dropped.check_equals("c", b"order", b"first").put("c", b"order", b"dropped");
    drop(place.tenant.apply(dropped, Durability::Durable));
    let mut order = Batch::new();
    order.check_equals("c", b"order", b"dropped").put("c", b"order", b"last");
    let last = place.tenant.apply(order, Durability::Durable);
    held.release();
    assert!(first.wait().unwrap().is_applied());
    assert!(last.wait().unwrap().is_applied());
    for write in accepted {
        assert!(write.wait().unwrap().is_applied());
    }
    assert_eq!(place.tenant.stats().wait().unwrap().unobserved_failures, 0);
}

/// How many writes are accepted behind one that waits for the file, and what the next is told.
fn fill(place: &Place, write: impl Fn() -> Op<Outcome>) -> (Vec<Op<Outcome>>, Error) {
    let mut accepted = Vec::new();
    loop {
        let mut write = write();
        match pin!(&mut write).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => accepted.push(write),
            Poll::Ready(answer) => {
                assert!(place.tenant.stats().wait().is_ok());
                return (accepted, answer.unwrap_err());
            }
        }
    }
}

#[test]
fn a_mailbox_is_bounded_by_bytes() {
    let deletions = {
        let mut batch = Batch::new();
        for _ in 0..BATCH_STEPS_MAX {
            batch.delete(b"", b"");
        }
        batch
    };
    // What a batch takes in memory is counted, whatever it holds.
    let held_bytes = [1 << 20, BATCH_STEPS_MAX * 64];
    for (batch, held_bytes) in [put(1, vec![0; 1 << 20]), deletions].into_iter().zip(held_bytes) {
        for (bytes_max, waits) in [(MAILBOX_BYTES_MAX, false), (MAILBOX_WAITING_BYTES_MAX, true)] {
            let place = place();
            let held = Held::on(&place);
            let (accepted, busy) = fill(&place, || {
                if waits {
                    place.tenant.apply(batch.clone(), Durability::Relaxed)
                } else {
                    place.tenant.try_apply(batch.clone(), Durability::Relaxed)
                }
            });
            assert_eq!(busy.kind(), ErrorKind::Busy);
            assert!(busy.to_string().contains(&bytes_max.to_string()), "{busy}");
            // Up to a group more: the one that was taken out and waits for the file.
            let mailbox = bytes_max / held_bytes;
            assert!((mailbox - 1..=mailbox + 5).contains(&accepted.len()), "{}", accepted.len());
            held.release();
            for write in accepted {
                assert!(write.wait().unwrap().is_applied());
            }
        }
    }
}

#[test]
fn a_program_that_holds_the_file_makes_writes_busy_and_reads_go_on() {
    let place = impatient();
    place.tenant.put("c", b"k", b"x").wait().unwrap();
    let held = Held::on(&place);
    let error = place.tenant.put("c", b"k", b"y").wait().unwrap_err();
    assert_eq!((error.kind(), error.applied()), (ErrorKind::Busy, Applied::No), "{error}");
    assert_eq!(place.tenant.get("c", b"k").wait().unwrap(), Some(b"x".to_vec()));
    held.release();
    place.tenant.put("c", b"k", b"y").wait().unwrap();
}

#[test]
fn failures_that_nobody_awaits_are_counted_and_errors_name_tenant_and_key() {
    let place = impatient();
    let held = Held::on(&place);
    drop(place.tenant.put("category", b"key\xff", b"y"));
    let awaited = place.tenant.put("category", b"other", b"y").wait().unwrap_err();
    for part in ["tenant t:", "\"category\"", "\"other\""] {
        assert!(awaited.to_string().contains(part), "{awaited}");
    }
    assert_eq!(place.tenant.stats().wait().unwrap().unobserved_failures, 1);
    held.release();
    drop(place.tenant.put("category", b"large", vec![0; PAYLOAD_BYTES_MAX + 1]));
    assert_eq!(place.tenant.stats().wait().unwrap().unobserved_failures, 2);
    place.store.close_tenant("t").wait().unwrap();
    drop(place.tenant.put("category", b"late", b"y"));
    assert_eq!(place.tenant.stats().wait().unwrap().unobserved_failures, 3);
}

/// Polls an operation `polls` times, then drops it.
fn poll_and_drop<T>(operation: Op<T>, polls: usize) {
    let mut operation = pin!(operation);
    for _ in 0..polls {
        if operation.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            return;
        }
    }
}

#[test]
fn every_operation_may_be_dropped_at_any_await() {
    let place = place();
    let tenant = &place.tenant;
    for round in 0..30_u64 {
        let polls = usize::try_from(round % 3).unwrap();
        poll_and_drop(tenant.apply(put(round, b"x"), Durability::Durable), polls);
        poll_and_drop(tenant.apply(put(100 + round, b"x"), Durability::Relaxed), polls);
        poll_and_drop(tenant.put("c", b"put", b"x"), polls);
        poll_and_drop(tenant.delete("c", b"none"), polls);
        poll_and_drop(tenant.delete_prefix("none", b""), polls);
        poll_and_drop(tenant.flush(), polls);
        poll_and_drop(tenant.get("c", b"put"), polls);
        poll_and_drop(tenant.exists("c", b"put"), polls);
        poll_and_drop(tenant.count("c", &KeyRange::all()), polls);
        poll_and_drop(tenant.scan(ScanSpec::new("c", KeyRange::all())).collect(), polls);
        poll_and_drop(tenant.snapshot(), polls);
        poll_and_drop(tenant.verify(), polls);
        poll_and_drop(tenant.stats(), polls);
        poll_and_drop(place.store.open("other"), polls);
        poll_and_drop(place.store.close_tenant("other"), polls);
        poll_and_drop(place.store.list(), polls);
    }
    tenant.flush().wait().unwrap();
    assert_eq!(tenant.count("c", &KeyRange::all()).wait().unwrap(), 61, "each write happened once");
    poll_and_drop(place.store.close(), 1);
    assert_eq!(tenant.get("c", b"put").wait().unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn a_store_that_is_dropped_applies_what_is_queued() {
    let place = place();
    for number in 0..500 {
        drop(place.tenant.apply(put(number, b"x"), Durability::Relaxed));
    }
    let Place { store, tenant, directory } = place;
    drop((store, tenant));
    // The writer threads close the file behind us; the lock is free when they have.
    let again = Store::sqlite(directory.path()).unwrap();
    while again.own().is_err_and(|error| error.kind() == ErrorKind::Busy) {
        std::thread::yield_now();
    }
    let tenant = again.open("t").wait().unwrap();
    assert_eq!(tenant.count("c", &KeyRange::all()).wait().unwrap(), 500);
}

#[test]
fn snapshots_are_bounded_in_number_and_age() {
    let place = place();
    place.tenant.put("c", b"k", b"old").wait().unwrap();
    let snapshots: Vec<_> = (0..SNAPSHOTS_MAX).map(|_| place.tenant.snapshot().wait().unwrap()).collect();
    assert_eq!(place.tenant.snapshot().wait().unwrap_err().kind(), ErrorKind::Busy);
    let taken = Instant::now();
    place.tenant.put("c", b"k", b"new").wait().unwrap();
    assert_eq!(snapshots[0].get("c", b"k").wait().unwrap(), Some(b"old".to_vec()));
    // The age is real time: reading until it is up is the event that is awaited.
    let error = loop {
        if let Err(error) = snapshots[1].get("c", b"k").wait() {
            break error;
        }
        std::thread::yield_now();
    };
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(taken.elapsed() + Duration::from_secs(1) > Duration::from_millis(SNAPSHOT_AGE_MS_MAX));
    drop(snapshots);
    assert_eq!(place.tenant.snapshot().wait().unwrap().get("c", b"k").wait().unwrap(), Some(b"new".to_vec()));
}

#[test]
fn the_log_is_capped_also_under_snapshots_and_scans() {
    let place = place();
    let snapshot = place.tenant.snapshot().wait().unwrap();
    let mut largest = 0;
    for number in 0..200 {
        // A megabyte each: 200 MiB in all. While the snapshot pins the log, writes past the cap may be told Busy.
        loop {
            match place
                .tenant
                .apply(put(number % 8, vec![u8::try_from(number).unwrap(); 1 << 20]), Durability::Relaxed)
                .wait()
            {
                Ok(outcome) => break assert!(outcome.is_applied()),
                Err(error) => {
                    assert_eq!((error.kind(), error.applied()), (ErrorKind::Busy, Applied::No), "{error}");
                }
            }
        }
        assert_eq!(
            place.tenant.scan(ScanSpec::new("c", KeyRange::all()).keys_only()).collect().wait().unwrap().len()
                as u64,
            (number + 1).min(8)
        );
        largest = largest.max(place.tenant.stats().wait().unwrap().log_bytes);
    }
    assert!(largest < LOG_BYTES_MAX + (8 << 20), "the log grew to {largest} bytes");
    assert_eq!(snapshot.get("c", Key::of(0_u64).unwrap()).wait().unwrap_err().kind(), ErrorKind::Timeout);
}

#[test]
fn a_batch_that_is_refused_does_not_fail_its_group() {
    let place = place();
    let held = Held::on(&place);
    let mut refused = put(1, b"never");
    refused.check_exists("c", b"missing");
    let writes = [
        place.tenant.apply(put(0, b"x"), Durability::Durable),
        place.tenant.apply(refused, Durability::Relaxed),
        place.tenant.apply(put(2, b"x"), Durability::Durable),
    ];
    held.release();
    let applied: Vec<_> = writes.into_iter().map(|write| write.wait().unwrap().is_applied()).collect();
    assert_eq!(applied, [true, false, true]);
}

#[test]
fn many_tenants_share_four_threads() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::sqlite(directory.path()).unwrap();
    let tenants: Vec<_> = (0..50).map(|number| store.open(format!("t{number}")).wait().unwrap()).collect();
    let writes: Vec<_> = (0..20)
        .flat_map(|round| {
            tenants.iter().map(move |tenant| tenant.apply(put(round, b"x"), Durability::Relaxed))
        })
        .collect();
    for write in writes {
        assert!(matches!(write.wait().unwrap(), Outcome::Applied(_)));
    }
    let threads = std::fs::read_dir("/proc/self/task").unwrap().filter(|task| {
        let name = task.as_ref().unwrap().path().join("comm");
        std::fs::read_to_string(name).is_ok_and(|name| name.starts_with("seabed-writer"))
    });
    assert_eq!(threads.count(), 4);
    assert_eq!(store.list().wait().unwrap().len(), 50);
    store.close().wait().unwrap();
}
