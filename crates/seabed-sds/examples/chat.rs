//! A chat whose process is killed again and again with SIGKILL: whatever it has said or heard is there when it starts anew, and what nobody has
//! acknowledged is sent again. `cargo run -p seabed-sds --example chat`.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "the chat answers on stdout, and a test that fails panics"
)]

use std::io::{BufRead, BufReader, Lines, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use seabed_sds::core::ChannelId;
use seabed_sds::{KernelStore, SdsManager};

/// How often the chat is killed.
const KILLS: usize = 5;
/// Says that this process is to be the chat, and where it keeps what it knows.
const CHAT: &str = "SEABED_EXAMPLE_CHAT";

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The program that is killed: a line `say TEXT` is answered with `wire HEX`, `hear HEX` with `heard`, `log` with the ids in the log, and
/// `unacknowledged` with how many there are. An answer is printed after the commit it rests on.
fn chat(root: &Path) -> Result<()> {
    let store = seabed_kv::Store::sqlite(root)?;
    let alice = SdsManager::builder("alice").store(Arc::new(KernelStore::open(&store).wait()?)).build()?;
    alice.ensure_channel("room").wait()?;
    for line in std::io::stdin().lines() {
        let line = line?;
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match verb {
            "say" => {
                // A name that no earlier life has used.
                let log = alice.status("room").wait()?.map_or(0, |status| status.log);
                let sent = alice.send("room", format!("alice-{log}").as_str(), rest.as_bytes()).wait()?;
                println!("wire {}", hex::encode(&sent.release().wire));
            }
            "hear" => {
                alice.receive(hex::decode(rest)?).wait()?;
                println!("heard");
            }
            "log" => {
                let ids = alice.read("room", |room| {
                    room.log().map(|entry| entry.message.message_id.to_string()).collect::<Vec<_>>()
                });
                println!("log {}", ids.wait()?.unwrap_or_default().join(" "));
            }
            "unacknowledged" => {
                println!(
                    "unacknowledged {}",
                    alice.status("room").wait()?.map_or(0, |status| status.unacknowledged)
                );
            }
            _ => println!("a line that the chat does not know"),
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    match std::env::var_os(CHAT) {
        Some(root) => chat(&PathBuf::from(root)),
        None => kill_again_and_again(),
    }
}

/// The other participant, who also holds the knife.
fn kill_again_and_again() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let bob = SdsManager::builder("bob").build()?;
    let mut expected = Vec::new();
    let mut unheard = Vec::new();
    for life in 0..KILLS {
        let mut chat = Chat::start(directory.path())?;
        // Whatever was answered before is there, in its order.
        assert_eq!(chat.ask("log")?, ["log".to_owned(), expected.join(" ")].join(" "));

        let wire = chat.ask(&format!("say this is life {life}"))?;
        expected.push(format!("alice-{}", expected.len()));
        unheard.push(hex::decode(wire.strip_prefix("wire ").ok_or(wire.clone())?)?);

        let id = format!("bob-{life}");
        let sent = bob.send("room", id.as_str(), b"still there?").wait()?.release();
        assert_eq!(chat.ask(&format!("hear {}", hex::encode(&sent.wire)))?, "heard");
        expected.push(id);
        chat.kill()?;
    }

    let mut chat = Chat::start(directory.path())?;
    assert_eq!(chat.ask("log")?, format!("log {}", expected.join(" ")));
    assert_eq!(chat.ask("unacknowledged")?, format!("unacknowledged {KILLS}"));
    // Bob hears it all at last; what he says next acknowledges it, to a process that has said none of it.
    for wire in unheard {
        bob.receive(wire).wait()?;
    }
    let sent = bob.send("room", "bob-last", b"there you are").wait()?.release();
    chat.ask(&format!("hear {}", hex::encode(&sent.wire)))?;
    assert_eq!(chat.ask("unacknowledged")?, "unacknowledged 0");
    assert_eq!(bob.status(ChannelId::from("room")).wait()?.map(|status| status.log), Some(2 * KILLS + 1));
    chat.kill()
}

/// The chat, as a process.
struct Chat {
    process: Child,
    input: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Chat {
    fn start(root: &Path) -> Result<Self> {
        // As a test this program is its own harness, which has to be told what to run; as an example it looks at no argument.
        let mut process = Command::new(std::env::current_exe()?)
            .args(["shows_what_it_says", "--exact", "--nocapture"])
            .env(CHAT, root)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = process.stdin.take().ok_or("no stdin")?;
        let answers = BufReader::new(process.stdout.take().ok_or("no stdout")?).lines();
        Ok(Self { process, input, answers })
    }

    /// The answer to a line: the first that begins as answers do, since a harness has words of its own.
    fn ask(&mut self, line: &str) -> Result<String> {
        writeln!(self.input, "{line}")?;
        for answer in &mut self.answers {
            let answer = answer?;
            if ["wire", "heard", "log", "unacknowledged"].iter().any(|word| answer.starts_with(word)) {
                return Ok(answer);
            }
        }
        Err("the chat has ended".into())
    }

    /// SIGKILL: nothing of it is told.
    fn kill(mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}

#[test]
fn shows_what_it_says() {
    main().unwrap();
}
