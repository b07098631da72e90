//! A disk without room: writes are refused and say why, reads go on, and once there is room so do writes, without a restart. And a disk
//! of which a flush fails now and then while a backup runs.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::{Ended, NIL, SEGMENT, Server, chain, json, request, run, stderr, stdout};
use seabed_kv::Store;
use uuid::Uuid;

/// The disk as a library to preload: mounting a small one takes rights that a test may not have.
fn disk(dir: &Path) -> PathBuf {
    let library = dir.join("full_disk.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/full_disk.c");
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl").output();
    let built = built.unwrap_or_else(|error| panic!("a C compiler is needed, as for SQLite: {error}"));
    assert!(built.status.success(), "{}", stderr(&built));
    library
}

#[test]
fn a_full_disk_refuses_writes_and_nothing_else_and_goes_on_when_there_is_room() {
    let place = tempfile::tempdir().unwrap();
    let (data, flag) = (place.path().join("data"), place.path().join("full"));
    let library = disk(place.path());
    let variables = [("LD_PRELOAD", library.to_str().unwrap()), ("FULL_DISK_FLAG", flag.to_str().unwrap())];
    let server = Server::start_with(&data, &[], &variables);
    let clients = [1, 2_u128].map(|id| Uuid::from_u128(id).to_string());
    let mut latest = [NIL.to_owned(), NIL.to_owned()];
    let mut told = [Vec::new(), Vec::new()];
    for round in 0..6_usize {
        // One that fits into a row, one in pieces, and a log that begins anew now and then.
        for (number, client) in clients.iter().enumerate() {
            let body = vec![b'a' + u8::try_from(round).unwrap(); [500, 60_000][number]];
            let answer = server.add_version(client, &latest[number], &body);
            assert_eq!(answer.status, 200, "round {round}: {}", answer.text());
            answer.header("x-version-id").unwrap().clone_into(&mut latest[number]);
            told[number].push(body);
        }
        fs::write(&flag, b"").unwrap();
        for (number, client) in clients.iter().enumerate() {
            // Pages that the log has already are written over: a few small pushes may go through.
            let refused = (0..200).find_map(|_| {
                let body = vec![b'x'; [1_500, 300_000][number]];
                let answer = server.add_version(client, &latest[number], &body);
                if answer.status == 200 {
                    answer.header("x-version-id").unwrap().clone_into(&mut latest[number]);
                    told[number].push(body);
                    return None;
                }
                Some(answer)
            });
            let refused = refused.unwrap_or_else(|| panic!("round {round}: nothing was refused"));
            assert_eq!(refused.status, 507, "{}", refused.text());
            assert!(refused.text().contains("disk is full"), "{}", refused.text());
            // Reads go on, and see what was acknowledged, all of it.
            let bodies: Vec<_> = chain(&server, client).into_iter().map(|(.., body)| body).collect();
            assert!(bodies.starts_with(&told[number]), "round {round}");
        }
        assert_eq!(json(&data, &["verify"])["findings"], 0);
        assert!(json(&data, &["tenants"])["tenants"][2]["error"].is_null());
        // A copy needs room as well, says so, and leaves nothing.
        let to = place.path().join("copies");
        let output = run(&data, &["backup", to.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
        assert!(stderr(&output).contains("disk is full"), "{}", stderr(&output));
        assert!(!to.join("manifest.json").exists() && !to.join("copy.partial").exists());

        fs::remove_file(&flag).unwrap();
        for (number, client) in clients.iter().enumerate() {
            // What was refused may be there all the same, if the failure was in its very last step: never half of it.
            let chain = chain(&server, client);
            assert!(chain.len() <= told[number].len() + 1, "round {round}");
            told[number] = chain.iter().map(|(.., body)| body.clone()).collect();
            latest[number].clone_from(&chain.last().unwrap().0);
        }
    }
    let to = place.path().join("copies");
    json(&data, &["backup", to.to_str().unwrap()]);
    let (ended, logs) = server.terminate();
    assert!(ended.success(), "{logs}");
    assert!(logs.contains("the disk is full"), "the log says why: {logs}");
    // Started again without room, with something to tidy up: what is there is served, and the tidying waits.
    let deleted = Uuid::from_u128(3 << 64);
    let store = Store::sqlite(&data).unwrap();
    let tenant = store.open("taskchampion-00").wait().unwrap();
    tenant.put("taskchampion.deleting", deleted, [1, 0, 0, 0, 0, 0, 0, 0, 0]).wait().unwrap();
    let row = [&[1][..], &[8; 16], &[0; 8], b"\x01bytes"].concat();
    tenant.put("taskchampion.version", [deleted.into_bytes(), [0; 16]].concat(), row).wait().unwrap();
    store.close().wait().unwrap();
    drop((tenant, store));
    fs::write(&flag, b"").unwrap();
    let server = Server::start_with(&data, &[], &variables);
    for (number, client) in clients.iter().enumerate() {
        let bodies: Vec<_> = chain(&server, client).into_iter().map(|(.., body)| body).collect();
        assert!(bodies == told[number]);
        assert_eq!(server.add_version(client, &latest[number], &vec![b'x'; 9_000]).status, 507);
    }
    assert!(server.logs().contains("it is tried again each minute"), "{}", server.logs());
    fs::remove_file(&flag).unwrap();
    for (number, client) in clients.iter().enumerate() {
        let chain = chain(&server, client);
        told[number] = chain.iter().map(|(.., body)| body.clone()).collect();
        assert_eq!(server.add_version(client, &chain.last().unwrap().0, b"room").status, 200);
    }
    let (ended, logs) = server.terminate();
    assert!(ended.success(), "{logs}");
    assert_eq!(json(&data, &["verify"])["findings"], 0);
    assert_eq!(json(&to, &["verify", "--backup", to.to_str().unwrap()])["findings"], 0);
}

/// After a failed flush the writer opens its file anew, and a copy that is under way begins again.
#[test]
fn a_backup_beside_failing_flushes_is_whole_or_fails() {
    let place = tempfile::tempdir().unwrap();
    let (data, flag, to) =
        (place.path().join("data"), place.path().join("failing"), place.path().join("copies"));
    let library = disk(place.path());
    let variables =
        [("LD_PRELOAD", library.to_str().unwrap()), ("FAILED_FLUSH_FLAG", flag.to_str().unwrap())];
    let server = Server::start_with(&data, &[], &variables);
    let client = Uuid::from_u128(1).to_string();
    // Long enough for many steps.
    let mut parent = NIL.to_owned();
    for _ in 0..12 {
        let answer = server.add_version(&client, &parent, &vec![b'l'; 1_000_000]);
        answer.header("x-version-id").unwrap().clone_into(&mut parent);
    }
    let (told, failed, done) =
        (Mutex::new(vec![parent.clone()]), AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0_usize.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                if turn % 30 == 5 {
                    fs::write(&flag, b"").unwrap();
                }
                let headers = [("X-Client-Id", client.as_str()), ("Content-Type", SEGMENT)];
                let path = format!("/v1/client/add-version/{parent}");
                let answer = request(server.address(), "POST", &path, &headers, b"small").unwrap();
                match answer.status {
                    200 => {
                        answer.header("x-version-id").unwrap().clone_into(&mut parent);
                        told.lock().unwrap().push(parent.clone());
                    }
                    // It failed, and was applied all the same.
                    409 => answer.header("x-parent-version-id").unwrap().clone_into(&mut parent),
                    500 => drop(failed.fetch_add(1, Ordering::Relaxed)),
                    status => panic!("{status}: {}", answer.text()),
                }
            }
        });
        let ended = Ended(&done);
        let mut whole = 0;
        let began_again = || server.logs().contains("the copy begins again");
        // A copy that meets too many failures gives up, and says so.
        for attempt in 0..60 {
            let before = told.lock().unwrap().clone();
            let output = run(&data, &["backup", to.to_str().unwrap()]);
            if output.status.success() {
                whole += 1;
                let new = place.path().join(format!("new-{attempt}"));
                json(&new, &["restore", to.to_str().unwrap()]);
                let restored = Server::start(&new);
                let versions: Vec<_> =
                    chain(&restored, &client).into_iter().map(|(version, ..)| version).collect();
                assert!(before.iter().all(|version| versions.contains(version)), "attempt {attempt}");
            } else {
                assert_eq!(output.status.code(), Some(1), "{}{}", stdout(&output), stderr(&output));
            }
            if whole >= 4 && failed.load(Ordering::Relaxed) >= 5 && began_again() {
                break;
            }
        }
        drop(ended);
        assert!(
            whole >= 4 && failed.load(Ordering::Relaxed) >= 5,
            "{whole} whole, {failed:?} flushes failed"
        );
        assert!(began_again(), "no copy met a failure");
    });
    json(&data, &["backup", to.to_str().unwrap()]);
    assert_eq!(json(&data, &["verify"])["findings"], 0);
}
