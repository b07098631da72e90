//! The README's tour of SDS, as it is printed.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::path::Path;
use std::process::Command;

use common::{seabed, stderr, stdout};

/// The commands of a section, in order; one may go on over several lines.
fn commands(section: &str) -> Vec<String> {
    let readme =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md")).unwrap();
    let (_, rest) = readme.split_once(&format!("### {section}\n")).unwrap();
    let text = rest.split("\n### ").next().unwrap();
    let blocks = text.split("```console\n").skip(1).map(|block| block.split("```").next().unwrap());
    let lines = blocks.flat_map(|block| block.strip_prefix("$ ").unwrap().split("\n$ "));
    lines.map(|line| line.trim_end().to_owned()).collect()
}

/// Runs a command of the README in a directory, with this build in the place of cargo.
fn shell(dir: &Path, command: &str) -> String {
    assert!(command.contains("cargo run --release -- "), "{command}");
    let command = command.replace("cargo run --release -- ", "\"$SEABED\" ");
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &command])
        .env("SEABED", seabed().get_program())
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{command}: {}", stderr(&output));
    stdout(&output)
}

#[test]
fn the_tour_of_two_participants_runs_as_printed() {
    let dir = tempfile::tempdir().unwrap();
    let commands = commands("Two participants");
    let [say, look, simulate] = commands.as_slice() else { panic!("three commands: {commands:?}") };

    let replies = shell(dir.path(), say);
    let replies: Vec<serde_json::Value> =
        replies.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&replies[0]["ok"], &replies[0]["restored"]), (&true.into(), &false.into()));
    assert!(replies[1]["wire"].as_str().unwrap().contains(&hex::encode("hello")));
    let row = || {
        let table = shell(dir.path(), look);
        let row = table.lines().nth(1).unwrap().split_whitespace().map(str::to_owned);
        row.take(3).collect::<Vec<_>>()
    };
    assert_eq!(row(), ["room", "1", "1"]);

    // Started again, it goes on.
    assert!(shell(dir.path(), say).contains("\"restored\":true"));
    assert_eq!(row(), ["room", "2", "2"]);
    assert!(shell(dir.path(), simulate).contains("target"));
}
