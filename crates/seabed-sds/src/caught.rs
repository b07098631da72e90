//! What the program gives us may panic: a callback, a store. That ends what it was called for, and nothing else.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

/// Carries a future on; the words of its panic when it did. It must not be polled again then.
pub(crate) fn poll<T>(
    future: Pin<&mut (dyn Future<Output = T> + Send)>,
    context: &mut Context<'_>,
) -> Result<Poll<T>, String> {
    call(|| future.poll(context))
}

/// Calls a function; the words of its panic when it did.
pub(crate) fn call<T>(function: impl FnOnce() -> T) -> Result<T, String> {
    // What it left halfway is its own: nothing of ours is borrowed to it but by shared reference.
    catch_unwind(AssertUnwindSafe(function)).map_err(|panic| words(&*panic))
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it did not say why").to_owned()
}
