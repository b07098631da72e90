//! What has piled up behind a store that failed (`BestEffort`) may be more than a batch of the kernel holds. It is applied in pieces then,
//! each of which leaves a state that a channel can go on from: what is new before what it replaces, so that a crash in between says
//! something twice rather than not at all.

use std::collections::BTreeSet;

use seabed_sds_core::{Change, Key, MessageId, Record};

/// After how many bytes of rows a piece ends.
pub(super) const PIECE_BYTES: usize = 4 * 1024 * 1024;

/// After how many rows a piece ends.
const PIECE_ROWS: usize = 16_384;

/// The changes that make these rows a channel's only ones.
pub(super) fn replacing(changes: &[Change], there: &[Record]) -> Vec<Change> {
    let put: BTreeSet<Key> = changes.iter().map(key).collect();
    let gone = there.iter().map(Record::key).filter(|key| !put.contains(key)).map(Change::Delete);
    changes.iter().cloned().chain(gone).collect()
}

/// The changes in pieces, to be applied one after another.
pub(super) fn pieces(mut changes: Vec<Change>, bytes_max: usize) -> Vec<Vec<Change>> {
    let kept: BTreeSet<u64> = changes.iter().filter_map(kept).collect();
    let unit = |change: &Change| unit(change, &kept);
    changes.sort_by_cached_key(unit);
    let mut pieces: Vec<Vec<Change>> = Vec::new();
    let mut bytes = 0;
    for one in changes.chunk_by(|one, next| unit(one) == unit(next)) {
        let more: usize = one.iter().map(bytes_of).sum();
        match pieces.last_mut() {
            Some(piece) if bytes + more <= bytes_max && piece.len() + one.len() <= PIECE_ROWS => {
                piece.extend_from_slice(one);
                bytes += more;
            }
            _ => {
                pieces.push(one.to_vec());
                bytes = more;
            }
        }
    }
    pieces
}

/// The number of an own message that is written in a row of its own.
fn kept(change: &Change) -> Option<u64> {
    match change {
        Change::Put(Record::Kept { number, .. }) => Some(*number),
        _ => None,
    }
}

/// When it is its turn, and what must not be divided.
fn unit(change: &Change, kept: &BTreeSet<u64>) -> (u8, u64, MessageId, Option<Key>) {
    let key = key(change);
    let is_put = matches!(change, Change::Put(_));
    match (&key, is_put) {
        // The clock is never behind what it has stamped.
        (Key::Meta, _) => (0, 0, MessageId::default(), None),
        // An id has one number.
        (Key::Seen(_) | Key::Sync(_) | Key::Met(_), false) => (1, 0, MessageId::default(), Some(key)),
        // Before the log has another message of that id, or none. Number and message together: the number may have been another one's.
        (Key::Outgoing(number) | Key::Kept(number), _) if kept.contains(number) => {
            (2, *number, MessageId::default(), None)
        }
        // After the log's messages, which they are.
        (Key::Outgoing(number) | Key::Kept(number), _) => (4, *number, MessageId::default(), None),
        (Key::Incoming(id) | Key::Waits(id, _), _) => (5, 0, id.clone(), None),
        (_, true) => (3, 0, MessageId::default(), Some(key)),
        (_, false) => (6, 0, MessageId::default(), Some(key)),
    }
}

fn key(change: &Change) -> Key {
    match change {
        Change::Put(record) => record.key(),
        Change::Delete(key) => key.clone(),
    }
}

fn bytes_of(change: &Change) -> usize {
    match change {
        Change::Put(record) => record.key().to_bytes().len() + record.to_bytes().len(),
        Change::Delete(key) => key.to_bytes().len(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::SdsManager;
    use crate::core::{Channel, Config, Input, wire::Dialect};

    fn rows(manager: &SdsManager) -> Vec<Record> {
        manager.read("room", |channel| channel.records().collect()).wait().unwrap().unwrap()
    }

    #[test]
    fn whatever_is_between_two_pieces_is_a_channel() {
        let manager = |name: &str| SdsManager::builder(name).build().unwrap();
        let (alice, bob) = (manager("alice"), manager("bob"));
        let send = |from: &SdsManager, id: &str| from.send("room", id, b"x").wait().unwrap().release().wire;
        let wires: Vec<_> = (0..6).map(|number| send(&alice, &format!("a{number}"))).collect();
        for number in [5, 1, 3] {
            bob.receive(wires[number].clone()).wait().unwrap();
        }
        for number in 0..3 {
            alice.receive(send(&bob, &format!("b{number}"))).wait().unwrap();
        }
        let before = rows(&bob);
        for number in [0, 2, 1] {
            bob.receive(wires[number].clone()).wait().unwrap();
        }
        bob.receive(send(&alice, "it names what bob has said")).wait().unwrap();
        let after = rows(&bob);

        let puts: Vec<_> = after.iter().cloned().map(Change::Put).collect();
        let mut there: BTreeMap<Key, Record> = before.iter().map(|row| (row.key(), row.clone())).collect();
        let pieces = pieces(replacing(&puts, &before), 1);
        assert!(pieces.len() > 20, "{}", pieces.len());
        for piece in pieces {
            apply(&mut there, piece);
            load(&there, Config::seabed(Dialect::Nim));
        }
        assert_eq!(there.into_values().collect::<Vec<_>>(), after);
    }

    type There = BTreeMap<Key, Record>;

    fn apply(there: &mut There, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            match change {
                Change::Put(record) => drop(there.insert(record.key(), record)),
                Change::Delete(key) => drop(there.remove(&key)),
            }
        }
    }

    fn load(there: &There, config: Config) -> Channel {
        Channel::load("room".into(), "bob".into(), config, there.values().cloned(), 0).unwrap()
    }

    /// What bob has stored before and after he says the second half, and all of it that is between two pieces.
    fn cut_off(config: &Config, said: &[(&str, &[u8])]) -> Vec<There> {
        let bob = SdsManager::builder("bob").config(config.clone()).build().unwrap();
        let send = |said: &[(&str, &[u8])]| {
            for (id, content) in said {
                bob.send("room", *id, *content).wait().unwrap();
            }
            rows(&bob)
        };
        let (first, second) = said.split_at(said.len() / 2);
        let (before, after) = (send(first), send(second));
        let puts: Vec<_> = after.iter().cloned().map(Change::Put).collect();
        let mut there: There = before.iter().map(|row| (row.key(), row.clone())).collect();
        let mut states = Vec::new();
        for piece in pieces(replacing(&puts, &before), 1) {
            apply(&mut there, piece);
            states.push(there.clone());
        }
        assert!(there.into_values().eq(after));
        states
    }

    #[test]
    fn what_is_acknowledged_after_a_crash_between_two_pieces_leaves_nothing_behind() {
        let mut config = Config::seabed(Dialect::Nim);
        (config.limits.log_messages_max, config.causal_history) = (2, 1);
        let alice = SdsManager::builder("alice").build().unwrap();
        let said: [(&str, &[u8]); 4] = [("b0", b"x"), ("b1", b"x"), ("b2", b"x"), ("b3", b"x")];
        for (id, _) in said {
            // So that what she says next names it.
            alice.send("room", id, b"x").wait().unwrap();
        }
        let wire = alice.send("room", "a0", b"names them all").wait().unwrap().release().wire;
        let mut doubled = 0;
        for mut there in cut_off(&config, &said) {
            let kept = |there: &There| there.keys().filter(|key| matches!(key, Key::Kept(_))).count();
            let mut bob = load(&there, config.clone());
            doubled += kept(&there) - bob.records().filter(|row| matches!(row, Record::Kept { .. })).count();
            let handled = bob.handle(Input::Receive { wire: &wire, retrieval_hint: None }, 0).unwrap();
            apply(&mut there, handled.changes);
            assert_eq!((load(&there, config.clone()).outgoing().count(), kept(&there)), (0, 0));
        }
        assert!(doubled > 0, "a message that is stored twice");
    }

    #[test]
    fn a_message_whose_id_is_used_again_is_stored_elsewhere_before_its_place_is_taken() {
        let config = Config::nim();
        for there in cut_off(&config, &[("b0", b"first"), ("b0", b"second")]) {
            let bob = load(&there, config.clone());
            let first = bob.outgoing().filter(|(said, _)| said.content.as_deref() == Some(b"first"));
            assert_eq!(first.count(), 1);
        }
    }
}
