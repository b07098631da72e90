//! Which contexts live. A handle is the address of a byte that nobody follows, so that a program can hand in what it likes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::AtomicU8;
use std::sync::{Arc, Mutex};

use crate::context::Context;
use crate::limits::{CONTEXTS_MAX, HANDLES_COUNT};
use crate::lock::lock;

/// What handles point to: real memory, so that no runtime takes them for its own or for a small number; and so much of it, which costs
/// nothing, that an old handle is not soon a new context's.
static PLACES: [AtomicU8; HANDLES_COUNT] = [const { AtomicU8::new(0) }; HANDLES_COUNT];

/// Locked for the time of a look, never while anything runs.
static LIVE: Mutex<Live> = Mutex::new(Live { contexts: BTreeMap::new(), next: 0 });

struct Live {
    contexts: BTreeMap<usize, Arc<Context>>,
    next: usize,
}

/// Gives a context a handle; `None` when there are [`CONTEXTS_MAX`].
pub(crate) fn add(context: Arc<Context>) -> Option<*mut c_void> {
    let mut live = lock(&LIVE);
    if live.contexts.len() >= CONTEXTS_MAX {
        return None;
    }
    loop {
        let place = PLACES.get(live.next % HANDLES_COUNT)?;
        live.next = live.next.wrapping_add(1);
        let handle: *mut c_void = ptr::from_ref(place).cast_mut().cast();
        // Ends: there are more places than contexts.
        if let Entry::Vacant(entry) = live.contexts.entry(handle.addr()) {
            entry.insert(context);
            return Some(handle);
        }
    }
}

/// The context that a handle names, if it lives.
pub(crate) fn find(handle: *mut c_void) -> Option<Arc<Context>> {
    lock(&LIVE).contexts.get(&handle.addr()).cloned()
}

/// The same, and from now on it is nobody's.
pub(crate) fn remove(handle: *mut c_void) -> Option<Arc<Context>> {
    lock(&LIVE).contexts.remove(&handle.addr())
}
