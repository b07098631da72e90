//! Backups of the real binary: online and offline, repeated, under load, of damaged stores; and the way back.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, mpsc};

use common::{Ended, NIL, SEGMENT, SNAPSHOT, Server, chain, json, request, run, stderr, stdout};
use seabed_kv::Store;
use serde_json::Value;
use uuid::Uuid;

/// A store with two clients, and tenants of which no layer knows.
fn filled(dir: &Path, others: usize) -> [String; 2] {
    let clients = [Uuid::from_u128(1), Uuid::from_u128(2)].map(|id| id.to_string());
    {
        let server = Server::start(dir);
        // Writes its row for the first time.
        assert_eq!(server.get("/readyz", &[]).status, 200);
        let mut parent = NIL.to_owned();
        for number in 0..5 {
            let answer = server.add_version(&clients[0], &parent, format!("version {number}").as_bytes());
            answer.header("x-version-id").unwrap().clone_into(&mut parent);
        }
        let path = format!("/v1/client/add-snapshot/{parent}");
        assert_eq!(server.ask("POST", &path, &clients[0], SNAPSHOT, b"snapshot").status, 200);
        assert_eq!(server.add_version(&clients[1], NIL, &vec![b'x'; 200_000]).status, 200);
        assert!(server.terminate().0.success());
    }
    let store = Store::sqlite(dir).unwrap();
    for number in 0..others {
        let tenant = store.open(format!("other/{number}")).wait().unwrap();
        tenant.put("c", b"k", vec![u8::try_from(number).unwrap(); 5_000]).wait().unwrap();
    }
    store.close().wait().unwrap();
    clients
}

fn backup(dir: &Path, to: &Path) -> Value {
    json(dir, &["backup", to.to_str().unwrap()])
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap()))
        .collect()
}

fn is_sound(backup: &Path) -> Value {
    let output = run(backup, &["verify", "--json", "--backup", backup.to_str().unwrap()]);
    let said = format!("{}{}", stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(0), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn restore(backup: &Path, to: &Path) -> Value {
    json(to, &["restore", backup.to_str().unwrap()])
}

#[test]
fn what_is_backed_up_comes_back() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let clients = filled(&data, 3);
    let offline = place.path().join("offline");
    let report = backup(&data, &offline);
    let server = Server::start(&data);
    let chains = clients.clone().map(|client| chain(&server, &client));
    let online = place.path().join("online");
    let report_online = backup(&data, &online);
    for (number, (report, to)) in [(report, offline), (report_online, online)].into_iter().enumerate() {
        assert_eq!(
            (&report["complete"], &report["copied"], &report["failed"]),
            (&true.into(), &6.into(), &0.into())
        );
        assert_eq!(report["backup"], to.to_str().unwrap());
        let verified = is_sound(&to);
        assert_eq!(
            (&verified["examined"]["tenants"], &verified["examined"]["versions"]),
            (&6.into(), &6.into())
        );
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&to).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o700, "client ids are credentials");

        let new = place.path().join(format!("new-{number}"));
        let before = files(&to);
        let restored = restore(&to, &new);
        assert_eq!(
            (&restored["verified"]["findings"], &restored["verified"]["complete"]),
            (&0.into(), &true.into())
        );
        assert_eq!(restored["verified"]["examined"], verified["examined"]);
        assert!(files(&to) == before, "a backup is only read");
        let server = Server::start(&new);
        for (client, chain_before) in clients.iter().zip(&chains) {
            assert!(chain(&server, client) == *chain_before);
        }
        let answer = server.get("/v1/client/snapshot", &[("X-Client-Id", &clients[0])]);
        assert_eq!(answer.body, b"snapshot");
        // And it goes on from there.
        let latest = &chains[0].last().unwrap().0;
        assert_eq!(server.add_version(&clients[0], latest, b"after").status, 200);
        assert!(server.terminate().0.success());
        let report = json(&new, &["verify"]);
        assert_eq!((&report["findings"], &report["examined"]["versions"]), (&0.into(), &7.into()));
    }
}

#[test]
fn a_repeat_skips_what_did_not_change_and_replaces_what_did() {
    let place = tempfile::tempdir().unwrap();
    let (data, to) = (place.path().join("data"), place.path().join("copies"));
    let [client, _] = filled(&data, 2);
    backup(&data, &to);
    let first = files(&to);
    assert_eq!(first.len(), 7, "five copies, the manifest and the lock: {:?}", first.keys());
    // Restarted and read: nothing of it changes a tenant.
    let server = Server::start(&data);
    let latest = chain(&server, &client).last().unwrap().0.clone();
    let written = |name: &str| fs::metadata(to.join(name)).unwrap().modified().unwrap();
    let times: Vec<_> = first.keys().map(|name| written(name)).collect();
    let report = backup(&data, &to);
    assert_eq!((&report["copied"], &report["unchanged"]), (&0.into(), &5.into()), "{report}");
    let unchanged = files(&to);
    for ((name, before), time) in first.iter().zip(times) {
        if Path::new(name).extension().unwrap_or_default() == "db" {
            assert!(unchanged[name] == *before && written(name) == time, "{name} was written again");
        }
    }
    // A push, and only its tenant is replaced; the old copy is gone.
    assert_eq!(server.add_version(&client, &latest, b"one more").status, 200);
    let report = backup(&data, &to);
    assert_eq!((&report["copied"], &report["unchanged"]), (&1.into(), &4.into()), "{report}");
    assert_eq!(files(&to).len(), 7);
    assert_eq!(is_sound(&to)["examined"]["versions"], 7);
    // A copy that was damaged since is made anew.
    let name = report["tenants"][0]["file"].as_str().unwrap();
    let mut damaged = fs::read(to.join(name)).unwrap();
    damaged[9_000] ^= 1;
    fs::write(to.join(name), damaged).unwrap();
    let report = backup(&data, &to);
    assert_eq!((&report["copied"], &report["unchanged"]), (&1.into(), &4.into()), "{report}");
    is_sound(&to);
    // A tenant that is gone goes from the backup once somebody has removed its copy.
    assert!(server.terminate().0.success());
    let store = Store::sqlite(&data).unwrap();
    store.drop_tenant("other/1").wait().unwrap();
    store.close().wait().unwrap();
    drop(store);
    let copy = copy_of(&to, "other/1");
    failed_backup(&data, &to);
    fs::remove_file(copy).unwrap();
    backup(&data, &to);
    assert_eq!((files(&to).len(), &is_sound(&to)["examined"]["tenants"]), (6, &4.into()));
}

#[test]
fn a_backup_goes_into_a_place_of_its_own_and_a_restore_too() {
    let place = tempfile::tempdir().unwrap();
    let (data, other, to) =
        (place.path().join("data"), place.path().join("other"), place.path().join("copies"));
    filled(&data, 0);
    filled(&other, 0);
    backup(&data, &to);
    let full = place.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("letter.txt"), "precious").unwrap();
    let before = files(&to);
    let refused = |dir: &Path, args: &[&str], why: &str| {
        for server in [false, true] {
            let _server = (server && dir.join("LOCK").exists()).then(|| Server::start(dir));
            let output = run(dir, args);
            assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
            assert!(stderr(&output).contains(why), "{args:?}: {}", stderr(&output));
        }
    };
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    refused(&data, &["backup", &path(&full)], "holds other things (letter.txt)");
    refused(&data, &["backup", &path(&data)], "is the store itself");
    refused(&other, &["backup", &path(&to)], "a backup of another store");
    refused(&full, &["restore", &path(&to)], "is not empty: it holds letter.txt");
    refused(&data, &["restore", &path(&to)], "is not empty");
    refused(&place.path().join("new"), &["restore", &path(&data)], "there is no backup");
    refused(&data, &["verify", "--backup", &path(&full)], "there is no backup");
    for command in
        [["verify"].as_slice(), &["tenants"], &["serve", "--listen", "127.0.0.1:0"], &["backup", "x"]]
    {
        let output = run(&to, command);
        assert_eq!(output.status.code(), Some(2), "{command:?}");
        assert!(stderr(&output).contains("is a backup"), "{command:?}: {}", stderr(&output));
    }
    assert!(!place.path().join("new").exists());
    assert_eq!(files(&full).len(), 1);
    assert!(files(&to) == before);

    // A later version's backup is told as such.
    let manifest = fs::read_to_string(to.join("manifest.json")).unwrap();
    fs::write(to.join("manifest.json"), manifest.replacen("\"format\": 1", "\"format\": 2", 1)).unwrap();
    for args in
        [["verify", "--backup", &path(&to)].as_slice(), &["restore", &path(&to)], &["backup", &path(&to)]]
    {
        let dir = if args[0] == "backup" { data.clone() } else { place.path().join("new") };
        let output = run(&dir, args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let said = stderr(&output);
        assert!(said.contains("format 2, written by 'seabed") && said.contains("reads format 1"), "{said}");
    }
}

#[test]
fn a_damaged_tenant_does_not_take_the_place_of_its_copy_and_does_not_keep_the_others() {
    let place = tempfile::tempdir().unwrap();
    let (data, to) = (place.path().join("data"), place.path().join("copies"));
    filled(&data, 2);
    let sound = fs::read(data.join("other%2F0.db")).unwrap();
    let damage = || {
        let mut damaged = sound.clone();
        damaged[8_192..8_292].fill(0xEE);
        fs::write(data.join("other%2F0.db"), damaged).unwrap();
    };
    let attempt = |to: &Path| {
        let output = run(&data, &["backup", to.to_str().unwrap(), "--json"]);
        assert_eq!(output.status.code(), Some(1), "{}{}", stdout(&output), stderr(&output));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&report["complete"], &report["failed"]), (&false.into(), &1.into()), "{report}");
        let failed = &report["tenants"][1];
        assert_eq!((&failed["id"], &failed["outcome"]), (&"other/0".into(), &"failed".into()));
        assert!(failed["error"].as_str().unwrap().contains("damaged"), "{failed}");
    };
    backup(&data, &to);
    damage();
    let store = Store::sqlite(&data).unwrap();
    store.open("other/1").wait().unwrap().put("c", b"new", b"row").wait().unwrap();
    store.close().wait().unwrap();
    drop(store);
    attempt(&to);
    // The earlier copy of the one, the new one of the other.
    is_sound(&to);
    let new = place.path().join("new");
    restore(&to, &new);
    let store = Store::sqlite(&new).unwrap();
    assert_eq!(store.open("other/0").wait().unwrap().get("c", b"k").wait().unwrap(), Some(vec![0; 5_000]));
    assert_eq!(store.open("other/1").wait().unwrap().get("c", b"new").wait().unwrap(), Some(b"row".to_vec()));

    // Where there is no earlier copy the backup says so, for ever.
    let first = place.path().join("first");
    attempt(&first);
    let output = run(&first, &["verify", "--backup", first.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("tenant other/0 is not in the backup"), "{}", stdout(&output));
    let output = run(&place.path().join("partly"), &["restore", first.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("other/0 was not in the backup"), "{}", stdout(&output));
    Server::start(&place.path().join("partly"));
}

/// What a client was told: version to parent and body.
type Told = BTreeMap<String, (String, Vec<u8>)>;

#[test]
fn everything_acknowledged_before_a_backup_began_is_in_it_and_every_chain_is_linear() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let server = Server::start(&data);
    let clients: Vec<_> = (0..4_u128).map(|id| Uuid::from_u128(id + 1).to_string()).collect();
    let told: Vec<Mutex<Told>> = clients.iter().map(|_| Mutex::default()).collect();
    let done = AtomicBool::new(false);
    let (sender, acknowledged) = mpsc::channel();
    let wait_for = |count: usize| (0..count).for_each(|_| acknowledged.recv().unwrap());
    std::thread::scope(|scope| {
        for (client, told) in clients.iter().zip(&told) {
            let (address, done, sender) = (server.address().to_owned(), &done, sender.clone());
            scope.spawn(move || {
                let (mut parent, mut number) = (NIL.to_owned(), 0_usize);
                while !done.load(Ordering::Relaxed) {
                    number += 1;
                    // Every fourth one is stored in pieces.
                    let body = vec![b'a'; if number.is_multiple_of(4) { 30_000 } else { 700 + number }];
                    let headers = [("X-Client-Id", client.as_str()), ("Content-Type", SEGMENT)];
                    let path = format!("/v1/client/add-version/{parent}");
                    let answer = request(&address, "POST", &path, &headers, &body).unwrap();
                    assert_eq!(answer.status, 200);
                    let version = answer.header("x-version-id").unwrap().to_owned();
                    told.lock().unwrap().insert(version.clone(), (parent, body));
                    parent = version;
                    sender.send(()).unwrap();
                }
            });
        }
        let ended = Ended(&done);
        wait_for(200);
        let mut went_on = 0;
        let to = place.path().join("copies");
        for round in 0..4 {
            let before: Vec<Told> = told.iter().map(|told| told.lock().unwrap().clone()).collect();
            backup(&data, &to);
            let after: usize = told.iter().map(|told| told.lock().unwrap().len()).sum();
            went_on += after - before.iter().map(BTreeMap::len).sum::<usize>();
            is_sound(&to);
            let new = place.path().join(format!("new-{round}"));
            restore(&to, &new);
            let restored = Server::start(&new);
            for (client, before) in clients.iter().zip(&before) {
                let chain = chain(&restored, client);
                let stored: Told =
                    chain.into_iter().map(|(version, parent, body)| (version, (parent, body))).collect();
                for (version, expected) in before {
                    assert!(
                        stored.get(version) == Some(expected),
                        "{version} was acknowledged before the backup"
                    );
                }
            }
            let report = json(&new, &["verify"]);
            assert_eq!((&report["findings"], &report["complete"]), (&0.into(), &true.into()), "{report}");
        }
        assert!(went_on > 0, "pushes went on while the backup ran");
        drop(ended);
    });
}

#[test]
fn one_backup_at_a_time_goes_into_a_directory() {
    let place = tempfile::tempdir().unwrap();
    let (data, to): (PathBuf, PathBuf) = (place.path().join("data"), place.path().join("copies"));
    filled(&data, 0);
    backup(&data, &to);
    let lock = fs::File::open(to.join("LOCK")).unwrap();
    lock.lock().unwrap();
    let output = run(&data, &["backup", to.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("is under way"), "{}", stderr(&output));
    // Nobody looks at what is being replaced; where nobody backs up, any number look.
    let new = place.path().join("new");
    for args in [["verify", "--backup", to.to_str().unwrap()].as_slice(), &["restore", to.to_str().unwrap()]]
    {
        let output = run(&new, args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("a backup into"), "{args:?}: {}", stderr(&output));
    }
    assert!(!new.exists());
    drop(lock);
    let reading = fs::File::open(to.join("LOCK")).unwrap();
    reading.lock_shared().unwrap();
    is_sound(&to);
    drop(reading);
    backup(&data, &to);
}

/// Some into one directory and some into others, while a client pushes: each tells how it went, and what says that it is whole is.
#[test]
fn backups_that_race_are_whole_or_say_that_another_is_under_way() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let clients = filled(&data, 6);
    let server = Server::start(&data);
    let at = |name: &str| place.path().join(name);
    let mut whole = BTreeMap::<&str, usize>::new();
    for round in 0..4 {
        let mut running = Vec::new();
        for name in ["shared", "shared", "shared", "own-1", "own-2"] {
            let mut command = common::seabed();
            command.args(["backup", "--json"]).arg(at(name)).arg("--data-dir").arg(&data);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            running.push((name, command.spawn().unwrap()));
        }
        let latest = chain(&server, &clients[0]).last().unwrap().0.clone();
        assert_eq!(
            server.add_version(&clients[0], &latest, format!("beside {round}").as_bytes()).status,
            200
        );
        for (name, child) in running {
            let output = child.wait_with_output().unwrap();
            let said = stderr(&output);
            match output.status.code() {
                Some(0) => *whole.entry(name).or_default() += 1,
                // One at a time into a directory; those into different ones wait for each other.
                Some(1) => assert!(name == "shared" && said.contains("under way"), "{name}: {said}"),
                code => panic!("{name}: {code:?}: {said}"),
            }
        }
    }
    assert_eq!((whole["own-1"], whole["own-2"]), (4, 4), "{whole:?}");
    assert!(whole["shared"] >= 4, "{whole:?}");
    let chain_now = chain(&server, &clients[0]);
    for name in ["shared", "own-1", "own-2"] {
        // Undisturbed, it is brought to an end in any case.
        let report = backup(&data, &at(name));
        assert_eq!((&report["complete"], &report["failed"]), (&true.into(), &0.into()), "{name}");
        is_sound(&at(name));
        restore(&at(name), &at(&format!("restored-{name}")));
        let restored = Server::start(&at(&format!("restored-{name}")));
        assert!(chain(&restored, &clients[0]) == chain_now, "{name}");
    }
}

#[test]
fn the_commands_of_the_manual_work() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operate/backup.md"))
        .unwrap();
    let commands: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("$ seabed ")).collect();
    assert_eq!(commands.len(), 5, "{commands:?}");
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("seabed-data");
    filled(&data, 1);
    let server = Server::start(&data);
    for command in commands {
        let output = common::seabed().args(command.split(' ')).current_dir(&place).output().unwrap();
        assert!(output.status.success(), "{command}: {}{}", stdout(&output), stderr(&output));
    }
    let client = Uuid::from_u128(1).to_string();
    let before = chain(&server, &client);
    let restored = Server::start(&place.path().join("restored"));
    assert!(!before.is_empty() && chain(&restored, &client) == before);
}

fn manifest(backup: &Path) -> Value {
    serde_json::from_slice(&fs::read(backup.join("manifest.json")).unwrap()).unwrap()
}

/// The file of a tenant's copy.
fn copy_of(backup: &Path, id: &str) -> PathBuf {
    let manifest = manifest(backup);
    let entries = manifest["tenants"].as_array().unwrap();
    let entry = entries.iter().find(|entry| entry["id"] == id).unwrap();
    backup.join(entry["file"].as_str().unwrap())
}

fn failed_backup(data: &Path, to: &Path) -> Value {
    let output = run(data, &["backup", to.to_str().unwrap(), "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}{}", stdout(&output), stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What is left of a tenant that cannot be copied is not removed, whatever is wrong with it.
#[test]
fn the_last_copy_of_a_tenant_is_never_removed() {
    let place = tempfile::tempdir().unwrap();
    let (data, to) = (place.path().join("data"), place.path().join("copies"));
    filled(&data, 2);
    backup(&data, &to);
    let copy = copy_of(&to, "other/0");
    let sound = fs::read(&copy).unwrap();
    let mut damaged = fs::read(data.join("other%2F0.db")).unwrap();
    damaged[8_192..8_292].fill(0xEE);
    fs::write(data.join("other%2F0.db"), damaged).unwrap();

    // That it cannot be read, as with no descriptor left or a bad cable, says nothing of what it is.
    fs::remove_file(&copy).unwrap();
    fs::create_dir(&copy).unwrap();
    let report = failed_backup(&data, &to);
    let told = report["tenants"][1]["error"].as_str().unwrap();
    assert!(told.contains("damaged") && told.contains("could not be read just now"), "{told}");
    assert_eq!((copy_of(&to, "other/0"), &manifest(&to)["missing"]), (copy.clone(), &serde_json::json!([])));
    fs::remove_dir(&copy).unwrap();
    fs::write(&copy, &sound).unwrap();
    is_sound(&to);

    // One bit of it is another.
    let mut flipped = sound.clone();
    flipped[9_000] ^= 1;
    fs::write(&copy, &flipped).unwrap();
    for without_manifest in [false, true] {
        if without_manifest {
            fs::remove_file(to.join("manifest.json")).unwrap();
        }
        failed_backup(&data, &to);
        assert_eq!(manifest(&to)["missing"][0]["id"], "other/0");
        assert!(fs::read(&copy).unwrap() == flipped, "it is all that is left, and was touched");
        let output = run(&to, &["verify", "--backup", to.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stdout(&output).contains("all that is left of tenant other/0"), "{}", stdout(&output));
    }
}

/// No layer of ours says that it must be there. Whoever has dropped it on purpose says so in the directory.
#[test]
fn a_tenant_that_is_gone_keeps_its_copy_until_somebody_removes_that() {
    let place = tempfile::tempdir().unwrap();
    let (data, to) = (place.path().join("data"), place.path().join("copies"));
    filled(&data, 2);
    backup(&data, &to);
    let copy = copy_of(&to, "other/1");
    let sound = fs::read(&copy).unwrap();
    fs::remove_file(data.join("other%2F1.db")).unwrap();
    for _ in 0..2 {
        let report = failed_backup(&data, &to);
        let tenants = report["tenants"].as_array().unwrap();
        let gone = tenants.iter().find(|tenant| tenant["id"] == "other/1").unwrap();
        let told = gone["error"].as_str().unwrap();
        let name = copy.file_name().unwrap().to_str().unwrap();
        assert!(told.contains("the copy from before stays") && told.contains(name), "{told}");
        assert_eq!(copy_of(&to, "other/1"), copy);
        assert!(fs::read(&copy).unwrap() == sound);
        is_sound(&to);
    }
    // Nor when its copy is no more what it was.
    let mut flipped = sound.clone();
    flipped[9_000] ^= 1;
    fs::write(&copy, &flipped).unwrap();
    for _ in 0..2 {
        failed_backup(&data, &to);
        assert_eq!(manifest(&to)["missing"][0]["id"], "other/1");
        assert!(fs::read(&copy).unwrap() == flipped);
    }
    fs::remove_file(&copy).unwrap();
    assert_eq!(backup(&data, &to)["complete"], true);
    is_sound(&to);
}

/// The disk is not mounted, and a server has made a new store where it was.
#[test]
fn another_store_at_the_same_path_does_not_replace_the_backup() {
    let place = tempfile::tempdir().unwrap();
    let (data, to, away) =
        (place.path().join("data"), place.path().join("copies"), place.path().join("away"));
    filled(&data, 1);
    backup(&data, &to);
    let before = files(&to);
    fs::rename(&data, &away).unwrap();
    for serving in [true, false] {
        let server = serving.then(|| Server::start(&data));
        let output = run(&data, &["backup", to.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(2), "{}{}", stdout(&output), stderr(&output));
        assert!(stderr(&output).contains("is another"), "{}", stderr(&output));
        assert!(files(&to) == before);
        drop(server);
    }
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&away, &data).unwrap();
    assert_eq!(backup(&data, &to)["complete"], true);
    // What comes out of the backup is that store, and goes on with it.
    fs::remove_dir_all(&data).unwrap();
    restore(&to, &data);
    assert_eq!(backup(&data, &to)["complete"], true);
}

#[test]
fn a_layer_that_is_lost_is_told_and_not_made_anew() {
    let place = tempfile::tempdir().unwrap();
    let (data, to) = (place.path().join("data"), place.path().join("copies"));
    let clients = filled(&data, 1);
    backup(&data, &to);
    let copy = copy_of(&to, "taskchampion-00");
    let sound = fs::read(&copy).unwrap();
    let file = data.join("taskchampion-00.db");
    for empty in [false, true] {
        let _ = fs::remove_file(&file);
        if empty {
            fs::write(&file, b"").unwrap();
        }
        for (command, code) in [
            (["serve", "--listen", "127.0.0.1:0"].as_slice(), 1),
            (&["clients", "list"], 1),
            (&["export", "taskchampion", "x.sqlite3"], 1),
            (&["verify"], 1),
        ] {
            let output = run(&data, command);
            let said = format!("{}{}", stdout(&output), stderr(&output));
            assert_eq!(output.status.code(), Some(code), "{command:?}: {said}");
            let expected =
                if empty && command == ["verify"] { "format is missing" } else { "taskchampion-00" };
            assert!(said.contains(expected), "{command:?}: {said}");
        }
        assert_eq!(file.exists(), empty, "nothing was made in its place");
        let report = failed_backup(&data, &to);
        assert_eq!(report["complete"], empty, "{report}");
        assert!(fs::read(&copy).unwrap() == sound, "the backup still has it");
    }
    // Of the empty one there is a copy with findings now; the sound one stands beside it.
    assert_eq!(manifest(&to)["kept"][0]["file"], copy.file_name().unwrap().to_str().unwrap());
    let _ = fs::remove_file(data.join("taskchampion-00.db-wal"));
    fs::write(&file, &sound).unwrap();
    let server = Server::start(&data);
    assert_eq!(chain(&server, &clients[0]).len(), 5);
    assert!(server.terminate().0.success());
    assert_eq!(backup(&data, &to)["complete"], true);
    assert_eq!(manifest(&to)["kept"], Value::Null);
    is_sound(&to);
}

#[test]
fn a_copy_with_findings_does_not_take_the_place_of_the_last_sound_one() {
    let place = tempfile::tempdir().unwrap();
    let (data, to) = (place.path().join("data"), place.path().join("copies"));
    filled(&data, 1);
    backup(&data, &to);
    let (sound, count) = (copy_of(&to, "taskchampion-00"), files(&to).len());
    let change = |change: &dyn Fn(&seabed_kv::Tenant)| {
        let store = Store::sqlite(&data).unwrap();
        change(&store.open("taskchampion-00").wait().unwrap());
        store.close().wait().unwrap();
    };
    let row = std::cell::RefCell::default();
    change(&|tenant| {
        let rows = tenant.scan(seabed_kv::ScanSpec::new("taskchampion.parent", seabed_kv::KeyRange::all()));
        let first = rows.collect().wait().unwrap().swap_remove(0);
        assert!(tenant.delete("taskchampion.parent", &first.key).wait().unwrap());
        *row.borrow_mut() = Some(first);
    });
    // The second time nothing has changed, and it is told all the same.
    for _ in 0..2 {
        let report = failed_backup(&data, &to);
        assert_eq!((&report["complete"], &report["failed"]), (&true.into(), &0.into()), "{report}");
        assert!(report["findings"].as_u64().unwrap() > 0, "{report}");
        assert!(report["tenants"][3]["error"].as_str().unwrap().contains("is kept beside it"), "{report}");
        assert_ne!(copy_of(&to, "taskchampion-00"), sound);
        let kept = &manifest(&to)["kept"];
        assert_eq!(kept[0]["file"], sound.file_name().unwrap().to_str().unwrap());
        assert_eq!((kept.as_array().unwrap().len(), sound.exists()), (1, true));
        let output = run(&to, &["verify", "--json", "--backup", to.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["backup"]["findings"], serde_json::json!([]), "what is kept is a part of it");
    }
    let mut damaged = fs::read(&sound).unwrap();
    damaged[9_000] ^= 1;
    fs::write(&sound, &damaged).unwrap();
    let output = run(&to, &["verify", "--json", "--backup", to.to_str().unwrap()]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["backup"]["findings"].as_array().unwrap().len(), 1, "{report}");
    change(&|tenant| {
        let row = row.borrow_mut().take().unwrap();
        tenant.put("taskchampion.parent", &row.key, row.payload).wait().unwrap();
    });
    assert_eq!(backup(&data, &to)["findings"], 0);
    assert_eq!((&manifest(&to)["kept"], files(&to).len()), (&Value::Null, count));
    is_sound(&to);
}

#[test]
fn links_that_somebody_has_put_into_the_directory_are_not_followed() {
    let place = tempfile::tempdir().unwrap();
    let (data, to, precious) =
        (place.path().join("data"), place.path().join("copies"), place.path().join("precious"));
    filled(&data, 0);
    for (name, code) in [("LOCK", 1), ("manifest.json.partial", 0), ("copy.partial", 0)] {
        fs::write(&precious, "precious").unwrap();
        fs::create_dir(&to).unwrap();
        std::os::unix::fs::symlink(&precious, to.join(name)).unwrap();
        let output = run(&data, &["backup", to.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(code), "{name}: {}", stderr(&output));
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious", "{name}");
        fs::remove_dir_all(&to).unwrap();
    }
}

#[test]
fn a_list_of_tenants_says_so_when_one_of_them_cannot_be_read() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    filled(&data, 2);
    fs::write(data.join("other%2F0.db"), "no database").unwrap();
    for args in [["tenants"].as_slice(), &["tenants", "--json"]] {
        let output = run(&data, args);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stdout(&output).contains("other/1") && stdout(&output).contains("is not a SQLite database"));
    }
}
