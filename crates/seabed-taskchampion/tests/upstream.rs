//! The original's storage traits over our store: every behaviour that its own storages are tested for, box by box, and what ours
//! adds to it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what the helpers of a test cannot have fails the test"
)]

#[path = "upstream/beside.rs"]
mod beside;
mod common;
#[path = "upstream/interrupted.rs"]
mod interrupted;

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use chrono::{DateTime, TimeDelta, Utc};
use common::*;
use pollster::block_on;
use seabed_kv::{ErrorKind, Store};
use seabed_taskchampion::{Config, Error, TaskChampion, VersionInfo};
use taskchampion_sync_server_core::{Client, Snapshot, Storage, StorageTxn, Version};
use uuid::Uuid;

const NIL: Uuid = Uuid::nil();
/// Far beyond what a row takes.
const LARGE: usize = 600_000;

/// Runs a test on a store of each kind.
fn on_each_store(test: impl Fn(&TaskChampion)) {
    for (_, store, _directory) in stores() {
        test(&World::new(store).taskchampion);
    }
}

fn begin(storage: &TaskChampion, client: Uuid) -> Box<dyn StorageTxn + '_> {
    block_on(storage.txn(client)).unwrap()
}

/// A transaction on a client that was created in it, with this latest version.
fn begin_new(storage: &TaskChampion, latest: Uuid) -> (Uuid, Box<dyn StorageTxn + '_>) {
    let client = Uuid::new_v4();
    let mut txn = begin(storage, client);
    block_on(txn.new_client(latest)).unwrap();
    (client, txn)
}

/// A client that exists and has nothing.
fn created(storage: &TaskChampion) -> Uuid {
    let (client, mut txn) = begin_new(storage, NIL);
    block_on(txn.commit()).unwrap();
    client
}

/// Adds a version onto the latest one in a transaction of its own.
fn add(storage: &TaskChampion, client: Uuid, bytes: &[u8]) -> anyhow::Result<Uuid> {
    let version = Uuid::new_v4();
    block_on(async {
        let mut txn = storage.txn(client).await?;
        let latest = txn.get_client().await?.expect("a client").latest_version_id;
        txn.add_version(version, latest, bytes.to_vec()).await?;
        txn.commit().await
    })?;
    Ok(version)
}

fn version(version: Uuid, parent: Uuid, bytes: &[u8]) -> Version {
    Version { version_id: version, parent_version_id: parent, history_segment: bytes.to_vec() }
}

fn snapshot(version: Uuid, versions_since: u32) -> Snapshot {
    let timestamp = DateTime::from_timestamp(i64::try_from(START_S).unwrap(), 0).unwrap();
    Snapshot { version_id: version, timestamp, versions_since }
}

fn chain(storage: &TaskChampion, client: Uuid) -> Vec<VersionInfo> {
    block_on(storage.versions(client)).unwrap()
}

fn exists(storage: &TaskChampion, client: Uuid) -> bool {
    block_on(storage.client(client)).unwrap().is_some()
}

/// Asserts that the client has this latest version and no snapshot, in the transaction and in the next one.
fn assert_before_and_after_commit(
    storage: &TaskChampion,
    client: Uuid,
    mut txn: Box<dyn StorageTxn + '_>,
    latest: Uuid,
) {
    let expected = Some(Client { latest_version_id: latest, snapshot: None });
    assert_eq!(block_on(txn.get_client()).unwrap(), expected);
    block_on(txn.commit()).unwrap();
    drop(txn);
    assert_eq!(block_on(begin(storage, client).get_client()).unwrap(), expected);
}

/// Asserts what kind of our errors it is: nothing of such a call was applied.
#[track_caller]
fn assert_fails<T>(kind: ErrorKind, result: anyhow::Result<T>) {
    let Err(error) = result else { panic!("no {kind}") };
    assert_eq!(error.downcast_ref::<Error>().map(Error::kind), Some(kind), "{error}");
}

fn poll<F: Future + ?Sized>(future: &mut Pin<Box<F>>) -> Option<F::Output> {
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// The boxes of the original's own suites, in their order.
mod checklist {
    use super::*;

    #[test]
    fn opening_in_a_directory_that_does_not_exist_creates_it() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("not/there");
        let store = Store::sqlite(&root).unwrap();
        let storage = World::new(store.clone()).taskchampion;
        let client = created(&storage);
        add(&storage, client, b"kept").unwrap();
        drop(storage);
        store.close().wait().unwrap();
        assert!(root.is_dir());
        let storage = World::new(Store::sqlite(&root).unwrap()).taskchampion;
        let found = block_on(begin(&storage, client).get_version_by_parent(NIL)).unwrap();
        assert_eq!(found.unwrap().history_segment, b"kept");
    }

    #[test]
    fn an_unknown_client_is_none() {
        on_each_store(|storage| {
            let mut txn = begin(storage, Uuid::new_v4());
            assert_eq!(block_on(txn.get_client()).unwrap(), None);
        });
    }

    #[test]
    fn a_new_client_has_its_latest_version_and_no_snapshot() {
        on_each_store(|storage| {
            for latest in [NIL, Uuid::new_v4()] {
                let (client, txn) = begin_new(storage, latest);
                assert_before_and_after_commit(storage, client, txn, latest);
            }
        });
    }

    #[test]
    fn a_version_moves_latest_and_makes_no_snapshot() {
        on_each_store(|storage| {
            for latest in [NIL, Uuid::new_v4()] {
                let (client, mut txn) = begin_new(storage, latest);
                let added = Uuid::new_v4();
                block_on(txn.add_version(added, latest, b"bytes".to_vec())).unwrap();
                assert_before_and_after_commit(storage, client, txn, added);
            }
        });
    }

    #[test]
    fn a_snapshot_comes_back_as_it_was_set_in_whole_seconds() {
        on_each_store(|storage| {
            let (client, mut txn) = begin_new(storage, NIL);
            // The version need not exist, and nothing is counted anew.
            let expected = snapshot(Uuid::new_v4(), 4);
            let given =
                Snapshot { timestamp: expected.timestamp + TimeDelta::milliseconds(999), ..expected.clone() };
            block_on(txn.set_snapshot(given, b"snapshot".to_vec())).unwrap();
            assert_eq!(block_on(txn.get_client()).unwrap().unwrap().snapshot, Some(expected.clone()));
            block_on(txn.commit()).unwrap();
            drop(txn);
            let mut txn = begin(storage, client);
            assert_eq!(block_on(txn.get_client()).unwrap().unwrap().snapshot, Some(expected.clone()));
            let data = block_on(txn.get_snapshot_data(expected.version_id)).unwrap();
            assert_eq!(data, Some(b"snapshot".to_vec()));
            // A version more, in this transaction as in others.
            block_on(txn.add_version(Uuid::new_v4(), NIL, Vec::new())).unwrap();
            let since = |client: Option<Client>| client.unwrap().snapshot.unwrap().versions_since;
            assert_eq!(since(block_on(txn.get_client()).unwrap()), 5);
        });
    }

    #[test]
    fn an_unknown_parent_and_an_unknown_version_are_none() {
        on_each_store(|storage| {
            let client = created(storage);
            add(storage, client, b"bytes").unwrap();
            let mut txn = begin(storage, client);
            assert_eq!(block_on(txn.get_version_by_parent(Uuid::new_v4())).unwrap(), None);
            assert_eq!(block_on(txn.get_version(Uuid::new_v4())).unwrap(), None);
            // Nor is the nil version one, though it is a parent.
            assert_eq!(block_on(txn.get_version(NIL)).unwrap(), None);
        });
    }

    #[test]
    fn an_added_version_is_found_by_parent_and_by_id_before_and_after_commit() {
        on_each_store(|storage| {
            for length in [0, 1, 1_928, 1_929, LARGE] {
                let (client, mut txn) = begin_new(storage, NIL);
                let (parent, first, second) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
                let expected = [version(first, parent, &vec![7; length]), version(second, first, b"second")];
                for version in expected.clone() {
                    let (id, parent) = (version.version_id, version.parent_version_id);
                    block_on(txn.add_version(id, parent, version.history_segment)).unwrap();
                }
                let find = |txn: &mut Box<dyn StorageTxn + '_>| {
                    for version in &expected {
                        let by_parent = block_on(txn.get_version_by_parent(version.parent_version_id));
                        assert!(by_parent.unwrap().as_ref() == Some(version), "{length}");
                        let by_id = block_on(txn.get_version(version.version_id)).unwrap();
                        assert!(by_id.as_ref() == Some(version), "{length}");
                    }
                };
                find(&mut txn);
                block_on(txn.commit()).unwrap();
                drop(txn);
                find(&mut begin(storage, client));
            }
        });
    }

    #[test]
    fn the_same_version_twice_is_an_error() {
        on_each_store(|storage| {
            let client = created(storage);
            let first = add(storage, client, b"first").unwrap();
            let mut txn = begin(storage, client);
            assert_fails(ErrorKind::InvalidArgument, block_on(txn.add_version(first, first, Vec::new())));
            let second = Uuid::new_v4();
            block_on(txn.add_version(second, first, b"second".to_vec())).unwrap();
            // One that was there before, and one of this very transaction.
            for id in [first, second] {
                assert_fails(ErrorKind::InvalidArgument, block_on(txn.add_version(id, second, Vec::new())));
            }
            // What was refused has changed nothing, and the rest goes on.
            block_on(txn.commit()).unwrap();
            let versions: Vec<_> = chain(storage, client).iter().map(|version| version.version).collect();
            assert_eq!(versions, [first, second]);
        });
    }

    #[test]
    fn a_parent_that_is_not_latest_is_an_error() {
        on_each_store(|storage| {
            let client = created(storage);
            let first = add(storage, client, b"first").unwrap();
            let second = add(storage, client, b"second").unwrap();
            for parent in [NIL, first, Uuid::new_v4()] {
                let mut txn = begin(storage, client);
                let added = block_on(txn.add_version(Uuid::new_v4(), parent, Vec::new()));
                assert_fails(ErrorKind::InvalidArgument, added);
                block_on(txn.commit()).unwrap();
            }
            assert_eq!(chain(storage, client).last().unwrap().version, second);
        });
    }

    #[test]
    fn any_parent_is_accepted_while_latest_is_nil() {
        on_each_store(|storage| {
            for parent in [NIL, Uuid::new_v4()] {
                let client = created(storage);
                let mut txn = begin(storage, client);
                let added = Uuid::new_v4();
                block_on(txn.add_version(added, parent, b"first".to_vec())).unwrap();
                block_on(txn.commit()).unwrap();
                drop(txn);
                let found = block_on(begin(storage, client).get_version_by_parent(parent)).unwrap();
                assert_eq!(found, Some(version(added, parent, b"first")));
            }
        });
    }

    #[test]
    fn a_second_snapshot_replaces_the_first_metadata_and_data() {
        for (_, store, _directory) in stores() {
            let world = World::new(store);
            let storage = &world.taskchampion;
            // Each kind of value in the place of each kind.
            for (first, second) in [(9, 8), (9, LARGE), (LARGE, 9), (LARGE, LARGE + 1)] {
                let client = created(storage);
                let version = add(storage, client, b"version").unwrap();
                for (length, since) in [(first, 2), (second, 0)] {
                    let mut txn = begin(storage, client);
                    block_on(txn.set_snapshot(snapshot(version, since), vec![1; length])).unwrap();
                    let data = block_on(txn.get_snapshot_data(version)).unwrap().unwrap();
                    assert_eq!(data.len(), length);
                    block_on(txn.commit()).unwrap();
                }
                let mut txn = begin(storage, client);
                let client = block_on(txn.get_client()).unwrap().unwrap();
                assert_eq!(client.snapshot, Some(snapshot(version, 0)));
                assert!(block_on(txn.get_snapshot_data(version)).unwrap().unwrap() == vec![1; second]);
            }
            // And of those that were replaced nothing stays.
            block_on(storage.maintain(u64::MAX)).unwrap();
            assert!(!rows(&world.store).keys().any(|(category, _)| category == "taskchampion.pending"));
        }
    }

    #[test]
    fn snapshot_data_of_another_version_is_an_error() {
        on_each_store(|storage| {
            let client = created(storage);
            let mut txn = begin(storage, client);
            let expected = snapshot(Uuid::new_v4(), 0);
            block_on(txn.set_snapshot(expected.clone(), b"snapshot".to_vec())).unwrap();
            assert_fails(ErrorKind::InvalidArgument, block_on(txn.get_snapshot_data(Uuid::new_v4())));
            block_on(txn.commit()).unwrap();
            drop(txn);
            let mut txn = begin(storage, client);
            for other in [NIL, Uuid::new_v4()] {
                assert_fails(ErrorKind::InvalidArgument, block_on(txn.get_snapshot_data(other)));
            }
        });
    }

    #[test]
    fn a_client_made_in_an_open_transaction_is_not_seen_until_commit() {
        on_each_store(|storage| {
            let (client, mut txn) = begin_new(storage, NIL);
            block_on(txn.add_version(Uuid::new_v4(), NIL, b"version".to_vec())).unwrap();
            // Another transaction of the client waits; what asks without one sees nothing.
            let mut other = storage.txn(client);
            assert!(poll(&mut other).is_none() && !exists(storage, client));
            block_on(txn.commit()).unwrap();
            assert!(poll(&mut other).is_none() && exists(storage, client));
            drop(txn);
            let mut other = poll(&mut other).expect("its turn").unwrap();
            assert!(block_on(other.get_client()).unwrap().is_some());
        });
    }

    #[test]
    fn two_open_transactions_of_two_clients_do_not_wait_for_each_other() {
        on_each_store(|storage| {
            let clients = [created(storage), created(storage)];
            let mut txns = clients.map(|client| poll(&mut storage.txn(client)).expect("no waiting").unwrap());
            for txn in &mut txns {
                block_on(txn.add_version(Uuid::new_v4(), NIL, vec![1; LARGE])).unwrap();
            }
            for txn in &mut txns {
                block_on(txn.commit()).unwrap();
            }
            assert!(clients.iter().all(|client| chain(storage, *client).len() == 1));
        });
    }

    #[test]
    fn a_client_row_made_outside_with_defaults_works() {
        for (_, store, _directory) in stores() {
            let world = World::new(store);
            // docs/formats/taskchampion.md: nothing but the version of the layout.
            let (client, mut row) = (Uuid::new_v4(), vec![0; 50]);
            row[0] = 1;
            let tenant = world.store.tenant("taskchampion-00").unwrap();
            tenant.put("taskchampion.client", client, row).wait().unwrap();
            let found = block_on(begin(&world.taskchampion, client).get_client()).unwrap();
            assert_eq!(found, Some(Client { latest_version_id: NIL, snapshot: None }));
            add(&world.taskchampion, client, b"first").unwrap();
            assert_sound(&world.store);
        }
    }

    #[test]
    fn four_threads_of_a_hundred_make_one_chain_of_four_hundred() {
        for (_, store, _directory) in stores() {
            let world = World::new(store);
            let client = created(&world.taskchampion);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        for _ in 0..100 {
                            add(&world.taskchampion, client, b"version").unwrap();
                        }
                    });
                }
            });
            // From the first to the latest, each the child of the one before; and there are no other rows.
            assert_eq!(chain(&world.taskchampion, client).len(), 400);
            assert_sound(&world.store);
        }
    }

    /// The in-memory storage panics instead, as an aid for tests.
    #[test]
    fn a_transaction_dropped_without_commit_leaves_nothing() {
        for (_, store, _directory) in stores() {
            let world = World::new(store);
            let storage = &world.taskchampion;
            let client = created(storage);
            add(storage, client, b"before").unwrap();
            let before = rows(&world.store);
            let mut txn = begin(storage, client);
            let latest = block_on(txn.get_client()).unwrap().unwrap().latest_version_id;
            block_on(txn.add_version(Uuid::new_v4(), latest, vec![1; LARGE])).unwrap();
            block_on(txn.set_snapshot(snapshot(latest, 0), vec![2; LARGE])).unwrap();
            drop(txn);
            drop(begin_new(storage, Uuid::new_v4()));
            assert_eq!(rows(&world.store), before);
            add(storage, client, b"after").unwrap();
            assert_sound(&world.store);
        }
    }
}

/// What the original leaves open, and ours decides.
mod ours {
    use super::*;

    #[test]
    fn a_client_that_exists_is_not_created_again() {
        on_each_store(|storage| {
            let client = created(storage);
            assert_fails(ErrorKind::InvalidArgument, block_on(begin(storage, client).new_client(NIL)));
            let (_, mut txn) = begin_new(storage, NIL);
            assert_fails(ErrorKind::InvalidArgument, block_on(txn.new_client(NIL)));
        });
    }

    #[test]
    fn writes_to_an_unknown_client_are_errors_and_its_reads_are_none() {
        on_each_store(|storage| {
            let client = Uuid::new_v4();
            let mut txn = begin(storage, client);
            let added = block_on(txn.add_version(Uuid::new_v4(), NIL, b"version".to_vec()));
            assert_fails(ErrorKind::InvalidArgument, added);
            let set = block_on(txn.set_snapshot(snapshot(Uuid::new_v4(), 0), b"snapshot".to_vec()));
            assert_fails(ErrorKind::InvalidArgument, set);
            assert_eq!(block_on(txn.get_version(NIL)).unwrap(), None);
            assert_eq!(block_on(txn.get_version_by_parent(NIL)).unwrap(), None);
            assert_eq!(block_on(txn.get_snapshot_data(NIL)).unwrap(), None);
            block_on(txn.commit()).unwrap();
            assert!(!exists(storage, client));
        });
    }

    #[test]
    fn snapshot_data_without_a_snapshot_is_none() {
        on_each_store(|storage| {
            let client = created(storage);
            let mut txn = begin(storage, client);
            assert_eq!(block_on(txn.get_snapshot_data(NIL)).unwrap(), None);
            assert_eq!(block_on(txn.get_snapshot_data(Uuid::new_v4())).unwrap(), None);
        });
    }

    #[test]
    fn every_call_after_commit_is_an_error() {
        on_each_store(|storage| {
            let client = created(storage);
            for written in [false, true] {
                let mut txn = begin(storage, client);
                let latest = block_on(txn.get_client()).unwrap().unwrap().latest_version_id;
                if written {
                    block_on(txn.add_version(Uuid::new_v4(), latest, b"version".to_vec())).unwrap();
                }
                block_on(txn.commit()).unwrap();
                let over = ErrorKind::InvalidArgument;
                assert_fails(over, block_on(txn.get_client()));
                assert_fails(over, block_on(txn.new_client(NIL)));
                assert_fails(over, block_on(txn.set_snapshot(snapshot(latest, 0), Vec::new())));
                assert_fails(over, block_on(txn.get_snapshot_data(latest)));
                assert_fails(over, block_on(txn.get_version(latest)));
                assert_fails(over, block_on(txn.get_version_by_parent(latest)));
                assert_fails(over, block_on(txn.add_version(Uuid::new_v4(), latest, Vec::new())));
                assert_fails(over, block_on(txn.commit()));
                drop(txn);
                assert_eq!(chain(storage, client).len(), usize::from(written));
            }
        });
    }

    #[test]
    fn ids_that_would_close_a_circle_are_errors() {
        on_each_store(|storage| {
            let (_, mut txn) = begin_new(storage, NIL);
            for (id, parent) in
                [(NIL, NIL), (NIL, Uuid::from_u128(1)), (Uuid::from_u128(1), Uuid::from_u128(1))]
            {
                let added = block_on(txn.add_version(id, parent, Vec::new()));
                assert_fails(ErrorKind::InvalidArgument, added);
            }
        });
    }

    #[test]
    fn a_snapshot_from_before_1970_is_an_error_and_an_unreadable_time_is_damage() {
        for (_, store, _directory) in stores() {
            let world = World::new(store);
            let (client, mut txn) = begin_new(&world.taskchampion, NIL);
            for timestamp in [DateTime::<Utc>::MIN_UTC, DateTime::from_timestamp(-1, 0).unwrap()] {
                let early = Snapshot { timestamp, ..snapshot(NIL, 0) };
                assert_fails(ErrorKind::InvalidArgument, block_on(txn.set_snapshot(early, Vec::new())));
            }
            let latest = Snapshot { timestamp: DateTime::<Utc>::MAX_UTC, ..snapshot(NIL, u32::MAX) };
            block_on(txn.set_snapshot(latest.clone(), Vec::new())).unwrap();
            block_on(txn.commit()).unwrap();
            drop(txn);
            let found = block_on(begin(&world.taskchampion, client).get_client()).unwrap().unwrap();
            let found = found.snapshot.unwrap();
            assert_eq!(found.timestamp.timestamp(), latest.timestamp.timestamp());
            // Counting goes on in the store, and the trait's number stays where it ends.
            add(&world.taskchampion, client, b"one more").unwrap();
            let found = block_on(begin(&world.taskchampion, client).get_client()).unwrap().unwrap();
            assert_eq!(found.snapshot.unwrap().versions_since, u32::MAX);

            let tenant = world.store.tenant("taskchampion-00").unwrap();
            let mut row = tenant.get("taskchampion.client", client).wait().unwrap().unwrap();
            row[66] = 0xFF;
            tenant.put("taskchampion.client", client, row).wait().unwrap();
            assert_fails(ErrorKind::Corrupt, block_on(begin(&world.taskchampion, client).get_client()));
        }
    }

    #[test]
    fn creation_is_the_server_s_to_forbid_and_not_the_storage_s() {
        let config = Config { create_clients: false, ..Config::default() };
        let world = World::with(Store::memory(), config);
        assert!(exists(&world.taskchampion, created(&world.taskchampion)));
    }

    #[test]
    fn a_client_that_begins_at_a_version_from_elsewhere_is_sound() {
        for (_, store, _directory) in stores() {
            let world = World::new(store);
            let elsewhere = Uuid::new_v4();
            let (client, mut txn) = begin_new(&world.taskchampion, elsewhere);
            block_on(txn.commit()).unwrap();
            drop(txn);
            assert_sound(&world.store);
            // Our rules take it for what it is: a history that goes on from there and from nowhere else.
            assert_eq!(world.child(client, elsewhere), Child::UpToDate);
            assert_eq!(world.child(client, NIL), Child::Gone);
            world.pushed(client, elsewhere, b"first here");
            assert_sound(&world.store);
        }
    }
}
