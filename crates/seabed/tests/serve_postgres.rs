//! Several servers on one PostgreSQL database: one history for each client whichever of them it asks, nothing stale, nothing lost with a
//! server that dies, and a database that goes away and comes back.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::process::{Command, Output, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::{Ended, NIL, SEGMENT, Server, chain, request, seabed, stderr, stdout};
use seabed_kv::Store;
use seabed_testkit::postgres::Cluster;
use uuid::Uuid;

/// How many clients push at once, and how often.
const CROWD: usize = 16;
const PUSHES: usize = 12;

fn serving(store: &str, listen: &str) -> Command {
    let mut command = seabed();
    command.args(["serve", "--listen", listen]).env("SEABED_STORE", store);
    command
}

fn serve(store: &str) -> Server {
    Server::spawn(serving(store, "127.0.0.1:0"))
}

/// A command on the store, beside whoever serves it.
fn run(store: &str, args: &[&str]) -> Output {
    seabed().args(args).env("SEABED_STORE", store).stdin(Stdio::null()).output().unwrap()
}

fn json(store: &str, args: &[&str]) -> serde_json::Value {
    let output = run(store, &[args, &["--json"]].concat());
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Both dialects of the same database.
fn each_dialect(test: impl Fn(&str)) {
    let cluster = Cluster::start();
    for scheme in ["postgres", "postgres+portable"] {
        test(&cluster.create_database().replacen("postgres", scheme, 1));
    }
}

#[test]
fn two_servers_started_at_once_on_an_empty_database_agree_and_see_each_others_writes_at_once() {
    each_dialect(|store| {
        let barrier = Barrier::new(2);
        let start = || {
            barrier.wait();
            serve(store)
        };
        let servers = thread::scope(|scope| {
            let other = scope.spawn(start);
            [start(), other.join().unwrap()]
        });
        // 64 shards of clients, 64 of documents, and the server's own.
        assert_eq!(json(store, &["tenants"])["tenants"].as_array().unwrap().len(), 129);
        thread::scope(|scope| {
            for number in 0..CROWD {
                let servers = &servers;
                scope.spawn(move || {
                    let client = Uuid::from_u128((number as u128) << 64 | 1).to_string();
                    let mut pushed: Vec<(String, String, Vec<u8>)> = Vec::new();
                    for push in 0..PUSHES {
                        let (one, other) = (&servers[push % 2], &servers[(push + 1) % 2]);
                        let parent = pushed.last().map_or(NIL, |(version, ..)| version).to_owned();
                        let body = vec![u8::try_from(push).unwrap(); if push == 5 { 40_000 } else { 100 }];
                        let answer = one.add_version(&client, &parent, &body);
                        assert_eq!(answer.status, 200, "{}", answer.text());
                        let version = answer.header("x-version-id").unwrap().to_owned();
                        // Acknowledged here, and so there already.
                        let found = other.get_child(&client, &parent);
                        assert_eq!(
                            (found.status, found.header("x-version-id")),
                            (200, Some(version.as_str()))
                        );
                        assert!(found.body == body);
                        let late = other.add_version(&client, &parent, b"late");
                        assert_eq!(
                            (late.status, late.header("x-parent-version-id")),
                            (409, Some(version.as_str()))
                        );
                        pushed.push((version, parent, body));
                    }
                    for server in servers {
                        assert!(chain(server, &client) == pushed);
                    }
                });
            }
        });
        assert_eq!(json(store, &["verify"])["examined"]["versions"], CROWD * PUSHES);
    });
}

#[test]
fn devices_of_one_client_that_push_through_two_servers_at_once_make_one_chain() {
    each_dialect(|store| {
        let servers = [serve(store), serve(store)];
        let client = Uuid::from_u128(7 << 64).to_string();
        let accepted: Vec<Vec<String>> = thread::scope(|scope| {
            let devices: Vec<_> = (0..8)
                .map(|device| {
                    let (server, client) = (&servers[device % 2], &client);
                    scope.spawn(move || {
                        let (mut parent, mut accepted) = (NIL.to_owned(), Vec::new());
                        while accepted.len() < 6 {
                            let answer = server.add_version(client, &parent, format!("{device}").as_bytes());
                            let (name, accepts) = match answer.status {
                                200 => ("x-version-id", true),
                                409 => ("x-parent-version-id", false),
                                status => panic!("{status}: {}", answer.text()),
                            };
                            answer.header(name).unwrap().clone_into(&mut parent);
                            accepted.extend(accepts.then(|| parent.clone()));
                        }
                        accepted
                    })
                })
                .collect();
            devices.into_iter().map(|device| device.join().unwrap()).collect()
        });
        let chain = chain(&servers[0], &client);
        assert_eq!(chain.len(), 48, "each push that was accepted is there, once");
        for version in accepted.iter().flatten() {
            assert!(chain.iter().any(|(there, ..)| there == version));
        }
        assert_eq!(json(store, &["verify"])["findings"], 0);
    });
}

#[test]
fn a_server_that_is_killed_under_load_takes_nothing_with_it() {
    let cluster = Cluster::start();
    let store = cluster.create_database();
    let survivor = serve(&store);
    let victim = serve(&store);
    let survivor_address = survivor.address().to_owned();
    let victim_address = victim.address().to_owned();
    let (dead, enough) = (AtomicBool::new(false), Barrier::new(CROWD + 1));
    let histories: Vec<(String, Vec<String>)> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CROWD)
            .map(|number| {
                let (survivor, victim, dead, enough) = (&survivor_address, &victim_address, &dead, &enough);
                scope.spawn(move || {
                    let client = Uuid::from_u128((number as u128) << 64 | 3).to_string();
                    let (mut parent, mut acknowledged, mut after) = (NIL.to_owned(), Vec::new(), 0);
                    let mut waited = false;
                    while after < 5 {
                        let gone = dead.load(Ordering::Relaxed);
                        let address = if gone { survivor } else { victim };
                        let headers = [("X-Client-Id", client.as_str()), ("Content-Type", SEGMENT)];
                        let path = format!("/v1/client/add-version/{parent}");
                        // The answer may die with the server: as its client does, this goes on from what there is.
                        let Ok(answer) = request(address, "POST", &path, &headers, b"bytes") else {
                            continue;
                        };
                        let name = match answer.status {
                            200 => "x-version-id",
                            409 => "x-parent-version-id",
                            status => panic!("{status}: {}", answer.text()),
                        };
                        answer.header(name).unwrap().clone_into(&mut parent);
                        if answer.status == 200 {
                            acknowledged.push(parent.clone());
                            after += usize::from(gone);
                        }
                        if acknowledged.len() == 3 && !waited {
                            waited = true;
                            enough.wait();
                        }
                    }
                    (client, acknowledged)
                })
            })
            .collect();
        enough.wait();
        let ended = Ended(&dead);
        victim.kill();
        drop(ended);
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    for (client, acknowledged) in &histories {
        let versions: Vec<_> = chain(&survivor, client).into_iter().map(|(version, ..)| version).collect();
        // Whatever was not acknowledged may be between, and nothing is missing or in another order.
        let mut there = versions.iter();
        assert!(acknowledged.iter().all(|version| there.any(|found| found == version)), "client {client}");
    }
    let again = serve(&store);
    assert_eq!(chain(&again, &histories[0].0), chain(&survivor, &histories[0].0));
    assert_eq!(json(&store, &["verify"])["findings"], 0);
}

#[test]
fn a_database_that_goes_away_is_told_and_comes_back_without_a_restart() {
    let mut cluster = Cluster::start();
    let store = cluster.create_database().replacen("postgres@", "postgres:SECRET@", 1);
    let mut command = serving(&store, "127.0.0.1:0");
    command.env("RUST_LOG", "debug");
    let server = Server::spawn(command);
    assert!(
        server.banner.contains("store   postgres://postgres@127.0.0.1:") && !server.banner.contains("socket")
    );
    let client = Uuid::from_u128(9 << 64).to_string();
    let first = server.add_version(&client, NIL, b"before");
    let version = first.header("x-version-id").unwrap().to_owned();
    let ready = |status: u16| loop {
        // An answer is given again for a second.
        let answer = server.get("/readyz", &[]);
        if answer.status == status {
            return answer;
        }
    };
    ready(200);
    let mut told = server.banner.clone();
    for stop in [Cluster::stop_fast, Cluster::kill9] {
        stop(&mut cluster);
        let answer = ready(503);
        let parts = &answer.json()["parts"];
        assert!(
            !parts["store"]["ready"].as_bool().unwrap() && parts["store"]["error"].is_string(),
            "{parts}"
        );
        assert_eq!(server.get("/healthz", &[]).status, 200);
        for answer in [server.add_version(&client, &version, b"lost"), server.get_child(&client, NIL)] {
            assert_eq!(answer.status, 503, "{}", answer.text());
            assert_eq!(answer.header("retry-after"), Some("1"));
            told += &answer.text();
        }
        told += &answer.text();
        let output = run(&store, &["tenants"]);
        assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
        told += &stderr(&output);
        cluster.start_again();
        ready(200);
        assert_eq!(server.get_child(&client, NIL).body, b"before");
    }
    assert_eq!(server.add_version(&client, &version, b"after").status, 200);
    told += &stdout(&run(&store, &["tenants", "--json"]));
    told += &stdout(&run(&store, &["verify"]));
    let (status, logs) = server.terminate();
    assert!(status.success());
    told += &logs;
    assert!(told.contains("a request was put off") && !told.contains("SECRET"), "{told}");
}

#[test]
fn commands_work_beside_the_servers_and_say_what_a_database_has_other_tools_for() {
    let cluster = Cluster::start();
    let store = cluster.create_database();
    let output = run(&store, &["clients", "list"]);
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
    assert!(stderr(&output).contains("there is no store in postgres://"), "{}", stderr(&output));

    let server = serve(&store);
    let client = Uuid::from_u128(11 << 64).to_string();
    let version = server.add_version(&client, NIL, b"bytes").header("x-version-id").unwrap().to_owned();
    assert_eq!(json(&store, &["clients", "show", &client])["versions"][0]["version"], version.as_str());
    let shard = json(&store, &["tenants", "--rows"])["tenants"]
        .as_array()
        .unwrap()
        .iter()
        .find(|tenant| {
            tenant["rows"].as_u64() > Some(1)
                && tenant["layer"] == "taskchampion"
                && tenant["id"] != "taskchampion-00"
        })
        .map(|tenant| tenant["id"].as_str().unwrap().to_owned())
        .unwrap();
    let rows = json(&store, &["inspect", &shard]);
    assert!(rows["rows"].as_array().unwrap().iter().any(|row| row["category"] == "taskchampion.version"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("out.sqlite3");
    let exported = json(&store, &["export", "taskchampion", file.to_str().unwrap()]);
    assert_eq!(exported["written"]["versions"], 1);

    let to = directory.path().join("backup");
    for (args, part) in [
        (vec!["backup", to.to_str().unwrap()], "back up a PostgreSQL database with pg_dump or pg_basebackup"),
        (vec!["restore", to.to_str().unwrap()], "restore a PostgreSQL database with pg_restore"),
        (vec!["tenants", "--data-dir", "here"], "two stores are named"),
    ] {
        let output = run(&store, &args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{args:?}: {}", stderr(&output));
    }
    assert!(run(&store, &["clients", "delete", &client, "--yes"]).status.success());
    assert_eq!(server.get_child(&client, NIL).status, 404);
}

/// The note of a copy into the store, as a release without tokens in it wrote it.
fn note(source: &str) -> String {
    serde_json::json!({ "source": source, "tenant": "", "category": "", "key": "" }).to_string()
}

#[test]
fn a_server_that_finds_a_copy_into_its_database_serves_no_more() {
    let cluster = Cluster::start();
    let url = cluster.create_database();
    let server = serve(&url);
    let client = Uuid::from_u128(12 << 64).to_string();
    assert_eq!(server.add_version(&client, NIL, b"before").status, 200);
    let store = Store::postgres(&url).unwrap();
    let own = store.open("seabed").wait().unwrap();
    own.put("seabed.copying", b"", note("/elsewhere")).wait().unwrap();
    // Nobody asks whether it is ready: it finds out by itself.
    while server.get_child(&client, NIL).status == 200 {
        thread::yield_now();
    }
    for answer in [server.get_child(&client, NIL), server.get("/readyz", &[])] {
        assert_eq!(answer.status, 503, "{}", answer.text());
    }
    assert!(server.get_child(&client, NIL).text().contains("a copy of /elsewhere into this store"));
    assert_eq!(server.get("/healthz", &[]).status, 200);
    // What it holds in memory is of the store before, so it stays so.
    own.delete("seabed.copying", b"").wait().unwrap();
    assert_eq!(server.add_version(&client, NIL, b"after").status, 503);
    let (ended, logs) = server.terminate();
    assert!(ended.success() && logs.contains("a copy of /elsewhere"), "{logs}");
    assert_eq!(serve(&url).get_child(&client, NIL).body, b"before");
}

#[test]
fn a_copy_is_not_taken_over_while_it_lives() {
    let cluster = Cluster::start();
    let url = cluster.create_database();
    let directory = tempfile::tempdir().unwrap();
    let from = directory.path().canonicalize().unwrap().join("from");
    assert_eq!(Server::start(&from).add_version(&Uuid::from_u128(13).to_string(), NIL, b"x").status, 200);
    let store = Store::postgres(&url).unwrap();
    let own = store.open("seabed").wait().unwrap();
    let source = from.to_str().unwrap();
    let copy = || {
        let mut command = seabed();
        command.args(["copy", &format!("sqlite:{source}"), &url, "--json"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    own.put("seabed.copying", b"", note(source)).wait().unwrap();
    let mut second = copy();
    // The first one writes on.
    let mut written = 0_u64;
    while second.try_wait().unwrap().is_none() {
        written += 1;
        let count = serde_json::json!({ "count": written, "source": source, "tenant": "", "category": "", "key": "" });
        own.put("seabed.copying", b"", count.to_string()).wait().unwrap();
    }
    let refused = second.wait_with_output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("another copy into it is under way"), "{}", stderr(&refused));
    // It has died.
    let copied = copy().wait_with_output().unwrap();
    assert!(copied.status.success(), "{}", stderr(&copied));
    let report: serde_json::Value = serde_json::from_slice(&copied.stdout).unwrap();
    assert_eq!(report["resumed"], true);
    assert_eq!(own.get("seabed.copying", b"").wait().unwrap(), None);
}
