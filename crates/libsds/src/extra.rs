//! What nim-sds' library has not: a participant, a store, a configuration, and a look at what is held.
#![allow(unsafe_code, reason = "functions for C: exported by name, and given pointers")]
#![allow(non_snake_case, reason = "arguments are named as those of the nine functions are")]

use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::time::Duration;

use crate::call::{create, guarded, request};
use crate::callback::{Callback, SdsCallBack};
use crate::context::Speech;
use crate::error::{Failure, RET_ERR, RET_OK, Refusal};
use crate::input::{self, CONFIG_TOO_LONG, PARTICIPANT_TOO_LONG, PATH_TOO_LONG};
use crate::limits::{CONFIG_BYTES_MAX, ID_BYTES_MAX, PATH_BYTES_MAX};
use crate::options;
use crate::registry;
use crate::request::Request;

/// The version of this library, as `1.2.3`. It belongs to the library.
#[unsafe(no_mangle)]
pub extern "C" fn seabed_sds_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// Makes a context for a participant, with a store: what it has said and heard is on disk before anybody is told, and there again when the
/// same participant opens the same path with the same configuration. The nine functions work on it as on any other, and it tells more: in a
/// callback a number of its own for each kind of failure, with a text that says what to do; further events (docs/protocols/libsds.md).
///
/// `participantId`: NULL or empty for nobody, who takes no part in repair. `storePath`: a directory, which is made; NULL for memory.
/// `config`: a JSON object, or NULL for the defaults. Waits for the disk. The result is empty; NULL is returned when it cannot, and the
/// callback has said why.
///
/// # Safety
/// As for `SdsNewReliabilityManager`. The texts are NULL or end with a NUL, and are read before this returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seabed_sds_open(
    participantId: *const c_char,
    storePath: *const c_char,
    config: *const c_char,
    callback: SdsCallBack,
    userData: *mut c_void,
) -> *mut c_void {
    let Some(callback) = Callback::new(callback, userData) else { return ptr::null_mut() };
    let refused = |refusal: Refusal| {
        Failure::new(refusal.kind, refusal.text.to_string_lossy().trim_start_matches("libsds error: "))
    };
    create(Speech::Full, callback, || {
        // SAFETY: the caller's promise.
        let participant = unsafe { input::optional_text(participantId, ID_BYTES_MAX, PARTICIPANT_TOO_LONG) };
        // SAFETY: likewise.
        let path = unsafe { input::optional_text(storePath, PATH_BYTES_MAX, PATH_TOO_LONG) };
        // SAFETY: likewise.
        let config = unsafe { input::optional_text(config, CONFIG_BYTES_MAX, CONFIG_TOO_LONG) };
        let participant = participant.map_err(refused)?.unwrap_or_default();
        options::open(&participant, path.map_err(refused)?.as_deref(), config.map_err(refused)?.as_deref())
    })
}

/// Waits until every request of a context is answered. `RET_ERR` when it takes longer than `timeoutMs`, when the context is not one that
/// lives, and inside a callback of it.
#[unsafe(no_mangle)]
pub extern "C" fn seabed_sds_wait(ctx: *mut c_void, timeoutMs: u64) -> c_int {
    guarded(RET_ERR, || {
        let context = registry::find(ctx);
        let answered = context.is_some_and(|context| context.wait_answered(Duration::from_millis(timeoutMs)));
        if answered { RET_OK } else { RET_ERR }
    })
}

/// Tells what a channel holds: the result is an object with its `lamport`, how many messages its `log` has, the ids of messages that
/// nobody has acknowledged (`unacknowledged`), of those that wait (`waiting`) and of those that are `missing`, and what has happened since the
/// context was made.
///
/// # Safety
/// As for `SdsNewReliabilityManager`. `channelId` is NULL or ends with a NUL, and is read before this returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seabed_sds_status(
    ctx: *mut c_void,
    channelId: *const c_char,
    callback: SdsCallBack,
    userData: *mut c_void,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { of_channel(ctx, channelId, callback, userData, |channel| Request::Status { channel }) }
}

/// Tells every channel in memory and in the store: the result is an array of their ids.
///
/// # Safety
/// As for `SdsNewReliabilityManager`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seabed_sds_channels(
    ctx: *mut c_void,
    callback: SdsCallBack,
    userData: *mut c_void,
) -> c_int {
    guarded(RET_ERR, || request(ctx, callback, userData, || Ok(Request::Channels)))
}

/// Removes a channel, from memory and from the store. The result is empty.
///
/// # Safety
/// As for `seabed_sds_status`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seabed_sds_remove_channel(
    ctx: *mut c_void,
    channelId: *const c_char,
    callback: SdsCallBack,
    userData: *mut c_void,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { of_channel(ctx, channelId, callback, userData, |channel| Request::RemoveChannel { channel }) }
}

/// Tells the other participants what this one knows, so that they notice what they miss: the result is a message for them, as decimal
/// numbers with commas between, or empty when there is nothing to tell. Not in profile `nim`.
///
/// # Safety
/// As for `seabed_sds_status`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seabed_sds_send_sync(
    ctx: *mut c_void,
    channelId: *const c_char,
    callback: SdsCallBack,
    userData: *mut c_void,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { of_channel(ctx, channelId, callback, userData, |channel| Request::SendSync { channel }) }
}

/// A request that is about one channel.
///
/// # Safety
/// As for `seabed_sds_status`.
unsafe fn of_channel(
    handle: *mut c_void,
    channel_id: *const c_char,
    callback: SdsCallBack,
    user_data: *mut c_void,
    make: impl FnOnce(seabed_sds::core::ChannelId) -> Request,
) -> c_int {
    let read = || {
        // SAFETY: the caller's promise.
        let channel = unsafe { input::channel_id(channel_id) }?;
        Ok(make(channel.as_slice().into()))
    };
    guarded(RET_ERR, || request(handle, callback, user_data, read))
}
