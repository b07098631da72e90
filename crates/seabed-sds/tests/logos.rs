//! A database of logos-delivery: used as it lies, migrated on request, exported so that it is what upstream wrote.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails is a test that fails")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use common::{clock, manager};
use seabed_kv::{ErrorKind, KeyRange, ScanSpec, Store};
use seabed_sds::contract::{ChannelStore, SnapshotPersistence};
use seabed_sds::core::snapshot::ChannelData;
use seabed_sds::core::wire::Dialect;
use seabed_sds::core::{ChannelId, Config, MessageId};
use seabed_sds::{KernelStore, LogosRows, SdsManager, TENANT, verify};
use serde_json::Value;

const CHANNELS: [&str; 2] = ["chan-a", "канал-β"];

fn vectors() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors/persistency")
}

/// A store with the database of the real stack, as its close left it.
fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(vectors().join("upstream.db"), directory.path().join("sds.db")).unwrap();
    std::fs::copy(vectors().join("upstream.db-wal"), directory.path().join("sds.db-wal")).unwrap();
    let store = Store::sqlite(directory.path()).unwrap();
    (directory, store)
}

fn expected(channel: &str) -> Value {
    let text = std::fs::read_to_string(vectors().join("upstream_db.json")).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    all["expected"][channel]["load_channel"].clone()
}

fn rows(store: &Store, category: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let rows = store
        .tenant(TENANT)
        .unwrap()
        .scan(ScanSpec::new(category, KeyRange::all()))
        .collect()
        .wait()
        .unwrap();
    rows.into_iter().map(|row| (row.key.into_bytes(), row.payload)).collect()
}

#[test]
fn what_upstream_loads_is_loaded() {
    let (_directory, store) = store();
    let logos = LogosRows::new(store.open(TENANT).wait().unwrap());
    let channels: Vec<String> = logos.channels().wait().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(channels, CHANNELS);
    for channel in CHANNELS {
        let data = pollster::block_on(logos.load_channel(&channel.into())).unwrap();
        let expected = expected(channel);
        assert_eq!(data.meta.lamport.to_string(), expected["meta"]["lamport_timestamp"].as_str().unwrap());
        let ids: Vec<_> = data.history.iter().map(|message| message.message_id.to_string()).collect();
        let upstream: Vec<_> = expected["message_history_ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_str().unwrap())
            .collect();
        assert_eq!(ids, upstream);
        for (list, found) in [
            ("outgoing_buffer", data.meta.outgoing.len()),
            ("incoming_buffer", data.meta.incoming.len()),
            ("outgoing_repair_buffer", data.meta.outgoing_repair.len()),
            ("incoming_repair_buffer", data.meta.incoming_repair.len()),
        ] {
            assert_eq!(expected["meta"][list].as_array().map(Vec::len), Some(found), "{channel} {list}");
        }
        // To the byte what upstream stores.
        let (key, stored) =
            rows(&store, "sds.meta").into_iter().find(|(key, _)| key[2..] == *channel.as_bytes()).unwrap();
        assert_eq!(data.meta.encode().len(), stored.len(), "{key:?}");
    }
}

#[test]
fn a_manager_goes_on_with_it_in_place_and_upstream_reads_what_it_wrote() {
    let (_directory, store) = store();
    let logos = LogosRows::new(store.open(TENANT).wait().unwrap());
    let builder = SdsManager::builder("carol").config(Config::nim()).clock(clock());
    let carol = builder.snapshots(Arc::new(logos.clone())).build().unwrap();
    let before = pollster::block_on(logos.load_channel(&"chan-a".into())).unwrap();
    assert!(carol.send("chan-a", "new", b"from here").wait().unwrap().is_committed());
    let after = pollster::block_on(logos.load_channel(&"chan-a".into())).unwrap();
    assert_eq!(after.history.len(), before.history.len() + 1);
    assert_eq!(after.meta.outgoing.len(), before.meta.outgoing.len() + 1);
    let waiting = |data: &ChannelData| -> Vec<_> {
        // What a message waits for is a set.
        let set = |ids: &[MessageId]| ids.iter().cloned().collect::<BTreeSet<_>>();
        data.meta.incoming.iter().map(|entry| (entry.message.clone(), set(&entry.missing))).collect()
    };
    assert_eq!(waiting(&after), waiting(&before));
    assert_eq!(rows(&store, "sds.channel"), [], "nothing of ours is there");
}

#[test]
fn it_is_migrated_on_request_alone_and_exported_back() {
    let (_directory, store) = store();
    let kept = KernelStore::open(&store).wait().unwrap();
    let config = Config::seabed(Dialect::Nim);
    for channel in CHANNELS.map(ChannelId::from) {
        // Not by looking.
        let refused = pollster::block_on(kept.load(&channel)).unwrap_err();
        assert_eq!(refused.kernel().unwrap().kind(), ErrorKind::Unsupported, "{refused}");
        let logos = LogosRows::new(store.tenant(TENANT).unwrap());
        let before = pollster::block_on(logos.load_channel(&channel)).unwrap();

        pollster::block_on(kept.migrate(&channel, &"carol".into(), &config)).unwrap();
        assert_eq!(
            pollster::block_on(logos.load_channel(&channel)).unwrap(),
            ChannelData::default(),
            "old rows are gone"
        );
        let again = pollster::block_on(kept.migrate(&channel, &"carol".into(), &config)).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::InvalidArgument);

        pollster::block_on(kept.export(&channel)).unwrap();
        let after = pollster::block_on(logos.load_channel(&channel)).unwrap();
        let ids = |data: &ChannelData| {
            let mut ids: Vec<_> = data.history.iter().map(|message| message.message_id.clone()).collect();
            ids.sort();
            ids
        };
        assert_eq!((after.meta.lamport, ids(&after)), (before.meta.lamport, ids(&before)));
        let outgoing = |data: &ChannelData| -> Vec<_> {
            let entries = data.meta.outgoing.iter();
            entries
                .map(|entry| (entry.message.message_id.clone(), entry.send_time_ms, entry.resend_attempts))
                .collect()
        };
        assert_eq!(outgoing(&after), outgoing(&before));
        assert!(pollster::block_on(kept.load(&channel)).is_err(), "it is upstream's again");
    }
    let report = pollster::block_on(verify(&store.tenant(TENANT).unwrap())).unwrap();
    assert_eq!((report.channels, report.findings), (2, Vec::<String>::new()));
}

#[test]
fn a_channel_that_this_store_has_already_is_not_migrated_over() {
    use seabed_sds::contract::ChannelBatch;
    use seabed_sds::core::Change;

    let (_directory, store) = store();
    let kept = KernelStore::open(&store).wait().unwrap();
    let config = Config::seabed(Dialect::Nim);
    let channel = ChannelId::from("chan-a");
    // As by another program, that did not look whether logos-delivery has it.
    let records = seabed_sds::core::Channel::new(channel.clone(), "carol".into(), config.clone(), 0).unwrap();
    let changes = records.records().map(Change::Put).collect();
    let batch = ChannelBatch { changes, ..ChannelBatch::default() };
    pollster::block_on(kept.commit(&channel, &batch)).unwrap();
    let before = rows(&store, "sds.channel");
    assert!(!before.is_empty());
    let refused = pollster::block_on(kept.migrate(&channel, &"carol".into(), &config)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    assert_eq!(rows(&store, "sds.channel"), before);
}

#[test]
fn a_migrated_channel_is_one_like_any_other() {
    let (_directory, store) = store();
    let kept = KernelStore::open(&store).wait().unwrap();
    let channel = ChannelId::from("chan-a");
    pollster::block_on(kept.migrate(&channel, &"carol".into(), &common::config())).unwrap();
    let carol = manager("carol", Arc::new(kept), &clock());
    let before = carol.status("chan-a").wait().unwrap().unwrap();
    carol.send("chan-a", "new", b"from here").wait().unwrap();
    let after = carol.status("chan-a").wait().unwrap().unwrap();
    assert_eq!((after.log, after.unacknowledged), (before.log + 1, before.unacknowledged + 1));
    assert!(after.lamport > before.lamport);
}

#[test]
fn every_row_is_told_and_damage_is_found() {
    let (_directory, store) = store();
    let kept = KernelStore::open(&store).wait().unwrap();
    let channel = ChannelId::from("chan-a");
    pollster::block_on(kept.migrate(&channel, &"carol".into(), &common::config())).unwrap();
    let tenant = store.tenant(TENANT).unwrap();
    let mut told = 0;
    for category in ["sds.channel", "sds.format", "sds.meta", "sds.log"] {
        for (key, payload) in rows(&store, category) {
            let row = seabed_sds::decode_row(category.as_bytes(), &key, &payload).unwrap();
            assert_eq!(row.get("damaged"), None, "{row}");
            told += 1;
            let cut = &payload[..payload.len() / 2];
            if let Some(broken) = seabed_sds::decode_row(category.as_bytes(), &key, cut) {
                assert!(broken.get("row").is_some());
            }
        }
    }
    assert!(told > 30, "{told}");

    // Each row of ours, cut short, is a finding.
    let sound = rows(&store, "sds.channel");
    for (key, payload) in &sound {
        if payload.len() < 2 {
            continue;
        }
        tenant.put("sds.channel", key, &payload[..1]).wait().unwrap();
        let report = pollster::block_on(verify(&tenant)).unwrap();
        assert!(!report.findings.is_empty(), "{}", key.escape_ascii());
        tenant.put("sds.channel", key, payload.clone()).wait().unwrap();
    }
    assert_eq!(pollster::block_on(verify(&tenant)).unwrap().findings, Vec::<String>::new());
    tenant.put("sds.format", b"", b"\0\0\0\x03seabed 9.9.9").wait().unwrap();
    let refused = KernelStore::open(&store).wait().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert!(refused.to_string().contains("seabed 9.9.9"), "{refused}");
}
