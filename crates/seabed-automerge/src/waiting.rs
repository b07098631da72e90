//! Changes that wait for others: how many bytes of them a document in memory may take in.
//!
//! A peer may send changes that rest on what it never sends. automerge keeps them in memory, and has no bound for them.

use std::collections::{BTreeMap, BTreeSet};

use automerge::{Change, ChangeHash};

use crate::chunks::{self, Kind};
use crate::engine::Engine;
use crate::limits::WAITING_BYTES_MAX;

/// How much waits in a document, at most: counted exactly only when that matters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    bytes: usize,
}

impl Waiting {
    /// Whether a stream of changes may be given to the document; otherwise how many bytes would wait then. What rests on nothing that is
    /// missing is always taken.
    pub(crate) fn admit<D: Engine>(
        &mut self,
        document: &mut D,
        bytes: usize,
        changes: impl FnOnce() -> Vec<Change>,
    ) -> Result<(), usize> {
        if self.bytes.saturating_add(bytes) <= WAITING_BYTES_MAX {
            return Ok(());
        }
        self.bytes = document.waiting().iter().map(|change| change.raw_bytes().len()).sum();
        if self.bytes.saturating_add(bytes) <= WAITING_BYTES_MAX {
            return Ok(());
        }
        let come = would_wait(document, &changes());
        let all = self.bytes.saturating_add(come);
        if come == 0 || all <= WAITING_BYTES_MAX { Ok(()) } else { Err(all) }
    }

    /// How many bytes wait, at most.
    #[cfg(feature = "http")]
    pub(crate) fn bytes(self) -> usize {
        self.bytes
    }

    /// The document has taken so many bytes.
    pub(crate) fn taken<D: Engine>(&mut self, document: &mut D, bytes: usize) {
        self.bytes = if document.has_waiting() { self.bytes.saturating_add(bytes) } else { 0 };
    }
}

/// How many bytes of these changes rest on what neither the document has nor comes with them.
fn would_wait<D: Engine>(document: &mut D, changes: &[Change]) -> usize {
    let mut left: BTreeMap<ChangeHash, &Change> =
        changes.iter().map(|change| (change.hash(), change)).collect();
    let mut dependents: BTreeMap<ChangeHash, Vec<ChangeHash>> = BTreeMap::new();
    let mut open: BTreeMap<ChangeHash, usize> = BTreeMap::new();
    let mut ready = Vec::new();
    for (hash, change) in &left {
        let deps: BTreeSet<_> = change.deps().iter().filter(|dep| !document.has(dep)).collect();
        if deps.is_empty() {
            ready.push(*hash);
        }
        open.insert(*hash, deps.len());
        for dep in deps {
            dependents.entry(*dep).or_default().push(*hash);
        }
    }
    while let Some(hash) = ready.pop() {
        left.remove(&hash);
        for dependent in dependents.remove(&hash).unwrap_or_default() {
            if let Some(open) = open.get_mut(&dependent) {
                *open = open.saturating_sub(1);
                if *open == 0 {
                    ready.push(dependent);
                }
            }
        }
    }
    left.values().map(|change| change.raw_bytes().len()).sum()
}

/// At most how many bytes of a stream may wait in a document. One that holds more than it has bytes counts for the whole bound.
pub(crate) fn weight(mut stream: &[u8]) -> usize {
    let mut bytes = 0_usize;
    while let Some(chunk) = chunks::take(&mut stream) {
        bytes = bytes.saturating_add(match chunk.kind {
            Kind::Change | Kind::Compressed => chunk.bytes.len(),
            // Says itself what it has, and rests on nothing.
            Kind::Document => 0,
            Kind::Bundle => WAITING_BYTES_MAX,
        });
    }
    bytes
}

/// The changes of a message's streams. What does not read as one, automerge refuses.
pub(crate) fn changes_of<'a>(streams: impl Iterator<Item = &'a [u8]>) -> Vec<Change> {
    let mut changes = Vec::new();
    for stream in streams {
        for chunk in chunks::sift(stream).whole {
            match chunk.kind {
                Kind::Change | Kind::Compressed => changes.extend(chunk.change()),
                Kind::Document => {}
                Kind::Bundle => changes.extend(chunk.bundled()),
            }
        }
    }
    changes
}
