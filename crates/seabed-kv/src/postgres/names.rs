//! How a category and a key are stored: an index takes rows of some 2,700 bytes, the kernel longer names.
//!
//! What is short, as nearly everything is, is stored as it is. Of a longer category the column holds the head and the SHA-256 of the
//! whole, of a longer key the head; `digest` is the SHA-256 of the rest of the key, so that both together are unique, and the rest itself
//! stands beside them, outside the index. Keys sort by (`key`, `tail`): a head sorts before everything it is the head of.

use std::borrow::Cow;

use sha2::{Digest as _, Sha256};

/// How long a category may be that is stored as it is.
const CATEGORY_HEAD_BYTES_MAX: usize = 255;

/// How long a key may be that is stored as it is.
const KEY_HEAD_BYTES_MAX: usize = 2_000;

/// A category, cut in two where it is long.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Category<'a> {
    pub(super) column: Cow<'a, [u8]>,
    pub(super) tail: &'a [u8],
}

impl<'a> Category<'a> {
    pub(super) fn new(category: &'a [u8]) -> Self {
        match category.split_at_checked(CATEGORY_HEAD_BYTES_MAX) {
            Some((head, tail)) if !tail.is_empty() => {
                let column = [head, Sha256::digest(category).as_slice()].concat();
                Self { column: Cow::Owned(column), tail }
            }
            _ => Self { column: Cow::Borrowed(category), tail: b"" },
        }
    }

    /// The category again, from its columns.
    pub(super) fn join(column: &[u8], tail: &[u8]) -> Vec<u8> {
        if tail.is_empty() {
            return column.to_vec();
        }
        let head = column.get(..CATEGORY_HEAD_BYTES_MAX).unwrap_or(column);
        [head, tail].concat()
    }
}

/// A key, cut in two where it is long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cut<'a> {
    pub(super) head: &'a [u8],
    pub(super) tail: &'a [u8],
}

impl<'a> Cut<'a> {
    pub(super) fn new(key: &'a [u8]) -> Self {
        let (head, tail) = key.split_at_checked(KEY_HEAD_BYTES_MAX).unwrap_or((key, b""));
        Self { head, tail }
    }

    /// The end of a range: what it ends before, where nothing means that it has no end.
    pub(super) fn stop(key: &'a [u8]) -> Self {
        /// Sorts after every head.
        const END: &[u8] = &[0xff; KEY_HEAD_BYTES_MAX + 1];
        if key.is_empty() { Self { head: END, tail: b"" } } else { Self::new(key) }
    }

    /// What tells apart long keys of one head.
    pub(super) fn digest(&self) -> Vec<u8> {
        if self.tail.is_empty() { Vec::new() } else { Sha256::digest(self.tail).to_vec() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_sorts_as_the_whole() {
        let long = |byte, length| {
            let mut key = vec![b'k'; KEY_HEAD_BYTES_MAX];
            key.extend(vec![byte; length]);
            key
        };
        let mut keys = [
            vec![],
            vec![b'k'],
            long(0, 0),
            long(0, 1),
            long(0, 9),
            long(7, 3),
            vec![0xff; 300],
            vec![0xff; 5_000],
        ];
        keys.sort();
        let cut: Vec<_> = keys.iter().map(|key| Cut::new(key)).collect();
        assert!(cut.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(cut.iter().all(|cut| *cut < Cut::stop(b"")), "no key is beyond a range without an end");
    }

    #[test]
    fn a_category_comes_back_and_none_is_taken_for_another() {
        let categories = [0, 1, 254, 255, 256, 287, 288, 65_535].map(|length| vec![b'c'; length]);
        let columns = categories.each_ref().map(|category| Category::new(category));
        for (category, stored) in categories.iter().zip(&columns) {
            assert_eq!(&Category::join(&stored.column, stored.tail), category);
            assert!(stored.column.len() <= CATEGORY_HEAD_BYTES_MAX + 32);
        }
        let distinct: std::collections::BTreeSet<_> = columns.iter().map(|stored| &stored.column).collect();
        assert_eq!(distinct.len(), categories.len());
    }
}
