//! What the fuzzers call, as plain functions: the gate runs them over the seeds without a fuzzer.
//!
//! Each panics when a promise is broken and returns otherwise, whatever the bytes.
#![allow(clippy::panic, clippy::expect_used, reason = "a panic is how a fuzz target tells what it found")]

pub mod sds;

use std::path::Path;

use seabed_kv::{Error, ErrorKind, KeyBuilder, KeyRange, KeyReader, ScanSpec, Store};

use crate::rng::Rng;

/// Reads any key with any schema. What was read and is written again is what was there, and what is not there moves nothing.
///
/// The first byte is the number of components, a byte for the kind of each follows, then comes the key.
///
/// # Panics
/// When a component reads back as something else.
pub fn keys(data: &[u8]) {
    let Some((count, rest)) = data.split_first() else { return };
    let Some((schema, key)) = rest.split_at_checked(usize::from(*count)) else { return };
    let mut reader = KeyReader::new(key);
    let mut builder = KeyBuilder::default();
    for kind in schema {
        let before = reader.rest();
        let unread = builder.clone();
        let read = match kind % 8 {
            0 => reader.str().map(|text| builder.str(text)),
            1 => reader.bytes().map(|bytes| builder.bytes(bytes)),
            2 => reader.int().map(|value| builder.int(value)),
            3 => reader.uint().map(|value| builder.uint(value)),
            4 => reader.bool().map(|value| builder.bool(value)),
            5 => reader.byte().map(|value| builder.byte(value)),
            6 => reader.text().map(|text| builder.text(&text)),
            _ => reader.blob().map(|bytes| builder.blob(&bytes)),
        };
        builder = if let Some(written) = read {
            written
        } else {
            assert_eq!(reader.rest(), before, "component {kind} is not there, and something was taken");
            unread
        };
    }
    let written = builder.build().expect("what was read fits");
    let consumed = key.len() - reader.rest().len();
    assert_eq!(Some(written.as_bytes()), key.get(..consumed), "read and written again");

    let range = KeyRange::prefix(&written);
    assert!(range.contains(key), "a key begins with its components");
    assert_eq!(range.contains(reader.rest()), reader.rest().starts_with(written.as_bytes()));
}

/// Takes the bytes as a tenant's file, and as its log where they say so. It is refused and left as it was, or it opens; then every
/// row can be asked for and answers or says that it is damaged, and a write is taken or refused.
///
/// With a log: the text `with log`, four bytes for the length of the file (big-endian), the file, the log.
///
/// # Panics
/// When a file that is refused was changed, or an error says something that cannot be.
pub fn file(data: &[u8]) {
    let root = tempfile::tempdir().expect("a directory for the file");
    let (database, log) = with_log(data).unwrap_or((data, None));
    let paths = [root.path().join("t.db"), root.path().join("t.db-wal")];
    let [database_path, log_path] = &paths;
    std::fs::write(database_path, database).expect("the file can be written");
    if let Some(log) = log {
        std::fs::write(log_path, log).expect("the log can be written");
    }
    let before = paths.each_ref().map(|path| read(path));

    let store = Store::sqlite(root.path()).expect("a directory is a root");
    match store.open("t").wait() {
        Err(error) => {
            told(&error, &[ErrorKind::Unsupported, ErrorKind::Corrupt]);
            drop(store);
            assert_eq!(paths.each_ref().map(|path| read(path)), before, "refused ({error}) and changed");
        }
        Ok(tenant) => {
            // What cannot be known from the outside of a damaged file shows while it is used.
            let damaged = [ErrorKind::Corrupt, ErrorKind::Backend, ErrorKind::InvalidArgument];
            let check = |result: Result<(), Error>| {
                if let Err(error) = result {
                    told(&error, &damaged);
                }
            };
            check(tenant.verify().wait().map(drop));
            match tenant.categories().wait() {
                Ok(categories) => {
                    for category in categories.into_iter().take(100) {
                        let spec = ScanSpec::new(&category, KeyRange::all());
                        check(tenant.scan(spec.clone()).collect().wait().map(drop));
                        check(tenant.scan(spec.reverse().keys_only()).collect().wait().map(drop));
                        check(tenant.count(&category, &KeyRange::all()).wait().map(drop));
                    }
                }
                Err(error) => told(&error, &damaged),
            }
            check(tenant.put("category", b"key", vec![7; 3_000]).wait());
            check(tenant.get("category", b"key").wait().map(drop));
            check(tenant.delete_prefix("category", b"k").wait().map(drop));
            check(store.close().wait());
        }
    }
}

fn with_log(data: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let (length, rest) = data.strip_prefix(b"with log")?.split_first_chunk()?;
    let (database, log) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    Some((database, Some(log)))
}

/// A log without a byte is no log: SQLite leaves one beside a file that it has looked at.
fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_default()
}

fn told(error: &Error, kinds: &[ErrorKind]) {
    assert!(kinds.contains(&error.kind()), "none of {kinds:?}: {error:?}");
}

/// The bytes with a few changes: bits flipped, parts cut out, doubled or overwritten with what breaks parsers.
pub fn mutate(seed: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=rng.below(4) {
        let at = rng.below(bytes.len());
        // Headers decide more than what follows them.
        let at = if rng.chance(1, 2) { at.min(rng.below(200)) } else { at };
        let end = bytes.len().min(at + 1 + rng.below(64));
        match rng.below(6) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let part = bytes.get(at..end).unwrap_or_default().to_vec();
                bytes.splice(at..at, part);
            }
            3 => bytes.get_mut(at..end).unwrap_or_default().fill(*rng.pick(&[0x00, 0x01, 0x7F, 0xFF])),
            _ => {
                for byte in bytes.get_mut(at..).unwrap_or_default().iter_mut().take(1) {
                    *byte ^= 1 << rng.below(8);
                }
            }
        }
    }
    bytes
}
