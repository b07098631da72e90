//! Calling into the program, and freeing what it hands over.
#![allow(unsafe_code, reason = "functions of the program are called, and what its malloc gave is freed")]
#![allow(non_snake_case, reason = "arguments are named as those of nim-sds are")]

use std::ffi::{c_char, c_int, c_void};
use std::ptr;

use crate::limits::HINT_BYTES_MAX;
use crate::text::View;

/// What is called with the result of a request, or with an event: `RET_OK` and its bytes, or another number and a text that says what went
/// wrong. `msg` belongs to the library, holds `len` bytes, and is to be read before the function returns. It is called on the thread
/// of the context, or, when a request is refused, on the caller's.
pub type SdsCallBack =
    Option<unsafe extern "C" fn(callerRet: c_int, msg: *const c_char, len: usize, userData: *mut c_void)>;

/// What is asked for something that helps to fetch a message from elsewhere. It puts memory of `malloc` into `hint` and its length
/// into `hintLen`; the library frees it. It may leave both as they are.
pub type SdsRetrievalHintProvider = Option<
    unsafe extern "C" fn(
        messageId: *const c_char,
        hint: *mut *mut c_char,
        hintLen: *mut usize,
        userData: *mut c_void,
    ),
>;

/// A pointer that goes to the program as it came from there.
#[derive(Debug, Clone, Copy)]
struct UserData(*mut c_void);

// SAFETY: the pointer is never followed here; the contract of the header says that callbacks come on other threads, so whatever it
// points to is the program's to guard.
unsafe impl Send for UserData {}
// SAFETY: likewise.
unsafe impl Sync for UserData {}

/// A function of the program that takes results or events.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Callback {
    function: unsafe extern "C" fn(c_int, *const c_char, usize, *mut c_void),
    user_data: UserData,
}

impl Callback {
    pub(crate) fn new(function: SdsCallBack, user_data: *mut c_void) -> Option<Self> {
        function.map(|function| Self { function, user_data: UserData(user_data) })
    }

    /// Calls it. No lock is held here, so it may call back in, and it may never return.
    pub(crate) fn call(self, code: c_int, text: View<'_>) {
        // SAFETY: the program gave the function for this signature and keeps it callable, with its data, until the context is cleaned
        // up (the header's contract). The view is borrowed for the call, and its pointer holds at least `len` bytes.
        unsafe { (self.function)(code, text.pointer(), text.len(), self.user_data.0) }
    }
}

/// A function of the program that knows where messages can be fetched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Provider {
    function: unsafe extern "C" fn(*const c_char, *mut *mut c_char, *mut usize, *mut c_void),
    user_data: UserData,
}

impl Provider {
    pub(crate) fn new(function: SdsRetrievalHintProvider, user_data: *mut c_void) -> Option<Self> {
        function.map(|function| Self { function, user_data: UserData(user_data) })
    }

    /// Asks it. A hint beyond the bound is cut to one byte more than the bound, which the channel refuses by name.
    pub(crate) fn ask(self, message_id: &[u8]) -> Vec<u8> {
        let id = [message_id, &[0]].concat();
        let mut hint: *mut c_char = ptr::null_mut();
        let mut length: usize = 0;
        // SAFETY: as in `Callback::call`; the id ends with a NUL, and both places live through the call.
        unsafe {
            (self.function)(id.as_ptr().cast(), &raw mut hint, &raw mut length, self.user_data.0);
        }
        if hint.is_null() {
            return Vec::new();
        }
        let length = length.min(HINT_BYTES_MAX + 1);
        // SAFETY: the provider said that so many bytes are there, and gave them to us.
        let bytes = unsafe { std::slice::from_raw_parts(hint.cast::<u8>(), length) }.to_vec();
        // SAFETY: the provider's memory is malloc's and ours to free (the header's contract); nothing refers to it any more.
        unsafe { libc::free(hint.cast()) };
        bytes
    }
}
