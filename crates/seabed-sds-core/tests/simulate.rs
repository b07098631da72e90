//! The simulator over many seeds: those that once failed for ever, and fresh ones at each run.
#![cfg(feature = "sim")]
#![allow(
    clippy::panic,
    clippy::print_stdout,
    reason = "a failure is the test's, and its seed is printed first"
)]

use std::hash::{BuildHasher as _, RandomState};

use seabed_sds_core::sim::{Report, Scenario, run};
use seabed_sds_core::wire::Dialect;

/// How many fresh seeds a scenario gets; `SIM_SEEDS` says otherwise.
const FRESH_SEEDS: u64 = 2;

/// Seeds of which one run failed once, with the scenario that it failed in.
const KEPT: &str = include_str!("seeds.txt");

fn storm() -> Scenario {
    Scenario {
        partitions_per_mille: 50,
        clock_jumps_per_mille: 50,
        restarts_per_mille: 50,
        faults_per_mille: 50,
        ..Scenario::default()
    }
}

fn scenarios() -> Vec<(&'static str, Scenario)> {
    vec![
        ("calm", Scenario { loss_per_mille: 0, duplicates_per_mille: 0, ..Scenario::default() }),
        ("two", Scenario { participants: 2, ..storm() }),
        ("storm", storm()),
        ("spec", Scenario { dialect: Dialect::Spec, ..storm() }),
        ("half", Scenario { loss_per_mille: 500, messages: 40, ..storm() }),
        (
            "nine-of-ten",
            Scenario {
                dialect: Dialect::Spec,
                loss_per_mille: 900,
                messages: 15,
                participants: 3,
                ..storm()
            },
        ),
        ("mixed", Scenario { participants: 5, nim_participants: 2, ..storm() }),
        ("crowd", Scenario { participants: 12, messages: 40, interval_ms: 5_000, ..storm() }),
        // Its loss is that of its seed.
        ("any", Scenario { dialect: Dialect::Spec, messages: 30, ..storm() }),
        ("burst", Scenario { interval_ms: 50, delay_ms: (0, 5_000), messages: 200, ..storm() }),
    ]
}

fn check(name: &str, scenario: &Scenario, seed: u64) -> Report {
    let mut scenario = scenario.clone();
    if name == "any" {
        scenario.loss_per_mille = u32::try_from(seed % 951).unwrap_or(0);
    }
    match run(seed, &scenario) {
        Ok(report) => report,
        Err(violation) => {
            panic!("{violation}\nAdd `{name} {seed}` to tests/seeds.txt: it shows this again.")
        }
    }
}

/// Printed before they are run, so that a run that does not end tells its seed too.
fn fresh(name: &str) {
    let scenarios = scenarios();
    let Some((_, scenario)) = scenarios.iter().find(|(other, _)| *other == name) else {
        panic!("no scenario {name}")
    };
    let seeds = std::env::var("SIM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(FRESH_SEEDS);
    // The standard library seeds its hash maps from the system.
    let first = RandomState::new().hash_one(name);
    for seed in (0..seeds).map(|number| first.wrapping_add(number)) {
        println!("{name} {seed}");
        let report = check(name, scenario, seed);
        assert!(report.messages >= scenario.messages, "{report:?}");
    }
}

#[test]
fn calm_runs_agree() {
    fresh("calm");
}

#[test]
fn two_participants_agree_in_a_storm() {
    fresh("two");
}

#[test]
fn four_participants_agree_in_a_storm() {
    fresh("storm");
}

#[test]
fn participants_of_dialect_s_agree_in_a_storm() {
    fresh("spec");
}

#[test]
fn participants_agree_when_half_is_lost() {
    fresh("half");
}

#[test]
fn participants_agree_when_nine_of_ten_are_lost() {
    fresh("nine-of-ten");
}

#[test]
fn participants_agree_at_any_loss() {
    fresh("any");
}

#[test]
fn participants_agree_among_peers_of_profile_nim() {
    fresh("mixed");
}

#[test]
fn a_crowd_agrees() {
    fresh("crowd");
}

#[test]
fn a_burst_out_of_order_is_put_in_order() {
    fresh("burst");
}

#[test]
fn seeds_that_failed_once_hold() {
    let scenarios = scenarios();
    let mut held = 0;
    for line in KEPT.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let found = line.split_once(' ').and_then(|(name, seed)| {
            let (_, scenario) = scenarios.iter().find(|(other, _)| *other == name)?;
            Some((name, scenario, seed.parse().ok()?))
        });
        let Some((name, scenario, seed)) = found else { panic!("not a scenario and a seed: {line}") };
        check(name, scenario, seed);
        held += 1;
    }
    assert!(held > 0, "the list of seeds is empty");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let (one, again) = (check("storm", &storm(), 42), check("storm", &storm(), 42));
    assert_eq!(one, again);
    assert_ne!(one.trace_hash, check("storm", &storm(), 43).trace_hash);
}
