//! How often the disk is asked to flush, counted by the disk itself.
#![cfg(not(shuttle))]
#![allow(clippy::unwrap_used, reason = "helpers of tests; a failure is the test's")]

use pollster::block_on;
use seabed_kv::sqlite::simulation::{Engine, EngineOptions};
use seabed_kv::staged::Staging;
use seabed_kv::{Batch, Durability};
use seabed_testkit::{Disk, OnDisk};

fn open(disk: &Disk) -> Engine {
    Engine::open(&disk.path("t.db"), Some(disk.vfs()), EngineOptions::default()).unwrap()
}

fn put(engine: &mut Engine, value: u64, durability: Durability) {
    let mut batch = Batch::new();
    batch.put("c", b"k", value.to_be_bytes());
    assert!(engine.commit_group(vec![(batch, durability)]).into_iter().all(|answer| answer.is_ok()));
}

/// As a tenant is evicted and used again, and again: what is Durable takes its own flush, and nothing else takes one.
#[test]
fn eviction_flushes_nothing_and_reads_no_more_of_the_log_the_longer_it_is() {
    let disk = Disk::new(1);
    let mut engine = open(&disk);
    put(&mut engine, 0, Durability::Durable);
    let mut reads = Vec::new();
    for round in 1..=1_000 {
        let before = disk.counters();
        assert!(engine.rest(false), "nothing is in its way");
        put(&mut engine, round, Durability::Relaxed);
        reads.push(disk.counters().reads - before.reads);
        assert_eq!(disk.counters().syncs, before.syncs, "round {round}");
    }
    let most = reads.iter().copied().max().unwrap();
    assert!(most <= 10, "{most} reads to open a file again, with its log");
    for round in 1_001..=1_010 {
        let before = disk.counters().syncs;
        assert!(engine.rest(false));
        put(&mut engine, round, Durability::Durable);
        assert_eq!(disk.counters().syncs, before + 1, "round {round}");
    }
    // All of it is on the disk: the index of the log said what the log says.
    disk.cut(2);
    drop(engine);
    let rows = open(&disk).rows().unwrap();
    assert_eq!(rows, [(b"c".to_vec(), b"k".to_vec(), 1_010_u64.to_be_bytes().to_vec())]);
}

/// Megabytes of chunks wait for nothing; the batch that refers to them makes all of them durable.
#[test]
fn a_staged_value_is_one_flush_however_long_it_is() {
    for length in [20_000, 3_000_000] {
        let disk = Disk::new(3);
        let on_disk = OnDisk::open(&disk, "t").unwrap();
        let tenant = on_disk.tenant();
        let staging = Staging::new(tenant.clone(), "layer");
        put(&mut on_disk.engine(), 0, Durability::Durable);

        let before = disk.counters();
        let mut writer = staging.writer([7; 16], 1_000);
        let value = vec![5; length];
        block_on(writer.write(&value)).unwrap();
        let staged = block_on(writer.finish()).unwrap();
        assert_eq!(disk.counters().syncs, before.syncs, "{length} bytes");
        let mut batch = Batch::new();
        batch.put("value", b"1", staged.to_bytes());
        writer.attach(&mut batch);
        assert!(tenant.apply(batch, Durability::Durable).wait().unwrap().is_applied());
        assert_eq!(disk.counters().syncs, before.syncs + 1, "{length} bytes");
        assert!(disk.counters().writes - before.writes >= length as u64 / 8_192, "they are on the disk");
    }
}
