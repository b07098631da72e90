//! Two participants over UDP on loopback, where one datagram of three is lost: both have everything in the end, in one order.
//! `cargo run -p seabed-sds --example udp`.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use seabed_sds::core::wire::Dialect;
use seabed_sds::core::{Config, Event};
use seabed_sds::{Events, KernelStore, SdsManager, What};

const MESSAGES: usize = 20;
/// A datagram holds any message of this example.
const DATAGRAM_BYTES_MAX: usize = 65_507;
/// Loss is bad luck; so much of it would be a defect.
const TURNS_MAX: u32 = 50_000;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

struct Participant {
    manager: SdsManager,
    events: Events,
    socket: UdpSocket,
    /// How many datagrams it has sent, also those that are lost.
    sent: u32,
    log: Vec<String>,
}

impl Participant {
    fn new(name: &str, root: &std::path::Path) -> Result<Self> {
        // A program on a real network takes the defaults, which are minutes; this one is in a hurry.
        let config = Config {
            resend_interval_ms: 200,
            resend_interval_possible_ms: 400,
            resend_attempts_max: 50,
            sync_interval_ms: Some(150),
            repair_t_min_ms: 20,
            repair_t_max_ms: 100,
            ..Config::seabed(Dialect::Nim)
        };
        let store = seabed_kv::Store::sqlite(root.join(name))?;
        let store = Arc::new(KernelStore::open(&store).wait()?);
        let manager = SdsManager::builder(name).config(config).store(store).build()?;
        let events = manager.events()?;
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_millis(5)))?;
        Ok(Self { manager, events, socket, sent: 0, log: Vec::new() })
    }

    /// Hears at most one datagram, does what is due, and puts everything that is to be said on the wire: it is committed.
    fn turn(&mut self) -> Result<()> {
        let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
        match self.socket.recv(&mut datagram) {
            Ok(length) => {
                datagram.truncate(length);
                self.manager.receive(datagram).wait()?;
            }
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error.into()),
        }
        self.manager.tick().wait()?;
        while let Some(happened) = self.events.try_next() {
            match happened.what {
                What::Broadcast(broadcast) => self.broadcast(&broadcast.wire)?,
                What::Event(Event::Delivered { message, .. }) => {
                    self.log.push(message.message_id.to_string());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The network: every third datagram does not arrive.
    fn broadcast(&mut self, wire: &[u8]) -> Result<()> {
        self.sent += 1;
        if !self.sent.is_multiple_of(3) {
            self.socket.send(wire)?;
        }
        Ok(())
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

fn main() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut alice = Participant::new("alice", directory.path())?;
    let mut bob = Participant::new("bob", directory.path())?;
    alice.socket.connect(bob.socket.local_addr()?)?;
    bob.socket.connect(alice.socket.local_addr()?)?;

    let (mut said, mut turns) = (0, 0);
    while alice.log.len() < MESSAGES || bob.log.len() < MESSAGES {
        if said < MESSAGES {
            said += 1;
            alice.manager.send("room", format!("alice-{said}").as_str(), b"over UDP").wait()?;
            bob.manager.send("room", format!("bob-{said}").as_str(), b"over UDP, too").wait()?;
        }
        alice.turn()?;
        bob.turn()?;
        turns += 1;
        assert!(turns < TURNS_MAX, "alice has {:?}, bob {:?}", alice.log, bob.log);
    }

    // Each heard what the other one said, once and in its order, and both logs are the same.
    let of = |name: &str| (1..=MESSAGES).map(|number| format!("{name}-{number}")).collect::<Vec<_>>();
    assert_eq!((alice.log, bob.log), (of("bob"), of("alice")));
    let log = |manager: &SdsManager| {
        let ids = |channel: &seabed_sds::core::Channel| {
            channel.log().map(|entry| entry.message.message_id.to_string()).collect::<Vec<_>>()
        };
        manager.read("room", ids).wait()
    };
    let (of_alice, of_bob) = (log(&alice.manager)?, log(&bob.manager)?);
    assert_eq!(of_alice, of_bob);
    assert_eq!(of_alice.map(|log| log.len()), Some(2 * MESSAGES));
    assert!(alice.sent + bob.sent >= 3, "something was lost");
    Ok(())
}

#[test]
fn shows_what_it_says() {
    main().unwrap();
}
