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
mod tests;
