//! A thousand damaged backups and files: each is found, and none is reported clean.
//!
//! Every file of a backup is covered by a hash, so of a backup every changed bit is found. A live file has no hashes: of it `verify` finds
//! what breaks its structure, its order or what the layer's rows say of each other. What it cannot find is other bytes in the place of the
//! bytes of a value that only its owner can read (and times): that much is promised, and held here.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::{NIL, SNAPSHOT, Server, json, run, stderr, stdout};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt, SeedableRng};
use seabed_kv::{KeyRange, ScanSpec, Store};
use uuid::Uuid;

type Files = BTreeMap<String, Vec<u8>>;

/// Category and key to payload.
type Rows = BTreeMap<(Vec<u8>, Vec<u8>), Vec<u8>>;

/// A store with chains, values in pieces, a snapshot, and pages that are free.
fn filled(dir: &Path) {
    let server = Server::start(dir);
    for client in 1..=3_u128 {
        let client = Uuid::from_u128(client).to_string();
        let mut parent = NIL.to_owned();
        for number in 0..6_usize {
            let answer = server.add_version(&client, &parent, &vec![b'v'; 100 + 2_500 * number]);
            answer.header("x-version-id").unwrap().clone_into(&mut parent);
        }
        let path = format!("/v1/client/add-snapshot/{parent}");
        assert_eq!(server.ask("POST", &path, &client, SNAPSHOT, &vec![b's'; 40_000]).status, 200);
    }
    assert!(server.terminate().0.success());
    assert!(run(dir, &["clients", "delete", &Uuid::from_u128(3).to_string(), "--yes"]).status.success());
}

fn read(dir: &Path) -> Files {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    entries.map(|path| (name(&path), fs::read(&path).unwrap())).collect()
}

/// Makes the directory hold exactly these files, and writes those that differ.
fn write(dir: &Path, files: &Files) {
    let before = read(dir);
    for name in before.keys().filter(|name| !files.contains_key(*name)) {
        fs::remove_file(dir.join(name)).unwrap();
    }
    for (name, bytes) in files.iter().filter(|(name, bytes)| before.get(*name) != Some(bytes)) {
        fs::write(dir.join(name), bytes).unwrap();
    }
}

fn is_file_of_a_tenant(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "db")
}

fn flip(bytes: &mut [u8], random: &mut StdRng) {
    let position = random.random_range(0..bytes.len());
    bytes[position] ^= 1 << random.random_range(0..8);
}

/// Damages a backup in one of many ways, and tells how.
fn damage(sound: &Files, older: &Files, random: &mut StdRng) -> (String, Files) {
    let mut files = sound.clone();
    let copies: Vec<_> = sound.keys().filter(|name| is_file_of_a_tenant(name)).cloned().collect();
    let copy = copies.choose(random).unwrap().clone();
    let length = sound[&copy].len();
    let kind = random.random_range(0..13);
    match kind {
        // A bit anywhere, where SQLite keeps nothing included.
        0..=2 => flip(files.get_mut(&copy).unwrap(), random),
        3 => files.get_mut(&copy).unwrap().truncate(random.random_range(0..length)),
        4 => files.get_mut(&copy).unwrap().extend(vec![0; random.random_range(1..20_000)]),
        5 => {
            let page = random.random_range(0..length / 8_192) * 8_192;
            let bytes = files.get_mut(&copy).unwrap();
            // A sector that was never written, or was written elsewhere.
            let other = random.random_range(0..length / 8_192) * 8_192;
            let sector: Vec<u8> = if random.random() {
                vec![0xA5; 512]
            } else {
                bytes[other + 512..other + 1_024].iter().map(|byte| !byte).collect()
            };
            bytes[page..page + 512].copy_from_slice(&sector);
        }
        6 => drop(files.remove(&copy)),
        7 => {
            let other = copies.iter().find(|other| **other != copy).unwrap();
            let (one, two) = (sound[&copy].clone(), sound[other].clone());
            files.insert(copy.clone(), two);
            files.insert(other.clone(), one);
        }
        // The copy of an earlier backup in the place of this one's.
        8 => {
            let stem = |name: &str| name.split('.').next().unwrap().to_owned();
            let changed =
                |name: &&String| stem(name).starts_with("taskchampion") && is_file_of_a_tenant(name);
            let (now, then) = (sound.keys().find(changed).unwrap(), older.keys().find(changed).unwrap());
            assert_ne!(now, then);
            files.insert(now.clone(), older[then].clone());
        }
        9 => flip(files.get_mut("manifest.json").unwrap(), random),
        10 => {
            let manifest = files.get_mut("manifest.json").unwrap();
            manifest.truncate(random.random_range(0..manifest.len()));
        }
        11 => {
            let other = if random.random() { older["manifest.json"].clone() } else { Vec::new() };
            files.insert("manifest.json".to_owned(), other);
            if random.random() {
                files.remove("manifest.json");
            }
        }
        _ => {
            let name = *["stray.txt", "copy.partial", "seabed.0123456789abcdef.db", "seabed.db-wal"]
                .choose(random)
                .unwrap();
            files.insert(name.to_owned(), sound[&copy].clone());
        }
    }
    (format!("kind {kind} of {copy}"), files)
}

#[test]
fn six_hundred_damaged_backups_are_each_found() {
    let place = tempfile::tempdir().unwrap();
    let (data, to, bad) = (place.path().join("data"), place.path().join("copies"), place.path().join("bad"));
    filled(&data);
    let path = to.to_str().unwrap();
    json(&data, &["backup", path]);
    let older = read(&to);
    let server = Server::start(&data);
    assert_eq!(server.add_version(&Uuid::from_u128(9).to_string(), NIL, b"one more").status, 200);
    assert!(server.terminate().0.success());
    json(&data, &["backup", path]);
    let sound = read(&to);
    fs::create_dir(&bad).unwrap();
    let mut random = StdRng::seed_from_u64(1);
    let (mut found, mut unchecked) = (0, 0);
    for number in 0..600 {
        let (what, files) = damage(&sound, &older, &mut random);
        if files == sound {
            continue;
        }
        write(&bad, &files);
        let output = run(&bad, &["verify", "--json", "--backup", bad.to_str().unwrap()]);
        let said = || format!("{number}, {what}: {}{}", stdout(&output), stderr(&output));
        match output.status.code() {
            Some(1) => {
                let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
                assert!(report["findings"].as_u64().unwrap() > 0, "{}", said());
                found += 1;
            }
            Some(2) => {
                assert!(!stderr(&output).is_empty(), "{}", said());
                unchecked += 1;
            }
            code => panic!("{code:?}, {}", said()),
        }
        // And nobody gets a store out of it that differs: what is in the manifest comes back to the byte, or not at all.
        if number % 20 == 0 {
            let new = place.path().join(format!("new-{number}"));
            let output = run(&new, &["restore", bad.to_str().unwrap()]);
            let is_extra = what.starts_with("kind 12");
            assert_eq!(output.status.success(), is_extra, "{}{}", said(), stderr(&output));
            if !is_extra && new.exists() {
                let output = run(&new, &["serve", "--listen", "127.0.0.1:0"]);
                assert_eq!(output.status.code(), Some(1), "{}", said());
                assert!(stderr(&output).contains("has not ended"), "{}", stderr(&output));
            }
        }
    }
    assert!(found > 550, "{found} found, {unchecked} could not be checked");
    write(&bad, &sound);
    assert_eq!(run(&bad, &["verify", "--backup", bad.to_str().unwrap()]).status.code(), Some(0));
}

/// Every row of a tenant's file; `None` when it does not read.
fn rows(file: &Path) -> Option<Rows> {
    let store = Store::sqlite_files([("taskchampion-00".parse().unwrap(), file.to_owned())]);
    let tenant = store.open("taskchampion-00").wait().ok()?;
    let mut rows = BTreeMap::new();
    for category in tenant.categories().wait().ok()? {
        for row in tenant.scan(ScanSpec::new(&category, KeyRange::all())).collect().wait().ok()? {
            rows.insert((category.clone(), row.key.into_bytes()), row.payload);
        }
    }
    Some(rows)
}

/// Whether the bytes by which two payloads of a category differ are a value's own, or a time.
fn only_its_owner_can_tell(category: &[u8], one: &[u8], other: &[u8]) -> bool {
    let opaque = |position: usize| match category {
        // The bytes behind the layout, the id, the time and the kind; and the time.
        b"taskchampion.version" => position >= 26 || (17..25).contains(&position),
        // Bytes of a value; and since when one waits to be removed.
        b"taskchampion.chunk" | b"taskchampion.pending" => true,
        b"taskchampion.snapshot" => position >= 17,
        // When it was created, when it was last pushed to, when its snapshot came, and versions since.
        b"taskchampion.client" => (17..33).contains(&position) || (66..82).contains(&position),
        b"taskchampion.deleting" => position >= 1,
        // The name of what wrote the tenant.
        b"taskchampion.format" => position >= 4,
        _ => false,
    };
    one.len() == other.len()
        && (0..one.len()).filter(|position| one[*position] != other[*position]).all(opaque)
}

#[test]
fn four_hundred_damaged_files_are_found_or_hold_the_same_rows_but_for_what_only_their_owner_can_tell() {
    let place = tempfile::tempdir().unwrap();
    let (data, bad) = (place.path().join("data"), place.path().join("bad"));
    filled(&data);
    let file = data.join("taskchampion-00.db");
    let (sound, sound_rows) = (fs::read(&file).unwrap(), rows(&file).unwrap());
    fs::create_dir(&bad).unwrap();
    let bad_file = bad.join("taskchampion-00.db");
    let mut random = StdRng::seed_from_u64(2);
    let (mut found, mut unchecked, mut same, mut opaque) = (0, 0, 0, 0);
    for number in 0..400 {
        let mut bytes = sound.clone();
        let pages = bytes.len() / 8_192;
        match number % 5 {
            0..=2 => flip(&mut bytes, &mut random),
            3 => {
                let page = random.random_range(1..pages) * 8_192;
                let length = *[512, 4_096, 8_192].choose(&mut random).unwrap();
                bytes[page..page + length].fill(*[0, 0xFF].choose(&mut random).unwrap());
            }
            _ => bytes.truncate(random.random_range(1..bytes.len())),
        }
        write(&bad, &Files::from([("taskchampion-00.db".to_owned(), bytes.clone())]));
        let output = run(&bad, &["verify", "--json"]);
        let said = || format!("{number}: {}{}", stdout(&output), stderr(&output));
        match output.status.code() {
            Some(1) => found += 1,
            Some(2) => unchecked += 1,
            Some(0) => {
                // Looked at as it was damaged: an opened store may have been written to.
                fs::write(&bad_file, &bytes).unwrap();
                let rows = rows(&bad_file).unwrap();
                assert!(rows.keys().eq(sound_rows.keys()), "{}", said());
                for ((key, now), before) in rows.iter().zip(sound_rows.values()) {
                    let category = String::from_utf8_lossy(&key.0);
                    assert!(only_its_owner_can_tell(&key.0, now, before), "a row of {category}, {}", said());
                }
                if rows == sound_rows { same += 1 } else { opaque += 1 }
            }
            code => panic!("{code:?}, {}", said()),
        }
    }
    assert!(
        found > 120 && found + unchecked + same + opaque == 400,
        "{found} found, {unchecked} could not be opened, {same} without an effect, {opaque} inside a value"
    );
}
