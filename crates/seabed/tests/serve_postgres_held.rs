//! A server whose database is there and does not answer: locks that somebody holds, a network that swallows everything.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::thread;

use common::{NIL, Server, seabed};
use seabed_testkit::postgres::Cluster;
use seabed_testkit::proxy::{Act, Direction, Fault, Proxy};
use uuid::Uuid;

/// More than a server has connections.
const CLIENTS: u128 = 24;

fn serve(store: &str) -> Server {
    let mut command = seabed();
    command.args(["serve", "--listen", "127.0.0.1:0"]).env("SEABED_STORE", store);
    Server::spawn(command)
}

fn clients() -> impl Iterator<Item = String> {
    (1..=CLIENTS).map(|number| Uuid::from_u128(number << 64 | 1).to_string())
}

#[test]
fn pushes_that_find_no_connection_or_a_lock_are_put_off_and_none_is_an_error() {
    let cluster = Cluster::start();
    let url = cluster.create_database();
    let server = serve(&url);
    let proxy = Proxy::start(cluster.port());
    let there = format!("{}?sslmode=disable", proxy.url(url.rsplit('/').next().unwrap()));
    proxy.arm(Fault { direction: Direction::ToServer, message: 3, act: Act::Hold });
    cluster.sql_at(&there, "BEGIN; LOCK TABLE seabed.rows IN EXCLUSIVE MODE").unwrap();
    proxy.wait_fired();
    thread::scope(|scope| {
        for client in clients() {
            let server = &server;
            scope.spawn(move || {
                let answer = server.add_version(&client, NIL, b"put off");
                assert_eq!(answer.status, 503, "{}", answer.text());
                assert_eq!(answer.header("retry-after"), Some("1"), "{}", answer.text());
            });
        }
    });
    assert_eq!(server.get("/healthz", &[]).status, 200);
    proxy.cut();
    cluster.wait_quiet();
    for client in clients() {
        // 404: of what was put off nothing was stored.
        assert_eq!(server.get_child(&client, NIL).status, 404);
        assert_eq!(server.add_version(&client, NIL, b"stored").status, 200);
    }
}

#[test]
fn a_network_that_swallows_everything_is_told_and_forgotten_when_it_is_over() {
    let cluster = Cluster::start();
    let proxy = Proxy::start(cluster.port());
    let url = cluster.create_database();
    let server = serve(&proxy.url(url.rsplit('/').next().unwrap()));
    let client = Uuid::from_u128(1 << 64 | 1).to_string();
    let first = server.add_version(&client, NIL, b"first");
    let version = first.header("x-version-id").unwrap().to_owned();
    proxy.hold();
    thread::scope(|scope| {
        let push = scope.spawn(|| server.add_version(&client, &version, b"swallowed"));
        let ready = loop {
            // An answer is given again for a second.
            let answer = server.get("/readyz", &[]);
            if answer.status == 503 {
                break answer;
            }
        };
        assert!(ready.json()["parts"]["store"]["error"].is_string(), "{}", ready.text());
        assert_eq!(server.get("/healthz", &[]).status, 200);
        let answer = push.join().unwrap();
        assert_eq!(answer.status, 503, "{}", answer.text());
    });
    proxy.release();
    while server.get("/readyz", &[]).status != 200 {}
    // What arrived late was refused; the device asks again, finds no child, and pushes once more.
    let answer = loop {
        let answer = server.add_version(&client, &version, b"again");
        if answer.status != 503 {
            break answer;
        }
    };
    assert_eq!(answer.status, 200, "{}", answer.text());
}
