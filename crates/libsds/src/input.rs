//! Reading what a program points to: once, up to a bound, and copied before the function returns.
#![allow(unsafe_code, reason = "memory of the program is read")]

use std::ffi::{c_char, c_void};

use crate::error::{Kind, Refusal};
use crate::limits::{ID_BYTES_MAX, MARKED_IDS_MAX};

const TOO_LONG: Refusal = Refusal::argument(c"libsds error: an ID is longer than 1024 bytes");
const TOO_MANY: Refusal = Refusal::argument(c"libsds error: more than 10000 message IDs");
const _: () = assert!(ID_BYTES_MAX == 1_024 && MARKED_IDS_MAX == 10_000, "the texts name the bounds");

/// The bytes at a pointer; `Err` holds their number when it is beyond the bound, and nothing is read.
///
/// # Safety
/// `data` is NULL, or so many bytes can be read there during the call.
pub(crate) unsafe fn bytes(
    data: *const c_void,
    length: usize,
    length_max: usize,
) -> Result<Result<Vec<u8>, usize>, Refusal> {
    if data.is_null() {
        let refusal = Refusal::argument(c"libsds error: message pointer is NULL but length > 0");
        return if length == 0 { Ok(Ok(Vec::new())) } else { Err(refusal) };
    }
    if length > length_max {
        return Ok(Err(length));
    }
    // SAFETY: the caller's promise; the length is within the bound, so below isize::MAX.
    Ok(Ok(unsafe { std::slice::from_raw_parts(data.cast::<u8>(), length) }.to_vec()))
}

/// A text up to its NUL; `None` when that does not come within the bound.
///
/// # Safety
/// `text` is not NULL, and can be read up to its NUL, or up to one byte more than the bound.
unsafe fn text(text: *const c_char, bytes_max: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for at in 0..=bytes_max {
        // SAFETY: no byte before this one was the NUL, so this one can be read, by the caller's promise.
        match unsafe { text.cast::<u8>().add(at).read() } {
            0 => return Some(bytes),
            byte => bytes.push(byte),
        }
    }
    None
}

/// A text that may be absent.
///
/// # Safety
/// `pointer` is NULL, or as for [`text`].
pub(crate) unsafe fn optional_text(
    pointer: *const c_char,
    bytes_max: usize,
    too_long: Refusal,
) -> Result<Option<Vec<u8>>, Refusal> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL, and otherwise the caller's promise.
    unsafe { text(pointer, bytes_max) }.map(Some).ok_or(too_long)
}

/// The id of a message, which may be empty.
///
/// # Safety
/// As for [`optional_text`].
pub(crate) unsafe fn message_id(pointer: *const c_char) -> Result<Vec<u8>, Refusal> {
    // SAFETY: the caller's promise.
    unsafe { optional_text(pointer, ID_BYTES_MAX, TOO_LONG) }?
        .ok_or(Refusal::argument(c"libsds error: message ID pointer is NULL"))
}

/// The id of a channel, which is not empty.
///
/// # Safety
/// As for [`optional_text`].
pub(crate) unsafe fn channel_id(pointer: *const c_char) -> Result<Vec<u8>, Refusal> {
    // SAFETY: the caller's promise.
    let id = unsafe { optional_text(pointer, ID_BYTES_MAX, TOO_LONG) }?
        .ok_or(Refusal::argument(c"libsds error: channel ID pointer is NULL"))?;
    if id.is_empty() { Err(Refusal::argument(c"libsds error: channel ID is empty string")) } else { Ok(id) }
}

/// The ids of an array; a NULL among them is the empty one.
///
/// # Safety
/// `pointers` is NULL, or so many pointers can be read there, each as for [`optional_text`].
pub(crate) unsafe fn message_ids(
    pointers: *const *const c_char,
    count: usize,
) -> Result<Vec<Vec<u8>>, Refusal> {
    if pointers.is_null() {
        let refusal = Refusal::argument(c"libsds error: MessageIDs pointer is NULL but count > 0");
        return if count == 0 { Ok(Vec::new()) } else { Err(refusal) };
    }
    if count > MARKED_IDS_MAX {
        return Err(TOO_MANY);
    }
    let mut ids = Vec::new();
    for number in 0..count {
        // SAFETY: the caller's promise, for the array and for the text.
        let id = unsafe { optional_text(pointers.add(number).read(), ID_BYTES_MAX, TOO_LONG) }?;
        ids.push(id.unwrap_or_default());
    }
    Ok(ids)
}

/// What a participant's name may not be.
pub(crate) const PARTICIPANT_TOO_LONG: Refusal =
    Refusal::argument(c"libsds error: the participant ID is longer than 1024 bytes");
/// What a store's path may not be.
pub(crate) const PATH_TOO_LONG: Refusal =
    Refusal::argument(c"libsds error: the path of the store is longer than 4096 bytes");
/// What a configuration may not be.
pub(crate) const CONFIG_TOO_LONG: Refusal =
    Refusal::argument(c"libsds error: the configuration is longer than 65536 bytes");
const _: () = assert!(
    crate::limits::PATH_BYTES_MAX == 4_096 && crate::limits::CONFIG_BYTES_MAX == 65_536,
    "the texts name the bounds"
);

/// What a defect of this library looks like from outside.
pub(crate) const DEFECT: Refusal =
    Refusal { kind: Kind::Internal, text: c"libsds error: a defect of the library; please report it" };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_up_to_its_nul_and_no_further_than_its_bound() {
        let id = [b'x'; ID_BYTES_MAX + 1];
        // SAFETY: one byte more than the bound can be read.
        assert!(unsafe { message_id(id.as_ptr().cast()) }.is_err());
        let mut id = id.to_vec();
        id[ID_BYTES_MAX] = 0;
        // SAFETY: it ends with a NUL.
        assert_eq!(unsafe { message_id(id.as_ptr().cast()) }.unwrap().len(), ID_BYTES_MAX);
        // SAFETY: likewise.
        assert_eq!(unsafe { message_id(c"".as_ptr()) }.unwrap(), b"");
    }

    #[test]
    fn bytes_beyond_the_bound_are_not_touched() {
        let four = b"four";
        // SAFETY: nothing is read, whatever is there.
        assert_eq!(unsafe { bytes(four.as_ptr().cast(), usize::MAX, 4) }.unwrap(), Err(usize::MAX));
        // SAFETY: four bytes are there.
        assert_eq!(unsafe { bytes(four.as_ptr().cast(), 4, 4) }.unwrap().unwrap(), four);
    }

    #[test]
    fn an_array_may_hold_null() {
        let ids = [c"a".as_ptr(), std::ptr::null(), c"b".as_ptr()];
        // SAFETY: three pointers are there, each NULL or a text.
        assert_eq!(unsafe { message_ids(ids.as_ptr(), 3) }.unwrap(), [b"a".to_vec(), vec![], b"b".to_vec()]);
        // SAFETY: nothing is read.
        assert!(unsafe { message_ids(ids.as_ptr(), MARKED_IDS_MAX + 1) }.is_err());
    }
}
