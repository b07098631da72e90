//! `seabed sds simulate`: the same seed tells the same story, and what is asked for is what is simulated.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails is a test that fails")]

mod common;

use common::{seabed, stderr, stdout};
use serde_json::Value;

fn simulate(args: &[&str]) -> std::process::Output {
    seabed().args(["sds", "simulate", "--duration-s", "720"]).args(args).output().unwrap()
}

/// The runs, as programs read them.
fn runs(args: &[&str]) -> Vec<Value> {
    let output = simulate(&[&["--json"], args].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let answer: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(answer["targets"]["noticed_within_3s"], 0.9);
    answer["runs"].as_array().unwrap().clone()
}

#[test]
fn a_seed_is_a_run() {
    let one = runs(&["--participants", "4"]);
    assert_eq!(one, runs(&["--participants", "4", "--seed", "1"]));
    let other = runs(&["--participants", "4", "--seed", "2"]);
    assert_ne!(one[0]["trace"], other[0]["trace"]);
}

#[test]
fn each_number_of_participants_meets_each_loss() {
    let runs = runs(&["--participants", "2,5", "--loss", "0,0.5", "--sync-s", "30"]);
    let pairs: Vec<_> =
        runs.iter().map(|run| (run["participants"].as_u64(), run["loss"].as_f64().unwrap())).collect();
    assert_eq!(pairs, [(Some(2), 0.0), (Some(2), 0.5), (Some(5), 0.0), (Some(5), 0.5)]);
    for run in &runs {
        let lossless = run["loss"] == 0.0;
        assert_eq!(run["lost_copies"] == 0, lossless, "{run}");
        assert_eq!(run["traffic"]["repair"]["messages"] == 0, lossless, "{run}");
        // What nothing was lost of is everywhere as soon as the slowest copy has arrived.
        assert_eq!(run["consistent_ms"]["p99"].as_u64().unwrap() <= 2_000, lossless, "{run}");
        assert!(run["messages"].as_u64().unwrap() >= 20, "720 seconds, one message in 36: {run}");
    }
}

#[test]
fn what_is_asked_for_is_simulated() {
    let told = |args: &[&str], names: &[&str]| {
        let run = runs(args).remove(0);
        names.iter().map(|name| run[name].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let args =
        [
            &[
                "--participants",
                "3",
                "--t-min-s",
                "5",
                "--t-max-s",
                "20",
                "--groups",
                "2",
                "--horizon-s",
                "60",
            ][..],
            &["--sync-s", "15", "--pause-s", "20", "--content-bytes", "3000"],
        ]
        .concat();
    assert_eq!(
        told(
            &args,
            &["t_min_ms", "t_max_ms", "groups", "horizon_ms", "sync_ms", "pause_ms", "content_bytes"]
        ),
        [5_000, 20_000, 2, 60_000, 15_000, 20_000, 3_000]
    );
    let run = runs(&args).remove(0);
    let sent = &run["traffic"]["send"];
    assert!(sent["bytes"].as_u64().unwrap() > 3_000 * sent["messages"].as_u64().unwrap(), "{run}");
    assert!(run["traffic"]["sync"]["messages"].as_u64().unwrap() > 0, "{run}");
    let silent = runs(&["--participants", "3", "--sync-s", "0"]).remove(0);
    assert_eq!(silent["traffic"]["sync"]["messages"], 0);
    // A filter of the specification's dialect has the size that its readers expect.
    let spec = runs(&["--participants", "3", "--dialect", "spec"]).remove(0);
    let sent = &spec["traffic"]["send"];
    assert!(sent["bytes"].as_u64().unwrap() > 18_000 * sent["messages"].as_u64().unwrap(), "{spec}");
}

#[test]
fn people_see_a_table_against_the_targets() {
    let output = simulate(&["--participants", "3", "--loss", "0.1"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let said = stdout(&output);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines[0],
        "20 messages of 100 bytes, S = 60 s, T_min 30 s, T_max 300 s, 1 group(s), horizon 1800 s, sync never, seed 1"
    );
    assert!(lines[1].trim_start().starts_with("PARTICIPANTS") && lines[1].ends_with("SYNCS"), "{said}");
    assert_eq!(
        lines[2].split_whitespace().collect::<Vec<_>>(),
        ["target", "100", "%", "90", "%", "100", "%"]
    );
    assert!(lines[3].trim_start().starts_with("3  10.0 %"), "{said}");
    assert_eq!(lines.len(), 4);
}

#[test]
fn what_cannot_be_simulated_is_said_at_once() {
    for (args, reason) in [
        (vec!["--participants", "1"], "--participants is 2 to 1000"),
        (vec!["--participants", "3,5000"], "--participants is 2 to 1000"),
        (vec!["--loss", "1"], "--loss is 0 to 0.95"),
        (vec!["--loss", "NaN"], "--loss is 0 to 0.95"),
        (vec!["--duplicates", "2"], "--duplicates is 0 to 1"),
        (vec!["--pause-s", "0"], "--pause-s is 1 to"),
        (vec!["--pause-s", "86400"], "make 0 messages"),
        (vec!["--delay-ms", "5", "4"], "--delay-ms is the shorter time first"),
        (vec!["--content-bytes", "99999999"], "--content-bytes is at most"),
        (vec!["--t-min-s", "600"], "T_max is less than T_min"),
        (vec!["--groups", "0"], "there are no response groups"),
    ] {
        let output = simulate(&args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(reason), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn help_says_what_the_columns_are() {
    let help = stdout(&simulate(&["--help"]));
    for part in [
        "Examples:",
        "seabed sds simulate --participants 50 --loss 0.2",
        "S is the longest pause",
        "Exit codes:",
    ] {
        assert!(help.contains(part), "{part}: {help}");
    }
}
