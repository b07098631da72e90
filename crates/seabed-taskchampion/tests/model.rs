//! Random programs of every request against a model that is written to be read.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what the helpers of a test cannot have fails the test"
)]

mod common;

use std::collections::BTreeMap;

use common::{Child, Current, DAY_S, START_S, World, assert_sound};
use pollster::block_on;
use proptest::prelude::*;
use seabed_kv::Store;
use seabed_taskchampion::{AddSnapshot, AddVersion, Config, DISCARDED_MS_MAX, Ignored, Urgency};
use uuid::Uuid;

/// The protocol over plain collections, one sentence of its rules after another.
#[derive(Debug, Default)]
struct Model {
    clients: BTreeMap<Uuid, Client>,
    now_s: u64,
}

#[derive(Debug, Default)]
struct Client {
    /// Parent, id and bytes, from the first to the latest.
    versions: Vec<(Uuid, Uuid, Vec<u8>)>,
    /// When each of them came.
    came_s: Vec<u64>,
    snapshot: Option<Snapshot>,
}

#[derive(Debug)]
struct Snapshot {
    version: Uuid,
    bytes: Vec<u8>,
    at_s: u64,
    since: u64,
}

impl Client {
    fn latest(&self) -> Uuid {
        self.versions.last().map_or(Uuid::nil(), |version| version.1)
    }
}

impl Model {
    /// The urgency of an accepted push, or the latest version of a conflict.
    fn push(
        &mut self,
        client: Uuid,
        parent: Uuid,
        version: Uuid,
        bytes: &[u8],
        config: &Config,
    ) -> Result<Urgency, Uuid> {
        let client = self.clients.entry(client).or_default();
        if client.latest() != Uuid::nil() && client.latest() != parent {
            return Err(client.latest());
        }
        let urgency = match &client.snapshot {
            None => Urgency::High,
            Some(snapshot) => {
                let days = (self.now_s - snapshot.at_s) / DAY_S;
                let (day_target, target) =
                    (u64::from(config.snapshot_days), u64::from(config.snapshot_versions));
                if days >= day_target * 3 / 2 || snapshot.since >= target * 3 / 2 {
                    Urgency::High
                } else if days >= day_target || snapshot.since >= target {
                    Urgency::Low
                } else {
                    Urgency::None
                }
            }
        };
        client.versions.push((parent, version, bytes.to_vec()));
        client.came_s.push(self.now_s);
        if let Some(snapshot) = &mut client.snapshot {
            snapshot.since += 1;
        }
        Ok(urgency)
    }

    fn snapshot(&mut self, client: Uuid, version: Uuid, bytes: &[u8]) -> AddSnapshot {
        let Some(client) = self.clients.get_mut(&client) else { return AddSnapshot::NoSuchClient };
        let current = client.snapshot.as_ref().map(|snapshot| snapshot.version);
        if current == Some(version) {
            return AddSnapshot::Ignored(Ignored::SameVersion);
        }
        // The newest five ids of the chain, where the first version's parent is the last link.
        let first = client.versions.first().map(|version| version.0);
        let ids = client.versions.iter().rev().map(|version| version.1).chain(first).take(5);
        for id in ids {
            if id == version && id != Uuid::nil() {
                client.snapshot =
                    Some(Snapshot { version, bytes: bytes.to_vec(), at_s: self.now_s, since: 0 });
                return AddSnapshot::Kept;
            }
            if current == Some(id) {
                return AddSnapshot::Ignored(Ignored::Older);
            }
        }
        AddSnapshot::Ignored(Ignored::TooOldOrUnknown)
    }

    /// The oldest versions go, up to the first that is too young or that the snapshot was taken at; answers how many.
    fn prune(&mut self, before_s: u64) -> u64 {
        let mut dropped = 0;
        for client in self.clients.values_mut() {
            let Some(snapshot) = &client.snapshot else { continue };
            // One that came just now: its predecessor may still be read.
            if snapshot.at_s + DISCARDED_MS_MAX / 1_000 >= self.now_s {
                continue;
            }
            // A snapshot of what the first version follows covers none.
            let covered = client.versions.iter().position(|version| version.1 == snapshot.version);
            let old = client.came_s.iter().take_while(|came_s| **came_s < before_s).count();
            let count = covered.unwrap_or(0).min(old);
            client.versions.drain(..count);
            client.came_s.drain(..count);
            dropped += count as u64;
        }
        dropped
    }

    fn child(&self, client: Uuid, parent: Uuid) -> Child {
        let Some(client) = self.clients.get(&client) else { return Child::NoSuchClient };
        match client.versions.iter().find(|version| version.0 == parent) {
            Some((_, id, bytes)) => Child::Found(*id, bytes.clone()),
            None if client.versions.is_empty() || client.latest() == parent => Child::UpToDate,
            None => Child::Gone,
        }
    }
}

/// Which version of a client a step is about.
#[derive(Debug, Clone, Copy)]
enum Which {
    Nil,
    Unknown,
    /// So many back from the latest, as far as there are.
    Back(usize),
}

#[derive(Debug, Clone)]
enum Step {
    Push { client: usize, parent: Which, size: usize },
    Snapshot { client: usize, version: Which, size: usize },
    Child { client: usize, parent: Which },
    GetSnapshot { client: usize },
    Delete { client: usize },
    Prune { days: u64 },
    Wait { seconds: u64 },
    Maintain,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let client = 0..3_usize;
    let which = prop_oneof![
        1 => Just(Which::Nil),
        1 => Just(Which::Unknown),
        6 => Just(Which::Back(0)),
        3 => (1..8_usize).prop_map(Which::Back),
    ];
    let size = prop_oneof![8 => 1..40_usize, 2 => 1_900..2_000_usize, 1 => 10_000..20_000_usize];
    let step = prop_oneof![
        12 => (client.clone(), which.clone(), size.clone())
            .prop_map(|(client, parent, size)| Step::Push { client, parent, size }),
        5 => (client.clone(), which.clone(), size)
            .prop_map(|(client, version, size)| Step::Snapshot { client, version, size }),
        4 => (client.clone(), which).prop_map(|(client, parent)| Step::Child { client, parent }),
        2 => client.clone().prop_map(|client| Step::GetSnapshot { client }),
        1 => client.prop_map(|client| Step::Delete { client }),
        2 => (0..20_u64).prop_map(|days| Step::Prune { days }),
        2 => (0..10 * DAY_S).prop_map(|seconds| Step::Wait { seconds }),
        1 => Just(Step::Maintain),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..80)
}

fn run(steps: Vec<Step>) {
    let config = Config { snapshot_versions: 4, ..Config::default() };
    let mut world = World::with(Store::memory(), config.clone());
    let mut model = Model { now_s: START_S, ..Model::default() };
    let clients = [world.id(), world.id(), world.id()];
    for (number, step) in steps.into_iter().enumerate() {
        let resolve = |model: &Model, client: Uuid, which| match which {
            Which::Nil => Uuid::nil(),
            Which::Unknown => Uuid::from_u128(7),
            Which::Back(back) => {
                let versions = model.clients.get(&client).map_or(&[][..], |client| &client.versions);
                versions.iter().rev().nth(back).or(versions.last()).map_or(Uuid::nil(), |version| version.1)
            }
        };
        let bytes = |size| vec![u8::try_from(number % 256).unwrap(); size];
        match step {
            Step::Push { client, parent, size } => {
                let (client, bytes) = (clients[client], bytes(size));
                let parent = resolve(&model, client, parent);
                let found = world.push(client, parent, &bytes);
                // The model takes the id that the server made.
                let version = match found {
                    AddVersion::Added { version, .. } => version,
                    _ => Uuid::nil(),
                };
                let expected = match model.push(client, parent, version, &bytes, &config) {
                    Ok(urgency) => AddVersion::Added { version, urgency },
                    Err(latest) => AddVersion::Conflict { latest },
                };
                assert_eq!(found, expected);
            }
            Step::Snapshot { client, version, size } => {
                let (client, bytes) = (clients[client], bytes(size));
                let version = resolve(&model, client, version);
                assert_eq!(world.snapshot(client, version, &bytes), model.snapshot(client, version, &bytes));
            }
            Step::Child { client, parent } => {
                let parent = resolve(&model, clients[client], parent);
                assert_eq!(world.child(clients[client], parent), model.child(clients[client], parent));
            }
            Step::GetSnapshot { client } => {
                let expected = match model.clients.get(&clients[client]).map(|client| &client.snapshot) {
                    Some(Some(snapshot)) => Current::Found(snapshot.version, snapshot.bytes.clone()),
                    Some(None) => Current::NoSnapshot,
                    None => Current::NoSuchClient,
                };
                assert_eq!(world.current_snapshot(clients[client]), expected);
            }
            Step::Delete { client } => {
                let deleted = block_on(world.taskchampion.delete_client(clients[client])).unwrap();
                assert_eq!(deleted, model.clients.remove(&clients[client]).is_some());
            }
            Step::Prune { days } => {
                let before_s = world.now_s - days * DAY_S;
                let pruned = block_on(world.taskchampion.prune(None, before_s, world.now_s * 1_000)).unwrap();
                assert_eq!((pruned.versions, pruned.skipped.len()), (model.prune(before_s), 0));
            }
            Step::Wait { seconds } => {
                world.now_s += seconds;
                model.now_s += seconds;
            }
            Step::Maintain => {
                block_on(world.taskchampion.maintain(world.now_s * 1_000)).unwrap();
            }
            Step::Reopen => {
                world.taskchampion =
                    block_on(seabed_taskchampion::TaskChampion::open(&world.store, config.clone())).unwrap();
            }
        }
    }
    assert_sound(&world.store);
    for client in clients {
        let versions = block_on(world.taskchampion.versions(client)).unwrap();
        let found: Vec<_> = versions.iter().map(|version| (version.parent, version.version)).collect();
        let expected: Vec<_> = model
            .clients
            .get(&client)
            .map_or(&[][..], |client| &client.versions)
            .iter()
            .map(|version| (version.0, version.1))
            .collect();
        assert_eq!(found, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_programs_do_what_the_model_does(steps in steps()) {
        run(steps);
    }
}
