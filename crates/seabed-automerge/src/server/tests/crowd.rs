//! A room with many clients: each has a document and a state of automerge's, and what is said is under way for as long as the test likes.

use std::collections::{BTreeSet, VecDeque};

use automerge::ActorId;
use proptest::prelude::*;

use super::super::replica::Replica;
use super::super::replica::tests::edited;
use super::super::room::{Answer, Line, Room, What};
use super::*;

/// Connections that take everything, but for those that are full.
struct Lines(BTreeSet<SessionId>);

impl Line for Lines {
    fn takes_more(&self, to: SessionId, _: usize) -> bool {
        !self.0.contains(&to)
    }

    fn hears(&self, _: SessionId) -> bool {
        false
    }

    fn hears_of(&self, _: SessionId, _: &str) -> bool {
        false
    }
}

/// A client, and what is on its way from it and to it.
struct Client {
    session: SessionId,
    document: Automerge,
    state: SyncState,
    /// It is of before messages had flags.
    old: bool,
    said: VecDeque<Message>,
    told: VecDeque<Message>,
}

impl Client {
    fn say(&mut self) {
        if let Some(mut message) = self.document.generate_sync_message(&mut self.state) {
            if self.old {
                message.flags = None;
            }
            self.said.push_back(message);
        }
    }

    /// Takes the next thing that it was told, and answers it.
    fn hear(&mut self) {
        if let Some(mut message) = self.told.pop_front() {
            if self.old {
                message.flags = None;
            }
            self.document.receive_sync_message(&mut self.state, message).unwrap();
            self.say();
        }
    }
}

struct Crowd {
    room: Room,
    replica: Replica,
    stored: Automerge,
    lines: Lines,
    clients: Vec<Client>,
    sessions: SessionId,
}

impl Crowd {
    fn new(count: u64) -> Self {
        let replica = Replica::new(Automerge::new(), None);
        let (lines, stored) = (Lines(BTreeSet::new()), Automerge::new());
        let mut crowd =
            Self { room: Room::default(), replica, stored, lines, clients: Vec::new(), sessions: count };
        for session in 0..count {
            // A filter may take one hash for another: in each run the same ones.
            let document = Automerge::new().with_actor(ActorId::from(session.to_be_bytes()));
            let state = SyncState::new();
            let (said, told) = (VecDeque::new(), VecDeque::new());
            crowd.clients.push(Client { session, document, state, old: false, said, told });
            crowd.room.enter(session, Access::Write, Some(session.to_string()), None, &crowd.replica);
        }
        crowd
    }

    /// The server takes the first thing that each of these clients has said.
    fn receive(&mut self, clients: impl Iterator<Item = usize>) {
        for client in clients {
            if let Some(message) = self.clients[client].said.pop_front() {
                let session = self.clients[client].session;
                self.room.receive(&mut self.replica, session, message, false, 1).unwrap();
            }
        }
    }

    /// What was received is stored, and then answered: to whom with how many bytes of changes.
    fn answer(&mut self) -> Vec<(SessionId, usize)> {
        if !self.room.is_due(&self.lines) {
            return Vec::new();
        }
        let mut told = Vec::new();
        for Answer { to, what } in self.room.answers(&self.replica, &self.lines, usize::MAX).told {
            let What::Sync(data) = what else { panic!("{what:?}") };
            let (message, _) = message::read(&data).unwrap();
            told.push((to, message.changes.iter().map(<[u8]>::len).sum()));
            let client = self.clients.iter_mut().find(|client| client.session == to);
            client.unwrap().told.push_back(message);
        }
        for change in self.replica.unstored() {
            self.stored.apply_changes([change]).unwrap();
        }
        self.replica.set_stored(crate::meta::Meta::default());
        told
    }

    /// What was received is not stored.
    fn fail(&mut self) {
        self.replica = Replica::new(self.stored.clone(), None);
        self.room.begin_anew(&self.replica);
    }

    /// The client loses its connection, and has another one.
    fn reconnect(&mut self, client: usize) {
        let client = &mut self.clients[client];
        self.room.leave(client.session);
        client.session = self.sessions;
        self.sessions += 1;
        client.state = SyncState::decode(&client.state.encode()).unwrap();
        client.said.clear();
        client.told.clear();
        self.room.enter(client.session, Access::Write, None, None, &self.replica);
        client.say();
    }

    /// Until nobody has anything to say: how many messages there were.
    fn settle(&mut self) -> usize {
        let (mut messages, all) = (0, self.clients.len());
        for client in &mut self.clients {
            client.say();
        }
        while self.clients.iter().any(|client| !client.said.is_empty() || !client.told.is_empty()) {
            messages += self.clients.iter().map(|client| client.said.len()).sum::<usize>();
            assert!(messages < 200 * all, "they never stop");
            self.receive((0..all).cycle().take(20 * all));
            messages += self.answer().len();
            for client in &mut self.clients {
                while !client.told.is_empty() {
                    client.hear();
                }
            }
        }
        messages
    }

    /// Everybody has everything, and knows that the server has it.
    fn assert_converged(&self) {
        let heads = self.replica.heads();
        assert_eq!(self.stored.get_heads(), heads);
        for Client { session, document, state, .. } in &self.clients {
            assert_eq!(document.get_heads(), heads, "{session}");
            assert_eq!(state.their_heads.as_ref(), Some(&heads), "{session}");
        }
    }

    fn edit(&mut self, client: usize, key: &str) {
        let client = &mut self.clients[client];
        edited(&mut client.document, key);
        client.say();
    }
}

/// A crowd in which everybody has the document.
fn together(count: u64) -> Crowd {
    let mut crowd = Crowd::new(count);
    crowd.edit(0, "first");
    crowd.settle();
    crowd.assert_converged();
    crowd
}

#[test]
fn each_edit_is_told_once_to_everybody_and_that_they_have_it_is_not_answered() {
    let mut crowd = together(20);
    crowd.edit(3, "edit");
    crowd.receive(0..20);
    let told = crowd.answer();
    assert_eq!(told.len(), 20);
    assert!(
        told.iter().all(|(to, bytes)| (*bytes == 0) == (*to == 3)),
        "an acknowledgement, and news: {told:?}"
    );
    let news = crowd.clients[0].told[0].clone();
    assert!(crowd.clients.iter().filter(|client| client.session != 3).all(|client| client.told[0] == news));
    for client in &mut crowd.clients {
        client.hear();
    }
    assert_eq!(crowd.clients.iter().filter(|client| client.said.is_empty()).count(), 1);
    crowd.receive(0..20);
    assert!(!crowd.room.is_due(&crowd.lines), "nobody is asked again");
    crowd.assert_converged();
}

#[test]
fn edits_that_arrive_together_are_told_together() {
    let mut crowd = together(20);
    for client in 0..10 {
        crowd.edit(client, &client.to_string());
    }
    crowd.receive(0..20);
    let told = crowd.answer();
    assert_eq!(told.len(), 20, "one message each, of what the others have written: {told:?}");
    // Who reads late has said nothing of what was told since, and is not asked about it.
    crowd.edit(19, "late");
    crowd.receive(0..20);
    assert_eq!(crowd.answer().len(), 20);
    for client in &mut crowd.clients {
        client.hear();
    }
    crowd.receive(0..20);
    assert_eq!(crowd.answer(), []);
    let messages = crowd.settle();
    assert!(messages <= 20, "the last word of each: {messages}");
    crowd.assert_converged();
}

#[test]
fn who_had_everything_and_has_lost_some_of_it_gets_it_again() {
    let mut crowd = together(3);
    let before = crowd.clients[2].document.clone();
    crowd.edit(0, "second");
    crowd.settle();
    crowd.clients[2].document = before;
    crowd.clients[2].state = SyncState::decode(&crowd.clients[2].state.encode()).unwrap();
    crowd.clients[2].state.shared_heads = crowd.clients[2].document.get_heads();
    crowd.settle();
    crowd.assert_converged();

    // And who has lost everything.
    crowd.clients[1].document = Automerge::new();
    crowd.clients[1].state = SyncState::new();
    crowd.settle();
    crowd.assert_converged();
}

#[test]
fn who_dropped_what_it_was_told_and_asks_with_what_it_has_stored_gets_it() {
    let mut crowd = together(2);
    crowd.edit(0, "second");
    crowd.receive(0..2);
    crowd.answer();
    // As the JavaScript client does while the document is not to be shared.
    assert!(crowd.clients[1].told.pop_front().is_some());
    crowd.room.unavailable(1);
    assert_eq!(crowd.answer(), []);
    crowd.clients[1].state = SyncState::decode(&crowd.clients[1].state.encode()).unwrap();
    crowd.settle();
    crowd.assert_converged();
}

#[test]
fn an_old_client_that_is_to_begin_anew_hears_what_is_here_all_the_same() {
    let mut crowd = together(2);
    crowd.clients[1].old = true;
    crowd.reconnect(1);
    crowd.settle();
    crowd.fail();
    crowd.answer();
    crowd.settle();
    crowd.assert_converged();
}

#[test]
fn a_reader_is_told_what_is_new_and_that_it_is_one() {
    let mut crowd = together(3);
    crowd.room.set_access(2, Access::Read);
    crowd.answer();
    crowd.settle();
    for number in 0..3 {
        crowd.edit(0, &number.to_string());
        crowd.receive(0..3);
        crowd.answer();
        let told = crowd.clients[2].told.back().unwrap();
        assert!(told.flags.unwrap().contains(MessageFlags::READ_ONLY) && !told.changes.is_empty());
        crowd.settle();
    }
    let heads = crowd.replica.heads();
    assert_eq!(crowd.clients[2].document.get_heads(), heads);
    crowd.edit(2, "vandalism");
    crowd.receive(0..3);
    crowd.answer();
    assert_eq!(crowd.replica.heads(), heads);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn whatever_happens_everybody_has_everything_in_the_end(
        steps in prop::collection::vec((0..20_u8, 0..5_usize, 1..8_usize), 1..150),
        old in prop::bool::weighted(0.3),
    ) {
        let mut crowd = Crowd::new(5);
        crowd.clients[4].old = old;
        for (number, (what, who, many)) in steps.into_iter().enumerate() {
            let session = crowd.clients[who].session;
            match what {
                0..=3 => crowd.edit(who, &number.to_string()),
                4 => edited(&mut crowd.clients[who].document, &number.to_string()),
                5..=9 => crowd.clients[who].hear(),
                10..=15 => {
                    crowd.receive((who..5).chain(0..who).cycle().take(many));
                    crowd.answer();
                }
                16 => drop(crowd.lines.0.insert(session)),
                17 => {
                    crowd.lines.0.clear();
                    crowd.room.set_all_due();
                    crowd.answer();
                }
                18 => crowd.reconnect(who),
                _ => {
                    crowd.receive((who..5).chain(0..who).cycle().take(many));
                    crowd.fail();
                    crowd.answer();
                }
            }
        }
        crowd.lines.0.clear();
        crowd.room.set_all_due();
        crowd.answer();
        crowd.settle();
        // Of nothing at all there is nothing to say.
        if !crowd.replica.is_empty() {
            crowd.assert_converged();
        }
    }
}
