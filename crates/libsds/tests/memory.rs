//! The functions as C calls them, from Rust, so that Miri can watch every pointer: `./test.sh miri`. Without a store, which is SQLite's.
#![allow(unsafe_code, reason = "functions for C are called")]
#![allow(clippy::expect_used, reason = "a helper of a test fails the test")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::mpsc::{Receiver, Sender, channel};

use sds::{
    RET_ERR, RET_OK, SdsCleanupReliabilityManager, SdsMarkDependenciesMet, SdsNewReliabilityManager,
    SdsResetReliabilityManager, SdsSetEventCallback, SdsSetRetrievalHintProvider, SdsUnwrapReceivedMessage,
    SdsWrapOutgoingMessage, seabed_sds_open, seabed_sds_status, seabed_sds_version, seabed_sds_wait,
};

/// What a callback was given: where it was, and what it was.
type Given = (c_int, *const c_char, Vec<u8>);

/// A callback's data, and where it hands on what it is given.
struct Answers {
    data: Box<Sender<SendGiven>>,
    given: Receiver<SendGiven>,
}

struct SendGiven(Given);
// SAFETY: the pointer is compared, and followed only while the library keeps what it points to.
unsafe impl Send for SendGiven {}

extern "C" fn answered(code: c_int, text: *const c_char, length: usize, data: *mut c_void) {
    let bytes = if text.is_null() {
        Vec::new()
    } else {
        // SAFETY: the library says that so many bytes are there.
        unsafe { std::slice::from_raw_parts(text.cast::<u8>(), length) }.to_vec()
    };
    // SAFETY: the data is the sender of an `Answers`, which outlives its context.
    let sender = unsafe { &*data.cast::<Sender<SendGiven>>() };
    sender.send(SendGiven((code, text, bytes))).expect("somebody listens");
}

impl Answers {
    fn new() -> Self {
        let (sender, given) = channel();
        Self { data: Box::new(sender), given }
    }

    fn data(&self) -> *mut c_void {
        std::ptr::from_ref(&*self.data).cast_mut().cast()
    }

    /// The answer of a call that was accepted.
    fn of(&self, returned: c_int) -> Given {
        assert_eq!(returned, RET_OK);
        self.given.recv().expect("an answer").0
    }

    fn text(&self, returned: c_int) -> String {
        let (code, _, text) = self.of(returned);
        let text = String::from_utf8(text).expect("text");
        assert_eq!(code, RET_OK, "{text}");
        text
    }
}

/// A context that is cleaned up in the end.
struct Context {
    handle: *mut c_void,
    answers: Answers,
}

impl Context {
    fn new() -> Self {
        let answers = Answers::new();
        // SAFETY: the callback's data outlives the context.
        let handle = unsafe { SdsNewReliabilityManager(Some(answered), answers.data()) };
        assert!(!handle.is_null());
        assert_eq!(answers.text(RET_OK), "");
        Self { handle, answers }
    }

    fn wrap(&self, id: &CStr) -> Vec<u8> {
        let content = b"hello".to_vec();
        // SAFETY: the pointers are good for the call; the rest as in `new`.
        let returned = unsafe {
            SdsWrapOutgoingMessage(
                self.handle,
                content.as_ptr().cast_mut().cast(),
                content.len(),
                id.as_ptr(),
                c"c".as_ptr(),
                Some(answered),
                self.answers.data(),
            )
        };
        drop(content);
        let list = self.answers.text(returned);
        list.split(',').map(|number| number.parse().expect("a byte")).collect()
    }

    fn unwrap(&self, wire: &[u8]) -> Given {
        let copy = wire.to_vec();
        // SAFETY: as in `wrap`.
        let returned = unsafe {
            SdsUnwrapReceivedMessage(
                self.handle,
                copy.as_ptr().cast_mut().cast(),
                copy.len(),
                Some(answered),
                self.answers.data(),
            )
        };
        drop(copy);
        self.answers.of(returned)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: as in `new`.
        let returned =
            unsafe { SdsCleanupReliabilityManager(self.handle, Some(answered), self.answers.data()) };
        let (code, text, _) = self.answers.of(returned);
        assert!(code == RET_OK && text.is_null());
        // SAFETY: as in `new`; the handle is nobody's now.
        let again = unsafe { SdsCleanupReliabilityManager(self.handle, Some(answered), self.answers.data()) };
        assert_eq!((again, self.answers.of(RET_OK).0), (RET_ERR, RET_ERR));
    }
}

extern "C" fn give_hint(id: *const c_char, hint: *mut *mut c_char, length: *mut usize, _: *mut c_void) {
    // SAFETY: the library gives a text that ends with a NUL.
    let id = unsafe { CStr::from_ptr(id) };
    assert!(!id.is_empty());
    // SAFETY: both places are the library's, and writable; what is put there is malloc's, of that length.
    unsafe {
        *hint = libc::malloc(2).cast();
        std::ptr::copy_nonoverlapping(c"hi".as_ptr(), *hint, 2);
        *length = 2;
    }
}

#[test]
fn messages_hints_and_ids_go_through_whole() {
    let (one, two) = (Context::new(), Context::new());
    let events = Answers::new();
    // SAFETY: the data outlives the contexts; the provider needs none.
    unsafe {
        SdsSetEventCallback(two.handle, Some(answered), events.data());
        SdsSetRetrievalHintProvider(one.handle, Some(give_hint), std::ptr::null_mut());
    }
    let _ = one.wrap(c"m1");
    let (code, _, told) = two.unwrap(&one.wrap(c"m2"));
    let told = String::from_utf8(told).expect("text");
    assert_eq!(code, RET_OK, "{told}");
    assert!(told.ends_with(r#""missingDeps":[{"messageId":"m1","retrievalHint":"aGk="}]}"#), "{told}");
    assert!(events.text(RET_OK).contains("missing_dependencies"));

    let ids = [CString::new("m1").expect("a text")];
    let mut pointers = [ids[0].as_ptr().cast_mut(), std::ptr::null_mut()];
    // SAFETY: two pointers are there, one to a text and one NULL; the rest as above.
    let returned = unsafe {
        SdsMarkDependenciesMet(
            two.handle,
            pointers.as_mut_ptr(),
            2,
            c"c".as_ptr(),
            Some(answered),
            two.answers.data(),
        )
    };
    assert_eq!(two.answers.text(returned), "");
    assert!(events.text(RET_OK).contains("message_ready"));
    // SAFETY: as above. From here on the data of events may go.
    unsafe { SdsSetEventCallback(two.handle, None, std::ptr::null_mut()) };
    drop((one, two));
}

#[test]
fn a_result_is_readable_after_its_callback_and_after_those_of_later_calls() {
    let context = Context::new();
    let (_, kept, text) = context.unwrap(b"no message");
    for _ in 0..10 {
        context.unwrap(b"nor this");
    }
    // SAFETY: the library keeps the last 64 results of a context, each with its length.
    let read = unsafe { std::slice::from_raw_parts(kept.cast::<u8>(), text.len()) };
    assert_eq!(read, text);
    assert_eq!(read, b"error processing UNWRAP_MESSAGE request: reDeserializationError");
}

#[test]
fn what_is_not_there_is_refused_and_never_followed() {
    let answers = Answers::new();
    let dangling = Box::into_raw(Box::new(0_u8));
    // SAFETY: it came from a box, and is gone afterwards.
    drop(unsafe { Box::from_raw(dangling) });
    for handle in [std::ptr::null_mut(), std::ptr::without_provenance_mut(16), dangling.cast()] {
        // SAFETY: a handle may be anything.
        let returned = unsafe { SdsResetReliabilityManager(handle, Some(answered), answers.data()) };
        assert_eq!((returned, answers.of(RET_OK).0), (RET_ERR, RET_ERR));
        assert_eq!(seabed_sds_wait(handle, 0), RET_ERR);
    }
    // SAFETY: the version is a text for ever.
    assert_eq!(unsafe { CStr::from_ptr(seabed_sds_version()) }.to_str(), Ok(env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_participant_is_opened_without_a_store() {
    let answers = Answers::new();
    let config = c"{\"channel\":{\"causal_history\":2}}";
    // SAFETY: the texts end with a NUL, the data outlives the context.
    let handle = unsafe {
        seabed_sds_open(c"alice".as_ptr(), std::ptr::null(), config.as_ptr(), Some(answered), answers.data())
    };
    assert_eq!(answers.text(RET_OK), "");
    let context = Context { handle, answers };
    let _ = context.wrap(c"m1");
    // SAFETY: as above.
    let returned =
        unsafe { seabed_sds_status(context.handle, c"c".as_ptr(), Some(answered), context.answers.data()) };
    assert!(context.answers.text(returned).contains(r#""unacknowledged":["m1"]"#));
    assert_eq!(seabed_sds_wait(context.handle, 60_000), RET_OK);
}
