//! The nine functions of nim-sds 0.3, as its header has them.
#![allow(unsafe_code, reason = "functions for C: exported by name, and given pointers")]
#![allow(non_snake_case, reason = "their names are nim-sds'")]

use std::ffi::{c_char, c_int, c_void};
use std::io::{self, Write as _};
use std::ptr;

use crate::call::{create, guarded, no_context, request};
use crate::callback::{Callback, Provider, SdsCallBack, SdsRetrievalHintProvider};
use crate::context::{Ended, LEFT_BEHIND, Speech};
use crate::error::{Failure, Kind, RET_ERR, RET_MISSING_CALLBACK, RET_OK};
use crate::input;
use crate::limits::{CONTENT_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::options;
use crate::registry;
use crate::request::{Request, UNWRAP, WRAP};
use crate::text::{Text, View};

/// Makes a context as nim-sds does: no participant ID, every default, nothing kept after a restart. The result is empty.
/// Returns NULL when it cannot.
///
/// # Safety
/// `callback` is NULL or a function of its type that may be called from any thread until the context is cleaned up.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn SdsNewReliabilityManager(
    callback: SdsCallBack,
    userData: *mut c_void,
) -> *mut c_void {
    let Some(callback) = Callback::new(callback, userData) else {
        misused("SdsNewReliabilityManager", "there is no callback");
        return ptr::null_mut();
    };
    create(Speech::Nim, callback, options::nim)
}

/// Sets what is told of events, instead of what was told before; NULL for nothing. The function that was set before is called no more; one call
/// of it may be in progress, and its data in use until that returns.
///
/// # Safety
/// As for `SdsNewReliabilityManager`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn SdsSetEventCallback(ctx: *mut c_void, callback: SdsCallBack, userData: *mut c_void) {
    guarded((), || match registry::find(ctx) {
        Some(context) => context.set_events(Callback::new(callback, userData)),
        None => misused("SdsSetEventCallback", "the context is not one that lives"),
    });
}

/// Sets what is asked for retrieval hints when a message is wrapped, instead of what was asked before; NULL for nothing. The function that was
/// set before is called no more; one call of it may be in progress, and its data in use until that returns.
///
/// # Safety
/// As for `SdsNewReliabilityManager`. What the provider puts into `hint` is NULL or memory of `malloc` of at least `hintLen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn SdsSetRetrievalHintProvider(
    ctx: *mut c_void,
    callback: SdsRetrievalHintProvider,
    userData: *mut c_void,
) {
    guarded((), || match registry::find(ctx) {
        Some(context) => context.set_provider(Provider::new(callback, userData)),
        None => misused("SdsSetRetrievalHintProvider", "the context is not one that lives"),
    });
}

/// Ends a context: requests that wait are refused, what is kept stays. The callback comes before this returns, and afterwards no function of the
/// program is called. `RET_ERR` when one (a callback, or the provider of hints) does not return; the context is gone all the same, and its
/// thread ends when that function does. Then, and when this is called inside one, the request in progress is still answered, once;
/// nothing else is called.
///
/// # Safety
/// As for `SdsNewReliabilityManager`. `ctx` may be anything.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn SdsCleanupReliabilityManager(
    ctx: *mut c_void,
    callback: SdsCallBack,
    userData: *mut c_void,
) -> c_int {
    let callback = Callback::new(callback, userData);
    guarded(RET_ERR, || {
        if callback.is_none() && registry::find(ctx).is_some() {
            return RET_MISSING_CALLBACK;
        }
        let (Some(context), Some(callback)) = (registry::remove(ctx), callback) else {
            return no_context(callback);
        };
        match context.end() {
            Ended::Well => {
                callback.call(RET_OK, View::NONE);
                RET_OK
            }
            Ended::LeftBehind => {
                callback.call(context.speech.code(Kind::Busy), LEFT_BEHIND.into());
                RET_ERR
            }
            Ended::Failed(failure) => {
                let text = Text::from(failure.text.into_bytes());
                callback.call(context.speech.code(failure.kind), text.view());
                RET_ERR
            }
        }
    })
}

/// Removes every channel, from memory and from the store. The result is empty.
///
/// # Safety
/// As for `SdsNewReliabilityManager`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn SdsResetReliabilityManager(
    ctx: *mut c_void,
    callback: SdsCallBack,
    userData: *mut c_void,
) -> c_int {
    guarded(RET_ERR, || request(ctx, callback, userData, || Ok(Request::Reset)))
}

/// Sends a message: the result is its bytes for every other participant, as decimal numbers with commas between.
///
/// # Safety
/// As for `SdsNewReliabilityManager`. `message` is NULL or holds `messageLen` bytes; `messageId` and `channelId` are NULL or end with a NUL. All
/// of them are read before this returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn SdsWrapOutgoingMessage(
    ctx: *mut c_void,
    message: *mut c_void,
    messageLen: usize,
    messageId: *const c_char,
    channelId: *const c_char,
    callback: SdsCallBack,
    userData: *mut c_void,
) -> c_int {
    let read = || {
        // SAFETY: the caller's promise.
        let content = unsafe { input::bytes(message, messageLen, CONTENT_BYTES_MAX) }?;
        // SAFETY: likewise.
        let message_id = unsafe { input::message_id(messageId) }?;
        // SAFETY: likewise.
        let channel = unsafe { input::channel_id(channelId) }?;
        Ok(match content {
            Ok(content) => Request::Wrap {
                channel: channel.as_slice().into(),
                message_id: message_id.as_slice().into(),
                content,
            },
            Err(bytes) => too_large(WRAP, "content", bytes, CONTENT_BYTES_MAX),
        })
    };
    guarded(RET_ERR, || request(ctx, callback, userData, read))
}

/// Takes in a message from the network: the result is an object with its content as an array of numbers (`message`), its `channelId`, and
/// what it rests on and is not here (`missingDeps`). A context of `seabed_sds_open` adds `messageId`, `senderId` and `reception`.
///
/// # Safety
/// As for `SdsNewReliabilityManager`. `message` is NULL or holds `messageLen` bytes, which are read before this returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn SdsUnwrapReceivedMessage(
    ctx: *mut c_void,
    message: *mut c_void,
    messageLen: usize,
    callback: SdsCallBack,
    userData: *mut c_void,
) -> c_int {
    let read = || {
        // SAFETY: the caller's promise.
        let wire = unsafe { input::bytes(message, messageLen, MESSAGE_BYTES_MAX) }?;
        Ok(match wire {
            Ok(wire) => Request::Unwrap { wire },
            Err(bytes) => too_large(UNWRAP, "message", bytes, MESSAGE_BYTES_MAX),
        })
    };
    guarded(RET_ERR, || request(ctx, callback, userData, read))
}

/// Declares that messages which others rest on are here, or can be done without. The result is empty.
///
/// # Safety
/// As for `SdsNewReliabilityManager`. `messageIDs` is NULL or holds `count` pointers, each NULL or to a text that ends with a NUL; so does
/// `channelId`. All of them are read before this returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn SdsMarkDependenciesMet(
    ctx: *mut c_void,
    messageIDs: *mut *mut c_char,
    count: usize,
    channelId: *const c_char,
    callback: SdsCallBack,
    userData: *mut c_void,
) -> c_int {
    let read = || {
        // SAFETY: the caller's promise.
        let ids = unsafe { input::message_ids(messageIDs.cast_const().cast(), count) }?;
        // SAFETY: likewise.
        let channel = unsafe { input::channel_id(channelId) }?;
        let message_ids = ids.iter().map(|id| id.as_slice().into()).collect();
        Ok(Request::MarkDependenciesMet { channel: channel.as_slice().into(), message_ids })
    };
    guarded(RET_ERR, || request(ctx, callback, userData, read))
}

/// Starts what happens by itself: what is due is done on the context's thread from now on, also what was due before a restart. Once is
/// enough. A channel of the store that does not load makes an error of the answer, which names it; the others go on. Else the result is empty.
///
/// # Safety
/// As for `SdsNewReliabilityManager`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn SdsStartPeriodicTasks(
    ctx: *mut c_void,
    callback: SdsCallBack,
    userData: *mut c_void,
) -> c_int {
    guarded(RET_ERR, || request(ctx, callback, userData, || Ok(Request::StartPeriodicTasks)))
}

fn too_large(of: &'static str, what: &str, bytes: usize, bytes_max: usize) -> Request {
    let text = format!("the {what} has {bytes} bytes, more than {bytes_max}: split it");
    Request::Hopeless { of, failure: Failure::new(Kind::MessageTooLarge, text) }
}

/// For misuse that no callback can be told of.
fn misused(function: &str, what: &str) {
    // There is nobody to tell that standard error takes nothing.
    let _ = writeln!(io::stderr(), "libsds: {function}: {what}");
}
