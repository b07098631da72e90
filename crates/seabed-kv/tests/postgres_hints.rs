//! The connection for hints: where it listens, and that the end of the store ends it.
#![cfg(not(shuttle))]
#![allow(clippy::unwrap_used, reason = "helpers of tests; a failure is the test's")]

mod dialects;

use std::net::TcpListener;

use dialects::database;
use seabed_kv::{ErrorKind, Store};
use seabed_testkit::postgres::{Cluster, PgBouncer};

#[test]
fn hints_are_told_through_a_pooler_and_no_session_of_its_listens() {
    let cluster = Cluster::start_with(&["fsync=off"]);
    let url = cluster.create_database();
    let direct = Store::postgres(&url).unwrap();
    direct.open("t").wait().unwrap();
    let hearing = direct.hints().unwrap();
    let listening = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle' AND query LIKE 'LISTEN%'";
    // The database has no event for it.
    while cluster.sql("postgres", listening).trim() != "1" {
        std::thread::yield_now();
    }

    let bouncer = PgBouncer::start(&cluster, 1);
    let behind = bouncer.url(database(&url));
    let pooled = Store::postgres(&behind).unwrap();
    let telling = pooled.hints().unwrap();
    telling.tell(b"hint");
    assert_eq!(hearing.hear().wait().unwrap(), [b"hint".to_vec()]);
    // There is one session, so it is the one that was told through.
    let listening = cluster.sql_at(&behind, "SELECT count(*) FROM pg_listening_channels()").unwrap();
    assert_eq!(listening.trim(), "0");
    for store in [direct, pooled] {
        store.close().wait().unwrap();
    }
}

#[test]
fn hints_end_with_the_store_while_their_connection_is_being_made() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let store = Store::postgres(&format!("postgres://postgres@127.0.0.1:{port}/postgres")).unwrap();
    let hints = store.hints().unwrap();
    // Taken, and never answered.
    let taken = silent.accept().unwrap();
    store.close().wait().unwrap();
    assert_eq!(hints.hear().wait().unwrap_err().kind(), ErrorKind::Closed);
    drop(taken);
}
