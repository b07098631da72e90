//! Channels of a manager, on SQLite: CPU, flushes and bytes written of the whole process.

use std::sync::Arc;
use std::time::Instant;

use measure::{Laps, Meter, Observed};
use seabed_kv::{Durability, Store};
use seabed_sds::{KernelStore, ManualClock, SdsManager};
use seabed_sds_core::{Config, MessageId};

use crate::pure::BATCH;
use crate::room::{CONTENT, LOG, START_MS, Story, config, id, story};

/// Rooms that are filled alike, so that there are enough operations to measure before the unacknowledged become many.
const ROOMS: usize = 20;
/// Who sends durably at once.
const CROWD: u64 = 64;
const EMPTY_CHANNELS: u64 = 10_000;
const FULL_CHANNELS: u64 = 50;

struct Alice {
    manager: SdsManager,
    clock: Arc<ManualClock>,
}

impl Alice {
    fn on(store: &Store, durability: Durability, config: Config) -> Self {
        let clock = Arc::new(ManualClock::new(START_MS));
        let store = KernelStore::open(store).wait().expect("a store").with_durability(durability);
        let builder = SdsManager::builder("alice").config(config).store(Arc::new(store)).clock(clock.clone());
        Self { manager: builder.build().expect("a manager"), clock }
    }

    fn send(&self, room: &str, message_id: MessageId) {
        self.manager.send(room, message_id, CONTENT).wait().expect("sent");
    }

    /// Hears a story, and says so much in between that nobody acknowledges.
    fn hear(&self, room: &str, story: &Story, unacknowledged: u64) {
        for ((now_ms, wire), number) in story.heard.iter().zip(0..) {
            self.clock.set(*now_ms);
            self.manager.receive(wire.clone()).wait().expect("received");
            if number < unacknowledged {
                self.send(room, id("alice", number));
            }
        }
        self.clock.set(story.now_ms);
    }
}

/// Rooms with full logs, and so much unacknowledged in each.
fn rooms(store: &Store, unacknowledged: u64) -> (Alice, Vec<(String, Story)>) {
    let alice = Alice::on(store, Durability::Relaxed, config());
    let rooms: Vec<_> = (0..ROOMS)
        .map(|number| format!("room-{number}"))
        .map(|room| (room.clone(), story(&room, BATCH)))
        .collect();
    for (room, story) in &rooms {
        alice.hear(room, story, unacknowledged);
    }
    (alice, rooms)
}

/// Measures every operation of `work`, a lap each.
fn measured(case: &str, work: impl FnOnce(&mut dyn FnMut(&dyn Fn()))) {
    // There are so many operations, however long they take.
    let meter = Meter::start(f64::from(u32::MAX), Observed::Own);
    let written = bytes_written();
    let mut laps: Laps = meter.laps();
    let mut operations = 0_u64;
    work(&mut |operation| {
        laps.next();
        operation();
        operations += 1;
    });
    laps.next();
    let bytes = (bytes_written() - written) / operations.max(1);
    meter.print(case, [laps], &[("bytes_per_op", bytes)]);
}

pub fn send(directory: &str, case: &str, unacknowledged: u64) {
    let store = Store::sqlite(directory).expect("a store");
    let (alice, rooms) = rooms(&store, unacknowledged);
    let ids: Vec<MessageId> = (0..BATCH as u64).map(|number| id("later", number)).collect();
    measured(case, |lap| {
        for (room, _) in &rooms {
            for message_id in &ids {
                lap(&|| alice.send(room, message_id.clone()));
            }
        }
    });
    store.close().wait().expect("closed");
}

pub fn receive(directory: &str, case: &str, unacknowledged: u64) {
    let store = Store::sqlite(directory).expect("a store");
    let (alice, rooms) = rooms(&store, unacknowledged);
    measured(case, |lap| {
        for (_, story) in &rooms {
            for wire in &story.next {
                lap(&|| drop(alice.manager.receive(wire.clone()).wait().expect("received")));
            }
        }
    });
    store.close().wait().expect("closed");
}

/// 64 threads, each sending in a channel of its own and waiting for each message to be durable.
pub fn durable(directory: &str, case: &str, seconds: f64) {
    let store = Store::sqlite(directory).expect("a store");
    let alice = Alice::on(&store, Durability::Durable, config());
    for client in 0..CROWD {
        alice.send(&format!("room-{client}"), id("first", client));
    }
    let meter = Meter::start(seconds, Observed::Own);
    let laps: Vec<Laps> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CROWD)
            .map(|client| {
                let (alice, mut laps) = (&alice, meter.laps());
                scope.spawn(move || {
                    let room = format!("room-{client}");
                    while let Some(lap) = laps.next() {
                        alice.send(&room, id("alice", lap));
                    }
                    laps
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    meter.print(case, laps, &[]);
    store.close().wait().expect("closed");
}

/// From an open store to a channel that can go on.
pub fn load(directory: &str, case: &str, entries: usize) {
    let mut config = config();
    config.limits.log_messages_max = entries;
    let store = Store::sqlite(directory).expect("a store");
    let alice = Alice::on(&store, Durability::Relaxed, config.clone());
    for number in 0..entries as u64 {
        alice.send("room", id("alice", number));
    }
    store.close().wait().expect("closed");

    let store = Store::sqlite(directory).expect("a store");
    let again = Alice::on(&store, Durability::Relaxed, config);
    let meter = Meter::start(f64::from(u32::MAX), Observed::Own);
    let mut laps = meter.laps();
    laps.next();
    again.manager.ensure_channel("room").wait().expect("loaded");
    laps.next();
    meter.print(case, [laps], &[]);
    assert_eq!(again.manager.status("room").wait().expect("a channel").expect("a channel").log, entries);
    store.close().wait().expect("closed");
}

/// Resident memory for a channel, with a log of so many messages of others; without a store.
pub fn memory(case: &str, entries: u64) {
    let channels = if entries == 0 { EMPTY_CHANNELS } else { FULL_CHANNELS };
    let clock = Arc::new(ManualClock::new(START_MS));
    let manager = SdsManager::builder("alice").clock(clock.clone()).build().expect("a manager");
    // What is made once is not a channel's.
    manager.ensure_channel("first").wait().expect("made");
    let before = resident_kib();
    let began = Instant::now();
    for number in 0..channels {
        let room = format!("room-{number}");
        manager.ensure_channel(room.as_str()).wait().expect("made");
        if entries > 0 {
            for (now_ms, wire) in story(&room, 0).heard {
                clock.set(now_ms);
                manager.receive(wire).wait().expect("received");
            }
            let status = manager.status(room.as_str()).wait().expect("a channel").expect("a channel");
            assert_eq!(status.log as u64, LOG);
        }
    }
    let kib = resident_kib().saturating_sub(before) as f64 / channels as f64;
    println!(
        "{{\"case\":\"{case}\",\"kib_per_channel\":{kib:.2},\"seconds\":{:.1}}}",
        began.elapsed().as_secs_f64()
    );
}

fn resident_kib() -> u64 {
    field("/proc/self/status", "VmRSS:")
}

/// What this process has handed to the system to write, whether or not it reached a disk.
fn bytes_written() -> u64 {
    field("/proc/self/io", "wchar:")
}

fn field(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).expect("Linux");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("the field");
    line.split_whitespace().next().and_then(|value| value.parse().ok()).expect("a number")
}
