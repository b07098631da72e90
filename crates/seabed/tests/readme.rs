//! The README's tour of SDS, as it is printed.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use common::readme::{commands, shell};

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
