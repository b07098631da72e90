//! The contract of the global instance. Its slot is the process's, so these rules are checked one after another.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests say what failed by panicking")]

use std::sync::{Mutex, MutexGuard, PoisonError};

use seabed_kv::{ErrorKind, global};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The slot, empty, and a directory.
fn begin() -> (MutexGuard<'static, ()>, tempfile::TempDir) {
    let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    global::reset().wait().unwrap();
    (guard, tempfile::tempdir().unwrap())
}

#[test]
fn init_with_the_same_root_is_the_same_store() {
    let (_guard, directory) = begin();
    let root = directory.path().join("root");
    let first = global::init(&root).unwrap();
    assert!(!root.exists(), "nothing is touched before the first tenant");
    first.open("t").wait().unwrap().put("c", b"k", b"x").wait().unwrap();
    for same in [root.clone(), root.join("."), root.join("")] {
        assert_eq!(global::init(same).unwrap().get("t", "c", b"k").wait().unwrap(), Some(b"x".to_vec()));
    }
    assert!(global::get().unwrap().has("t"));
    global::reset().wait().unwrap();
}

#[test]
fn init_with_another_root_is_invalid_argument() {
    let (_guard, directory) = begin();
    global::init(directory.path().join("root")).unwrap().open("t").wait().unwrap();
    let another = directory.path().join("another");
    let error = global::init(&another).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    for root in ["root", "another"] {
        assert!(error.to_string().contains(directory.path().join(root).to_str().unwrap()), "{error}");
    }
    assert!(!another.exists());
    assert!(global::get().unwrap().has("t"), "the first one stays");
    // Roots that can be nobody's are refused as they are by a store.
    let file = directory.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    global::reset().wait().unwrap();
    for root in [std::path::Path::new(""), &file, &file.join("below")] {
        assert_eq!(global::init(root).unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(global::get().unwrap_err().kind(), ErrorKind::Closed);
    }
}

#[test]
fn get_before_init_is_closed() {
    let (_guard, directory) = begin();
    assert_eq!(global::get().unwrap_err().kind(), ErrorKind::Closed);
    let store = global::init(directory.path()).unwrap();
    global::get().unwrap();
    // Whoever closes the store by its handle has freed the slot, too.
    store.close().wait().unwrap();
    assert_eq!(global::get().unwrap_err().kind(), ErrorKind::Closed);
    global::init(directory.path()).unwrap().open("t").wait().unwrap();
    global::reset().wait().unwrap();
}

#[test]
fn reset_closes_every_tenant_frees_the_slot_and_may_be_called_twice() {
    let (_guard, directory) = begin();
    let (root, another) = (directory.path().join("root"), directory.path().join("another"));
    let store = global::init(&root).unwrap();
    let tenants: Vec<_> = ["a", "b"].iter().map(|id| store.open(id).wait().unwrap()).collect();
    for tenant in &tenants {
        tenant.put("c", b"k", b"x").wait().unwrap();
    }
    for _ in 0..2 {
        global::reset().wait().unwrap();
    }
    for tenant in &tenants {
        assert_eq!(tenant.get("c", b"k").wait().unwrap_err().kind(), ErrorKind::Closed);
    }
    assert_eq!(store.open("a").wait().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(global::get().unwrap_err().kind(), ErrorKind::Closed);
    // Free for another root, and then for the first one again, which finds its data.
    global::init(&another).unwrap().open("a").wait().unwrap();
    global::reset().wait().unwrap();
    let again = global::init(&root).unwrap().open("a").wait().unwrap();
    assert_eq!(again.get("c", b"k").wait().unwrap(), Some(b"x".to_vec()));
    global::reset().wait().unwrap();
}
