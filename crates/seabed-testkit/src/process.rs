//! Servers of others, as children that cannot outlive the test.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a helper that fails is a test that fails"
)]

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

/// A server that hangs fails the test instead of hanging it.
const TIMEOUT: Duration = Duration::from_mins(1);
/// How many lines of what it said are kept.
const LINES_MAX: usize = 1_000;

/// Whom a server runs as: servers like PostgreSQL refuse to run as root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// Its number.
    pub uid: u32,
    /// The number of its group.
    pub gid: u32,
}

impl User {
    /// Another user when these tests run as root, the same one otherwise.
    pub fn unprivileged() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let accounts = std::fs::read_to_string("/etc/passwd").unwrap();
        let found = ["postgres", "nobody"].into_iter().find_map(|name| Self::of(&accounts, name));
        Some(found.expect("a user `postgres` or `nobody`, because servers refuse to run as root"))
    }

    fn of(accounts: &str, name: &str) -> Option<Self> {
        accounts.lines().find_map(|line| {
            let mut fields = line.split(':');
            if fields.next() != Some(name) {
                return None;
            }
            Some(Self { uid: fields.nth(1)?.parse().ok()?, gid: fields.next()?.parse().ok()? })
        })
    }

    /// `setpriv`, which becomes `program` as that user.
    pub(crate) fn command(user: Option<Self>, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        if let Some(Self { uid, gid }) = user {
            command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}")).arg("--clear-groups");
        }
        // The end of a test is the end of its servers, however it ends. PostgreSQL ends at once by this signal, and cleans up.
        command.args(["--pdeathsig", "QUIT"]);
        // What the tester's environment says to servers and clients is not meant for these.
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("LC_ALL", "C");
        command.arg(program);
        command
    }
}

/// A running server. It is killed, with its children, when this is dropped and when the test dies.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    said: Arc<Said>,
    keeper: Option<JoinHandle<()>>,
}

/// What a server has written to its standard error.
#[derive(Debug, Default)]
struct Said {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<String>,
    /// How many there were before those.
    dropped: usize,
    /// The server and its children have all ended.
    over: bool,
}

impl Process {
    /// Starts what `command` describes, and waits until it says a line that contains `ready`.
    ///
    /// # Errors
    /// What it said, when it ended before.
    pub fn start(mut command: Command, ready: &str) -> Result<Self, String> {
        let said = Arc::new(Said::default());
        let (started, pid) = std::sync::mpsc::channel();
        // The death signal is sent when the thread dies that started the child: this one waits for it.
        let keeper = std::thread::spawn({
            let said = said.clone();
            move || {
                let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
                let mut child = match child {
                    Ok(child) => child,
                    Err(error) => {
                        let _ = started.send(Err(error));
                        return;
                    }
                };
                let stderr = child.stderr.take().unwrap();
                let _ = started.send(Ok(Pid::from_child(&child)));
                // Its children hold the other end, too: the end of the stream is the end of all.
                for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                    said.say(String::from_utf8_lossy(&line).into_owned());
                }
                child.wait().unwrap();
                said.lines.lock().unwrap().over = true;
                said.changed.notify_all();
            }
        });
        let pid = pid.recv().unwrap().unwrap_or_else(|error| {
            panic!("setpriv cannot be started: {error}. Install util-linux");
        });
        let process = Self { pid, said, keeper: Some(keeper) };
        if process.has_said_since(0, ready) { Ok(process) } else { Err(process.log()) }
    }

    /// How many lines it has said.
    pub fn lines(&self) -> usize {
        let lines = self.said.lines.lock().unwrap();
        lines.dropped + lines.kept.len()
    }

    /// Waits until it says a line that contains `words`, after the first `since` lines. False when it ended instead.
    pub fn has_said_since(&self, since: usize, words: &str) -> bool {
        let lines = self.said.lines.lock().unwrap();
        let said = |lines: &Lines| {
            lines.kept.iter().skip(since.saturating_sub(lines.dropped)).any(|line| line.contains(words))
        };
        let unheard = |lines: &mut Lines| !lines.over && !said(lines);
        let (lines, timeout) = self.said.changed.wait_timeout_while(lines, TIMEOUT, unheard).unwrap();
        let kept = || lines.kept.iter().map(String::as_str).collect::<Vec<_>>().join("\n");
        assert!(!timeout.timed_out(), "the server has not said {words:?}, but:\n{}", kept());
        said(&lines)
    }

    /// What it said, the last lines of it.
    pub fn log(&self) -> String {
        let lines = self.said.lines.lock().unwrap();
        lines.kept.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        // One that has ended in the meantime has nothing left to be told.
        let _ = kill_process(self.pid, signal);
    }

    /// Waits until it and its children have ended.
    pub fn wait(&mut self) {
        let lines = self.said.lines.lock().unwrap();
        let (lines, _) = self.said.changed.wait_timeout_while(lines, TIMEOUT, |lines| !lines.over).unwrap();
        assert!(lines.over, "the server does not end");
        drop(lines);
        if let Some(keeper) = self.keeper.take() {
            keeper.join().unwrap();
        }
    }

    /// Ends it and its children as a power switch would.
    pub fn kill(&mut self) {
        if !self.said.lines.lock().unwrap().over {
            // A stopped parent starts and buries no children: the numbers below stay theirs.
            self.signal(Signal::STOP);
            for child in self.children() {
                let _ = kill_process(child, Signal::KILL);
            }
            self.signal(Signal::KILL);
        }
        self.wait();
    }

    fn children(&self) -> Vec<Pid> {
        let path = format!("/proc/{pid}/task/{pid}/children", pid = self.pid.as_raw_nonzero());
        // Where the system has no such list the children find out that their parent is gone.
        let list = std::fs::read_to_string(path).unwrap_or_default();
        list.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Said {
    fn say(&self, line: String) {
        let mut lines = self.lines.lock().unwrap();
        lines.kept.push_back(line);
        if lines.kept.len() > LINES_MAX {
            lines.kept.pop_front();
            lines.dropped += 1;
        }
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = User::command(None, "sh");
        command.arg("-c").arg(script);
        command
    }

    #[test]
    fn it_is_ready_when_it_says_so_and_what_it_says_later_is_heard() {
        let process = Process::start(shell("echo ready >&2; echo one >&2; read _ < /dev/tty"), "ready");
        let process = process.unwrap();
        assert!(process.has_said_since(1, "one"));
    }

    #[test]
    fn one_that_ends_too_early_says_why() {
        let Err(log) = Process::start(shell("echo no room >&2"), "ready") else { panic!("it was not ready") };
        assert_eq!(log, "no room");
    }

    #[test]
    fn children_are_killed_with_it() {
        let mut process = Process::start(shell("sleep 1000 & echo ready >&2; wait"), "ready").unwrap();
        let children = process.children();
        assert_eq!(children.len(), 1);
        let child = children[0].as_raw_nonzero();
        // What is being killed gives its files back before its number.
        let files = || std::fs::read_dir(format!("/proc/{child}/fd")).map_or(0, Iterator::count);
        assert!(files() > 0);
        process.kill();
        assert_eq!(files(), 0);
    }

    #[test]
    fn users_are_found_by_name() {
        let accounts = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65533:n:/:/bin/false\n";
        assert_eq!(User::of(accounts, "nobody"), Some(User { uid: 65534, gid: 65533 }));
        assert_eq!(User::of(accounts, "postgres"), None);
    }
}
