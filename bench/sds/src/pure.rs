//! The rules alone: no store, one thread, the CPU time of that thread.

use std::time::{Duration, Instant};

use seabed_sds_core::{Channel, Input, MessageId};

use crate::room::{CONTENT, Peer, START_MS, alice, id, story};

/// Operations between two fresh starts, so that what is unacknowledged stays about what it is.
pub const BATCH: usize = 50;

pub fn send(case: &str, unacknowledged: u64, seconds: f64) {
    let story = story("room", 0);
    let alice = alice(&story, unacknowledged);
    let ids: Vec<MessageId> = (0..BATCH as u64).map(|number| id("later", number)).collect();
    batches(case, seconds, || {
        let mut channel = alice.loaded(story.now_ms);
        let began = cpu();
        for (message_id, now_ms) in ids.iter().zip(story.now_ms..) {
            let input = Input::Send { message_id, content: &CONTENT, hints: &[] };
            drop(channel.handle(input, now_ms).expect("sent").effects.committed().release());
        }
        let took = cpu() - began;
        assert_eq!(channel.outgoing().count(), unacknowledged as usize + BATCH);
        took
    });
}

pub fn receive(case: &str, unacknowledged: u64, seconds: f64) {
    let story = story("room", BATCH);
    let alice = alice(&story, unacknowledged);
    batches(case, seconds, || {
        let mut channel = alice.loaded(story.now_ms);
        let began = cpu();
        for (wire, now_ms) in story.next.iter().zip(story.now_ms..) {
            let input = Input::Receive { wire, retrieval_hint: None };
            drop(channel.handle(input, now_ms).expect("received").effects.committed().release());
        }
        let took = cpu() - began;
        assert_delivered(&channel, unacknowledged);
        took
    });
}

/// Everything was delivered, and next to nothing own acknowledged: a filter is wrong about one id of a thousand.
fn assert_delivered(channel: &Channel, unacknowledged: u64) {
    assert_eq!(channel.incoming().count(), 0);
    assert!(channel.outgoing().count() as u64 >= unacknowledged - unacknowledged / 50);
    let last = channel.log().last().expect("a log");
    assert_eq!(last.message.sender_id, "bob".into());
}

/// Runs batches until the time is over, and prints the CPU for an operation of the median batch.
fn batches(case: &str, seconds: f64, mut batch: impl FnMut() -> Duration) {
    // The first one warms up.
    batch();
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let mut ns = Vec::new();
    while ns.len() < 5 || Instant::now() < until {
        ns.push(batch().as_nanos() as u64 / BATCH as u64);
    }
    ns.sort_unstable();
    let median_us = ns[ns.len() / 2] as f64 / 1e3;
    println!("{{\"case\":\"{case}\",\"cpu_us_per_op\":{median_us:.2},\"ops\":{}}}", ns.len() * BATCH);
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the struct is ours, and every Linux has the clock.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(done, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// How long a message of 100 bytes is when so many ids are in the horizon.
pub fn wire() {
    let sizes = [0_u64, 200, 1_000, 10_000].map(|ids| {
        let (mut alice, mut bob) = (Peer::new("room", "alice"), Peer::new("room", "bob"));
        let mut now_ms = START_MS;
        for _ in 0..ids {
            now_ms += 100;
            let wire = bob.send(now_ms);
            alice.receive(&wire, now_ms);
        }
        format!("\"ids_{ids}\":{}", alice.send(now_ms).len())
    });
    println!("{{\"case\":\"wire\",{}}}", sizes.join(","));
}
