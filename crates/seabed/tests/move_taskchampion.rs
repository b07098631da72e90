//! Moving in from the original server and back, with databases that its own published storage wrote, and reads.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use common::{NIL, Server, chain, json, run, seabed, stderr, stdout};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const FILE: &str = "taskchampion-sync-server.sqlite3";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The program around the original's published storage. Built apart, because two crates that link SQLite cannot share a binary; cargo
/// sees to it that several tests build it once.
fn tc_original(arguments: &[&str], directory: &Path) -> String {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        let target = repository().join("target/tc-original");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--locked", "--quiet"]).current_dir(repository().join("bench/tc-original"));
        // As cargo gives it to everybody: without our flags for SQLite.
        build.env("CARGO_TARGET_DIR", &target).env("LIBSQLITE3_FLAGS", "");
        let output = build.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        target.join("debug/tc-original")
    });
    let (command, flags) = arguments.split_first().unwrap();
    let output = Command::new(program).arg(command).arg(directory).args(flags).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    stdout(&output)
}

fn fill(directory: &Path, seed: u64, clients: usize, versions: usize) {
    let (seed, clients, versions) = (seed.to_string(), clients.to_string(), versions.to_string());
    tc_original(&["fill", "--seed", &seed, "--clients", &clients, "--versions", &versions], directory);
}

/// What the original's storage says is in its database, a line each.
fn dump(directory: &Path) -> Vec<Value> {
    tc_original(&["dump"], directory).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The same lines, from a running server: what its replicas can see of these clients, and what only its owner sees of
/// their snapshots.
fn dump_served(server: &Server, directory: &Path, clients: &[String]) -> Vec<Value> {
    let mut lines = Vec::new();
    for client in clients {
        let told = &json(directory, &["clients", "show", client])["client"];
        let snapshot = server.get("/v1/client/snapshot", &[("X-Client-Id", client)]);
        let snapshot = match snapshot.status {
            200 => json!({
                "version": snapshot.header("x-version-id").unwrap(),
                "unix_s": told["snapshot"]["received_unix_s"],
                "versions_since": told["snapshot"]["versions_since"],
                "bytes": snapshot.body.len(),
                "sha256": hash(&snapshot.body),
            }),
            404 => Value::Null,
            status => panic!("{status}"),
        };
        let latest = told["latest_version"].as_str().unwrap_or(NIL);
        lines.push(json!({ "client": client, "latest": latest, "snapshot": snapshot }));
        for (version, parent, body) in chain_from_its_beginning(server, directory, client) {
            lines.push(json!({
                "client": client,
                "version": version,
                "parent": parent,
                "bytes": body.len(),
                "sha256": hash(&body),
            }));
        }
    }
    lines
}

fn chain_from_its_beginning(
    server: &Server,
    directory: &Path,
    client: &str,
) -> Vec<(String, String, Vec<u8>)> {
    let versions = &json(directory, &["clients", "show", client])["versions"];
    match versions.get(0).map(|first| first["parent"].as_str().unwrap().to_owned()) {
        Some(parent) if parent != NIL => {
            let first = server.get_child(client, &parent);
            let mut all = vec![(first.header("x-version-id").unwrap().to_owned(), parent, first.body)];
            loop {
                let parent = all.last().unwrap().0.clone();
                let answer = server.get_child(client, &parent);
                if answer.status == 404 {
                    return all;
                }
                all.push((answer.header("x-version-id").unwrap().to_owned(), parent, answer.body));
            }
        }
        _ => chain(server, client),
    }
}

fn clients_of(lines: &[Value]) -> Vec<String> {
    let heads = lines.iter().filter(|line| line.get("latest").is_some());
    heads.map(|line| line["client"].as_str().unwrap().to_owned()).collect()
}

fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn hash_of(file: &Path) -> String {
    hash(&fs::read(file).unwrap())
}

/// What SQLite keeps of each table and index: the words they were made with.
fn schema(file: &Path) -> Vec<(String, Option<String>)> {
    let connection = rusqlite::Connection::open(file).unwrap();
    let mut statement = connection.prepare("SELECT name, sql FROM sqlite_master ORDER BY rowid").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

fn assert_sound(directory: &Path) {
    let verified = json(directory, &["verify"]);
    assert_eq!((&verified["findings"], &verified["complete"]), (&0.into(), &true.into()), "{verified}");
}

#[test]
fn there_and_back_is_the_same_to_the_byte_and_the_original_goes_on() {
    let place = tempfile::tempdir().unwrap();
    let [original, store, back] = ["original", "store", "back"].map(|name| place.path().join(name));
    fill(&original, common::seed() % 1_000_000, 7, 40);
    let expected = dump(&original);
    let before = hash_of(&original.join(FILE));

    let report = json(&store, &["import", "taskchampion", original.to_str().unwrap()]);
    let versions = expected.iter().filter(|line| line.get("version").is_some()).count();
    assert_eq!(
        (&report["written"]["clients"], &report["written"]["versions"], &report["refused"]),
        (&7.into(), &versions.into(), &0.into()),
        "{report}"
    );
    assert_eq!(hash_of(&original.join(FILE)), before, "the original was changed");
    assert_sound(&store);
    let said = stdout(&run(&store, &["import", "taskchampion", original.join(FILE).to_str().unwrap()]));
    assert!(said.contains("nothing to import") && said.contains("skipped 7 clients"), "{said}");

    let server = Server::start(&store);
    assert_eq!(dump_served(&server, &store, &clients_of(&expected)), expected);
    assert!(server.terminate().0.success());

    fs::create_dir(&back).unwrap();
    let file = back.join(FILE);
    let report = json(&store, &["export", "taskchampion", file.to_str().unwrap()]);
    assert_eq!(report["written"]["versions"], versions, "{report}");
    assert_eq!(schema(&file), schema(&original.join(FILE)));
    assert_eq!(dump(&back), expected);
    let refused = run(&store, &["export", "taskchampion", back.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("not overwritten"), "{}", stderr(&refused));

    // The original takes it from here, and what it adds comes back.
    tc_original(&["append", "--seed", "5"], &back);
    let further = dump(&back);
    assert_eq!(further.len(), expected.len() + 7);
    assert_eq!(json(&store, &["import", "taskchampion", back.to_str().unwrap()])["written"]["versions"], 7);
    let server = Server::start(&store);
    assert_eq!(dump_served(&server, &store, &clients_of(&expected)), further);
}

#[test]
fn an_import_that_is_killed_anywhere_is_completed_by_the_next() {
    let mut random = StdRng::seed_from_u64(common::seed());
    let place = tempfile::tempdir().unwrap();
    let original = place.path().join("original");
    fill(&original, random.random_range(0..1_000_000), 12, 60);
    let expected = dump(&original);
    let lengths: std::collections::BTreeMap<_, _> = clients_of(&expected)
        .into_iter()
        .map(|client| {
            let versions = expected.iter().filter(|line| line["client"] == *client).count() - 1;
            (client, versions)
        })
        .collect();
    let bytes = |directory: &Path| -> u64 {
        let files = fs::read_dir(directory).into_iter().flatten().flatten();
        files.map(|file| file.metadata().map_or(0, |file| file.len())).sum()
    };
    let whole = {
        let store = place.path().join("whole");
        assert!(run(&store, &["import", "taskchampion", original.to_str().unwrap()]).status.success());
        bytes(&store)
    };
    let store = place.path().join("store");
    let mut killed = 0;
    for _ in 0..20 {
        // Killed when so much more has been written, wherever it is then.
        let until = bytes(&store) + random.random_range(0..whole / 2);
        let mut command = seabed();
        command.args(["import", "taskchampion"]).arg(&original).arg("--data-dir").arg(&store);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        while child.try_wait().unwrap().is_none() && bytes(&store) < until {
            std::thread::yield_now();
        }
        let _ = child.kill();
        killed += u32::from(child.wait().unwrap().code().is_none());
        // Half of the times as it was left, before anybody has tidied up.
        if random.random() && json_if_there(&store, &["tenants"]).is_some() {
            assert_sound(&store);
        }
        // Whatever is there is whole; before the first client there may be no store yet.
        if json_if_there(&store, &["clients", "list"]).is_some_and(|list| {
            for client in list["clients"].as_array().unwrap() {
                assert_eq!(client["versions"], lengths[client["client"].as_str().unwrap()], "{client}");
            }
            true
        }) {
            assert_sound(&store);
        }
    }
    assert!(killed > 0, "every import was done before it was killed");
    let report = json(&store, &["import", "taskchampion", original.to_str().unwrap()]);
    assert_eq!(report["refused"], 0, "{report}");
    assert_sound(&store);
    let back = place.path().join("back");
    fs::create_dir(&back).unwrap();
    assert!(run(&store, &["export", "taskchampion", back.to_str().unwrap()]).status.success());
    assert_eq!(dump(&back), expected);
}

/// Bytes of the files in a directory.
fn bytes_in(directory: &Path) -> u64 {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    files.map(|file| file.metadata().map_or(0, |file| file.len())).sum()
}

/// Starts a command on the store, and kills it when the directory has grown by so much; answers whether it was killed.
fn killed_when_grown(store: &Path, arguments: &[&str], directory: &Path, by: u64) -> bool {
    let until = bytes_in(directory) + by;
    let mut command = seabed();
    command.args(arguments).arg("--data-dir").arg(store);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    while child.try_wait().unwrap().is_none() && bytes_in(directory) < until {
        std::thread::yield_now();
    }
    let _ = child.kill();
    child.wait().unwrap().code().is_none()
}

/// What an original has beyond its first import comes step by step: killed, a client has a beginning of that, and the next goes on.
#[test]
fn a_repeated_import_that_is_killed_anywhere_leaves_beginnings_and_is_completed() {
    let mut random = StdRng::seed_from_u64(common::seed());
    let place = tempfile::tempdir().unwrap();
    let [original, store] = ["original", "store"].map(|name| place.path().join(name));
    fill(&original, random.random_range(0..1_000_000), 6, 20);
    let import = ["import", "taskchampion", original.to_str().unwrap()];
    json(&store, &import);
    let chains = |directory: &Path| -> std::collections::BTreeMap<String, Vec<Value>> {
        let lines = dump(directory);
        clients_of(&lines)
            .into_iter()
            .map(|client| {
                let versions =
                    lines.iter().filter(|line| line["client"] == *client && line.get("version").is_some());
                let versions = versions.map(|line| line["version"].clone()).collect();
                (client, versions)
            })
            .collect()
    };
    // Each goes on by many versions.
    for seed in 0..40 {
        tc_original(&["append", "--seed", &seed.to_string()], &original);
    }
    let expected = chains(&original);
    let mut killed = 0;
    for _ in 0..12 {
        killed += u32::from(killed_when_grown(&store, &import, &store, random.random_range(0..400_000)));
        assert_sound(&store);
        for (client, chain) in &expected {
            let told = json(&store, &["clients", "show", client]);
            let here: Vec<_> =
                told["versions"].as_array().unwrap().iter().map(|it| it["version"].clone()).collect();
            assert!(chain.starts_with(&here), "{client}: {here:?}");
        }
    }
    assert!(killed > 0, "every import was done before it was killed");
    assert_eq!(json(&store, &import)["refused"], 0);
    let back = place.path().join("back");
    fs::create_dir(&back).unwrap();
    json(&store, &["export", "taskchampion", back.to_str().unwrap()]);
    assert_eq!(dump(&back), dump(&original));
}

#[test]
fn an_export_that_is_killed_leaves_nothing_that_looks_complete() {
    let mut random = StdRng::seed_from_u64(common::seed());
    let place = tempfile::tempdir().unwrap();
    let [original, store, back] = ["original", "store", "back"].map(|name| place.path().join(name));
    fill(&original, random.random_range(0..1_000_000), 10, 60);
    json(&store, &["import", "taskchampion", original.to_str().unwrap()]);
    fs::create_dir(&back).unwrap();
    let export = ["export", "taskchampion", back.to_str().unwrap()];
    json(&store, &export);
    let whole = bytes_in(&back);
    let expected = dump(&back);
    let mut killed = 0;
    for _ in 0..12 {
        fs::remove_dir_all(&back).unwrap();
        fs::create_dir(&back).unwrap();
        if killed_when_grown(&store, &export, &back, random.random_range(0..whole)) {
            killed += 1;
            // Under its name there is nothing, or all of it.
            if back.join(FILE).exists() {
                assert_eq!(dump(&back), expected);
            } else {
                let names = fs::read_dir(&back).unwrap().map(|file| file.unwrap().file_name());
                let names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
                assert!(names.iter().all(|name| name.starts_with(".seabed-export-")), "{names:?}");
                // What was left over is in nobody's way.
                json(&store, &export);
                assert_eq!(dump(&back), expected);
            }
        }
        assert_sound(&store);
    }
    assert!(killed > 0, "every export was done before it was killed");
}

fn json_if_there(directory: &Path, arguments: &[&str]) -> Option<Value> {
    let output = run(directory, &[arguments, &["--json"]].concat());
    match output.status.code() {
        Some(0) => Some(serde_json::from_slice(&output.stdout).unwrap()),
        Some(2)
            if stderr(&output).contains("no store in") || stderr(&output).contains("no such directory") =>
        {
            None
        }
        _ => panic!("{}", stderr(&output)),
    }
}

#[test]
fn serve_starts_beside_the_originals_database_once_all_of_it_is_here() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("data");
    fill(&directory, 11, 4, 6);
    let lines = dump(&directory);
    let clients = clients_of(&lines);
    let import = ["import", "taskchampion", directory.to_str().unwrap()];
    let refuses = || refuses_to_serve(&directory);
    refuses();

    // A device of the first client pushed here by mistake before: that client is refused, the others come.
    let elsewhere = place.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let server = Server::start(&elsewhere);
    let whose = lines.iter().find(|line| line.get("version").is_some()).unwrap()["client"].as_str().unwrap();
    assert_eq!(server.add_version(whose, NIL, b"forked").status, 200);
    assert!(server.terminate().0.success());
    for file in fs::read_dir(&elsewhere).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), directory.join(file.file_name())).unwrap();
    }
    let output = run(&directory, &import);
    assert_eq!(output.status.code(), Some(1));
    let said = stdout(&output);
    assert!(said.contains(&format!("refused client {whose}")) && said.contains("another history"), "{said}");
    assert!(said.contains("imported 3 clients") && said.contains("--without-refused"), "{said}");
    refuses();
    assert_eq!(
        json_of(&run(&directory, &[&import[..], &["--json"]].concat()))["refusals"][0]["client"],
        whose
    );

    assert!(run(&directory, &["clients", "delete", whose, "--yes"]).status.success());
    let output = run(&directory, &import);
    assert!(output.status.success(), "{}", stdout(&output));
    let server = Server::start(&directory);
    assert_eq!(dump_served(&server, &directory, &clients), lines);

    // Beside a server nothing is imported or exported.
    let exports = place.path().join("export");
    for command in [&import[..], &["export", "taskchampion", exports.to_str().unwrap()]] {
        let output = run(&directory, command);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("while a server"), "{}", stderr(&output));
    }
    assert!(server.terminate().0.success());

    // The original went on meanwhile: nobody is served until it is imported again, or out of the way with its log.
    tc_original(&["append", "--seed", "3"], &directory);
    let said = refuses();
    for part in ["4 of them", "after it was imported", "sqlite3-wal", "sqlite3-shm"] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(json(&directory, &import)["written"]["versions"], 4);
    assert!(Server::start(&directory).terminate().0.success());
}

/// Refuses to serve; answers what is said.
fn refuses_to_serve(directory: &Path) -> String {
    let mut command = seabed();
    command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(directory);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines.map_while(Result::ok).any(|line| line.starts_with("ready:"));
    if ready {
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let said = stderr(&output);
    assert!(!ready, "it serves: {said}");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("seabed import taskchampion"), "{said}");
    said
}

/// Adds a client without versions to the original's database, and leaves it as one file.
fn add_client(directory: &Path, client: &str) {
    let connection = rusqlite::Connection::open(directory.join(FILE)).unwrap();
    connection.execute("INSERT INTO clients (client_id) VALUES (?1)", [client]).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    connection.close().unwrap();
}

#[test]
fn only_the_import_of_the_very_file_lets_serve_start_beside_it() {
    let place = tempfile::tempdir().unwrap();
    let [directory, other] = ["data", "other"].map(|name| place.path().join(name));
    fill(&directory, 21, 3, 4);
    fill(&other, 22, 3, 4);
    add_client(&directory, "00000000-0000-0000-0000-000000000001");
    add_client(&other, "00000000-0000-0000-0000-000000000002");
    // Another database, into the same store.
    assert_eq!(json(&directory, &["import", "taskchampion", other.to_str().unwrap()])["refused"], 0);
    refuses_to_serve(&directory);
    let import = ["import", "taskchampion", directory.to_str().unwrap()];
    assert_eq!(json(&directory, &import)["refused"], 0);
    assert!(Server::start(&directory).terminate().0.success());
    // The other one again: that takes nothing from this one.
    assert_eq!(json(&directory, &["import", "taskchampion", other.to_str().unwrap()])["refused"], 0);
    assert!(Server::start(&directory).terminate().0.success());

    // Its import is run again and does not end well: what stood on the one before falls, although every latest version is the same.
    let file = directory.join(FILE);
    let whole = fs::read(&file).unwrap();
    let connection = rusqlite::Connection::open(&file).unwrap();
    connection.execute("UPDATE versions SET history_segment = x'00'", []).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    connection.close().unwrap();
    let output = run(&directory, &import);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    refuses_to_serve(&directory);
    fs::write(&file, whole).unwrap();
    refuses_to_serve(&directory);
    assert_eq!(json(&directory, &import)["unchanged"], 4);

    // Moved together, they are still one beside the other.
    let moved = place.path().join("moved");
    fs::rename(&directory, &moved).unwrap();
    assert!(Server::start(&moved).terminate().0.success());
    // Another file under the name of the one that was imported.
    fs::copy(other.join(FILE), moved.join(FILE)).unwrap();
    assert!(Server::start(&moved).terminate().0.success(), "all of it is here too");
    add_client(&other, "00000000-0000-0000-0000-000000000003");
    fs::copy(other.join(FILE), moved.join(FILE)).unwrap();
    refuses_to_serve(&moved);
    // Out of the way.
    fs::remove_file(moved.join(FILE)).unwrap();
    assert!(Server::start(&moved).terminate().0.success());
}

#[test]
fn refused_clients_can_be_left_out_knowingly() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("data");
    fill(&directory, 12, 3, 4);
    let connection = rusqlite::Connection::open(directory.join(FILE)).unwrap();
    connection
        .execute("INSERT INTO clients (client_id, latest_version_id) VALUES ('alice', NULL)", [])
        .unwrap();
    connection.close().unwrap();
    let output = run(&directory, &["import", "taskchampion", directory.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stdout(&output).contains("refused client alice: its id is 'alice', which is no UUID"),
        "{}",
        stdout(&output)
    );
    assert_eq!(run(&directory, &["serve", "--listen", "127.0.0.1:0"]).status.code(), Some(1));
    // Also when nobody reads what it prints, as after `| head -1`.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut unread = seabed();
    unread.args(["import", "taskchampion"]).arg(&directory).env("DATA_DIR", &directory).stdout(writer);
    assert_eq!(unread.output().unwrap().status.code(), Some(1));
    let arguments = ["import", "taskchampion", directory.to_str().unwrap(), "--without-refused"];
    assert_eq!(run(&directory, &arguments).status.code(), Some(1), "a refusal is told all the same");
    let server = Server::start(&directory);
    assert_eq!(server.get("/healthz", &[]).status, 200);
    assert!(server.terminate().0.success());

    // Those were left out, not whoever comes after them.
    add_client(&directory, "67e55044-10b1-426f-9247-bb680e5fe0c8");
    assert!(refuses_to_serve(&directory).contains("1 of them"));
    // And only for as long as it is said.
    assert_eq!(run(&directory, &arguments[..3]).status.code(), Some(1));
    refuses_to_serve(&directory);
    assert_eq!(run(&directory, &arguments).status.code(), Some(1));
    assert!(Server::start(&directory).terminate().0.success());
}

#[test]
fn what_is_not_there_or_no_database_is_said() {
    let place = tempfile::tempdir().unwrap();
    let store = place.path().join("store");
    let output = run(&store, &["import", "taskchampion", place.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains(FILE), "{}", stderr(&output));
    assert!(!store.exists(), "nothing is made for it");
    fs::write(place.path().join(FILE), "tasks of years".repeat(100)).unwrap();
    let output = run(&store, &["import", "taskchampion", place.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("is no SQLite database"), "{}", stderr(&output));
    assert!(!store.exists(), "nothing is made for it");
    let output = run(&place.path().join("none"), &["export", "taskchampion", "x"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no store in"), "{}", stderr(&output));
}

fn json_of(output: &std::process::Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The guide, command by command, with what it promises of their output.
#[test]
fn the_guide_does_what_it_says() {
    let guide = fs::read_to_string(repository().join("docs/operate/migrate-taskchampion.md")).unwrap();
    let place = tempfile::tempdir().unwrap();
    let original = place.path().join("original");
    fill(&original, common::seed() % 1_000_000, 5, 12);
    let expected = dump(&original);
    let mut commands: Vec<(&str, Vec<&str>)> = Vec::new();
    let blocks = guide.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    for line in blocks.flat_map(str::lines) {
        match line.strip_prefix("$ ") {
            Some(command) => commands.push((command, Vec::new())),
            None => commands.last_mut().unwrap().1.push(line),
        }
    }
    assert!(commands.len() >= 7, "{commands:?}");
    for (command, promised) in commands {
        let mut words = command.split(' ');
        let mut program = match words.next().unwrap() {
            "seabed" => seabed(),
            other => Command::new(other),
        };
        program.args(words).current_dir(place.path());
        if command == "seabed serve" {
            let server = Server::spawn({
                program.env("LISTEN", "127.0.0.1:0");
                program
            });
            let store = place.path().join("seabed-data");
            assert_eq!(dump_served(&server, &store, &clients_of(&expected)), expected);
            assert!(server.terminate().0.success());
            continue;
        }
        let output = program.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{command}: {}", stderr(&output));
        for line in promised {
            assert!(stdout(&output).lines().any(|said| said == line), "{command}: {}", stdout(&output));
        }
    }
    assert_eq!(dump(&place.path().join("back")), expected);
    assert_eq!(dump_served(&Server::start(&original), &original, &clients_of(&expected)), expected);
}
