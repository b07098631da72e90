//! A document in memory, and what of it is stored.

use std::collections::BTreeSet;

use automerge::sync::{ChunkList, Message, State, SyncDoc as _};
use automerge::{Automerge, AutomergeError, Change, ChangeHash, ReadDoc as _, SaveOptions};

use super::news::News;
use crate::chunks;
use crate::engine::receiving;
use crate::limits::WAITING_BYTES_MAX;
use crate::meta::Meta;
use crate::salvage;
use crate::waiting::{self, Waiting};

/// What a document takes in memory beside what it is made of.
const RESIDENT_BYTES_MIN: u64 = 16 * 1024;
/// What an operation takes in memory, about.
const OPERATION_BYTES: u64 = 32;

/// The document, and the heads up to which it is stored. Heads are enough: whatever they rest on is stored too.
#[derive(Debug)]
pub(super) struct Replica {
    automerge: Automerge,
    stored: Vec<ChangeHash>,
    /// How many bytes of changes were received that are not stored yet.
    unstored_bytes: usize,
    /// `None` until there is something to store.
    pub(super) meta: Option<Meta>,
    /// Whether changes that wait for others are stored, so that a snapshot must have them.
    stored_orphans: bool,
    /// How much of what has arrived waits for what has not.
    waiting: Waiting,
    /// Too much of it would have waited.
    overgrown: bool,
    /// automerge has refused something.
    doubtful: bool,
}

impl Replica {
    /// Of a document as it was loaded.
    pub(super) fn new(automerge: Automerge, meta: Option<Meta>) -> Self {
        let stored = automerge.get_heads();
        let stored_orphans = !automerge.get_missing_deps(&[]).is_empty();
        let waiting = Waiting::default();
        Self {
            automerge,
            stored,
            unstored_bytes: 0,
            meta,
            stored_orphans,
            waiting,
            overgrown: false,
            doubtful: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.automerge.get_heads().is_empty()
    }

    pub(super) fn heads(&self) -> Vec<ChangeHash> {
        self.automerge.get_heads()
    }

    pub(super) fn has(&self, hash: &ChangeHash) -> bool {
        self.automerge.get_change_meta_by_hash(hash).is_some()
    }

    /// Whether all of these are here, whatever waits for others.
    pub(super) fn has_all(&self, hashes: &[ChangeHash]) -> bool {
        hashes.iter().all(|hash| self.has(hash))
    }

    /// The changes that are not behind these heads.
    pub(super) fn hashes_since(&self, heads: &[ChangeHash]) -> Vec<ChangeHash> {
        self.automerge.get_changes_meta(heads).into_iter().map(|change| change.hash).collect()
    }

    /// What is new since these heads.
    pub(super) fn news(&self, since: &[ChangeHash]) -> News {
        News::new(since, self.heads(), self.automerge.get_changes(since))
    }

    /// Takes a message of a peer; the error is a reason to cut the peer off.
    pub(super) fn receive(&mut self, state: &mut State, message: Message) -> Result<(), String> {
        #[cfg(test)]
        assert!(!message.need.contains(&tests::POISON), "the test asked for a panic");
        let bytes = if state.read_only { 0 } else { weight(&message.changes) };
        self.admit(&message.changes, bytes)?;
        let received = receiving(state, |state| self.automerge.receive_sync_message(state, message));
        self.taken(bytes, received)
    }

    /// Takes the changes of a message, whatever else it says; the error is a reason to cut the peer off.
    pub(super) fn take(&mut self, changes: &ChunkList) -> Result<(), String> {
        let bytes = weight(changes);
        self.admit(changes, bytes)?;
        let taken = changes.iter().try_for_each(|stream| self.automerge.load_incremental(stream).map(drop));
        self.taken(bytes, taken)
    }

    /// Whether changes of so many bytes may be given to automerge.
    fn admit(&mut self, changes: &ChunkList, bytes: usize) -> Result<(), String> {
        let admitted = self.waiting.admit(&mut self.automerge, bytes, || waiting::changes_of(changes.iter()));
        admitted.map_err(|bytes| {
            self.overgrown = true;
            format!(
                "changes of {bytes} bytes would wait for others that are not here, more than the {WAITING_BYTES_MAX} allowed \
                 (WAITING_BYTES_MAX)"
            )
        })
    }

    /// automerge was given changes of so many bytes.
    fn taken(&mut self, bytes: usize, taken: Result<(), AutomergeError>) -> Result<(), String> {
        if let Err(error) = taken {
            self.doubtful = true;
            return Err(error.to_string());
        }
        self.unstored_bytes = self.unstored_bytes.saturating_add(bytes);
        if bytes > 0 {
            self.waiting.taken(&mut self.automerge, bytes);
        }
        Ok(())
    }

    /// Whether automerge has refused something, and so may have dropped changes that wait for others, stored ones too: it is to be loaded
    /// again when what is new in it is stored.
    pub(super) fn is_doubtful(&self) -> bool {
        self.doubtful
    }

    /// Whether too much would wait for changes that do not come: it is to be loaded again, without what waits.
    pub(super) fn is_overgrown(&self) -> bool {
        self.overgrown
    }

    /// What to tell a peer, as far as there is something to tell.
    pub(super) fn generate(&self, state: &mut State) -> Option<Message> {
        #[cfg(test)]
        assert!(
            !state.their_need.iter().flatten().any(|hash| *hash == tests::POISONED_ANSWER),
            "the test asked for a panic"
        );
        let mut message = self.automerge.generate_sync_message(state)?;
        // A whole document would bring with it what waits for other changes, and is stored nowhere.
        if has_document(&message.changes) && !self.automerge.get_missing_deps(&[]).is_empty() {
            message.changes = ChunkList::from(self.save_applied());
        }
        Some(message)
    }

    /// What is not stored yet.
    pub(super) fn unstored(&self) -> Vec<Change> {
        if self.stored == self.automerge.get_heads() {
            Vec::new()
        } else {
            self.automerge.get_changes(&self.stored)
        }
    }

    /// Everything in memory is stored now.
    pub(super) fn set_stored(&mut self, meta: Meta) {
        self.stored = self.automerge.get_heads();
        self.unstored_bytes = 0;
        self.meta = Some(meta);
    }

    /// Takes in what others have stored after what was seen here: single changes, in the order in which they were stored. `false`
    /// when that is something else, and the document is to be read as a whole.
    pub(super) fn absorb_changes(&mut self, stream: &[u8], meta: &Meta) -> Result<bool, String> {
        let Some(changes) = chunks::changes(stream) else { return Ok(false) };
        let mut stored: BTreeSet<_> = self.stored.iter().copied().collect();
        for change in &changes {
            for dependency in change.deps() {
                stored.remove(dependency);
            }
            stored.insert(change.hash());
        }
        self.automerge.apply_changes(changes).map_err(|error| error.to_string())?;
        // One that waits for others is no head.
        if stored.iter().any(|hash| !self.has(hash)) {
            return Ok(false);
        }
        self.stored = stored.into_iter().collect();
        self.meta = Some(meta.clone());
        Ok(true)
    }

    /// Takes in the whole document as others have stored it.
    pub(super) fn absorb_document(&mut self, bytes: &[u8], meta: Meta) -> Result<(), String> {
        let mut theirs = salvage::load(bytes)?;
        self.automerge.merge(&mut theirs).map_err(|error| error.to_string())?;
        self.stored = theirs.get_heads();
        self.stored_orphans |= !theirs.get_missing_deps(&[]).is_empty();
        self.meta = Some(meta);
        Ok(())
    }

    /// The snapshot that may take the place of everything stored; `None` while that is not to be.
    pub(super) fn snapshot(&mut self) -> Option<Vec<u8>> {
        if self.stored_orphans {
            self.stored_orphans = !self.automerge.get_missing_deps(&[]).is_empty();
        }
        let whole = !self.doubtful && !self.stored_orphans && self.stored == self.automerge.get_heads();
        whole.then(|| self.save_applied())
    }

    /// Without what waits for other changes.
    fn save_applied(&self) -> Vec<u8> {
        self.automerge.save_with_options(SaveOptions { retain_orphans: false, ..SaveOptions::default() })
    }

    /// How many bytes a message about the document has at most, about.
    pub(super) fn message_bytes_most(&self) -> usize {
        usize::try_from(self.stored_bytes()).unwrap_or(usize::MAX).saturating_add(self.unstored_bytes)
    }

    fn stored_bytes(&self) -> u64 {
        self.meta.as_ref().map_or(0, |meta| meta.change_bytes.saturating_add(meta.snapshot_bytes))
    }

    /// About how many bytes of memory the document takes.
    pub(super) fn resident_bytes(&self) -> u64 {
        let stored = self.stored_bytes();
        let operations = self.automerge.stats().num_ops.saturating_mul(OPERATION_BYTES);
        let orphans = self.waiting.bytes() as u64;
        RESIDENT_BYTES_MIN.saturating_add(stored).saturating_add(operations).saturating_add(orphans)
    }
}

/// Whether a message brings a whole document, and not single changes.
fn has_document(changes: &ChunkList) -> bool {
    changes
        .iter()
        .any(|mut stream| chunks::take(&mut stream).is_some_and(|chunk| chunk.kind == chunks::Kind::Document))
}

/// At most how many bytes of changes may wait for others.
fn weight(changes: &ChunkList) -> usize {
    changes.iter().map(waiting::weight).fold(0, usize::saturating_add)
}

#[cfg(test)]
pub(super) mod tests {
    use automerge::ROOT;
    use automerge::sync::MessageVersion;
    use automerge::transaction::Transactable as _;

    use super::*;

    /// Whoever says that they need this makes automerge panic, as far as the server can tell.
    pub(crate) const POISON: ChangeHash = ChangeHash([0xEE; 32]);
    /// The same, only when it is answered.
    pub(crate) const POISONED_ANSWER: ChangeHash = ChangeHash([0xDD; 32]);

    pub(crate) fn edited(document: &mut Automerge, key: &str) {
        document.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, key, key)).unwrap();
    }

    fn meta(changes: u64) -> Meta {
        Meta { changes, ..Meta::default() }
    }

    #[test]
    fn what_others_have_stored_is_not_stored_again() {
        let mut shared = Automerge::new();
        edited(&mut shared, "first");
        let mut ours = Replica::new(shared.fork(), Some(meta(1)));
        let mut theirs = shared.fork();
        edited(&mut theirs, "theirs");
        edited(&mut ours.automerge, "ours");
        let stream: Vec<u8> = theirs.save_after(&shared.get_heads());
        assert_eq!(ours.absorb_changes(&stream, &meta(2)), Ok(true));
        let unstored = ours.unstored();
        assert_eq!(unstored.len(), 1);
        assert_eq!(unstored[0].actor_id(), ours.automerge.get_actor());
        ours.set_stored(meta(3));
        assert!(ours.unstored().is_empty() && ours.snapshot().is_some());

        // As a whole: the same.
        let mut again = Replica::new(shared.fork(), Some(meta(1)));
        edited(&mut again.automerge, "again");
        again.absorb_document(&theirs.save(), meta(2)).unwrap();
        assert_eq!(again.unstored().len(), 1);
        assert_eq!(
            again.absorb_changes(&theirs.save(), &meta(2)),
            Ok(false),
            "a snapshot is read as a whole"
        );
    }

    #[test]
    fn what_waits_for_others_is_neither_stored_nor_told_nor_kept_for_ever() {
        let mut author = Automerge::new();
        edited(&mut author, "first");
        edited(&mut author, "second");
        let orphan = author.get_changes(&[]).pop().unwrap();
        let mut replica = Replica::new(Automerge::new(), None);
        edited(&mut replica.automerge, "ours");
        let mut state = State::new();
        let mut said = author.generate_sync_message(&mut State::new()).unwrap();
        said.changes = ChunkList::from(orphan.raw_bytes().to_vec());
        replica.receive(&mut state, said).unwrap();
        assert_eq!(replica.unstored().len(), 1, "ours alone");
        assert!(!replica.is_overgrown());
        replica.set_stored(meta(1));
        let snapshot = Automerge::load(&replica.snapshot().unwrap()).unwrap();
        assert!(snapshot.get_missing_deps(&[]).is_empty());
        // To somebody with nothing goes the whole document, without the orphan.
        let (mut empty, mut nothing) = (Automerge::new(), State::new());
        let mut to_empty = State::new();
        replica.receive(&mut to_empty, empty.generate_sync_message(&mut nothing).unwrap()).unwrap();
        let whole = replica.generate(&mut to_empty).unwrap();
        assert_eq!(whole.version, MessageVersion::V2);
        empty.receive_sync_message(&mut nothing, whole).unwrap();
        assert_eq!((empty.get_heads(), empty.get_missing_deps(&[])), (replica.heads(), Vec::new()));
        // To who has it all, an acknowledgement alone.
        assert!(replica.has_all(&empty.get_heads()));
        replica.receive(&mut to_empty, empty.generate_sync_message(&mut nothing).unwrap()).unwrap();
        edited(&mut empty, "second");
        let said = empty.generate_sync_message(&mut nothing).unwrap();
        replica.receive(&mut to_empty, said).unwrap();
        let acknowledged = replica.generate(&mut to_empty).unwrap();
        assert_eq!((acknowledged.version, acknowledged.changes.len()), (MessageVersion::V2, 0));

        // What rests on nothing that is missing is taken, whatever waits.
        let mut large = author.fork();
        large
            .transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, "large", vec![7; WAITING_BYTES_MAX]))
            .unwrap();
        edited(&mut large, "last");
        let mut changes = large.get_changes(&[]);
        let orphan = changes.pop().unwrap();
        let mut send = |changes: &[Change]| {
            let mut said = author.generate_sync_message(&mut State::new()).unwrap();
            said.changes =
                ChunkList::from(changes.iter().flat_map(Change::raw_bytes).copied().collect::<Vec<_>>());
            replica.receive(&mut state, said)
        };
        send(&[orphan]).unwrap();
        let late = changes.pop().unwrap();
        assert!(send(std::slice::from_ref(&late)).unwrap_err().contains("WAITING_BYTES_MAX"));
        changes.push(late);
        send(&changes).unwrap();
        assert!(replica.has(&large.get_heads()[0]));
        assert!(replica.is_overgrown());
    }
}
