//! Rows of every layout that was ever written: `vectors/seabed-files/0.1/sds-rows-VERSION`. Those of an earlier layout open as the channel that they are, and are
//! rewritten as they are loaded; those of this one are what the same story writes today.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails is a test that fails")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Faulty, State, clock, config, manager_with, state};
use seabed_kv::{Batch, Durability, KeyRange, ScanSpec, Store, Tenant};
use seabed_sds::contract::ChannelStore;
use seabed_sds::core::{Config, MessageId, RECORD_VERSION, derive_message_id};
use seabed_sds::{KernelStore, ManualClock, SdsManager, VerifyReport};
use tempfile::TempDir;

fn golden(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../vectors/seabed-files/0.1/sds-rows-{version}"))
}

/// A log of six, so that it forgets own messages which nobody has acknowledged.
fn short_log() -> Config {
    let mut config = config();
    config.limits.log_messages_max = 6;
    config.causal_history = 3;
    config.dependency_timeout_ms = Some(40_000);
    config.sync_interval_ms = Some(15_000);
    config
}

/// Ids as applications have them, and such that only look like it.
fn id(who: &str, number: u64) -> MessageId {
    let hash = derive_message_id(&who.into(), number.into(), b"");
    let id = match number % 5 {
        0 => hash.to_string(),
        1 => format!("0x{hash}"),
        2 => format!("0x{hash}").to_uppercase(),
        3 => hash.to_string()[1..].to_owned(),
        _ => format!("{who}{number}"),
    };
    id.as_str().into()
}

/// What becomes of carol's channel: rows of every kind but that of profile `nim`'s answers.
fn story(carol: &SdsManager, clock: &Arc<ManualClock>) {
    let peer = |name: &str| manager_with(short_log(), name, Faulty::new(), clock);
    let (alice, bob) = (peer("alice"), peer("bob"));
    let said = |by: &SdsManager, who: &str, number: u64| {
        by.send("room", id(who, number), format!("{who} says {number}").into_bytes())
            .wait()
            .unwrap()
            .release()
            .wire
    };
    // Of these alice is told nothing.
    for number in 0..4 {
        said(carol, "carol", number);
    }
    carol.mark_dependencies_met("room", vec!["never came".into()]).wait().unwrap();
    for number in 0..6 {
        clock.advance(1_000);
        let wire = said(&alice, "alice", number);
        bob.receive(wire.clone()).wait().unwrap();
        carol.receive(wire).wait().unwrap();
    }
    carol.set_retrieval_hint("room", id("alice", 5), b"a hint".to_vec()).wait().unwrap();
    // What rests on this is given up as lost in the end.
    said(&bob, "bob", 0);
    carol.receive(said(&bob, "bob", 1)).wait().unwrap();
    clock.advance(45_000);
    carol.tick().wait().unwrap();
    let wire = said(carol, "carol", 4);
    bob.receive(wire).wait().unwrap();
    // Two that wait, and for two each.
    let lost = said(&alice, "alice", 6);
    said(&bob, "bob", 2);
    bob.receive(lost).wait().unwrap();
    for number in 3..5 {
        carol.receive(said(&bob, "bob", number)).wait().unwrap();
    }
    said(carol, "carol", 5);
    carol.send_sync("room").wait().unwrap();
}

fn sqlite(directory: &Path, clock: &Arc<ManualClock>) -> (Store, SdsManager) {
    let store = Store::sqlite(directory).unwrap();
    let kept = Arc::new(KernelStore::open(&store).wait().unwrap());
    (store, manager_with(short_log(), "carol", kept, clock))
}

/// Writes the rows of this layout. Those of an earlier one are never written again.
fn write(to: &Path) {
    let place = tempfile::tempdir().unwrap();
    let clock = clock();
    let (store, carol) = sqlite(place.path(), &clock);
    story(&carol, &clock);
    drop(carol);
    store.close().wait().unwrap();
    fs::create_dir_all(to).unwrap();
    fs::copy(place.path().join("sds.db"), to.join("sds.db")).unwrap();
}

/// What the story leaves, in memory.
fn told() -> State {
    let clock = clock();
    let carol = manager_with(short_log(), "carol", Faulty::new(), &clock);
    story(&carol, &clock);
    state(&carol, "room").unwrap()
}

/// A copy of stored rows.
fn copied(version: u32) -> TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::copy(golden(version).join("sds.db"), place.path().join("sds.db")).unwrap();
    place
}

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

fn rows(tenant: &Tenant) -> Rows {
    let rows = tenant.scan(ScanSpec::new("sds.channel", KeyRange::all())).collect().wait().unwrap();
    rows.into_iter().map(|row| (row.key.into_bytes(), row.payload)).collect()
}

fn opened(directory: &Path) -> Rows {
    let store = Store::sqlite(directory).unwrap();
    let rows = rows(&store.open("sds").wait().unwrap());
    store.close().wait().unwrap();
    rows
}

fn verified(store: &Store) -> VerifyReport {
    pollster::block_on(seabed_sds::verify(&store.open("sds").wait().unwrap())).unwrap()
}

#[test]
fn this_layout_has_its_rows() {
    let version = u32::from(RECORD_VERSION);
    let to = golden(version);
    if !to.exists() && std::env::var_os("UPDATE").is_some() {
        write(&to);
    }
    assert!(
        to.join("sds.db").exists(),
        "{} is missing; run: UPDATE=1 cargo nextest run -p seabed-sds --test old_rows",
        to.display()
    );
    let (place, clock) = (tempfile::tempdir().unwrap(), clock());
    let (store, carol) = sqlite(place.path(), &clock);
    story(&carol, &clock);
    assert_eq!(rows(&store.tenant("sds").unwrap()), opened(copied(version).path()));
    let state = state(&carol, "room").unwrap();
    // The story has what it was written for.
    for (what, count) in [
        ("Outgoing", 6),
        ("Kept", 4),
        ("Log", 6),
        ("Incoming", 2),
        ("Waits", 5),
        ("Missing", 2),
        ("Met {", 2),
        ("Sync {", 2),
    ] {
        let of_kind = state.records.iter().filter(|record| format!("{record:?}").starts_with(what)).count();
        assert_eq!(of_kind, count, "{what}");
    }
}

#[test]
fn every_layout_opens_as_the_channel_that_it_is() {
    for version in 1..=u32::from(RECORD_VERSION) {
        let (place, clock) = (copied(version), clock());
        let (store, carol) = sqlite(place.path(), &clock);
        // Looking changes nothing.
        let before = rows(&store.tenant("sds").unwrap());
        let report = verified(&store);
        assert_eq!((report.channels, report.messages, report.findings), (1, 6, Vec::new()), "{version}");
        let infos = pollster::block_on(seabed_sds::channels(&store.tenant("sds").unwrap())).unwrap();
        assert_eq!((infos[0].log, infos[0].unacknowledged, infos[0].waiting), (6, 6, 2), "{version}");
        let told_rows =
            pollster::block_on(seabed_sds::channel_rows(&store.tenant("sds").unwrap(), &"room".into()))
                .unwrap();
        assert_eq!(told_rows.len(), before.len(), "{version}");
        assert!(told_rows.iter().all(|row| row.get("damaged").is_none()), "{version}: {told_rows:?}");
        assert_eq!(rows(&store.tenant("sds").unwrap()), before, "{version}");

        assert_eq!(carol.restore().wait().unwrap(), 1);
        assert_eq!(state(&carol, "room").unwrap(), told(), "{version}");
        // It is in this layout now, and goes on.
        assert_eq!(
            rows(&store.tenant("sds").unwrap()),
            opened(copied(u32::from(RECORD_VERSION)).path()),
            "{version}"
        );
        carol.send("room", "more", b"more").wait().unwrap();
        assert_eq!(verified(&store).findings, Vec::<String>::new(), "{version}");
    }
}

/// An upgrade in several batches may end between any two records.
#[test]
fn an_upgrade_that_was_cut_off_goes_on() {
    let old = opened(copied(1).path());
    let new = opened(copied(u32::from(RECORD_VERSION)).path());
    let prefix = old[0].0.len() - 1;
    let mut read = seabed_sds::core::Rows::default();
    for (key, payload) in &old {
        read.add(&key[prefix..], payload).unwrap();
    }
    let records = read.into_records().unwrap();
    assert!(records.len() > 30, "{}", records.len());
    for moved in 0..=records.len() {
        let (place, clock) = (copied(1), clock());
        let (store, carol) = sqlite(place.path(), &clock);
        let mut batch = Batch::new();
        for record in &records[..moved] {
            let under = |key: Vec<u8>| [&old[0].0[..prefix], &key].concat();
            for key in record.old_keys() {
                batch.delete("sds.channel", under(key));
            }
            batch.put("sds.channel", under(record.key().to_bytes()), record.to_bytes());
        }
        store.open("sds").wait().unwrap().apply(batch, Durability::Durable).wait().unwrap();
        assert_eq!(verified(&store).findings, Vec::<String>::new(), "{moved}");
        assert_eq!(state(&carol, "room").unwrap(), told(), "{moved}");
        assert_eq!(rows(&store.tenant("sds").unwrap()), new, "{moved}");
    }
}

#[test]
fn an_old_channel_leads_to_logos_delivery() {
    let place = copied(1);
    let store = Store::sqlite(place.path()).unwrap();
    let kept = KernelStore::open(&store).wait().unwrap();
    pollster::block_on(kept.export(&"room".into())).unwrap();
    assert_eq!(rows(&store.tenant("sds").unwrap()), Vec::new());
    assert_eq!(verified(&store).messages, 6);
}

#[test]
fn whether_an_old_channel_can_be_exported_is_said_without_a_change() {
    let place = copied(1);
    let store = Store::sqlite(place.path()).unwrap();
    let kept = KernelStore::open(&store).wait().unwrap();
    let tenant = store.tenant("sds").unwrap();
    let before = (rows(&tenant), tenant.get("sds.format", b"").wait().unwrap());
    pollster::block_on(kept.check_export(&"room".into())).unwrap();
    let refused = pollster::block_on(kept.check_export(&"nowhere".into())).unwrap_err();
    assert!(refused.to_string().contains("no channel nowhere"), "{refused}");
    assert_eq!((rows(&tenant), tenant.get("sds.format", b"").wait().unwrap()), before);
}

/// What the keys of the channel begin with, and its clock's row, in the first layout.
fn old_clock() -> (Vec<u8>, (Vec<u8>, Vec<u8>)) {
    let clock = opened(copied(1).path()).swap_remove(0);
    let (kind, prefix) = clock.0.split_last().unwrap();
    assert_eq!(*kind, 1);
    (prefix.to_vec(), clock)
}

fn apply(store: &Store, put: &[(Vec<u8>, Vec<u8>)]) {
    for (key, payload) in put {
        let mut batch = Batch::new();
        batch.put("sds.channel", key, payload.clone());
        store.open("sds").wait().unwrap().apply(batch, Durability::Durable).wait().unwrap();
    }
}

#[test]
fn a_large_row_is_upgraded_after_others() {
    let (prefix, clock_row) = old_clock();
    // A message of the log, as the first layout has it.
    let message = |id: &str, content_bytes: usize| {
        let bytes = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
        let stamp = [1].into_iter().chain(7_u64.to_be_bytes());
        let value = [1].into_iter().chain(7_u64.to_be_bytes()).chain([0, 0]);
        let value = value.chain([id, "room", "alice"].into_iter().flat_map(|id| bytes(id.as_bytes())));
        let value =
            value.chain(stamp).chain([0; 4 + 4 + 1]).chain([1]).chain(bytes(&vec![b'x'; content_bytes]));
        ([prefix.as_slice(), &[2], id.as_bytes()].concat(), value.collect::<Vec<u8>>())
    };
    let store = Store::memory();
    apply(&store, &[clock_row, message("a1", 3_900_000), message("a2", 4_600_000)]);
    let kept = KernelStore::open(&store).wait().unwrap();
    let records = pollster::block_on(kept.load(&"room".into())).unwrap();
    assert_eq!(records.len(), 3);
    let keys: Vec<u8> = rows(kept.tenant()).iter().map(|(key, _)| key[prefix.len()]).collect();
    assert_eq!(keys, [22, 22, 23]);
    assert_eq!(pollster::block_on(kept.load(&"room".into())).unwrap().len(), 3);
}

/// It has not seen that the store is ours now.
#[test]
fn a_channel_that_a_program_of_an_earlier_version_begins_meanwhile_is_not_written_into() {
    let (_, clock_row) = old_clock();
    let store = Store::memory();
    let kept = Arc::new(KernelStore::open(&store).wait().unwrap());
    let carol = manager_with(short_log(), "carol", kept, &clock());
    carol.ensure_channel("room").wait().unwrap();
    apply(&store, std::slice::from_ref(&clock_row));
    let error = carol.send("room", "c1", b"x").wait().unwrap_err();
    assert!(error.to_string().contains("somebody else has written"), "{error}");
    assert_eq!(rows(&store.tenant("sds").unwrap()), [clock_row]);
    // Loaded again it is that channel.
    carol.send("room", "c1", b"x").wait().unwrap();
}
