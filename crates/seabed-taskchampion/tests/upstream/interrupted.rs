//! Transactions that are cut off, and stores that fail.

use super::*;

/// Everything a transaction can do, with values in rows and in chunks.
async fn whole(storage: &TaskChampion, client: Uuid, latest: Uuid) -> anyhow::Result<()> {
    let mut txn = storage.txn(client).await?;
    if txn.get_client().await?.is_none() {
        txn.new_client(latest).await?;
    }
    let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
    txn.add_version(first, latest, vec![1; LARGE]).await?;
    txn.add_version(second, first, b"small".to_vec()).await?;
    txn.set_snapshot(snapshot(second, 0), vec![2; LARGE]).await?;
    txn.commit().await
}

#[test]
fn a_transaction_is_one_durable_batch() {
    let (store, oddities) = Odd::store();
    let world = World::new(store);
    let client = created(&world.taskchampion);
    let before = oddities.lock().unwrap().cost.durable;
    block_on(whole(&world.taskchampion, client, NIL)).unwrap();
    assert_eq!(oddities.lock().unwrap().cost.durable, before + 1);
    // And one that only reads is none at all.
    let applied = oddities.lock().unwrap().cost.applied;
    let mut txn = begin(&world.taskchampion, client);
    block_on(txn.get_client()).unwrap();
    block_on(txn.commit()).unwrap();
    drop(txn);
    assert_eq!(oddities.lock().unwrap().cost.applied, applied);
    assert_sound(&world.store);
}

#[test]
fn a_transaction_dropped_at_any_await_is_whole_or_nothing_and_frees_the_client() {
    for withdraws in [false, true] {
        let (mut polls, mut answered, mut kept) = (0, false, false);
        while !answered {
            let (store, oddities) = Odd::store();
            let world = World::new(store);
            let client = world.id();
            {
                let mut oddities = oddities.lock().unwrap();
                (oddities.pends, oddities.withdraws) = (true, withdraws);
            }
            answered = poll_times(whole(&world.taskchampion, client, NIL), polls).is_some();
            oddities.lock().unwrap().pends = false;
            // Nobody waits for what was dropped, and what is there is all of it.
            let mut txn = poll(&mut world.taskchampion.txn(client)).expect("a free client").unwrap();
            let found = block_on(txn.get_client()).unwrap();
            drop(txn);
            if let Some(found) = &found {
                assert_eq!(found.snapshot, Some(snapshot(found.latest_version_id, 0)));
                assert_eq!(chain(&world.taskchampion, client).len(), 2);
                kept |= !answered;
            }
            assert!(found.is_some() || !answered);
            block_on(world.taskchampion.maintain(u64::MAX)).unwrap();
            assert_sound(&world.store);
            let left = rows(&world.store).keys().filter(|(category, _)| category.ends_with("ng")).count();
            assert_eq!(left, 0, "pending or deleting rows");
            assert!(found.is_some() || rows(&world.store).len() == 2, "format and shards alone");
            let latest = found.map_or(NIL, |found| found.latest_version_id);
            block_on(whole(&world.taskchampion, client, latest)).unwrap();
            polls += 1;
        }
        assert_eq!(kept, !withdraws, "a batch that was queued is applied, one that was withdrawn is not");
        assert!(polls > 8, "{polls}");
    }
}

#[test]
fn a_waiting_transaction_may_be_dropped() {
    on_each_store(|storage| {
        let client = created(storage);
        let first = begin(storage, client);
        let mut waits = storage.txn(client);
        let mut last = storage.txn(client);
        assert!(poll(&mut waits).is_none() && poll(&mut last).is_none());
        drop(first);
        // Its turn came, and it was dropped before it knew.
        drop(waits);
        assert!(poll(&mut last).is_some());
    });
}

/// The next transaction begins only when the batch of a dropped commit has taken effect: it reads what is true, and is not
/// refused for it.
#[test]
fn a_dropped_commit_is_settled_before_the_next_transaction_begins() {
    for (_, store, _directory) in stores() {
        let world = World::new(store);
        let storage = &world.taskchampion;
        let client = created(storage);
        for number in 0..40 {
            let mut txn = begin(storage, client);
            let latest = block_on(txn.get_client()).unwrap().unwrap().latest_version_id;
            block_on(txn.add_version(Uuid::new_v4(), latest, b"version".to_vec())).unwrap();
            let mut commit = txn.commit();
            // Queued, and answered or not.
            let _answer = poll(&mut commit);
            drop(commit);
            drop(txn);
            let added = add(storage, client, b"next").unwrap();
            let versions = chain(storage, client);
            assert_eq!((versions.len(), versions.last().unwrap().version), (2 * number + 2, added));
        }
        assert_sound(&world.store);
    }
}

#[test]
fn a_failed_commit_ends_the_transaction_and_frees_the_client() {
    for fault in [Fault::AppliedUnknown, Fault::NotAppliedUnknown, Fault::NotApplied(ErrorKind::Backend)] {
        let (store, oddities) = Odd::store();
        let world = World::new(store);
        let client = created(&world.taskchampion);
        oddities.lock().unwrap().faults.push(fault);
        let mut txn = begin(&world.taskchampion, client);
        block_on(txn.add_version(Uuid::new_v4(), NIL, vec![1; LARGE])).unwrap();
        assert_fails(ErrorKind::Backend, block_on(txn.commit()));
        assert_fails(ErrorKind::InvalidArgument, block_on(txn.commit()));
        drop(txn);
        let applied = fault == Fault::AppliedUnknown;
        assert_eq!(chain(&world.taskchampion, client).len(), usize::from(applied));
        add(&world.taskchampion, client, b"next").unwrap();
        block_on(world.taskchampion.maintain(u64::MAX)).unwrap();
        assert_sound(&world.store);
        let chunks = rows(&world.store).keys().any(|(category, _)| category == "taskchampion.chunk");
        assert_eq!(chunks, applied);
    }
}

#[test]
fn a_client_that_is_being_deleted_is_none_and_cannot_be_created_yet() {
    let (store, oddities) = Odd::store();
    let world = World::new(store);
    let client = world.id();
    world.chain(client, 600);
    // Dropped in the middle: the row is gone, most versions are there.
    oddities.lock().unwrap().pends = true;
    assert!(poll_times(world.taskchampion.delete_client(client), 4).is_none());
    oddities.lock().unwrap().pends = false;
    assert!(rows(&world.store).keys().any(|(category, _)| category == "taskchampion.version"));
    let mut txn = begin(&world.taskchampion, client);
    assert_eq!(block_on(txn.get_client()).unwrap(), None);
    assert_eq!(block_on(txn.get_version_by_parent(NIL)).unwrap(), None);
    block_on(txn.new_client(NIL)).unwrap();
    assert_fails(ErrorKind::Busy, block_on(txn.commit()));
    drop(txn);
    block_on(world.taskchampion.maintain(u64::MAX)).unwrap();
    let mut txn = begin(&world.taskchampion, client);
    block_on(txn.new_client(NIL)).unwrap();
    block_on(txn.commit()).unwrap();
    assert_sound(&world.store);
}

#[test]
fn a_transaction_larger_than_a_batch_is_refused_whole() {
    for (versions, fits) in [(4_000, true), (4_500, false)] {
        let world = World::new(Store::memory());
        let (client, mut txn) = begin_new(&world.taskchampion, NIL);
        let mut latest = NIL;
        for _ in 0..versions {
            let next = world.id();
            block_on(txn.add_version(next, latest, vec![1; 1_800])).unwrap();
            latest = next;
        }
        let committed = block_on(txn.commit());
        if fits {
            committed.unwrap();
        } else {
            assert_fails(ErrorKind::InvalidArgument, committed);
        }
        drop(txn);
        assert_eq!(chain(&world.taskchampion, client).len(), if fits { versions } else { 0 });
        assert_sound(&world.store);
    }
}
