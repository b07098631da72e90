//! A disk that forgets: what a reader sees, and what a power cut leaves of it.
//!
//! The model is that of a POSIX file system at its least helpful:
//!
//! - A write goes to the cache. The disk has each 512-byte sector as it was after some write since the last sync of the file,
//!   each sector independently: so writes are lost, torn and reordered, and a later one may survive an earlier one.
//!   A sector never holds garbage, and never a part of one write.
//! - A change of length by truncation survives on its own or not at all; a surviving sector extends the file up to itself.
//! - Creating and deleting a file changes its directory. Such changes survive one by one at random until the directory is synced.
//!   Syncing a file does not sync its directory, though most file systems do: only what SQLite's own unix layer syncs counts,
//!   the directory at the first sync of a journal or log that was opened to be created, and at deletions that ask for it.
//! - A sync that fails may have written any part of what was unsynced and forgets that the rest was: readers go on seeing it, later
//!   syncs do not write it, and the power cut takes it. Writing a sector again makes it unsynced again, whole. Where the cache is dropped
//!   too, by a file system that does so ([`Fault::RevertedSync`]) or because memory was short ([`Disk::lose`](crate::Disk::lose)), readers
//!   see at once what reached the disk.

mod file;

use std::collections::BTreeMap;

use rusqlite::ffi;

use crate::rng::Rng;
use file::{Change, File, Survival};

/// The unit that survives a power cut whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// What goes wrong, once or from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The power goes: every operation from here on fails, until [`Disk::cut`](crate::Disk::cut).
    CutHere,
    /// The operation fails with EIO; a write may have been made in part.
    Eio,
    /// A write or the creation of a file finds no space; a write may have been made in part.
    Enospc,
    /// A sync fails and its data stays readable, but is lost at the next cut unless it is written again.
    FailedSync,
    /// A sync fails and its data is gone at once: what is read from then on is what reached the disk, and zeros where nothing did.
    RevertedSync,
    /// A read finds the file shorter than it is.
    ShortRead,
    /// A read fails with EIO.
    ReadEio,
}

impl Fault {
    fn hits(self, operation: Operation) -> bool {
        match self {
            Self::CutHere | Self::Eio => operation != Operation::Read,
            Self::Enospc => matches!(operation, Operation::Write | Operation::Open),
            Self::FailedSync | Self::RevertedSync => operation == Operation::Sync,
            Self::ShortRead | Self::ReadEio => operation == Operation::Read,
        }
    }
}

/// How often the disk was asked for what, since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Opens, writes, truncations, syncs and deletions together: the positions at which a fault of changes can be placed.
    pub changes: u64,
    /// Writes alone.
    pub writes: u64,
    /// Syncs alone, failed ones too.
    pub syncs: u64,
    /// Reads: the positions at which a fault of reads can be placed.
    pub reads: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Open,
    Write,
    Truncate,
    Sync,
    Delete,
    Read,
}

#[derive(Debug, Clone, Copy)]
struct Fuse {
    at: u64,
    fault: Fault,
    lasting: bool,
}

/// A result code of SQLite.
pub(crate) type Code = std::ffi::c_int;

#[derive(Debug)]
pub(crate) struct State {
    files: BTreeMap<u64, File>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    /// Creations, and deletions without an inode, in order.
    unsynced_names: Vec<(String, Option<u64>)>,
    next_id: u64,
    /// Handles of an earlier generation are those of a process or a machine that is gone.
    pub(crate) generation: u64,
    dead: bool,
    fuses: Vec<Fuse>,
    pub(crate) counters: Counters,
    /// At which changes there was a sync.
    pub(crate) syncs: Vec<u64>,
    pub(crate) trace: u64,
    pub(crate) rng: Rng,
}

impl State {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced_names: Vec::new(),
            next_id: 0,
            generation: 0,
            dead: false,
            fuses: Vec::new(),
            counters: Counters::default(),
            syncs: Vec::new(),
            trace: 0,
            rng: Rng::new(seed),
        }
    }

    pub(crate) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn arm(&mut self, at: u64, fault: Fault, lasting: bool) {
        self.fuses.push(Fuse { at, fault, lasting });
    }

    pub(crate) fn heal(&mut self) {
        self.fuses.clear();
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead
    }

    /// Counts an operation and answers what goes wrong with it.
    fn begin(&mut self, operation: Operation, inode: u64, offset: usize, length: usize) -> Option<Fault> {
        let counters = &mut self.counters;
        let number = match operation {
            Operation::Read => &mut counters.reads,
            _ => &mut counters.changes,
        };
        let position = *number;
        *number += 1;
        counters.writes += u64::from(operation == Operation::Write);
        if operation == Operation::Sync {
            counters.syncs += 1;
            self.syncs.push(position);
        }
        for part in [operation as u64, inode, offset as u64, length as u64] {
            self.trace = (self.trace ^ part).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(23);
        }
        if self.dead {
            return Some(Fault::CutHere);
        }
        let hit = self.fuses.iter().position(|fuse| fuse.at <= position && fuse.fault.hits(operation))?;
        let fuse = *self.fuses.get(hit)?;
        if !fuse.lasting {
            self.fuses.remove(hit);
        }
        self.dead = fuse.fault == Fault::CutHere;
        Some(fuse.fault)
    }

    fn file(&mut self, inode: u64) -> &mut File {
        self.files.entry(inode).or_default()
    }

    /// The inode under a name, made when it is not there and may be made. A file without a name is temporary.
    pub(crate) fn open(&mut self, name: Option<&str>, create: bool) -> Result<u64, Code> {
        if let Some(fault) = self.begin(Operation::Open, 0, 0, 0) {
            return Err(if fault == Fault::Enospc { ffi::SQLITE_FULL } else { ffi::SQLITE_CANTOPEN });
        }
        if let Some(inode) = name.and_then(|name| self.names.get(name)) {
            return Ok(*inode);
        }
        if !create {
            return Err(ffi::SQLITE_CANTOPEN);
        }
        let inode = self.next_id();
        self.files.insert(inode, File::default());
        if let Some(name) = name {
            self.names.insert(name.to_owned(), inode);
            self.unsynced_names.push((name.to_owned(), Some(inode)));
        }
        Ok(inode)
    }

    pub(crate) fn delete(&mut self, name: &str, sync_directory: bool) -> Result<(), Code> {
        if self.begin(Operation::Delete, 0, 0, 0).is_some() {
            return Err(ffi::SQLITE_IOERR_DELETE);
        }
        if self.names.remove(name).is_none() {
            return Err(ffi::SQLITE_IOERR_DELETE_NOENT);
        }
        self.unsynced_names.push((name.to_owned(), None));
        if sync_directory {
            self.sync_directory_of(name);
        }
        Ok(())
    }

    pub(crate) fn sync_directory_of(&mut self, name: &str) {
        let durable_names = &mut self.durable_names;
        self.unsynced_names.retain(|(changed, inode)| {
            let synced = directory(changed) == directory(name);
            if synced {
                rename(durable_names, changed, *inode);
            }
            !synced
        });
    }

    pub(crate) fn length(&self, inode: u64) -> usize {
        self.files.get(&inode).map_or(0, |file| file.current.len())
    }

    pub(crate) fn inode(&self, name: &str) -> Option<u64> {
        self.names.get(name).copied()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    pub(crate) fn bytes(&self, name: &str) -> Option<&[u8]> {
        Some(&self.files.get(self.names.get(name)?)?.current)
    }

    /// Puts a file there that has been there for long.
    pub(crate) fn place(&mut self, name: &str, bytes: &[u8]) {
        let inode = self.next_id();
        self.files
            .insert(inode, File { current: bytes.to_vec(), durable: bytes.to_vec(), ..File::default() });
        self.names.insert(name.to_owned(), inode);
        self.durable_names.insert(name.to_owned(), inode);
    }

    /// Fills the buffer; a file that ends before it gives what it has, zeros, and the code that says so.
    pub(crate) fn read(&mut self, inode: u64, offset: usize, buffer: &mut [u8]) -> Result<(), Code> {
        let fault = self.begin(Operation::Read, inode, offset, buffer.len());
        buffer.fill(0);
        match fault {
            None => {}
            Some(Fault::ShortRead) => return Err(ffi::SQLITE_IOERR_SHORT_READ),
            Some(_) => return Err(ffi::SQLITE_IOERR_READ),
        }
        let bytes = self.file(inode).current.get(offset..).unwrap_or_default();
        let length = bytes.len().min(buffer.len());
        let (found, missing) = buffer.split_at_mut(length);
        found.copy_from_slice(bytes.split_at(length).0);
        if missing.is_empty() { Ok(()) } else { Err(ffi::SQLITE_IOERR_SHORT_READ) }
    }

    pub(crate) fn write(&mut self, inode: u64, offset: usize, bytes: &[u8]) -> Result<(), Code> {
        let fault = self.begin(Operation::Write, inode, offset, bytes.len());
        let code = match fault {
            None => {
                self.file(inode).write(offset, bytes);
                return Ok(());
            }
            Some(Fault::CutHere) => return Err(ffi::SQLITE_IOERR_WRITE),
            Some(Fault::Enospc) => ffi::SQLITE_FULL,
            Some(_) => ffi::SQLITE_IOERR_WRITE,
        };
        let written = self.rng.below(bytes.len());
        self.file(inode).write(offset, bytes.split_at(written).0);
        Err(code)
    }

    pub(crate) fn truncate(&mut self, inode: u64, length: usize) -> Result<(), Code> {
        if self.begin(Operation::Truncate, inode, length, 0).is_some() {
            return Err(ffi::SQLITE_IOERR_TRUNCATE);
        }
        let file = self.file(inode);
        file.current.resize(length, 0);
        file.unsynced.push(Change::Truncate(length));
        Ok(())
    }

    pub(crate) fn sync(&mut self, inode: u64) -> Result<(), Code> {
        match self.begin(Operation::Sync, inode, 0, 0) {
            None => {
                self.file(inode).sync();
                Ok(())
            }
            Some(fault) => {
                if matches!(fault, Fault::FailedSync | Fault::RevertedSync) {
                    let mut rng = Rng::new(self.rng.next());
                    let survival = Survival::draw(&mut rng);
                    self.file(inode).settle(survival, &mut rng);
                }
                if fault == Fault::RevertedSync {
                    self.file(inode).revert();
                }
                Err(ffi::SQLITE_IOERR_FSYNC)
            }
        }
    }

    /// The disk takes of what is unsynced of a file what `seed` decides, and the cache forgets the rest.
    pub(crate) fn lose(&mut self, name: &str, seed: u64) {
        if let Some(file) = self.inode(name).and_then(|inode| self.files.get_mut(&inode)) {
            let mut rng = Rng::new(seed);
            let survival = Survival::draw(&mut rng);
            file.settle(survival, &mut rng);
            file.revert();
        }
    }

    /// The locks of SQLite: any number SHARED, one RESERVED beside them, and PENDING or EXCLUSIVE alone with those who leave.
    pub(crate) fn lock(&mut self, inode: u64, handle: u64, level: Code) -> Result<(), Code> {
        let locks = &mut self.file(inode).locks;
        let own = locks.get(&handle).copied().unwrap_or(ffi::SQLITE_LOCK_NONE);
        if own >= level {
            return Ok(());
        }
        let others =
            locks.iter().filter(|(other, _)| **other != handle).map(|(_, level)| *level).max().unwrap_or(0);
        let allowed = match level {
            ffi::SQLITE_LOCK_SHARED => ffi::SQLITE_LOCK_RESERVED,
            ffi::SQLITE_LOCK_RESERVED => ffi::SQLITE_LOCK_SHARED,
            _ if others == ffi::SQLITE_LOCK_SHARED => {
                // Whoever waits for the readers to leave lets no new one in.
                locks.insert(handle, ffi::SQLITE_LOCK_PENDING);
                return Err(ffi::SQLITE_BUSY);
            }
            _ => ffi::SQLITE_LOCK_NONE,
        };
        if others > allowed {
            return Err(ffi::SQLITE_BUSY);
        }
        locks.insert(handle, level);
        Ok(())
    }

    pub(crate) fn unlock(&mut self, inode: u64, handle: u64, level: Code) {
        let locks = &mut self.file(inode).locks;
        if level == ffi::SQLITE_LOCK_NONE {
            locks.remove(&handle);
        } else if let Some(own) = locks.get_mut(&handle) {
            *own = level.min(*own);
        }
    }

    pub(crate) fn is_reserved(&self, inode: u64) -> bool {
        let locks = self.files.get(&inode).map(|file| &file.locks);
        locks.is_some_and(|locks| locks.values().any(|level| *level >= ffi::SQLITE_LOCK_RESERVED))
    }

    /// The process is gone: its handles and locks with it, while the cache stays.
    pub(crate) fn kill(&mut self) {
        self.generation += 1;
        for file in self.files.values_mut() {
            file.locks.clear();
        }
    }

    /// The machine is gone: what was synced stays, of the rest what `seed` decides.
    pub(crate) fn cut(&mut self, seed: u64) {
        self.kill();
        self.dead = false;
        self.fuses.clear();
        let mut rng = Rng::new(seed);
        // One mood for the whole disk: "nothing of it" and "all of it" are then as likely as each mixture.
        let survival = Survival::draw(&mut rng);
        let kept = rng.below(self.unsynced_names.len() + 1);
        for (position, (name, inode)) in std::mem::take(&mut self.unsynced_names).into_iter().enumerate() {
            if survival.keeps(position, kept, &mut rng) {
                rename(&mut self.durable_names, &name, inode);
            }
        }
        self.names.clone_from(&self.durable_names);
        let names = &self.names;
        self.files.retain(|inode, _| names.values().any(|named| named == inode));
        for file in self.files.values_mut() {
            file.settle(survival, &mut rng);
            file.current.clone_from(&file.durable);
        }
    }
}

fn directory(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(directory, _)| directory)
}

fn rename(names: &mut BTreeMap<String, u64>, name: &str, inode: Option<u64>) {
    match inode {
        Some(inode) => names.insert(name.to_owned(), inode),
        None => names.remove(name),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with one file of one synced and one unsynced version of four sectors.
    fn rewritten() -> (State, u64) {
        let mut state = State::new(1);
        let inode = state.open(Some("/d/file"), true).unwrap();
        state.sync_directory_of("/d/file");
        state.write(inode, 0, &[1; 4 * SECTOR_BYTES]).unwrap();
        state.sync(inode).unwrap();
        state.write(inode, 0, &[2; 4 * SECTOR_BYTES]).unwrap();
        (state, inode)
    }

    fn sectors(state: &State) -> Vec<u8> {
        state.bytes("/d/file").unwrap().chunks(SECTOR_BYTES).map(|sector| sector[0]).collect()
    }

    #[test]
    fn a_cut_keeps_any_of_the_unsynced_sectors_and_all_of_the_synced() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..400 {
            let (mut state, _) = rewritten();
            state.cut(seed);
            let bytes = state.bytes("/d/file").unwrap();
            assert!(bytes.chunks(SECTOR_BYTES).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
            seen.insert(sectors(&state));
        }
        assert_eq!(seen.len(), 16, "every subset of the four sectors: {seen:?}");
    }

    #[test]
    fn a_failed_sync_leaves_data_readable_until_the_cut_and_later_syncs_do_not_save_it() {
        let mut lost = 0;
        for seed in 0..100 {
            let (mut state, inode) = rewritten();
            state.rng = Rng::new(seed);
            state.arm(0, Fault::FailedSync, false);
            assert_eq!(state.sync(inode), Err(ffi::SQLITE_IOERR_FSYNC));
            assert_eq!(sectors(&state), [2; 4]);
            state.sync(inode).unwrap();
            state.cut(seed);
            lost += sectors(&state).into_iter().filter(|sector| *sector == 1).count();
        }
        assert!(lost > 100, "{lost} of 400 sectors lost");
    }

    #[test]
    fn writing_again_and_syncing_saves_what_a_failed_sync_forgot() {
        for seed in 0..100 {
            let (mut state, inode) = rewritten();
            state.arm(0, Fault::FailedSync, false);
            state.sync(inode).unwrap_err();
            // A few bytes make their sector unsynced again, whole.
            for sector in 0..4 {
                state.write(inode, sector * SECTOR_BYTES + 100, &[2]).unwrap();
            }
            state.sync(inode).unwrap();
            state.cut(seed);
            assert_eq!(state.bytes("/d/file").unwrap(), [2; 4 * SECTOR_BYTES]);
        }
    }

    #[test]
    fn a_sync_that_reverts_shows_at_once_what_the_disk_has() {
        let mut old = 0;
        for seed in 0..100 {
            let (mut state, inode) = rewritten();
            state.rng = Rng::new(seed);
            state.arm(0, Fault::RevertedSync, false);
            assert_eq!(state.sync(inode), Err(ffi::SQLITE_IOERR_FSYNC));
            let shown = sectors(&state);
            state.cut(seed);
            assert_eq!(sectors(&state), shown);
            old += shown.into_iter().filter(|sector| *sector == 1).count();
        }
        assert!(old > 100, "{old} of 400 sectors are the old ones");
    }

    #[test]
    fn what_is_lost_reads_as_before_and_as_zeros_behind_that_and_no_sync_tells() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let (mut state, inode) = rewritten();
            state.write(inode, 4 * SECTOR_BYTES, &[3; SECTOR_BYTES]).unwrap();
            state.lose("/d/file", seed);
            let shown = sectors(&state);
            assert!(shown.len() == 5 && [0, 3].contains(&shown[4]), "{shown:?}");
            state.sync(inode).unwrap();
            state.cut(seed);
            assert_eq!(sectors(&state)[..4], shown[..4]);
            seen.insert(shown);
        }
        assert!(seen.contains(&vec![1, 1, 1, 1, 0]) && seen.contains(&vec![2, 2, 2, 2, 3]), "{seen:?}");
    }

    #[test]
    fn creations_and_deletions_survive_only_by_chance_until_the_directory_is_synced() {
        let (mut created, mut deleted) = (0, 0);
        for seed in 0..100 {
            let (mut state, _) = rewritten();
            let new = state.open(Some("/d/new"), true).unwrap();
            state.sync(new).unwrap();
            state.delete("/d/file", false).unwrap();
            state.cut(seed);
            created += u32::from(state.inode("/d/new").is_some());
            deleted += u32::from(state.inode("/d/file").is_none());
        }
        assert!((20..80).contains(&created) && (20..80).contains(&deleted), "{created} and {deleted} of 100");

        let (mut state, _) = rewritten();
        state.delete("/d/file", true).unwrap();
        state.cut(1);
        assert_eq!(state.inode("/d/file"), None);
    }

    #[test]
    fn nothing_works_after_the_power_went_until_the_cut() {
        let (mut state, inode) = rewritten();
        state.arm(state.counters.changes, Fault::CutHere, false);
        assert!(state.sync(inode).is_err());
        assert!(state.write(inode, 0, &[3]).is_err());
        assert!(state.read(inode, 0, &mut [0]).is_err());
        assert!(state.open(Some("/d/file"), false).is_err());
        state.cut(3);
        assert!(state.open(Some("/d/file"), false).is_ok());
    }

    #[test]
    fn a_full_disk_stays_full_until_it_is_healed() {
        let (mut state, inode) = rewritten();
        state.arm(0, Fault::Enospc, true);
        for _ in 0..3 {
            assert_eq!(state.write(inode, 0, &[3]), Err(ffi::SQLITE_FULL));
        }
        state.heal();
        assert_eq!(state.write(inode, 0, &[3]), Ok(()));
    }
}
