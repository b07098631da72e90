//! What is new in a document since peers were told of it: the same for all who were told the same.

use std::collections::{BTreeMap, BTreeSet};

use automerge::sync::{BloomFilter, ChunkList, Have, Message, MessageFlags, MessageVersion};
use automerge::{Change, ChangeHash};

/// The changes since some heads, and how they are told.
#[derive(Debug)]
pub(super) struct News {
    since: Vec<ChangeHash>,
    heads: Vec<ChangeHash>,
    /// What a change rests on stands before it.
    changes: Vec<Change>,
    places: BTreeMap<ChangeHash, usize>,
}

impl News {
    /// Of all changes since `since`, in an order in which they can be applied.
    pub(super) fn new(since: &[ChangeHash], heads: Vec<ChangeHash>, changes: Vec<Change>) -> Self {
        let places = changes.iter().enumerate().map(|(place, change)| (change.hash(), place)).collect();
        Self { since: since.to_vec(), heads, changes, places }
    }

    pub(super) fn since(&self) -> &[ChangeHash] {
        &self.since
    }

    /// What to tell somebody who has these heads, and everything up to [`since`](Self::since). The message brings everything that its heads
    /// rest on, so they are what both have then, and no filter has to say more.
    pub(super) fn message(&self, their_heads: &[ChangeHash], read_only: bool) -> Message {
        let known = self.known(their_heads);
        let lacking = self.changes.iter().enumerate().filter(|(place, _)| !known.contains(place));
        let mut stream = Vec::new();
        for (_, change) in lacking {
            stream.extend_from_slice(change.raw_bytes());
        }
        let mut flags = MessageFlags::new();
        flags.set(MessageFlags::SUPPORTS_SYNC_RESET);
        if read_only {
            flags.set(MessageFlags::READ_ONLY);
        }
        Message {
            heads: self.heads.clone(),
            need: Vec::new(),
            have: vec![Have { last_sync: self.heads.clone(), bloom: BloomFilter::default() }],
            changes: if stream.is_empty() { ChunkList::empty() } else { ChunkList::from(stream) },
            flags: Some(flags),
            version: MessageVersion::V2,
        }
    }

    /// Which of the changes somebody has who has these heads.
    fn known(&self, heads: &[ChangeHash]) -> BTreeSet<usize> {
        let mut known = BTreeSet::new();
        let mut next: Vec<_> = heads.iter().filter_map(|head| self.places.get(head)).copied().collect();
        while let Some(place) = next.pop() {
            if known.insert(place)
                && let Some(change) = self.changes.get(place)
            {
                next.extend(change.deps().iter().filter_map(|dependency| self.places.get(dependency)));
            }
        }
        known
    }
}
