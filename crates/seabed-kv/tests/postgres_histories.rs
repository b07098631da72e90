//! Several stores on one database, as several servers would have it: what their clients are told fits one order of events, also
//! while connections are cut and the server is restarted; and no increment is lost in a crowd.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests; a failure is the test's"
)]

mod dialects;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;

use dialects::{Client, Dialect, answer, batch, database, eventually, in_each_dialect, read, rounds, seed};
use seabed_kv::{Durability, Store, Tenant};
use seabed_testkit::Rng;
use seabed_testkit::linearizable::{Answer, Record};
use seabed_testkit::postgres::Cluster;
use seabed_testkit::proxy::Proxy;

in_each_dialect!(
    what_clients_of_two_stores_are_told_fits_one_order_while_connections_are_cut,
    what_clients_of_two_stores_are_told_fits_one_order_while_the_server_is_restarted,
    every_increment_of_a_crowd_counts_on_one_key,
    overlapping_batches_keep_their_sum_and_never_deadlock,
);

const KEYS: usize = 3;
const STORES: usize = 2;
const CLIENTS: usize = 6;
const STEPS: u32 = 50;
/// How many operations lie between two faults.
const FAULT_STEPS: u32 = 60;

/// Runs clients on stores of one database, with a fault every so many operations, and explains what they were told.
fn a_history_under(
    dialect: Dialect,
    seed: u64,
    stores: &[Store],
    relaxed: usize,
    mut fault: impl FnMut(&mut Rng),
) -> (usize, usize) {
    let (record, values, answered) = (Record::new(KEYS), AtomicU32::new(0), AtomicU32::new(0));
    let mut rng = Rng::new(seed);
    let name = format!("t{seed}");
    let (due, faults) = mpsc::channel();
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let tenant = stores[number % stores.len()].open(&name).wait().unwrap();
            let mut client = Client::new(tenant, &record, &values, rng.fork(number as u64), KEYS);
            client.relaxed = relaxed;
            let (due, answered) = (due.clone(), &answered);
            scope.spawn(move || {
                for _ in 0..STEPS {
                    eventually(|| client.step());
                    if (answered.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(FAULT_STEPS) {
                        due.send(()).unwrap();
                    }
                }
            });
        }
        drop(due);
        for () in faults {
            fault(&mut rng);
        }
    });
    let counts = record.counts();
    record.explain().unwrap_or_else(|why| panic!("{dialect:?}, seed {seed}, {counts:?}: {why}"));
    counts
}

fn what_clients_of_two_stores_are_told_fits_one_order_while_connections_are_cut(dialect: Dialect) {
    let cluster = Cluster::start();
    let seed = seed();
    let url = cluster.create_database();
    let proxies: Vec<_> = (0..STORES).map(|_| Proxy::start(cluster.port())).collect();
    let stores: Vec<_> = proxies.iter().map(|proxy| dialect.store(&proxy.url(database(&url)))).collect();
    for round in 0..3 * u64::from(rounds()) {
        let (operations, _) =
            a_history_under(dialect, seed.wrapping_add(round), &stores, 1, |rng| rng.pick(&proxies).cut());
        assert_eq!(operations, CLIENTS * STEPS as usize);
    }
    for store in stores {
        store.close().wait().unwrap();
    }
    cluster.wait_quiet();
}

fn what_clients_of_two_stores_are_told_fits_one_order_while_the_server_is_restarted(dialect: Dialect) {
    // A killed process loses nothing that it had written, so the disk can be spared; what it had not written is what Relaxed may lose.
    let mut cluster = Cluster::start_with(&["fsync=off"]);
    let seed = seed();
    let url = cluster.create_database();
    let stores: Vec<_> = (0..STORES).map(|_| dialect.store(&url)).collect();
    for round in 0..u64::from(rounds()) {
        let stops = [Cluster::stop_fast, Cluster::stop_immediate, Cluster::kill9];
        let (operations, _) = a_history_under(dialect, seed.wrapping_add(round), &stores, 0, |rng| {
            rng.pick(&stops)(&mut cluster);
            cluster.start_again();
        });
        assert_eq!(operations, CLIENTS * STEPS as usize);
    }
    for store in stores {
        store.close().wait().unwrap();
    }
    cluster.wait_quiet();
}

/// Increments a row, however often others are first.
fn increment(tenant: &Tenant, key: usize) {
    loop {
        let found = eventually(|| read(tenant, key));
        let next = found.unwrap_or(0) + 1;
        let batch = batch(&[(key, found)], &[(key, Some(next))]);
        let told = eventually(|| answer(tenant.apply(batch.clone(), Durability::Durable).wait()));
        match told {
            Answer::Applied => return,
            Answer::Refused { .. } => {}
            Answer::Unknown => panic!("nothing was cut off"),
        }
    }
}

fn every_increment_of_a_crowd_counts_on_one_key(dialect: Dialect) {
    let cluster = Cluster::start();
    let url = cluster.create_database();
    let stores: Vec<_> = (0..STORES).map(|_| dialect.store(&url)).collect();
    let (clients, increments) = (12, 10 * rounds());
    std::thread::scope(|scope| {
        for number in 0..clients {
            let tenant = stores[number % STORES].open("t").wait().unwrap();
            scope.spawn(move || (0..increments).for_each(|_| increment(&tenant, 0)));
        }
    });
    let tenant = stores[0].open("t").wait().unwrap();
    let expected = u32::try_from(clients).unwrap() * increments;
    assert_eq!(read(&tenant, 0).unwrap(), Some(expected), "{dialect:?}");
    for store in stores {
        store.close().wait().unwrap();
    }
    cluster.wait_quiet();
}

/// Each moves one from a row to another, and to a third: batches that overlap in every way, in every order.
fn overlapping_batches_keep_their_sum_and_never_deadlock(dialect: Dialect) {
    let cluster = Cluster::start();
    let seed = seed();
    let url = cluster.create_database();
    let stores: Vec<_> = (0..STORES).map(|_| dialect.store(&url)).collect();
    let rows = 5;
    let tenant = stores[0].open("t").wait().unwrap();
    let all: Vec<_> = (0..rows).map(|key| (key, Some(1_000))).collect();
    tenant.apply(batch(&[], &all), Durability::Durable).wait().unwrap();
    let moves = 20 * rounds();
    std::thread::scope(|scope| {
        for number in 0..10_u64 {
            let tenant = stores[usize::try_from(number).unwrap() % STORES].open("t").wait().unwrap();
            let mut rng = Rng::new(seed).fork(number);
            scope.spawn(move || {
                let mut done = 0;
                while done < moves {
                    let first = rng.below(rows);
                    let keys = [first, (first + 1 + rng.below(rows - 2)) % rows, (first + rows - 1) % rows];
                    if keys[1] == keys[2] {
                        continue;
                    }
                    let found = keys.map(|key| (key, eventually(|| read(&tenant, key))));
                    let moved: Vec<_> = found
                        .iter()
                        .zip([2_i32, -1, -1])
                        .map(|((key, value), by)| (*key, value.map(|value| value.strict_add_signed(by))))
                        .collect();
                    let batch = batch(&found, &moved);
                    let told = eventually(|| answer(tenant.apply(batch.clone(), Durability::Relaxed).wait()));
                    assert_ne!(told, Answer::Unknown, "nothing was cut off");
                    done += u32::from(told == Answer::Applied);
                }
            });
        }
    });
    tenant.flush().wait().unwrap();
    let sum: u32 = (0..rows).map(|key| read(&tenant, key).unwrap().unwrap()).sum();
    assert_eq!(sum, u32::try_from(rows).unwrap() * 1_000, "{dialect:?}");
    let deadlocks = cluster.sql("postgres", "SELECT sum(deadlocks) FROM pg_stat_database");
    assert_eq!(deadlocks, "0", "{dialect:?}");
    for store in stores {
        store.close().wait().unwrap();
    }
    cluster.wait_quiet();
}
