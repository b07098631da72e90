//! The same inputs give the same bytes, and a channel that ends at any point comes back as it was: state, due times, filter and all.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a failure is the test's")]

mod common;

use common::{Peer, encode, entry, message};
use proptest::prelude::*;
use seabed_sds_core::wire::Dialect;
use seabed_sds_core::{Config, Input, Message, Output, Record};

/// One thing that happens to a participant.
#[derive(Debug, Clone)]
enum Act {
    Send(u8),
    Hear { id: u8, sender: u8, lamport: u8, causes: Vec<u8>, asks: Vec<u8>, sync: bool },
    Mark(u8),
    Sync,
    Pass { ms: u32 },
    PassToDue,
}

fn act() -> impl Strategy<Value = Act> {
    let ids = || prop::collection::vec(0_u8..40, 0..4);
    prop_oneof![
        2 => any::<u8>().prop_map(Act::Send),
        6 => (0_u8..40, 0_u8..3, 0_u8..60, ids(), ids(), prop::bool::weighted(0.2)).prop_map(
            |(id, sender, lamport, causes, asks, sync)| Act::Hear { id, sender, lamport, causes, asks, sync }
        ),
        1 => (0_u8..40).prop_map(Act::Mark),
        1 => Just(Act::Sync),
        1 => (0_u32..2_000_000).prop_map(|ms| Act::Pass { ms }),
        2 => Just(Act::PassToDue),
    ]
}

fn small(dialect: Dialect) -> Config {
    let mut config =
        Config { dependency_timeout_ms: Some(600_000), causal_history: 3, ..Config::seabed(dialect) };
    config.limits.log_messages_max = 8;
    config.limits.seen_ids_max = 24;
    config.limits.incoming_messages_max = 5;
    config.limits.repairs_out_max = 6;
    config.limits.repairs_in_max = 2;
    config
}

/// Does it, and gives everything that came of it.
fn perform(peer: &mut Peer, act: &Act) -> Vec<Output> {
    match act {
        Act::Send(number) => {
            // A used id is refused, which is an answer as well.
            let _refused = peer.try_send(&format!("own{number}"));
        }
        Act::Hear { id, sender, lamport, causes, asks, sync } => {
            let named: Vec<String> = causes.iter().map(|cause| format!("m{cause}")).collect();
            let named: Vec<&str> = named.iter().map(String::as_str).collect();
            let stamp = peer.now_ms / 1_000 + u64::from(*lamport) * if *lamport > 55 { 5_000 } else { 1 };
            let id = format!("{}{id}", if *sync { "sync-" } else { "m" });
            let said = message(["bob", "carol", ""][usize::from(*sender)], &id, stamp, &named);
            let repair_request = asks.iter().map(|id| entry(&format!("m{id}"))).collect();
            let content = said.content.clone().filter(|_| !sync);
            peer.hear(&encode(&Message { repair_request, content, ..said }));
        }
        Act::Mark(id) => peer.mark_met(&[&format!("m{id}")]),
        Act::Sync => drop(peer.handle(Input::SendSync).expect("a sync, or nothing to say")),
        Act::Pass { ms } => {
            peer.now_ms += u64::from(*ms);
            peer.tick();
        }
        Act::PassToDue => {
            if peer.channel.next_due().is_some() {
                peer.tick_when_due();
            }
        }
    }
    std::mem::take(&mut peer.outputs)
}

fn state(peer: &Peer) -> (Vec<Record>, Option<u64>) {
    (peer.channel.records().collect(), peer.channel.next_due())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// One participant runs through; its twin ends and begins again before each step. They must not differ in a byte, nor in what is
    /// stored, and nothing may be stored that is not part of the state.
    #[test]
    fn a_restart_at_any_point_changes_nothing(acts in prop::collection::vec(act(), 1..60), spec in any::<bool>()) {
        let config = small(if spec { Dialect::Spec } else { Dialect::Nim });
        let (mut through, mut twin) = (Peer::new("alice", config.clone()), Peer::new("alice", config.clone()));
        for act in &acts {
            if !twin.rows.is_empty() {
                twin.restart();
            }
            prop_assert_eq!(state(&twin), state(&through));
            let (one, other) = (perform(&mut through, act), perform(&mut twin, act));
            prop_assert_eq!(one, other, "{:?}", act);
            prop_assert_eq!(&twin.rows, &through.rows);
            if !through.rows.is_empty() {
                prop_assert_eq!(through.rows.len(), through.channel.records().count());
            }
            let limits = &config.limits;
            prop_assert!(through.channel.log().count() <= limits.log_messages_max);
            prop_assert!(through.channel.incoming().count() <= limits.incoming_messages_max);
            let asked = through.channel.missing().filter(|missing| missing.request_due_ms.is_some());
            prop_assert!(asked.count() <= limits.repairs_out_max);
            prop_assert!(through.channel.answers().count() <= limits.repairs_in_max);
        }
    }
}

/// What an operation writes follows the change: with a full log and a thousand messages that nobody has acknowledged, saying one more thing
/// changes six rows.
#[test]
fn an_operation_changes_few_rows() {
    let mut alice = Peer::nim_dialect("alice");
    for number in 0..1_100 {
        alice.send(&format!("a{number}"));
    }
    assert_eq!(alice.channel.outgoing().count(), 1_100);
    alice.send("one-more");
    // Its log entry, the one that is forgotten for it, message and state of the outgoing buffer, the seen id, and the clock.
    assert_eq!(alice.changes, 6);
    alice.hear(&encode(&message("bob", "b1", alice.channel.lamport() + 1, &["a1099"])));
    // Log entries in and out, the acknowledged message and its state, the seen id, and the clock.
    assert_eq!(alice.changes, 6);
}

/// Found by the test above: whether a message that names itself counted as named hung on the order in which rows were read.
#[test]
fn a_message_that_names_itself_comes_back_as_it_was() {
    let mut alice = Peer::new("alice", small(Dialect::Nim));
    for act in [
        Act::Hear { id: 10, sender: 0, lamport: 24, causes: vec![30], asks: vec![], sync: false },
        Act::Hear { id: 30, sender: 0, lamport: 0, causes: vec![30], asks: vec![], sync: false },
        Act::Send(0),
        Act::Send(1),
    ] {
        perform(&mut alice, &act);
    }
    let causes = alice.channel.causal_history();
    alice.restart();
    assert_eq!(alice.channel.causal_history(), causes);
}
