//! A room: one document's peers, and what each is to be told. Rules alone: no clock, no socket, no store.

use std::collections::{BTreeMap, BTreeSet};

use automerge::sync::Message;

use super::Access;
use super::dialogue::Dialogue;
use super::frame::{Ephemeral, RemoteHeads};
use super::limits::{
    EPHEMERAL_SESSIONS_MAX, HEADS_MAX, REMOTES_BYTES_PER_DOCUMENT_MAX, REMOTES_PER_DOCUMENT_MAX,
};
use super::replica::Replica;

/// A connection, by its number.
pub(super) type SessionId = u64;

/// Everybody who has asked for the document.
#[derive(Debug, Default)]
pub(super) struct Room {
    peers: BTreeMap<SessionId, Peer>,
    /// Who may have to be told something.
    due: BTreeSet<SessionId>,
    /// What storages are known to have.
    remotes: BTreeMap<String, Remote>,
    remotes_bytes: usize,
    /// Of which of them something new was heard that not everybody was told whom it matters to.
    heard: BTreeSet<String>,
    /// The last ephemeral message of each sender.
    senders: BTreeMap<(SessionId, String), u64>,
    /// For whom automerge is writing a message: the one over whom it panics.
    generating: Option<SessionId>,
}

#[derive(Debug)]
struct Peer {
    dialogue: Dialogue,
    access: Access,
    /// Whose sync state is kept beyond the connection; `None` for a peer that keeps nothing itself.
    storage: Option<String>,
    /// The encoded state that is stored.
    stored: Option<Vec<u8>>,
    /// It has sent changes that are not stored yet.
    writes: bool,
    /// It has asked, and is to be told when nobody has the document.
    wants: bool,
    /// It has said itself that it has not got the document.
    without: bool,
}

/// What a storage is known to have, and who was told that.
#[derive(Debug)]
struct Remote {
    heads: RemoteHeads,
    told: BTreeSet<SessionId>,
}

impl Remote {
    fn bytes(storage: &str, heads: &RemoteHeads) -> usize {
        storage.len() + size_of_val(&heads.heads[..])
    }
}

/// Something to tell one peer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    pub(super) to: SessionId,
    pub(super) what: What,
}

/// What is to be told now.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answers {
    pub(super) told: Vec<Answer>,
    /// Whether there is more to tell, once this has left.
    pub(super) goes_on: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum What {
    Sync(Vec<u8>),
    Unavailable,
    Heads { storage: String, heads: RemoteHeads },
}

/// What a room asks about a peer's connection when it writes answers.
pub(super) trait Line {
    /// Whether more may be sent to it now, of at most about so many bytes; otherwise it says when.
    fn takes_more(&self, to: SessionId, bytes_most: usize) -> bool;
    /// Whether it wants to hear what any storage has.
    fn hears(&self, to: SessionId) -> bool;
    /// Whether it wants to hear what this storage has.
    fn hears_of(&self, to: SessionId, storage: &str) -> bool;
}

impl Room {
    pub(super) fn has(&self, session: SessionId) -> bool {
        self.peers.contains_key(&session)
    }

    /// Lets a peer in, with the state that was stored of it.
    pub(super) fn enter(
        &mut self,
        session: SessionId,
        access: Access,
        storage: Option<String>,
        stored: Option<Vec<u8>>,
        replica: &Replica,
    ) {
        let dialogue = Dialogue::new(stored.as_deref(), access != Access::Write, replica);
        let peer = Peer { dialogue, access, storage, stored, writes: false, wants: false, without: false };
        self.peers.insert(session, peer);
    }

    /// Changes what a peer may do.
    pub(super) fn set_access(&mut self, session: SessionId, access: Access) {
        if let Some(peer) = self.peers.get_mut(&session)
            && peer.access != access
        {
            peer.access = access;
            peer.dialogue.set_read_only(access != Access::Write);
            self.due.insert(session);
            // What it had promised may not be taken any more.
            self.ask_again();
        }
    }

    /// A peer is gone.
    pub(super) fn leave(&mut self, session: SessionId) {
        self.peers.remove(&session);
        self.due.remove(&session);
        self.senders.retain(|(sender, _), _| *sender != session);
        for remote in self.remotes.values_mut() {
            remote.told.remove(&session);
        }
        self.ask_again();
    }

    /// Who waits to hear whether the document exists may have to be told now.
    fn ask_again(&mut self) {
        let waiting = self.peers.iter().filter(|(_, peer)| peer.wants).map(|(session, _)| *session);
        self.due.extend(waiting);
    }

    /// A peer may be told more now, or wants to hear more.
    pub(super) fn set_due(&mut self, session: SessionId) {
        if self.peers.contains_key(&session) {
            self.due.insert(session);
        }
    }

    /// Everybody is to be told what is new.
    pub(super) fn set_all_due(&mut self) {
        self.due.extend(self.peers.keys());
    }

    /// Whether it is worth asking who is.
    pub(super) fn may_be_due(&self) -> bool {
        !self.heard.is_empty() || !self.due.is_empty()
    }

    /// Whether there may be something to tell.
    pub(super) fn is_due(&mut self, line: &dyn Line) -> bool {
        let heard = std::mem::take(&mut self.heard);
        if !heard.is_empty() {
            let matters = |to| line.hears(to) && heard.iter().any(|storage| line.hears_of(to, storage));
            self.due.extend(self.peers.keys().copied().filter(|to| matters(*to)));
        }
        !self.due.is_empty()
    }

    /// Takes a sync message; the error is a reason to cut the peer off. On a panic too: the replica is to be dropped then.
    pub(super) fn receive(
        &mut self,
        replica: &mut Replica,
        from: SessionId,
        message: Message,
        request: bool,
        now_unix_ms: u64,
    ) -> Result<(), String> {
        let Some(peer) = self.peers.get_mut(&from) else { return Ok(()) };
        let before = replica.heads();
        peer.wants |= request;
        let heads = message.heads.clone();
        let takes_back = heads.is_empty() && !peer.without;
        peer.without = heads.is_empty();
        let received = peer.dialogue.receive(replica, message);
        if peer.wants || !matches!(received, Ok(false)) {
            self.due.insert(from);
        }
        // Also after an error: what of it was whole is there.
        let is_new = replica.heads() != before;
        peer.writes |= is_new;
        if is_new {
            self.set_all_due();
        } else if takes_back {
            self.ask_again();
        }
        // Others are not told of more heads than they would take.
        if received.is_ok()
            && heads.len() <= HEADS_MAX
            && let Some(storage) = self.peers.get(&from).and_then(|peer| peer.storage.clone())
        {
            self.hear(storage, RemoteHeads { heads, unix_ms: now_unix_ms }, now_unix_ms);
        }
        received.map(drop)
    }

    /// A peer has not got the document.
    pub(super) fn unavailable(&mut self, from: SessionId) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.without = true;
            peer.dialogue.forget_sent();
            self.ask_again();
        }
    }

    /// A peer says what storages have. Of those that are here themselves nobody else is believed.
    pub(super) fn hear_from(
        &mut self,
        from: SessionId,
        said: BTreeMap<String, RemoteHeads>,
        now_unix_ms: u64,
    ) {
        if !self.peers.contains_key(&from) {
            return;
        }
        for (storage, heads) in said {
            let here = self.peers.values().any(|peer| peer.storage.as_deref() == Some(&storage));
            if !here {
                self.hear(storage, heads, now_unix_ms);
            }
        }
    }

    fn hear(&mut self, storage: String, mut said: RemoteHeads, now_unix_ms: u64) {
        // A clock that is ahead would silence everybody who comes later.
        said.unix_ms = said.unix_ms.min(now_unix_ms);
        if let Some(Remote { heads: known, .. }) = self.remotes.get(&storage) {
            if known.heads == said.heads || known.unix_ms > said.unix_ms {
                return;
            }
            // Two within a millisecond are two.
            said.unix_ms = said.unix_ms.max(known.unix_ms.saturating_add(1));
        }
        self.forget(&storage);
        let bytes = Remote::bytes(&storage, &said);
        while (self.remotes.len() >= REMOTES_PER_DOCUMENT_MAX
            || self.remotes_bytes.saturating_add(bytes) > REMOTES_BYTES_PER_DOCUMENT_MAX)
            && let Some((oldest, _)) = self.remotes.iter().min_by_key(|(_, remote)| remote.heads.unix_ms)
        {
            let oldest = oldest.clone();
            self.forget(&oldest);
        }
        self.remotes_bytes = self.remotes_bytes.saturating_add(bytes);
        // Whom it matters to, and only they: of each client each of the others would be told.
        self.heard.insert(storage.clone());
        self.remotes.insert(storage, Remote { heads: said, told: BTreeSet::new() });
    }

    fn forget(&mut self, storage: &str) {
        if let Some(remote) = self.remotes.remove(storage) {
            self.remotes_bytes = self.remotes_bytes.saturating_sub(Remote::bytes(storage, &remote.heads));
        }
    }

    /// Forgets what storages have, until they are heard of again.
    pub(super) fn forget_remotes(&mut self) {
        self.heard.clear();
        self.remotes.clear();
        self.remotes_bytes = 0;
    }

    /// How many bytes of that are known.
    pub(super) fn remotes_bytes(&self) -> usize {
        self.remotes_bytes
    }

    /// To whom an ephemeral message goes: everybody but its sender, once.
    pub(super) fn relay(&mut self, from: SessionId, message: &Ephemeral) -> Vec<SessionId> {
        if !self.peers.contains_key(&from) {
            return Vec::new();
        }
        let key = (from, message.session.clone());
        if self.senders.get(&key).is_some_and(|last| *last >= message.count) {
            return Vec::new();
        }
        if self.senders.len() >= EPHEMERAL_SESSIONS_MAX && !self.senders.contains_key(&key) {
            self.senders.pop_first();
        }
        self.senders.insert(key, message.count);
        self.peers.keys().copied().filter(|session| *session != from).collect()
    }

    /// What is to be told, to those who can be told, until it has that many bytes. It may leave when everything in the replica is durable.
    pub(super) fn answers(&mut self, replica: &Replica, line: &dyn Line, bytes_max: usize) -> Answers {
        let (mut told, mut bytes, mut news) = (Vec::new(), 0_usize, None);
        let (empty, bytes_most) = (replica.is_empty(), replica.message_bytes_most());
        // Somebody has the document, and is about to send it.
        let promised = self.peers.values().any(|peer| {
            peer.access == Access::Write && !peer.without && !peer.dialogue.their_heads().is_empty()
        });
        let mut due = std::mem::take(&mut self.due);
        while bytes < bytes_max
            && let Some(session) = due.pop_first()
        {
            let Some(peer) = self.peers.get_mut(&session) else { continue };
            if !line.takes_more(session, bytes_most) {
                self.due.insert(session);
                continue;
            }
            let mut tell = |what| told.push(Answer { to: session, what });
            if empty && peer.wants {
                if !promised {
                    peer.wants = false;
                    tell(What::Unavailable);
                }
            } else {
                peer.wants = false;
                self.generating = Some(session);
                let message = peer.dialogue.next(replica, &mut news).map(Message::encode);
                self.generating = None;
                if let Some(message) = message {
                    bytes = bytes.saturating_add(message.len());
                    tell(What::Sync(message));
                }
            }
            let remotes = line.hears(session).then_some(&mut self.remotes);
            for (storage, Remote { heads, told }) in remotes.into_iter().flatten() {
                let itself = peer.storage.as_ref() == Some(storage);
                let here = || heads.heads.iter().all(|head| replica.has(head));
                if !told.contains(&session) && !itself && line.hears_of(session, storage) && here() {
                    told.insert(session);
                    tell(What::Heads { storage: storage.clone(), heads: heads.clone() });
                }
            }
        }
        let goes_on = !due.is_empty();
        self.due.append(&mut due);
        Answers { told, goes_on }
    }

    /// After a panic in [`answers`](Self::answers): over whom it was.
    pub(super) fn culprit(&mut self) -> Option<SessionId> {
        self.generating.take()
    }

    /// States that are not stored as they are now, by storage: so many of them. Those of more heads than [`HEADS_MAX`] are not worth it.
    pub(super) fn unstored_states(&self, most: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.states(most, |_, _| true)
    }

    /// The state of one of them, when it is not stored as it is now.
    pub(super) fn unstored_state_of(&self, session: SessionId) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.states(1, |of, _| of == session)
    }

    /// The same, of those alone who have sent changes: what everybody else has read is not worth a row each with every edit.
    pub(super) fn unstored_states_of_writers(&self, most: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.states(most, |_, peer| peer.writes)
    }

    fn states(&self, most: usize, is_wanted: impl Fn(SessionId, &Peer) -> bool) -> Vec<(Vec<u8>, Vec<u8>)> {
        let wanted = self.peers.iter().filter(|(session, peer)| is_wanted(**session, peer));
        let changed = wanted.filter_map(|(_, peer)| {
            let short = peer.dialogue.shared_heads().len() <= HEADS_MAX;
            let storage = peer.storage.as_ref().filter(|_| short)?;
            let encoded = peer.dialogue.encode();
            (peer.stored.as_ref() != Some(&encoded)).then(|| (storage.clone().into_bytes(), encoded))
        });
        // Two connections of one storage have one row.
        changed.collect::<BTreeMap<_, _>>().into_iter().take(most).collect()
    }

    /// These are stored now.
    pub(super) fn set_stored_states(&mut self, states: &[(Vec<u8>, Vec<u8>)]) {
        for (storage, state) in states {
            for peer in self.peers.values_mut() {
                if peer.storage.as_ref().is_some_and(|of| of.as_bytes() == *storage) {
                    peer.stored = Some(state.clone());
                }
            }
        }
    }

    /// What everybody has sent is stored now.
    pub(super) fn set_changes_stored(&mut self) {
        for peer in self.peers.values_mut() {
            peer.writes = false;
        }
    }

    /// The replica was loaded anew, without what was not stored: everybody begins anew, and sends again what they believe to be here.
    pub(super) fn begin_anew(&mut self, replica: &Replica) {
        for peer in self.peers.values_mut() {
            peer.dialogue.begin_anew(replica);
        }
        // What was about to be told along with what was not stored never left.
        for remote in self.remotes.values_mut() {
            remote.told.clear();
        }
        self.set_all_due();
    }

    /// Everybody has to leave; answers who.
    pub(super) fn dissolve(&mut self) -> BTreeSet<SessionId> {
        self.due.clear();
        self.forget_remotes();
        self.senders.clear();
        std::mem::take(&mut self.peers).into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use automerge::sync::{State, SyncDoc as _};
    use automerge::{ActorId, Automerge, ChangeHash};

    use super::super::replica::tests::edited;
    use super::*;

    const NOW_MS: u64 = 1_700_000_000_000;

    /// Connections that take everything, but for one that is full.
    #[derive(Default)]
    struct Test {
        full: Cell<Option<SessionId>>,
        hears: RefCell<BTreeSet<(SessionId, String)>>,
    }

    impl Line for Test {
        fn takes_more(&self, to: SessionId, _: usize) -> bool {
            self.full.get() != Some(to)
        }

        fn hears(&self, to: SessionId) -> bool {
            self.hears.borrow().iter().any(|(session, _)| *session == to)
        }

        fn hears_of(&self, to: SessionId, storage: &str) -> bool {
            self.hears.borrow().contains(&(to, storage.to_owned()))
        }
    }

    /// A client with its own document and state.
    struct Client {
        session: SessionId,
        document: Automerge,
        state: State,
    }

    struct Scene {
        room: Room,
        replica: Replica,
        line: Test,
    }

    impl Scene {
        fn new() -> Self {
            Self {
                room: Room::default(),
                replica: Replica::new(Automerge::new(), None),
                line: Test::default(),
            }
        }

        fn enter(&mut self, session: SessionId, access: Access) -> Client {
            self.room.enter(session, access, Some(format!("disk {session}")), None, &self.replica);
            // A filter may take one hash for another: in each run the same ones.
            let document = Automerge::new().with_actor(ActorId::from(session.to_be_bytes()));
            Client { session, document, state: State::new() }
        }

        fn receive(&mut self, session: SessionId, message: Message) {
            self.room.receive(&mut self.replica, session, message, false, NOW_MS).unwrap();
        }

        fn say(&mut self, client: &mut Client, request: bool) -> Vec<Answer> {
            if let Some(message) = client.document.generate_sync_message(&mut client.state) {
                let Self { room, replica, .. } = self;
                room.receive(replica, client.session, message, request, NOW_MS).unwrap();
            }
            self.answers()
        }

        fn answers(&mut self) -> Vec<Answer> {
            if !self.room.is_due(&self.line) {
                return Vec::new();
            }
            self.room.answers(&self.replica, &self.line, usize::MAX).told
        }

        /// Until nobody has anything more to say; answers what was said to others.
        fn settle(&mut self, client: &mut Client, mut answers: Vec<Answer>) -> Vec<Answer> {
            let mut others = Vec::new();
            while !answers.is_empty() {
                for Answer { to, what } in std::mem::take(&mut answers) {
                    match what {
                        What::Sync(bytes) if to == client.session => {
                            let message = Message::decode(&bytes).unwrap();
                            client.document.receive_sync_message(&mut client.state, message).unwrap();
                            answers.extend(self.say(client, false));
                        }
                        what => others.push(Answer { to, what }),
                    }
                }
            }
            others
        }
    }

    fn unavailable(to: SessionId) -> Answer {
        Answer { to, what: What::Unavailable }
    }

    #[test]
    fn who_asks_for_what_nobody_has_is_told_so_and_gets_it_when_it_comes() {
        let mut scene = Scene::new();
        let mut asker = scene.enter(1, Access::Write);
        assert_eq!(scene.say(&mut asker, true), [unavailable(1)]);
        assert_eq!(scene.answers(), []);

        let mut author = scene.enter(2, Access::Write);
        edited(&mut author.document, "late");
        let answers = scene.say(&mut author, false);
        let others = scene.settle(&mut author, answers);
        let late = scene.settle(&mut asker, others);
        assert!(late.iter().all(|answer| answer.to == 2), "{late:?}");
        assert_eq!(asker.document.get_heads(), author.document.get_heads());
    }

    #[test]
    fn who_asks_for_what_somebody_has_promised_waits_for_it_or_for_their_leaving() {
        let mut scene = Scene::new();
        let mut author = scene.enter(1, Access::Write);
        edited(&mut author.document, "promised");
        // It says its heads first, and the changes when it is asked.
        assert!(scene.say(&mut author, false).iter().all(|answer| answer.to == 1));
        let mut asker = scene.enter(2, Access::Write);
        assert_eq!(scene.say(&mut asker, true), []);
        scene.room.leave(1);
        assert_eq!(scene.answers(), [unavailable(2)]);
    }

    #[test]
    fn who_waits_for_a_promise_that_is_taken_back_is_told_so() {
        for withdrawn in [true, false] {
            let mut scene = Scene::new();
            let mut author = scene.enter(1, Access::Write);
            edited(&mut author.document, "promised");
            scene.say(&mut author, false);
            let mut asker = scene.enter(2, Access::Write);
            assert_eq!(scene.say(&mut asker, true), []);
            if withdrawn {
                scene.room.set_access(1, Access::Read);
            } else {
                let nothing = Automerge::new().generate_sync_message(&mut State::new()).unwrap();
                scene.receive(1, nothing);
            }
            assert!(scene.answers().contains(&unavailable(2)), "withdrawn: {withdrawn}");
        }
    }

    #[test]
    fn who_has_sent_what_is_stored_or_not_taken_is_no_writer() {
        let mut scene = Scene::new();
        let (mut author, mut reader) = (scene.enter(1, Access::Write), scene.enter(2, Access::Read));
        edited(&mut author.document, "first");
        let answers = scene.say(&mut author, false);
        scene.settle(&mut author, answers);
        edited(&mut reader.document, "vandalism");
        let answers = scene.say(&mut reader, false);
        scene.settle(&mut reader, answers);
        let written = scene.room.unstored_states_of_writers(9);
        let [(storage, _)] = &written[..] else { panic!("{written:?}") };
        assert_eq!(storage, b"disk 1");
        // Its state is stored as it is, and so not again.
        scene.room.set_stored_states(&written);
        scene.room.set_changes_stored();
        let mut other = scene.enter(3, Access::Write);
        edited(&mut other.document, "second");
        let answers = scene.say(&mut other, false);
        let others = scene.settle(&mut other, answers);
        scene.settle(&mut author, others);
        let written = scene.room.unstored_states_of_writers(9);
        assert_eq!(written.iter().map(|(storage, _)| &storage[..]).collect::<Vec<_>>(), [b"disk 3"]);
        let left = scene.room.unstored_state_of(1);
        assert_eq!(left.iter().map(|(storage, _)| &storage[..]).collect::<Vec<_>>(), [b"disk 1"]);
    }

    #[test]
    fn a_reader_is_told_and_not_heard() {
        let mut scene = Scene::new();
        let (mut author, mut reader) = (scene.enter(1, Access::Write), scene.enter(2, Access::Read));
        edited(&mut author.document, "first");
        let answers = scene.say(&mut author, false);
        scene.settle(&mut author, answers);
        let heads = scene.replica.heads();
        edited(&mut reader.document, "vandalism");
        let answers = scene.say(&mut reader, false);
        scene.settle(&mut reader, answers);
        assert_eq!(scene.replica.heads(), heads);
        assert!(reader.document.get_heads().contains(&heads[0]), "it got the document");

        scene.room.set_access(2, Access::Write);
        let answers = scene.answers();
        scene.settle(&mut reader, answers);
        assert_eq!(scene.replica.heads(), reader.document.get_heads(), "what was not heard is said again");
    }

    #[test]
    fn what_arrives_together_is_acknowledged() {
        let mut scene = Scene::new();
        let mut author = scene.enter(1, Access::Write);
        let write = |author: &mut Client, key: &str| {
            edited(&mut author.document, key);
            author.document.generate_sync_message(&mut author.state).unwrap()
        };
        let first = write(&mut author, "first");
        scene.receive(1, first);
        let answers = scene.answers();
        scene.settle(&mut author, answers);
        let (second, third) = (write(&mut author, "second"), write(&mut author, "third"));
        scene.receive(1, second);
        let [Answer { what: What::Sync(told), .. }] = &scene.answers()[..] else { panic!("one answer") };
        author.document.receive_sync_message(&mut author.state, Message::decode(told).unwrap()).unwrap();
        // It says its heads again, before it is told that they are here.
        let again = author.document.generate_sync_message(&mut author.state).unwrap();
        assert!(again.changes.is_empty());
        scene.receive(1, third);
        scene.receive(1, again);
        let answers = scene.answers();
        assert_eq!(answers.len(), 1);
        scene.settle(&mut author, answers);
        assert_eq!(author.state.their_heads, Some(author.document.get_heads()));
        assert_eq!(scene.answers(), []);
    }

    #[test]
    fn whose_line_is_full_is_told_later_and_holds_up_nobody() {
        let mut scene = Scene::new();
        let (mut author, mut slow) = (scene.enter(1, Access::Write), scene.enter(2, Access::Write));
        scene.say(&mut slow, false);
        scene.line.full.set(Some(2));
        for number in 0..10 {
            edited(&mut author.document, &number.to_string());
            let answers = scene.say(&mut author, false);
            let others = scene.settle(&mut author, answers);
            assert_eq!(others, []);
        }
        scene.line.full.set(None);
        scene.room.set_due(2);
        let answers = scene.answers();
        assert_eq!(answers.len(), 1, "all of it at once");
        scene.settle(&mut slow, answers);
        assert_eq!(slow.document.get_heads(), author.document.get_heads());
    }

    #[test]
    fn answers_leave_before_further_ones_are_written() {
        let mut scene = Scene::new();
        let mut author = scene.enter(1, Access::Write);
        edited(&mut author.document, "key");
        let answers = scene.say(&mut author, false);
        scene.settle(&mut author, answers);
        for session in 2..=5 {
            scene.enter(session, Access::Read);
            scene.room.set_due(session);
        }
        scene.line.full.set(Some(2));
        for (told, goes_on) in [(3, true), (4, true), (5, false)] {
            let answers = scene.room.answers(&scene.replica, &scene.line, 1);
            assert_eq!(answers.told.iter().map(|answer| answer.to).collect::<Vec<_>>(), [told]);
            assert_eq!(answers.goes_on, goes_on);
        }
        assert!(scene.room.is_due(&scene.line), "whose line is full waits for that");
    }

    #[test]
    fn heads_of_a_storage_are_told_once_to_whom_they_matter_and_when_they_are_here() {
        let mut scene = Scene::new();
        let (mut author, mut other) = (scene.enter(1, Access::Write), scene.enter(2, Access::Write));
        scene.say(&mut other, false);
        scene.line.hears.borrow_mut().extend([
            (2, "disk 1".to_owned()),
            (1, "disk 1".to_owned()),
            (2, "far".to_owned()),
        ]);
        edited(&mut author.document, "first");
        // Its heads are known, and nothing of them is here.
        let answers = scene.say(&mut author, false);
        assert!(answers.iter().all(|answer| !matches!(answer.what, What::Heads { .. })), "{answers:?}");
        let others = scene.settle(&mut author, answers);
        let heads: Vec<_> =
            others.iter().filter(|answer| matches!(answer.what, What::Heads { .. })).collect();
        assert_eq!(heads.len(), 1, "{others:?}");
        assert!(matches!(&heads[0].what, What::Heads { storage, heads } if storage == "disk 1"
            && heads.heads == author.document.get_heads() && heads.unix_ms <= NOW_MS + 1));
        assert_eq!(heads[0].to, 2);

        // Of one that is elsewhere its word is passed on, once the change is here; of one that is here it is not believed.
        let far = RemoteHeads { heads: author.document.get_heads(), unix_ms: u64::MAX };
        let unknown = RemoteHeads { heads: vec![ChangeHash([9; 32])], unix_ms: 1 };
        let said = BTreeMap::from([("far".to_owned(), far), ("disk 1".to_owned(), unknown)]);
        scene.room.hear_from(1, said, NOW_MS);
        let told: Vec<_> = scene.answers().into_iter().map(|answer| (answer.to, answer.what)).collect();
        let [(2, What::Heads { storage, heads })] = &told[..] else { panic!("{told:?}") };
        assert_eq!((storage.as_str(), heads.unix_ms), ("far", NOW_MS));
        scene.room.set_all_due();
        assert_eq!(scene.answers(), []);
        // After a reload nobody knows what has left.
        scene.room.begin_anew(&scene.replica);
        let heads = scene.answers().into_iter().filter(|answer| matches!(answer.what, What::Heads { .. }));
        assert_eq!(heads.map(|answer| answer.to).collect::<Vec<_>>(), [2, 2]);
    }

    #[test]
    fn what_storages_have_takes_no_more_than_its_bound_and_the_oldest_goes_first() {
        let mut scene = Scene::new();
        scene.enter(1, Access::Write);
        let heads = |count: u8| (0..count).map(|number| ChangeHash([number; 32])).collect::<Vec<_>>();
        for (number, count) in (0..2 * REMOTES_PER_DOCUMENT_MAX as u64).map(|number| (number, 1)) {
            let said = RemoteHeads { heads: heads(count), unix_ms: number };
            scene.room.hear_from(1, BTreeMap::from([(format!("disk {number}"), said)]), NOW_MS);
        }
        assert_eq!(scene.room.remotes.len(), REMOTES_PER_DOCUMENT_MAX);
        assert!(!scene.room.remotes.contains_key("disk 0"));
        for number in 0..2 * REMOTES_PER_DOCUMENT_MAX as u64 {
            let said = RemoteHeads { heads: heads(200), unix_ms: 1_000 + number };
            scene.room.hear_from(1, BTreeMap::from([(format!("large {number}"), said)]), NOW_MS);
            let bytes = scene.room.remotes.iter().map(|(storage, of)| Remote::bytes(storage, &of.heads));
            assert_eq!(bytes.sum::<usize>(), scene.room.remotes_bytes());
            assert!(scene.room.remotes_bytes() <= REMOTES_BYTES_PER_DOCUMENT_MAX);
        }
        assert_eq!(scene.room.remotes.len(), 10);
        scene.room.forget_remotes();
        assert_eq!((scene.room.remotes.len(), scene.room.remotes_bytes()), (0, 0));
    }

    #[test]
    fn an_ephemeral_message_goes_once_to_everybody_else() {
        let mut scene = Scene::new();
        for session in 1..=3 {
            scene.enter(session, Access::Read);
        }
        let message = |count| Ephemeral { session: "s".to_owned(), count, data: Vec::new() };
        assert_eq!(scene.room.relay(1, &message(1)), [2, 3]);
        assert_eq!(scene.room.relay(1, &message(1)), Vec::<SessionId>::new());
        assert_eq!(scene.room.relay(2, &message(1)), [1, 3]);
        assert_eq!(scene.room.relay(1, &message(2)), [2, 3]);
        assert_eq!(scene.room.relay(9, &message(3)), Vec::<SessionId>::new(), "who has not asked has no say");
        for number in 0..2 * EPHEMERAL_SESSIONS_MAX {
            let message = Ephemeral { session: number.to_string(), count: 1, data: Vec::new() };
            scene.room.relay(1, &message);
        }
        assert_eq!(scene.room.senders.len(), EPHEMERAL_SESSIONS_MAX);
    }

    #[test]
    fn after_a_reload_without_what_was_not_stored_it_is_said_again() {
        let mut scene = Scene::new();
        let mut author = scene.enter(1, Access::Write);
        edited(&mut author.document, "first");
        let answers = scene.say(&mut author, false);
        scene.settle(&mut author, answers);
        // Nothing of it was stored.
        scene.replica = Replica::new(Automerge::new(), None);
        scene.room.begin_anew(&scene.replica);
        let answers = scene.answers();
        scene.settle(&mut author, answers);
        assert_eq!(scene.replica.heads(), author.document.get_heads());
    }

    #[test]
    fn a_stored_state_saves_the_history_and_one_of_another_time_is_not_believed() {
        let mut scene = Scene::new();
        let mut author = scene.enter(1, Access::Write);
        edited(&mut author.document, "first");
        let answers = scene.say(&mut author, false);
        scene.settle(&mut author, answers);
        let states = scene.room.unstored_states(9);
        let [(storage, state)] = &states[..] else { panic!("{states:?}") };
        assert_eq!(storage, b"disk 1");
        assert_eq!(scene.room.unstored_states(0), []);
        scene.room.set_stored_states(&states);
        assert_eq!(scene.room.unstored_states(9), []);
        scene.room.leave(1);

        let storage = Some("disk 1".to_owned());
        scene.room.enter(2, Access::Write, storage.clone(), Some(state.clone()), &scene.replica);
        assert_eq!(scene.room.peers[&2].dialogue.shared_heads(), author.document.get_heads());
        let empty = Replica::new(Automerge::new(), None);
        scene.room.enter(3, Access::Write, storage, Some(state.clone()), &empty);
        assert!(scene.room.peers[&3].dialogue.shared_heads().is_empty());
    }
}
