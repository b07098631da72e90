//! A disk that fails without losing power: EIO, no space, short reads and failed flushes, once or for a while, at every operation
//! of a program. Nothing is half applied, nobody panics, the error says what it was, and once the disk works again so does
//! the tenant.
#![cfg(not(shuttle))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests; a failure is the test's")]

use rusqlite::{Connection, OpenFlags};
use seabed_kv::sqlite::simulation::EngineOptions;
use seabed_kv::{Batch, Durability, Error, ErrorKind};
use seabed_testkit::program::{Step, program};
use seabed_testkit::sim::Run;
use seabed_testkit::{Counters, Disk, Fault, History, Rng};

fn case(seed: u64) -> (Vec<Step>, EngineOptions) {
    let mut rng = Rng::new(seed);
    let options = EngineOptions {
        checkpoint_bytes: *rng.pick(&[1, 40_000, 4 << 20]),
        log_bytes_max: *rng.pick(&[40_000, 64 << 20]),
        ..EngineOptions::default()
    };
    (program(&mut rng, 10), options)
}

/// How many operations the program makes on a disk that works.
fn operations(seed: u64) -> Counters {
    let (steps, options) = case(seed);
    let mut run = Run::new(Disk::new(seed), options);
    run.all(&steps).unwrap();
    run.disk.counters()
}

/// Runs the program with a fault and answers what failed; afterwards the disk works, and the tenant must too.
fn with_fault(seed: u64, at: u64, fault: Fault, lasting: bool) -> Vec<Error> {
    let told =
        |reason: String| -> ! { panic!("seed {seed}, {fault:?} at {at}, lasting: {lasting}: {reason}") };
    let (steps, options) = case(seed);
    let disk = Disk::new(seed);
    if lasting {
        disk.fail_from(at, fault);
    } else {
        disk.fail_at(at, fault);
    }
    let mut run = Run::new(disk.clone(), options.clone()).with_faults();
    run.all(&steps).unwrap_or_else(|reason| told(reason));
    let errors = std::mem::take(&mut run.errors);

    disk.heal();
    let mut well = Run::new(disk.clone(), options);
    well.history = run.leave();
    let mut batch = Batch::new();
    batch.put("after", b"the fault", vec![1; 5_000]);
    // What was unknown is known once it is looked at.
    let rows = well.rows().unwrap_or_else(|reason| told(reason));
    well.history.seen(&rows).unwrap_or_else(|reason| told(reason));
    for step in [Step::Group(vec![(batch, Durability::Durable)]), Step::Checkpoint, Step::Reopen] {
        well.step(&step).unwrap_or_else(|reason| told(reason));
    }
    // And all of it is on the disk, the cut included.
    let mut history = well.leave();
    disk.cut(seed ^ at);
    let rows = Run::new(disk, EngineOptions::default()).rows().unwrap_or_else(|reason| told(reason));
    history.survived(&rows).unwrap_or_else(|reason| told(reason));
    errors
}

/// Every position of the programs, once and lasting; answers how many operations of the tenant failed.
fn everywhere(fault: Fault, positions: impl Fn(Counters) -> u64) -> usize {
    let mut failed = 0;
    for seed in 1..=6 {
        for at in 0..positions(operations(seed)) {
            for lasting in [false, true] {
                for error in with_fault(seed, at, fault, lasting) {
                    failed += 1;
                    assert_eq!(
                        error.kind(),
                        ErrorKind::Backend,
                        "seed {seed}, {fault:?} at {at}, lasting: {lasting}: {error:?}"
                    );
                }
            }
        }
    }
    failed
}

#[test]
fn eio_at_every_change() {
    assert!(everywhere(Fault::Eio, |counters| counters.changes) > 500);
}

#[test]
fn a_full_disk_at_every_change() {
    assert!(everywhere(Fault::Enospc, |counters| counters.changes) > 500);
}

#[test]
fn a_failed_flush_at_every_change() {
    assert!(everywhere(Fault::FailedSync, |counters| counters.changes) > 500);
}

#[test]
fn eio_at_every_read() {
    assert!(everywhere(Fault::ReadEio, |counters| counters.reads) > 500);
}

/// A page that is read short is all zeros, and where it held nothing but payload SQLite cannot tell. (No file system does this to
/// a file that nobody truncates.) So the answers meanwhile are not held against the history; the file must stay sound.
#[test]
fn a_short_read_at_every_read() {
    let mut failed = 0;
    for seed in 1..=6 {
        for at in 0..operations(seed).reads {
            let (steps, options) = case(seed);
            let disk = Disk::new(seed);
            disk.fail_at(at, Fault::ShortRead);
            let mut run = Run::new(disk.clone(), options.clone()).with_faults();
            for step in &steps {
                // A wrong answer is remembered nowhere: the history is a new one at each step.
                run.history = History::default();
                let _ = run.step(step);
            }
            for error in &run.errors {
                let kinds = [ErrorKind::Backend, ErrorKind::Corrupt, ErrorKind::Unsupported];
                assert!(kinds.contains(&error.kind()), "seed {seed}, read {at}: {error:?}");
            }
            failed += usize::from(!run.errors.is_empty());
            let _ = run.leave();
            disk.heal();
            let database =
                Connection::open_with_flags_and_vfs(disk.path("tenant.db"), OpenFlags::default(), disk.vfs());
            let verdict: String = database
                .and_then(|database| database.query_row("PRAGMA integrity_check", [], |row| row.get(0)))
                .unwrap_or_else(|error| panic!("seed {seed}, read {at}: {error}"));
            assert_eq!(verdict, "ok", "seed {seed}, read {at}");
        }
    }
    assert!(failed > 30, "{failed} programs noticed");
}

#[test]
fn a_full_disk_is_named_in_the_error() {
    let errors = with_fault(1, 40, Fault::Enospc, true);
    assert!(errors.iter().any(|error| error.to_string().contains("the disk is full")), "{errors:?}");
    assert!(errors.iter().any(Error::is_disk_full), "{errors:?}");
}
