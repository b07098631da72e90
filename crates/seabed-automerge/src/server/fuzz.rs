//! What a fuzzer calls: frames as they come from anybody, and what the server makes of them.

use std::collections::BTreeMap;

use super::frame::{Ephemeral, Incoming, Outgoing, Said, decode, encode};
use super::limits::ID_BYTES_MAX;

/// Reads `data` as a frame, and what it holds as a sync message to a document: nothing may panic but what automerge does, bounds are kept,
/// and what reads is sent on as it came.
#[doc(hidden)]
pub fn fuzz_frames(data: &[u8]) {
    let Ok((sender, incoming)) = decode(data) else { return };
    assert!(sender.len() <= ID_BYTES_MAX, "an id beyond its bound");
    let Incoming::Document { document, said } = incoming else { return };
    match said {
        Said::Sync { data, .. } => {
            // As the server does: a panic of automerge's is caught, and costs a session.
            let Ok(Ok((message, _))) = crate::chunks::guarded(|| super::message::read(&data)) else {
                return;
            };
            let received = crate::chunks::guarded(|| {
                let (mut room, now) = (super::room::Room::default(), 1);
                let mut replica = super::replica::Replica::new(automerge::Automerge::new(), None);
                room.enter(1, super::Access::Write, None, None, &replica);
                room.receive(&mut replica, 1, message, false, now)
            });
            drop(received);
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

#[cfg(test)]
mod tests {
    proptest::proptest! {
        #[test]
        fn any_bytes_do_no_harm(data: Vec<u8>) {
            super::fuzz_frames(&data);
        }
    }
}
