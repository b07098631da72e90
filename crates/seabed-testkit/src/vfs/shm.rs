//! The shared memory of a log's index, on the heap: what lets readers stand beside the writer.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ffi::c_int;
use std::ops::Range;
use std::ptr;
use std::sync::{Arc, Mutex};

use rusqlite::ffi;

use super::lock;

const SLOTS: usize = ffi::SQLITE_SHM_NLOCK as usize;

/// The shared memory of one file. It lives until the last connection that mapped it has left, whatever became of the disk.
#[derive(Debug, Default)]
pub(super) struct Shm(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    regions: Vec<(*mut u8, Layout)>,
    /// How many share each slot; -1 for one who has it alone.
    slots: [i32; SLOTS],
}

// SAFETY: the regions belong to this value alone. What they hold is shared by SQLite under its own rules: the slots and barriers.
unsafe impl Send for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        for (region, layout) in self.regions.drain(..) {
            // SAFETY: allocated with this layout; each connection that had a pointer has unmapped it, for it held the `Arc`.
            unsafe { dealloc(region, layout) };
        }
    }
}

/// One connection's part in it.
#[derive(Debug)]
pub(super) struct ShmUser {
    shm: Arc<Shm>,
    shared: [bool; SLOTS],
    exclusive: [bool; SLOTS],
}

impl ShmUser {
    pub(super) fn new(shm: Arc<Shm>) -> Self {
        Self { shm, shared: [false; SLOTS], exclusive: [false; SLOTS] }
    }

    /// The region of that number; null when it is not there and is not to be made.
    pub(super) fn region(&self, number: usize, size: usize, extend: bool) -> *mut u8 {
        let regions = &mut lock(&self.shm.0).regions;
        while extend && regions.len() <= number {
            // Eight is the alignment that SQLite's own allocator gives.
            let Ok(layout) = Layout::from_size_align(size.max(1), 8) else { return ptr::null_mut() };
            // SAFETY: the size is not zero.
            let region = unsafe { alloc_zeroed(layout) };
            if region.is_null() {
                handle_alloc_error(layout);
            }
            regions.push((region, layout));
        }
        regions.get(number).map_or(ptr::null_mut(), |(region, _)| *region)
    }

    pub(super) fn lock_shared(&mut self, slots: Range<usize>) -> Result<(), c_int> {
        let inner = &mut lock(&self.shm.0);
        for (count, held) in inner.slots.iter_mut().zip(&mut self.shared).take(slots.end).skip(slots.start) {
            if *held {
                continue;
            }
            if *count < 0 {
                return Err(ffi::SQLITE_BUSY);
            }
            *count += 1;
            *held = true;
        }
        Ok(())
    }

    pub(super) fn lock_exclusive(&mut self, slots: Range<usize>) -> Result<(), c_int> {
        let inner = &mut lock(&self.shm.0);
        if inner.slots.get(slots.clone()).is_none_or(|counts| counts.iter().any(|count| *count != 0)) {
            return Err(ffi::SQLITE_BUSY);
        }
        for (count, held) in inner.slots.iter_mut().zip(&mut self.exclusive).take(slots.end).skip(slots.start)
        {
            (*count, *held) = (-1, true);
        }
        Ok(())
    }

    pub(super) fn unlock(&mut self, slots: Range<usize>) -> c_int {
        let inner = &mut lock(&self.shm.0);
        for slot in slots {
            let held = (self.shared.get_mut(slot), self.exclusive.get_mut(slot), inner.slots.get_mut(slot));
            let (Some(shared), Some(exclusive), Some(count)) = held else { return ffi::SQLITE_IOERR_SHMLOCK };
            if std::mem::take(shared) {
                *count -= 1;
            }
            if std::mem::take(exclusive) {
                *count = 0;
            }
        }
        ffi::SQLITE_OK
    }
}

impl Drop for ShmUser {
    fn drop(&mut self) {
        self.unlock(0..SLOTS);
    }
}
