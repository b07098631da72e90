//! A proxy between a client and PostgreSQL that understands where messages begin: it counts them and the round trips, and cuts or
//! holds the connection at a message of the test's choice.
//!
//! A fault is a place in the conversation and no time, so a test can enumerate them all:
//!
//! ```no_run
//! use seabed_testkit::postgres::Cluster;
//! use seabed_testkit::proxy::{Act, Direction, Fault, Proxy};
//!
//! let cluster = Cluster::start();
//! let proxy = Proxy::start(cluster.port());
//! for message in 1.. {
//!     proxy.arm(Fault { direction: Direction::ToServer, message, act: Act::CutBefore });
//!     let answer = cluster.sql_at(&proxy.url("postgres"), "SELECT 1");
//!     if !proxy.has_fired() {
//!         break;
//!     }
//!     assert!(answer.is_err());
//! }
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a helper that fails is a test that fails"
)]

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

/// A fault that does not happen fails the test instead of hanging it.
const TIMEOUT: Duration = Duration::from_mins(1);
/// How many messages the trace keeps.
const TRACE_MAX: usize = 1_000;

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

/// What happens at a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// The connection ends, and the message never arrives.
    CutBefore,
    /// The message arrives, and the connection ends.
    CutAfter,
    /// Nothing arrives any more, on any connection, until [`Proxy::release`].
    Hold,
}

/// Something that happens once, at a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Which way the message goes.
    pub direction: Direction,
    /// The number of the message among those that go this way, over all connections, from 1 on since [`Proxy::arm`].
    pub message: u64,
    /// What happens there.
    pub act: Act,
}

/// What has passed since [`Proxy::reset`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that began.
    pub connections: u64,
    /// Messages to the server.
    pub to_server: u64,
    /// Messages to the client.
    pub to_client: u64,
    /// Times the client asked for an answer while it waited for none: what a network's latency is paid for.
    pub round_trips: u64,
}

/// A running proxy. Its connections end when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Where the server listens.
    server: u16,
    counts: Counts,
    trace: Vec<(Direction, char)>,
    fault: Option<Fault>,
    fired: bool,
    held: bool,
    over: bool,
    connections: Vec<[TcpStream; 2]>,
    ended: Vec<u16>,
}

impl Proxy {
    /// One in front of the server on that port of the loopback interface.
    pub fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        shared.lock().server = server;
        let listener = std::thread::spawn({
            let shared = shared.clone();
            move || {
                for client in listener.incoming() {
                    if shared.lock().over {
                        return;
                    }
                    // A server that is down ends the connection at once.
                    let _ = client.and_then(|client| connect(&shared, client));
                }
            }
        });
        Self { port, shared, listener: Some(listener) }
    }

    /// How to reach a database of the server through it.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Leads new connections to another server: the standby that took over.
    pub fn lead_to(&self, server: u16) {
        self.shared.lock().server = server;
    }

    /// Counts from zero.
    pub fn reset(&self) {
        let mut state = self.shared.lock();
        (state.counts, state.trace) = (Counts::default(), Vec::new());
    }

    /// What has passed.
    pub fn counts(&self) -> Counts {
        self.shared.lock().counts
    }

    /// The first messages that have passed, by their letters: `>` to the server, `<` to the client, `*` for the startup.
    pub fn trace(&self) -> String {
        let mut text = String::new();
        for (direction, letter) in &self.shared.lock().trace {
            let arrow = if *direction == Direction::ToServer { '>' } else { '<' };
            let _ = write!(text, "{arrow}{letter} ");
        }
        text
    }

    /// Counts from zero, and lets a fault happen.
    pub fn arm(&self, fault: Fault) {
        self.reset();
        let mut state = self.shared.lock();
        (state.fault, state.fired) = (Some(fault), false);
    }

    /// Lets it happen no more.
    pub fn disarm(&self) {
        self.shared.lock().fault = None;
    }

    /// Whether the fault has happened.
    pub fn has_fired(&self) -> bool {
        self.shared.lock().fired
    }

    /// Waits until the fault has happened.
    pub fn wait_fired(&self) {
        let state = self.shared.lock();
        let (state, _) =
            self.shared.changed.wait_timeout_while(state, TIMEOUT, |state| !state.fired).unwrap();
        assert!(state.fired, "the fault does not happen: {:?} after {:?}", state.fault, state.counts);
    }

    /// Holds everything from now on.
    pub fn hold(&self) {
        self.shared.lock().held = true;
    }

    /// Lets everything pass that was held.
    pub fn release(&self) {
        self.shared.lock().held = false;
        self.shared.changed.notify_all();
    }

    /// The ports at which the server knew the connections that have ended since this was last asked. What they brought may still be
    /// carried out: [`Cluster::wait_gone`](crate::postgres::Cluster::wait_gone) waits for that.
    pub fn take_ended(&self) -> Vec<u16> {
        std::mem::take(&mut self.shared.lock().ended)
    }

    /// Ends every connection.
    pub fn cut(&self) {
        let connections = std::mem::take(&mut self.shared.lock().connections);
        for [client, server] in &connections {
            end(client, server);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            (state.over, state.held) = (true, false);
        }
        self.shared.changed.notify_all();
        self.cut();
        // The listener looks up when somebody connects.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

fn connect(shared: &Arc<Shared>, client: TcpStream) -> std::io::Result<()> {
    let port = shared.lock().server;
    let server = TcpStream::connect(("127.0.0.1", port))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    {
        let mut state = shared.lock();
        state.counts.connections += 1;
        state.connections.push([client.try_clone()?, server.try_clone()?]);
    }
    let known_at = server.local_addr()?.port();
    let framing = Arc::new(Mutex::new(Framing::default()));
    for (direction, from, to) in [
        (Direction::ToServer, client.try_clone()?, server.try_clone()?),
        (Direction::ToClient, server, client),
    ] {
        let (shared, framing) = (shared.clone(), framing.clone());
        std::thread::spawn(move || {
            // An end that fails has ended; the other one learns of it.
            let _ = forward(&shared, &framing, direction, &from, &to);
            // Before the client can notice.
            shared.lock().ended.push(known_at);
            end(&from, &to);
        });
    }
    Ok(())
}

fn end(one: &TcpStream, other: &TcpStream) {
    let _ = one.shutdown(Shutdown::Both);
    let _ = other.shutdown(Shutdown::Both);
}

/// Forwards one direction of one connection, whole messages at a time, until it ends or is cut.
fn forward(
    shared: &Shared,
    framing: &Mutex<Framing>,
    direction: Direction,
    mut from: &TcpStream,
    mut to: &TcpStream,
) -> std::io::Result<()> {
    let mut read = Vec::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        let count = from.read(&mut chunk)?;
        if count == 0 {
            return Ok(());
        }
        read.extend(chunk.iter().take(count));
        // What was written together is looked at together, before the first of it can be answered.
        let messages = framing.lock().unwrap().split(direction, &mut read);
        let verdict = shared.judge(direction, &messages);
        to.write_all(&messages.bytes(..verdict.before))?;
        if verdict.cut {
            return Ok(());
        }
        let state = shared.lock();
        drop(shared.changed.wait_while(state, |state| state.held).unwrap());
        to.write_all(&messages.bytes(verdict.before..))?;
    }
}

/// How many messages pass at once, and whether they are the last.
struct Verdict {
    before: usize,
    cut: bool,
}

impl Shared {
    fn judge(&self, direction: Direction, messages: &Messages) -> Verdict {
        let mut state = self.lock();
        state.counts.round_trips += messages.round_trips;
        for (index, (letter, _)) in messages.list.iter().enumerate() {
            let counts = &mut state.counts;
            let count = match direction {
                Direction::ToServer => &mut counts.to_server,
                Direction::ToClient => &mut counts.to_client,
            };
            *count += 1;
            let number = *count;
            if state.trace.len() < TRACE_MAX {
                state.trace.push((direction, *letter));
            }
            let here = |fault: &Fault| (fault.direction, fault.message) == (direction, number);
            let Some(fault) = state.fault.take_if(|fault| here(fault)) else { continue };
            state.fired = true;
            state.held |= fault.act == Act::Hold;
            self.changed.notify_all();
            match fault.act {
                Act::CutBefore => return Verdict { before: index, cut: true },
                Act::CutAfter => return Verdict { before: index + 1, cut: true },
                Act::Hold => return Verdict { before: index, cut: false },
            }
        }
        let before = if state.held { 0 } else { messages.list.len() };
        Verdict { before, cut: false }
    }
}

/// Whole messages, each with its letter.
#[derive(Debug, Default, PartialEq, Eq)]
struct Messages {
    list: Vec<(char, Vec<u8>)>,
    round_trips: u64,
}

impl Messages {
    fn bytes(
        &self,
        which: impl std::slice::SliceIndex<[(char, Vec<u8>)], Output = [(char, Vec<u8>)]>,
    ) -> Vec<u8> {
        self.list.get(which).unwrap().iter().flat_map(|(_, bytes)| bytes).copied().collect()
    }
}

/// Where messages begin, on one connection.
#[derive(Debug, Default)]
struct Framing {
    /// The client has said which protocol it speaks; every message has a letter from here on.
    started: bool,
    /// The server's next byte is its answer to a request for encryption, and no message.
    answers_encryption: bool,
    /// Answers that the client waits for.
    outstanding: u64,
}

const ENCRYPTION_REQUESTS: [u32; 2] = [80_877_103, 80_877_104];

impl Framing {
    /// Takes the whole messages off the beginning of what was read.
    fn split(&mut self, direction: Direction, read: &mut Vec<u8>) -> Messages {
        let mut messages = Messages::default();
        while let Some((letter, length)) = self.next(direction, read) {
            let rest = read.split_off(length);
            messages.list.push((letter, std::mem::replace(read, rest)));
            match (direction, letter) {
                (Direction::ToServer, '*' | 'S' | 'Q' | 'F') => {
                    messages.round_trips += u64::from(self.outstanding == 0);
                    self.outstanding += 1;
                }
                (Direction::ToClient, '*' | 'Z') => self.outstanding = self.outstanding.saturating_sub(1),
                _ => {}
            }
        }
        messages
    }

    /// The letter and the length of the first message; `None` until it is whole.
    fn next(&mut self, direction: Direction, read: &[u8]) -> Option<(char, usize)> {
        let number = |from: usize| Some(u32::from_be_bytes(read.get(from..from + 4)?.try_into().ok()?));
        let whole = |length: usize| (read.len() >= length).then_some(length);
        if direction == Direction::ToClient && self.answers_encryption {
            let answer = *read.first()?;
            assert_eq!(answer, b'N', "an encrypted conversation cannot be looked into");
            self.answers_encryption = false;
            return Some(('*', 1));
        }
        if direction == Direction::ToServer && !self.started {
            let length = whole(usize::try_from(number(0)?).ok()?)?;
            if ENCRYPTION_REQUESTS.contains(&number(4)?) {
                self.answers_encryption = true;
            } else {
                self.started = true;
            }
            return Some(('*', length));
        }
        let length = whole(usize::try_from(number(1)?).ok()? + 1)?;
        Some((char::from(*read.first()?), length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(letter: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[letter], &length[..], body].concat()
    }

    fn startup(code: u32) -> Vec<u8> {
        [8_u32.to_be_bytes(), code.to_be_bytes()].concat()
    }

    fn letters(messages: &Messages) -> String {
        messages.list.iter().map(|(letter, _)| letter).collect()
    }

    #[test]
    fn messages_are_split_where_they_end_however_they_arrive() {
        let mut framing = Framing { started: true, ..Framing::default() };
        let all = [message(b'P', b"text"), message(b'B', b""), message(b'S', b"")].concat();
        let (mut read, mut seen) = (Vec::new(), String::new());
        for byte in &all {
            read.push(*byte);
            seen += &letters(&framing.split(Direction::ToServer, &mut read));
        }
        assert_eq!((seen.as_str(), read.len()), ("PBS", 0));
        let mut read = all.clone();
        let messages = framing.split(Direction::ToServer, &mut read);
        assert_eq!((letters(&messages).as_str(), messages.bytes(..)), ("PBS", all));
    }

    #[test]
    fn the_startup_has_no_letters() {
        let mut framing = Framing::default();
        let mut read = startup(ENCRYPTION_REQUESTS[0]);
        assert_eq!(letters(&framing.split(Direction::ToServer, &mut read)), "*");
        assert_eq!(letters(&framing.split(Direction::ToClient, &mut b"N".to_vec())), "*");
        assert_eq!(letters(&framing.split(Direction::ToServer, &mut startup(196_608))), "*");
        assert_eq!(letters(&framing.split(Direction::ToClient, &mut message(b'R', &[0; 4]))), "R");
        assert_eq!(letters(&framing.split(Direction::ToServer, &mut message(b'Q', b"x\0"))), "Q");
    }

    #[test]
    fn requests_sent_together_are_one_round_trip() {
        let mut framing = Framing { started: true, ..Framing::default() };
        let mut trips = |direction, bytes: Vec<u8>| framing.split(direction, &mut bytes.clone()).round_trips;
        let (sync, ready) = (message(b'S', b""), message(b'Z', b"I"));
        assert_eq!(trips(Direction::ToServer, [sync.clone(), sync.clone()].concat()), 1);
        assert_eq!(trips(Direction::ToClient, ready.clone()), 0);
        assert_eq!(trips(Direction::ToServer, sync.clone()), 0, "one answer is still to come");
        assert_eq!(trips(Direction::ToClient, [ready.clone(), ready].concat()), 0);
        assert_eq!(trips(Direction::ToServer, sync), 1);
    }
}
