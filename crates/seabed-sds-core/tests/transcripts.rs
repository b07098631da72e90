//! Stories in `transcripts/*.txt`: a comment, commands after `>`, and below each the exact trace of it. `UPDATE=1` writes the traces anew, to be
//! reviewed as a change.
//!
//! Commands: `send WHO ID`, `sync WHO`, `hear WHO ID` (the last bytes of that message that anybody sent), `tick WHO` (at its next due time),
//! `pass SECONDS` (for all), `mark WHO ID..`, `restart WHO`, `show WHO`. Participants speak dialect N in profile `seabed`.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a failure is the test's")]

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use common::{Peer, decode, word};
use seabed_sds_core::{Config, Output, wire::Dialect};

#[derive(Default)]
struct Story {
    peers: BTreeMap<String, Peer>,
    /// The last bytes of each message.
    wires: BTreeMap<String, Vec<u8>>,
}

impl Story {
    fn peer(&mut self, name: &str) -> &mut Peer {
        self.peers.entry(name.to_owned()).or_insert_with(|| {
            Peer::new(name, Config { dependency_timeout_ms: Some(3_600_000), ..Config::seabed(Dialect::Nim) })
        })
    }

    fn run(&mut self, command: &str) -> String {
        let words: Vec<&str> = command.split_whitespace().collect();
        let mut trace = String::new();
        match words.as_slice() {
            ["send", who, id] => drop(self.peer(who).send(id)),
            ["sync", who] => drop(self.peer(who).sync()),
            ["hear", who, id] => {
                let wire = self.wires.get(*id).unwrap_or_else(|| panic!("nobody has sent {id}")).clone();
                let reception = self.peer(who).hear(&wire);
                writeln!(trace, "{reception:?}").expect("a string");
            }
            ["tick", who] => {
                let peer = self.peer(who);
                let before_ms = peer.now_ms;
                peer.tick_when_due();
                writeln!(trace, "after {} ms", peer.now_ms - before_ms).expect("a string");
            }
            ["pass", seconds] => {
                let seconds: u64 = seconds.parse().expect("seconds");
                for peer in self.peers.values_mut() {
                    peer.now_ms += seconds * 1_000;
                    peer.outputs.clear();
                }
                return trace;
            }
            ["mark", who, ids @ ..] => self.peer(who).mark_met(ids),
            ["restart", who] => {
                self.peer(who).restart();
                return trace;
            }
            ["show", who] => {
                let peer = self.peer(who);
                for (what, ids) in [
                    ("log", peer.log()),
                    ("unacknowledged", peer.unacknowledged()),
                    ("waiting", peer.waiting()),
                    ("missing", peer.missing()),
                ] {
                    let line = format!("{what}: {}", ids.join(" "));
                    writeln!(trace, "{}", line.trim_end()).expect("a string");
                }
                return trace;
            }
            other => panic!("not a command: {other:?}"),
        }
        let outputs = self.peer(words[1]).outputs.clone();
        for output in outputs {
            match output {
                Output::Event(event) => writeln!(trace, "{}", word(&event)).expect("a string"),
                Output::Broadcast(out) => {
                    let message = decode(&out.wire);
                    let names = |entries: &[seabed_sds_core::HistoryEntry]| {
                        entries.iter().map(|entry| entry.message_id.to_string()).collect::<Vec<_>>().join(" ")
                    };
                    let (causes, asks) = (names(&message.causal_history), names(&message.repair_request));
                    // The name of a sync message is a hash; the story calls it by its sender.
                    let name = if message.is_sync() {
                        format!("sync-{}", message.sender_id)
                    } else {
                        out.message_id.to_string()
                    };
                    writeln!(trace, "{:?} {name} names [{causes}] asks for [{asks}]", out.reason)
                        .expect("a string");
                    self.wires.insert(name, out.wire);
                }
            }
        }
        trace
    }
}

fn play(text: &str) -> String {
    let mut story = Story::default();
    let mut played = String::new();
    for line in text.lines() {
        if line.is_empty() || line.starts_with('#') {
            writeln!(played, "{line}").expect("a string");
        } else if let Some(command) = line.strip_prefix("> ") {
            write!(played, "{line}\n{}", story.run(command)).expect("a string");
        }
    }
    played
}

#[test]
fn the_stories_go_as_they_are_told() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let entries = std::fs::read_dir(folder).expect("the folder of transcripts");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(paths.len() >= 3, "{paths:?}");
    for path in paths {
        let told = std::fs::read_to_string(&path).expect("a transcript");
        let played = play(&told);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &played).expect("the transcript is written");
        } else {
            assert_eq!(played, told, "{}; UPDATE=1 writes it anew", path.display());
        }
    }
}
