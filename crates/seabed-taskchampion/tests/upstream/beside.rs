//! Our own rules beside transactions, on the same rows.

use super::*;

#[test]
fn each_sees_what_the_other_has_stored() {
    for (_, store, _directory) in stores() {
        let world = World::new(store);
        let storage = &world.taskchampion;
        let client = Uuid::new_v4();
        for length in [10, LARGE] {
            let bytes = vec![3; length];
            let latest = chain(storage, client).last().map_or(NIL, |version| version.version);
            let pushed = world.pushed(client, latest, &bytes);
            world.snapshot(client, pushed, &bytes);
            let mut txn = begin(storage, client);
            assert!(block_on(txn.get_version(pushed)).unwrap() == Some(version(pushed, latest, &bytes)));
            let of = block_on(txn.get_client()).unwrap().unwrap().snapshot.unwrap();
            assert_eq!(of, Snapshot { version_id: pushed, ..snapshot(pushed, 0) });
            assert!(block_on(txn.get_snapshot_data(pushed)).unwrap().unwrap() == bytes);
            drop(txn);

            let added = add(storage, client, &bytes).unwrap();
            assert!(world.child(client, pushed) == Child::Found(added, bytes.clone()));
            let mut txn = begin(storage, client);
            block_on(txn.set_snapshot(snapshot(added, 0), bytes.clone())).unwrap();
            block_on(txn.commit()).unwrap();
            assert!(world.current_snapshot(client) == Current::Found(added, bytes));
        }
        assert_sound(&world.store);
    }
}

#[test]
fn a_commit_is_refused_when_the_client_was_changed_since_it_was_read() {
    for (_, store, _directory) in stores() {
        let world = World::new(store);
        let client = world.id();
        let chain_before = world.chain(client, 1);
        let mut txn = begin(&world.taskchampion, client);
        block_on(txn.add_version(Uuid::new_v4(), chain_before[0], vec![1; LARGE])).unwrap();
        let pushed = world.pushed(client, chain_before[0], b"quicker");
        assert_fails(ErrorKind::Busy, block_on(txn.commit()));
        drop(txn);
        // A client that came into being meanwhile, or went.
        let (new, mut txn) = begin_new(&world.taskchampion, NIL);
        world.pushed(new, NIL, b"quicker");
        assert_fails(ErrorKind::Busy, block_on(txn.commit()));
        drop(txn);
        let mut txn = begin(&world.taskchampion, new);
        block_on(txn.get_client()).unwrap();
        assert!(block_on(world.taskchampion.delete_client(new)).unwrap());
        block_on(txn.set_snapshot(snapshot(NIL, 0), Vec::new())).unwrap();
        assert_fails(ErrorKind::Busy, block_on(txn.commit()));
        drop(txn);
        assert_eq!(chain(&world.taskchampion, client).last().unwrap().version, pushed);
        block_on(world.taskchampion.maintain(u64::MAX)).unwrap();
        assert_sound(&world.store);
        assert!(!rows(&world.store).keys().any(|(category, _)| category == "taskchampion.chunk"));
    }
}

#[test]
fn a_snapshot_that_was_replaced_since_the_row_was_read_is_busy_or_still_the_old_one() {
    for (length, still) in [(10, false), (LARGE, true)] {
        let world = World::new(Store::memory());
        let client = world.id();
        let versions = world.chain(client, 2);
        world.snapshot(client, versions[0], &vec![1; length]);
        let mut txn = begin(&world.taskchampion, client);
        block_on(txn.get_client()).unwrap();
        world.snapshot(client, versions[1], b"newer");
        match block_on(txn.get_snapshot_data(versions[0])) {
            Ok(data) => assert!(still && data == Some(vec![1; length])),
            error => {
                assert!(!still);
                assert_fails(ErrorKind::Busy, error);
            }
        }
    }
}

#[test]
fn rows_that_do_not_go_together_are_damage() {
    let world = World::new(Store::memory());
    let client = world.id();
    let versions = world.chain(client, 2);
    world.snapshot(client, versions[1], b"snapshot");
    let tenant = world.store.tenant("taskchampion-00").unwrap();
    let pair = [client.as_bytes().as_slice(), versions[0].as_bytes()].concat();
    assert!(tenant.delete("taskchampion.version", pair).wait().unwrap());
    assert!(tenant.delete("taskchampion.snapshot", client).wait().unwrap());
    let mut txn = begin(&world.taskchampion, client);
    assert_fails(ErrorKind::Corrupt, block_on(txn.get_version(versions[1])));
    assert_fails(ErrorKind::Corrupt, block_on(txn.get_snapshot_data(versions[1])));
}

/// Two threads of transactions and two of our own pushes on one client.
#[test]
fn nobody_forks_the_chain() {
    for (_, store, _directory) in stores() {
        let world = World::new(store);
        let client = created(&world.taskchampion);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        // Refused as often as our own rules are quicker, and never for another reason.
                        while let Err(error) = add(&world.taskchampion, client, b"by a transaction") {
                            let error = error.downcast::<Error>().unwrap();
                            assert!(error.is_retryable(), "{error}");
                        }
                    }
                });
                scope.spawn(|| {
                    for _ in 0..50 {
                        let mut latest = NIL;
                        while let seabed_taskchampion::AddVersion::Conflict { latest: now } =
                            world.push(client, latest, b"by our rules")
                        {
                            latest = now;
                        }
                    }
                });
            }
        });
        assert_eq!(chain(&world.taskchampion, client).len(), 200);
        assert_sound(&world.store);
    }
}
