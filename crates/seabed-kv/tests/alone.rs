//! What `tune_process` changes: other programs are kept out of the files that are open, and go before us where they were first. Its
//! own program, because the call is for a whole process.
#![cfg(not(shuttle))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests; a failure is the test's")]

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use seabed_kv::sqlite::{SqliteOptions, tune_process};
use seabed_kv::{KeyRange, Store, Tenant};

/// A row as another program adds it.
const ADD: &str = "db.execute(\"insert into kv values (x'63', x'6f75747369646572', x'78')\"); db.commit()";

/// Another program that works with the file; what it prints.
fn outsider(file: &Path, script: &str) -> String {
    let output = python(file, script).output().expect("python3 is needed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn python(file: &Path, script: &str) -> Command {
    let script = format!("import sqlite3,sys\ndb=sqlite3.connect(sys.argv[1], timeout=0)\n{script}");
    let mut command = Command::new("python3");
    command.arg("-c").arg(script).arg(file);
    command
}

fn store(root: &Path, open_tenants_max: usize) -> Store {
    Store::sqlite_with(root, SqliteOptions { open_tenants_max, ..SqliteOptions::default() }).unwrap()
}

/// Uses the others until the file is nobody's.
fn evict(file: &Path, others: &[Tenant]) {
    while outsider(file, COUNT) == "locked" {
        for tenant in others {
            tenant.exists("c", b"k").wait().unwrap();
        }
    }
}

const COUNT: &str = "try: print(db.execute('select count(*) from kv').fetchone()[0])\nexcept sqlite3.OperationalError as e: print('locked' if 'locked' in str(e) else e)";

#[test]
fn others_are_kept_out_of_open_files_and_let_in_when_they_are_not() {
    tune_process();
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("t.db");
    let store = store(root.path(), 1);
    let tenant = store.open("t").wait().unwrap();
    tenant.put("c", b"k", b"x").wait().unwrap();
    assert_eq!(outsider(&file, COUNT), "locked");
    assert_eq!(tenant.get("c", b"k").wait().unwrap(), Some(b"x".to_vec()));
    assert_eq!(tenant.count("c", &KeyRange::all()).wait().unwrap(), 1);

    // Evicted, it is anybody's; what was written to it meanwhile is read, and the index of the log as it was is none any more.
    let others: Vec<_> = (0..6).map(|number| store.open(format!("o{number}")).wait().unwrap()).collect();
    evict(&file, &others);
    outsider(&file, ADD);
    assert_eq!(tenant.get("c", b"outsider").wait().unwrap(), Some(b"x".to_vec()));
    tenant.put("c", b"k", b"y").wait().unwrap();
    assert_eq!(tenant.count("c", &KeyRange::all()).wait().unwrap(), 2);
    store.close().wait().unwrap();
    assert_eq!(outsider(&file, COUNT), "2");
}

#[test]
fn a_file_that_another_program_has_open_is_shared_with_it() {
    tune_process();
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("t.db");
    let first = store(root.path(), 1);
    first.open("t").wait().unwrap().put("c", b"k", b"x").wait().unwrap();
    first.close().wait().unwrap();

    let script = "print(db.execute('select count(*) from kv').fetchone()[0], flush=True)\n\
                  for line in sys.stdin: print(db.execute('select count(*) from kv').fetchone()[0], flush=True)";
    let mut other: Child = python(&file, script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is needed");
    let mut said = BufReader::new(other.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "1");
    let store = store(root.path(), 1);
    let tenant = store.open("t").wait().unwrap();
    tenant.put("c", b"second", b"x").wait().unwrap();
    let mut asks = other.stdin.take().unwrap();
    asks.write_all(b"again\n").unwrap();
    assert_eq!(said.next().unwrap().unwrap(), "2", "it sees what we write");
    assert_eq!(tenant.count("c", &KeyRange::all()).wait().unwrap(), 2);
    drop(asks);
    assert!(other.wait().unwrap().success());
    tenant.put("c", b"third", b"x").wait().unwrap();
    store.close().wait().unwrap();
    assert_eq!(outsider(&file, COUNT), "3");
}

#[test]
fn a_link_to_a_file_is_followed_to_the_log_beside_that_file() {
    tune_process();
    let [root, elsewhere] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let file = elsewhere.path().join("moved.db");
    let first = store(root.path(), 1);
    first.open("t").wait().unwrap().put("c", b"k", b"x").wait().unwrap();
    first.close().wait().unwrap();
    std::fs::rename(root.path().join("t.db"), &file).unwrap();
    std::os::unix::fs::symlink(&file, root.path().join("t.db")).unwrap();
    let store = store(root.path(), 1);
    let tenant = store.open("t").wait().unwrap();
    tenant.put("c", b"second", b"x").wait().unwrap();
    assert!(elsewhere.path().join("moved.db-wal").exists() && !root.path().join("t.db-wal").exists());
    store.close().wait().unwrap();
    assert_eq!(outsider(&file, COUNT), "2");
}
