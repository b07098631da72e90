//! Operations of many threads that are dropped anywhere, beside removals, the timer and a store that takes its time: nothing is told twice,
//! nothing that was told is forgotten, and what is stored is a channel.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails is a test that fails")]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::task::Poll;
use std::thread;

use common::{Faulty, clock, config, manager, poll_once};
use seabed_sds::contract::{ChannelBatch, ChannelStore, MemoryStore, StoreResult, async_trait};
use seabed_sds::core::{ChannelId, Event, Record};
use seabed_sds::{SdsManager, What};
use seabed_testkit::Rng;

const THREADS: u64 = 4;
const OPERATIONS: usize = 300;
const MESSAGES: usize = 120;

/// Every call takes a few polls.
#[derive(Debug, Default)]
struct Slow(MemoryStore);

async fn a_while() {
    let mut polls = 2;
    std::future::poll_fn(|context| {
        if polls == 0 {
            return Poll::Ready(());
        }
        polls -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[async_trait]
impl ChannelStore for Slow {
    async fn commit(&self, channel: &ChannelId, batch: &ChannelBatch) -> StoreResult<()> {
        a_while().await;
        self.0.commit(channel, batch).await?;
        a_while().await;
        Ok(())
    }
    async fn load(&self, channel: &ChannelId) -> StoreResult<Vec<Record>> {
        a_while().await;
        self.0.load(channel).await
    }
    async fn drop_channel(&self, channel: &ChannelId) -> StoreResult<()> {
        a_while().await;
        self.0.drop_channel(channel).await
    }
    async fn list(&self) -> StoreResult<Vec<ChannelId>> {
        self.0.list().await
    }
}

/// Polls an operation a few times and drops it, or waits for it.
fn some_of<T>(mut operation: seabed_sds::Op<T>, rng: &mut Rng) {
    if rng.chance(1, 3) {
        drop(operation.wait());
        return;
    }
    for _ in 0..rng.below(9) {
        if poll_once(&mut operation).is_ready() {
            return;
        }
    }
}

fn operate(bob: &SdsManager, wires: &[[Vec<u8>; 2]], thread: u64) {
    let mut rng = Rng::new(thread);
    for number in 0..OPERATIONS {
        let [kept, removed] = rng.pick(wires).clone();
        let id = format!("b{thread}-{number}");
        match rng.below(12) {
            0 => some_of(bob.send("kept", id.as_str(), b"x"), &mut rng),
            1 => some_of(bob.send("removed", id.as_str(), b"x"), &mut rng),
            2 => some_of(bob.remove_channel("removed"), &mut rng),
            3 => some_of(bob.status("kept"), &mut rng),
            4 => some_of(bob.tick(), &mut rng),
            5 => some_of(bob.ensure_channel("removed"), &mut rng),
            6 => some_of(bob.receive(removed), &mut rng),
            _ => some_of(bob.receive(kept), &mut rng),
        }
    }
}

#[test]
fn operations_dropped_anywhere_tell_nothing_twice_and_forget_nothing() {
    let clock = clock();
    let alice = manager("alice", Faulty::new(), &clock);
    let wires: Vec<[Vec<u8>; 2]> = (0..MESSAGES)
        .map(|number| {
            let id = format!("a{number}");
            ["kept", "removed"].map(|room| alice.send(room, id.as_str(), b"x").wait().unwrap().release().wire)
        })
        .collect();
    let store = Arc::new(Slow::default());
    let bob = SdsManager::builder("bob").config(config()).store(store.clone()).build().unwrap();
    let mut events = bob.events().unwrap();
    let reader = thread::spawn(move || std::iter::from_fn(|| events.wait_next()).collect::<Vec<_>>());
    bob.start().unwrap();
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (bob, wires) = (&bob, &wires);
            scope.spawn(move || operate(bob, wires, number));
        }
    });
    // Whatever nobody received to its end comes once more.
    for [kept, _] in &wires {
        bob.receive(kept.clone()).wait().unwrap();
    }
    bob.cleanup().wait().unwrap();
    let happened = reader.join().unwrap();

    let mut told = BTreeSet::new();
    for (number, item) in happened.iter().enumerate() {
        assert_eq!(item.sequence, number as u64, "the stream has no gap");
        if let What::Event(Event::Delivered { message, .. }) = &item.what
            && item.channel.as_bytes() == b"kept"
        {
            assert!(told.insert(message.message_id.clone()), "{} was delivered twice", message.message_id);
        }
    }
    assert_eq!(told.len(), MESSAGES);
    let again = manager("bob", store, &clock);
    let log = again.read("kept", |channel| {
        channel.log().map(|entry| entry.message.message_id.clone()).collect::<BTreeSet<_>>()
    });
    let log = log.wait().unwrap().unwrap();
    let of_alice = log.iter().filter(|id| id.as_bytes().starts_with(b"a")).cloned().collect::<BTreeSet<_>>();
    assert_eq!(told, of_alice, "what is stored as delivered was told, and the other way round");
    // Gone or whole.
    again.status("removed").wait().unwrap();
}
