//! Requests that are cut off, refused, or never answered: all or nothing, and nothing is left that a sweep does not take.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what the helpers of a test cannot have fails the test"
)]

mod common;

use common::*;
use pollster::block_on;
use seabed_kv::{ErrorKind, Store};
use seabed_taskchampion::{ATTEMPTS_MAX, AddSnapshot, ChildVersion, Error, GetSnapshot, WRITING_MS_MAX};
use uuid::Uuid;

#[test]
fn a_snapshot_being_read_survives_its_replacement_until_the_sweep() {
    let mut world = World::new(Store::memory());
    let client = world.id();
    let chain = world.chain(client, 2);
    let bytes = vec![7; 2_500_000];
    world.snapshot(client, chain[0], &bytes);
    let read = |world: &World| match block_on(world.taskchampion.get_snapshot(client)).unwrap().release() {
        GetSnapshot::Found { value, .. } => value,
        other => panic!("{other:?}"),
    };
    let (mut first, mut second) = (read(&world), read(&world));
    let begun = block_on(first.next()).unwrap().unwrap();
    block_on(second.next()).unwrap();
    assert_eq!(world.snapshot(client, chain[1], b"small"), AddSnapshot::Kept);
    block_on(world.taskchampion.maintain(world.now_s * 1_000 + 60_000)).unwrap();
    let rest = block_on(first.collect()).unwrap();
    assert!([begun, rest].concat() == bytes);
    world.now_s += 1_000;
    block_on(world.taskchampion.maintain(world.now_s * 1_000)).unwrap();
    assert_eq!(
        block_on(second.collect()).unwrap_err().kind(),
        ErrorKind::Corrupt,
        "slower than the sweep allows"
    );
}

#[test]
fn a_deleted_client_is_gone_for_its_readers_too() {
    let world = World::new(Store::memory());
    let client = world.id();
    let version = world.pushed(client, Uuid::nil(), &vec![7; 500_000]);
    world.snapshot(client, version, &vec![8; 500_000]);
    let child = block_on(world.taskchampion.get_child_version(client, Uuid::nil())).unwrap().release();
    let ChildVersion::Found { value: mut child, .. } = child else { panic!("{child:?}") };
    let snapshot = block_on(world.taskchampion.get_snapshot(client)).unwrap().release();
    let GetSnapshot::Found { value: mut snapshot, .. } = snapshot else { panic!("{snapshot:?}") };
    for value in [&mut child, &mut snapshot] {
        assert!(block_on(value.next()).unwrap().is_some());
    }
    block_on(world.taskchampion.delete_client(client)).unwrap();
    for value in [child, snapshot] {
        assert_eq!(block_on(value.collect()).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn an_unknown_outcome_never_forks_and_the_client_recovers() {
    for fault in [Fault::AppliedUnknown, Fault::NotAppliedUnknown, Fault::NotApplied(ErrorKind::Backend)] {
        for size in [5, 50_000] {
            let (store, oddities) = Odd::store();
            let world = World::new(store.clone());
            let client = world.id();
            let chain = world.chain(client, 2);
            oddities.lock().unwrap().faults.push(fault);
            let (upload, version) = (world.upload(client, &vec![5; size]), world.id());
            let answer = block_on(world.taskchampion.add_version(upload, chain[1], version, world.now_s));
            assert!(answer.is_err());
            assert_sound(&store);
            // The replica asks again, as it does after any failure: it pulls its own version, or pushes once more.
            match world.child(client, chain[1]) {
                Child::Found(found, bytes) => {
                    assert_eq!((found, bytes.len(), fault), (version, size, Fault::AppliedUnknown));
                }
                Child::UpToDate => {
                    assert_ne!(fault, Fault::AppliedUnknown);
                    world.pushed(client, chain[1], &vec![5; size]);
                }
                other => panic!("{other:?}"),
            }
            // What was attached is not swept, what was not is.
            block_on(world.taskchampion.maintain(u64::MAX)).unwrap();
            assert_sound(&store);
            assert!(!rows(&store).keys().any(|(category, _)| category == "taskchampion.pending"));
            assert_eq!(block_on(world.taskchampion.versions(client)).unwrap().len(), 3);
        }
    }
}

#[test]
fn a_request_that_others_are_quicker_than_every_time_ends_with_busy() {
    for (refusals, busy) in [(ATTEMPTS_MAX - 1, false), (ATTEMPTS_MAX, true)] {
        let (store, oddities) = Odd::store();
        let world = World::new(store);
        let client = world.id();
        let chain = world.chain(client, 1);
        let before = rows(&world.store);
        oddities.lock().unwrap().faults = vec![Fault::Refused; refusals];
        let upload = world.upload(client, b"more");
        match block_on(world.taskchampion.add_version(upload, chain[0], world.id(), world.now_s)) {
            Ok(_) => assert!(!busy),
            Err(error) => {
                assert!(busy && error.kind() == ErrorKind::Busy && error.is_retryable(), "{error}");
                assert_eq!(rows(&world.store), before);
            }
        }
    }
}

#[test]
fn a_staged_push_that_is_refused_once_keeps_its_chunks_the_second_time() {
    // Two large snapshots and a push in between: the second snapshot's first batch is refused, and its second must attach.
    let (store, oddities) = Odd::store();
    let world = World::new(store.clone());
    let client = world.id();
    let chain = world.chain(client, 1);
    let upload = world.upload(client, &vec![3; 50_000]);
    oddities.lock().unwrap().pends = true;
    let mut snapshot = Box::pin(world.taskchampion.add_snapshot(upload, chain[0], world.now_s));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    // It has read the client's row; now the client changes.
    assert!(snapshot.as_mut().poll(&mut context).is_pending());
    oddities.lock().unwrap().pends = false;
    world.pushed(client, chain[0], b"in between");
    let answer = block_on(snapshot).unwrap().release();
    assert_eq!(answer, AddSnapshot::Kept);
    block_on(world.taskchampion.maintain(u64::MAX)).unwrap();
    assert_eq!(world.current_snapshot(client), Current::Found(chain[0], vec![3; 50_000]));
    assert_sound(&store);
}

#[test]
fn a_request_dropped_at_any_await_leaves_all_or_nothing() {
    for withdraws in [false, true] {
        for size in [10, 700_000] {
            for what in ["version", "snapshot"] {
                let mut completed = false;
                let mut times = 0;
                while !completed {
                    let (store, oddities) = Odd::store();
                    let world = World::new(store.clone());
                    let client = world.id();
                    let chain = world.chain(client, 3);
                    let before = rows(&store);
                    {
                        let mut oddities = oddities.lock().unwrap();
                        (oddities.pends, oddities.withdraws) = (true, withdraws);
                    }
                    let request = async {
                        let mut upload = world.taskchampion.upload(client, world.id(), world.now_s * 1_000);
                        upload.write(&vec![1; size]).await?;
                        let upload = upload.finish().await?;
                        if what == "version" {
                            let version = world.id();
                            let added = world
                                .taskchampion
                                .add_version(upload, chain[2], version, world.now_s)
                                .await?;
                            let _ = added.release();
                        } else {
                            let added =
                                world.taskchampion.add_snapshot(upload, chain[0], world.now_s).await?;
                            let _ = added.release();
                        }
                        Ok::<(), Error>(())
                    };
                    completed =
                        poll_times(request, times).inspect(|result| assert!(result.is_ok())).is_some();
                    oddities.lock().unwrap().pends = false;
                    assert_sound(&store);
                    // Opened anew, as after a crash: what was not attached is gone without a trace.
                    let world = World::new(store.clone());
                    assert_sound(&store);
                    let applied = rows(&store) != before;
                    if applied {
                        let info = block_on(world.taskchampion.client(client)).unwrap().unwrap();
                        assert!(info.versions == 4 || info.snapshot.is_some());
                    }
                    assert!(applied || !completed, "an answer that was given is true");
                    assert!(!rows(&store).keys().any(|(category, _)| category == "taskchampion.pending"));
                    times += 1;
                }
                assert!(times > 3, "{what} of {size} bytes pended {times} times");
            }
        }
    }
}

#[test]
fn a_deletion_cut_off_anywhere_is_completed_later_and_nobody_sees_half_a_client() {
    for by_open in [false, true] {
        let (mut times, mut completed) = (0, false);
        while !completed {
            let (store, oddities) = Odd::store();
            let world = World::new(store.clone());
            let empty = rows(&store);
            let client = world.id();
            let mut chain = world.chain(client, 1);
            // In chunks that only the version's row names until a step of the deletion takes it.
            chain.push(world.pushed(client, chain[0], &[1; 9_000]));
            world.snapshot(client, chain[1], &[1; 5_000]);
            let whole = rows(&store);
            oddities.lock().unwrap().pends = true;
            completed = poll_times(world.taskchampion.delete_client(client), times).is_some();
            oddities.lock().unwrap().pends = false;
            assert_sound(&store);
            if rows(&store) == whole {
                assert_eq!(world.child(client, chain[1]), Child::UpToDate);
            } else {
                assert_eq!(world.child(client, Uuid::nil()), Child::NoSuchClient);
                assert_eq!(world.current_snapshot(client), Current::NoSuchClient);
                if !completed && rows(&store) != empty {
                    // Not created anew over the remains.
                    let (upload, version) = (world.upload(client, b"new"), world.id());
                    let push =
                        block_on(world.taskchampion.add_version(upload, Uuid::nil(), version, world.now_s));
                    assert_eq!(push.unwrap_err().kind(), ErrorKind::Busy);
                }
                if by_open {
                    World::new(store.clone());
                } else {
                    block_on(world.taskchampion.maintain(world.now_s * 1_000)).unwrap();
                }
                assert_eq!(rows(&store), empty, "after {times} polls");
            }
            times += 1;
        }
        assert!(times > 4, "pended {times} times");
    }
}

#[test]
fn uploads_that_never_end_are_swept_after_a_day_and_then_cannot_be_added() {
    let mut world = World::new(Store::memory());
    let client = world.id();
    let chain = world.chain(client, 1);
    let before = rows(&world.store);
    let upload = world.upload(client, &vec![1; 50_000]);
    let end_ms = world.now_s * 1_000 + WRITING_MS_MAX;
    assert_eq!(block_on(world.taskchampion.maintain(end_ms)).unwrap(), 0);
    assert_eq!(block_on(world.taskchampion.maintain(end_ms + 1)).unwrap(), 1);
    assert_eq!(rows(&world.store), before);
    world.now_s += DAY_S;
    let added = block_on(world.taskchampion.add_version(upload, chain[0], world.id(), world.now_s));
    let error = added.unwrap_err();
    assert!(error.kind() == ErrorKind::Timeout && error.is_retryable(), "{error}");
    assert_eq!(rows(&world.store), before);
}

#[test]
fn a_deletion_that_was_overtaken_spares_the_client_created_anew() {
    let mut overtaken = 0;
    for times in 0..12 {
        let (store, oddities) = Odd::store();
        let world = World::new(store.clone());
        let client = world.id();
        world.chain(client, 3);
        oddities.lock().unwrap().pends = true;
        let mut deletion = Box::pin(world.taskchampion.delete_client(client));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let ended = (0..times).any(|_| deletion.as_mut().poll(&mut context).is_ready());
        oddities.lock().unwrap().pends = false;
        if ended || world.child(client, Uuid::nil()) != Child::NoSuchClient {
            continue;
        }
        // Another completes it, and the client comes back onto the same parent.
        block_on(world.taskchampion.maintain(world.now_s * 1_000)).unwrap();
        let version = world.pushed(client, Uuid::nil(), b"anew");
        assert!(block_on(deletion).unwrap());
        assert_eq!(world.child(client, Uuid::nil()), Child::Found(version, b"anew".to_vec()));
        assert_sound(&store);
        overtaken += 1;
    }
    assert!(overtaken > 2, "{overtaken}");
}

#[test]
fn a_small_snapshot_that_is_damaged_is_an_error_at_once() {
    let world = World::new(Store::memory());
    let client = world.id();
    let chain = world.chain(client, 1);
    world.snapshot(client, chain[0], b"snapshot");
    let tenant = world.store.tenant("taskchampion-00").unwrap();
    let of_another = [&[1][..], world.id().as_bytes(), b"snapshot"].concat();
    for damage in [Some(of_another), Some(b"x".to_vec()), None] {
        match damage {
            Some(row) => tenant.put("taskchampion.snapshot", client, row).wait().unwrap(),
            None => assert!(tenant.delete("taskchampion.snapshot", client).wait().unwrap()),
        }
        let error = block_on(world.taskchampion.get_snapshot(client)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn a_snapshot_replaced_between_two_reads_is_read_anew() {
    let (store, oddities) = Odd::store();
    let world = World::new(store);
    let client = world.id();
    let chain = world.chain(client, 2);
    world.snapshot(client, chain[0], b"first");
    oddities.lock().unwrap().pends = true;
    let mut reading = Box::pin(world.taskchampion.get_snapshot(client));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    // It has read the client's row, which names the first one.
    assert!(reading.as_mut().poll(&mut context).is_pending());
    oddities.lock().unwrap().pends = false;
    world.snapshot(client, chain[1], b"second");
    match block_on(reading).unwrap().release() {
        GetSnapshot::Found { version, value } => {
            assert_eq!((version, block_on(value.collect()).unwrap()), (chain[1], b"second".to_vec()));
        }
        other => panic!("{other:?}"),
    }
}
