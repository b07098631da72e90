//! Every fuzz target over its seeds, and over a bounded number of changes of them: the gate has no fuzzer.
#![allow(clippy::panic, reason = "helpers of tests; a failure is the test's")]

use std::path::Path;

use seabed_testkit::{Rng, fuzz};

/// How often each seed is changed, unless a target says less: `FUZZ_MUTATIONS`.
const MUTATIONS: u64 = 2_000;

fn mutations() -> u64 {
    std::env::var("FUZZ_MUTATIONS").map_or(MUTATIONS, |number| {
        number.parse().unwrap_or_else(|_| panic!("FUZZ_MUTATIONS is a number, not '{number}'"))
    })
}

fn run(target: &str, function: fn(&[u8]), mutations: u64) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    let entries = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{} cannot be read: {error}", directory.display()));
    let mut seeds: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    seeds.sort();
    assert!(seeds.len() >= 5, "the seeds of {target}: {seeds:?}");
    for path in seeds {
        let Ok(seed) = std::fs::read(&path) else { panic!("{} cannot be read", path.display()) };
        function(&seed);
        for number in 0..mutations {
            let bytes = fuzz::mutate(&seed, &mut Rng::new(number));
            let result = std::panic::catch_unwind(|| function(&bytes));
            assert!(result.is_ok(), "{}, mutation {number}", path.display());
        }
    }
}

#[test]
fn keys() {
    run("keys", fuzz::keys, mutations());
}

#[test]
fn file() {
    run("file", fuzz::file, 200);
}

#[test]
fn sds_wire() {
    run("sds-wire", fuzz::sds::wire, mutations());
}

#[test]
fn sds_filter() {
    // Each of one seed's has 18 KB.
    run("sds-filter", fuzz::sds::filter, mutations() / 4);
}

#[test]
fn sds_snapshot() {
    run("sds-snapshot", fuzz::sds::snapshot, mutations());
}
