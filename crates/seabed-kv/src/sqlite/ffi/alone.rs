//! A VFS for files that this process keeps to itself, made of SQLite's own, and how SQLite is set up for many of them.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use rusqlite::ffi;

/// The VFS for files that this process keeps to itself; `None` where they are shared with other processes.
pub(crate) fn vfs_alone() -> Option<&'static CStr> {
    (!BASE.load(Ordering::Acquire).is_null()).then_some(ALONE)
}

const ALONE: &CStr = c"seabed-alone";

/// SQLite's own VFS for such files, which ours is made of.
static BASE: AtomicPtr<ffi::sqlite3_vfs> = AtomicPtr::new(ptr::null_mut());

thread_local! {
    static IS_LOG_KNOWN: Cell<bool> = const { Cell::new(false) };
}

/// Does what opens a log. One that is known is as it was left, and so is its file, and its place in its directory was flushed. Then
/// nobody looks whether it is there, or a journal, which would have changed the file; and its first flush on the new connection does not
/// flush the directory once more: SQLite does for every log that it opens as one that may have to be made.
pub(crate) fn opening_log<T>(is_known: bool, open: impl FnOnce() -> T) -> T {
    struct Opened;
    impl Drop for Opened {
        fn drop(&mut self) {
            IS_LOG_KNOWN.set(false);
        }
    }
    let _opened = Opened;
    IS_LOG_KNOWN.set(is_known);
    open()
}

/// Opens a file as SQLite does, but a log that is known as one that is there: made anew it would be empty, and its index is not.
unsafe extern "C" fn open_file(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    flags_out: *mut c_int,
) -> c_int {
    let base = BASE.load(Ordering::Acquire);
    // SAFETY: set before our VFS is registered, and SQLite's own stay registered and unchanged.
    let Some(open) = unsafe { base.as_ref() }.and_then(|base| base.xOpen) else { return ffi::SQLITE_ERROR };
    let is_known = flags & ffi::SQLITE_OPEN_WAL != 0 && IS_LOG_KNOWN.get();
    let flags = if is_known { flags & !ffi::SQLITE_OPEN_CREATE } else { flags };
    // SAFETY: what SQLite gave us goes to the method that it was meant for, with the VFS that it belongs to.
    unsafe { open(base, name, file, flags, flags_out) }
}

/// Looks for a file as SQLite does, but not for a log that is known, nor for a journal beside it.
unsafe extern "C" fn look_for(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    how: c_int,
    found: *mut c_int,
) -> c_int {
    let base = BASE.load(Ordering::Acquire);
    // SAFETY: as in `open_file`.
    let Some(look) = unsafe { base.as_ref() }.and_then(|base| base.xAccess) else { return ffi::SQLITE_ERROR };
    if how == ffi::SQLITE_ACCESS_EXISTS && IS_LOG_KNOWN.get() {
        // SAFETY: SQLite names what it looks for by a C string.
        let name = unsafe { CStr::from_ptr(name) }.to_bytes();
        if name.ends_with(b"-wal") || name.ends_with(b"-journal") {
            // SAFETY: SQLite gives a place for the answer.
            unsafe { *found = c_int::from(name.ends_with(b"-wal")) };
            return ffi::SQLITE_OK;
        }
    }
    // SAFETY: as in `open_file`.
    unsafe { look(base, name, how, found) }
}

/// Names a file for good as SQLite does. But where the file is no link it does not look at each directory above it whether that is one:
/// the system does, and a root is resolved once.
unsafe extern "C" fn full_name(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    bytes_max: c_int,
    full: *mut c_char,
) -> c_int {
    let base = BASE.load(Ordering::Acquire);
    // SAFETY: as in `open_file`.
    let Some(resolve) = unsafe { base.as_ref() }.and_then(|base| base.xFullPathname) else {
        return ffi::SQLITE_ERROR;
    };
    // SAFETY: SQLite gives a C string.
    let text = unsafe { CStr::from_ptr(name) };
    let bytes = text.to_bytes_with_nul().len();
    let is_full = text.to_str().is_ok_and(|text| {
        text.starts_with('/') && std::fs::symlink_metadata(text).is_ok_and(|file| !file.is_symlink())
    });
    if is_full && usize::try_from(bytes_max).is_ok_and(|bytes_max| bytes <= bytes_max) {
        // SAFETY: the name is as long as that, and the place, which is another, at least as long.
        unsafe { ptr::copy_nonoverlapping(name, full, bytes) };
        return ffi::SQLITE_OK;
    }
    // SAFETY: as in `open_file`.
    unsafe { resolve(base, name, bytes_max, full) }
}

/// Registers our VFS; `false` where SQLite has none to make it of.
fn register_alone() -> bool {
    // SAFETY: the name is a C string. SQLite answers a VFS of its own, which stays for as long as the process lives, or null.
    let base = unsafe { ffi::sqlite3_vfs_find(c"unix-excl".as_ptr()) };
    // SAFETY: as above.
    let Some(&own) = (unsafe { base.as_ref() }) else { return false };
    let ours = ffi::sqlite3_vfs {
        zName: ALONE.as_ptr(),
        pNext: ptr::null_mut(),
        xOpen: Some(open_file),
        xAccess: Some(look_for),
        xFullPathname: Some(full_name),
        ..own
    };
    BASE.store(base, Ordering::Release);
    // SAFETY: the structure is never freed and has all that the one has that it is a copy of.
    let code = unsafe { ffi::sqlite3_vfs_register(Box::leak(Box::new(ours)), 0) };
    if code != ffi::SQLITE_OK {
        BASE.store(ptr::null_mut(), Ordering::Release);
    }
    code == ffi::SQLITE_OK
}

/// Sets SQLite up for many small databases in this process: an open tenant takes less than half of the memory, and opening it again a
/// third of the time. While a tenant's files are open, other programs find its database locked; where one of them had it open before, it
/// is shared.
///
/// For programs that own their process, before the first connection; `false` when SQLite was already in use. The library never
/// calls it by itself.
pub fn tune_process() -> bool {
    // SAFETY: both options take the integers (and the null buffer) given here; SQLite refuses them with MISUSE once it is
    // initialised, and is not thread-safe only against other configuration calls, which this program alone makes.
    let is_tuned = unsafe {
        // One page of cache made ahead instead of twenty, and no lookaside: its slots would be the connection's for good.
        ffi::sqlite3_config(ffi::SQLITE_CONFIG_PAGECACHE, ptr::null_mut::<u8>(), 0 as c_int, 1 as c_int)
            == ffi::SQLITE_OK
            && ffi::sqlite3_config(ffi::SQLITE_CONFIG_LOOKASIDE, 0 as c_int, 0 as c_int) == ffi::SQLITE_OK
    };
    if is_tuned && vfs_alone().is_none() {
        // Where there is none to make it of, files are shared.
        register_alone();
    }
    is_tuned
}

#[cfg(all(test, not(shuttle)))]
#[allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]
mod tests {
    use std::cell::RefCell;
    use std::ffi::c_void;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::sync::atomic::AtomicUsize;

    use rusqlite::Connection;
    use rusqlite::config::DbConfig;

    use super::*;
    use crate::scheduler::{Engine as _, Request, Rest};
    use crate::sqlite::cache::CacheBudget;
    use crate::sqlite::engine::{EngineOptions, SqliteEngine};
    use crate::{Batch, Durability};

    type Named = unsafe extern "C" fn(*const c_char, *mut c_void) -> c_int;

    /// SQLite's own system calls that name a file. It opens a directory only to flush it.
    static CALLS: [(&CStr, Named, AtomicPtr<c_void>); 3] = [
        (c"openDirectory", note::<0>, AtomicPtr::new(ptr::null_mut())),
        (c"stat", note::<1>, AtomicPtr::new(ptr::null_mut())),
        (c"lstat", note::<2>, AtomicPtr::new(ptr::null_mut())),
    ];

    thread_local! {
        /// Which directories this thread had flushed, and which names looked at.
        static NAMED: RefCell<[Vec<String>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
    }

    unsafe extern "C" fn note<const CALL: usize>(name: *const c_char, answer: *mut c_void) -> c_int {
        // SAFETY: SQLite names files by C strings.
        let text = unsafe { CStr::from_ptr(name) }.to_str().unwrap().to_owned();
        let original = CALLS.get(CALL).unwrap().2.load(Ordering::Relaxed);
        NAMED.with_borrow_mut(
            |[flushed, looked_at]| {
                if CALL == 0 { flushed.push(text) } else { looked_at.push(text) }
            },
        );
        // SAFETY: it was SQLite's own function of that kind, and gets what it would have got.
        unsafe { std::mem::transmute::<*mut c_void, Named>(original)(name, answer) }
    }

    fn note_system_calls() {
        for (name, note, place) in &CALLS {
            // SAFETY: the VFS is SQLite's own, both methods are there in it, and the function is one of the kind that it stands for.
            unsafe {
                let vfs = ffi::sqlite3_vfs_find(c"unix-excl".as_ptr());
                let (get, set) = ((*vfs).xGetSystemCall.unwrap(), (*vfs).xSetSystemCall.unwrap());
                let original = get(vfs, name.as_ptr()).unwrap();
                place.store(original as *mut c_void, Ordering::Relaxed);
                let note: ffi::sqlite3_syscall_ptr =
                    Some(std::mem::transmute::<Named, unsafe extern "C" fn()>(*note));
                assert_eq!(set(vfs, name.as_ptr(), note), ffi::SQLITE_OK);
            }
        }
    }

    fn open(path: &Path) -> SqliteEngine {
        SqliteEngine::open(path, None, EngineOptions::default(), None, CacheBudget::new(1 << 20)).unwrap()
    }

    /// How often a directory is flushed by one put, and what is looked at.
    fn put(engine: &mut SqliteEngine, durability: Durability) -> (usize, Vec<String>) {
        static PUTS: AtomicUsize = AtomicUsize::new(0);
        let mut batch = Batch::new();
        batch.put("c", b"k", PUTS.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        NAMED.take();
        assert!(engine.commit_group(&[Request { batch, durability }]).iter().all(Result::is_ok));
        let [flushed, looked_at] = NAMED.take();
        (flushed.len(), looked_at)
    }

    #[test]
    fn the_directory_is_flushed_once_for_each_log_whoever_made_it() {
        assert!(tune_process());
        note_system_calls();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.db");
        let mut engine = open(&path);
        put(&mut engine, Durability::Durable);
        for _ in 0..3 {
            assert!(engine.rest(Rest::Released));
            assert_eq!(put(&mut engine, Durability::Durable).0, 0);
        }
        // Nothing of the next log was flushed when it is let go of.
        assert!(engine.rest(Rest::Closed));
        put(&mut engine, Durability::Relaxed);
        assert!(engine.rest(Rest::Released));
        assert_eq!(put(&mut engine, Durability::Durable).0, 1);
        // Another program takes our log away, and leaves one of its own.
        assert!(engine.rest(Rest::Released));
        for (stays, row) in [(false, "x'61'"), (true, "x'62'")] {
            let other = Connection::open(&path).unwrap();
            other.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, stays).unwrap();
            other.execute(&format!("INSERT INTO kv VALUES ({row}, {row}, {row})"), []).unwrap();
            drop(other);
            assert_eq!(directory.path().join("t.db-wal").exists(), stays);
        }
        assert_eq!(put(&mut engine, Durability::Durable).0, 1);
        // It is gone altogether.
        assert!(engine.rest(Rest::Released));
        drop(Connection::open(&path).unwrap().query_row("SELECT count(*) FROM kv", [], |_| Ok(())));
        assert!(!directory.path().join("t.db-wal").exists());
        assert_eq!(put(&mut engine, Durability::Durable).0, 1);
    }

    #[test]
    fn what_is_as_it_was_left_is_opened_without_a_look_around() {
        assert!(tune_process());
        note_system_calls();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.db");
        let mut engine = open(&path);
        put(&mut engine, Durability::Durable);
        let itself = path.to_str().unwrap();
        assert!(engine.rest(Rest::Released));
        let looked_at = put(&mut engine, Durability::Durable).1;
        assert!(!looked_at.is_empty() && looked_at.iter().all(|name| name == itself), "{looked_at:?}");

        // When anything of the file is different, there may be a journal beside it.
        assert!(engine.rest(Rest::Released));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let looked_at = put(&mut engine, Durability::Durable).1;
        assert!(looked_at.contains(&format!("{itself}-journal")), "{looked_at:?}");
    }

    #[test]
    fn the_pages_of_the_first_use_are_not_kept_and_those_of_the_second_are() {
        let directory = tempfile::tempdir().unwrap();
        let mut engine = open(&directory.path().join("t.db"));
        let mut pages_kept = || {
            put(&mut engine, Durability::Durable);
            engine.maintain();
            let connection = engine.source().unwrap();
            let (mut bytes, mut most) = (0, 0);
            let cached = ffi::SQLITE_DBSTATUS_CACHE_USED;
            // SAFETY: the handle is live for the borrow of the connection, and SQLite writes two integers.
            let code = unsafe {
                ffi::sqlite3_db_status(connection.handle(), cached, &raw mut bytes, &raw mut most, 0)
            };
            assert_eq!(code, ffi::SQLITE_OK);
            usize::try_from(bytes).unwrap() / engine.page_bytes()
        };
        // Room for a page that SQLite always has is counted, too.
        assert_eq!(pages_kept(), 1);
        // The first page of the file, and that of the one row.
        assert_eq!([pages_kept(), pages_kept()], [3, 3]);
    }
}
