//! A process that has no file left to open. Alone in its program: the limit is the process's.
#![cfg(not(shuttle))]
#![allow(clippy::unwrap_used, reason = "helpers of tests; a failure is the test's")]

use std::fs::File;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use seabed_kv::{Applied, Store};

/// SQLite flushes the directory of a new log with its first flush, and takes no failure of that for one.
#[test]
fn a_durable_commit_whose_log_cannot_be_listed_is_not_acknowledged() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::sqlite(root.path()).unwrap();
    let tenant = store.open("t").wait().unwrap();
    let limit = getrlimit(Resource::Nofile);
    // Its files are open; none can be opened from here on.
    let taken: Vec<File> = (0..4).map(|_| File::open(root.path()).unwrap()).collect();
    let next = std::os::fd::AsRawFd::as_raw_fd(taken.last().unwrap());
    setrlimit(Resource::Nofile, Rlimit { current: u64::try_from(next).ok(), ..limit }).unwrap();
    let error = tenant.put("c", b"1", b"x").wait().unwrap_err();
    assert_eq!(error.applied(), Applied::Unknown, "{error}");
    setrlimit(Resource::Nofile, limit).unwrap();
    tenant.put("c", b"2", b"x").wait().unwrap();
    assert!(tenant.exists("c", b"2").wait().unwrap());
    store.close().wait().unwrap();
}
