//! What a callback is given, and how long it lasts.

use std::collections::VecDeque;
use std::ffi::{CStr, c_char};
use std::ptr;

use crate::limits::{RESULTS_KEPT_BYTES_MAX, RESULTS_KEPT_MAX};

/// Bytes for C: a NUL follows them, for programs that do not look at the length.
#[derive(Debug, Default)]
pub(crate) struct Text(Vec<u8>);

impl Text {
    pub(crate) fn view(&self) -> View<'_> {
        View(Some(&self.0))
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.strip_suffix(&[0]).unwrap()
    }
}

impl From<Vec<u8>> for Text {
    fn from(mut bytes: Vec<u8>) -> Self {
        bytes.push(0);
        Self(bytes)
    }
}

/// Bytes that end with a NUL, or nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a>(Option<&'a [u8]>);

impl View<'_> {
    /// What a NULL pointer says.
    pub(crate) const NONE: Self = Self(None);

    pub(crate) fn pointer(self) -> *const c_char {
        self.0.map_or(ptr::null(), |bytes| bytes.as_ptr().cast())
    }

    /// Without the NUL.
    pub(crate) fn len(self) -> usize {
        self.0.map_or(0, |bytes| bytes.len().saturating_sub(1))
    }
}

impl<'a> From<&'a CStr> for View<'a> {
    fn from(text: &'a CStr) -> Self {
        Self(Some(text.to_bytes_with_nul()))
    }
}

/// The last results of a context. The Go bindings read one after its callback has returned, when their goroutine comes to it.
#[derive(Debug, Default)]
pub(crate) struct Results {
    kept: VecDeque<Text>,
    bytes: usize,
}

impl Results {
    /// Keeps a result, and forgets the oldest ones for it; never the one before it, which may be read until the next callback has returned.
    pub(crate) fn keep(&mut self, result: Text) -> View<'_> {
        self.bytes += result.0.len();
        self.kept.push_back(result);
        while self.kept.len() > 2
            && (self.kept.len() > RESULTS_KEPT_MAX || self.bytes > RESULTS_KEPT_BYTES_MAX)
        {
            self.bytes -= self.kept.pop_front().map_or(0, |oldest| oldest.0.len());
        }
        self.kept.back().map_or(View::NONE, Text::view)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_kept_up_to_both_bounds_and_the_newest_two_always() {
        let mut results = Results::default();
        for number in 0..100_u8 {
            assert_eq!(results.keep(Text::from(vec![number; 3])).len(), 3);
        }
        assert_eq!((results.kept.len(), results.bytes), (RESULTS_KEPT_MAX, 4 * RESULTS_KEPT_MAX));
        assert_eq!(results.kept[0].0, [36, 36, 36, 0]);

        assert_eq!(results.keep(Text::from(vec![0; RESULTS_KEPT_BYTES_MAX])).len(), RESULTS_KEPT_BYTES_MAX);
        assert_eq!(results.kept.len(), 2);
        results.keep(Text::default());
        assert_eq!((results.kept.len(), results.bytes), (2, RESULTS_KEPT_BYTES_MAX + 1));
        results.keep(Text::default());
        assert_eq!((results.kept.len(), results.bytes), (2, 0));
    }

    #[test]
    fn a_result_stays_where_it_is_while_it_is_kept() {
        let mut results = Results::default();
        let first = results.keep(Text::from(b"first".to_vec())).pointer();
        for _ in 1..RESULTS_KEPT_MAX {
            results.keep(Text::default());
        }
        assert_eq!(results.kept[0].view().pointer(), first);
    }

    #[test]
    fn an_empty_text_is_not_null_and_nothing_is() {
        assert!(!Text::from(Vec::new()).view().pointer().is_null());
        assert!(View::NONE.pointer().is_null());
        assert_eq!((View::NONE.len(), View::from(c"ab").len()), (0, 2));
    }
}
