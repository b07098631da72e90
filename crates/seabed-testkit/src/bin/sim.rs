//! `sim [--seed N] [--cuts N] [--bug early-ack]`: power cuts at every write and sync of random programs.
//!
//! With a seed alone the program of that seed is run, which is how a failure is repeated. With a number of cuts as many seeds
//! as it takes, from 1 or the seed given on. Exits with 1 when a promise was broken.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is a program")]

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use seabed_testkit::sim::{self, Tally};

const USAGE: &str = "usage: sim [--seed N] [--cuts N] [--bug early-ack]";
const CUTS_DEFAULT: u64 = 10_000;

struct Arguments {
    seed: Option<u64>,
    cuts: Option<u64>,
    early_acknowledgement: bool,
}

fn arguments() -> Option<Arguments> {
    let mut parsed = Arguments { seed: None, cuts: None, early_acknowledgement: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next()?;
        match word.as_str() {
            "--seed" => parsed.seed = Some(value.parse().ok()?),
            "--cuts" => parsed.cuts = Some(value.parse().ok()?),
            "--bug" if value == "early-ack" => parsed.early_acknowledgement = true,
            _ => return None,
        }
    }
    Some(parsed)
}

fn main() -> ExitCode {
    let Some(arguments) = arguments() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let first = arguments.seed.unwrap_or(1);
    let (last, cuts) = match (arguments.seed, arguments.cuts) {
        (Some(seed), None) => (seed, u64::MAX),
        (_, cuts) => (u64::MAX, cuts.unwrap_or(CUTS_DEFAULT)),
    };
    let next_seed = AtomicU64::new(first);
    let total = Mutex::new(Tally::default());
    let count = |tally: &Tally| tally.passed + tally.failed.len() as u64;
    let lock = || total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let bug = if arguments.early_acknowledgement { " --bug early-ack" } else { "" };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while count(&lock()) < cuts {
                    let seed = next_seed.fetch_add(1, Ordering::Relaxed);
                    if seed > last {
                        break;
                    }
                    let tally = sim::cuts(seed, arguments.early_acknowledgement);
                    let mut total = lock();
                    if let Some(failure) = tally.failed.first() {
                        println!("{failure}");
                        println!("repeat with: sim --seed {seed}{bug}");
                    }
                    total.passed += tally.passed;
                    total.failed.extend(tally.failed);
                }
            });
        }
    });
    let total = lock();
    println!("{} passed, {} failed", total.passed, total.failed.len());
    if total.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
