//! What every function of the library has in common.

use std::ffi::{CStr, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Arc;

use crate::callback::{Callback, SdsCallBack};
use crate::context::{Context, Job, Speech};
use crate::error::{Failure, Kind, RET_ERR, RET_MISSING_CALLBACK, RET_OK, Refusal};
use crate::input::DEFECT;
use crate::limits::CONTEXTS_MAX;
use crate::options::{self, Made};
use crate::registry;
use crate::request::Request;
use crate::text::Text;
use crate::worker::Worker;

const NO_MORE: &CStr =
    c"Error creating SDS FFI context: 1024 contexts live, or the system has no thread left; clean one up first";
const _: () = assert!(CONTEXTS_MAX == 1_024, "the text names the bound");
const NO_CONTEXT: Refusal =
    Refusal { kind: Kind::Closed, text: c"libsds error: the context is not one that lives" };

/// Puts a request in line: the context is looked at first, then the callback, then the arguments, as in nim-sds.
pub(crate) fn request(
    handle: *mut c_void,
    callback: SdsCallBack,
    user_data: *mut c_void,
    read: impl FnOnce() -> Result<Request, Refusal>,
) -> c_int {
    let callback = Callback::new(callback, user_data);
    let Some(context) = registry::find(handle) else { return no_context(callback) };
    let Some(callback) = callback else { return RET_MISSING_CALLBACK };
    let accepted = catch_unwind(AssertUnwindSafe(|| context.accept(Job { request: read()?, callback })));
    match accepted.unwrap_or(Err(DEFECT)) {
        Ok(()) => RET_OK,
        Err(refusal) => {
            callback.call(context.speech.code(refusal.kind), refusal.text.into());
            RET_ERR
        }
    }
}

/// nim-sds says nothing here, and its Go bindings wait for ever.
pub(crate) fn no_context(callback: Option<Callback>) -> c_int {
    if let Some(callback) = callback {
        callback.call(RET_ERR, NO_CONTEXT.text.into());
    }
    RET_ERR
}

/// Makes a context; what is wrong is told before this returns, and the handle is NULL then.
pub(crate) fn create(
    speech: Speech,
    callback: Callback,
    make: impl FnOnce() -> Result<Made, Failure>,
) -> *mut c_void {
    let created = catch_unwind(AssertUnwindSafe(|| start(speech, callback, make()?)));
    let defect = |_| Err(Failure::new(Kind::Internal, "a defect of the library; please report it"));
    match (created.unwrap_or_else(defect), speech) {
        (Ok(handle), _) => return handle,
        // The Go bindings read the text when the callback has returned.
        (Err(_), Speech::Nim) => callback.call(RET_ERR, NO_MORE.into()),
        (Err(failure), Speech::Full) => {
            callback.call(failure.kind.code(), Text::from(failure.text.into_bytes()).view());
        }
    }
    ptr::null_mut()
}

fn start(speech: Speech, callback: Callback, made: Made) -> Result<*mut c_void, Failure> {
    let store = made.store.clone();
    let started = begin(speech, callback, made);
    if started.is_err() {
        store.as_ref().inspect(|store| options::close(store));
    }
    started
}

fn begin(speech: Speech, callback: Callback, made: Made) -> Result<*mut c_void, Failure> {
    let events = made.manager.events()?;
    let context = Arc::new(Context::new(speech, made.manager));
    let too_many = || {
        let text = format!("{CONTEXTS_MAX} contexts live; clean one up first");
        Failure::new(Kind::Backpressure, text)
    };
    let handle = registry::add(context.clone()).ok_or_else(too_many)?;
    let started = context
        .accept(Job { request: Request::New, callback })
        .map_err(|_| Failure::new(Kind::Internal, "a new context takes no request"))
        .and_then(|()| {
            Worker::start(context.clone(), events, made.store).map_err(|error| {
                Failure::new(Kind::Backpressure, format!("the system gives no thread: {error}"))
            })
        });
    match started {
        Ok(thread) => {
            context.runs_on(thread);
            Ok(handle)
        }
        Err(failure) => {
            registry::remove(handle);
            Err(failure)
        }
    }
}

/// Does what may not panic into the program; a defect is the answer `otherwise`.
pub(crate) fn guarded<T>(otherwise: T, work: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(otherwise)
}
