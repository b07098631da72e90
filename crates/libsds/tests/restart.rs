//! Programs that end and begin again: the one of the README, the one in Python, and one that is killed.
#![allow(clippy::expect_used, reason = "a helper of a test fails the test")]

mod common;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use common::{Kind, command, compile, crate_root, libraries, repository_root, said};

#[test]
fn the_program_of_the_readme_still_knows_what_it_sent() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = compile("examples/remembers.c", Kind::Shared, directory.path());
    let run = || said(command(&program, Kind::Shared).current_dir(directory.path()));
    let first = run();
    let lines: Vec<_> = first.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[3]), (4, "open: 0 ", "end: 0 "), "{first}");
    assert!(lines[1].starts_with("send: 0 10,2,109,49,"), "{first}");
    assert!(lines[2].contains("\"log\":1,\"unacknowledged\":[\"m1\"]"), "{first}");

    let second = run();
    assert!(second.contains("send: 3 channel room: the message id m1 was used before"), "{second}");
    assert!(second.contains("\"log\":1,\"unacknowledged\":[\"m1\"]"), "{second}");
}

#[test]
fn the_readme_shows_the_program_that_is_tested() {
    let program = std::fs::read_to_string(crate_root().join("examples/remembers.c")).expect("the program");
    let readme = std::fs::read_to_string(repository_root().join("README.md")).expect("README.md");
    assert!(readme.contains(&format!("```c\n{program}```")), "README.md shows another program");
    assert!(program.lines().count() <= 20, "it is no program of twenty lines");
}

#[test]
fn python_calls_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut python = Command::new("python3");
    python.arg(crate_root().join("examples/two_participants.py")).arg(libraries().join("libsds.so"));
    let told = said(python.arg(directory.path().join("data")));
    assert_eq!(told, "alice knows that bob has her message\n");
}

/// Killed after so many messages, at whatever it is doing then, and again after its restart.
#[test]
fn what_a_killed_program_was_told_is_still_there() {
    let directory = tempfile::tempdir().expect("a directory");
    let (killed, held) = (
        compile("tests/c/killed.c", Kind::Shared, directory.path()),
        compile("tests/c/held.c", Kind::Shared, directory.path()),
    );
    let store = directory.path().join("alice");
    let mut next = 0;
    let mut told = Vec::new();
    for messages in [1, 7, 20, 3] {
        let mut child = command(&killed, Kind::Shared)
            .arg(&store)
            .arg(next.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        told.extend(lines.by_ref().take(messages).map(|line| line.expect("a line")));
        child.kill().expect("a kill");
        child.wait().expect("its end");
        // What it said before it died, and nobody had read yet.
        told.extend(lines.map(|line| line.expect("a line")));
        // The one that it was at may have been committed.
        let last = told.last().and_then(|id| id.strip_prefix('m')).expect("a name");
        next = 2 + last.parse::<u32>().expect("a number");

        let status = said(command(&held, Kind::Shared).arg(&store));
        for id in &told {
            assert!(status.contains(&format!("\"{id}\"")), "{id} is forgotten: {status}");
        }
    }
    assert!(told.len() >= 31);
}
