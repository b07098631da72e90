//! The protocol's rules, sentence by sentence, over each backend.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what the helpers of a test cannot have fails the test"
)]

mod common;

use std::sync::Arc;

use common::{Child, Current, DAY_S, Odd, START_S, World, assert_sound, cost, rows, stores};
use pollster::block_on;
use seabed_kv::{Batch, Durability, ErrorKind, Store};
use seabed_taskchampion::{
    AddSnapshot, AddVersion, Config, DISCARDED_MS_MAX, Ignored, TaskChampion, Urgency, verify, verify_in,
};
use uuid::Uuid;

/// Runs a story over each backend, and checks that it left a sound store.
fn each_store(story: impl Fn(World)) {
    for (_, store, _directory) in stores() {
        story(World::new(store.clone()));
        assert_sound(&store);
    }
}

#[test]
fn no_client_no_child_no_snapshot() {
    each_store(|world| {
        let client = world.id();
        assert_eq!(world.child(client, Uuid::nil()), Child::NoSuchClient);
        assert_eq!(world.current_snapshot(client), Current::NoSuchClient);
        assert_eq!(world.snapshot(client, world.id(), b"snapshot"), AddSnapshot::NoSuchClient);
        // None of these created it.
        assert_eq!(block_on(world.taskchampion.clients()).unwrap(), []);
    });
}

#[test]
fn a_child_is_found_up_to_date_or_gone() {
    each_store(|world| {
        let client = world.id();
        let chain = world.chain(client, 3);
        assert_eq!(world.child(client, Uuid::nil()), Child::Found(chain[0], b"version 0".to_vec()));
        assert_eq!(world.child(client, chain[0]), Child::Found(chain[1], b"version 1".to_vec()));
        assert_eq!(world.child(client, chain[1]), Child::Found(chain[2], b"version 2".to_vec()));
        assert_eq!(world.child(client, chain[2]), Child::UpToDate);
        assert_eq!(world.child(client, world.id()), Child::Gone);
        // Clients share nothing.
        let other = world.id();
        world.chain(other, 1);
        assert_eq!(world.child(other, chain[0]), Child::Gone);
    });
}

#[test]
fn a_first_push_takes_any_parent_and_then_nil_is_gone() {
    each_store(|world| {
        let (client, base) = (world.id(), world.id());
        let version = world.pushed(client, base, b"moved here");
        assert_eq!(world.child(client, base), Child::Found(version, b"moved here".to_vec()));
        assert_eq!(world.child(client, Uuid::nil()), Child::Gone);
        assert_eq!(world.child(client, version), Child::UpToDate);
    });
}

#[test]
fn a_push_that_is_not_onto_the_latest_is_a_conflict_and_changes_nothing() {
    each_store(|world| {
        let client = world.id();
        let chain = world.chain(client, 2);
        let before = rows(&world.store);
        for parent in [Uuid::nil(), chain[0], world.id()] {
            assert_eq!(world.push(client, parent, b"late"), AddVersion::Conflict { latest: chain[1] });
        }
        assert_eq!(rows(&world.store), before);
        // A large one leaves nothing but chunks that the next sweep takes: nobody can be reading them.
        let late = world.push(client, chain[0], &vec![7; 100_000]);
        assert_eq!(late, AddVersion::Conflict { latest: chain[1] });
        assert_sound(&world.store);
        // What was dropped unawaited is seen from the next flush on.
        world.store.tenant("taskchampion-00").unwrap().flush().wait().unwrap();
        assert_eq!(block_on(world.taskchampion.maintain(world.now_s * 1_000)).unwrap(), 1);
        assert_eq!(rows(&world.store), before);
    });
}

#[test]
fn a_push_creates_its_client_only_where_that_is_allowed() {
    let world = World::with(Store::memory(), Config { create_clients: false, ..Config::default() });
    let before = rows(&world.store);
    assert_eq!(world.push(world.id(), Uuid::nil(), b"first"), AddVersion::NoSuchClient);
    assert_eq!(rows(&world.store), before);

    let world = World::with(world.store, Config::default());
    let client = world.id();
    let version = world.pushed(client, Uuid::nil(), b"first");
    // A client that is there may push, whatever the switch says.
    let closed = World::with(world.store, Config { create_clients: false, ..Config::default() });
    assert!(matches!(closed.push(client, version, b"second"), AddVersion::Added { .. }));
}

#[test]
fn urgency_is_that_of_the_row_before_the_push() {
    each_store(|mut world| {
        let urgency = |added| match added {
            AddVersion::Added { version, urgency } => (version, urgency),
            other => panic!("not added: {other:?}"),
        };
        let client = world.id();
        let (mut latest, first) = urgency(world.push(client, Uuid::nil(), b"1"));
        assert_eq!(first, Urgency::High, "there is no snapshot");
        assert_eq!(world.snapshot(client, latest, b"snapshot"), AddSnapshot::Kept);
        // The first hundred pushes after a snapshot ask for nothing, the 101st says low, the 151st high.
        for number in 1..=151 {
            let (version, found) = urgency(world.push(client, latest, b"more"));
            latest = version;
            let expected = match number {
                1..=100 => Urgency::None,
                101..=150 => Urgency::Low,
                _ => Urgency::High,
            };
            assert_eq!(found, expected, "push {number}");
        }
        assert_eq!(world.snapshot(client, latest, b"snapshot"), AddSnapshot::Kept);
        for (days, expected) in
            [(0, Urgency::None), (14, Urgency::Low), (21, Urgency::High), (50, Urgency::High)]
        {
            world.now_s = START_S + days * DAY_S;
            let (version, found) = urgency(world.push(client, latest, b"later"));
            latest = version;
            assert_eq!(found, expected, "after {days} days");
        }
    });
}

#[test]
fn fifty_versions_are_many_where_thirty_are_the_target() {
    let world = World::with(Store::memory(), Config { snapshot_versions: 30, ..Config::default() });
    let client = world.id();
    let mut latest = world.pushed(client, Uuid::nil(), b"1");
    assert_eq!(world.snapshot(client, latest, b"snapshot"), AddSnapshot::Kept);
    for _ in 0..50 {
        latest = world.pushed(client, latest, b"more");
    }
    let last = world.push(client, latest, b"last");
    assert!(matches!(last, AddVersion::Added { urgency: Urgency::High, .. }));
}

#[test]
fn a_snapshot_is_kept_of_the_newest_five_versions() {
    for back in 0..10 {
        each_store(|world| {
            let client = world.id();
            let chain = world.chain(client, 10);
            let version = chain[9 - back];
            let (expected, found) = if back < 5 {
                (AddSnapshot::Kept, Current::Found(version, b"snapshot".to_vec()))
            } else {
                (AddSnapshot::Ignored(Ignored::TooOldOrUnknown), Current::NoSnapshot)
            };
            assert_eq!(world.snapshot(client, version, b"snapshot"), expected, "{back} versions back");
            assert_eq!(world.current_snapshot(client), found);
        });
    }
}

#[test]
fn a_snapshot_of_the_first_versions_base_counts_among_the_five() {
    // A replica that moved here may upload what it had before its first push.
    for (versions, kept) in [(1, true), (4, true), (5, false)] {
        let world = World::new(Store::memory());
        let (client, base) = (world.id(), world.id());
        let mut latest = world.pushed(client, base, b"first");
        for _ in 1..versions {
            latest = world.pushed(client, latest, b"more");
        }
        let answer = world.snapshot(client, base, b"snapshot");
        assert_eq!(answer == AddSnapshot::Kept, kept, "{versions} versions: {answer:?}");
        assert_sound(&world.store);
    }
}

#[test]
fn snapshots_that_are_ignored_change_nothing() {
    each_store(|world| {
        let client = world.id();
        let chain = world.chain(client, 4);
        let unknown = |world: &World, version| world.snapshot(client, version, b"other");
        let before = rows(&world.store);
        for version in [Uuid::nil(), world.id()] {
            let ignored = AddSnapshot::Ignored(Ignored::TooOldOrUnknown);
            assert_eq!(unknown(&world, version), ignored);
        }
        assert_eq!(rows(&world.store), before);
        assert_eq!(world.snapshot(client, chain[2], b"snapshot"), AddSnapshot::Kept);
        let before = rows(&world.store);
        // The first one of a version wins; the snapshot never goes back; below it nothing is looked for.
        assert_eq!(unknown(&world, chain[2]), AddSnapshot::Ignored(Ignored::SameVersion));
        assert_eq!(unknown(&world, chain[1]), AddSnapshot::Ignored(Ignored::Older));
        assert_eq!(unknown(&world, world.id()), AddSnapshot::Ignored(Ignored::Older));
        assert_eq!(rows(&world.store), before);
        assert_eq!(world.current_snapshot(client), Current::Found(chain[2], b"snapshot".to_vec()));
        assert_eq!(world.snapshot(client, chain[3], b"newer"), AddSnapshot::Kept);
        assert_eq!(world.current_snapshot(client), Current::Found(chain[3], b"newer".to_vec()));
    });
}

#[test]
fn a_client_with_one_version_keeps_a_snapshot_of_that_alone() {
    let world = World::new(Store::memory());
    let client = world.id();
    let version = world.pushed(client, Uuid::nil(), b"only");
    assert_eq!(world.current_snapshot(client), Current::NoSnapshot);
    assert_eq!(world.snapshot(client, Uuid::nil(), b"x"), AddSnapshot::Ignored(Ignored::TooOldOrUnknown));
    assert_eq!(world.snapshot(client, version, b"x"), AddSnapshot::Kept);
}

#[test]
fn versions_since_counts_from_the_upload_not_from_the_version() {
    each_store(|mut world| {
        let client = world.id();
        let chain = world.chain(client, 6);
        world.now_s += 5;
        assert_eq!(world.snapshot(client, chain[1], b"snapshot"), AddSnapshot::Kept);
        let info = block_on(world.taskchampion.client(client)).unwrap().unwrap().snapshot.unwrap();
        assert_eq!((info.version, info.versions_since, info.bytes), (chain[1], 0, 8));
        assert_eq!(info.received_unix_s, START_S + 5);
        world.pushed(client, chain[5], b"after");
        let info = block_on(world.taskchampion.client(client)).unwrap().unwrap();
        assert_eq!(info.snapshot.unwrap().versions_since, 1);
        assert_eq!((info.versions, info.version_bytes), (7, 6 * 9 + 5));
        assert_eq!((info.created_unix_s, info.last_push_unix_s), (START_S, START_S + 5));
    });
}

#[test]
fn values_of_every_size_come_back_whole() {
    each_store(|world| {
        let limit = world.store.tenant("taskchampion-00").unwrap().inline_limit();
        let (client, mut latest) = (world.id(), Uuid::nil());
        for size in [0, 1, limit - 33, limit - 32, limit - 31, limit, limit + 1, 262_144, 262_145, 3_000_000]
        {
            let bytes: Vec<u8> = (0..size).map(|position| u8::try_from(position % 251).unwrap()).collect();
            let version = world.pushed(client, latest, &bytes);
            assert!(world.child(client, latest) == Child::Found(version, bytes.clone()), "version of {size}");
            latest = version;
            assert_eq!(world.snapshot(client, latest, &bytes), AddSnapshot::Kept);
            assert!(world.current_snapshot(client) == Current::Found(latest, bytes), "snapshot of {size}");
            assert_sound(&world.store);
        }
        let versions = block_on(world.taskchampion.versions(client)).unwrap();
        assert_eq!(versions.len(), 10);
        assert!(versions.windows(2).all(|pair| pair[1].parent == pair[0].version));
        assert_eq!(versions[9].bytes, 3_000_000);
        // The snapshots that were replaced stay for their readers, and go.
        let swept = block_on(world.taskchampion.maintain(world.now_s * 1_000 + DISCARDED_MS_MAX)).unwrap();
        assert_eq!(swept, 0);
        let swept =
            block_on(world.taskchampion.maintain(world.now_s * 1_000 + DISCARDED_MS_MAX + 1)).unwrap();
        assert!(swept >= 4, "{swept}");
        assert!(!rows(&world.store).keys().any(|(category, _)| category == "taskchampion.pending"));
    });
}

#[test]
fn a_version_id_that_is_not_fresh_is_an_error() {
    each_store(|world| {
        let client = world.id();
        let chain = world.chain(client, 2);
        let before = rows(&world.store);
        for id in [Uuid::nil(), chain[1], chain[0]] {
            let upload = world.upload(client, b"again");
            let added = block_on(world.taskchampion.add_version(upload, chain[1], id, world.now_s));
            assert!(added.is_err(), "{id}");
        }
        assert_eq!(rows(&world.store), before);
    });
}

#[test]
fn four_threads_add_four_hundred_versions_and_one_chain() {
    each_store(|world| {
        let (client, world) = (world.id(), Arc::new(world));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let world = world.clone();
                std::thread::spawn(move || {
                    let mut added = Vec::new();
                    while added.len() < 100 {
                        let info = block_on(world.taskchampion.client(client)).unwrap();
                        let latest = info.and_then(|info| info.latest_version).unwrap_or_default();
                        if let AddVersion::Added { version, .. } = world.push(client, latest, b"raced") {
                            added.push(version);
                        }
                    }
                    added
                })
            })
            .collect();
        let mut added: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let versions = block_on(world.taskchampion.versions(client)).unwrap();
        assert_eq!(versions.len(), 400);
        assert_eq!(block_on(world.taskchampion.client(client)).unwrap().unwrap().versions, 400);
        let mut chain: Vec<_> = versions.iter().map(|version| version.version).collect();
        chain.sort();
        added.sort();
        assert_eq!(chain, added);
    });
}

#[test]
fn of_two_first_pushes_at_once_one_creates_the_client() {
    each_store(|world| {
        let world = Arc::new(world);
        for _ in 0..20 {
            let client = world.id();
            let push = |bytes: &'static [u8]| {
                let world = world.clone();
                std::thread::spawn(move || world.push(client, Uuid::nil(), bytes))
            };
            let answers = [push(b"one"), push(b"two")].map(|thread| thread.join().unwrap());
            let added = |answer: &AddVersion| matches!(answer, AddVersion::Added { .. });
            assert_eq!(answers.iter().filter(|answer| added(answer)).count(), 1, "{answers:?}");
        }
    });
}

#[test]
fn snapshots_and_pushes_race_without_losing_either() {
    each_store(|world| {
        let (client, world) = (world.id(), Arc::new(world));
        let first = world.pushed(client, Uuid::nil(), b"first");
        let pusher = {
            let world = world.clone();
            std::thread::spawn(move || {
                let mut latest = first;
                for _ in 0..200 {
                    latest = world.pushed(client, latest, b"more");
                }
            })
        };
        let mut kept = 0;
        while !pusher.is_finished() {
            let latest =
                block_on(world.taskchampion.client(client)).unwrap().unwrap().latest_version.unwrap();
            kept += u32::from(world.snapshot(client, latest, &[9; 5_000]) == AddSnapshot::Kept);
        }
        pusher.join().unwrap();
        assert_eq!(block_on(world.taskchampion.versions(client)).unwrap().len(), 201);
        assert_eq!(kept > 0, (world.current_snapshot(client) != Current::NoSnapshot));
    });
}

#[test]
fn a_push_costs_one_read_and_one_durable_batch_whatever_there_is() {
    let (store, oddities) = Odd::store();
    let world = World::new(store);
    let push = |client, parent| cost(&oddities, || world.pushed(client, parent, b"small"));
    let (_, first) = push(world.id(), Uuid::nil());
    assert_eq!((first.reads, first.read, first.applied, first.durable), (1, 0, 1, 1));
    // Of snapshots that are kept in the same way, one byte and two thousand, five thousand and a million.
    for snapshots in [[1, 1_900], [5_000, 1_000_000]] {
        let costs = snapshots.map(|size| {
            let client = world.id();
            let latest = world.pushed(client, Uuid::nil(), b"small");
            assert_eq!(world.snapshot(client, latest, &vec![1; size]), AddSnapshot::Kept);
            let (latest, after_snapshot) = push(client, latest);
            assert_eq!((after_snapshot.reads, after_snapshot.applied, after_snapshot.durable), (1, 1, 1));
            assert!(after_snapshot.read < 150 && after_snapshot.written < 1_000, "{after_snapshot:?}");
            let mut last = latest;
            for _ in 0..300 {
                last = world.pushed(client, last, b"more");
            }
            assert_eq!(push(client, last).1, after_snapshot, "after a long history");
            after_snapshot
        });
        assert_eq!(costs[0], costs[1], "snapshots of {snapshots:?} bytes");
    }
    for _ in 0..200 {
        world.chain(world.id(), 2);
    }
    assert_eq!(push(world.id(), Uuid::nil()).1, first, "the first push of another client");
}

#[test]
fn the_first_sync_of_a_replica_costs_the_same_whatever_there_is() {
    let (store, oddities) = Odd::store();
    let world = World::new(store);
    let client = world.id();
    let chain = world.chain(client, 2);
    world.snapshot(client, chain[1], b"snapshot");
    let stranger = world.id();
    let sync = || {
        let (snapshot, of_snapshot) = cost(&oddities, || world.current_snapshot(client));
        assert_eq!(snapshot, Current::Found(chain[1], b"snapshot".to_vec()));
        let (child, of_child) = cost(&oddities, || world.child(client, Uuid::nil()));
        assert_eq!(child, Child::Found(chain[0], b"version 0".to_vec()));
        let (child, of_end) = cost(&oddities, || world.child(client, chain[1]));
        assert_eq!(child, Child::UpToDate);
        let (child, of_nothing) = cost(&oddities, || world.child(stranger, Uuid::nil()));
        assert_eq!(child, Child::NoSuchClient);
        [of_snapshot, of_child, of_end, of_nothing]
    };
    let alone = sync();
    assert_eq!(alone.map(|cost| (cost.reads, cost.applied)), [(2, 0), (2, 0), (2, 0), (1, 0)]);
    // Among many clients, each with versions onto nil and a snapshot.
    for _ in 0..300 {
        let other = world.id();
        let chain = world.chain(other, 3);
        world.snapshot(other, chain[2], &[1; 1_000]);
    }
    assert_eq!(sync(), alone);
}

#[test]
fn different_clients_share_nothing_and_run_at_once() {
    each_store(|world| {
        let world = Arc::new(world);
        let threads: Vec<_> = (0..8_u8)
            .map(|number| {
                let (world, client) = (world.clone(), world.id());
                std::thread::spawn(move || {
                    let (mut latest, mut chain) = (Uuid::nil(), Vec::new());
                    for round in 0..40_usize {
                        // Never a conflict, and never another's bytes; some of them in chunks.
                        let bytes = vec![number; if round % 10 == 0 { 5_000 } else { round }];
                        let version = world.pushed(client, latest, &bytes);
                        assert!(world.child(client, latest) == Child::Found(version, bytes));
                        latest = version;
                        chain.push(version);
                    }
                    assert_eq!(world.snapshot(client, latest, &[number; 9]), AddSnapshot::Kept);
                    (client, number, chain)
                })
            })
            .collect();
        for thread in threads {
            let (client, number, chain) = thread.join().unwrap();
            let versions = block_on(world.taskchampion.versions(client)).unwrap();
            assert_eq!(versions.iter().map(|version| version.version).collect::<Vec<_>>(), chain);
            assert_eq!(world.current_snapshot(client), Current::Found(chain[39], vec![number; 9]));
        }
    });
    // A push that is held up anywhere holds up nobody else's, and is not disturbed.
    let mut held_up = 0;
    for times in 1.. {
        let (store, oddities) = Odd::store();
        let world = World::new(store);
        let (slow, quick) = (world.id(), world.id());
        let (upload, version) = (world.upload(slow, b"slow"), world.id());
        oddities.lock().unwrap().pends = true;
        let mut push = Box::pin(world.taskchampion.add_version(upload, Uuid::nil(), version, world.now_s));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        if (0..times).any(|_| push.as_mut().poll(&mut context).is_ready()) {
            break;
        }
        held_up += 1;
        oddities.lock().unwrap().pends = false;
        let chain = world.chain(quick, 3);
        assert_eq!(world.snapshot(quick, chain[2], b"snapshot"), AddSnapshot::Kept);
        assert_eq!(world.child(quick, chain[2]), Child::UpToDate);
        let (answer, rest) = cost(&oddities, || block_on(push).unwrap().release());
        assert!(matches!(answer, AddVersion::Added { version: added, .. } if added == version));
        assert!(rest.reads == 0 && rest.applied <= 1, "it did not begin anew: {rest:?}");
        assert_eq!(world.child(slow, Uuid::nil()), Child::Found(version, b"slow".to_vec()));
    }
    assert!(held_up > 1, "{held_up}");
}

#[test]
fn deleting_a_client_leaves_nothing_of_it() {
    each_store(|world| {
        let (client, other) = (world.id(), world.id());
        let chain = world.chain(other, 2);
        world.snapshot(other, chain[1], &vec![2; 30_000]);
        let before = rows(&world.store);
        let chain = world.chain(client, 600);
        let large = world.pushed(client, chain[599], &vec![1; 3_000_000]);
        world.snapshot(client, large, &vec![2; 100_000]);
        assert!(block_on(world.taskchampion.delete_client(client)).unwrap());
        assert!(!block_on(world.taskchampion.delete_client(client)).unwrap());
        assert_eq!(rows(&world.store), before);
        assert_eq!(world.child(client, Uuid::nil()), Child::NoSuchClient);
        assert_eq!(block_on(world.taskchampion.versions(client)).unwrap(), []);
        // It may come back, onto the version that its replicas have.
        world.pushed(client, large, b"again");
        assert_eq!(world.child(client, chain[0]), Child::Gone);
    });
}

#[test]
fn a_store_is_opened_again_with_everything_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("data");
    let store = Store::sqlite(&root).unwrap();
    let world = World::new(store.clone());
    let client = world.id();
    let chain = world.chain(client, 5);
    world.snapshot(client, chain[4], &vec![1; 200_000]);
    let before = rows(&store);
    drop(world);
    store.close().wait().unwrap();
    drop(store);

    let store = Store::sqlite(&root).unwrap();
    let world = World::new(store.clone());
    assert_eq!(rows(&store), before);
    assert_eq!(world.child(client, chain[3]), Child::Found(chain[4], b"version 4".to_vec()));
    assert_eq!(world.current_snapshot(client), Current::Found(chain[4], vec![1; 200_000]));
    assert_sound(&store);
}

#[test]
fn data_of_a_later_version_is_refused_with_both_versions_named() {
    let store = Store::memory();
    let tenant = store.open("taskchampion-00").wait().unwrap();
    let row = [&2_u32.to_be_bytes()[..], b"seabed 9.8.7"].concat();
    tenant.put("taskchampion.format", b"", row).wait().unwrap();
    let error = block_on(TaskChampion::open(&store, Config::default())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let text = error.to_string();
    assert!(
        text.contains("seabed 9.8.7") && text.contains(concat!("seabed ", env!("CARGO_PKG_VERSION"))),
        "{text}"
    );

    for damage in [&b""[..], b"\0", b"\0\0\0\0seabed"] {
        tenant.put("taskchampion.format", b"", damage).wait().unwrap();
        let error = block_on(TaskChampion::open(&store, Config::default())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn a_new_store_says_what_it_is_and_how_many_shards_it_has() {
    each_store(|world| {
        let rows = rows(&world.store);
        let expected = [
            (
                "taskchampion.format",
                [&1_u32.to_be_bytes()[..], b"seabed ", env!("CARGO_PKG_VERSION").as_bytes()].concat(),
            ),
            ("taskchampion.shards", vec![1, 0, 1]),
        ];
        let found: Vec<_> =
            rows.iter().map(|((category, _), row)| (category.as_str(), row.clone())).collect();
        assert_eq!(found, expected);
    });
}

#[test]
fn the_number_of_shards_is_read_back_and_clients_spread_over_them() {
    let store = Store::memory();
    let tenant = store.open("taskchampion-00").wait().unwrap();
    let mut batch = Batch::new();
    batch.put("taskchampion.format", b"", [&1_u32.to_be_bytes()[..], b"seabed test"].concat()).put(
        "taskchampion.shards",
        b"",
        vec![1, 0, 4],
    );
    tenant.apply(batch, Durability::Durable).wait().unwrap();
    for number in 1..4 {
        let id = format!("taskchampion-{number:02}");
        let error = block_on(TaskChampion::open(&store, Config::default())).unwrap_err();
        assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains(&id), "{error}");
        assert!(store.tenant(&id).is_err(), "it was not made in the missing one's place");
        let report = block_on(verify_in(&store, &tenant)).unwrap();
        assert!(report.findings[0].contains(&id) && report.findings.len() == 4 - number, "{report:?}");
        let other = store.open(&id).wait().unwrap();
        let error = block_on(TaskChampion::open(&store, Config::default())).unwrap_err();
        assert!(
            error.kind() == ErrorKind::Corrupt && error.to_string().contains(&id),
            "an empty one: {error}"
        );
        let row = [&1_u32.to_be_bytes()[..], b"seabed test"].concat();
        other.put("taskchampion.format", b"", row).wait().unwrap();
    }
    let world = World::new(store.clone());
    let clients: Vec<_> = (0..40).map(|_| world.id()).collect();
    for client in &clients {
        world.chain(*client, 2);
    }
    let mut found: Vec<_> =
        block_on(world.taskchampion.clients()).unwrap().into_iter().map(|client| client.client).collect();
    found.sort();
    assert_eq!(found, clients);
    assert_eq!(block_on(world.taskchampion.client_count()).unwrap(), 40);
    let mut examined = 0;
    for number in 0..4 {
        let tenant = store.tenant(format!("taskchampion-{number:02}")).unwrap();
        let report = block_on(verify(&tenant)).unwrap();
        assert!(report.findings.is_empty() && report.clients > 0, "shard {number}: {report:?}");
        assert_eq!(block_on(verify_in(&store, &tenant)).unwrap(), report);
        examined += report.clients;
    }
    assert_eq!(examined, 40);
    assert!(store.tenant("taskchampion-04").is_err());

    // Clients in another shard than the one in which they are looked for.
    tenant.put("taskchampion.shards", b"", vec![1, 0, 3]).wait().unwrap();
    for number in 1..4 {
        let tenant = store.tenant(format!("taskchampion-{number:02}")).unwrap();
        let findings = block_on(verify_in(&store, &tenant)).unwrap().findings;
        assert!(findings.iter().any(|finding| finding.contains("belongs in shard")), "{findings:?}");
        assert_eq!(findings.iter().any(|finding| finding.contains("none of the 3 shards")), number == 3);
    }
    let second = store.tenant("taskchampion-01").unwrap();
    second.put("taskchampion.shards", b"", vec![1, 0, 3]).wait().unwrap();
    let findings = block_on(verify(&second)).unwrap().findings;
    assert_eq!(findings, ["a row of taskchampion.shards, which belongs in the first shard"]);

    tenant.put("taskchampion.shards", b"", vec![1, 0, 0]).wait().unwrap();
    let error = block_on(TaskChampion::open(&store, Config::default())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

/// Of one shard nothing is left that could tell: whoever makes it remembers that (the program's tenant `seabed`).
#[test]
fn a_store_of_many_shards_without_its_first_one_is_refused() {
    let [one, other, inner] = Odd::shared();
    let world = World::new(one);
    for _ in 0..4 {
        world.chain(world.id(), 2);
    }
    inner.drop_tenant("taskchampion-00").wait().unwrap();
    let second = inner.open("taskchampion-01").wait().unwrap();
    let findings = block_on(verify_in(&inner, &second)).unwrap().findings;
    assert!(findings.len() == 1 && findings[0].contains("taskchampion-00 is missing"), "{findings:?}");
    for _ in 0..2 {
        let error = block_on(TaskChampion::open(&other, Config::default())).unwrap_err();
        assert!(
            error.kind() == ErrorKind::Corrupt && error.to_string().contains("taskchampion-00"),
            "{error}"
        );
    }
}

#[test]
fn futures_can_move_between_threads() {
    fn assert_send<T: Send>(_: T) {}
    let world = World::new(Store::memory());
    let (client, taskchampion) = (world.id(), &world.taskchampion);
    assert_send(taskchampion.get_child_version(client, Uuid::nil()));
    assert_send(taskchampion.get_snapshot(client));
    assert_send(taskchampion.add_version(world.upload(client, b"x"), Uuid::nil(), client, 0));
    assert_send(taskchampion.add_snapshot(world.upload(client, b"x"), client, 0));
    assert_send(taskchampion.delete_client(client));
    assert_send(taskchampion.clients());
    assert_send(taskchampion.maintain(0));
    assert_send(TaskChampion::open(&world.store, Config::default()));
    let tenant = world.store.tenant("taskchampion-00").unwrap();
    assert_send(verify(&tenant));
    assert_send(verify_in(&world.store, &tenant));
}
