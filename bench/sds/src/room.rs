//! A participant whose log is full, and what the others say to it.

use std::collections::BTreeMap;

use seabed_sds_core::wire::Dialect;
use seabed_sds_core::{
    Broadcast, Change, Channel, Config, Handled, Input, MessageId, Output, Record, Released, derive_message_id,
};

/// When everything begins, in milliseconds.
pub const START_MS: u64 = 1_700_000_000_000;
/// Between two messages: 200 of them are in the filter's horizon of half an hour.
pub const PAUSE_MS: u64 = 9_000;
/// The messages that a log holds by default.
pub const LOG: u64 = 1_000;
pub const CONTENT: [u8; 100] = [0x5A; 100];

pub fn config() -> Config {
    Config::seabed(Dialect::Nim)
}

/// An id as nim-sds' applications have them: the hexadecimal digits of a hash, which come in no order.
pub fn id(sender: &str, number: u64) -> MessageId {
    let hash = derive_message_id(&sender.into(), number.into(), &CONTENT);
    format!("0x{hash}").as_str().into()
}

/// A channel, and the rows that it has stored.
pub struct Peer {
    name: &'static str,
    pub channel: Channel,
    pub rows: BTreeMap<Vec<u8>, Record>,
    said: u64,
}

impl Peer {
    pub fn new(room: &str, name: &'static str) -> Self {
        let channel = Channel::new(room.into(), name.into(), config(), START_MS).expect("a configuration");
        Self { name, channel, rows: BTreeMap::new(), said: 0 }
    }

    pub fn send(&mut self, now_ms: u64) -> Vec<u8> {
        self.said += 1;
        let message_id = id(self.name, self.said);
        let input = Input::Send { message_id: &message_id, content: &CONTENT, hints: &[] };
        let handled = self.channel.handle(input, now_ms).expect("sent");
        let broadcast = self.release(handled).outputs.into_iter().find_map(|output| match output {
            Output::Broadcast(Broadcast { wire, .. }) => Some(wire),
            Output::Event(_) => None,
        });
        broadcast.expect("a message")
    }

    pub fn receive(&mut self, wire: &[u8], now_ms: u64) {
        let input = Input::Receive { wire, retrieval_hint: None };
        let handled = self.channel.handle(input, now_ms).expect("received");
        self.release(handled);
    }

    fn release(&mut self, handled: Handled) -> Released {
        for change in &handled.changes {
            match change {
                Change::Put(record) => self.rows.insert(record.key().to_bytes(), record.clone()),
                Change::Delete(key) => self.rows.remove(&key.to_bytes()),
            };
        }
        handled.effects.committed().release()
    }

    /// The channel alone, as a restart makes it.
    pub fn loaded(&self, now_ms: u64) -> Channel {
        let records = self.rows.values().cloned();
        let (room, name) = (self.channel.channel_id().clone(), self.name.into());
        Channel::load(room, name, config(), records, now_ms).expect("a state")
    }
}

/// What happens to a participant before it is measured, and what there is for it to hear then.
pub struct Story {
    /// Messages of others, and when they are heard.
    pub heard: Vec<(u64, Vec<u8>)>,
    /// Messages of `bob`, whose filter has 200 ids and none of ours, for a millisecond each from `now_ms` on.
    pub next: Vec<Vec<u8>>,
    /// When what is measured begins.
    pub now_ms: u64,
}

/// A full log of `bob`'s, and then 200 messages of `carol`'s that `bob` hears, too.
pub fn story(room: &str, next: usize) -> Story {
    let (mut bob, mut carol) = (Peer::new(room, "bob"), Peer::new(room, "carol"));
    let (mut heard, mut now_ms) = (Vec::new(), START_MS);
    for _ in 0..LOG {
        now_ms += PAUSE_MS;
        heard.push((now_ms, bob.send(now_ms)));
    }
    for _ in 0..200 {
        now_ms += PAUSE_MS;
        let wire = carol.send(now_ms);
        bob.receive(&wire, now_ms);
        heard.push((now_ms, wire));
    }
    let next = (0..next as u64).map(|number| bob.send(now_ms + number)).collect();
    Story { heard, next, now_ms }
}

/// `alice`, who has heard all of it, and said so much in between that nobody has acknowledged.
pub fn alice(story: &Story, unacknowledged: u64) -> Peer {
    let mut alice = Peer::new("room", "alice");
    for ((now_ms, wire), number) in story.heard.iter().zip(0..) {
        alice.receive(wire, *now_ms);
        if number < unacknowledged {
            alice.send(*now_ms);
        }
    }
    alice
}
