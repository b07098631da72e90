//! `seabed copy` through the real binary: every history as it was, over kills, and never over other data.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::path::Path;
use std::process::{Output, Stdio};

use common::{NIL, SNAPSHOT, Server, chain, json, seabed, stderr, stdout};
use seabed_testkit::postgres::Cluster;
use uuid::Uuid;

fn url(directory: &Path) -> String {
    format!("sqlite:{}", directory.display())
}

fn copy(from: &str, to: &str) -> Output {
    seabed().args(["copy", from, to, "--json"]).stdin(Stdio::null()).output().unwrap()
}

fn copied(from: &str, to: &str) -> serde_json::Value {
    let output = copy(from, to);
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Serves clients with versions and snapshots of all sizes into a directory; answers their ids.
fn fill(directory: &Path, clients: u128) -> Vec<String> {
    let server = Server::start(directory);
    let clients: Vec<_> = (1..=clients).map(|number| Uuid::from_u128(number << 70).to_string()).collect();
    for (number, client) in clients.iter().enumerate() {
        let mut parent = NIL.to_owned();
        for version in 0..6 {
            let bytes = vec![u8::try_from(number).unwrap(); if version == 3 { 150_000 } else { 40 + number }];
            let answer = server.add_version(client, &parent, &bytes);
            answer.header("x-version-id").unwrap().clone_into(&mut parent);
        }
        let path = format!("/v1/client/add-snapshot/{parent}");
        assert_eq!(server.ask("POST", &path, client, SNAPSHOT, &vec![9; 500 * number + 1]).status, 200);
    }
    assert!(server.terminate().0.success());
    clients
}

/// All that its clients can see of a store, and what only its owner sees.
fn seen(server: &Server, clients: &[String]) -> Vec<impl PartialEq + std::fmt::Debug + use<>> {
    let snapshot = |client: &String| {
        let answer = server.get("/v1/client/snapshot", &[("X-Client-Id", client)]);
        (answer.status, answer.header("x-version-id").map(str::to_owned), answer.body)
    };
    clients.iter().map(|client| (chain(server, client), snapshot(client))).collect()
}

fn serve(url: &str) -> Server {
    let mut command = seabed();
    command.args(["serve", "--listen", "127.0.0.1:0"]).env("SEABED_STORE", url);
    Server::spawn(command)
}

#[test]
fn to_a_database_and_back_every_history_is_to_the_byte_what_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let (from, back) = (directory.path().join("from"), directory.path().join("back"));
    let clients = fill(&from, 12);
    let owned: Vec<_> =
        clients.iter().map(|client| json(&from, &["clients", "show", client])["client"].clone()).collect();
    let cluster = Cluster::start();
    for scheme in ["postgres", "postgres+portable"] {
        let database = cluster.create_database().replacen("postgres", scheme, 1);
        let report = copied(&url(&from), &database);
        assert_eq!(report["resumed"], false);
        let shards = report["tenants"].as_array().unwrap();
        assert_eq!(shards.len(), 66, "sixty-four shards, the documents, and the program's own tenant");

        let verified = seabed().args(["verify", "--json"]).env("SEABED_STORE", &database).output().unwrap();
        assert!(verified.status.success(), "{}{}", stdout(&verified), stderr(&verified));
        let verified: serde_json::Value = serde_json::from_slice(&verified.stdout).unwrap();
        assert_eq!(verified["examined"]["clients"], 12);
        assert_eq!(verified["examined"]["versions"], 72);

        let back = back.with_extension(scheme);
        let again = copied(&database, &url(&back));
        assert_eq!((&again["rows"], &again["bytes"]), (&report["rows"], &report["bytes"]));
        for (client, owned) in clients.iter().zip(&owned) {
            assert_eq!(json(&back, &["clients", "show", client])["client"], *owned);
        }
        let (one, other, third) = (Server::start(&from), serve(&database), Server::start(&back));
        let expected = seen(&one, &clients);
        assert!(expected == seen(&other, &clients), "the database differs");
        assert!(expected == seen(&third, &clients), "the copy of it differs");
    }
}

#[test]
fn a_copy_that_was_killed_goes_on_and_until_it_has_ended_nobody_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let from = directory.path().join("from");
    let clients = fill(&from, 30);
    let expected = seen(&Server::start(&from), &clients);
    let mut resumed = 0;
    for attempt in 1..=4 {
        let to = directory.path().join(format!("to-{attempt}"));
        let mut child = seabed()
            .args(["copy", &url(&from), &url(&to)])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The files that clients' rows go to: so many bytes of them are there.
        let there = || {
            let sizes =
                ["taskchampion-00.db", "taskchampion-00.db-wal"].map(|file| std::fs::metadata(to.join(file)));
            sizes.iter().flatten().map(std::fs::Metadata::len).sum::<u64>()
        };
        while there() < attempt * 900_000 && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        let _ = child.kill();
        let killed = !child.wait().unwrap().success();

        if killed {
            let output =
                seabed().args(["serve", "--listen", "127.0.0.1:0"]).env("DATA_DIR", &to).output().unwrap();
            assert_eq!(output.status.code(), Some(2));
            assert!(
                stderr(&output).contains("has not ended; run `seabed copy` again"),
                "{}",
                stderr(&output)
            );
            let output = seabed().args(["clients", "list"]).env("DATA_DIR", &to).output().unwrap();
            assert_eq!(output.status.code(), Some(2));
            let report = copied(&url(&from), &url(&to));
            assert_eq!(report["resumed"], true);
            resumed += 1;
        }
        assert!(expected == seen(&Server::start(&to), &clients), "attempt {attempt} differs");
    }
    assert!(resumed > 0, "no copy was killed in the middle");
}

#[test]
fn a_destination_with_other_data_and_a_source_in_use_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (from, other) = (directory.path().join("from"), directory.path().join("other"));
    fill(&from, 1);
    fill(&other, 1);
    let refused = |from: &str, to: &str, code: i32, part: &str| {
        let output = copy(from, to);
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        assert!(stderr(&output).contains(part), "{}", stderr(&output));
    };
    refused(&url(&from), &url(&other), 2, "it holds other data, in tenant ");
    refused(&url(&from), &url(&from), 2, "is both source and destination");
    let absent = directory.path().join("absent");
    refused(&url(&absent), &url(&directory.path().join("new")), 2, "there is no store in");
    assert!(!absent.exists() && !directory.path().join("new").exists());
    refused("from", "to", 2, "the URL of a store is sqlite:DIR");

    // A server that has nobody yet is no other data; one that runs is in the way.
    let to = directory.path().join("to");
    let server = Server::start(&to);
    refused(&url(&from), &url(&to), 1, "cannot copy while a server");
    assert!(server.terminate().0.success());
    let server = Server::start(&from);
    refused(&url(&from), &url(&to), 1, "cannot copy while a server");
    assert!(server.terminate().0.success());
    copied(&url(&from), &url(&to));
    // It has ended, and so this would be another.
    refused(&url(&from), &url(&to), 2, "it holds other data");
}
