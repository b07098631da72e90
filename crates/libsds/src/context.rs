//! What a handle names: the line of requests before one thread, and who is told what.

use std::collections::VecDeque;
use std::ffi::{CStr, c_int};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use seabed_sds::core::MessageId;
use seabed_sds::{Callbacks, HintProvider, SdsManager};

use crate::callback::{Callback, Provider};
use crate::error::{Failure, Kind, RET_ERR, RET_OK, Refusal};
use crate::limits::{
    CALLBACK_WAIT_MS_MAX, REQUESTS_WAITING_BYTES_MAX, REQUESTS_WAITING_MAX, ROOM_WAIT_MS_MAX,
};
use crate::lock::lock;
use crate::request::Request;
use crate::text::{Text, View};

const ENDED: Refusal = Refusal { kind: Kind::Closed, text: c"libsds error: the context was cleaned up" };
const NO_ROOM: Refusal = Refusal {
    kind: Kind::Backpressure,
    text: c"libsds error: 1024 requests or 64 MiB of them wait, and a callback may not wait for room",
};
const NOT_TAKEN: Refusal = Refusal {
    kind: Kind::Backpressure,
    text: c"libsds error: 1024 requests or 64 MiB of them have waited for 20 seconds: does a callback not return?",
};
const _: () = assert!(
    REQUESTS_WAITING_MAX == 1_024
        && REQUESTS_WAITING_BYTES_MAX == 64 * 1_024 * 1_024
        && ROOM_WAIT_MS_MAX == 20_000,
    "the texts name the bounds"
);
/// What a cleanup says that has left a thread behind.
pub(crate) const LEFT_BEHIND: &CStr =
    c"libsds error: a callback has not returned; the context ends when it does";

/// Whose words a context speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speech {
    /// nim-sds' results, texts and events, and no others but those that its users pass over.
    Nim,
    /// Everything: a number for each kind of failure, what became of a message, every event.
    Full,
}

impl Speech {
    /// What a callback is given for a failure.
    pub(crate) fn code(self, kind: Kind) -> c_int {
        match self {
            Self::Nim => RET_ERR,
            Self::Full => kind.code(),
        }
    }

    fn failure(self, of: &str, failure: &Failure) -> (c_int, Text) {
        let text = match self {
            Self::Nim => format!("error processing {of} request: {}", failure.kind.nim_name()),
            Self::Full => failure.text.clone(),
        };
        (self.code(failure.kind), text.into_bytes().into())
    }
}

/// A request in line, and who is told what comes of it.
pub(crate) struct Job {
    pub(crate) request: Request,
    pub(crate) callback: Callback,
}

/// What a context's thread does next.
pub(crate) enum Next {
    Job(Job),
    /// The time is up.
    Due,
    End,
}

/// How a context has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// As it should.
    Well,
    /// Its store did not close well.
    Failed(Failure),
    /// A callback has not returned.
    LeftBehind,
}

/// A manager with a thread of its own, on which everything happens that a program asks for. No lock is held while the program's functions
/// run, and contexts have no lock in common.
pub(crate) struct Context {
    pub(crate) speech: Speech,
    manager: SdsManager,
    line: Mutex<Line>,
    changed: Condvar,
    events: Mutex<Option<Callback>>,
    provider: Mutex<Option<Provider>>,
    /// Since when the thread is inside a function of the program.
    inside_since: Mutex<Option<Instant>>,
    thread_id: OnceLock<ThreadId>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Line {
    waiting: VecDeque<Job>,
    waiting_bytes: usize,
    /// Accepted, and the callback has not returned.
    unanswered: usize,
    closing: bool,
    ended: Option<Ended>,
}

impl Line {
    fn has_room(&self, bytes: usize) -> bool {
        self.waiting.is_empty()
            || self.waiting.len() < REQUESTS_WAITING_MAX
                && self.waiting_bytes + bytes <= REQUESTS_WAITING_BYTES_MAX
    }
}

impl Context {
    pub(crate) fn new(speech: Speech, manager: SdsManager) -> Self {
        Self {
            speech,
            manager,
            line: Mutex::default(),
            changed: Condvar::new(),
            events: Mutex::default(),
            provider: Mutex::default(),
            inside_since: Mutex::default(),
            thread_id: OnceLock::new(),
            thread: Mutex::new(None),
        }
    }

    pub(crate) fn manager(&self) -> &SdsManager {
        &self.manager
    }

    /// Keeps what waits for the end of its thread.
    pub(crate) fn runs_on(&self, thread: JoinHandle<()>) {
        *lock(&self.thread) = Some(thread);
    }

    fn is_own_thread(&self) -> bool {
        self.thread_id.get() == Some(&thread::current().id())
    }

    // What callers do.

    /// Puts a request in line. A caller waits for room, but not on the context's own thread.
    pub(crate) fn accept(&self, job: Job) -> Result<(), Refusal> {
        self.accept_within(job, Duration::from_millis(ROOM_WAIT_MS_MAX))
    }

    fn accept_within(&self, job: Job, patience: Duration) -> Result<(), Refusal> {
        let bytes = job.request.bytes();
        let mut line = lock(&self.line);
        if self.is_own_thread() {
            if !line.has_room(bytes) {
                return Err(NO_ROOM);
            }
        } else {
            let waits = |line: &mut Line| !line.closing && !line.has_room(bytes);
            let waited = self.changed.wait_timeout_while(line, patience, waits);
            let (entered, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            line = entered;
            if timeout.timed_out() {
                return Err(NOT_TAKEN);
            }
        }
        if line.closing {
            return Err(ENDED);
        }
        line.waiting_bytes += bytes;
        line.unanswered += 1;
        line.waiting.push_back(job);
        drop(line);
        self.changed.notify_all();
        Ok(())
    }

    /// Waits until everything that was accepted is answered. False when it is not by then, or cannot be.
    pub(crate) fn wait_answered(&self, timeout: Duration) -> bool {
        if self.is_own_thread() {
            return false;
        }
        let unanswered = |line: &mut Line| line.unanswered > 0;
        let waited = self.changed.wait_timeout_while(lock(&self.line), timeout, unanswered);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    pub(crate) fn set_events(&self, callback: Option<Callback>) {
        *lock(&self.events) = callback;
    }

    pub(crate) fn set_provider(self: &Arc<Self>, provider: Option<Provider>) {
        let mut asked = lock(&self.provider);
        *asked = provider;
        let context = Arc::downgrade(self);
        // It looks for itself who is to be asked: a request in progress goes on with it after another was set.
        let hint = provider.map(|_| -> HintProvider {
            Box::new(move |id| context.upgrade().map(|context| context.hint(id)).unwrap_or_default())
        });
        // Under the lock, so that of two who set one at once the same is the last in both places.
        self.manager.set_callbacks(Callbacks { retrieval_hint: hint, ..Callbacks::default() });
    }

    /// Ends the context: what waits is refused, what is in progress is waited for. To be called once, by who has taken the context out of the
    /// registry.
    pub(crate) fn end(&self) -> Ended {
        self.end_within(Duration::from_millis(CALLBACK_WAIT_MS_MAX))
    }

    fn end_within(&self, patience: Duration) -> Ended {
        let mut line = lock(&self.line);
        line.closing = true;
        line.waiting_bytes = 0;
        let refused = std::mem::take(&mut line.waiting);
        drop(line);
        self.changed.notify_all();
        for job in &refused {
            job.callback.call(self.speech.code(ENDED.kind), ENDED.text.into());
        }
        let mut line = lock(&self.line);
        line.unanswered -= refused.len();
        self.changed.notify_all();
        if self.is_own_thread() {
            // It ends when this callback has returned.
            return Ended::Well;
        }
        let (ended, line) = self.await_end(line, patience);
        drop(line);
        if ended != Ended::LeftBehind
            && let Some(thread) = lock(&self.thread).take()
        {
            // It has said its last word. A panic of it was told as an answer.
            let _ = thread.join();
        }
        ended
    }

    fn await_end<'a>(
        &'a self,
        mut line: MutexGuard<'a, Line>,
        patience: Duration,
    ) -> (Ended, MutexGuard<'a, Line>) {
        let began = Instant::now();
        loop {
            if let Some(ended) = &line.ended {
                return (ended.clone(), line);
            }
            // A store may take its time to close; a program's function may not, from when both it and this have begun.
            let inside = lock(&self.inside_since).map(|since| since.max(began).elapsed());
            if inside.is_some_and(|inside| inside >= patience) {
                return (Ended::LeftBehind, line);
            }
            let rest = patience.saturating_sub(inside.unwrap_or_default());
            line = self.changed.wait_timeout(line, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    // What its thread does.

    /// The thread that it runs on.
    pub(crate) fn begin(&self) {
        let _ = self.thread_id.set(thread::current().id());
    }

    /// What is to be done next: waits for it, until `due` at most. What is due comes first, but never twice in a row while requests wait.
    pub(crate) fn next(&self, due: Option<Duration>, was_due: bool) -> Next {
        let line = lock(&self.line);
        let idle = |line: &mut Line| line.waiting.is_empty() && !line.closing;
        let mut line = match due {
            Some(due) => {
                let waited = self.changed.wait_timeout_while(line, due, idle);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.changed.wait_while(line, idle).unwrap_or_else(PoisonError::into_inner),
        };
        if line.closing {
            return Next::End;
        }
        if due == Some(Duration::ZERO) && !was_due {
            return Next::Due;
        }
        let Some(job) = line.waiting.pop_front() else { return Next::Due };
        line.waiting_bytes -= job.request.bytes();
        drop(line);
        // Somebody may wait for room.
        self.changed.notify_all();
        Next::Job(job)
    }

    /// Tells what came of a request.
    pub(crate) fn answer(&self, callback: Callback, code: c_int, text: View<'_>) {
        self.call(callback, code, text);
        lock(&self.line).unanswered -= 1;
        self.changed.notify_all();
    }

    /// The number and the text of a result.
    pub(crate) fn told(&self, of: &str, result: Result<Text, Failure>) -> (c_int, Text) {
        match result {
            Ok(text) => (RET_OK, text),
            Err(failure) => self.speech.failure(of, &failure),
        }
    }

    /// Tells an event, if somebody wants to know.
    pub(crate) fn tell(&self, event: &Text) {
        if let Some(callback) = self.hears_events() {
            self.call(callback, RET_OK, event.view());
        }
    }

    pub(crate) fn wants_events(&self) -> bool {
        self.hears_events().is_some()
    }

    /// Nobody does when the context ends: its cleanup may have returned, and the program have let go of what belongs to the function.
    fn hears_events(&self) -> Option<Callback> {
        if self.is_closing() { None } else { *lock(&self.events) }
    }

    /// What the program knows of a message; nothing when the context ends, likewise.
    fn hint(&self, message_id: &MessageId) -> Vec<u8> {
        let provider = if self.is_closing() { None } else { *lock(&self.provider) };
        provider.map(|provider| self.inside(|| provider.ask(message_id.as_bytes()))).unwrap_or_default()
    }

    fn is_closing(&self) -> bool {
        lock(&self.line).closing
    }

    /// The last word of its thread.
    pub(crate) fn ended(&self, ended: Ended) {
        lock(&self.line).ended = Some(ended);
        self.changed.notify_all();
    }

    fn call(&self, callback: Callback, code: c_int, text: View<'_>) {
        self.inside(|| callback.call(code, text));
    }

    /// Runs a function of the program.
    fn inside<T>(&self, function: impl FnOnce() -> T) -> T {
        *lock(&self.inside_since) = Some(Instant::now());
        let answer = function();
        *lock(&self.inside_since) = None;
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::{c_char, c_void};
    use std::sync::Barrier;

    use super::*;
    use crate::request::REQUEST_BYTES;

    extern "C" fn ignore(_: c_int, _: *const c_char, _: usize, _: *mut c_void) {}

    fn job(request: Request) -> Job {
        Job { request, callback: Callback::new(Some(ignore), std::ptr::null_mut()).unwrap() }
    }

    /// One without a thread, so that what is in line stays there.
    fn context() -> Context {
        let manager = crate::options::nim().unwrap().manager;
        Context::new(Speech::Nim, manager)
    }

    #[test]
    fn a_full_line_takes_no_more_requests_and_no_more_bytes() {
        let many = context();
        for _ in 0..REQUESTS_WAITING_MAX {
            many.accept(job(Request::Reset)).unwrap();
        }
        let refused = many.accept_within(job(Request::Reset), Duration::ZERO).unwrap_err();
        assert_eq!(refused.text, NOT_TAKEN.text);

        let large = context();
        for _ in 0..64 {
            large.accept(job(Request::Unwrap { wire: vec![0; (1 << 20) - REQUEST_BYTES] })).unwrap();
        }
        let refused = large.accept_within(job(Request::Reset), Duration::ZERO).unwrap_err();
        assert_eq!(refused.text, NOT_TAKEN.text);
        // One that is taken makes room.
        assert!(matches!(large.next(None, false), Next::Job(_)));
        large.accept(job(Request::Reset)).unwrap();
    }

    #[test]
    fn a_cleanup_waits_for_a_callback_as_long_as_it_has_patience_from_when_both_have_begun() {
        let context = context();
        let (entered, leave) = (Barrier::new(2), Barrier::new(2));
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                context.inside(|| {
                    entered.wait();
                    leave.wait();
                });
                context.ended(Ended::Well);
            });
            entered.wait();
            assert_eq!(context.end_within(Duration::ZERO), Ended::LeftBehind);
            let patient = scope.spawn(|| context.await_end(lock(&context.line), Duration::MAX).0);
            leave.wait();
            assert_eq!(patient.join().unwrap(), Ended::Well);
            thread.join().unwrap();
        });
        // Outside of one there is nothing to lose patience with.
        lock(&context.line).ended = None;
        thread::scope(|scope| {
            let patient = scope.spawn(|| context.await_end(lock(&context.line), Duration::ZERO).0);
            context.ended(Ended::Well);
            assert_eq!(patient.join().unwrap(), Ended::Well);
        });
    }

    #[test]
    fn who_waits_for_room_is_told_when_the_context_ends() {
        let context = context();
        for _ in 0..REQUESTS_WAITING_MAX {
            context.accept(job(Request::Reset)).unwrap();
        }
        // As its thread would, if it had one.
        context.ended(Ended::Well);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| context.accept(job(Request::Reset)));
            assert_eq!(context.end(), Ended::Well);
            assert_eq!(waiting.join().unwrap().unwrap_err().text, ENDED.text);
        });
        assert!(context.wait_answered(Duration::ZERO));
    }

    #[test]
    fn what_is_due_comes_first_but_not_twice_while_requests_wait() {
        let context = context();
        context.accept(job(Request::Reset)).unwrap();
        assert!(matches!(context.next(Some(Duration::ZERO), false), Next::Due));
        assert!(matches!(context.next(Some(Duration::ZERO), true), Next::Job(_)));
        assert!(matches!(context.next(Some(Duration::ZERO), true), Next::Due));
        context.set_events(None);
    }
}
