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

/// When it is its turn, and what must not be divided.
fn unit(change: &Change) -> (u8, u64, MessageId, Option<Key>) {
    let key = key(change);
    let is_put = matches!(change, Change::Put(_));
    match (&key, is_put) {
        // The clock is never behind what it has stamped.
        (Key::Meta, _) => (0, 0, MessageId::default(), None),
        // An id has one number.
        (Key::Seen(_) | Key::Sync(_) | Key::Met(_), false) => (1, 0, MessageId::default(), Some(key)),
        // After the log's messages, which they may be, and before these are forgotten.
        (Key::Outgoing(number) | Key::Kept(number), _) => (3, *number, MessageId::default(), None),
        (Key::Incoming(id) | Key::Waits(id, _), _) => (4, 0, id.clone(), None),
        (_, true) => (2, 0, MessageId::default(), Some(key)),
        (_, false) => (5, 0, MessageId::default(), Some(key)),
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
    use crate::core::{Channel, Config, wire::Dialect};

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
            for change in piece {
                match change {
                    Change::Put(record) => drop(there.insert(record.key(), record)),
                    Change::Delete(key) => drop(there.remove(&key)),
                }
            }
            let config = Config::seabed(Dialect::Nim);
            Channel::load("room".into(), "bob".into(), config, there.values().cloned(), 0).unwrap();
        }
        assert_eq!(there.into_values().collect::<Vec<_>>(), after);
    }
}
