//! The rules of a room, with clients of automerge's own.

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
        Self { room: Room::default(), replica: Replica::new(Automerge::new(), None), line: Test::default() }
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
    let heads: Vec<_> = others.iter().filter(|answer| matches!(answer.what, What::Heads { .. })).collect();
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
