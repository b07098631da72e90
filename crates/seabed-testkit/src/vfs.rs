//! [`Disk`]: a [simulated disk](crate::disk) that SQLite opens files on, as a VFS under a name of its own.
//!
//! All that is unsafe in this crate is here and in `vfs/shm.rs`. The contract with SQLite that the blocks lean on:
//!
//! 1. SQLite calls a method of a VFS with the `sqlite3_vfs` that was registered, and only between registration and the closing of
//!    the last file opened through it. Each open file holds a reference to its [`Vfs`], so the structure outlives them.
//! 2. It calls a method of a file with the memory that [`open`] filled, never after [`close`], and never two at once for one file.
//! 3. Every buffer has the length that is passed beside it; every name is a C string; out-pointers are valid for writes, and
//!    may be null only where this is checked.
#![allow(unsafe_code, reason = "SQLite takes a VFS as C structures of C functions")]

mod shm;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::ffi;

use crate::disk::{Counters, Fault, State};
use shm::{Shm, ShmUser};

/// A simulated disk, registered with SQLite as a VFS. Cheap to clone; each clone is the same disk.
///
/// ```
/// use rusqlite::{Connection, OpenFlags};
/// use seabed_testkit::Disk;
///
/// let disk = Disk::new(1);
/// let open = || Connection::open_with_flags_and_vfs(disk.path("a.db"), OpenFlags::default(), disk.vfs());
/// let database = open()?;
/// database.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE t (a); INSERT INTO t VALUES (1)")?;
/// disk.cut(7);
/// assert!(database.execute("INSERT INTO t VALUES (2)", []).is_err(), "its process went with the power");
/// drop(database);
/// assert_eq!(open()?.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0))?, 1);
/// # Ok::<(), rusqlite::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Disk(Arc<Registration>);

impl Disk {
    /// An empty disk. Everything it decides by chance, apart from what a cut leaves, follows from `seed`.
    ///
    /// SQLite's own generator, one for the whole process, is seeded as well: runs in a single thread repeat to the byte.
    ///
    /// # Panics
    /// When SQLite cannot register it: the process is out of memory.
    pub fn new(seed: u64) -> Self {
        static DISKS: AtomicU64 = AtomicU64::new(0);
        let name = CString::new(format!("seabed-disk-{}", DISKS.fetch_add(1, Ordering::Relaxed)));
        #[allow(clippy::expect_used, reason = "the name is made of letters and digits")]
        let name = name.expect("a name without a zero byte");
        #[allow(clippy::cast_possible_truncation, reason = "any bits of the seed will do")]
        let sqlite_seed = (seed as c_int) | 1;
        // SAFETY: initialisation is idempotent and thread-safe; this test control takes an integer and a connection that may be null.
        unsafe {
            ffi::sqlite3_initialize();
            ffi::sqlite3_test_control(
                ffi::SQLITE_TESTCTRL_PRNG_SEED,
                sqlite_seed,
                ptr::null_mut::<ffi::sqlite3>(),
            );
        }
        let vfs = Arc::new_cyclic(|vfs: &std::sync::Weak<Vfs>| {
            let raw = Box::into_raw(Box::new(methods(name.as_ptr(), vfs.as_ptr())));
            Vfs { raw, name, state: Mutex::new(State::new(seed)), shared_memory: Mutex::default() }
        });
        // SAFETY: the structure is complete, lives until `Vfs` is dropped, and is unregistered before that.
        let code = unsafe { ffi::sqlite3_vfs_register(vfs.raw, 0) };
        assert_eq!(code, ffi::SQLITE_OK, "SQLite did not take the disk");
        Self(Arc::new(Registration(vfs)))
    }

    /// The name under which SQLite knows the disk.
    pub fn vfs(&self) -> &str {
        self.0.0.name.to_str().unwrap_or_default()
    }

    /// Where on the disk a file of that name lies. All of them lie in one directory.
    #[allow(clippy::unused_self, reason = "a path means something on this disk alone")]
    pub fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/disk/{name}"))
    }

    /// Cuts the power and switches it on again. What was synced is there; of the rest, what `seed` decides. Files that are open
    /// belong to a process that is gone: they fail from now on. Faults are forgotten.
    pub fn cut(&self, seed: u64) {
        self.state().cut(seed);
        lock(&self.0.0.shared_memory).clear();
    }

    /// Ends the process as SIGKILL does: files that are open fail from now on, and everything written is there.
    pub fn kill(&self) {
        self.state().kill();
        lock(&self.0.0.shared_memory).clear();
    }

    /// Places a fault: at the first operation that it applies to, counted from the `at`-th on. `at` counts
    /// [`Counters::changes`], and for faults of reads [`Counters::reads`].
    pub fn fail_at(&self, at: u64, fault: Fault) {
        self.state().arm(at, fault, false);
    }

    /// Places a fault that lasts until [`heal`](Disk::heal) or the next cut.
    pub fn fail_from(&self, at: u64, fault: Fault) {
        self.state().arm(at, fault, true);
    }

    /// The disk takes of what is unsynced of a file what `seed` decides, and nobody is told: as when all who had it open have closed it,
    /// the cache was to be written then and could not be, and was dropped with the error. What is read from here on is what the disk has.
    pub fn lose(&self, name: &str, seed: u64) {
        if let Some(path) = self.path(name).to_str() {
            self.state().lose(path, seed);
        }
    }

    /// Removes every fault that was placed.
    pub fn heal(&self) {
        self.state().heal();
    }

    /// Whether the power went at a [`Fault::CutHere`] and has not come back.
    pub fn is_dead(&self) -> bool {
        self.state().is_dead()
    }

    /// What the disk was asked for so far.
    pub fn counters(&self) -> Counters {
        self.state().counters
    }

    /// At which positions of [`Counters::changes`] there was a sync so far.
    pub fn sync_positions(&self) -> Vec<u64> {
        self.state().syncs.clone()
    }

    /// A hash of every operation so far: its kind, file, position and length. The same run has the same one.
    pub fn trace(&self) -> u64 {
        self.state().trace
    }

    /// The names of the files there are, with their directory.
    pub fn names(&self) -> Vec<String> {
        self.state().names().map(str::to_owned).collect()
    }

    /// What a reader of that file sees now; `None` when there is none.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let path = self.path(name);
        self.state().bytes(path.to_str()?).map(<[u8]>::to_vec)
    }

    /// Puts a file there, synced.
    pub fn place(&self, name: &str, bytes: &[u8]) {
        if let Some(path) = self.path(name).to_str() {
            self.state().place(path, bytes);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.0.state)
    }
}

/// A poisoned lock is taken all the same: the test that panicked is failing already.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the registration when the last [`Disk`] is dropped; files may be open still.
#[derive(Debug)]
struct Registration(Arc<Vfs>);

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: it was registered, and the structure is alive.
        unsafe { ffi::sqlite3_vfs_unregister(self.0.raw) };
    }
}

#[derive(Debug)]
struct Vfs {
    raw: *mut ffi::sqlite3_vfs,
    name: CString,
    state: Mutex<State>,
    /// The shared memory of each file that has some, by inode. Locked after `state`, never before.
    shared_memory: Mutex<Vec<(u64, Arc<Shm>)>>,
}

// SAFETY: `raw` is written by SQLite alone, under its own mutex, and freed in `drop`, when nobody else has it.
unsafe impl Send for Vfs {}
// SAFETY: as above; everything else is behind a mutex or never changes.
unsafe impl Sync for Vfs {}

impl Drop for Vfs {
    fn drop(&mut self) {
        // SAFETY: it came from a box; it is unregistered, and no file is open: each holds a reference to this.
        drop(unsafe { Box::from_raw(self.raw) });
    }
}

impl Vfs {
    fn shm(&self, inode: u64) -> Arc<Shm> {
        let mut all = lock(&self.shared_memory);
        if let Some((_, shm)) = all.iter().find(|(owner, _)| *owner == inode) {
            return shm.clone();
        }
        let shm = Arc::new(Shm::default());
        all.push((inode, shm.clone()));
        shm
    }

    /// Forgets the shared memory of a file when its last user has left.
    fn release_shm(&self, inode: u64) {
        lock(&self.shared_memory).retain(|(owner, shm)| *owner != inode || Arc::strong_count(shm) > 1);
    }
}

/// What SQLite holds for a file: the layout it prescribes, then ours.
#[repr(C)]
struct RawFile {
    base: ffi::sqlite3_file,
    open: *mut OpenFile,
}

/// One file as one connection has it open.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct OpenFile {
    vfs: Arc<Vfs>,
    id: u64,
    inode: u64,
    generation: u64,
    name: Option<String>,
    delete_on_close: bool,
    is_read_only: bool,
    /// Whether the next sync is to sync the directory too.
    sync_directory: bool,
    keep_log: bool,
    shm: Option<ShmUser>,
}

impl OpenFile {
    /// The disk, or `code` when this file is of a process that is gone.
    fn state(&self, code: c_int) -> Result<MutexGuard<'_, State>, c_int> {
        let state = lock(&self.vfs.state);
        if state.generation == self.generation && !state.is_dead() { Ok(state) } else { Err(code) }
    }

    /// The same for a change, which a file that is open to be read does not take: a reader that leaves last tries a checkpoint.
    fn to_change(&self, code: c_int) -> Result<MutexGuard<'_, State>, c_int> {
        if self.is_read_only { Err(code) } else { self.state(code) }
    }

    fn sync(&mut self) -> Result<(), c_int> {
        let mut state = self.state(ffi::SQLITE_IOERR_FSYNC)?;
        state.sync(self.inode)?;
        if let Some(name) = self.name.as_deref().filter(|_| self.sync_directory) {
            state.sync_directory_of(name);
            drop(state);
            self.sync_directory = false;
        }
        Ok(())
    }

    fn leave_shm(&mut self) {
        if let Some(user) = self.shm.take() {
            drop(user);
            self.vfs.release_shm(self.inode);
        }
    }

    fn close(mut self) {
        self.leave_shm();
        let mut state = lock(&self.vfs.state);
        if state.generation == self.generation {
            state.unlock(self.inode, self.id, ffi::SQLITE_LOCK_NONE);
            if let Some(name) = self.name.as_deref().filter(|_| self.delete_on_close) {
                // A file that is gone already, or a disk that is, asks for nothing more.
                let _ = state.delete(name, false);
            }
        }
    }
}

fn code(result: Result<(), c_int>) -> c_int {
    result.err().unwrap_or(ffi::SQLITE_OK)
}

fn methods(name: *const c_char, vfs: *const Vfs) -> ffi::sqlite3_vfs {
    ffi::sqlite3_vfs {
        iVersion: 2,
        szOsFile: c_int::try_from(size_of::<RawFile>()).unwrap_or(c_int::MAX),
        mxPathname: 512,
        pNext: ptr::null_mut(),
        zName: name,
        pAppData: vfs.cast_mut().cast(),
        xOpen: Some(open),
        xDelete: Some(delete),
        xAccess: Some(access),
        xFullPathname: Some(full_pathname),
        xDlOpen: None,
        xDlError: None,
        xDlSym: None,
        xDlClose: None,
        xRandomness: Some(randomness),
        xSleep: Some(sleep),
        xCurrentTime: Some(current_time),
        xGetLastError: None,
        xCurrentTimeInt64: Some(current_time_ms),
        xSetSystemCall: None,
        xGetSystemCall: None,
        xNextSystemCall: None,
    }
}

static FILE_METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(acquire),
    xUnlock: Some(release),
    xCheckReservedLock: Some(check_reserved),
    xFileControl: Some(control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

fn vfs_of<'a>(raw: *mut ffi::sqlite3_vfs) -> &'a Vfs {
    // SAFETY: contract 1; `pAppData` points into the `Arc` that `Disk::new` made.
    unsafe { &*(*raw).pAppData.cast::<Vfs>() }
}

fn file_of<'a>(raw: *mut ffi::sqlite3_file) -> &'a mut OpenFile {
    // SAFETY: contract 2; `open` put a box there, and only one call at a time uses it.
    unsafe { &mut *(*raw.cast::<RawFile>()).open }
}

fn name_of<'a>(name: *const c_char) -> Option<&'a str> {
    if name.is_null() {
        return None;
    }
    // SAFETY: contract 3.
    unsafe { CStr::from_ptr(name) }.to_str().ok()
}

fn set<T>(target: *mut T, value: T) {
    if !target.is_null() {
        // SAFETY: contract 3.
        unsafe { target.write(value) };
    }
}

fn position(offset: ffi::sqlite3_int64) -> usize {
    usize::try_from(offset).unwrap_or(0)
}

fn length(amount: c_int) -> usize {
    usize::try_from(amount).unwrap_or(0)
}

unsafe extern "C" fn open(
    raw_vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    raw: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let vfs = vfs_of(raw_vfs);
    let raw = raw.cast::<RawFile>();
    // SAFETY: contract 2: `raw` has room for `szOsFile` bytes. No methods means that there is nothing to close.
    unsafe { (*raw).base.pMethods = ptr::null() };
    let name = name_of(name).map(str::to_owned);
    let create = name.is_none() || flags & ffi::SQLITE_OPEN_CREATE != 0;
    let mut state = lock(&vfs.state);
    let inode = match state.open(name.as_deref(), create) {
        Ok(inode) => inode,
        Err(code) => return code,
    };
    let journals = ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_SUPER_JOURNAL | ffi::SQLITE_OPEN_WAL;
    // SAFETY: contract 1: the `Arc` that `vfs` lies in is alive, so its count can be raised for the file.
    let shared = unsafe {
        Arc::increment_strong_count(ptr::from_ref(vfs));
        Arc::from_raw(ptr::from_ref(vfs))
    };
    let open = OpenFile {
        id: state.next_id(),
        generation: state.generation,
        inode,
        name,
        delete_on_close: flags & ffi::SQLITE_OPEN_DELETEONCLOSE != 0,
        is_read_only: flags & ffi::SQLITE_OPEN_READONLY != 0,
        sync_directory: create && flags & journals != 0,
        keep_log: false,
        shm: None,
        vfs: shared,
    };
    // SAFETY: as above; `close` takes the box back.
    unsafe {
        (*raw).open = Box::into_raw(Box::new(open));
        (*raw).base.pMethods = &raw const FILE_METHODS;
    }
    set(out_flags, flags);
    ffi::SQLITE_OK
}

unsafe extern "C" fn delete(raw: *mut ffi::sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    let Some(name) = name_of(name) else { return ffi::SQLITE_IOERR_DELETE };
    code(lock(&vfs_of(raw).state).delete(name, sync & 1 != 0))
}

unsafe extern "C" fn access(
    raw: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    result: *mut c_int,
) -> c_int {
    let state = lock(&vfs_of(raw).state);
    // As on unix, an empty file does not "exist": SQLite asks this of journals.
    let inode = name_of(name).and_then(|name| state.inode(name));
    let found = inode.is_some_and(|inode| flags != ffi::SQLITE_ACCESS_EXISTS || state.length(inode) > 0);
    set(result, c_int::from(found));
    if state.is_dead() { ffi::SQLITE_IOERR_ACCESS } else { ffi::SQLITE_OK }
}

unsafe extern "C" fn full_pathname(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    room: c_int,
    target: *mut c_char,
) -> c_int {
    // SAFETY: contract 3.
    let bytes = unsafe { CStr::from_ptr(name) }.to_bytes_with_nul();
    if bytes.len() > length(room) {
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: the target has `room` bytes, at least as many as are copied, and is not the source.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), target.cast(), bytes.len()) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn randomness(raw: *mut ffi::sqlite3_vfs, count: c_int, target: *mut c_char) -> c_int {
    if count <= 0 || target.is_null() {
        return 0;
    }
    // SAFETY: contract 3.
    let bytes = unsafe { std::slice::from_raw_parts_mut(target.cast::<u8>(), length(count)) };
    let rng = &mut lock(&vfs_of(raw).state).rng;
    for byte in bytes {
        *byte = rng.next().to_le_bytes()[0];
    }
    count
}

/// Nobody waits: time on this disk is what it is asked for.
unsafe extern "C" fn sleep(_: *mut ffi::sqlite3_vfs, microseconds: c_int) -> c_int {
    microseconds
}

const NOON_2026_MS: i64 = 212_647_000_800_000;

unsafe extern "C" fn current_time(_: *mut ffi::sqlite3_vfs, days: *mut f64) -> c_int {
    #[allow(clippy::cast_precision_loss, reason = "a day of 2026 needs 48 bits")]
    set(days, NOON_2026_MS as f64 / 86_400_000.0);
    ffi::SQLITE_OK
}

unsafe extern "C" fn current_time_ms(_: *mut ffi::sqlite3_vfs, ms: *mut ffi::sqlite3_int64) -> c_int {
    set(ms, NOON_2026_MS);
    ffi::SQLITE_OK
}

unsafe extern "C" fn close(raw: *mut ffi::sqlite3_file) -> c_int {
    let raw = raw.cast::<RawFile>();
    // SAFETY: contract 2: this is the last call for this file, and the box is the one that `open` made.
    let open = unsafe {
        (*raw).base.pMethods = ptr::null();
        Box::from_raw((*raw).open)
    };
    open.close();
    ffi::SQLITE_OK
}

unsafe extern "C" fn read(
    raw: *mut ffi::sqlite3_file,
    target: *mut c_void,
    amount: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    let file = file_of(raw);
    // SAFETY: contract 3; SQLite's buffers are initialised or at least never read by us before `read` fills them.
    let buffer = unsafe { std::slice::from_raw_parts_mut(target.cast::<u8>(), length(amount)) };
    code(
        file.state(ffi::SQLITE_IOERR_READ)
            .and_then(|mut state| state.read(file.inode, position(offset), buffer)),
    )
}

unsafe extern "C" fn write(
    raw: *mut ffi::sqlite3_file,
    source: *const c_void,
    amount: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    let file = file_of(raw);
    // SAFETY: contract 3.
    let bytes = unsafe { std::slice::from_raw_parts(source.cast::<u8>(), length(amount)) };
    code(
        file.to_change(ffi::SQLITE_IOERR_WRITE)
            .and_then(|mut state| state.write(file.inode, position(offset), bytes)),
    )
}

unsafe extern "C" fn truncate(raw: *mut ffi::sqlite3_file, size: ffi::sqlite3_int64) -> c_int {
    let file = file_of(raw);
    code(
        file.to_change(ffi::SQLITE_IOERR_TRUNCATE)
            .and_then(|mut state| state.truncate(file.inode, position(size))),
    )
}

unsafe extern "C" fn sync(raw: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    code(file_of(raw).sync())
}

unsafe extern "C" fn file_size(raw: *mut ffi::sqlite3_file, size: *mut ffi::sqlite3_int64) -> c_int {
    let file = file_of(raw);
    code(file.state(ffi::SQLITE_IOERR_FSTAT).map(|state| {
        set(size, ffi::sqlite3_int64::try_from(state.length(file.inode)).unwrap_or(i64::MAX));
    }))
}

unsafe extern "C" fn acquire(raw: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    let file = file_of(raw);
    code(file.state(ffi::SQLITE_IOERR_LOCK).and_then(|mut state| state.lock(file.inode, file.id, level)))
}

unsafe extern "C" fn release(raw: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    let file = file_of(raw);
    code(file.state(ffi::SQLITE_IOERR_UNLOCK).map(|mut state| state.unlock(file.inode, file.id, level)))
}

unsafe extern "C" fn check_reserved(raw: *mut ffi::sqlite3_file, result: *mut c_int) -> c_int {
    let file = file_of(raw);
    code(
        file.state(ffi::SQLITE_IOERR_CHECKRESERVEDLOCK)
            .map(|state| set(result, c_int::from(state.is_reserved(file.inode)))),
    )
}

unsafe extern "C" fn control(raw: *mut ffi::sqlite3_file, operation: c_int, argument: *mut c_void) -> c_int {
    if operation != ffi::SQLITE_FCNTL_PERSIST_WAL {
        return ffi::SQLITE_NOTFOUND;
    }
    let file = file_of(raw);
    let value = argument.cast::<c_int>();
    // SAFETY: the argument of this control is an integer: a setting, or a negative number to be told it.
    unsafe {
        if *value < 0 {
            *value = c_int::from(file.keep_log);
        } else {
            file.keep_log = *value != 0;
        }
    }
    ffi::SQLITE_OK
}

/// What SQLite's unix layer says, so that the log is laid out as on a real disk.
unsafe extern "C" fn sector_size(_: *mut ffi::sqlite3_file) -> c_int {
    4_096
}

unsafe extern "C" fn characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
}

unsafe extern "C" fn shm_map(
    raw: *mut ffi::sqlite3_file,
    region: c_int,
    size: c_int,
    extend: c_int,
    target: *mut *mut c_void,
) -> c_int {
    let file = file_of(raw);
    set(target, ptr::null_mut());
    if let Err(code) = file.state(ffi::SQLITE_IOERR_SHMMAP).map(drop) {
        return code;
    }
    if file.shm.is_none() {
        file.shm = Some(ShmUser::new(file.vfs.shm(file.inode)));
    }
    if let Some(user) = &file.shm {
        set(target, user.region(length(region), length(size), extend != 0).cast());
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn shm_lock(
    raw: *mut ffi::sqlite3_file,
    first: c_int,
    count: c_int,
    flags: c_int,
) -> c_int {
    let file = file_of(raw);
    if let Err(code) = file.state(ffi::SQLITE_IOERR_SHMLOCK).map(drop) {
        return code;
    }
    let Some(user) = &mut file.shm else { return ffi::SQLITE_IOERR_SHMLOCK };
    let slots = length(first)..length(first) + length(count);
    match (flags & ffi::SQLITE_SHM_UNLOCK != 0, flags & ffi::SQLITE_SHM_SHARED != 0) {
        (true, _) => user.unlock(slots),
        (false, true) => code(user.lock_shared(slots)),
        (false, false) => code(user.lock_exclusive(slots)),
    }
}

unsafe extern "C" fn shm_barrier(_: *mut ffi::sqlite3_file) {
    fence(Ordering::SeqCst);
}

unsafe extern "C" fn shm_unmap(raw: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    file_of(raw).leave_shm();
    ffi::SQLITE_OK
}
