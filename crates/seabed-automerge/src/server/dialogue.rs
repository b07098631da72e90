//! A dialogue: what one peer and the server know of each other's document, and the short way of speaking with who follows.
//!
//! For each message automerge finds out what the peer has: it walks through the history, and makes and asks Bloom filters. Who was told everything,
//! and takes what it is told, need not be asked again: what is [new](News) since it was told last is all that it lacks. As soon as it says anything
//! that does not fit, it is spoken with in automerge's way, until it has been told everything again.

use automerge::ChangeHash;
use automerge::sync::{Capability, ChunkList, Have, Message, MessageFlags, State};

use super::news::News;
use super::replica::Replica;

/// What is known of a peer's document, and what it was told of ours.
#[derive(Debug, Default)]
pub(super) struct Dialogue {
    state: State,
    /// It has everything up to the heads that it was told last, or that was sent to it, and it takes changes. Then `sent_hashes` of the state
    /// stays empty.
    follows: bool,
    /// It has said that it has what it was told last.
    confirmed: bool,
}

impl Dialogue {
    /// With the state that was stored of the peer, when that can be of this document.
    pub(super) fn new(stored: Option<&[u8]>, read_only: bool, replica: &Replica) -> Self {
        let known = stored.and_then(|state| State::decode(state).ok());
        // What it says that both have, and the document has not, is of another time; starting anew costs a round trip.
        let mut state =
            known.filter(|state| state.shared_heads.iter().all(|head| replica.has(head))).unwrap_or_default();
        state.read_only = read_only;
        Self { state, ..Self::default() }
    }

    pub(super) fn set_read_only(&mut self, read_only: bool) {
        self.state.set_read_only(read_only);
        self.follows = false;
    }

    /// The heads that both have.
    pub(super) fn shared_heads(&self) -> &[ChangeHash] {
        &self.state.shared_heads
    }

    /// The heads that the peer has; none when it has said nothing yet.
    pub(super) fn their_heads(&self) -> &[ChangeHash] {
        self.state.their_heads.as_deref().unwrap_or_default()
    }

    /// What of it is stored.
    pub(super) fn encode(&self) -> Vec<u8> {
        self.state.encode()
    }

    /// Takes a message: whether there may be something to answer. The error is a reason to cut the peer off.
    pub(super) fn receive(&mut self, replica: &mut Replica, mut message: Message) -> Result<bool, String> {
        let silent = message.changes.is_empty();
        if self.follows && fits(&message) && (silent || !self.state.read_only) {
            if !silent {
                replica.take(&std::mem::replace(&mut message.changes, ChunkList::empty()))?;
            }
            if replica.has_all(&named(&message.heads, &message.have)) {
                return Ok(self.hear(replica, message, silent));
            }
        }
        self.follows = false;
        replica.receive(&mut self.state, message).map(|()| true)
    }

    /// What a follower says that has nothing that is not here.
    fn hear(&mut self, replica: &Replica, message: Message, silent: bool) -> bool {
        let has_all = message.heads == replica.heads();
        // Who has said that it has everything, and now says less, has lost something. Who is behind may only not have read what was sent.
        let answer = !silent || self.confirmed && !has_all;
        self.confirmed |= has_all;
        self.state.in_flight = false;
        self.state.shared_heads.clone_from(&message.heads);
        self.state.their_heads = Some(message.heads);
        self.state.their_have = Some(message.have);
        self.state.their_need = Some(message.need);
        answer
    }

    /// What to tell the peer, as far as there is something to tell. `news` is what somebody was told before, of the same replica.
    pub(super) fn next(&mut self, replica: &Replica, news: &mut Option<News>) -> Option<Message> {
        let heads = replica.heads();
        let has_all = self.their_heads() == heads;
        if self.follows && self.state.last_sent_heads != heads {
            let news = match news {
                Some(news) if news.since() == self.state.last_sent_heads => news,
                news => news.insert(replica.news(&self.state.last_sent_heads)),
            };
            let message = news.message(self.their_heads(), self.state.read_only);
            self.state.in_flight = true;
            self.state.last_sent_heads = heads;
            self.confirmed = has_all;
            return Some(message);
        }
        if self.follows && (has_all || !self.confirmed) {
            return None;
        }
        let message = replica.generate(&mut self.state);
        if message.as_ref().is_some_and(|message| message.heads.is_empty()) {
            // So automerge has those begin anew who know no other way. What is here they are still to hear.
            self.state.last_sent_heads.clear();
        }
        self.confirmed = has_all;
        self.follows = self.was_told_all(replica);
        if self.follows {
            self.state.sent_hashes.clear();
        }
        message
    }

    /// Whether the peer takes changes, and all that it lacks was sent to it.
    fn was_told_all(&self, replica: &Replica) -> bool {
        let State { their_heads: Some(heads), their_have: Some(have), their_capabilities, .. } = &self.state
        else {
            return false;
        };
        let capable = their_capabilities.iter().flatten().any(|able| *able == Capability::MessageV2);
        capable
            && !self.state.peer_read_only
            && !heads.is_empty()
            && self.state.last_sent_heads == replica.heads()
            && replica.has_all(&named(heads, have))
            && replica.hashes_since(heads).iter().all(|hash| self.state.sent_hashes.contains(hash))
    }

    /// The peer says that it has not got the document: it may have dropped what was sent to it, and gets it again when it asks.
    pub(super) fn forget_sent(&mut self) {
        self.follows = false;
        self.state.sent_hashes.clear();
    }

    /// The replica was loaded anew, without what was not stored: what the peer believes to be here is to be sent again.
    pub(super) fn begin_anew(&mut self, replica: &Replica) {
        let mut state = State::new();
        let shared = std::mem::take(&mut self.state.shared_heads);
        state.shared_heads = shared.into_iter().filter(|head| replica.has(head)).collect();
        state.their_capabilities = self.state.their_capabilities.take();
        state.read_only = self.state.read_only;
        state.needs_reset = true;
        *self = Self { state, ..Self::default() };
    }
}

/// Whether a follower would say this: it needs nothing, says what it has, and does not begin anew.
fn fits(message: &Message) -> bool {
    let flags = message.flags.unwrap_or_default();
    let begins_anew = flags.contains(MessageFlags::SYNC_RESET) || flags.contains(MessageFlags::READ_ONLY);
    let summaries = message.have.iter().all(|have| !have.last_sync.is_empty());
    let says_what_it_has = !message.heads.is_empty() && !message.have.is_empty() && summaries;
    message.flags.is_some() && !begins_anew && message.need.is_empty() && says_what_it_has
}

/// All changes that a message names as there.
fn named(heads: &[ChangeHash], have: &[Have]) -> Vec<ChangeHash> {
    have.iter().flat_map(|have| &have.last_sync).chain(heads).copied().collect()
}
