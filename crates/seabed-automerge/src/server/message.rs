//! Sync messages as they come. automerge believes what they say of themselves, so it is looked at before.

use std::collections::BTreeSet;

use automerge::sync::{ChunkList, Message};

use super::limits::{SYNC_HASHES_MAX, SYNC_HAVES_MAX};
use crate::meta::read_number;

/// How long a hash is, in bytes.
const HASH_BYTES: usize = 32;

/// What every Bloom filter of automerge's, in Rust and JavaScript, has for each hash in it: so many bits, and so many of them set. Other
/// numbers are in the message as well, and make automerge divide by zero or ask for any amount of memory.
const FILTER_BITS: u64 = 10;
const FILTER_PROBES: u64 = 7;

/// Reads one sync message; `Err` says what is wrong with it. With how many bytes of it are kept after it was received: all but the changes.
pub(super) fn read(data: &[u8]) -> Result<(Message, usize), String> {
    let mut rest = data.get(1..).ok_or("it is empty")?;
    distinct(hashes(&mut rest, "heads")?, "heads")?;
    distinct(hashes(&mut rest, "needs")?, "needs")?;
    let haves = number(&mut rest)?;
    if haves > SYNC_HAVES_MAX as u64 {
        return Err(format!("{haves} haves, more than the {SYNC_HAVES_MAX} allowed (SYNC_HAVES_MAX)"));
    }
    for _ in 0..haves {
        hashes(&mut rest, "hashes of the last sync")?;
        filter(bytes(&mut rest)?)?;
    }
    let head_bytes = data.len() - rest.len();
    let mut changes = Vec::new();
    for _ in 0..number(&mut rest)? {
        // In one piece, as automerge takes them: a vector for each would take more than what it holds.
        changes.extend_from_slice(bytes(&mut rest)?);
    }
    let head = data.get(..head_bytes).unwrap_or_default();
    let without_changes = [head, &[0], rest].concat();
    let mut message = Message::decode(&without_changes).map_err(|error| error.to_string())?;
    if !changes.is_empty() {
        message.changes = ChunkList::from(changes);
    }
    Ok((message, head_bytes))
}

fn number(rest: &mut &[u8]) -> Result<u64, String> {
    read_number(rest).ok_or_else(|| "it ends early".to_owned())
}

/// So many bytes as the number before them says.
fn bytes<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], String> {
    let length = usize::try_from(number(rest)?).map_err(|error| error.to_string())?;
    let (bytes, after) = rest.split_at_checked(length).ok_or("it ends early")?;
    *rest = after;
    Ok(bytes)
}

/// So many hashes as the number before them says.
fn hashes<'a>(rest: &mut &'a [u8], name: &str) -> Result<&'a [u8], String> {
    let count = number(rest)?;
    let allowed = usize::try_from(count).ok().filter(|count| *count <= SYNC_HASHES_MAX);
    let count = allowed.ok_or_else(|| {
        format!("{count} {name}, more than the {SYNC_HASHES_MAX} allowed (SYNC_HASHES_MAX)")
    })?;
    let (hashes, after) = rest.split_at_checked(count * HASH_BYTES).ok_or("it ends early")?;
    *rest = after;
    Ok(hashes)
}

/// automerge sends what is needed twice twice.
fn distinct(hashes: &[u8], name: &str) -> Result<(), String> {
    let hashes = hashes.chunks_exact(HASH_BYTES);
    let count = hashes.len();
    let distinct: BTreeSet<_> = hashes.collect();
    if distinct.len() == count { Ok(()) } else { Err(format!("its {name} repeat themselves")) }
}

fn filter(mut filter: &[u8]) -> Result<(), String> {
    if filter.is_empty() || number(&mut filter)? == 0 {
        return Ok(());
    }
    let (bits, probes) = (number(&mut filter)?, number(&mut filter)?);
    if (bits, probes) != (FILTER_BITS, FILTER_PROBES) {
        return Err(format!(
            "a Bloom filter of {bits} bits and {probes} probes; automerge's have {FILTER_BITS} and {FILTER_PROBES}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use automerge::sync::{State, SyncDoc as _};
    use automerge::{Automerge, ChangeHash};

    use super::super::replica::tests::edited;
    use super::*;

    /// A message with nothing but a Bloom filter of one hash.
    fn filtered(parameters: &[u8]) -> Vec<u8> {
        let length = u8::try_from(parameters.len()).unwrap();
        [&[0x42, 0, 0, 1, 0, length], parameters, &[0]].concat()
    }

    fn refused(data: &[u8]) -> String {
        read(data).unwrap_err()
    }

    #[test]
    fn what_automerge_writes_reads_as_it_was() {
        let (mut ours, mut theirs) = (Automerge::new(), Automerge::new());
        for number in 0..50 {
            edited(&mut ours, &number.to_string());
            edited(&mut theirs, &number.to_string());
        }
        let (mut our_state, mut their_state) = (State::new(), State::new());
        let mut changes = 0;
        for _ in 0..10 {
            if let Some(message) = ours.generate_sync_message(&mut our_state) {
                let encoded = message.clone().encode();
                let (mut read, kept) = read(&encoded).unwrap();
                let whole: Vec<u8> = message.changes.iter().flatten().copied().collect();
                assert_eq!(read.changes.iter().flatten().copied().collect::<Vec<_>>(), whole);
                assert!(kept + whole.len() < encoded.len());
                changes += whole.len();
                read.changes = message.changes.clone();
                assert_eq!(read, message);
                theirs.receive_sync_message(&mut their_state, read).unwrap();
            }
            std::mem::swap(&mut ours, &mut theirs);
            std::mem::swap(&mut our_state, &mut their_state);
        }
        assert_eq!(ours.get_heads(), theirs.get_heads());
        assert!(changes > 0);
    }

    #[test]
    fn a_filter_that_automerge_does_not_write_is_refused_before_it_asks_for_memory() {
        assert!(read(&filtered(&[])).is_ok());
        assert!(read(&filtered(&[1, 10, 7, 0, 0])).is_ok());
        // 2^32 - 1 probes, no bits, one probe more, one bit less.
        for parameters in
            [&[1, 8, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 0][..], &[1, 0, 7], &[1, 10, 8, 0, 0], &[1, 9, 7, 0, 0]]
        {
            assert!(refused(&filtered(parameters)).contains("a Bloom filter"), "{parameters:?}");
        }
    }

    #[test]
    fn counts_have_bounds() {
        let count = |count: usize| {
            let (low, middle) = (count & 0x7F | 0x80, count >> 7 & 0x7F | 0x80);
            [low, middle, count >> 14].map(|byte| u8::try_from(byte).unwrap())
        };
        let many = vec![7; (SYNC_HASHES_MAX + 1) * HASH_BYTES];
        let heads = [&[0x42][..], &count(SYNC_HASHES_MAX + 1), &many].concat();
        assert!(refused(&heads).contains("heads, more than"));
        let needs = [&[0x42, 0][..], &count(SYNC_HASHES_MAX + 1), &many].concat();
        assert!(refused(&needs).contains("SYNC_HASHES_MAX"));
        let haves = u8::try_from(SYNC_HAVES_MAX).unwrap() + 1;
        let haves = [&[0x42, 0, 0, haves][..], &[0; 100]].concat();
        assert!(refused(&haves).contains("SYNC_HAVES_MAX"));
        let twice = [&[0x42, 0, 2][..], &[7; 2 * HASH_BYTES], &[0, 0]].concat();
        assert!(refused(&twice).contains("repeat"));
        let once = [&[0x42, 0, 1][..], &[7; HASH_BYTES], &[0, 0]].concat();
        assert_eq!(read(&once).unwrap().0.need, [ChangeHash([7; HASH_BYTES])]);
        // A million changes without a byte take no memory, and are none.
        let empty = [&[0x42, 0, 0, 0][..], &count(1_000_000), &vec![0; 1_000_000]].concat();
        assert!(read(&empty).unwrap().0.changes.is_empty());
        for length in 0..once.len() {
            assert!(read(&once[..length]).is_err());
        }
    }
}
