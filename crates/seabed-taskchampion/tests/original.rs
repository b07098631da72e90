//! The original server's own protocol logic as the oracle: random programs get the same answers from both.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what the helpers of a test cannot have fails the test"
)]

mod common;

use std::collections::BTreeMap;

use common::{Child, Current, World, assert_sound};
use pollster::block_on;
use proptest::prelude::*;
use seabed_kv::Store;
use seabed_taskchampion::{AddSnapshot, AddVersion, Config, Urgency};
use taskchampion_sync_server_core::{
    AddVersionResult, GetVersionResult, InMemoryStorage, Server, ServerConfig, ServerError, SnapshotUrgency,
};
use uuid::Uuid;

const SNAPSHOT_VERSIONS: u32 = 4;

/// Both servers, and which of the original's version ids is which of ours: each makes its own.
struct Both {
    ours: World,
    original: Server,
    theirs: BTreeMap<Uuid, Uuid>,
}

impl Both {
    fn new() -> Self {
        let config = Config { snapshot_versions: SNAPSHOT_VERSIONS, ..Config::default() };
        let original = ServerConfig { snapshot_versions: SNAPSHOT_VERSIONS, ..ServerConfig::default() };
        Self {
            ours: World::with(Store::memory(), config),
            original: Server::new(original, InMemoryStorage::new()),
            theirs: BTreeMap::new(),
        }
    }

    /// What the original calls that version of ours; an id that no server made is the same to both.
    fn their(&self, ours: Uuid) -> Uuid {
        self.theirs.get(&ours).copied().unwrap_or(ours)
    }

    /// As the original's HTTP layer pushes: an unknown client is created, and then it pushes again.
    fn push_to_original(
        &self,
        client: Uuid,
        parent: Uuid,
        bytes: &[u8],
    ) -> (AddVersionResult, SnapshotUrgency) {
        loop {
            match block_on(self.original.add_version(client, self.their(parent), bytes.to_vec())) {
                Ok(answer) => return answer,
                Err(ServerError::NoSuchClient) => block_on(async {
                    let mut txn = self.original.txn(client).await.unwrap();
                    txn.new_client(Uuid::nil()).await.unwrap();
                    txn.commit().await.unwrap();
                }),
                Err(error) => panic!("the original failed: {error}"),
            }
        }
    }

    fn push(&mut self, client: Uuid, parent: Uuid, bytes: &[u8]) {
        let expected = self.push_to_original(client, parent, bytes);
        match (self.ours.push(client, parent, bytes), expected) {
            (AddVersion::Added { version, urgency }, (AddVersionResult::Ok(their), their_urgency)) => {
                self.theirs.insert(version, their);
                let their_urgency = match their_urgency {
                    SnapshotUrgency::None => Urgency::None,
                    SnapshotUrgency::Low => Urgency::Low,
                    SnapshotUrgency::High => Urgency::High,
                };
                assert_eq!(urgency, their_urgency);
            }
            (AddVersion::Conflict { latest }, (AddVersionResult::ExpectedParentVersion(their), _)) => {
                assert_eq!(self.their(latest), their);
            }
            (ours, original) => panic!("ours: {ours:?}, the original: {original:?}"),
        }
    }

    /// The original does not tell whether it kept a snapshot; what it then has does.
    fn snapshot(&self, client: Uuid, version: Uuid, bytes: &[u8]) {
        let original = block_on(self.original.add_snapshot(client, self.their(version), bytes.to_vec()));
        let ours = self.ours.snapshot(client, version, bytes);
        assert_eq!(ours == AddSnapshot::NoSuchClient, matches!(original, Err(ServerError::NoSuchClient)));
        self.compare_snapshots(client);
    }

    fn compare_snapshots(&self, client: Uuid) {
        let expected = match block_on(self.original.get_snapshot(client)) {
            Ok(Some((version, bytes))) => Current::Found(version, bytes),
            Ok(None) => Current::NoSnapshot,
            Err(ServerError::NoSuchClient) => Current::NoSuchClient,
            Err(error) => panic!("the original failed: {error}"),
        };
        let ours = match self.ours.current_snapshot(client) {
            Current::Found(version, bytes) => Current::Found(self.their(version), bytes),
            other => other,
        };
        assert_eq!(ours, expected);
    }

    fn compare_children(&self, client: Uuid, parent: Uuid) {
        let expected = match block_on(self.original.get_child_version(client, self.their(parent))) {
            Ok(GetVersionResult::Success { version_id, history_segment, .. }) => {
                Child::Found(version_id, history_segment)
            }
            Ok(GetVersionResult::NotFound) => Child::UpToDate,
            Ok(GetVersionResult::Gone) => Child::Gone,
            Err(ServerError::NoSuchClient) => Child::NoSuchClient,
            Err(error) => panic!("the original failed: {error}"),
        };
        let ours = match self.ours.child(client, parent) {
            Child::Found(version, bytes) => Child::Found(self.their(version), bytes),
            other => other,
        };
        assert_eq!(ours, expected);
    }
}

/// A step about a client and one of its versions: so many back from the latest, or, past the first one, an id that both take
/// for the same.
#[derive(Debug, Clone, Copy)]
enum Step {
    Push(usize, usize),
    Snapshot(usize, usize),
    Child(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let back = prop_oneof![4 => Just(0_usize), 3 => 1..9_usize];
    prop_oneof![
        4 => (0..2_usize, prop_oneof![5 => Just(0), 1 => back.clone()])
            .prop_map(|(client, back)| Step::Push(client, back)),
        2 => (0..2_usize, back.clone()).prop_map(|(client, back)| Step::Snapshot(client, back)),
        1 => (0..2_usize, back).prop_map(|(client, back)| Step::Child(client, back)),
    ]
}

fn run(bases: [Uuid; 2], steps: &[Step]) {
    let mut both = Both::new();
    let clients = [both.ours.id(), both.ours.id()];
    for (number, step) in steps.iter().enumerate() {
        let bytes = number.to_be_bytes().repeat(if number % 5 == 0 { 300 } else { 1 });
        let resolve = |both: &Both, client: usize, back: usize| {
            let versions = block_on(both.ours.taskchampion.versions(clients[client])).unwrap();
            let past = [bases[client], Uuid::from_u128(7), Uuid::nil()];
            let mut ids = versions.iter().rev().map(|version| version.version).chain(past);
            ids.nth(back).unwrap_or_default()
        };
        match *step {
            Step::Push(client, back) => {
                let parent = resolve(&both, client, back);
                both.push(clients[client], parent, &bytes);
            }
            Step::Snapshot(client, back) => {
                let version = resolve(&both, client, back);
                both.snapshot(clients[client], version, &bytes);
            }
            Step::Child(client, back) => {
                let parent = resolve(&both, client, back);
                both.compare_children(clients[client], parent);
            }
        }
        for client in clients {
            both.compare_snapshots(client);
            both.compare_children(client, bases[0]);
        }
    }
    assert_sound(&both.ours.store);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_servers_answer_alike(
        nil in any::<bool>(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        // A client whose history began here, or on another server.
        let base = if nil { Uuid::nil() } else { Uuid::from_u128(0xBA5E) };
        run([base, Uuid::from_u128(0xBA5E)], &steps);
    }
}
