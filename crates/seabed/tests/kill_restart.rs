//! SIGKILL at random, under load: whatever was acknowledged is there, and every history is one chain.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{NIL, SEGMENT, Server, chain, json, request};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

const CLIENTS: usize = 6;
const WRITERS: usize = 12;
const ROUNDS: u64 = 4;

/// What a client was told: version to parent and body.
type Told = BTreeMap<String, (String, Vec<u8>)>;

#[test]
fn nothing_that_was_acknowledged_is_lost() {
    let mut random = StdRng::seed_from_u64(common::seed());
    let dir = tempfile::tempdir().unwrap();
    let clients: Vec<_> = (0..CLIENTS).map(|_| Uuid::from_u128(random.random()).to_string()).collect();
    let told: Vec<Mutex<Told>> = clients.iter().map(|_| Mutex::default()).collect();

    for round in 0..ROUNDS {
        let server = Server::start(dir.path());
        nothing_is_lost(&dir, &server, &clients, &told);

        // Killed after so many acknowledgements, wherever the writers are then.
        let acknowledged = AtomicU64::new(0);
        let kill_after = random.random_range(1..200_u64);
        let (done, killed) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            for number in 0..WRITERS {
                let (index, seed) = (number % CLIENTS, random.random());
                let (client, told) = (&clients[index], &told[index]);
                let (address, acknowledged, done) =
                    (server.address().to_owned(), &acknowledged, done.clone());
                scope.spawn(move || {
                    write(&address, client, told, StdRng::seed_from_u64(seed), || {
                        if acknowledged.fetch_add(1, Ordering::Relaxed) + 1 == kill_after {
                            done.send(()).unwrap();
                        }
                    });
                });
            }
            drop(done);
            killed.recv().unwrap();
            server.kill();
        });
        assert!(acknowledged.load(Ordering::Relaxed) >= kill_after, "round {round}");
    }
    let server = Server::start(dir.path());
    nothing_is_lost(&dir, &server, &clients, &told);
}

/// Every acknowledged version is at its place, and every chain is whole.
fn nothing_is_lost(dir: &tempfile::TempDir, server: &Server, clients: &[String], told: &[Mutex<Told>]) {
    for (client, told) in clients.iter().zip(told) {
        holds(server, client, &told.lock().unwrap());
    }
    let verified = json(dir.path(), &["verify"]);
    assert_eq!((&verified["findings"], &verified["complete"]), (&0.into(), &true.into()), "{verified}");
}

/// Pushes until the server is gone. Two writers of one client get in each other's way, as two devices do.
fn write(
    address: &str,
    client: &str,
    told: &Mutex<Told>,
    mut random: StdRng,
    mut acknowledged: impl FnMut(),
) {
    let mut parent = NIL.to_owned();
    loop {
        // Mostly small; now and then more than fits beside a key, which is stored in pieces.
        let length = if random.random_ratio(1, 10) {
            random.random_range(10_000..300_000)
        } else {
            random.random_range(1..2_000)
        };
        let body: Vec<u8> = (0..length).map(|_| random.random()).collect();
        let headers = [("X-Client-Id", client), ("Content-Type", SEGMENT)];
        let path = format!("/v1/client/add-version/{parent}");
        let Ok(answer) = request(address, "POST", &path, &headers, &body) else { return };
        match answer.status {
            200 => {
                let version = answer.header("x-version-id").unwrap().to_owned();
                told.lock().unwrap().insert(version.clone(), (parent, body));
                parent = version;
                acknowledged();
            }
            409 => answer.header("x-parent-version-id").unwrap().clone_into(&mut parent),
            status => panic!("{status}: {}", answer.text()),
        }
    }
}

/// The server's chain has every version that was acknowledged, at its place and to the byte.
fn holds(server: &Server, client: &str, told: &Told) {
    let stored: Told =
        chain(server, client).into_iter().map(|(version, parent, body)| (version, (parent, body))).collect();
    for (version, expected) in told {
        let found = stored.get(version);
        assert!(found == Some(expected), "version {version} of {client} was acknowledged and is not there");
    }
}
