//! A primary with a synchronous standby: what was acknowledged is on both.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests; a failure is the test's")]

mod dialects;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;

use dialects::{Dialect, database, eventually, in_each_dialect, payload, rounds};
use seabed_kv::{Applied, Batch, Durability, KeyRange, Outcome, ScanSpec};
use seabed_testkit::postgres::Cluster;
use seabed_testkit::proxy::Proxy;

in_each_dialect!(
    nothing_acknowledged_is_lost_when_the_primary_is_killed_and_the_standby_takes_over,
    a_commit_whose_wait_for_the_standby_is_cancelled_is_unknown,
);

const WRITERS: u32 = 6;

/// What was acknowledged when the primary was killed is there after the standby has taken over, and no batch is there by half.
fn nothing_acknowledged_is_lost_when_the_primary_is_killed_and_the_standby_takes_over(dialect: Dialect) {
    let mut primary = Cluster::start();
    let url = primary.create_database();
    let database = database(&url).to_owned();
    let standby = primary.standby();
    let proxy = Proxy::start(primary.port());
    let store = dialect.store(&proxy.url(&database));
    let tenant = store.open("t").wait().unwrap();
    let (told, acknowledged, over) = (Mutex::new(Vec::new()), AtomicU32::new(0), AtomicBool::new(false));
    let (enough, kill) = mpsc::channel();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (tenant, told, acknowledged, over, enough) =
                (&tenant, &told, &acknowledged, &over, enough.clone());
            scope.spawn(move || {
                for number in 0.. {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let key = [payload(writer), payload(number)].concat();
                    let mut batch = Batch::new();
                    batch.check_absent("first", &key).put("first", &key, b"1").put("second", &key, b"2");
                    if let Ok(Outcome::Applied(_)) = tenant.apply(batch, Durability::Durable).wait() {
                        told.lock().unwrap().push(key);
                        if acknowledged.fetch_add(1, Ordering::Relaxed) + 1 == 100 * rounds() {
                            enough.send(()).unwrap();
                        }
                    }
                }
            });
        }
        kill.recv().unwrap();
        primary.kill9();
        over.store(true, Ordering::Relaxed);
    });
    standby.promote();
    proxy.lead_to(standby.port());
    let keys = |category: &str| {
        let rows = eventually(|| tenant.scan(ScanSpec::new(category, KeyRange::all())).collect().wait());
        rows.into_iter().map(|row| row.key.into_bytes()).collect::<Vec<_>>()
    };
    let (first, second) = (keys("first"), keys("second"));
    assert!(first == second, "{dialect:?}: a batch is there by half");
    for key in told.into_inner().unwrap() {
        assert!(first.binary_search(&key).is_ok(), "{dialect:?}: {key:?} was acknowledged");
    }
    eventually(|| tenant.put("first", b"after", b"x").wait());
    store.close().wait().unwrap();
}

/// The commit is on the primary, and whether it survives the primary nobody knows.
fn a_commit_whose_wait_for_the_standby_is_cancelled_is_unknown(dialect: Dialect) {
    let primary = Cluster::start();
    let mut standby = primary.standby();
    let url = primary.create_database();
    let store = dialect.store(&url);
    let tenant = store.open("t").wait().unwrap();
    tenant.put("c", b"k", b"replicated").wait().unwrap();
    standby.stop_fast();
    let cancelled = |batch: Batch| {
        let write = tenant.apply(batch, Durability::Durable);
        primary.wait_waiting("SyncRep");
        let waiting = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        primary.sql("postgres", waiting);
        write.wait().unwrap_err()
    };
    let mut batch = Batch::new();
    batch.put("c", b"k", b"alone");
    let error = cancelled(batch.clone());
    assert_eq!(error.applied(), Applied::Unknown, "{error}");
    // What refuses this one has gone no farther than the primary, so the refusal has to wait, too. Plain statements cannot do that.
    if dialect == Dialect::Postgres {
        batch.check_equals("c", b"k", b"replicated");
        cancelled(batch);
    }
    standby.start_again();
    eventually(|| tenant.put("c", b"k", b"again").wait());
    store.close().wait().unwrap();
    primary.wait_quiet();
}
