//! Power cuts on a simulated disk: what a participant has said and was told is there under Durable; under Relaxed the last of it may be
//! gone, and nothing before the last. And an idle hour asks the disk for nothing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails is a test that fails")]

mod common;

use std::sync::Arc;

use common::{Faulty, State, broadcasts, clock, delivered, drain, manager, state};
use seabed_kv::Durability;
use seabed_sds::{KernelStore, ManualClock, SdsManager};
use seabed_testkit::{Disk, Fault, OnDisk, Rng};

const OPERATIONS: usize = 24;

fn open(disk: &Disk, durability: Durability, clock: &Arc<ManualClock>) -> (SdsManager, OnDisk) {
    let on_disk = OnDisk::open(disk, "sds").unwrap();
    let kept = pollster::block_on(KernelStore::on(on_disk.tenant())).unwrap().with_durability(durability);
    (manager("bob", Arc::new(kept), clock), on_disk)
}

/// One operation of a conversation that follows from `seed`: messages out of order and twice, sends, time that passes.
fn operate(bob: &SdsManager, seed: u64, number: usize, wires: &[Vec<u8>], clock: &ManualClock) {
    let mut rng = Rng::new(seed).fork(number as u64);
    clock.set(common::START_MS + number as u64 * 900);
    match rng.below(6) {
        0 => drop(bob.send("room", format!("b{number}").as_str(), vec![b'b'; rng.below(3_000) + 1]).wait()),
        1 => drop(bob.tick().wait()),
        2 => {
            let id = format!("a{}", rng.below(wires.len()));
            drop(bob.mark_dependencies_met("room", vec![id.as_str().into()]).wait());
        }
        _ => drop(bob.receive(rng.pick(wires).clone()).wait()),
    }
}

/// What alice says; her names for it are unknown to nobody.
fn wires() -> Vec<Vec<u8>> {
    let alice = manager("alice", Faulty::new(), &clock());
    (0..8)
        .map(|number| {
            alice.send("room", format!("a{number}").as_str(), b"alice").wait().unwrap().release().wire
        })
        .collect()
}

/// The state after each operation, from none on.
fn states_of(seed: u64, wires: &[Vec<u8>]) -> Vec<Option<State>> {
    let clock = clock();
    let bob = manager("bob", Faulty::new(), &clock);
    let mut states = vec![None];
    for number in 0..OPERATIONS {
        operate(&bob, seed, number, wires, &clock);
        states.push(state(&bob, "room"));
    }
    states
}

/// What a stored state says that was said and told: ids of the log.
fn log_of(state: Option<&State>) -> Vec<String> {
    let records = state.into_iter().flat_map(|state| &state.records);
    let ids = records.filter_map(|record| match record {
        seabed_sds::core::Record::Log(entry) => Some(entry.message.message_id.to_string()),
        _ => None,
    });
    ids.collect()
}

#[test]
fn under_durable_a_cut_at_any_write_forgets_nothing_that_was_said_or_told() {
    let wires = wires();
    let (mut cuts, mut in_doubt) = (0, 0);
    for seed in 0..12 {
        let states = states_of(seed, &wires);
        let whole = {
            let (clock, disk) = (clock(), Disk::new(seed));
            let (bob, _on_disk) = open(&disk, Durability::Durable, &clock);
            (0..OPERATIONS).for_each(|number| operate(&bob, seed, number, &wires, &clock));
            disk.counters().changes
        };
        for at in (0..whole).step_by(3) {
            let (clock, disk) = (clock(), Disk::new(seed));
            let (bob, on_disk) = open(&disk, Durability::Durable, &clock);
            let mut events = bob.events().unwrap();
            disk.fail_at(at, Fault::CutHere);
            let mut done = 0;
            while done < OPERATIONS && !disk.is_dead() {
                operate(&bob, seed, done, &wires, &clock);
                done += 1;
            }
            let told = drain(&mut events);
            drop((bob, events, on_disk));
            disk.cut(seed + at);
            let (bob, _on_disk) = open(&disk, Durability::Durable, &clock);
            let after = state(&bob, "room");
            // All operations but the last have ended; that one may be there as a whole.
            let last = done.saturating_sub(1);
            let found = states[last..=done].iter().position(|state| *state == after);
            assert!(
                found.is_some(),
                "seed {seed}, cut at {at}: {after:?} is none of {:?}",
                &states[last..=done]
            );
            in_doubt += usize::from(found == Some(0) && states[last] != states[done]);
            let log = log_of(after.as_ref());
            for id in delivered(&told) {
                assert!(log.contains(&id), "seed {seed}, cut at {at}: {id} was delivered and is forgotten");
            }
            assert!(broadcasts(&told).is_empty() || after.is_some());
            cuts += 1;
        }
    }
    assert!(cuts > 200 && in_doubt > 10, "{cuts} cuts, {in_doubt} before the commit was there");
}

#[test]
fn under_relaxed_a_cut_takes_a_suffix_and_never_what_was_flushed() {
    let wires = wires();
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..60 {
        let states = states_of(seed, &wires);
        let (clock, disk) = (clock(), Disk::new(seed));
        let (bob, on_disk) = open(&disk, Durability::Relaxed, &clock);
        let flushed = Rng::new(seed).below(OPERATIONS);
        for number in 0..OPERATIONS {
            operate(&bob, seed, number, &wires, &clock);
            if number + 1 == flushed {
                on_disk.tenant().flush().wait().unwrap();
            }
        }
        assert_eq!(state(&bob, "room"), states[OPERATIONS], "seed {seed}");
        disk.kill();
        drop((bob, on_disk));
        disk.cut(seed);
        let (bob, _on_disk) = open(&disk, Durability::Relaxed, &clock);
        let after = state(&bob, "room");
        let found = states.iter().rposition(|state| *state == after);
        assert!(
            found.is_some_and(|found| found >= flushed),
            "seed {seed}: state {found:?}, flushed {flushed}"
        );
        lost += usize::from(after != states[OPERATIONS]);
        kept += usize::from(after == states[OPERATIONS]);
    }
    assert!(lost > 5 && kept > 0, "lost something {lost} times, nothing {kept} times");
}

#[test]
fn an_idle_hour_asks_the_disk_for_nothing() {
    let (clock, disk) = (clock(), Disk::new(1));
    let (bob, _on_disk) = open(&disk, Durability::Durable, &clock);
    let alice = manager("alice", Faulty::new(), &clock);
    for channel in ["one", "two", "three"] {
        let said = bob.send(channel, "b1", b"x").wait().unwrap().release().wire;
        alice.receive(said).wait().unwrap();
        let answer = alice.send(channel, "a1", b"y").wait().unwrap().release().wire;
        bob.receive(answer).wait().unwrap();
        assert_eq!(bob.status(channel).wait().unwrap().unwrap().unacknowledged, 0);
    }
    let before = disk.counters();
    for _ in 0..720 {
        clock.advance(5_000);
        bob.tick().wait().unwrap();
    }
    assert_eq!(disk.counters(), before, "no write, no sync, not even a read");
}
