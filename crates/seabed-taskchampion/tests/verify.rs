//! Verification finds each kind of damage, and nothing in what is sound; inspection reads every row of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what the helpers of a test cannot have fails the test"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{START_S, World, rows, stores};
use pollster::block_on;
use seabed_kv::{Store, Tenant};
use seabed_taskchampion::{DISCARDED_MS_MAX, FINDINGS_MAX, VerifyReport, decode_row, verify};
use uuid::Uuid;

const CLIENT: u128 = 0xC1_1E27;

/// A store with a client that has small and large versions and a large snapshot, and one that has a small one.
struct Planted {
    world: World,
    tenant: Tenant,
    client: Uuid,
    other: Uuid,
    chain: Vec<Uuid>,
}

impl Planted {
    fn new(store: Store) -> Self {
        let world = World::new(store);
        let (client, other) = (Uuid::from_u128(CLIENT), world.id());
        let mut chain = world.chain(client, 5);
        chain.push(world.pushed(client, chain[4], &vec![1; 20_000]));
        chain.push(world.pushed(client, chain[5], b"last"));
        world.snapshot(client, chain[6], &vec![2; 30_000]);
        let of_other = world.chain(other, 2);
        world.snapshot(other, of_other[1], b"small");
        let tenant = world.store.tenant("taskchampion-00").unwrap();
        Self { world, tenant, client, other, chain }
    }

    fn report(&self) -> VerifyReport {
        block_on(verify(&self.tenant)).unwrap()
    }

    /// The key of a version or parent row.
    fn pair(&self, version: Uuid) -> Vec<u8> {
        [self.client.as_bytes().as_slice(), version.as_bytes()].concat()
    }

    fn put(&self, category: &str, key: impl AsRef<[u8]>, payload: impl Into<Vec<u8>>) {
        self.tenant.put(category, key, payload).wait().unwrap();
    }

    fn delete(&self, category: &str, key: impl AsRef<[u8]>) {
        assert!(self.tenant.delete(category, key).wait().unwrap(), "the damage hit nothing");
    }

    fn get(&self, category: &str, key: impl AsRef<[u8]>) -> Vec<u8> {
        self.tenant.get(category, key).wait().unwrap().unwrap()
    }

    /// Replaces a row by what `change` makes of it.
    fn alter(&self, category: &str, key: impl AsRef<[u8]>, change: impl FnOnce(&mut Vec<u8>)) {
        let mut row = self.get(category, key.as_ref());
        change(&mut row);
        self.put(category, key, row);
    }

    /// The id of the staged version's chunks.
    fn staged(&self) -> Vec<u8> {
        self.get("taskchampion.version", self.pair(self.chain[4]))[26..42].to_vec()
    }
}

#[test]
fn a_sound_store_is_counted_and_nothing_is_found() {
    for (_, store, _directory) in stores() {
        let planted = Planted::new(store);
        let expected = VerifyReport {
            clients: 2,
            versions: 9,
            snapshots: 2,
            bytes: 5 * 9 + 20_000 + 4 + 30_000 + 2 * 9 + 5,
            findings: Vec::new(),
        };
        assert_eq!(planted.report(), expected);
    }
}

type Damage = fn(&Planted);

/// What is done to the store, and a part of what must then be found.
const DAMAGES: &[(&str, Damage, &str)] = &[
    ("format row gone", |p| p.delete("taskchampion.format", b""), "taskchampion.format is missing"),
    ("format row cut", |p| p.put("taskchampion.format", b"", "x"), "taskchampion.format does not read"),
    ("later format", |p| p.put("taskchampion.format", b"", *b"\0\0\0\x09new"), "says version 9"),
    ("number of shards cut", |p| p.put("taskchampion.shards", b"", "x"), "taskchampion.shards does not read"),
    (
        "a client of another shard",
        |p| p.put("taskchampion.shards", b"", [1, 0, 100]),
        "client 00000000-0000-0000-0000-000000c11e27: belongs in shard ",
    ),
    (
        "client row cut",
        |p| p.alter("taskchampion.client", p.client, |row| row.truncate(row.len() - 1)),
        "does not read",
    ),
    ("client key cut", |p| p.put("taskchampion.client", b"short", "x"), "the key Key(short) does not read"),
    (
        "client row gone",
        |p| p.delete("taskchampion.client", p.client),
        "taskchampion.version: rows of client 00000000-0000-0000-0000-000000c11e27, which does not exist",
    ),
    (
        "latest version unknown",
        |p| p.alter("taskchampion.client", p.client, |row| row[1] ^= 1),
        "its latest version",
    ),
    (
        "latest set back",
        |p| {
            let before = p.chain[5];
            p.alter("taskchampion.client", p.client, |row| row[1..17].copy_from_slice(before.as_bytes()));
        },
        "7 rows of taskchampion.version, but its chain has 6 versions",
    ),
    (
        "versions miscounted",
        |p| p.alter("taskchampion.client", p.client, |row| row[40] += 1),
        "counts 8 versions, but its chain has 7",
    ),
    (
        "bytes miscounted",
        |p| p.alter("taskchampion.client", p.client, |row| row[48] ^= 1),
        "bytes of versions, but they have 20049",
    ),
    (
        "too many since the snapshot",
        |p| p.alter("taskchampion.client", p.client, |row| row[81] = 200),
        "counts more versions since its snapshot than it has",
    ),
    (
        "snapshot of an unknown version",
        |p| p.alter("taskchampion.client", p.client, |row| row[50] ^= 1),
        "which is not in its chain",
    ),
    ("version gone", |p| p.delete("taskchampion.version", p.pair(p.chain[2])), "is missing"),
    (
        "version cut",
        |p| p.alter("taskchampion.version", p.pair(p.chain[2]), |row| row.truncate(20)),
        "does not read",
    ),
    (
        "version of another id",
        |p| p.alter("taskchampion.version", p.pair(p.chain[2]), |row| row[1] ^= 1),
        "but its parent row says",
    ),
    (
        "version a byte short",
        |p| p.alter("taskchampion.version", p.pair(p.chain[2]), |row| row.truncate(row.len() - 1)),
        "counts 20049 bytes of versions, but they have 20048",
    ),
    (
        "parent row gone",
        |p| p.delete("taskchampion.parent", p.pair(p.chain[2])),
        "but its chain has 4 versions",
    ),
    (
        "parent row cut",
        |p| p.alter("taskchampion.parent", p.pair(p.chain[2]), |row| row.truncate(row.len() - 1)),
        "the parent row of",
    ),
    (
        "a chain that bites its tail",
        |p| {
            let last = p.chain[6];
            p.alter("taskchampion.parent", p.pair(p.chain[0]), |row| {
                row[1..].copy_from_slice(last.as_bytes());
            });
        },
        "its chain comes back to",
    ),
    (
        "a fork",
        |p| {
            let row = p.get("taskchampion.version", p.pair(p.chain[2]));
            p.put("taskchampion.version", p.pair(Uuid::from_u128(1)), row);
        },
        "8 rows of taskchampion.version, but its chain has 7 versions",
    ),
    (
        "a first chunk gone",
        |p| p.delete("taskchampion.chunk", [p.staged(), vec![0; 4]].concat()),
        "has no chunk 0",
    ),
    (
        "a chunk too short",
        |p| {
            p.alter("taskchampion.chunk", [p.staged(), vec![0, 0, 0, 1]].concat(), |row| {
                row.truncate(row.len() - 1);
            });
        },
        "has 19999 bytes in chunks, but 20000 are expected",
    ),
    (
        "a chunk too many",
        |p| p.put("taskchampion.chunk", [p.staged(), vec![0, 0, 0, 11]].concat(), "more"),
        "has 20004 bytes in chunks, but 20000 are expected",
    ),
    (
        "a value marked for removal",
        |p| p.put("taskchampion.pending", p.staged(), *b"d\0\0\0\0\0\0\0\0"),
        "is marked for removal",
    ),
    (
        "chunks of nobody",
        |p| p.put("taskchampion.chunk", [7; 20], "stray"),
        "chunks of 07070707-0707-0707-0707-070707070707, which nothing refers to",
    ),
    ("a chunk key cut", |p| p.put("taskchampion.chunk", [7; 9], "stray"), "does not read"),
    ("a pending key cut", |p| p.put("taskchampion.pending", [7; 9], "stray"), "does not read"),
    ("a deleting key cut", |p| p.put("taskchampion.deleting", [7; 9], "stray"), "does not read"),
    ("small snapshot gone", |p| p.delete("taskchampion.snapshot", p.other), "its snapshot is missing"),
    (
        "small snapshot cut",
        |p| p.alter("taskchampion.snapshot", p.other, |row| row.truncate(row.len() - 1)),
        "has 4 bytes of version",
    ),
    (
        "two snapshots",
        |p| p.put("taskchampion.snapshot", p.client, vec![1; 17]),
        "has a staged snapshot and also a row of taskchampion.snapshot",
    ),
];

#[test]
fn each_kind_of_damage_is_found() {
    for (what, damage, expected) in DAMAGES {
        let planted = Planted::new(Store::memory());
        damage(&planted);
        let findings = planted.report().findings;
        assert!(findings.iter().any(|finding| finding.contains(expected)), "{what}: {findings:#?}");
    }
    // Every chunk of the version, each by itself.
    for position in 0..11 {
        let planted = Planted::new(Store::memory());
        let key = [planted.staged(), u32::to_be_bytes(position).to_vec()].concat();
        planted.delete("taskchampion.chunk", key);
        assert_eq!(planted.report().findings.len(), 1, "chunk {position}");
    }
}

#[test]
fn any_single_row_that_vanishes_is_found_but_for_those_that_only_remember() {
    let planted = Planted::new(Store::memory());
    let pruned = planted.world.id();
    let chain = planted.world.chain(pruned, 4);
    planted.world.snapshot(pruned, chain[2], b"small");
    let now_ms = (START_S + 100) * 1_000 + DISCARDED_MS_MAX;
    let report = block_on(planted.world.taskchampion.prune(Some(pruned), START_S + 1, now_ms)).unwrap();
    assert_eq!(report.versions, 2);
    let row = [&[1][..], chain[3].as_bytes(), &START_S.to_be_bytes()].concat();
    planted.put("taskchampion.imported", planted.other, row);
    assert_eq!(planted.report().findings, Vec::<String>::new());
    let mut untold = Vec::new();
    for ((category, key), payload) in rows(&planted.world.store) {
        planted.delete(&category, &key);
        match category.as_str() {
            // They remember what happened to a client; it is as sound without them.
            "taskchampion.dropped" | "taskchampion.imported" => untold.push(category.clone()),
            _ => assert_ne!(planted.report().findings, Vec::<String>::new(), "{category}"),
        }
        planted.put(&category, &key, payload);
        assert_eq!(planted.report().findings, Vec::<String>::new());
    }
    assert_eq!(untold, ["taskchampion.dropped", "taskchampion.imported"]);
}

#[test]
fn a_damaged_client_can_be_deleted_and_a_damaged_mark_does_not_keep_a_server_from_starting() {
    let planted = Planted::new(Store::memory());
    planted.alter("taskchampion.client", planted.client, |row| row.truncate(20));
    planted.alter("taskchampion.version", planted.pair(planted.chain[1]), |row| row.truncate(20));
    planted.put("taskchampion.deleting", [7; 9], "stray");
    planted.put("taskchampion.client", [7; 9], "stray");
    assert!(block_on(planted.world.taskchampion.client(planted.client)).is_err());
    // The others are listed all the same, and those that cannot be read are among them.
    let clients = block_on(planted.world.taskchampion.clients()).unwrap();
    assert_eq!(
        clients.iter().map(|client| client.client).collect::<Vec<_>>(),
        [planted.client, planted.other]
    );
    let error = clients[0].error.as_deref().unwrap();
    assert!(error.contains("the row 00000000... of taskchampion.client is damaged"), "{error}");
    assert_eq!((clients[0].versions, clients[1].versions, &clients[1].error), (0, 2, &None));
    assert_eq!(block_on(planted.world.taskchampion.client_count()).unwrap(), 3);
    planted.delete("taskchampion.client", [7; 9]);
    assert!(block_on(planted.world.taskchampion.delete_client(planted.client)).unwrap());
    World::new(planted.world.store.clone());
    let findings = planted.report().findings;
    // What only the damaged row named is left, and named.
    assert_eq!(findings.len(), 2, "{findings:#?}");
    assert!(findings[0].contains("taskchampion.deleting") && findings[1].contains("which nothing refers to"));
}

#[test]
fn a_report_is_bounded() {
    let planted = Planted::new(Store::memory());
    for id in 0..=FINDINGS_MAX as u128 {
        planted.put("taskchampion.snapshot", (id << 8).to_be_bytes(), "x");
    }
    let findings = planted.report().findings;
    assert_eq!((findings.len(), findings[FINDINGS_MAX].as_str()), (FINDINGS_MAX + 1, "and 1 more"));
}

#[test]
fn a_store_that_is_being_written_to_is_sound_at_any_time() {
    for (_, store, _directory) in stores() {
        let planted = Planted::new(store);
        let (tenant, client, mut latest) = (planted.tenant.clone(), planted.client, planted.chain[6]);
        let done = Arc::new(AtomicBool::new(false));
        let writer = {
            let done = done.clone();
            std::thread::spawn(move || {
                let world = planted.world;
                for round in 0..60 {
                    latest = world.pushed(client, latest, &vec![1; if round % 3 == 0 { 9_000 } else { 9 }]);
                    world.snapshot(client, latest, &vec![2; if round % 2 == 0 { 9_000 } else { 9 }]);
                    let passing = world.id();
                    let version = world.pushed(passing, Uuid::nil(), &vec![3; 9_000]);
                    world.pushed(passing, version, b"small");
                    block_on(world.taskchampion.delete_client(passing)).unwrap();
                    block_on(world.taskchampion.maintain((world.now_s + 10_000) * 1_000)).unwrap();
                }
                done.store(true, Ordering::Release);
            })
        };
        let mut reports = 0;
        while !done.load(Ordering::Acquire) {
            let report = block_on(verify(&tenant)).unwrap();
            assert_eq!(report.findings, Vec::<String>::new());
            reports += 1;
        }
        writer.join().unwrap();
        assert!(reports > 0);
    }
}

#[test]
fn every_row_is_told_as_json() {
    let planted = Planted::new(Store::memory());
    planted.world.upload(planted.client, &[1; 10_000]);
    planted.put("taskchampion.deleting", Uuid::from_u128(9), [1, 0, 0, 0, 0, 0, 0, 0, 7]);
    let mut kinds = std::collections::BTreeSet::new();
    for ((category, key), payload) in rows(&planted.world.store) {
        let row = decode_row(category.as_bytes(), &key, &payload).unwrap();
        assert_eq!(row.get("damaged"), None, "{row}");
        kinds.insert(row["row"].as_str().unwrap().to_owned());
        let cut = payload.len().checked_sub(1).map(|length| &payload[..length]);
        assert!(decode_row(category.as_bytes(), &key, cut.unwrap_or_default()).is_some());
        assert_eq!(decode_row(category.as_bytes(), b"odd", &payload).unwrap()["damaged"], true, "{category}");
    }
    let expected =
        ["chunk", "client", "deleting", "format", "parent", "pending", "shards", "snapshot", "version"];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), expected);
    let key = [planted.client.as_bytes().as_slice(), planted.chain[5].as_bytes()].concat();
    let row = decode_row(b"taskchampion.version", &key, &planted.get("taskchampion.version", &key)).unwrap();
    assert_eq!((&row["version"], &row["bytes"]), (&planted.chain[6].to_string().into(), &4.into()));
    assert_eq!(
        (&row["parent"], &row["staged"]),
        (&planted.chain[5].to_string().into(), &serde_json::Value::Null)
    );
    for other in [&b"taskchampion.other"[..], b"taskchampion", b"sds.meta", b"", b"\xFF"] {
        assert_eq!(decode_row(other, b"", b""), None);
    }
}

#[test]
fn reports_and_infos_are_json() {
    let planted = Planted::new(Store::memory());
    let report = serde_json::to_value(planted.report()).unwrap();
    assert_eq!((&report["clients"], &report["findings"]), (&2.into(), &serde_json::json!([])));
    let client = block_on(planted.world.taskchampion.client(planted.client)).unwrap().unwrap();
    let client = serde_json::to_value(client).unwrap();
    assert_eq!(client["client"], planted.client.to_string());
    assert_eq!((&client["versions"], &client["snapshot"]["bytes"]), (&7.into(), &30_000.into()));
    let versions = block_on(planted.world.taskchampion.versions(planted.client)).unwrap();
    assert_eq!(serde_json::to_value(&versions[0]).unwrap()["parent"], Uuid::nil().to_string());
}
