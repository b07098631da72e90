//! Files that released versions wrote open for ever: `vectors/seabed-files/<version>`. And what a later version writes is refused by name.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{NIL, SNAPSHOT, Server, chain, json, run, stderr};
use seabed_kv::{Batch, Durability, KeyRange, ScanSpec, Store, Tenant};
use serde_json::{Value, json};
use uuid::Uuid;

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors/seabed-files")
}

/// The directory of this version: patches change no format.
fn this_version() -> PathBuf {
    let (version, _) = env!("CARGO_PKG_VERSION").rsplit_once('.').unwrap();
    vectors().join(version)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

fn rows(tenant: &Tenant) -> Value {
    let mut rows = Vec::new();
    for category in tenant.categories().wait().unwrap() {
        for row in tenant.scan(ScanSpec::new(&category, KeyRange::all())).collect().wait().unwrap() {
            rows.push(json!([
                hex::encode(&category),
                hex::encode(row.key.as_bytes()),
                hex::encode(row.payload)
            ]));
        }
    }
    Value::Array(rows)
}

/// What the clients of a server read: each history, and each snapshot.
fn histories(server: &Server, clients: &[String]) -> Value {
    let history = |client: &String| {
        let links: Vec<_> = chain(server, client)
            .into_iter()
            .map(|(version, parent, body)| json!({"version": version, "parent": parent, "bytes": hex::encode(body)}))
            .collect();
        let snapshot = server.get("/v1/client/snapshot", &[("X-Client-Id", client)]);
        let snapshot = (snapshot.status == 200).then(|| {
            json!({"version": snapshot.header("x-version-id").unwrap(), "bytes": hex::encode(&snapshot.body)})
        });
        json!({"client": client, "chain": links, "snapshot": snapshot})
    };
    clients.iter().map(history).collect()
}

/// Writes the files of this version. Those of a released one are never written again.
fn write(to: &Path) {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let kernel = Store::sqlite(&data).unwrap();
    let tenant = kernel.open("notes/ö").wait().unwrap();
    let mut batch = Batch::new();
    batch.put("", b"", b"").put("c", b"\0\xFF", b"odd").put("c", b"k", b"payload").put(
        "large",
        b"k",
        vec![7; 20_000],
    );
    tenant.apply(batch, Durability::Durable).wait().unwrap();
    let kernel_rows = rows(&tenant);
    kernel.close().wait().unwrap();
    drop((tenant, kernel));

    let clients = [1, 2_u128].map(|id| Uuid::from_u128(id).to_string());
    let server = Server::start(&data);
    assert_eq!(server.get("/readyz", &[]).status, 200);
    let mut parent = NIL.to_owned();
    for number in 0..4_u8 {
        // In a row; the third one in pieces.
        let body = vec![b'a' + number; if number == 2 { 5_000 } else { 20 }];
        let answer = server.add_version(&clients[0], &parent, &body);
        answer.header("x-version-id").unwrap().clone_into(&mut parent);
    }
    let path = format!("/v1/client/add-snapshot/{parent}");
    assert_eq!(server.ask("POST", &path, &clients[0], SNAPSHOT, &[b's'; 4_000]).status, 200);
    let answer = server.add_version(&clients[1], NIL, b"first");
    let path = format!("/v1/client/add-snapshot/{}", answer.header("x-version-id").unwrap());
    assert_eq!(server.ask("POST", &path, &clients[1], SNAPSHOT, b"small").status, 200);
    let expected = json!({"kernel": kernel_rows, "clients": histories(&server, &clients)});
    assert!(server.terminate().0.success());
    let backup = place.path().join("backup");
    json(&data, &["backup", backup.to_str().unwrap()]);

    // A log that nobody has carried over.
    let log = place.path().join("log");
    let store = Store::sqlite(&log).unwrap();
    let tenant = store.open("notes").wait().unwrap();
    for row in [b"1", b"2"] {
        tenant.put("log", row, b"in the log").wait().unwrap();
    }
    let log_rows = rows(&tenant);
    copy(&log, &to.join("log"));
    store.close().wait().unwrap();

    let mut expected = expected;
    expected["log"] = log_rows;
    copy(&data, &to.join("store"));
    copy(&backup, &to.join("backup"));
    for litter in ["log/LOCK", "log/notes.db-shm", "store/LOCK", "backup/LOCK"] {
        fs::remove_file(to.join(litter)).unwrap();
    }
    fs::write(to.join("expected.json"), format!("{}\n", serde_json::to_string_pretty(&expected).unwrap()))
        .unwrap();
}

#[test]
fn this_version_has_its_files() {
    let to = this_version();
    if !to.exists() && std::env::var_os("UPDATE").is_some() {
        write(&to);
    }
    assert!(
        to.join("expected.json").exists(),
        "{} is missing; run: UPDATE=1 cargo nextest run -p seabed --test seabed_files",
        to.display()
    );
}

/// The tenant of clients whose rows are of retention and of an import.
const MOVED: &str = "taskchampion-00";
/// The client whose import was cut off.
const CUT_OFF: u128 = 9;

/// Writes a store that was imported, pruned, and left by an import that was cut off; beside the others, because it came after them.
fn write_moved(to: &Path) {
    let place = tempfile::tempdir().unwrap();
    let [data, store, original] = ["data", "store", "original"].map(|name| place.path().join(name));
    let clients = [1, 2_u128].map(|id| Uuid::from_u128(id).to_string());
    let server = Server::start(&data);
    for (client, length) in clients.iter().zip([4_u8, 2]) {
        let mut parent = NIL.to_owned();
        for number in 0..length {
            let answer = server.add_version(
                client,
                &parent,
                &vec![b'a' + number; if number == 1 { 5_000 } else { 20 }],
            );
            answer.header("x-version-id").unwrap().clone_into(&mut parent);
            if number == 2 {
                let path = format!("/v1/client/add-snapshot/{parent}");
                assert_eq!(server.ask("POST", &path, client, SNAPSHOT, b"snapshot").status, 200);
            }
        }
    }
    assert!(server.terminate().0.success());
    fs::create_dir(&original).unwrap();
    json(&data, &["export", "taskchampion", original.to_str().unwrap()]);
    let file = seabed_taskchampion::original_file(&original);
    let database = rusqlite::Connection::open(&file).unwrap();
    // Long ago: nobody is reading the snapshot before it any more.
    database.execute("UPDATE clients SET snapshot_timestamp = 1600000000", []).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let kernel = Store::sqlite(&store).unwrap();
    let import = |now_unix_s, progress: &mut dyn FnMut()| {
        runtime.block_on(async {
            let taskchampion =
                seabed_taskchampion::TaskChampion::open(&kernel, seabed_taskchampion::Config::default())
                    .await?;
            taskchampion.import_original(&file, || now_unix_s, |_| progress()).await?;
            taskchampion.prune(None, now_unix_s + 1, u64::MAX).await
        })
    };
    assert_eq!(import(1_700_000_000, &mut || {}).unwrap().versions, 2);
    // A third client, so long that it comes in steps, and an import that goes no further than into the second one.
    let third = Uuid::from_u128(CUT_OFF);
    for number in 1..=300_u128 {
        let [version, parent] =
            [number, number - 1].map(|number| Uuid::from_u128(if number == 0 { 0 } else { number << 64 }));
        database
            .execute(
                "INSERT INTO versions VALUES (?1, ?2, ?3, x'78')",
                [version, third, parent].map(|id| id.to_string()),
            )
            .unwrap();
    }
    let latest = Uuid::from_u128(300 << 64).to_string();
    database
        .execute(
            "INSERT INTO clients (client_id, latest_version_id) VALUES (?1, ?2)",
            [third.to_string(), latest],
        )
        .unwrap();
    let mut ticks = 0;
    let cut_off = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        import(1_700_000_001, &mut || {
            ticks += 1;
            assert!(ticks < 290, "cut off here");
        })
    }));
    assert!(cut_off.is_err());
    let tenant = kernel.open(MOVED).wait().unwrap();
    tenant.flush().wait().unwrap();
    let moved = rows(&tenant);
    kernel.close().wait().unwrap();
    drop((tenant, kernel));
    copy(&store, to);
    fs::remove_file(to.join("LOCK")).unwrap();
    let server = Server::start(&store);
    let expected = json!({"rows": moved, "clients": visible(&server, &store, &clients)});
    fs::write(to.join("expected.json"), format!("{}\n", serde_json::to_string_pretty(&expected).unwrap()))
        .unwrap();
}

/// What is seen of clients, some of whose versions were dropped.
fn visible(server: &Server, store: &Path, clients: &[String]) -> Value {
    let seen = |client: &String| {
        let told = json(store, &["clients", "show", client]);
        let versions = told["versions"].as_array().unwrap().iter();
        let versions: Vec<_> = versions.map(|it| json!([it["version"], it["parent"]])).collect();
        let bytes: Vec<_> = versions
            .iter()
            .map(|ids| hex::encode(server.get_child(client, ids[1].as_str().unwrap()).body))
            .collect();
        let from_nil = server.get_child(client, NIL).status;
        json!({"client": client, "versions": versions, "bytes": bytes, "from_nil": from_nil})
    };
    clients.iter().map(seen).collect()
}

#[test]
fn what_retention_and_imports_have_left_opens_for_ever() {
    let this = this_version().join("moved");
    if !this.exists() && std::env::var_os("UPDATE").is_some() {
        write_moved(&this);
    }
    assert!(this.exists(), "run: UPDATE=1 cargo nextest run -p seabed --test seabed_files");
    for version in fs::read_dir(vectors()).unwrap().map(|entry| entry.unwrap().path().join("moved")) {
        let told = version.display().to_string();
        let place = tempfile::tempdir().unwrap();
        let store = place.path().join("store");
        copy(&version, &store);
        fs::remove_file(store.join("expected.json")).unwrap();
        let expected: Value =
            serde_json::from_slice(&fs::read(version.join("expected.json")).unwrap()).unwrap();
        let read = || {
            let kernel = Store::sqlite(&store).unwrap();
            let moved = rows(&kernel.open(MOVED).wait().unwrap());
            kernel.close().wait().unwrap();
            moved
        };
        let of = |rows: &Value, category: &str| {
            let category = hex::encode(category);
            rows.as_array().unwrap().iter().filter(|row| row[0] == category.as_str()).count()
        };
        let before = read();
        assert_eq!(before, expected["rows"], "{told}");
        for (category, least) in
            [("taskchampion.dropped", 1), ("taskchampion.imported", 2), ("taskchampion.deleting", 1)]
        {
            assert!(of(&before, category) >= least, "{told}: {category}");
        }
        let clients: Vec<String> = expected["clients"]
            .as_array()
            .unwrap()
            .iter()
            .map(|client| client["client"].as_str().unwrap().to_owned())
            .collect();
        let server = Server::start(&store);
        assert_eq!(visible(&server, &store, &clients), expected["clients"], "{told}");
        assert_eq!(expected["clients"][0]["from_nil"], 410, "{told}: its beginning was dropped");
        let listed = json(&store, &["clients", "list"])["clients"].as_array().unwrap().len();
        assert_eq!(listed, clients.len(), "{told}: nobody sees a client whose import was cut off");
        let verified = json(&store, &["verify"]);
        assert_eq!(
            (&verified["findings"], &verified["complete"]),
            (&0.into(), &true.into()),
            "{told}: {verified}"
        );
        assert!(server.terminate().0.success());
        assert_eq!(of(&read(), "taskchampion.deleting"), 0, "{told}: the removal was brought to its end");
    }
}

#[test]
fn files_of_every_version_open_with_every_row_and_every_chain() {
    let versions: Vec<_> = fs::read_dir(vectors()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!versions.is_empty());
    for version in versions {
        let told = version.display().to_string();
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        for name in ["store", "log", "backup"] {
            copy(&version.join(name), &at(name));
        }
        let expected: Value =
            serde_json::from_slice(&fs::read(version.join("expected.json")).unwrap()).unwrap();
        let clients: Vec<String> = expected["clients"]
            .as_array()
            .unwrap()
            .iter()
            .map(|client| client["client"].as_str().unwrap().to_owned())
            .collect();
        assert!(clients.len() >= 2, "{told}");

        let backup = at("backup").to_str().unwrap().to_owned();
        let verified = json(place.path(), &["verify", "--backup", &backup]);
        assert_eq!(
            (&verified["findings"], &verified["complete"]),
            (&0.into(), &true.into()),
            "{told}: {verified}"
        );
        json(&at("restored"), &["restore", &backup]);
        for name in ["store", "restored"] {
            let store = Store::sqlite(at(name)).unwrap();
            assert_eq!(rows(&store.open("notes/ö").wait().unwrap()), expected["kernel"], "{told}, {name}");
            store.close().wait().unwrap();
            drop(store);
            let verified = json(&at(name), &["verify"]);
            assert_eq!(
                (&verified["findings"], &verified["complete"]),
                (&0.into(), &true.into()),
                "{told}: {verified}"
            );
            let server = Server::start(&at(name));
            assert_eq!(histories(&server, &clients), expected["clients"], "{told}, {name}");
            let latest =
                expected["clients"][0]["chain"].as_array().unwrap().last().unwrap()["version"].clone();
            assert_eq!(
                server.add_version(&clients[0], latest.as_str().unwrap(), b"on").status,
                200,
                "{told}"
            );
        }
        let store = Store::sqlite(at("log")).unwrap();
        assert_eq!(rows(&store.open("notes").wait().unwrap()), expected["log"], "{told}");
        store.close().wait().unwrap();
    }
}

#[test]
fn each_layer_writes_its_version_and_a_later_one_is_refused_naming_both() {
    for (id, category) in [("seabed", "seabed.format"), ("taskchampion-00", "taskchampion.format")] {
        let place = tempfile::tempdir().unwrap();
        assert!(Server::start(place.path()).terminate().0.success());
        let store = Store::sqlite(place.path()).unwrap();
        let tenant = store.open(id).wait().unwrap();
        let ours = format!("seabed {}", env!("CARGO_PKG_VERSION"));
        let written = [&[0, 0, 0, 1], ours.as_bytes()].concat();
        assert_eq!(tenant.get(category, b"").wait().unwrap(), Some(written), "{category}");
        tenant.put(category, b"", [&[0, 0, 0, 7], b"seabed 9.9.9".as_slice()].concat()).wait().unwrap();
        store.close().wait().unwrap();
        drop((tenant, store));
        let before = fs::read(place.path().join(format!("{id}.db"))).unwrap();
        let output = run(place.path(), &["serve", "--listen", "127.0.0.1:0"]);
        assert_eq!(output.status.code(), Some(1), "{category}");
        let said = stderr(&output);
        for part in ["format 7", "is 7", "seabed 9.9.9", &ours, "format 1"] {
            let either =
                ["format 7", "is 7"].contains(&part) && (said.contains("format 7") || said.contains("is 7"));
            assert!(either || said.contains(part), "{category}: '{part}' is not in: {said}");
        }
        assert_eq!(fs::read(place.path().join(format!("{id}.db"))).unwrap(), before, "it was left as it is");
    }
}
