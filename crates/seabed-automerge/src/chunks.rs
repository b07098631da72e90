//! Automerge's chunks: where each ends, whether it is whole, and what changes say of themselves.
//!
//! A stored stream is chunks one after the other: four bytes of magic, four of checksum, one of type, the length in LEB128, then the
//! contents. automerge reads a stream up to the first chunk that is damaged, and drops what follows; so each is looked at before.

use automerge::{Bundle, Change, ChangeHash};
use sha2::{Digest as _, Sha256};

use crate::meta::read_number;

const MAGIC: [u8; 4] = [0x85, 0x6F, 0x4A, 0x83];

/// How long the length of a chunk may be, in bytes.
const LENGTH_BYTES_MAX: usize = 10;

/// What is in a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Document,
    Change,
    Compressed,
    Bundle,
}

/// One chunk of a stream, not yet known to be whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk<'a> {
    pub(crate) kind: Kind,
    /// All of it, with its head.
    pub(crate) bytes: &'a [u8],
    checksum: [u8; 4],
    /// The type, the length, the contents: what the checksum is of.
    summed: &'a [u8],
}

/// Takes the first chunk off a stream; `None` when there is none.
pub(crate) fn take<'a>(stream: &mut &'a [u8]) -> Option<Chunk<'a>> {
    let (magic, rest) = stream.split_first_chunk::<4>()?;
    let (checksum, summed) = rest.split_first_chunk::<4>()?;
    let (kind, rest) = summed.split_first()?;
    let kind = match kind {
        0 => Kind::Document,
        1 => Kind::Change,
        2 => Kind::Compressed,
        3 => Kind::Bundle,
        _ => return None,
    };
    if *magic != MAGIC {
        return None;
    }
    let mut length = 0_usize;
    for (position, byte) in rest.iter().take(LENGTH_BYTES_MAX).enumerate() {
        let shift = u32::try_from(position * 7).ok()?;
        let part = usize::from(byte & 0x7F);
        length |= part.checked_shl(shift).filter(|shifted| shifted.checked_shr(shift) == Some(part))?;
        if byte & 0x80 == 0 {
            let summed = summed.get(..length.checked_add(position + 2)?)?;
            let (bytes, after) = stream.split_at_checked(summed.len() + 8)?;
            *stream = after;
            return Some(Chunk { kind, bytes, checksum: *checksum, summed });
        }
    }
    None
}

impl Chunk<'_> {
    /// The heads of the document that it is, which stand behind its actors; `None` when it is another kind of chunk, or does not read.
    pub(crate) fn heads(&self) -> Option<Vec<ChangeHash>> {
        if self.kind != Kind::Document {
            return None;
        }
        let mut rest = self.summed.get(1..)?;
        read_number(&mut rest)?;
        for _ in 0..read_number(&mut rest)? {
            let length = usize::try_from(read_number(&mut rest)?).ok()?;
            rest = rest.get(length..)?;
        }
        let mut heads = Vec::new();
        for _ in 0..read_number(&mut rest)? {
            let (head, after) = rest.split_first_chunk::<32>()?;
            heads.push(ChangeHash(*head));
            rest = after;
        }
        Some(heads)
    }

    /// The change that it is; `None` when it is another kind of chunk, or is not whole.
    pub(crate) fn change(&self) -> Option<Change> {
        if !matches!(self.kind, Kind::Change | Kind::Compressed) {
            return None;
        }
        let change = guarded(|| Change::try_from(self.bytes).ok()).ok().flatten()?;
        change.hash().as_ref().starts_with(&self.checksum).then_some(change)
    }

    /// The changes of the bundle that it is; none when it is another kind of chunk, or does not read.
    pub(crate) fn bundled(&self) -> Vec<Change> {
        if self.kind != Kind::Bundle {
            return Vec::new();
        }
        let read = guarded(|| Bundle::try_from(self.bytes).ok()?.to_changes().ok());
        read.ok().flatten().unwrap_or_default()
    }

    /// Whether its contents are what its checksum was made of.
    pub(crate) fn is_whole(&self) -> bool {
        match self.kind {
            Kind::Document | Kind::Bundle => Sha256::digest(self.summed).starts_with(&self.checksum),
            // The checksum of a compressed change is that of what it holds.
            Kind::Change | Kind::Compressed => self.change().is_some(),
        }
    }
}

/// What of a stream can be read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sifted<'a> {
    pub(crate) whole: Vec<Chunk<'a>>,
    /// Why not everything is; `None` when it is.
    pub(crate) flaw: Option<String>,
}

/// Takes a stream apart. Behind a chunk whose contents are damaged it goes on; behind a head that is, nobody knows where the next begins.
pub(crate) fn sift(stream: &[u8]) -> Sifted<'_> {
    let (mut sifted, mut rest) = (Sifted::default(), stream);
    while !rest.is_empty() {
        let at = stream.len() - rest.len();
        match take(&mut rest) {
            Some(chunk) if chunk.is_whole() => sifted.whole.push(chunk),
            Some(chunk) => {
                sifted
                    .flaw
                    .get_or_insert(format!("the chunk of {} bytes at {at} is damaged", chunk.bytes.len()));
            }
            None => {
                let lost = rest.len();
                sifted
                    .flaw
                    .get_or_insert(format!("no chunk begins at {at}; the last {lost} bytes do not read"));
                break;
            }
        }
    }
    sifted
}

/// The changes of a stream that is nothing but whole changes.
pub(crate) fn changes(stream: &[u8]) -> Option<Vec<Change>> {
    let (mut changes, mut rest) = (Vec::new(), stream);
    while !rest.is_empty() {
        changes.push(take(&mut rest)?.change()?);
    }
    Some(changes)
}

/// Runs what automerge does with bytes from elsewhere. It panics now and then (upstream issue 1187 was met in production); what it was
/// working on is then to be dropped.
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
    })
}

/// Takes `data` as a stored stream: nothing may panic, chunks lie where they are said to, and what is whole loads.
#[doc(hidden)]
pub fn fuzz_chunks(data: &[u8]) {
    let sifted = sift(data);
    for chunk in &sifted.whole {
        chunk.heads();
    }
    let whole: Vec<u8> = sifted.whole.iter().flat_map(|chunk| chunk.bytes).copied().collect();
    assert!(whole.len() <= data.len(), "chunks overlap");
    assert_eq!(sifted.flaw.is_none(), whole == data, "what is missing is told");
    let again = sift(&whole);
    assert_eq!((again.flaw, again.whole.len()), (None, sifted.whole.len()), "whole once, whole always");
    if changes(data).is_some() {
        assert!(sifted.flaw.is_none(), "changes are chunks");
    }
    let pieces = [crate::salvage::Piece::of(data.to_vec())];
    let salvaged = crate::salvage::salvage(&pieces);
    assert!(sifted.flaw.is_none() || !salvaged.damaged.is_empty(), "a flaw is damage");
}

#[cfg(test)]
mod tests {
    use automerge::transaction::Transactable as _;
    use automerge::{Automerge, AutomergeError, ROOT};

    use super::*;

    fn document(changes: usize) -> Automerge {
        let mut document = Automerge::new();
        for number in 0..changes {
            document
                .transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, "key", "x".repeat(number * 200)))
                .unwrap();
        }
        document
    }

    #[test]
    fn streams_are_taken_apart_where_automerge_put_them_together() {
        let document = document(5);
        let mut stream = document.save();
        let mut changes = document.get_changes(&[]);
        for change in &mut changes {
            stream.extend_from_slice(&change.bytes());
        }
        let sifted = sift(&stream);
        assert_eq!(sifted.flaw, None);
        let kinds: Vec<_> = sifted.whole.iter().map(|chunk| chunk.kind).collect();
        assert_eq!(kinds[..2], [Kind::Document, Kind::Change]);
        assert_eq!(kinds[5], Kind::Compressed, "{kinds:?}");
        assert_eq!(sifted.whole[0].heads(), Some(document.get_heads()));
        let read: Vec<_> = sifted.whole[1..].iter().map(|chunk| chunk.change().unwrap().hash()).collect();
        assert_eq!(read, changes.iter().map(Change::hash).collect::<Vec<_>>());
    }

    #[test]
    fn any_flipped_bit_is_found_and_the_chunks_around_it_are_kept() {
        let document = document(3);
        let stream = document.save_after(&[]);
        let first = document.get_changes(&[])[0].raw_bytes().len();
        for at in 0..stream.len() {
            let mut flipped = stream.clone();
            flipped[at] ^= 0x10;
            let sifted = sift(&flipped);
            assert!(sifted.flaw.is_some(), "at {at}");
            assert!(at < first || !sifted.whole.is_empty(), "at {at}");
            if at % 9 == 0 {
                fuzz_chunks(&flipped);
            }
        }
        for length in (1..stream.len()).step_by(9) {
            fuzz_chunks(&stream[..length]);
        }
    }

    #[test]
    fn a_length_beyond_all_memory_is_no_chunk() {
        let mut stream = [&MAGIC[..], &[0; 4], &[1]].concat();
        stream.extend([0xFF; 9]);
        stream.push(1);
        assert_eq!(take(&mut &stream[..]), None);
        *stream.last_mut().unwrap() = 0xFF;
        stream.push(1);
        assert_eq!(take(&mut &stream[..]), None);
    }
}
