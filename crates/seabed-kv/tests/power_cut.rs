//! Power cuts on a simulated disk that loses, tears and reorders what was not flushed. Whatever was acknowledged as Durable, and
//! whatever a refusal told of, is there afterwards; the rest of the commits is there as a prefix, each whole.
#![cfg(not(shuttle))]
#![allow(clippy::unwrap_used, reason = "helpers of tests; a failure is the test's")]

use std::path::PathBuf;

use rusqlite::{Connection, OpenFlags};
use seabed_kv::sqlite::simulation::{Engine, EngineOptions, View};
use seabed_kv::{Applied, Batch, Durability, Outcome};
use seabed_testkit::{Disk, Fault, sim};

/// Seeds that once found something stay here.
const REGRESSIONS: [u64; 1] = [811_277_058];

fn survive(seeds: impl IntoIterator<Item = u64>) -> u64 {
    let mut passed = 0;
    for seed in seeds {
        let tally = sim::cuts(seed, false);
        assert!(tally.failed.is_empty(), "{:?}; repeat with: sim --seed {seed}", tally.failed.first());
        passed += tally.passed;
    }
    passed
}

#[test]
fn programs_survive_a_cut_at_every_write_and_every_sync() {
    assert!(survive(1..=40) > 2_500);
}

#[test]
fn more_programs_survive_and_those_that_once_did_not() {
    assert!(survive((1_001..=1_040).chain(REGRESSIONS)) > 2_500);
}

#[test]
fn a_build_that_acknowledges_before_the_flush_is_caught_at_once() {
    let caught = (1..=5).filter(|seed| !sim::cuts(*seed, true).failed.is_empty()).count();
    assert!(caught >= 4, "found by {caught} of the first 5 programs");
}

#[test]
fn the_same_seed_gives_the_same_cuts() {
    let show = |planted| format!("{:?}", sim::cuts(2, planted));
    assert_eq!(show(false), show(false));
    assert_eq!(show(true), show(true));
    assert_ne!(show(false), show(true));
}

fn path(disk: &Disk) -> PathBuf {
    disk.path("tenant.db")
}

fn open(disk: &Disk) -> Engine {
    Engine::open(&path(disk), Some(disk.vfs()), EngineOptions::default()).unwrap()
}

fn put(key: &str) -> Batch {
    let mut batch = Batch::new();
    batch.put("c", key, vec![b'v'; 3_000]);
    batch
}

fn commit(engine: &mut Engine, batch: Batch, durability: Durability) -> seabed_kv::Result<Outcome> {
    engine.commit_group(vec![(batch, durability)]).pop().unwrap()
}

/// The keys that are there after a cut.
fn keys_after(disk: &Disk, engine: Engine, seed: u64) -> Vec<String> {
    disk.kill();
    drop(engine);
    disk.cut(seed);
    let rows = open(disk).rows().unwrap();
    rows.into_iter().map(|(_, key, _)| String::from_utf8(key).unwrap()).collect()
}

/// The data of the failed flush is readable until the cut: SQLite takes the commits that follow behind it, and without being
/// written again it would take them along.
#[test]
fn what_is_acknowledged_after_a_failed_flush_survives() {
    for seed in 0..200 {
        let disk = Disk::new(seed);
        let mut engine = open(&disk);
        commit(&mut engine, put("1"), Durability::Durable).unwrap();
        disk.fail_at(disk.counters().changes, Fault::FailedSync);
        let error = commit(&mut engine, put("2"), Durability::Durable).unwrap_err();
        assert_eq!(error.applied(), Applied::Unknown);
        if seed % 2 == 0 {
            // The process ends too, before it could do anything about it.
            disk.kill();
            drop(engine);
            engine = open(&disk);
        }
        commit(&mut engine, put("3"), Durability::Durable).unwrap();
        let shown = engine.rows().unwrap().len();
        let keys = keys_after(&disk, engine, seed);
        assert!(keys.starts_with(&["1".into()]) && keys.ends_with(&["3".into()]), "seed {seed}: {keys:?}");
        assert_eq!(keys.len(), shown, "seed {seed}: {keys:?}");
    }
}

#[test]
fn what_failed_to_be_flushed_is_whole_or_absent() {
    let mut there = 0;
    for seed in 0..200 {
        let disk = Disk::new(seed);
        let mut engine = open(&disk);
        // Whatever is done about it fails as well, until the power goes.
        disk.fail_from(disk.counters().changes, Fault::FailedSync);
        let mut batch = put("1");
        batch.put("c", "2", b"");
        commit(&mut engine, batch, Durability::Durable).unwrap_err();
        let keys = keys_after(&disk, engine, seed);
        assert!(keys.is_empty() || keys == ["1", "2"], "seed {seed}: {keys:?}");
        there += usize::from(!keys.is_empty());
    }
    assert!((10..190).contains(&there), "both happen: there in {there} of 200");
}

#[test]
fn a_refusal_implies_that_what_it_was_refused_by_survives() {
    let mut lost = 0;
    for seed in 0..200 {
        for refused in [false, true] {
            let disk = Disk::new(seed);
            let mut engine = open(&disk);
            commit(&mut engine, put("1"), Durability::Relaxed).unwrap();
            if refused {
                let mut batch = put("2");
                batch.check_absent("c", "1");
                let outcome = commit(&mut engine, batch, Durability::Relaxed).unwrap();
                assert!(!outcome.is_applied());
            }
            let keys = keys_after(&disk, engine, seed);
            if refused {
                assert_eq!(keys, ["1"], "seed {seed}");
            } else {
                lost += usize::from(keys.is_empty());
            }
        }
    }
    assert!(lost > 20, "without the refusal it may be lost: {lost} of 200");
}

#[test]
fn a_durable_batch_that_changes_nothing_makes_what_it_found_survive() {
    for seed in 0..100 {
        let disk = Disk::new(seed);
        let mut engine = open(&disk);
        commit(&mut engine, put("1"), Durability::Relaxed).unwrap();
        commit(&mut engine, put("1"), Durability::Durable).unwrap();
        assert_eq!(keys_after(&disk, engine, seed), ["1"], "seed {seed}");
    }
}

#[test]
fn a_flush_makes_relaxed_commits_survive_and_costs_one_sync() {
    for seed in 0..100 {
        let disk = Disk::new(seed);
        let mut engine = open(&disk);
        for key in ["1", "2", "3"] {
            commit(&mut engine, put(key), Durability::Relaxed).unwrap();
        }
        let syncs = disk.counters().syncs;
        engine.flush().unwrap();
        assert_eq!(disk.counters().syncs, syncs + 1);
        assert_eq!(keys_after(&disk, engine, seed), ["1", "2", "3"], "seed {seed}");
    }
}

#[test]
fn a_group_costs_one_sync_and_a_relaxed_one_none() {
    let disk = Disk::new(1);
    let mut engine = open(&disk);
    commit(&mut engine, put("0"), Durability::Durable).unwrap();
    let syncs = disk.counters().syncs;
    let group =
        |durability| (0..50).map(|number| (put(&format!("{durability:?}{number}")), durability)).collect();
    assert!(engine.commit_group(group(Durability::Relaxed)).iter().all(Result::is_ok));
    assert_eq!(disk.counters().syncs, syncs);
    assert!(engine.commit_group(group(Durability::Durable)).iter().all(Result::is_ok));
    assert_eq!(disk.counters().syncs, syncs + 1);
}

/// "Read again before deciding": what a reader is shown after an Unknown answer is what it stays.
#[test]
fn what_is_read_after_an_unknown_answer_stays_so() {
    for seed in 0..50 {
        let disk = Disk::new(seed);
        let mut engine = open(&disk);
        commit(&mut engine, put("1"), Durability::Durable).unwrap();
        disk.fail_at(disk.counters().changes, Fault::FailedSync);
        let error = commit(&mut engine, put("2"), Durability::Durable).unwrap_err();
        assert_eq!(error.applied(), Applied::Unknown);
        let is_there = |engine: &Engine| engine.rows().unwrap().iter().any(|(_, key, _)| key == b"2");
        let told = is_there(&engine);
        commit(&mut engine, put("3"), Durability::Durable).unwrap();
        assert_eq!(is_there(&engine), told, "seed {seed}: it was read, and then it was otherwise");
        let keys = keys_after(&disk, engine, seed);
        assert_eq!(keys.contains(&"2".to_owned()), told, "seed {seed}: {keys:?}");
    }
}

/// A checkpoint that a reader stops half way flushes nothing. What it carried over a later one's failed flush can lose, and the index of the
/// log, which a reader of another process keeps alive, says that it is carried over.
#[test]
fn what_a_failed_flush_of_the_file_lost_is_carried_over_anew_beside_a_reader_of_another_process() {
    for seed in 0..100 {
        let disk = Disk::new(seed);
        let mut engine = open(&disk);
        let other =
            Connection::open_with_flags_and_vfs(path(&disk), OpenFlags::default(), disk.vfs()).unwrap();
        let count = || -> u32 { other.query_row("SELECT count(*) FROM kv", [], |row| row.get(0)).unwrap() };
        for key in ["1", "2", "3", "4", "5"] {
            commit(&mut engine, put(key), Durability::Durable).unwrap();
        }
        other.execute_batch("BEGIN").unwrap();
        assert_eq!(count(), 5);
        commit(&mut engine, put("6"), Durability::Durable).unwrap();
        engine.checkpoint().unwrap();
        other.execute_batch("COMMIT").unwrap();
        // The first flush of a checkpoint is the log's, the next the file's.
        disk.fail_at(disk.counters().changes + 1, Fault::FailedSync);
        engine.checkpoint().unwrap_err();
        assert_eq!(count(), 6);
        // Half of the time another process goes on: the one before does nothing any more.
        let _before = (seed % 2 == 0).then(|| std::mem::replace(&mut engine, open(&disk)));
        commit(&mut engine, put("7"), Durability::Durable).unwrap();
        engine.checkpoint().unwrap();
        // This begins the log anew, over what was not carried over.
        commit(&mut engine, put("8"), Durability::Durable).unwrap();
        assert_eq!(count(), 8);
        let before = engine.rows().unwrap();
        assert_eq!(before.len(), 8);
        disk.kill();
        drop(engine);
        disk.cut(seed);
        assert!(open(&disk).rows().is_ok_and(|rows| rows == before), "seed {seed}");
    }
}

/// The same as readers beside the writer see it: they keep the log's index alive, so no recovery takes place.
#[test]
fn what_a_reader_is_shown_after_an_unknown_answer_stays_so() {
    for seed in 0..50 {
        for write_after in [false, true] {
            let disk = Disk::new(seed);
            let mut engine = open(&disk);
            commit(&mut engine, put("1"), Durability::Durable).unwrap();
            let reader =
                Connection::open_with_flags_and_vfs(path(&disk), OpenFlags::default(), disk.vfs()).unwrap();
            let is_there = || -> bool {
                reader.query_row("SELECT count(*) FROM kv WHERE key = x'32'", [], |row| row.get(0)).unwrap()
            };
            assert!(!is_there());
            disk.fail_at(disk.counters().changes, Fault::FailedSync);
            commit(&mut engine, put("2"), Durability::Durable).unwrap_err();
            let told = is_there();
            if write_after {
                commit(&mut engine, put("3"), Durability::Durable).unwrap();
                assert_eq!(is_there(), told, "seed {seed}: it was read, and then it was otherwise");
            }
            let keys = keys_after(&disk, engine, seed);
            assert_eq!(
                keys.contains(&"2".to_owned()),
                told,
                "seed {seed}, write after: {write_after}: {keys:?}"
            );
        }
    }
}

/// A file system may show after a failed flush what the disk has, and not what was written: then acknowledged Relaxed commits are gone, and
/// nothing may be acknowledged behind the hole that they leave, whoever keeps the index of the log alive.
#[test]
fn nothing_is_acknowledged_behind_what_a_failed_flush_took_out_of_the_log() {
    let (mut went_on, mut gave_up) = (0, 0);
    for seed in 0..200 {
        let disk = Disk::new(seed);
        let mut engine = open(&disk);
        commit(&mut engine, put("1"), Durability::Durable).unwrap();
        let reader = (seed % 2 == 0).then(|| View::open(&path(&disk), disk.vfs()).unwrap());
        for key in ["2", "3"] {
            commit(&mut engine, put(key), Durability::Relaxed).unwrap();
        }
        disk.fail_at(disk.counters().changes, Fault::RevertedSync);
        let error = commit(&mut engine, put("4"), Durability::Durable).unwrap_err();
        assert_eq!(error.applied(), Applied::Unknown);
        let expected: &[&str] = if engine.flush().is_ok() {
            went_on += 1;
            commit(&mut engine, put("5"), Durability::Durable).unwrap();
            &["1", "2", "3", "5"]
        } else {
            gave_up += 1;
            let error = commit(&mut engine, put("5"), Durability::Durable).unwrap_err();
            assert_eq!(error.applied(), Applied::No, "{error}");
            assert!(error.to_string().contains("open it again"), "{error}");
            drop(reader);
            // Opened again it goes on with what there is.
            engine = open(&disk);
            commit(&mut engine, put("6"), Durability::Durable).unwrap();
            &["1", "6"]
        };
        let keys = keys_after(&disk, engine, seed);
        assert!(expected.iter().all(|key| keys.iter().any(|there| there == key)), "seed {seed}: {keys:?}");
    }
    assert!(went_on > 20 && gave_up > 20, "{went_on} went on, {gave_up} gave up");
}

/// While a tenant is evicted nobody has its files open, and the system may lose what was not flushed of them without telling anybody.
#[test]
fn nothing_durable_stands_behind_relaxed_commits_that_were_lost_while_the_tenant_was_evicted() {
    let (mut went_on, mut gave_up) = (0, 0);
    for seed in 0..200 {
        for closes in [false, true] {
            let disk = Disk::new(seed);
            let mut engine = open(&disk);
            commit(&mut engine, put("1"), Durability::Durable).unwrap();
            for key in ["2", "3"] {
                commit(&mut engine, put(key), Durability::Relaxed).unwrap();
            }
            assert!(engine.rest(false));
            disk.lose("tenant.db-wal", seed);
            let acknowledged = if closes {
                engine.rest(true) && engine.flush().is_ok()
            } else {
                commit(&mut engine, put("4"), Durability::Durable).is_ok()
            };
            let expected: &[&str] = match (acknowledged, closes) {
                (true, true) => &["1", "2", "3"],
                (true, false) => &["1", "2", "3", "4"],
                (false, _) => {
                    let error = engine.flush().unwrap_err();
                    assert!(error.to_string().contains("open it again"), "{error}");
                    // Opened again it goes on with what there is.
                    engine = open(&disk);
                    commit(&mut engine, put("5"), Durability::Durable).unwrap();
                    &["1", "5"]
                }
            };
            let count = if acknowledged { &mut went_on } else { &mut gave_up };
            *count += 1;
            let keys = keys_after(&disk, engine, seed);
            assert!(
                expected.iter().all(|key| keys.iter().any(|there| there == key)),
                "seed {seed}, closes: {closes}: {keys:?}"
            );
        }
    }
    assert!(went_on > 40 && gave_up > 40, "{went_on} went on, {gave_up} gave up");
}

/// The index of a very long log is not kept, so all of the log is read again, and ends where something of it was lost.
#[test]
fn a_log_of_which_no_index_is_kept_is_flushed_before_its_tenant_is_evicted() {
    for (batches, syncs) in [(1, 0), (5, 1)] {
        let disk = Disk::new(1);
        let options = EngineOptions { checkpoint_bytes: u64::MAX, ..EngineOptions::default() };
        let mut engine = Engine::open(&path(&disk), Some(disk.vfs()), options).unwrap();
        for number in 0..batches {
            let mut batch = Batch::new();
            batch.put("c", format!("{number}"), vec![b'v'; 7_000_000]);
            commit(&mut engine, batch, Durability::Relaxed).unwrap();
        }
        let before = disk.counters().syncs;
        assert!(engine.rest(false));
        assert_eq!(disk.counters().syncs - before, syncs);
        assert!(engine.rest(true));
        assert_eq!(keys_after(&disk, engine, 1).len(), batches);
    }
}

/// A tenant of which a reader has stopped a checkpoint half way, so that what was carried over is not flushed.
fn carried_over_in_part(disk: &Disk) -> Engine {
    let mut engine = open(disk);
    for key in ["1", "2", "3"] {
        commit(&mut engine, put(key), Durability::Durable).unwrap();
    }
    let view = View::open(&path(disk), disk.vfs()).unwrap();
    commit(&mut engine, put("4"), Durability::Durable).unwrap();
    engine.checkpoint().unwrap();
    drop(view);
    engine
}

#[test]
fn what_was_carried_over_in_part_is_carried_over_anew_after_an_eviction() {
    for seed in 0..50 {
        let disk = Disk::new(seed);
        let mut engine = carried_over_in_part(&disk);
        assert!(engine.rest(false));
        disk.lose("tenant.db", seed);
        commit(&mut engine, put("5"), Durability::Durable).unwrap();
        engine.checkpoint().unwrap();
        // This begins the log anew, over what was not carried over.
        commit(&mut engine, put("6"), Durability::Durable).unwrap();
        disk.kill();
        drop(engine);
        disk.cut(seed);
        assert_values(&open(&disk).rows().unwrap(), 6, seed);
    }
}

fn assert_values(rows: &[seabed_kv::sqlite::simulation::StoredRow], count: usize, seed: u64) {
    assert_eq!(rows.len(), count, "seed {seed}");
    for (_, key, value) in rows {
        assert!(*value == [b'v'; 3_000], "seed {seed}: the row of {key:?} is another");
    }
}

/// What a reader is shown after a checkpoint whose flush failed is what was committed, before anything else is written.
#[test]
fn readers_are_not_shown_what_a_failed_flush_of_the_file_has_lost() {
    for seed in 0..50 {
        let disk = Disk::new(seed);
        let mut engine = carried_over_in_part(&disk);
        // The first flush of a checkpoint is the log's, the next the file's.
        disk.fail_at(disk.counters().changes + 1, Fault::RevertedSync);
        engine.checkpoint().unwrap_err();
        let shown = View::open(&path(&disk), disk.vfs()).and_then(|view| view.rows());
        assert_values(&shown.unwrap(), 4, seed);
    }
}

/// The same when the disk takes nothing just then: a tenant that nobody writes to is looked after when it is swept.
#[test]
fn a_tenant_that_nobody_writes_to_is_made_whole_once_the_disk_works() {
    for seed in 0..50 {
        let disk = Disk::new(seed);
        let mut engine = open(&disk);
        for key in ["1", "2", "3"] {
            commit(&mut engine, put(key), Durability::Durable).unwrap();
        }
        disk.fail_from(disk.counters().changes, Fault::FailedSync);
        engine.checkpoint().unwrap_err();
        assert!(!engine.rest(true), "seed {seed}: the log cannot be written again");
        disk.heal();
        assert!(engine.rest(true), "seed {seed}: it is closed whole");
        assert_eq!(keys_after(&disk, engine, seed), ["1", "2", "3"], "seed {seed}");
    }
}
