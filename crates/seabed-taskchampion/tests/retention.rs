//! Versions that a snapshot covers are dropped, oldest first; nobody is stranded, nothing else is touched, and whatever
//! cuts it off leaves a whole chain.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what the helpers of a test cannot have fails the test"
)]

mod common;

use common::{Child, Current, DAY_S, Fault, Odd, START_S, World, assert_sound, poll_times, rows, stores};
use pollster::block_on;
use seabed_kv::{ErrorKind, Store};
use seabed_taskchampion::{
    AddSnapshot, AddVersion, Config, DISCARDED_MS_MAX, GetSnapshot, Ignored, PruneReport, RETENTION_MS,
    verify,
};
use uuid::Uuid;

/// After everything that the tests push at `START_S`.
const LATER_S: u64 = START_S + 1;

/// When the tests drop versions: everything they have uploaded counts.
const NOW_MS: u64 = (START_S + 20 * DAY_S) * 1_000;

fn prune(world: &World, before_unix_s: u64) -> PruneReport {
    let foretold = block_on(world.taskchampion.prunable(None, before_unix_s, NOW_MS)).unwrap();
    let report = block_on(world.taskchampion.prune(None, before_unix_s, NOW_MS)).unwrap();
    assert_eq!(report, foretold, "the dry run says what is done");
    report
}

/// A client with ten versions, some large, and a snapshot at the seventh of them; it came with four after it.
fn covered(world: &World, client: Uuid) -> Vec<Uuid> {
    let mut chain: Vec<Uuid> = Vec::new();
    for number in 0..10_u8 {
        let length = if number % 3 == 1 { 20_000 } else { 10 };
        let parent = chain.last().copied().unwrap_or_default();
        chain.push(world.pushed(client, parent, &vec![number; length]));
    }
    assert_eq!(world.snapshot(client, chain[6], b"snapshot"), AddSnapshot::Kept);
    chain
}

#[test]
fn what_the_snapshot_covers_goes_and_the_rest_stays() {
    for (kind, store, _directory) in stores() {
        let world = World::new(store);
        let (client, bare) = (world.id(), world.id());
        let chain = covered(&world, client);
        let without = world.chain(bare, 5);

        let report = prune(&world, LATER_S);
        assert_eq!((report.versions, report.version_bytes), (6, 2 * 20_000 + 4 * 10), "{kind}");
        assert_eq!((report.clients.len(), report.clients[0].client, report.skipped.len()), (1, client, 0));
        assert_sound(&world.store);

        // The snapshot's own version stays, with the bytes that lead to it, and everything after it.
        assert_eq!(world.child(client, chain[5]), Child::Found(chain[6], vec![6; 10]));
        assert_eq!(world.child(client, chain[6]), Child::Found(chain[7], vec![7; 20_000]));
        assert_eq!(world.child(client, chain[9]), Child::UpToDate);
        assert_eq!(world.current_snapshot(client), Current::Found(chain[6], b"snapshot".to_vec()));
        // Without a snapshot nothing goes.
        assert!(matches!(world.child(bare, Uuid::nil()), Child::Found(version, _) if version == without[0]));

        let info = block_on(world.taskchampion.client(client)).unwrap().unwrap();
        assert_eq!((info.versions, info.dropped_versions, info.dropped_bytes), (4, 6, 40_040));
        assert_eq!(info.version_bytes, 20_000 + 30);
        assert_eq!(block_on(world.taskchampion.versions(client)).unwrap().len(), 4);

        // Again nothing; and with the next snapshot more.
        assert_eq!(prune(&world, LATER_S), PruneReport::default());
        assert_eq!(world.snapshot(client, chain[8], b"newer"), AddSnapshot::Kept);
        assert_eq!(prune(&world, LATER_S).versions, 2);
        let info = block_on(world.taskchampion.client(client)).unwrap().unwrap();
        assert_eq!((info.versions, info.dropped_versions), (2, 8));
        assert_sound(&world.store);

        // What large versions had in chunks is gone with the next sweep, and the rows with their client.
        block_on(world.taskchampion.maintain(NOW_MS + DAY_S * 1_000)).unwrap();
        let left = rows(&world.store);
        let chunks = |left: &std::collections::BTreeMap<(String, Vec<u8>), Vec<u8>>| {
            left.keys().filter(|(category, _)| category == "taskchampion.chunk").count()
        };
        assert_eq!(chunks(&left), 0, "{kind}: the large ones were all before the snapshot");
        assert!(block_on(world.taskchampion.delete_client(client)).unwrap());
        assert!(!rows(&world.store).keys().any(|(_, key)| key.starts_with(client.as_bytes())), "{kind}");
        assert_sound(&world.store);
    }
}

/// 404 would tell a stale replica that it is up to date; it would push, and be told the conflict, for ever.
#[test]
fn who_still_needs_a_dropped_version_is_told_that_it_is_gone() {
    let world = World::new(Store::memory());
    let client = world.id();
    let chain = covered(&world, client);
    prune(&world, LATER_S);
    for base in [Uuid::nil(), chain[0], chain[1], chain[4], world.id()] {
        assert_eq!(world.child(client, base), Child::Gone, "{base}");
        assert_eq!(world.push(client, base, b"stale"), AddVersion::Conflict { latest: chain[9] });
        assert_eq!(world.child(client, base), Child::Gone, "also after its push");
    }
    // Snapshots of versions that are gone, or nil, or unknown, are ignored; the walk that meets the beginning too.
    for version in [chain[0], chain[4], Uuid::nil(), world.id()] {
        assert!(matches!(world.snapshot(client, version, b"old"), AddSnapshot::Ignored(_)), "{version}");
    }
    assert_eq!(world.snapshot(client, chain[6], b"again"), AddSnapshot::Ignored(Ignored::SameVersion));

    // As short as a chain can become: the snapshot is of the latest version.
    assert_eq!(world.snapshot(client, chain[9], b"latest"), AddSnapshot::Kept);
    assert_eq!(prune(&world, LATER_S).versions, 3);
    assert_eq!(world.child(client, chain[9]), Child::UpToDate);
    assert!(matches!(world.child(client, chain[8]), Child::Found(..)));
    for base in [Uuid::nil(), chain[7], world.id()] {
        assert_eq!(world.child(client, base), Child::Gone, "{base}");
        // The walk runs into the beginning.
        assert!(matches!(world.snapshot(client, base, b"old"), AddSnapshot::Ignored(_)));
    }
    let next = world.pushed(client, chain[9], b"and on");
    assert_eq!(world.child(client, chain[9]), Child::Found(next, b"and on".to_vec()));
    assert_sound(&world.store);
}

#[test]
fn only_what_is_old_enough_goes_and_never_past_a_younger_one() {
    let mut world = World::new(Store::memory());
    let client = world.id();
    let mut chain: Vec<Uuid> = Vec::new();
    // Days 0 to 5, but for the third, whose clock stood still at a later day.
    for day in [0, 1, 4, 3, 4, 5] {
        world.now_s = START_S + day * DAY_S;
        let parent = chain.last().copied().unwrap_or_default();
        chain.push(world.pushed(client, parent, b"x"));
    }
    assert_eq!(world.snapshot(client, chain[5], b"snapshot"), AddSnapshot::Kept);
    assert_eq!(prune(&world, START_S).versions, 0, "not older than itself");
    assert_eq!(prune(&world, START_S + 1).versions, 1);
    assert_eq!(prune(&world, START_S + 4 * DAY_S).versions, 1, "the third is younger, and stops it");
    assert_eq!(prune(&world, START_S + 9 * DAY_S).versions, 3);
    assert_eq!(prune(&world, u64::MAX).versions, 0);
    assert_sound(&world.store);
}

#[test]
fn a_snapshot_before_the_first_version_covers_nothing() {
    // A replica that moved here pushed onto what it had, and uploaded a snapshot of just that.
    let world = World::new(Store::memory());
    let (client, elsewhere) = (world.id(), world.id());
    let first = world.pushed(client, elsewhere, b"first here");
    let second = world.pushed(client, first, b"second");
    assert_eq!(world.snapshot(client, elsewhere, b"snapshot"), AddSnapshot::Kept);
    assert_eq!(prune(&world, LATER_S).versions, 0);
    // And a chain that begins elsewhere loses its beginning like any other.
    assert_eq!(world.snapshot(client, second, b"snapshot"), AddSnapshot::Kept);
    assert_eq!(prune(&world, LATER_S).versions, 1);
    assert_eq!(world.child(client, elsewhere), Child::Gone);
    assert_sound(&world.store);
}

/// Only the snapshot has what is dropped: when it cannot be read, the versions are all there is.
#[test]
fn nothing_is_dropped_for_a_snapshot_that_cannot_be_read() {
    let refused = |world: &World, client: Uuid| {
        let before = rows(&world.store);
        let report = prune(world, LATER_S);
        assert_eq!((report.versions, report.skipped.len(), report.skipped[0].client), (0, 1, client));
        let why = &report.skipped[0].why;
        assert!(why.contains("snapshot cannot be read whole") && why.contains("seabed verify"), "{why}");
        assert_eq!(rows(&world.store), before);
    };
    // In a row: gone, short, of another version.
    let world = World::new(Store::memory());
    let client = world.id();
    covered(&world, client);
    let tenant = world.store.tenant("taskchampion-00").unwrap();
    let (category, key) = ("taskchampion.snapshot", client.as_bytes());
    let row = tenant.get(category, key).wait().unwrap().unwrap();
    tenant.delete(category, key).wait().unwrap();
    refused(&world, client);
    tenant.put(category, key, &row[..row.len() - 1]).wait().unwrap();
    refused(&world, client);
    let mut other = row.clone();
    other[5] ^= 1;
    tenant.put(category, key, other).wait().unwrap();
    refused(&world, client);
    tenant.put(category, key, row).wait().unwrap();
    assert_eq!(prune(&world, LATER_S).versions, 6);
    assert_sound(&world.store);

    // In chunks: one of them gone, wherever it was.
    let world = World::new(Store::memory());
    let client = world.id();
    let chain = world.chain(client, 5);
    assert_eq!(world.snapshot(client, chain[3], &vec![7; 500_000]), AddSnapshot::Kept);
    let tenant = world.store.tenant("taskchampion-00").unwrap();
    let category = "taskchampion.chunk";
    let chunks: Vec<_> = rows(&world.store).into_iter().filter(|((found, _), _)| found == category).collect();
    assert!(chunks.len() > 2);
    for ((_, key), bytes) in [&chunks[0], &chunks[chunks.len() / 2], &chunks[chunks.len() - 1]] {
        tenant.delete(category, key).wait().unwrap();
        refused(&world, client);
        tenant.put(category, key, bytes.clone()).wait().unwrap();
    }
    assert_eq!(prune(&world, LATER_S).versions, 3);
    assert_sound(&world.store);
}

/// A new device reads a snapshot that is replaced meanwhile, and then asks for what follows it.
#[test]
fn who_is_reading_a_snapshot_that_was_replaced_finds_what_follows_it() {
    let mut world = World::new(Store::memory());
    let client = world.id();
    let chain = world.chain(client, 10);
    let bytes = vec![7; 200_000];
    assert_eq!(world.snapshot(client, chain[5], &bytes), AddSnapshot::Kept);
    world.now_s += DAY_S;
    let found = block_on(world.taskchampion.get_snapshot(client)).unwrap().release();
    let GetSnapshot::Found { version, value } = found else { panic!("{found:?}") };
    assert_eq!(world.snapshot(client, chain[9], b"newer"), AddSnapshot::Kept);

    // As long as the replaced one may be read, nothing goes, not even what both cover.
    let now_ms = world.now_s * 1_000;
    for now_ms in [0, now_ms - 1, now_ms, now_ms + DISCARDED_MS_MAX] {
        let taskchampion = &world.taskchampion;
        assert_eq!(block_on(taskchampion.prunable(None, LATER_S, now_ms)).unwrap(), PruneReport::default());
        assert_eq!(block_on(taskchampion.prune(None, LATER_S, now_ms)).unwrap(), PruneReport::default());
    }
    block_on(world.taskchampion.maintain(now_ms + DISCARDED_MS_MAX)).unwrap();
    assert_eq!(block_on(value.collect()).unwrap(), bytes);
    assert!(matches!(world.child(client, version), Child::Found(found, _) if found == chain[6]));

    let now_ms = now_ms + DISCARDED_MS_MAX + 1;
    assert_eq!(block_on(world.taskchampion.prunable(None, LATER_S, now_ms)).unwrap().versions, 9);
    assert_eq!(block_on(world.taskchampion.prune(None, LATER_S, now_ms)).unwrap().versions, 9);
    assert_eq!(world.child(client, version), Child::Gone);
    assert_sound(&world.store);
}

#[test]
fn a_gap_is_found_and_not_widened() {
    let world = World::new(Store::memory());
    let client = world.id();
    let chain = covered(&world, client);
    prune(&world, LATER_S);
    let tenant = world.store.tenant("taskchampion-00").unwrap();
    let key = |version: Uuid| [client.as_bytes().as_slice(), version.as_bytes()].concat();
    let findings = || block_on(verify(&tenant)).unwrap().findings.join("\n");

    // The first that is left is lost too: more is missing than was dropped.
    let version = tenant.get("taskchampion.version", key(chain[5])).wait().unwrap().unwrap();
    let parent = tenant.get("taskchampion.parent", key(chain[6])).wait().unwrap().unwrap();
    tenant.delete("taskchampion.version", key(chain[5])).wait().unwrap();
    tenant.delete("taskchampion.parent", key(chain[6])).wait().unwrap();
    let found = findings();
    assert!(
        found.contains(&format!("up to {} were dropped", chain[5])) && found.contains("counts 4"),
        "{found}"
    );
    // Whoever prunes a damaged chain hides the damage.
    assert_eq!(world.snapshot(client, chain[9], b"latest"), AddSnapshot::Kept);
    let report = prune(&world, LATER_S);
    assert_eq!((report.versions, report.skipped.len(), report.skipped[0].client), (0, 1, client));
    assert!(report.skipped[0].why.contains("seabed verify"), "{report:?}");

    tenant.put("taskchampion.version", key(chain[5]), version).wait().unwrap();
    tenant.put("taskchampion.parent", key(chain[6]), parent).wait().unwrap();
    assert_sound(&world.store);
    assert_eq!(prune(&world, LATER_S).versions, 3);

    // What was dropped is not as it is written.
    let row = tenant.get("taskchampion.dropped", client.as_bytes()).wait().unwrap().unwrap();
    tenant.put("taskchampion.dropped", client.as_bytes(), &row[1..]).wait().unwrap();
    assert!(findings().contains("taskchampion.dropped does not read"), "{}", findings());
    tenant.put("taskchampion.dropped", client.as_bytes(), row.as_slice()).wait().unwrap();
    tenant.put("taskchampion.dropped", world.id().as_bytes(), row).wait().unwrap();
    assert!(findings().contains("taskchampion.dropped: rows of client"), "{}", findings());
}

#[test]
fn it_may_be_cut_off_anywhere_and_others_may_be_quicker() {
    // Dropped at any poll: what is left is whole, and the next one goes on.
    for polls in 0..200 {
        let (store, oddities) = Odd::store();
        let world = World::new(store.clone());
        let client = world.id();
        let chain = covered(&world, client);
        oddities.lock().unwrap().pends = true;
        let done = poll_times(world.taskchampion.prune(None, LATER_S, NOW_MS), polls).is_some();
        oddities.lock().unwrap().pends = false;
        assert_sound(&store);
        prune(&world, LATER_S);
        assert_sound(&store);
        assert_eq!(world.child(client, chain[4]), Child::Gone);
        assert!(matches!(world.child(client, chain[5]), Child::Found(..)));
        if done {
            break;
        }
        assert!(polls < 199, "it takes fewer polls");
    }
    // Refused because somebody pushed, failed, or nobody knows: nothing is dropped twice, or miscounted.
    for fault in [
        Fault::Refused,
        Fault::NotApplied(ErrorKind::Backend),
        Fault::AppliedUnknown,
        Fault::NotAppliedUnknown,
    ] {
        let (store, oddities) = Odd::store();
        let world = World::new(store.clone());
        let client = world.id();
        covered(&world, client);
        oddities.lock().unwrap().faults = vec![fault];
        let pruned = block_on(world.taskchampion.prune(None, LATER_S, NOW_MS));
        assert_eq!(pruned.is_ok(), fault == Fault::Refused, "{fault:?}");
        assert_sound(&store);
        prune(&world, LATER_S);
        let info = block_on(world.taskchampion.client(client)).unwrap().unwrap();
        assert_eq!((info.versions, info.dropped_versions), (4, 6), "{fault:?}");
        assert_sound(&store);
    }
}

#[test]
fn a_long_history_goes_in_steps_from_its_beginning() {
    let (store, oddities) = Odd::store();
    let world = World::new(store.clone());
    let client = world.id();
    let chain = world.chain(client, 700);
    assert_eq!(world.snapshot(client, chain[699], b"snapshot"), AddSnapshot::Kept);
    // The second step fails: the first is done, and what it left is a chain.
    {
        let mut oddities = oddities.lock().unwrap();
        (oddities.faults, oddities.faults_after) = (vec![Fault::NotApplied(ErrorKind::Backend)], 1);
    }
    let report = block_on(world.taskchampion.prune(None, LATER_S, NOW_MS)).unwrap();
    assert_eq!((report.versions, report.clients[0].versions), (256, 256), "what is gone is told");
    assert!(report.stopped.is_some_and(|why| !why.is_empty()), "and that the rest is not");
    let versions = block_on(world.taskchampion.versions(client)).unwrap();
    assert_eq!((versions.len(), versions[0].parent), (700 - 256, chain[255]));
    assert_sound(&store);
    assert_eq!(prune(&world, LATER_S).versions, 699 - 256);
    assert_sound(&store);
    let info = block_on(world.taskchampion.client(client)).unwrap().unwrap();
    assert_eq!((info.versions, info.dropped_versions), (1, 699));
}

#[test]
fn pushes_snapshots_readers_and_verification_go_on_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::new(Store::sqlite(directory.path()).unwrap());
    let client = world.id();
    let first = world.pushed(client, Uuid::nil(), b"first");
    std::thread::scope(|scope| {
        let pushing = scope.spawn(|| {
            let mut latest = first;
            for number in 0..400_usize {
                latest = world.pushed(client, latest, &vec![7; 1 + number % 3 * 1_500]);
                if number % 20 == 0 {
                    assert_eq!(world.snapshot(client, latest, b"snapshot"), AddSnapshot::Kept);
                }
            }
            latest
        });
        while !pushing.is_finished() {
            block_on(world.taskchampion.prune(None, LATER_S, NOW_MS)).unwrap();
            assert_sound(&world.store);
            assert_eq!(world.child(client, world.id()), Child::Gone);
            // Who begins from the snapshot finds everything after it.
            let Current::Found(snapshot, _) = world.current_snapshot(client) else { continue };
            assert_ne!(world.child(client, snapshot), Child::Gone);
        }
        pushing.join().unwrap();
    });
    block_on(world.taskchampion.prune(None, LATER_S, NOW_MS)).unwrap();
    assert_sound(&world.store);
    let info = block_on(world.taskchampion.client(client)).unwrap().unwrap();
    assert_eq!(info.versions + info.dropped_versions, 401);
    assert_eq!(info.versions, 20, "the snapshot's version, and nineteen after it");
}

#[test]
fn maintenance_does_it_once_an_hour_when_it_is_asked_to() {
    for (days, dropped) in [(None, 0), (Some(30), 6), (Some(32), 0)] {
        let world = World::with(Store::memory(), Config { retention_days: days, ..Config::default() });
        let client = world.id();
        let chain = covered(&world, client);
        let now_ms = (START_S + 31 * DAY_S) * 1_000;
        let of_client = || block_on(world.taskchampion.client(client)).unwrap().unwrap().dropped_versions;
        block_on(world.taskchampion.maintain(now_ms)).unwrap();
        assert_eq!(of_client(), dropped, "{days:?}");
        world.snapshot(client, chain[9], b"latest");
        block_on(world.taskchampion.maintain(now_ms + RETENTION_MS - 1)).unwrap();
        assert_eq!(of_client(), dropped, "not yet again");
        block_on(world.taskchampion.maintain(now_ms + RETENTION_MS)).unwrap();
        assert_eq!(of_client(), if dropped > 0 { 9 } else { 0 }, "{days:?}");
        assert_sound(&world.store);
    }
}
