//! Random messages, whole and damaged, into channels of both profiles: nothing panics, no bound is passed, causes come first, and what is stored
//! is the state.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a failure is the test's")]

mod common;

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};

use common::{Peer, message};
use seabed_sds_core::bloom::Filter;
use seabed_sds_core::wire::{self, Dialect};
use seabed_sds_core::{Config, Error, Event, HistoryEntry, Input, Key, Message, MessageId, Outcome};

/// How many messages a channel gets. `RANDOM_MESSAGES` says how many there are in all, and `RANDOM_SEED` which.
const MESSAGES: u64 = 20_000;

/// Numbers that follow from a seed (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// An id out of so few that they meet, rarely one of another kind.
fn id(random: &mut Random, newest: u64) -> String {
    match random.below(50) {
        0 => format!("sync-{}", random.below(20)),
        1 => format!("own{}", random.below(40)),
        2 => "x".repeat(usize::try_from(random.below(1_100)).expect("small")),
        3 => format!("ghost{}", random.next()),
        _ => format!("m{}", newest.saturating_sub(random.below(60))),
    }
}

fn entries(random: &mut Random, newest: u64, count_max: u64) -> Vec<HistoryEntry> {
    let count = if random.one_in(200) { 400 } else { random.below(count_max + 1) };
    (0..count)
        .map(|_| HistoryEntry {
            message_id: id(random, newest).as_str().into(),
            retrieval_hint: random.one_in(4).then(|| b"where".as_slice().into()),
            sender_id: random.one_in(2).then(|| "bob".into()),
        })
        .collect()
}

fn said(random: &mut Random, now_ms: u64, number: u64, dialect: Dialect) -> Message {
    let sender = match random.below(5) {
        0 => "alice",
        1 => "",
        2 => "bob",
        3 => "carol",
        _ => "dave",
    };
    let now = if dialect == Dialect::Nim { now_ms / 1_000 } else { now_ms };
    let stamp = match random.below(200) {
        0 => random.next() >> 1,
        1 => u64::MAX,
        2 => now.saturating_add(200_000_000),
        _ => now + random.below(100),
    };
    let filter = match random.below(4) {
        0 => None,
        1 => Some((0..random.below(80)).map(|_| random.next().to_be_bytes()[0]).collect::<Vec<u8>>().into()),
        _ => {
            let mut filter = Filter::sized_for(16, 0.001);
            filter.insert(format!("own{}", random.below(40)).as_bytes());
            Some(filter.to_bytes().into())
        }
    };
    let plain = message(sender, &id(random, number), stamp, &[]);
    let lamport = if random.one_in(30) { None } else { plain.lamport };
    let content = if random.one_in(12) { None } else { plain.content.clone() };
    let causal_history = entries(random, number, 4);
    let repair_request = if random.one_in(3) { entries(random, number, 4) } else { Vec::new() };
    Message { lamport, content, causal_history, bloom_filter: filter, repair_request, ..plain }
}

fn damage(random: &mut Random, wire: &mut Vec<u8>) {
    for _ in 0..=random.below(3) {
        let length = wire.len() as u64;
        if length == 0 {
            return;
        }
        let at = usize::try_from(random.below(length)).expect("small");
        let byte = random.next().to_be_bytes()[0];
        match random.below(4) {
            0 => wire.truncate(at),
            1 => wire.insert(at, byte),
            2 => drop(wire.remove(at)),
            _ => wire.iter_mut().skip(at).take(1).for_each(|old| *old ^= byte),
        }
    }
}

/// The rows of the store are those of the state, and bring it back.
fn check_state(peer: &mut Peer) {
    let records: Vec<_> = peer.channel.records().collect();
    let due_ms = peer.channel.next_due();
    if peer.rows.is_empty() {
        return;
    }
    let mut keys: Vec<Vec<u8>> = records.iter().map(|record| record.key().to_bytes()).collect();
    keys.sort_unstable();
    let left: Vec<_> = peer.rows.keys().filter(|key| keys.binary_search(key).is_err()).collect();
    assert!(
        left.is_empty(),
        "rows that are not in the state: {:?}",
        left.into_iter().map(|key| Key::from_bytes(key)).collect::<Vec<_>>()
    );
    assert_eq!(records.len(), peer.rows.len());
    peer.restart();
    assert!(peer.channel.records().eq(records), "came back with another state");
    assert_eq!(peer.channel.next_due(), due_ms);
}

fn check_bounds(peer: &Peer) {
    let limits = &peer.channel.config().limits;
    let requests = peer.channel.missing().filter(|missing| missing.request_due_ms.is_some());
    assert!(peer.channel.log().count() <= limits.log_messages_max);
    assert!(peer.channel.outgoing().count() <= limits.outgoing_messages_max);
    assert!(peer.channel.incoming().count() <= limits.incoming_messages_max);
    assert!(requests.count() <= limits.repairs_out_max);
    assert!(
        peer.channel.missing().count()
            <= limits.repairs_out_max + limits.incoming_messages_max * limits.missing_ids_max
    );
    assert!(peer.channel.answers().count() <= limits.repairs_in_max);
}

fn given(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number, not '{value}'")))
}

/// As many channels as it takes, one after the other: in profile nim what waits has no bound.
fn run(config: &Config) {
    let mut left = given("RANDOM_MESSAGES").unwrap_or(MESSAGES);
    // The standard library seeds its hash maps from the system.
    let mut seed = given("RANDOM_SEED").unwrap_or_else(|| RandomState::new().hash_one("random messages"));
    while left > 0 {
        let messages = left.min(MESSAGES);
        println!("RANDOM_SEED={seed} RANDOM_MESSAGES={messages} does the same again");
        harm(config.clone(), messages, Random(seed | 1));
        left -= messages;
        seed = seed.wrapping_add(2);
    }
}

fn harm(mut config: Config, messages: u64, mut random: Random) {
    let bounded = config == Config::seabed(config.dialect);
    config.limits.log_messages_max = 60;
    config.limits.seen_ids_max = 200;
    config.limits.incoming_messages_max = 30;
    config.limits.repairs_out_max = 40;
    config.limits.repairs_in_max = 10;
    config.dependency_timeout_ms = bounded.then_some(600_000);
    let dialect = config.dialect;
    let mut peer = Peer::new("alice", config);
    let (mut met, mut delivered, mut refused) = (BTreeSet::new(), 0, 0);
    for number in 0..messages {
        peer.now_ms += random.below(2_000);
        let mut wire = wire::encode(&said(&mut random, peer.now_ms, number / 20, dialect), dialect);
        if random.one_in(4) {
            damage(&mut random, &mut wire);
        }
        match peer.handle(Input::Receive { wire: &wire, retrieval_hint: None }) {
            // Sync messages satisfy those that name them, also own ones.
            Ok(Outcome::Received(received)) if received.message.is_sync() => {
                met.insert(received.message.message_id.clone());
            }
            Ok(Outcome::Received(_)) => {}
            Err(Error::Deserialization(_) | Error::OtherChannel) => refused += 1,
            other => panic!("{other:?}"),
        }
        delivered += check_order(&peer, &mut met, bounded);
        match random.below(60) {
            0 => drop(peer.try_send(&format!("own{}", random.below(40)))),
            1 => {
                let ids: Vec<MessageId> =
                    entries(&mut random, number / 20, 3).into_iter().map(|entry| entry.message_id).collect();
                peer.handle(Input::MarkDependenciesMet { message_ids: &ids }).expect("marked");
                met.extend(ids);
            }
            2 => drop(peer.tick()),
            3 if peer.channel.next_due().is_some() => drop(peer.tick_when_due()),
            4 => drop(peer.handle(Input::SendSync)),
            _ => continue,
        }
        check_order(&peer, &mut met, bounded);
        if bounded {
            check_bounds(&peer);
        }
        if number % 512 < 16 {
            check_state(&mut peer);
        }
    }
    assert!(
        delivered > messages / 100 && refused > messages / 100,
        "{delivered} delivered, {refused} refused"
    );
}

/// Causes come first, unless something was lost. Gives how many were delivered.
fn check_order(peer: &Peer, met: &mut BTreeSet<MessageId>, bounded: bool) -> u64 {
    let mut delivered = 0;
    for event in peer.events() {
        match event {
            Event::Delivered { message, gap } => {
                delivered += 1;
                let mut causes = message.causal_history.iter().map(|cause| &cause.message_id);
                let early = causes.find(|cause| {
                    !(cause.is_empty()
                        || met.contains(*cause)
                        || **cause == message.message_id
                        || cause.as_bytes().starts_with(b"sync-")
                        || cause.as_bytes().starts_with(b"own"))
                });
                assert!(!bounded || gap || early.is_none(), "{} came before {early:?}", message.message_id);
                met.insert(message.message_id.clone());
            }
            Event::OwnRestored { message } => drop(met.insert(message.message_id.clone())),
            _ => {}
        }
    }
    delivered
}

#[test]
fn random_messages_harm_no_channel() {
    run(&Config::seabed(Dialect::Nim));
}

#[test]
fn random_messages_harm_no_channel_of_dialect_s() {
    run(&Config::seabed(Dialect::Spec));
}

#[test]
fn random_messages_harm_no_channel_of_profile_nim() {
    run(&Config::nim());
}
