//! A store that several processes share: what one of them begins the others leave alone, and what one acknowledges all of them see.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what the helpers of a test cannot have fails the test"
)]

mod common;

use std::sync::Barrier;
use std::thread;

use common::{Child, Odd, START_S, World};
use pollster::block_on;
use rusqlite::Connection;
use seabed_kv::{Batch, Durability, ErrorKind, KeyRange, Store};
use seabed_taskchampion::{
    AddVersion, Config, IMPORTING_MS_MAX, ORIGINAL_FILE, TaskChampion, shard_count, verify_in,
};
use uuid::Uuid;

const FORMAT: &[u8] = b"\0\0\0\x01seabed test";

fn open(store: &Store) -> Result<TaskChampion, seabed_kv::Error> {
    block_on(TaskChampion::open(store, Config::default()))
}

fn shard(number: u16) -> String {
    format!("taskchampion-{number:02}")
}

fn assert_sound(store: &Store) {
    for id in store.list().wait().unwrap() {
        let tenant = store.open(id.as_str()).wait().unwrap();
        let report = block_on(verify_in(store, &tenant)).unwrap();
        assert_eq!(report.findings, Vec::<String>::new());
    }
}

#[test]
fn whoever_opens_it_first_or_at_once_there_are_sixty_four_shards() {
    for _ in 0..20 {
        let [one, other, inner] = Odd::shared();
        let barrier = Barrier::new(2);
        thread::scope(|scope| {
            for store in [&one, &other] {
                scope.spawn(|| {
                    barrier.wait();
                    open(store).unwrap();
                });
            }
        });
        assert_eq!(inner.list().wait().unwrap().len(), 64);
        assert_eq!(block_on(shard_count(&one)).unwrap(), Some(64));
        assert_sound(&other);
    }
    // What one process has alone begins with one.
    assert_eq!(block_on(shard_count(&Store::memory())).unwrap(), None);
    let store = World::new(Store::memory()).store;
    assert_eq!(block_on(shard_count(&store)).unwrap(), Some(1));
}

#[test]
fn making_the_shards_goes_on_where_it_was_cut_off_but_not_over_clients() {
    let [one, other, inner] = Odd::shared();
    for number in 3..11 {
        let tenant = inner.open(shard(number)).wait().unwrap();
        if number > 3 {
            tenant.put("taskchampion.format", b"", FORMAT).wait().unwrap();
        }
    }
    open(&one).unwrap();
    assert_eq!(inner.list().wait().unwrap().len(), 64);
    assert_sound(&one);

    // The first shard was lost, and with it its clients: others have some.
    let tenant = inner.open(shard(0)).wait().unwrap();
    let mut batch = Batch::new();
    batch.delete_prefix("taskchampion.format", b"").delete_prefix("taskchampion.shards", b"");
    tenant.apply(batch, Durability::Durable).wait().unwrap();
    inner.open(shard(7)).wait().unwrap().put("taskchampion.client", [7; 16], *b"somebody").wait().unwrap();
    let error = open(&other).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("taskchampion-00 is missing"), "{error}");
}

#[test]
fn an_upload_in_progress_survives_the_start_and_the_tidying_of_another_process() {
    let [one, other, _] = Odd::shared();
    let world = World::new(one);
    let client = world.id();
    let mut upload = world.taskchampion.upload(client, world.id(), world.now_s * 1_000);
    block_on(upload.write(&vec![7; 300_000])).unwrap();
    let second = World::new(other);
    block_on(second.taskchampion.maintain(world.now_s * 1_000 + 60_000)).unwrap();
    block_on(upload.write(&vec![7; 300_000])).unwrap();
    let upload = block_on(upload.finish()).unwrap();
    let version = world.id();
    let added = block_on(world.taskchampion.add_version(upload, Uuid::nil(), version, world.now_s));
    assert!(matches!(added.unwrap().release(), AddVersion::Added { .. }));
    assert_eq!(second.child(client, Uuid::nil()), Child::Found(version, vec![7; 600_000]));
}

#[test]
fn pushes_through_two_processes_make_one_chain_that_both_see_at_once() {
    let [one, other, inner] = Odd::shared();
    let worlds = [World::new(one), World::new(other)];
    for number in 0..100 {
        let client = Uuid::from_u128(number);
        let mut latest = Uuid::nil();
        for push in 0..4 {
            let world = &worlds[push % 2];
            // Ids are counted from the same number in both.
            let (upload, version) = (world.upload(client, b"x"), Uuid::new_v4());
            let added = block_on(world.taskchampion.add_version(upload, latest, version, world.now_s));
            assert!(matches!(added.unwrap().release(), AddVersion::Added { .. }));
            let beside = &worlds[(push + 1) % 2];
            assert_eq!(beside.child(client, latest), Child::Found(version, b"x".to_vec()));
            assert!(
                matches!(beside.push(client, latest, b"y"), AddVersion::Conflict { latest } if latest == version)
            );
            latest = version;
        }
    }
    assert_sound(&inner);
}

/// A database of the original with one client of 600 versions, which takes more than one step to import.
fn original(directory: &std::path::Path) -> std::path::PathBuf {
    let file = directory.join(ORIGINAL_FILE);
    let connection = Connection::open(&file).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE clients (client_id STRING PRIMARY KEY, latest_version_id STRING, snapshot_version_id STRING,
                versions_since_snapshot INTEGER, snapshot_timestamp INTEGER, snapshot BLOB);
            CREATE TABLE versions (version_id STRING PRIMARY KEY, client_id STRING, parent_version_id STRING,
                history_segment BLOB);
            BEGIN",
        )
        .unwrap();
    let id = |number: u128| Uuid::from_u128(number).to_string();
    for version in 1..=600 {
        let parameters = (id(version), id(7 << 64), id(version - 1), b"bytes");
        connection.execute("INSERT INTO versions VALUES (?1, ?2, ?3, ?4)", parameters).unwrap();
    }
    let client = (id(7 << 64), id(600));
    connection.execute("INSERT INTO clients VALUES (?1, ?2, NULL, NULL, NULL, NULL)", client).unwrap();
    connection.execute_batch("COMMIT").unwrap();
    file
}

#[test]
fn an_import_goes_on_beside_another_process_and_what_a_dead_one_left_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let file = original(directory.path());
    let [one, other, inner] = Odd::shared();
    let worlds = [World::new(one), World::new(other)];
    let beside = |now_ms| {
        let mut ticks = 0;
        let import = worlds[0].taskchampion.import_original(
            &file,
            || START_S,
            |_| {
                ticks += 1;
                if ticks == 500 {
                    block_on(worlds[1].taskchampion.maintain(now_ms)).unwrap();
                }
            },
        );
        block_on(import)
    };
    // It took so long that it counts as dead: nothing is left of it, least of all a client of which a part is missing.
    let error = beside(START_S * 1_000 + IMPORTING_MS_MAX + 1_000).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert_eq!(block_on(worlds[1].taskchampion.client_count()).unwrap(), 0);
    block_on(worlds[1].taskchampion.maintain(START_S * 1_000)).unwrap();
    for number in 0..64 {
        let tenant = inner.open(shard(number)).wait().unwrap();
        for category in ["version", "parent", "deleting"] {
            let rows = tenant.count(format!("taskchampion.{category}"), &KeyRange::all()).wait().unwrap();
            assert_eq!(rows, 0, "{category} in shard {number}");
        }
    }
    // An hour is not over: it goes on.
    assert_eq!(beside(START_S * 1_000 + 60_000).unwrap().written.versions, 600);
    assert_sound(&inner);
}

/// A long import has its hour for each client, and not for all of them.
#[test]
fn an_import_that_takes_hours_is_not_taken_for_dead() {
    let directory = tempfile::tempdir().unwrap();
    let file = original(directory.path());
    let database = Connection::open(&file).unwrap();
    let earlier = Uuid::from_u128(6 << 64).to_string();
    database
        .execute("INSERT INTO versions VALUES (?1, ?2, ?3, x'78')", [&id_of(9_000), &earlier, &id_of(0)])
        .unwrap();
    database
        .execute("INSERT INTO clients VALUES (?1, ?2, NULL, NULL, NULL, NULL)", [&earlier, &id_of(9_000)])
        .unwrap();
    let [one, other, inner] = Odd::shared();
    let worlds = [World::new(one), World::new(other)];
    let (mut asked, mut ticks) = (0, 0);
    let clock = || {
        asked += 1;
        // The second client begins two hours after the first one.
        if asked == 1 { START_S } else { START_S + 7_200 }
    };
    let import = worlds[0].taskchampion.import_original(&file, clock, |_| {
        ticks += 1;
        if ticks == 500 {
            block_on(worlds[1].taskchampion.maintain((START_S + 7_260) * 1_000)).unwrap();
        }
    });
    assert_eq!(block_on(import).unwrap().written.versions, 601);
    assert_sound(&inner);
}

fn id_of(number: u128) -> String {
    Uuid::from_u128(number).to_string()
}

#[test]
fn an_import_begins_again_at_once_where_a_dead_one_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let file = original(directory.path());
    let [one, other, inner] = Odd::shared();
    let (first, second) = (World::new(one), World::new(other));
    let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut ticks = 0;
        let import = first.taskchampion.import_original(
            &file,
            || START_S,
            |_| {
                ticks += 1;
                assert!(ticks < 500, "killed");
            },
        );
        block_on(import)
    }));
    assert!(died.is_err());
    let report = block_on(second.taskchampion.import_original(&file, || START_S + 1, |_| {})).unwrap();
    assert_eq!((report.written.versions, report.refused), (600, 0));
    assert_sound(&inner);
}
