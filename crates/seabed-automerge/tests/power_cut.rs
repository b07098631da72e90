//! Power cuts over transactions, messages from peers and compactions, on a simulated disk that loses, tears and reorders what was not
//! flushed. What a call acknowledged, and what a peer was told, is there afterwards; the store is sound; and the document goes on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what the helpers of a test cannot have fails the test"
)]

mod common;

use automerge::sync::{State, SyncDoc as _};
use automerge::transaction::Transactable as _;
use automerge::{Automerge, AutomergeError, ChangeHash, ROOT, ReadDoc as _};
use common::{assert_sound, id};
use pollster::block_on;
use seabed_automerge::{CompactOptions, DocStore, DocumentPersister, PersistentAutomerge};
use seabed_kv::Store;
use seabed_kv::sqlite::simulation::EngineOptions;
use seabed_testkit::{Disk, Fault, OnDisk, Rng};

/// How many steps a program has.
const STEPS: usize = 24;

/// What must be there whatever happens.
#[derive(Debug, Default)]
struct Told {
    /// Heads that a call acknowledged as stored, or that a message to a peer named.
    heads: Vec<ChangeHash>,
    done: bool,
}

/// The log is carried over now and then, so that power goes in the middle of that too. None when the power is gone.
fn store(disk: &Disk) -> Option<Store> {
    let options = EngineOptions { checkpoint_bytes: 60_000, ..EngineOptions::default() };
    OnDisk::open_with(disk, "automerge-00", options).ok().map(|on_disk| on_disk.store())
}

/// Runs the program of a seed until the power goes.
fn run(disk: &Disk, seed: u64) -> Told {
    let mut told = Told::default();
    let mut rng = Rng::new(seed);
    let Some(documents) = store(disk).and_then(|store| block_on(DocStore::open(&store)).ok()) else {
        return told;
    };
    let relaxed = rng.chance(1, 2);
    let open = || {
        let persister = DocumentPersister::open(&documents, id(1)).ok()?;
        PersistentAutomerge::load(if relaxed { persister.relaxed() } else { persister }).ok()
    };
    let (Some(mut document), Some(mut second)) = (open(), open()) else { return told };
    let (mut peer, mut theirs) = (Automerge::new(), State::new());
    for step in 0..STEPS {
        let dead = || disk.is_dead();
        let handle = if rng.chance(1, 4) { &mut second } else { &mut document };
        match rng.below(10) {
            0..4 => {
                let length = *rng.pick(&[1, 40, 300, 3_000]);
                let text: String =
                    (0..length).map(|_| *rng.pick(&['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'])).collect();
                let done =
                    handle.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, format!("{step}"), text));
                if done.is_ok() && !relaxed {
                    told.heads.extend(handle.document().get_heads());
                }
            }
            4..6 => {
                for number in 0..=rng.below(30) {
                    let put = peer.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, "peer", number as u64));
                    assert!(put.is_ok());
                }
                if let Some(message) = peer.generate_sync_message(&mut theirs)
                    && document.receive_sync_message(b"peer".to_vec(), message).is_ok()
                    && !relaxed
                {
                    told.heads.extend(document.document().get_heads());
                }
            }
            6..8 => {
                if let Ok(Some(message)) = document.generate_sync_message(b"peer".to_vec()) {
                    // Whoever is told may tell others, so this is for ever; relaxed or not.
                    told.heads.extend(&message.heads);
                    peer.receive_sync_message(&mut theirs, message).unwrap();
                }
            }
            8 => {
                let options = CompactOptions { force: true, verify: rng.chance(1, 2), dry_run: false };
                drop(handle.compact_with(&[], options));
            }
            _ => {
                if handle.flush().is_ok() {
                    told.heads.extend(handle.document().get_heads());
                }
            }
        }
        if dead() {
            return told;
        }
    }
    told.done = true;
    told
}

/// What is left after a cut.
fn check(disk: &Disk, told: &Told, context: &str) {
    let store = store(disk).unwrap();
    let documents = block_on(DocStore::open(&store)).unwrap_or_else(|error| panic!("{context}: {error}"));
    let mut document =
        PersistentAutomerge::load(DocumentPersister::open(&documents, id(1)).unwrap()).unwrap();
    assert!(document.damaged().is_empty(), "{context}");
    for head in &told.heads {
        let there = document.document().get_change_meta_by_hash(head).is_some();
        assert!(there, "{context}: {head} was told, and is gone");
    }
    assert_sound(&store);
    document.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, "after", "the cut")).unwrap();
    assert!(document.document().get(ROOT, "after").unwrap().is_some());
}

/// The power goes at every change of the disk, and once some time after each sync that failed.
fn survive(seed: u64) -> u64 {
    let disk = Disk::new(seed);
    let told = run(&disk, seed);
    assert!(told.done && !told.heads.is_empty(), "seed {seed} runs to its end on a sound disk");
    let (changes, syncs) = (disk.counters().changes, disk.sync_positions());
    let mut cuts = 0;
    for cut_at in 0..=changes {
        let disk = Disk::new(seed);
        disk.fail_at(cut_at, Fault::CutHere);
        let told = run(&disk, seed);
        disk.cut(seed ^ cut_at);
        check(&disk, &told, &format!("seed {seed}, power cut at change {cut_at}"));
        cuts += 1;
    }
    for failed in syncs {
        let disk = Disk::new(seed);
        disk.fail_at(failed, Fault::FailedSync);
        disk.fail_at(failed + 20, Fault::CutHere);
        let told = run(&disk, seed);
        disk.cut(seed ^ failed);
        check(&disk, &told, &format!("seed {seed}, failed sync at change {failed}"));
        cuts += 1;
    }
    cuts
}

/// `AUTOMERGE_CUT_SEEDS=100 cargo nextest run -p seabed-automerge --test power_cut` runs more programs.
#[test]
fn what_was_told_survives_a_cut_at_every_change_of_the_disk() {
    let seeds = std::env::var("AUTOMERGE_CUT_SEEDS").map_or(2, |seeds| seeds.parse().expect("a number"));
    let cuts: u64 = (1..=seeds).map(survive).sum();
    assert!(cuts > 200, "{cuts} cuts");
}
