//! The server goes away, comes back, is slow, or its client loses interest: nothing hangs, nothing is left behind, and what was
//! said stays true.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests; a failure is the test's")]

mod dialects;

use std::pin::pin;
use std::sync::mpsc;
use std::task::{Context, Waker};

use dialects::{Dialect, database, eventually, in_each_dialect, payload, rounds, row, seed};
use seabed_kv::{Applied, Batch, Durability, ErrorKind, KeyRange, ScanSpec};
use seabed_testkit::Rng;
use seabed_testkit::postgres::Cluster;
use seabed_testkit::proxy::{Act, Direction, Fault, Proxy};

in_each_dialect!(
    operations_that_are_dropped_at_any_moment_leave_no_session_at_work,
    without_a_server_everything_answers_and_the_same_store_comes_back_with_it,
    more_readers_than_connections_are_told_busy_and_none_hangs,
);

/// Writes that nobody awaits are made all the same, in order; reads that nobody awaits leave nothing open.
fn operations_that_are_dropped_at_any_moment_leave_no_session_at_work(dialect: Dialect) {
    let cluster = Cluster::start();
    let mut rng = Rng::new(seed());
    let url = cluster.create_database();
    let store = dialect.store(&url);
    let tenant = store.open("t").wait().unwrap();
    let mut last = [0; 4];
    for number in 0..400 * rounds() {
        let key = rng.below(last.len());
        let mut snapshot = None;
        match rng.below(6) {
            0 | 1 => {
                let mut batch = Batch::new();
                batch.put("c", row(key), payload(number));
                let durability = if rng.chance(1, 2) { Durability::Relaxed } else { Durability::Durable };
                poke(&mut rng, tenant.apply(batch, durability));
                last[key] = number;
            }
            2 => poke(&mut rng, tenant.get("c", row(key))),
            3 => poke(&mut rng, tenant.scan(ScanSpec::new("c", KeyRange::all())).collect()),
            4 => poke(&mut rng, tenant.flush()),
            _ => snapshot = Some(tenant.snapshot()),
        }
        if let Some(taken) = snapshot {
            // Given up before it is there, after, or in the middle of a read.
            if rng.chance(1, 3) {
                let taken = taken.wait();
                if let Ok(taken) = taken {
                    poke(&mut rng, taken.get("c", row(key)));
                }
            } else {
                poke(&mut rng, taken);
            }
        }
    }
    tenant.flush().wait().unwrap();
    for (key, number) in last.iter().enumerate() {
        let expected = (*number > 0).then(|| payload(*number));
        assert_eq!(tenant.get("c", row(key)).wait().unwrap(), expected, "{dialect:?}");
    }
    cluster.wait_quiet();
    assert_eq!(tenant.stats().wait().unwrap().unobserved_failures, 0, "{dialect:?}");
    store.close().wait().unwrap();
    cluster.wait_alone_in(database(&url));
}

/// Drops an operation at once, after it was polled, or after it was waited for.
fn poke<T>(rng: &mut Rng, op: seabed_kv::Op<T>) {
    match rng.below(3) {
        0 => drop(op),
        1 => {
            let mut op = pin!(op);
            let _ = op.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }
        _ => {
            let _ = op.wait();
        }
    }
}

fn without_a_server_everything_answers_and_the_same_store_comes_back_with_it(dialect: Dialect) {
    let mut cluster = Cluster::start();
    let url = cluster.create_database();
    let store = dialect.store(&url);
    let tenant = store.open("t").wait().unwrap();
    tenant.put("c", b"k", b"before").wait().unwrap();
    cluster.stop_fast();
    for _ in 0..20 {
        // The connections that were open do not all know yet; nobody knows what they sent.
        let _ = tenant.put("c", b"k", b"meanwhile").wait().unwrap_err();
    }
    for _ in 0..20 {
        let error = tenant.put("c", b"k", b"meanwhile").wait().unwrap_err();
        assert_eq!(error.applied(), Applied::No, "{dialect:?}: {error}");
        assert!([ErrorKind::Backend, ErrorKind::Busy].contains(&error.kind()), "{dialect:?}: {error}");
        assert!(tenant.get("c", b"k").wait().is_err());
        assert!(store.list().wait().is_err());
        assert!(tenant.flush().wait().is_err());
    }
    cluster.start_again();
    let found = eventually(|| tenant.get("c", b"k").wait()).unwrap();
    assert_eq!(found, b"before", "{dialect:?}: nothing was sent");
    eventually(|| tenant.put("c", b"k", b"after").wait());
    assert_eq!(tenant.get("c", b"k").wait().unwrap(), Some(b"after".to_vec()));
    store.close().wait().unwrap();
}

/// A lock on the table holds every connection; whoever finds none free is told so, and the others are answered when it is gone.
fn more_readers_than_connections_are_told_busy_and_none_hangs(dialect: Dialect) {
    let cluster = Cluster::start();
    let url = cluster.create_database();
    let (connections, readers) = (4, 32);
    let store = dialect.small_store(&url, connections);
    let tenant = store.open("t").wait().unwrap();
    tenant.put("c", b"k", b"x").wait().unwrap();

    // A session that stays in its transaction: its goodbye does not arrive.
    let proxy = Proxy::start(cluster.port());
    let there = format!("{}?sslmode=disable", proxy.url(database(&url)));
    proxy.arm(Fault { direction: Direction::ToServer, message: 3, act: Act::Hold });
    cluster.sql_at(&there, "BEGIN; LOCK TABLE seabed.rows").unwrap();
    proxy.wait_fired();

    let reads: Vec<_> = (0..readers).map(|_| tenant.get("c", b"k")).collect();
    let (answered, told) = mpsc::channel();
    std::thread::scope(|scope| {
        for read in reads {
            let answered = answered.clone();
            scope.spawn(move || answered.send(read.wait()).unwrap());
        }
        for _ in connections..readers {
            let error = told.recv().unwrap().unwrap_err();
            assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Busy, true), "{dialect:?}: {error}");
        }
        assert!(told.try_recv().is_err(), "{dialect:?}: the others wait for the lock");
        let write = tenant.put("c", b"k", b"y").wait().unwrap_err();
        assert_eq!((write.kind(), write.applied()), (ErrorKind::Busy, Applied::No), "{dialect:?}: {write}");
        proxy.cut();
        for _ in 0..connections {
            assert_eq!(told.recv().unwrap().unwrap(), Some(b"x".to_vec()), "{dialect:?}");
        }
    });
    store.close().wait().unwrap();
    cluster.wait_quiet();
}
