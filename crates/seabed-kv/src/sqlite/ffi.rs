//! What takes `unsafe`: the log's file, a statement or a backup kept beside its connection, and the configuration of the process.

#![allow(
    unsafe_code,
    reason = "rusqlite has no face for file controls and for the process-wide configuration"
)]

use std::cell::{Cell, RefCell};
use std::ffi::{c_char, c_int};
use std::ops::Deref;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering, fence};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, Error, Statement, ffi};

use super::frames::{FrameChain, HEADER_BYTES};

/// How many bytes of the log are rewritten at a time. SQLite's own VFS writes at most 128 KiB - 1 a call: it masks the length.
const BLOCK_BYTES: usize = 64 * 1024;

/// The open `-wal` file of a connection, for the time of one call.
struct LogFile(*mut ffi::sqlite3_file);

impl LogFile {
    /// `None` while the connection has not opened its log.
    fn of(connection: &Connection) -> Result<Option<Self>, Error> {
        let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
        // SAFETY: the handle is live for the borrow of the connection, `main` names its only database, and for this control
        // SQLite writes one pointer to where the last argument points.
        let code = unsafe {
            ffi::sqlite3_file_control(
                connection.handle(),
                c"main".as_ptr(),
                ffi::SQLITE_FCNTL_JOURNAL_POINTER,
                ptr::from_mut(&mut file).cast(),
            )
        };
        check(code)?;
        // SAFETY: SQLite answers its own file object, alive as long as the connection; one that was never opened has no methods.
        let is_open = !file.is_null() && unsafe { !(*file).pMethods.is_null() };
        Ok(is_open.then_some(Self(file)))
    }

    fn methods(&self) -> &ffi::sqlite3_io_methods {
        // SAFETY: `of` saw that the pointer is not null; the table is static in every VFS, and the file is open for our borrow.
        unsafe { &*(*self.0).pMethods }
    }

    fn bytes(&self) -> Result<u64, Error> {
        let mut bytes: ffi::sqlite3_int64 = 0;
        let size = self.methods().xFileSize.ok_or(Error::InvalidQuery)?;
        // SAFETY: the method belongs to this open file and writes one integer. The connection's thread is ours: a connection is
        // used by one thread at a time, and the caller borrows it.
        check(unsafe { size(self.0, &raw mut bytes) })?;
        Ok(u64::try_from(bytes).unwrap_or(0))
    }

    fn header(&self) -> Result<[u8; 32], Error> {
        let mut header = [0; 32];
        let read = self.methods().xRead.ok_or(Error::InvalidQuery)?;
        // SAFETY: the method belongs to this open file and writes as many bytes as there are; as in `bytes`.
        check(unsafe { read(self.0, header.as_mut_ptr().cast(), 32, 0) })?;
        Ok(header)
    }

    fn sync(&self) -> Result<(), Error> {
        // Full, where it differs: on macOS a plain fsync does not reach the platter.
        let flags = if cfg!(target_os = "macos") { ffi::SQLITE_SYNC_FULL } else { ffi::SQLITE_SYNC_NORMAL };
        let sync = self.methods().xSync.ok_or(Error::InvalidQuery)?;
        // SAFETY: the method belongs to this open file; as in `bytes`.
        check(unsafe { sync(self.0, flags) })
    }

    /// Reads what the file holds and writes the same bytes to the same place.
    fn rewrite(&self) -> Result<(), Error> {
        let total = self.bytes()?;
        let (read, write) = (self.methods().xRead, self.methods().xWrite);
        let (read, write) = (read.ok_or(Error::InvalidQuery)?, write.ok_or(Error::InvalidQuery)?);
        let mut block = vec![0_u8; BLOCK_BYTES.min(usize::try_from(total).unwrap_or(BLOCK_BYTES))];
        let mut offset = 0;
        while offset < total {
            let length = usize::try_from(total - offset).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
            let (amount, at) = (c_int::try_from(length).unwrap_or(0), offset.cast_signed());
            // SAFETY: the methods belong to this open file, the block is at least `length` bytes long, and nobody else uses
            // the connection; readers of other connections see the same bytes before, during and after.
            check(unsafe { read(self.0, block.as_mut_ptr().cast(), amount, at) })?;
            // SAFETY: as above.
            check(unsafe { write(self.0, block.as_ptr().cast(), amount, at) })?;
            offset += length as u64;
        }
        Ok(())
    }

    /// Whether the first frames are there, each as it was written: whether a recovery would find them all.
    fn is_whole(&self, frames: u64) -> Result<bool, Error> {
        if frames == 0 {
            return Ok(true);
        }
        if self.bytes()? < HEADER_BYTES as u64 {
            return Ok(false);
        }
        let Some(mut chain) = FrameChain::begin(&self.header()?) else { return Ok(false) };
        let mut frame = vec![0_u8; chain.frame_bytes()];
        let (length, start) = (frame.len() as u64, HEADER_BYTES as u64);
        if self.bytes()? < start + frames * length {
            return Ok(false);
        }
        let read = self.methods().xRead.ok_or(Error::InvalidQuery)?;
        let amount = c_int::try_from(frame.len()).unwrap_or(0);
        for number in 0..frames {
            let at = (start + number * length).cast_signed();
            // SAFETY: the method belongs to this open file and writes as many bytes as there are; as in `bytes`.
            check(unsafe { read(self.0, frame.as_mut_ptr().cast(), amount, at) })?;
            if !chain.extend(&frame) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Makes every commit in the log durable: one flush, no checkpoint.
pub(super) fn sync_log(connection: &Connection) -> Result<(), Error> {
    match LogFile::of(connection)? {
        Some(log) => log.sync(),
        None => Ok(()),
    }
}

/// Writes the bytes of the log back in place and flushes them. After a failed flush the cache holds what the disk may not, marked
/// as written; only writing again makes a later flush carry it. Answers as [`is_log_whole`]: where the cache was dropped, what is read back
/// is not what was written.
pub(super) fn rewrite_log(connection: &Connection) -> Result<bool, Error> {
    match LogFile::of(connection)? {
        Some(log) if log.bytes()? > 0 => alone(connection, || {
            log.rewrite()?;
            log.sync()?;
            log.is_whole(indexed_frames(connection)?)
        }),
        _ => is_log_whole(connection),
    }
}

/// Whether the log holds every frame that its index counts.
pub(super) fn is_log_whole(connection: &Connection) -> Result<bool, Error> {
    match LogFile::of(connection)? {
        Some(log) => alone(connection, || log.is_whole(indexed_frames(connection)?)),
        None => Ok(true),
    }
}

/// Looks at the log while nobody, another program's writer included, may append to it.
fn alone(connection: &Connection, look: impl FnOnce() -> Result<bool, Error>) -> Result<bool, Error> {
    use ffi::ErrorCode::{DatabaseCorrupt, NotADatabase};
    match connection.execute_batch("BEGIN IMMEDIATE") {
        Ok(()) => {
            let looked = look();
            connection.execute_batch("ROLLBACK").and(looked)
        }
        // Where the log has lost the first page nobody can begin anything.
        Err(error) if matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase)) => {
            if look()? { Err(error) } else { Ok(false) }
        }
        Err(error) => Err(error),
    }
}

/// How many frames of the log readers look for in it.
fn indexed_frames(connection: &Connection) -> Result<u64, Error> {
    let region = MainFile::of(connection)?.map_index(false)?;
    Ok(region.map_or(0, |region| u64::from(region.word(INDEX_FRAMES_WORD))))
}

/// The size of the log.
pub(super) fn log_bytes(connection: &Connection) -> Result<u64, Error> {
    LogFile::of(connection)?.map_or(Ok(0), |log| log.bytes())
}

/// The header of the log; `None` while the connection has not opened it.
pub(super) fn log_header(connection: &Connection) -> Result<Option<[u8; 32]>, Error> {
    LogFile::of(connection)?.map(|log| log.header()).transpose()
}

/// How many words the head of a log's index has: its header twice, and what checkpoints and readers note.
const INDEX_HEAD_WORDS: usize = 34;
/// The index is shared in regions of this size.
const INDEX_REGION_BYTES: c_int = 32 * 1024;
/// How many frames the first region counts: the pages of each, then a table that finds a page's last frame.
const INDEX_FRAMES_MAX: usize = 4_096 - INDEX_HEAD_WORDS;
const INDEX_SLOTS: usize = 8_192;
/// The only layout of the index that there is, in its first word.
const INDEX_VERSION: u32 = 3_007_000;
/// Where the number of frames stands.
const INDEX_FRAMES_WORD: usize = 4;
/// Where it stands how many of them are carried over.
const INDEX_CARRIED_WORD: usize = 24;
/// The lock of whoever writes or recovers, and behind it that of whoever carries over.
const INDEX_WRITE_LOCK: c_int = 0;

/// The open file of a connection's database, for the time of one call.
struct MainFile(*mut ffi::sqlite3_file);

impl MainFile {
    fn of(connection: &Connection) -> Result<Self, Error> {
        let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
        // SAFETY: as in `LogFile::of`.
        let code = unsafe {
            ffi::sqlite3_file_control(
                connection.handle(),
                c"main".as_ptr(),
                ffi::SQLITE_FCNTL_FILE_POINTER,
                ptr::from_mut(&mut file).cast(),
            )
        };
        check(code)?;
        // SAFETY: as in `LogFile::of`.
        let is_open = !file.is_null() && unsafe { !(*file).pMethods.is_null() };
        if is_open { Ok(Self(file)) } else { Err(Error::InvalidQuery) }
    }

    fn methods(&self) -> &ffi::sqlite3_io_methods {
        // SAFETY: as in `LogFile::methods`.
        unsafe { &*(*self.0).pMethods }
    }

    /// Locks the file as a reader does, so that nobody takes its log away. SQLite, which locks it next, finds it locked.
    fn lock_shared(&self) -> Result<(), Error> {
        let lock = self.methods().xLock.ok_or(Error::InvalidQuery)?;
        // SAFETY: the method belongs to this open file, which nobody else uses for our borrow of the connection.
        check(unsafe { lock(self.0, ffi::SQLITE_LOCK_SHARED) })
    }

    /// The first region of the index. One that is made for us is all zeros.
    fn map_index(&self, is_made: bool) -> Result<Option<IndexRegion>, Error> {
        let map = self.methods().xShmMap.ok_or(Error::InvalidQuery)?;
        let mut region: *mut std::ffi::c_void = ptr::null_mut();
        // SAFETY: as in `lock_shared`; SQLite itself maps the region in the same way, and unmaps it when it closes the log.
        let code =
            unsafe { map(self.0, 0, INDEX_REGION_BYTES, c_int::from(is_made), (&raw mut region).cast()) };
        check(code)?;
        Ok((!region.is_null()).then_some(IndexRegion(region.cast())))
    }

    /// Locks the index as a writer does, with a second lock as one who carries over, too; or unlocks it.
    fn lock_index(&self, locks: c_int, how: c_int) -> Result<(), Error> {
        let lock = self.methods().xShmLock.ok_or(Error::InvalidQuery)?;
        // SAFETY: as in `lock_shared`; the index is mapped.
        check(unsafe { lock(self.0, INDEX_WRITE_LOCK, locks, how | ffi::SQLITE_SHM_EXCLUSIVE) })
    }

    fn unmap_index(&self) {
        if let Some(unmap) = self.methods().xShmUnmap {
            // SAFETY: as in `lock_shared`; SQLite has not opened the log, so nobody holds a pointer into it.
            unsafe { unmap(self.0, 0) };
        }
    }
}

/// The first region of a mapped index: 4,096 words and 8,192 slots of half a word.
struct IndexRegion(*mut u32);

impl IndexRegion {
    fn word(&self, at: usize) -> u32 {
        debug_assert!(at < 4_096, "within the region");
        // SAFETY: the region has 4,096 words in front, and every caller stays below. Volatile, because other processes may share it.
        unsafe { self.0.add(at).read_volatile() }
    }

    fn set_word(&self, at: usize, word: u32) {
        debug_assert!(at < 4_096, "within the region");
        // SAFETY: as in `word`.
        unsafe { self.0.add(at).write_volatile(word) }
    }

    /// Notes a frame, counted from one, in the table of pages: behind those of the same or of other pages that stand in its way.
    /// Answers its slot. It is not before `from`, where one is told: the slot of an earlier frame of that page.
    fn note(&self, page: u32, frame: u16, from: Option<usize>) -> usize {
        // SAFETY: the slots begin behind the words and end with the region.
        let slots = unsafe { self.0.add(4_096).cast::<u16>() };
        let mut slot = from.unwrap_or(page.wrapping_mul(383) as usize) % INDEX_SLOTS;
        // There are more slots than frames, so that one is free.
        for _ in 0..INDEX_SLOTS {
            // SAFETY: the slot is one of the table's.
            unsafe {
                if slots.add(slot).read_volatile() == 0 {
                    slots.add(slot).write_volatile(frame);
                    break;
                }
            }
            slot = (slot + 1) % INDEX_SLOTS;
        }
        slot
    }
}

/// The index of the log as it is: its head, then the page of each frame. `None` when there is none, or it is long, or somebody changes it.
pub(super) fn read_index(connection: &Connection) -> Result<Option<Vec<u32>>, Error> {
    let Some(region) = MainFile::of(connection)?.map_index(false)? else { return Ok(None) };
    let mut words: Vec<u32> = (0..INDEX_HEAD_WORDS).map(|at| region.word(at)).collect();
    let frames = frames_of(&words);
    let is_whole = words.first() == Some(&INDEX_VERSION) && words.get(..12) == words.get(12..24);
    if !is_whole || frames > INDEX_FRAMES_MAX {
        return Ok(None);
    }
    // A checkpoint that came to the last frame has flushed the file. What one carried over that did not may be lost while nobody has the
    // file open, and is carried over again, as after a recovery.
    if let Some(carried) = words.get_mut(INDEX_CARRIED_WORD).filter(|carried| **carried as usize != frames) {
        *carried = 0;
    }
    words.extend((INDEX_HEAD_WORDS..INDEX_HEAD_WORDS + frames).map(|at| region.word(at)));
    Ok(Some(words))
}

/// How many frames of the log an index knows.
pub(super) fn frames_of(words: &[u32]) -> usize {
    words.get(INDEX_FRAMES_WORD).map_or(0, |frames| *frames as usize)
}

/// Makes what was read the index of a log that has none yet, so that SQLite need not read all of the log; `false` when somebody else has
/// made one. `is_current` is asked, while nobody can change the log, whether it is still the log of this index. SQLite takes
/// an index whose head is not as its checksum says for none.
pub(super) fn write_index(
    connection: &Connection,
    words: &[u32],
    is_current: impl FnOnce() -> bool,
) -> Result<bool, Error> {
    let frames = frames_of(words);
    if frames > INDEX_FRAMES_MAX || words.len() != INDEX_HEAD_WORDS + frames {
        return Ok(false);
    }
    let file = MainFile::of(connection)?;
    file.lock_shared()?;
    let Some(region) = file.map_index(true)? else { return Ok(false) };
    file.lock_index(1, ffi::SQLITE_SHM_LOCK)?;
    // Of an old one SQLite leaves three bytes. Where somebody was killed while making one, its pages are there before its head.
    let is_made = (1..=INDEX_HEAD_WORDS).all(|at| region.word(at) == 0) && is_current();
    if is_made {
        for (at, word) in words.iter().enumerate().skip(INDEX_HEAD_WORDS) {
            region.set_word(at, *word);
        }
        let mut last = None;
        for (frame, page) in (1..).zip(words.iter().skip(INDEX_HEAD_WORDS)) {
            // A page that is written again and again has its frames in a row.
            let from = last.and_then(|(last, slot)| (last == *page).then_some(slot));
            last = Some((*page, region.note(*page, frame, from)));
        }
        // The header last, and its first copy after the second, as SQLite does: whoever reads it meanwhile takes it for none.
        for (at, word) in words.iter().enumerate().take(INDEX_HEAD_WORDS).rev() {
            fence(Ordering::SeqCst);
            region.set_word(at, *word);
        }
    }
    file.lock_index(1, ffi::SQLITE_SHM_UNLOCK)?;
    Ok(is_made)
}

/// Notes in the index of the log that nothing of the log is carried over, so that the next checkpoint carries all of it. Busy while
/// somebody else writes or carries over.
pub(super) fn carry_over_anew(connection: &Connection) -> Result<(), Error> {
    let file = MainFile::of(connection)?;
    let Some(region) = file.map_index(false)?.filter(|region| region.word(INDEX_CARRIED_WORD) != 0) else {
        return Ok(());
    };
    file.lock_index(2, ffi::SQLITE_SHM_LOCK)?;
    // A recovery sets it back as well. Whoever reads takes it for the frames that need not be looked for in the log: they are found there, too.
    region.set_word(INDEX_CARRIED_WORD, 0);
    file.lock_index(2, ffi::SQLITE_SHM_UNLOCK)
}

/// Lets go of an index that was mapped here, when SQLite could not open the log that it belongs to.
pub(super) fn leave_index(connection: &Connection) {
    if let (Ok(file), Ok(None)) = (MainFile::of(connection), LogFile::of(connection)) {
        file.unmap_index();
    }
}

/// A connection with one statement that stays prepared. Looking a statement up in rusqlite's cache and putting it back is a tenth of a
/// hot get.
pub(super) struct Prepared {
    /// Before its connection, so that it is dropped first.
    statement: RefCell<Statement<'static>>,
    /// In a box, so that it stays in its place when this is moved.
    connection: Box<Connection>,
}

impl Prepared {
    pub(super) fn new(connection: Connection, text: &str) -> Result<Self, Error> {
        let connection = Box::new(connection);
        let statement = connection.prepare(text)?;
        // SAFETY: the statement borrows the connection inside the box, which is neither moved nor dropped before it: both fields
        // are private, never replaced, and dropped in the order of their declaration. The lifetime is not handed out: `with` lends
        // the statement for a call.
        let statement = unsafe { std::mem::transmute::<Statement<'_>, Statement<'static>>(statement) };
        Ok(Self { statement: RefCell::new(statement), connection })
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Runs the statement. It must be at rest when `run` returns, as every query method leaves it.
    pub(super) fn with<T>(&self, run: impl FnOnce(&mut Statement<'static>) -> T) -> T {
        run(&mut self.statement.borrow_mut())
    }
}

// SAFETY: a connection may move to another thread (rusqlite says so of `Connection`); its statement, which only the reference to the
// connection keeps from it, moves along in the same value, and neither can be reached from two threads, because the value is not `Sync`.
unsafe impl Send for Prepared {}

/// The writer's connection, with the backup of its file that is under way: SQLite carries what a connection writes over into the
/// backups of that connection, and no other's.
///
/// However this is closed or dropped, the backup ends before the connection, as SQLite demands.
pub(super) struct Source {
    /// Before the connection, so that it is dropped first.
    copying: RefCell<Option<Copying>>,
    connection: Connection,
}

struct Copying {
    /// Before the connection that it writes to, so that it is dropped first.
    backup: Backup<'static, 'static>,
    /// In a box, so that it stays in its place when this is moved.
    destination: Box<Connection>,
}

/// How far a backup has come.
#[derive(Debug)]
pub(super) enum Copied {
    /// There is none on this connection: it was opened anew meanwhile.
    Lost,
    /// So many pages are left.
    More(u32),
    /// All of them are in the file, and it is closed.
    Whole,
}

impl Source {
    pub(super) fn new(connection: Connection) -> Self {
        Self { copying: RefCell::new(None), connection }
    }

    #[allow(clippy::result_large_err, reason = "to be called as the connection's own is")]
    pub(super) fn close(self) -> Result<(), (Connection, Error)> {
        drop(self.copying);
        self.connection.close()
    }

    /// Begins a backup into an empty file; one that was under way ends here.
    pub(super) fn begin_copy(&self, destination: Connection) -> Result<(), Error> {
        self.end_copy();
        let mut destination = Box::new(destination);
        let backup = Backup::new(&self.connection, &mut destination)?;
        // SAFETY: the backup borrows two connections. Its destination is in the box, which is neither moved nor dropped before the
        // backup, is private, and is reached again only after the backup was dropped. Its source is in this very structure,
        // which ends the backup before it closes or drops the connection, and never replaces it; the backup keeps SQLite's handle
        // of it, not its address, so this structure may move. The lifetimes are handed out nowhere.
        let backup = unsafe { std::mem::transmute::<Backup<'_, '_>, Backup<'static, 'static>>(backup) };
        *self.copying.borrow_mut() = Some(Copying { backup, destination });
        Ok(())
    }

    /// Copies at most `pages` pages more.
    pub(super) fn step_copy(&self, pages: u16) -> Result<Copied, Error> {
        let step = {
            let copying = self.copying.borrow();
            let Some(Copying { backup, .. }) = &*copying else { return Ok(Copied::Lost) };
            backup.step(c_int::from(pages)).map(|step| (step, backup.progress()))
        };
        match step {
            Ok((StepResult::More, progress)) => {
                Ok(Copied::More(u32::try_from(progress.remaining).unwrap_or(0)))
            }
            Ok((StepResult::Done, _)) => match self.copying.take() {
                Some(Copying { backup, destination }) => {
                    drop(backup);
                    destination.close().map(|()| Copied::Whole).map_err(|(_, error)| error)
                }
                None => Ok(Copied::Lost),
            },
            // Another program stands in the file's way.
            Ok(_) => check(ffi::SQLITE_BUSY).map(|()| Copied::Lost),
            Err(error) => Err(error),
        }
    }

    /// Whether a backup is under way.
    pub(super) fn is_copied(&self) -> bool {
        self.copying.borrow().is_some()
    }

    /// Gives up the backup that is under way.
    pub(super) fn end_copy(&self) {
        self.copying.take();
    }
}

impl Deref for Source {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

// SAFETY: connections may move to another thread (rusqlite says so of `Connection`), and a backup is used by SQLite only from within the
// calls on it and on its source. All three move along in one value and cannot be reached from two threads, because the value is not
// `Sync`.
unsafe impl Send for Copying {}

fn check(code: c_int) -> Result<(), Error> {
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(Error::SqliteFailure(ffi::Error::new(code), None)) }
}

/// The VFS for files that this process keeps to itself; `None` where they are shared with other processes.
pub(super) fn vfs_alone() -> Option<&'static str> {
    (!BASE.load(Ordering::Acquire).is_null()).then_some("seabed-alone")
}

/// SQLite's own VFS for such files, which ours is made of.
static BASE: AtomicPtr<ffi::sqlite3_vfs> = AtomicPtr::new(ptr::null_mut());

thread_local! {
    static IS_LOG_LISTED: Cell<bool> = const { Cell::new(false) };
}

/// Does what opens a log. When it is known to be listed, that is when its place in its directory was flushed, its first flush on the new
/// connection does not flush the directory once more: SQLite does for every log that it opens as one that may have to be made.
pub(super) fn opening_log<T>(is_listed: bool, open: impl FnOnce() -> T) -> T {
    struct Opened;
    impl Drop for Opened {
        fn drop(&mut self) {
            IS_LOG_LISTED.set(false);
        }
    }
    let _opened = Opened;
    IS_LOG_LISTED.set(is_listed);
    open()
}

/// Opens a file as SQLite does, but a log that is listed as one that is there.
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
    if flags & ffi::SQLITE_OPEN_WAL != 0 && IS_LOG_LISTED.get() {
        // SAFETY: what SQLite gave us goes to the method that it was meant for, with the VFS that it belongs to.
        let code = unsafe { open(base, name, file, flags & !ffi::SQLITE_OPEN_CREATE, flags_out) };
        if code == ffi::SQLITE_OK {
            return code;
        }
        // It is gone, and is made again.
    }
    // SAFETY: as above; a file whose opening failed may be opened again.
    unsafe { open(base, name, file, flags, flags_out) }
}

/// Registers our VFS; `false` where SQLite has none to make it of.
fn register_alone() -> bool {
    // SAFETY: the name is a C string. SQLite answers a VFS of its own, which stays for as long as the process lives, or null.
    let base = unsafe { ffi::sqlite3_vfs_find(c"unix-excl".as_ptr()) };
    // SAFETY: as above.
    let Some(&own) = (unsafe { base.as_ref() }) else { return false };
    let ours = ffi::sqlite3_vfs {
        zName: c"seabed-alone".as_ptr(),
        pNext: ptr::null_mut(),
        xOpen: Some(open_file),
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

/// Locks a connection's file as its first read would; Busy when that would have to wait.
pub(super) fn lock_shared(connection: &Connection) -> Result<(), Error> {
    MainFile::of(connection)?.lock_shared()
}

/// Sets SQLite up for many small databases in this process: an open tenant takes 80 KiB instead of 182, and opening it again a third of the
/// time. While a tenant's files are open, other programs find its database locked; where one of them had it open before, it
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
    use std::path::Path;
    use std::sync::atomic::AtomicUsize;

    use rusqlite::config::DbConfig;

    use super::*;
    use crate::scheduler::{Engine as _, Request, Rest};
    use crate::sqlite::cache::CacheBudget;
    use crate::sqlite::engine::{EngineOptions, SqliteEngine};
    use crate::{Batch, Durability};

    static FLUSHES: AtomicUsize = AtomicUsize::new(0);
    static OPEN_DIRECTORY: AtomicPtr<std::ffi::c_void> = AtomicPtr::new(ptr::null_mut());

    type OpenDirectory = unsafe extern "C" fn(*const c_char, *mut c_int) -> c_int;

    /// SQLite opens a directory only to flush it.
    unsafe extern "C" fn count(name: *const c_char, file: *mut c_int) -> c_int {
        FLUSHES.fetch_add(1, Ordering::Relaxed);
        let original = OPEN_DIRECTORY.load(Ordering::Relaxed);
        // SAFETY: it was SQLite's own function of that kind, and gets what it would have got.
        unsafe { std::mem::transmute::<*mut std::ffi::c_void, OpenDirectory>(original)(name, file) }
    }

    fn count_flushes_of_directories() {
        // SAFETY: the VFS is SQLite's own, both methods are there in it, and the function is one of the kind that it stands for.
        unsafe {
            let vfs = ffi::sqlite3_vfs_find(c"unix-excl".as_ptr());
            let (get, set) = ((*vfs).xGetSystemCall.unwrap(), (*vfs).xSetSystemCall.unwrap());
            let original = get(vfs, c"openDirectory".as_ptr()).unwrap();
            OPEN_DIRECTORY.store(original as *mut std::ffi::c_void, Ordering::Relaxed);
            let count: ffi::sqlite3_syscall_ptr =
                Some(std::mem::transmute::<OpenDirectory, unsafe extern "C" fn()>(count));
            assert_eq!(set(vfs, c"openDirectory".as_ptr(), count), ffi::SQLITE_OK);
        }
    }

    fn open(path: &Path) -> SqliteEngine {
        SqliteEngine::open(path, None, EngineOptions::default(), None, CacheBudget::new(1 << 20)).unwrap()
    }

    /// How often a directory is flushed by one put.
    fn put(engine: &mut SqliteEngine, durability: Durability) -> usize {
        static PUTS: AtomicUsize = AtomicUsize::new(0);
        let mut batch = Batch::new();
        batch.put("c", b"k", PUTS.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        let before = FLUSHES.load(Ordering::Relaxed);
        assert!(engine.commit_group(&[Request { batch, durability }]).iter().all(Result::is_ok));
        FLUSHES.load(Ordering::Relaxed) - before
    }

    #[test]
    fn the_directory_is_flushed_once_for_each_log_whoever_made_it() {
        assert!(tune_process());
        count_flushes_of_directories();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.db");
        let mut engine = open(&path);
        put(&mut engine, Durability::Durable);
        for _ in 0..3 {
            assert!(engine.rest(Rest::Released));
            assert_eq!(put(&mut engine, Durability::Durable), 0);
        }
        // Nothing of the next log was flushed when it is let go of.
        assert!(engine.rest(Rest::Closed));
        put(&mut engine, Durability::Relaxed);
        assert!(engine.rest(Rest::Released));
        assert_eq!(put(&mut engine, Durability::Durable), 1);
        // Another program takes our log away, and leaves one of its own.
        assert!(engine.rest(Rest::Released));
        for (stays, row) in [(false, "x'61'"), (true, "x'62'")] {
            let other = Connection::open(&path).unwrap();
            other.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, stays).unwrap();
            other.execute(&format!("INSERT INTO kv VALUES ({row}, {row}, {row})"), []).unwrap();
            drop(other);
            assert_eq!(directory.path().join("t.db-wal").exists(), stays);
        }
        assert_eq!(put(&mut engine, Durability::Durable), 1);
        // It is gone altogether.
        assert!(engine.rest(Rest::Released));
        drop(Connection::open(&path).unwrap().query_row("SELECT count(*) FROM kv", [], |_| Ok(())));
        assert!(!directory.path().join("t.db-wal").exists());
        assert_eq!(put(&mut engine, Durability::Durable), 1);
    }
}
