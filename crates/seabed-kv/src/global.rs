//! One store for the whole process, for programs that have no place to hand a [`Store`] through (upstream's singleton).
//!
//! ```
//! use seabed_kv::{ErrorKind, global};
//!
//! # let directory = tempfile::tempdir().unwrap();
//! # let root = directory.path().join("data");
//! assert_eq!(global::get().unwrap_err().kind(), ErrorKind::Closed);
//! global::init(&root)?;
//! global::get()?.open("notes").wait()?;
//! // Anywhere else in the program:
//! global::get()?.put("notes", "note", b"1", b"hello").wait()?;
//! global::reset().wait()?;
//! # Ok::<(), seabed_kv::Error>(())
//! ```
//!
//! A library does not use it: the slot belongs to the program. Tests that use it run one after another.

use std::path::{Path, PathBuf};

use crate::sync::{Mutex, lock};
use crate::{Error, ErrorKind, Op, Result, Store};

struct Global {
    root: PathBuf,
    store: Store,
}

static GLOBAL: Mutex<Option<Global>> = Mutex::new(None);

/// The store of the process in the directory `root`: made by the first call, the same one for every later call with the same
/// root. Nothing on disk is touched before its first tenant is opened.
///
/// Paths are compared as written, made absolute: an alias through a symbolic link is another root.
///
/// # Errors
/// `InvalidArgument` when the store of the process has another root ([`reset`] first), and for a root that [`Store::sqlite`]
/// refuses.
pub fn init(root: impl AsRef<Path>) -> Result<Store> {
    let mut slot = lock(&GLOBAL);
    let store = Store::sqlite(&root)?;
    let root = std::path::absolute(&root).map_err(|error| {
        Error::invalid(format!("{} is no path: {error}", root.as_ref().display())).with_source(error)
    })?;
    match slot.as_ref().filter(|global| !global.store.is_closed()) {
        Some(global) if global.root == root => Ok(global.store.clone()),
        Some(global) => Err(Error::invalid(format!(
            "the store of this process is in {}, not in {}; reset it first",
            global.root.display(),
            root.display()
        ))),
        None => Ok(slot.insert(Global { root, store }).store.clone()),
    }
}

/// The store of the process.
///
/// # Errors
/// `Closed` before [`init`], and after [`reset`] or [`Store::close`].
pub fn get() -> Result<Store> {
    let slot = lock(&GLOBAL);
    match slot.as_ref().filter(|global| !global.store.is_closed()) {
        Some(global) => Ok(global.store.clone()),
        None => Err(Error::new(ErrorKind::Closed, "the process has no store; call init first")),
    }
}

/// Closes the store of the process with every tenant, and frees the slot; Ok when there is none, so twice is fine. Await it
/// before another [`init`] with the same root: until then the root is owned by the store that is closing.
///
/// # Errors
/// Through the `Op`: as [`Store::close`]. The slot is free all the same.
pub fn reset() -> Op<()> {
    let global = lock(&GLOBAL).take();
    global.map_or_else(|| Op::ready(Ok(())), |global| global.store.close())
}
