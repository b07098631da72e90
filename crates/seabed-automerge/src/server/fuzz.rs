//! What a fuzzer calls: frames as they come from anybody, and what the server makes of them and answers.

use std::collections::BTreeMap;

use automerge::sync::Message;
use automerge::transaction::Transactable as _;
use automerge::{ActorId, Automerge, AutomergeError, ROOT};

use super::frame::{Ephemeral, Incoming, Outgoing, Said, decode, encode};
use super::limits::{HEADS_MAX, ID_BYTES_MAX};
use super::replica::Replica;
use super::room::{Answer, Line, Room, SessionId, What};
use super::{Access, message};
use crate::DocumentId;
use crate::chunks::guarded;

/// Reads `data` as a frame, and has a document take the sync message that it holds, and answer it and a bystander: nothing may panic but what
/// automerge does, bounds are kept, what reads is sent on as it came, and what is answered reads.
#[doc(hidden)]
pub fn fuzz_frames(data: &[u8]) {
    let Ok((sender, incoming)) = decode(data) else { return };
    assert!(sender.len() <= ID_BYTES_MAX, "an id beyond its bound");
    let Incoming::Document { document, said } = incoming else { return };
    match said {
        Said::Sync { data, request } => {
            // As the server does: a panic of automerge's is caught, and costs a session.
            if let Ok(Ok((message, _))) = guarded(|| message::read(&data)) {
                converse(document, message, request);
            }
        }
        Said::Ephemeral(message) => {
            let Ephemeral { session, count, data } = &message;
            let outgoing = Outgoing::Ephemeral {
                document,
                from: &sender,
                session,
                count: *count,
                data_bytes: data.len(),
            };
            let again = decode(&[&encode("server", "client", &outgoing), &data[..]].concat());
            assert_eq!(again, Ok((sender, Incoming::Document { document, said: Said::Ephemeral(message) })));
        }
        Said::Heads(said) => {
            for (storage, heads) in said {
                let sent = Outgoing::Heads { document, storage: &storage, heads: &heads };
                let again = decode(&encode("server", "client", &sent)).map(|(_, incoming)| incoming);
                let said = Said::Heads(BTreeMap::from([(storage, heads)]));
                assert_eq!(again, Ok(Incoming::Document { document, said }));
            }
        }
        Said::Unavailable => {}
    }
}

/// Connections that take everything, and want to hear of every storage.
struct Open;

impl Line for Open {
    fn takes_more(&self, _: SessionId, _: usize) -> bool {
        true
    }

    fn hears(&self, _: SessionId) -> bool {
        true
    }

    fn hears_of(&self, _: SessionId, _: &str) -> bool {
        true
    }
}

/// One sync message to a document that has something, which another peer has open: what both are answered.
#[allow(clippy::panic, reason = "what a fuzzer looks for")]
fn converse(document: DocumentId, message: Message, request: bool) {
    let storage = |name: &str| Some(name.to_owned());
    let mut automerge = Automerge::new().with_actor(ActorId::from([7; 16]));
    for key in ["one", "two"] {
        // A key that is put into an empty map fails for no reason.
        let _ = automerge.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, key, key));
    }
    let (mut room, mut replica) = (Room::default(), Replica::new(automerge, None));
    room.enter(1, Access::Write, storage("hostile"), None, &replica);
    room.enter(2, Access::Write, storage("bystander"), None, &replica);
    let received = guarded(|| room.receive(&mut replica, 1, message, request, 1));
    if !matches!(received, Ok(Ok(()))) {
        return;
    }
    room.set_all_due();
    let Ok(answers) = guarded(|| room.answers(&replica, &Open, usize::MAX)) else { return };
    assert!(!answers.goes_on, "nothing was left to say");
    assert!(answers.told.iter().any(|answer| answer.to == 2), "the bystander hears of the document");
    for Answer { what, .. } in answers.told {
        match what {
            What::Sync(data) => {
                let outgoing = Outgoing::Sync { document, data_bytes: data.len() };
                let again = decode(&[&encode("server", "client", &outgoing), &data[..]].concat());
                let (_, kept) =
                    message::read(&data).unwrap_or_else(|why| panic!("an answer does not read: {why}"));
                assert!(kept <= data.len());
                let said = Said::Sync { data, request: false };
                assert_eq!(again.map(|(_, incoming)| incoming), Ok(Incoming::Document { document, said }));
            }
            What::Heads { heads, .. } => {
                assert!(heads.heads.len() <= HEADS_MAX && heads.heads.iter().all(|head| replica.has(head)));
            }
            What::Unavailable => panic!("the document is there"),
        }
    }
}

#[cfg(test)]
mod tests {
    proptest::proptest! {
        #[test]
        fn any_bytes_do_no_harm(data: Vec<u8>) {
            super::fuzz_frames(&data);
        }
    }
}
