//! What an operation of a channel costs: `cargo run --release -p seabed-sds-core --example speed`.
//!
//! Sends and receptions of 100 bytes in the default configuration, with a full log, and with none or a thousand own messages that nobody has
//! acknowledged. The least of many rounds of twenty operations, so that what else runs on the machine counts for
//! little.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a program that measures time")]

use std::error::Error;
use std::time::Instant;

use seabed_sds_core::wire::{self, Dialect};
use seabed_sds_core::{Channel, Config, HistoryEntry, Input, Message, MessageId, Output};

const ROUNDS: usize = 250;
const OPERATIONS: u32 = 20;
const CONTENT: [u8; 100] = [7; 100];
const START_MS: u64 = 1_700_000_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    for dialect in [Dialect::Nim, Dialect::Spec] {
        for unacknowledged in [0, 1_000] {
            let send_us = measure(dialect, unacknowledged, Kind::Send)?;
            let receive_us = measure(dialect, unacknowledged, Kind::Receive)?;
            println!(
                "{dialect:?}, {unacknowledged} unacknowledged: send {send_us:.1} us, receive {receive_us:.1} us"
            );
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Send,
    Receive,
}

/// A channel and the time that it is there.
struct Participant {
    channel: Channel,
    now_ms: u64,
}

impl Participant {
    fn new(name: &str, dialect: Dialect) -> Result<Self, Box<dyn Error>> {
        let channel = Channel::new("room".into(), name.into(), Config::seabed(dialect), START_MS)?;
        Ok(Self { channel, now_ms: START_MS })
    }

    fn handle(&mut self, input: Input<'_>) -> Result<Vec<Output>, Box<dyn Error>> {
        self.now_ms += 1;
        Ok(self.channel.handle(input, self.now_ms)?.effects.committed().release().outputs)
    }

    fn send(&mut self, id: &MessageId) -> Result<Vec<u8>, Box<dyn Error>> {
        let outputs = self.handle(Input::Send { message_id: id, content: &CONTENT, hints: &[] })?;
        let wire = outputs.into_iter().find_map(|output| match output {
            Output::Broadcast(broadcast) => Some(broadcast.wire),
            Output::Event(_) => None,
        });
        Ok(wire.ok_or("nothing was sent")?)
    }

    fn hear(&mut self, wire: &[u8]) -> Result<(), Box<dyn Error>> {
        self.handle(Input::Receive { wire, retrieval_hint: None }).map(drop)
    }
}

/// As long as the ids of both other implementations, and as random.
fn id(name: &str, number: u64) -> MessageId {
    let random = (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    format!("{random:016x}{name:0>16}{number:032x}").as_str().into()
}

/// Microseconds per operation.
fn measure(dialect: Dialect, unacknowledged: usize, kind: Kind) -> Result<f64, Box<dyn Error>> {
    let mut alice = Participant::new("alice", dialect)?;
    let mut bob = Participant::new("bob", dialect)?;
    let mut carol = Participant::new("carol", dialect)?;
    // Both logs are full of a third one's messages, and bob's filter holds them.
    for number in 0..1_000 {
        let wire = carol.send(&id("caro", number))?;
        alice.hear(&wire)?;
        bob.hear(&wire)?;
    }
    for number in 0..unacknowledged {
        alice.send(&id("wait", number as u64))?;
    }
    let mut rounds = Vec::with_capacity(ROUNDS);
    let mut number = 0;
    for _ in 0..ROUNDS {
        let numbers = number..number + u64::from(OPERATIONS);
        number += u64::from(OPERATIONS);
        let ids: Vec<MessageId> = numbers.map(|number| id("oper", number)).collect();
        let spent = match kind {
            Kind::Send => {
                let began = Instant::now();
                for id in &ids {
                    alice.send(id)?;
                }
                let spent = began.elapsed();
                // Somebody names them, so that the next round begins as this one did.
                let causal_history =
                    ids.iter().map(|id| HistoryEntry { message_id: id.clone(), ..HistoryEntry::default() });
                let names = Message {
                    sender_id: "bob".into(),
                    message_id: id("name", number),
                    channel_id: "room".into(),
                    lamport: Some(alice.channel.lamport()),
                    causal_history: causal_history.collect(),
                    ..Message::default()
                };
                alice.hear(&wire::encode(&names, dialect))?;
                spent
            }
            Kind::Receive => {
                let wires: Result<Vec<Vec<u8>>, _> = ids.iter().map(|id| bob.send(id)).collect();
                let wires = wires?;
                let began = Instant::now();
                for wire in &wires {
                    alice.hear(wire)?;
                }
                began.elapsed()
            }
        };
        rounds.push(spent.as_secs_f64() * 1e6 / f64::from(OPERATIONS));
    }
    // A filter is wrong for one in a thousand.
    if alice.channel.outgoing().count().abs_diff(unacknowledged) > unacknowledged / 100 {
        return Err("not as many are unacknowledged as were meant to".into());
    }
    rounds.into_iter().min_by(f64::total_cmp).ok_or_else(|| "nothing was measured".into())
}
