//! Moving in from the original server's PostgreSQL build, whose schema its administrators load by hand: ids and bytes as they are,
//! again and again, over kills, and what is broken is left out by name.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Output, Stdio};

use common::{NIL, Server, chain, json, seabed, stderr};
use seabed_testkit::postgres::Cluster;
use serde_json::Value;
use uuid::Uuid;

/// What the original's page has its administrators load, with a column that somebody added, as that page allows.
const SCHEMA: &str = "
    CREATE TABLE clients (client_id UUID PRIMARY KEY, latest_version_id UUID DEFAULT '00000000-0000-0000-0000-000000000000',
        snapshot_version_id UUID, versions_since_snapshot INTEGER, snapshot_timestamp BIGINT, snapshot BYTEA,
        owner TEXT DEFAULT 'somebody');
    CREATE TABLE versions (client_id UUID NOT NULL, FOREIGN KEY (client_id) REFERENCES clients (client_id) ON DELETE CASCADE,
        version_id UUID NOT NULL, parent_version_id UUID, history_segment BYTEA,
        CONSTRAINT versions_pkey PRIMARY KEY (client_id, version_id));
    CREATE INDEX versions_by_parent ON versions (parent_version_id);";

fn id(number: u128) -> String {
    Uuid::from_u128(number).to_string()
}

fn bytes_of(version: u128) -> Vec<u8> {
    let length = if version.is_multiple_of(5) { 30_000 } else { 20 };
    vec![u8::try_from(version % 251).unwrap(); length]
}

/// These bytes, all of them the same, in SQL.
fn bytea(bytes: &[u8]) -> String {
    format!("decode(repeat('{:02x}', {}), 'hex')", bytes[0], bytes.len())
}

/// A client with versions `first..first + length`, each of its own bytes, some of them large.
fn client(client: u128, first: u128, length: u128) -> String {
    let latest = if length == 0 { 0 } else { first + length - 1 };
    let client = id(client);
    let mut sql =
        format!("INSERT INTO clients (client_id, latest_version_id) VALUES ('{client}', '{}');", id(latest));
    for version in first..first + length {
        let parent = id(if version == first { 0 } else { version - 1 });
        let bytes = bytea(&bytes_of(version));
        write!(sql, "INSERT INTO versions VALUES ('{client}', '{}', '{parent}', {bytes});", id(version))
            .unwrap();
    }
    sql
}

fn snapshot(client: u128, version: u128, bytes: &[u8]) -> String {
    format!(
        "UPDATE clients SET snapshot_version_id = '{}', versions_since_snapshot = 0, snapshot_timestamp = 1600000000,
            snapshot = {} WHERE client_id = '{}';",
        id(version),
        bytea(bytes),
        id(client)
    )
}

const CLIENTS: u128 = 80;

/// The number of a client's id, and how many versions it has.
fn shape(number: u128) -> (u128, u128) {
    (number << 64, number % 8)
}

/// Eighty clients, more than are read at once; a snapshot in a row and one in chunks.
fn sound(cluster: &Cluster) -> (String, String) {
    let url = cluster.create_database();
    let database = url.rsplit('/').next().unwrap().to_owned();
    cluster.sql(&database, SCHEMA);
    for numbers in (1..=CLIENTS).collect::<Vec<_>>().chunks(50) {
        let sql: String =
            numbers.iter().map(|number| client(shape(*number).0, number * 100, shape(*number).1)).collect();
        cluster.sql(&database, &sql);
    }
    cluster.sql(&database, &snapshot(shape(7).0, 706, &[9; 10]));
    cluster.sql(&database, &snapshot(shape(6).0, 604, &vec![8; 40_000]));
    (url, database)
}

fn import(from: &str, to: &Path) -> Output {
    let mut command = seabed();
    command.args(["import", "taskchampion", from, "--json", "--data-dir"]).arg(to);
    command.stdin(Stdio::null()).output().unwrap()
}

fn report(output: &Output, code: i32) -> Value {
    assert_eq!(output.status.code(), Some(code), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn assert_all_there(server: &Server) {
    for number in 1..=CLIENTS {
        let (client, length) = shape(number);
        let first = number * 100;
        let expected: Vec<_> = (first..first + length)
            .map(|version| {
                (id(version), id(if version == first { 0 } else { version - 1 }), bytes_of(version))
            })
            .collect();
        assert!(chain(server, &id(client)) == expected, "client {number}");
    }
    for (number, version, bytes) in [(7, 706, vec![9; 10]), (6, 604, vec![8; 40_000])] {
        let answer = server.get("/v1/client/snapshot", &[("X-Client-Id", &id(shape(number).0))]);
        assert_eq!((answer.status, answer.header("x-version-id")), (200, Some(id(version).as_str())));
        assert!(answer.body == bytes, "the snapshot of client {number}");
    }
}

#[test]
fn everything_comes_as_it_is_and_a_second_time_only_what_is_new() {
    let cluster = Cluster::start();
    let (url, database) = sound(&cluster);
    let directory = tempfile::tempdir().unwrap();
    let to = directory.path().join("to");
    let first = report(&import(&url, &to), 0);
    assert_eq!((&first["written"]["clients"], &first["refused"]), (&80.into(), &0.into()));
    assert_eq!(
        (&first["written"]["snapshots"], &first["written"]["snapshot_bytes"]),
        (&2.into(), &40_010.into())
    );
    assert_all_there(&Server::start(&to));
    assert_eq!(report(&import(&url, &to), 0)["unchanged"], 80);

    // The original went on.
    let more = client(1, 50_000, 3) + &snapshot(shape(15).0, 1_506, &[1; 5]);
    cluster.sql(&database, &more);
    let second = report(&import(&url, &to), 0);
    assert_eq!((&second["written"]["clients"], &second["written"]["versions"]), (&2.into(), &3.into()));
    assert_eq!(second["unchanged"], 79);
    let shown = json(&to, &["clients", "show", &id(shape(15).0)]);
    assert_eq!(shown["client"]["snapshot"]["received_unix_s"], 1_600_000_000);
    // And nothing was changed there.
    assert_eq!(cluster.sql(&database, "SELECT count(*), count(snapshot) FROM clients"), "81|3");
}

#[test]
fn into_another_database_and_after_a_kill_it_is_run_again() {
    let cluster = Cluster::start();
    let (url, _) = sound(&cluster);
    let store = cluster.create_database();
    let database = store.rsplit('/').next().unwrap();
    let command = || {
        let mut command = seabed();
        command
            .args(["import", "taskchampion", &url, "--json"])
            .env("SEABED_STORE", &store)
            .stdin(Stdio::null());
        command
    };
    let rows = "SELECT count(*) FROM seabed.rows WHERE category = 'taskchampion.client'";
    let mut killed = 0;
    for enough in [1, 20, 50] {
        let mut child = command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let there =
            || cluster.try_sql(database, rows).ok().and_then(|rows| rows.trim().parse().ok()).unwrap_or(0);
        while there() < enough && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        let _ = child.kill();
        killed += usize::from(!child.wait().unwrap().success());
    }
    assert!(killed > 0, "no import was killed in the middle");
    let last = report(&command().output().unwrap(), 0);
    assert_eq!((&last["found"]["clients"], &last["refused"]), (&80.into(), &0.into()));
    let mut serve = seabed();
    serve.args(["serve", "--listen", "127.0.0.1:0"]).env("SEABED_STORE", &store);
    assert_all_there(&Server::spawn(serve));
    let verified = seabed().arg("verify").env("SEABED_STORE", &store).output().unwrap();
    assert!(verified.status.success(), "{verified:?}");
}

#[test]
fn a_broken_client_is_refused_by_name_and_the_others_come() {
    let cluster = Cluster::start();
    let (url, database) = sound(&cluster);
    cluster.sql(&database, "ALTER TABLE versions DROP CONSTRAINT versions_client_id_fkey");
    let broken = |number: u128, sql: &str| {
        cluster.sql(
            &database,
            &(client(number, number, 4) + &sql.replace("CLIENT", &format!("client_id = '{}'", id(number)))),
        );
    };
    broken(1_000, &format!("DELETE FROM versions WHERE CLIENT AND version_id = '{}';", id(1_001)));
    broken(2_000, "UPDATE clients SET latest_version_id = NULL WHERE CLIENT;");
    broken(
        3_000,
        &format!("UPDATE versions SET history_segment = NULL WHERE CLIENT AND version_id = '{}';", id(3_002)),
    );
    broken(
        4_000,
        &format!(
            "UPDATE versions SET parent_version_id = '{}' WHERE CLIENT AND version_id = '{}';",
            id(4_000),
            id(4_003)
        ),
    );
    broken(5_000, "DELETE FROM clients WHERE CLIENT;");
    let directory = tempfile::tempdir().unwrap();
    let to = directory.path().join("to");
    let report = report(&import(&url, &to), 1);
    assert_eq!((&report["written"]["clients"], &report["refused"]), (&80.into(), &5.into()));
    let refused: Vec<_> = report["refusals"]
        .as_array()
        .unwrap()
        .iter()
        .map(|refused| {
            (refused["client"].as_str().unwrap().to_owned(), refused["why"].as_str().unwrap().to_owned())
        })
        .collect();
    for (number, part) in [
        (1_000, "which is missing"),
        (2_000, "names no latest version"),
        (3_000, "has no bytes"),
        (4_000, "its chain forks"),
        (5_000, "there is no such client"),
    ] {
        let why = refused
            .iter()
            .find(|(client, _)| *client == id(number))
            .unwrap_or_else(|| panic!("{number}: {refused:?}"));
        assert!(why.1.contains(part), "{why:?}");
    }
    let server = Server::start(&to);
    assert_all_there(&server);
    assert_eq!(server.get_child(&id(1_000), NIL).status, 404);
}

#[test]
fn what_is_no_such_database_is_said_without_the_password_and_makes_no_store() {
    let cluster = Cluster::start();
    let directory = tempfile::tempdir().unwrap();
    let to = directory.path().join("to");
    let empty = cluster.create_database().replacen("postgres@", "postgres:SECRET@", 1);
    let nobody = "postgres://anna:SECRET@127.0.0.1:1/tasks";
    for (url, part) in [
        (empty.as_str(), "it is not the database of a taskchampion-sync-server"),
        (nobody, "cannot connect to the original's database"),
        ("postgres://anna:SECRET@host:port/tasks", "does not read"),
    ] {
        let output = import(url, &to);
        let said = stderr(&output);
        assert!(!output.status.success() && said.contains(part) && !said.contains("SECRET"), "{said}");
        assert!(!to.exists(), "{url} made a store");
    }
}
