//! SIGKILL in the middle of a backup and of a restore: what is there says what it is, and doing it again completes it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use common::{NIL, Server, chain, json, run, seabed, stderr, stdout};
use seabed_kv::Store;
use uuid::Uuid;

const TENANTS: usize = 24;

/// What is to be killed may be done before: then it is tried again, so often.
const ATTEMPTS_MAX: usize = 40;

/// Writes the same value into each tenant.
fn write_all(dir: &Path, value: u8) {
    let store = Store::sqlite(dir).unwrap();
    for number in 0..TENANTS {
        let tenant = store.open(format!("tenant-{number:02}")).wait().unwrap();
        for row in 0..60_u8 {
            tenant.apply(batch(row, value), seabed_kv::Durability::Relaxed).wait().unwrap();
        }
    }
    store.close().wait().unwrap();
}

fn batch(row: u8, value: u8) -> seabed_kv::Batch {
    let mut batch = seabed_kv::Batch::new();
    batch.put("c", [row], vec![value; 4_000]);
    batch
}

/// What every row of every tenant holds.
fn value_of(dir: &Path) -> u8 {
    let store = Store::sqlite(dir).unwrap();
    let mut values = std::collections::BTreeSet::new();
    let ids = store.list().wait().unwrap();
    assert_eq!(ids.iter().filter(|id| id.as_str().starts_with("tenant-")).count(), TENANTS);
    for number in 0..TENANTS {
        let tenant = store.open(format!("tenant-{number:02}")).wait().unwrap();
        for row in 0..60_u8 {
            values.extend(tenant.get("c", [row]).wait().unwrap().unwrap());
        }
    }
    store.close().wait().unwrap();
    assert_eq!(values.len(), 1, "rows of two states: {values:?}");
    values.into_iter().next().unwrap()
}

fn copies(dir: &Path) -> usize {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries
        .filter(|entry| {
            entry.as_ref().is_ok_and(|entry| entry.path().extension().is_some_and(|it| it == "db"))
        })
        .count()
}

fn start(args: &[&str], dir: &Path) -> Child {
    let mut command = seabed();
    command.args(args).env("DATA_DIR", dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Waits until the directory holds so many files of tenants, or the command is done; answers whether it is not.
fn runs_until(child: &mut Child, dir: &Path, files: usize) -> bool {
    while copies(dir) < files {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::yield_now();
    }
    child.try_wait().unwrap().is_none()
}

fn verify(backup: &Path) -> (Option<i32>, String) {
    let output = run(backup, &["verify", "--backup", backup.to_str().unwrap()]);
    (output.status.code(), format!("{}{}", stdout(&output), stderr(&output)))
}

#[test]
fn a_killed_backup_is_none_and_the_one_before_stays() {
    let place = tempfile::tempdir().unwrap();
    let (data, to) = (place.path().join("data"), place.path().join("copies"));
    let path = to.to_str().unwrap();
    write_all(&data, 1);
    let mut killed = 0;
    // The first backup: until it is whole there is none.
    for _ in 0..ATTEMPTS_MAX {
        let Some(files) = [1, 2, 7, 15].get(killed) else { break };
        let mut child = start(&["backup", path], &data);
        runs_until(&mut child, &to, *files);
        child.kill().unwrap();
        child.wait().unwrap();
        if to.join("manifest.json").exists() {
            // It was quicker than we.
            fs::remove_dir_all(&to).unwrap();
        } else {
            killed += 1;
            let (code, said) = verify(&to);
            assert_eq!(code, Some(2), "{said}");
            assert!(said.contains("did not end"), "{said}");
            assert_eq!(run(&place.path().join("new"), &["restore", path]).status.code(), Some(2));
            assert!(!place.path().join("new").exists());
        }
    }
    assert!(killed >= 2, "{killed} were killed in the middle");
    let report = json(&data, &["backup", path]);
    assert_eq!((&report["complete"], &report["failed"]), (&true.into(), &0.into()));
    assert_eq!((verify(&to).0, copies(&to)), (Some(0), TENANTS));

    // A repeat that is killed: the backup before is as whole as it was, and what was left over is named.
    let (mut left_over, mut value) = (0, 1);
    for round in 0..ATTEMPTS_MAX {
        let Some(more) = [1, 5, 18].get(left_over) else { break };
        let before = value;
        value = 2 + u8::try_from(round).unwrap();
        write_all(&data, value);
        let mut child = start(&["backup", path], &data);
        runs_until(&mut child, &to, TENANTS + more);
        child.kill().unwrap();
        child.wait().unwrap();
        let (code, said) = verify(&to);
        if code != Some(0) {
            left_over += 1;
            assert_eq!(code, Some(1), "{said}");
            assert!(said.contains("a backup that did not end may have left it"), "{said}");
        }
        let new = place.path().join(format!("new-{round}"));
        json(&new, &["restore", path]);
        let restored = value_of(&new);
        assert!([before, value].contains(&restored), "one state or the other: {restored}");
        value = restored;
    }
    assert!(left_over >= 2, "{left_over} left something over");
    write_all(&data, 99);
    json(&data, &["backup", path]);
    assert_eq!((verify(&to).0, copies(&to)), (Some(0), TENANTS));
    json(&place.path().join("last"), &["restore", path]);
    assert_eq!(value_of(&place.path().join("last")), 99);
}

#[test]
fn a_server_that_is_killed_while_it_backs_up_loses_nothing() {
    let place = tempfile::tempdir().unwrap();
    let (data, to) = (place.path().join("data"), place.path().join("copies"));
    let path = to.to_str().unwrap();
    write_all(&data, 1);
    let mut killed = 0;
    let client = Uuid::from_u128(1).to_string();
    let mut told: Vec<(String, String, Vec<u8>)> = Vec::new();
    for _ in 0..ATTEMPTS_MAX {
        let Some(files) = [1, 5, 12].get(killed) else { break };
        let server = Server::start(&data);
        assert!(chain(&server, &client) == told, "what was acknowledged beside the backup is there");
        let mut child = start(&["backup", path], &data);
        while copies(&to) < *files && child.try_wait().unwrap().is_none() {
            let parent = told.last().map_or(NIL, |(version, ..)| version).to_owned();
            let body = format!("version {}", told.len()).into_bytes();
            let answer = server.add_version(&client, &parent, &body);
            assert_eq!(answer.status, 200, "{}", answer.text());
            told.push((answer.header("x-version-id").unwrap().to_owned(), parent, body));
        }
        server.kill();
        if child.wait().unwrap().success() {
            fs::remove_dir_all(&to).unwrap();
        } else {
            killed += 1;
            // The server may have come to its end before it was killed, and only its answer not.
            assert_eq!(verify(&to).0 == Some(0), to.join("manifest.json").exists());
        }
        assert_eq!(json(&data, &["verify"])["findings"], 0);
    }
    assert!(killed >= 2 && told.len() >= 2, "{killed} were killed in the middle, {} pushed", told.len());
    let server = Server::start(&data);
    assert!(chain(&server, &client) == told);
    json(&data, &["backup", path]);
    assert_eq!(verify(&to).0, Some(0));
    json(&place.path().join("new"), &["restore", path]);
    assert!(chain(&Server::start(&place.path().join("new")), &client) == told);
}

#[test]
fn a_killed_restore_is_no_store_and_is_done_again() {
    let place = tempfile::tempdir().unwrap();
    let (data, to, new) = (place.path().join("data"), place.path().join("copies"), place.path().join("new"));
    let path = to.to_str().unwrap();
    write_all(&data, 7);
    json(&data, &["backup", path]);
    let mut killed = 0;
    for _ in 0..ATTEMPTS_MAX {
        let Some(files) = [1, 3, 10, 20].get(killed) else { break };
        let mut child = start(&["restore", path], &new);
        runs_until(&mut child, &new, *files);
        child.kill().unwrap();
        child.wait().unwrap();
        if new.join("RESTORING").exists() {
            killed += 1;
            for command in
                [["serve", "--listen", "127.0.0.1:0"].as_slice(), &["tenants"], &["verify"], &["backup", "x"]]
            {
                let output = run(&new, command);
                assert!(!output.status.success(), "{command:?}");
                assert!(stderr(&output).contains("has not ended"), "{command:?}: {}", stderr(&output));
            }
        } else if new.exists() {
            // It was quicker than we.
            assert_eq!(value_of(&new), 7);
            fs::remove_dir_all(&new).unwrap();
        }
    }
    assert!(killed >= 2, "{killed} were killed in the middle");
    if !new.join("tenant-00.db").exists() || new.join("RESTORING").exists() {
        let restored = json(&new, &["restore", path]);
        assert_eq!(restored["verified"]["examined"]["tenants"], TENANTS);
    }
    assert_eq!(value_of(&new), 7);
    let _server = Server::start(&new);
}
