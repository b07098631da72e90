//! The original server's own protocol logic as the oracle: random programs get the same answers from it and from our rules.
//!
//! It runs over its own storage in memory, over ours on a store of its own, and over ours in the very store that our rules use, for
//! other clients. A failure prints the seed of its program; `SEABED_TEST_SEED` runs that program alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what the helpers of a test cannot have fails the test"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use common::{Child, Current, World, assert_sound};
use pollster::block_on;
use seabed_kv::Store;
use seabed_taskchampion::{AddSnapshot, AddVersion, ClientInfo, Config, Ignored, TaskChampion, Urgency};
use seabed_testkit::Rng;
use taskchampion_sync_server_core::{
    AddVersionResult, Client, GetVersionResult, InMemoryStorage, Server, ServerConfig, ServerError, Snapshot,
    SnapshotUrgency, Storage, StorageTxn, Version,
};
use uuid::Uuid;

const CLIENTS: usize = 5;
const STEPS: usize = 500;

/// What the original keeps its data in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// Its own storage for tests.
    InMemory,
    /// Our storage, on a store of its own.
    Apart,
    /// Our storage, on the store and in the tenant that our rules use, for clients of its own.
    Shared,
}

/// A storage under a clock of the test's. The original asks the system for the time, so it is told of snapshots that are as old
/// by the system's clock as they are by the test's.
struct Moved {
    storage: Arc<dyn Storage>,
    now_s: Arc<AtomicU64>,
}

struct MovedTxn<'a> {
    txn: Box<dyn StorageTxn + 'a>,
    now_s: u64,
}

#[async_trait::async_trait]
impl Storage for Moved {
    async fn txn(&self, client_id: Uuid) -> anyhow::Result<Box<dyn StorageTxn + '_>> {
        let now_s = self.now_s.load(Ordering::Relaxed);
        Ok(Box::new(MovedTxn { txn: self.storage.txn(client_id).await?, now_s }))
    }
}

#[async_trait::async_trait(?Send)]
impl StorageTxn for MovedTxn<'_> {
    async fn get_client(&mut self) -> anyhow::Result<Option<Client>> {
        let mut client = self.txn.get_client().await?;
        if let Some(snapshot) = client.as_mut().and_then(|client| client.snapshot.as_mut()) {
            let age_s = self.now_s.cast_signed() - snapshot.timestamp.timestamp();
            snapshot.timestamp = Utc::now() - TimeDelta::seconds(age_s);
        }
        Ok(client)
    }

    async fn new_client(&mut self, latest_version_id: Uuid) -> anyhow::Result<()> {
        self.txn.new_client(latest_version_id).await
    }

    async fn set_snapshot(&mut self, snapshot: Snapshot, data: Vec<u8>) -> anyhow::Result<()> {
        let timestamp = DateTime::from_timestamp(self.now_s.cast_signed(), 0).expect("a time");
        self.txn.set_snapshot(Snapshot { timestamp, ..snapshot }, data).await
    }

    async fn get_snapshot_data(&mut self, version_id: Uuid) -> anyhow::Result<Option<Vec<u8>>> {
        self.txn.get_snapshot_data(version_id).await
    }

    async fn get_version_by_parent(&mut self, parent_version_id: Uuid) -> anyhow::Result<Option<Version>> {
        self.txn.get_version_by_parent(parent_version_id).await
    }

    async fn get_version(&mut self, version_id: Uuid) -> anyhow::Result<Option<Version>> {
        self.txn.get_version(version_id).await
    }

    async fn add_version(
        &mut self,
        version_id: Uuid,
        parent_version_id: Uuid,
        history_segment: Vec<u8>,
    ) -> anyhow::Result<()> {
        self.txn.add_version(version_id, parent_version_id, history_segment).await
    }

    async fn commit(&mut self) -> anyhow::Result<()> {
        self.txn.commit().await
    }
}

/// An id as our rules know it and as the original does: each makes its own version ids, and in a shared store clients are apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Id {
    ours: Uuid,
    theirs: Uuid,
}

impl Id {
    fn same(id: Uuid) -> Self {
        Self { ours: id, theirs: id }
    }
}

/// Both servers, and what was pushed to them.
struct Both {
    rng: Rng,
    kept: Kept,
    ours: World,
    original: Server,
    /// Where the original keeps its data, unless in memory: ours for it.
    taskchampion: Option<TaskChampion>,
    in_memory: Arc<dyn Storage>,
    store: Store,
    now_s: Arc<AtomicU64>,
    clients: Vec<Id>,
    /// Each client's versions, from the first to the latest.
    chains: Vec<Vec<Id>>,
    /// What the original calls each version of ours.
    theirs: BTreeMap<Uuid, Uuid>,
    /// Which kinds of answers there were.
    seen: BTreeSet<&'static str>,
}

/// Every kind of answer: what a run of many programs must have compared.
const ANSWERS: [&str; 14] = [
    "added, urgency none",
    "added, urgency low",
    "added, urgency high",
    "conflict",
    "push: no such client",
    "snapshot kept",
    "snapshot: same version",
    "snapshot: older",
    "snapshot: too old or unknown",
    "snapshot: no such client",
    "child found",
    "up to date",
    "gone",
    "child: no such client",
];

impl Both {
    fn new(seed: u64, kept: Kept, store: Store) -> Self {
        let ours = World::new(store.clone());
        let store = if kept == Kept::Apart { Store::memory() } else { store };
        let client = |_| {
            let client = Id::same(ours.id());
            Id { theirs: if kept == Kept::Shared { ours.id() } else { client.theirs }, ..client }
        };
        let mut both = Self {
            rng: Rng::new(seed),
            kept,
            original: Server::new(ServerConfig::default(), InMemoryStorage::new()),
            taskchampion: None,
            in_memory: Arc::new(InMemoryStorage::new()),
            store,
            now_s: Arc::default(),
            clients: (0..CLIENTS).map(client).collect(),
            chains: vec![Vec::new(); CLIENTS],
            theirs: BTreeMap::new(),
            seen: BTreeSet::new(),
            ours,
        };
        both.reopen();
        both.wait(0);
        both
    }

    /// Both begin anew on what they have stored, under another configuration.
    fn reopen(&mut self) {
        let config = Config {
            create_clients: self.rng.chance(3, 4),
            snapshot_versions: [0, 1, 4, 7][self.rng.below(4)],
            snapshot_days: [1, 3, 14][self.rng.below(3)],
            ..Config::default()
        };
        let server_config = ServerConfig {
            snapshot_versions: config.snapshot_versions,
            snapshot_days: config.snapshot_days.into(),
        };
        self.ours.taskchampion = block_on(TaskChampion::open(&self.ours.store, config)).unwrap();
        self.taskchampion = match self.kept {
            Kept::InMemory => None,
            Kept::Apart => Some(block_on(TaskChampion::open(&self.store, Config::default())).unwrap()),
            Kept::Shared => Some(self.ours.taskchampion.clone()),
        };
        let storage = match &self.taskchampion {
            Some(taskchampion) => Arc::new(taskchampion.clone()),
            None => self.in_memory.clone(),
        };
        self.original = Server::new(server_config, Moved { storage, now_s: self.now_s.clone() });
    }

    /// Whole hours, so that no day is over a moment later by the system's clock than by ours.
    fn wait(&mut self, hours: i64) {
        self.ours.now_s = self.ours.now_s.saturating_add_signed(hours * 3_600);
        self.now_s.store(self.ours.now_s, Ordering::Relaxed);
    }

    fn their(&self, ours: Uuid) -> Uuid {
        self.theirs.get(&ours).copied().unwrap_or(ours)
    }

    /// An id that a request may name: mostly one of the client's newest versions.
    fn any_id(&mut self, client: usize) -> Id {
        let chain = &self.chains[client];
        match self.rng.below(20) {
            0 => Id::same(Uuid::nil()),
            1 => Id::same(Uuid::from_u128(u128::from(self.rng.next()))),
            // What a history from another server began with.
            2 => Id::same(base(client)),
            3 => {
                let of_other = &self.chains[(client + 1) % CLIENTS];
                of_other.last().copied().unwrap_or(Id::same(Uuid::nil()))
            }
            4 | 5 if !chain.is_empty() => *self.rng.pick(chain),
            6..=11 => chain.iter().rev().nth(self.rng.below(7)).copied().unwrap_or(Id::same(base(client))),
            _ => chain.last().copied().unwrap_or(Id::same(base(client))),
        }
    }

    /// Mostly short; some as long as a row takes or a little longer, a few of many chunks.
    fn bytes(&mut self) -> Vec<u8> {
        let length = match self.rng.below(50) {
            0 => self.rng.below(20_000),
            1..=4 => 1_900 + self.rng.below(60),
            _ => 8 + self.rng.below(30),
        };
        let mut bytes = self.rng.next().to_be_bytes().to_vec();
        bytes.resize(length.max(bytes.len()), 0x5A);
        bytes
    }

    fn step(&mut self) {
        let client = self.rng.below(CLIENTS);
        match self.rng.below(100) {
            0 => self.reopen(),
            1 => drop(block_on(self.ours.taskchampion.maintain(u64::MAX)).unwrap()),
            2..=7 => {
                let hours = [1, 5, 24, 24, 72, 24 * 14, -30][self.rng.below(7)];
                self.wait(hours);
            }
            8..=47 => {
                // Half of the pushes are what a replica that is up to date sends.
                let latest = self.chains[client].last().copied();
                let parent = latest.filter(|_| self.rng.chance(1, 2)).unwrap_or_else(|| self.any_id(client));
                let bytes = self.bytes();
                self.push(client, parent, &bytes);
            }
            48..=65 => {
                let (version, bytes) = (self.any_id(client), self.bytes());
                self.snapshot(client, version, &bytes);
            }
            66..=89 => {
                let parent = self.any_id(client);
                self.compare_children(client, parent);
            }
            _ => self.compare_snapshots(client),
        }
    }

    /// As the original's HTTP layer pushes: an unknown client is created, where that is allowed, and then it pushes again.
    fn push_to_original(
        &self,
        client: Uuid,
        parent: Uuid,
        bytes: &[u8],
    ) -> Option<(AddVersionResult, SnapshotUrgency)> {
        loop {
            match block_on(self.original.add_version(client, parent, bytes.to_vec())) {
                Ok(answer) => return Some(answer),
                Err(ServerError::NoSuchClient) if !self.ours.taskchampion.config().create_clients => {
                    return None;
                }
                Err(ServerError::NoSuchClient) => block_on(async {
                    let mut txn = self.original.txn(client).await.unwrap();
                    txn.new_client(Uuid::nil()).await.unwrap();
                    txn.commit().await.unwrap();
                }),
                Err(error) => panic!("the original failed: {error}"),
            }
        }
    }

    fn push(&mut self, client: usize, parent: Id, bytes: &[u8]) {
        let id = self.clients[client];
        let expected = self.push_to_original(id.theirs, parent.theirs, bytes);
        match (self.ours.push(id.ours, parent.ours, bytes), expected) {
            (AddVersion::Added { version, urgency }, Some((AddVersionResult::Ok(their), their_urgency))) => {
                self.theirs.insert(version, their);
                self.chains[client].push(Id { ours: version, theirs: their });
                let their_urgency = match their_urgency {
                    SnapshotUrgency::None => Urgency::None,
                    SnapshotUrgency::Low => Urgency::Low,
                    SnapshotUrgency::High => Urgency::High,
                };
                assert_eq!(urgency, their_urgency);
                self.seen.insert(match urgency {
                    Urgency::None => "added, urgency none",
                    Urgency::Low => "added, urgency low",
                    Urgency::High => "added, urgency high",
                });
            }
            (AddVersion::Conflict { latest }, Some((AddVersionResult::ExpectedParentVersion(their), _))) => {
                assert_eq!(self.their(latest), their);
                self.seen.insert("conflict");
            }
            (AddVersion::NoSuchClient, None) => {
                self.seen.insert("push: no such client");
            }
            (ours, original) => panic!("ours: {ours:?}, the original: {original:?}"),
        }
    }

    /// The original does not tell whether it kept a snapshot; what it then has does.
    fn snapshot(&mut self, client: usize, version: Id, bytes: &[u8]) {
        let id = self.clients[client];
        let original = block_on(self.original.add_snapshot(id.theirs, version.theirs, bytes.to_vec()));
        let ours = self.ours.snapshot(id.ours, version.ours, bytes);
        assert_eq!(ours == AddSnapshot::NoSuchClient, matches!(original, Err(ServerError::NoSuchClient)));
        self.seen.insert(match ours {
            AddSnapshot::Kept => "snapshot kept",
            AddSnapshot::Ignored(Ignored::SameVersion) => "snapshot: same version",
            AddSnapshot::Ignored(Ignored::Older) => "snapshot: older",
            AddSnapshot::Ignored(Ignored::TooOldOrUnknown) => "snapshot: too old or unknown",
            AddSnapshot::NoSuchClient => "snapshot: no such client",
        });
        self.compare_snapshots(client);
    }

    fn compare_snapshots(&self, client: usize) {
        let id = self.clients[client];
        let expected = match block_on(self.original.get_snapshot(id.theirs)) {
            Ok(Some((version, bytes))) => Current::Found(version, bytes),
            Ok(None) => Current::NoSnapshot,
            Err(ServerError::NoSuchClient) => Current::NoSuchClient,
            Err(error) => panic!("the original failed: {error}"),
        };
        let ours = match self.ours.current_snapshot(id.ours) {
            Current::Found(version, bytes) => Current::Found(self.their(version), bytes),
            other => other,
        };
        assert_eq!(ours, expected);
    }

    fn compare_children(&mut self, client: usize, parent: Id) {
        let id = self.clients[client];
        let expected = match block_on(self.original.get_child_version(id.theirs, parent.theirs)) {
            Ok(GetVersionResult::Success { version_id, parent_version_id, history_segment }) => {
                assert_eq!(parent_version_id, parent.theirs);
                Child::Found(version_id, history_segment)
            }
            Ok(GetVersionResult::NotFound) => Child::UpToDate,
            Ok(GetVersionResult::Gone) => Child::Gone,
            Err(ServerError::NoSuchClient) => Child::NoSuchClient,
            Err(error) => panic!("the original failed: {error}"),
        };
        let ours = match self.ours.child(id.ours, parent.ours) {
            Child::Found(version, bytes) => Child::Found(self.their(version), bytes),
            other => other,
        };
        assert_eq!(ours, expected);
        self.seen.insert(match ours {
            Child::Found(..) => "child found",
            Child::UpToDate => "up to date",
            Child::Gone => "gone",
            Child::NoSuchClient => "child: no such client",
        });
    }

    /// What both have in the end, all of it; with our rows under both, counters and times too.
    fn compare_everything(&mut self) {
        for client in 0..CLIENTS {
            self.compare_snapshots(client);
            let chain = self.chains[client].clone();
            for id in chain.into_iter().chain([Id::same(Uuid::nil()), Id::same(base(client))]) {
                self.compare_children(client, id);
            }
            if let Some(original) = &self.taskchampion {
                let Id { ours, theirs } = self.clients[client];
                let ours = block_on(self.ours.taskchampion.client(ours)).unwrap();
                let original = block_on(original.client(theirs)).unwrap();
                assert_eq!(
                    ours.map(|info| self.comparable(info)),
                    original.map(|info| self.comparable(info))
                );
            }
        }
        assert_sound(&self.ours.store);
        if self.kept == Kept::Apart {
            assert_sound(&self.store);
        }
    }

    /// Without what is each one's own: the ids, and times of the system's clock.
    fn comparable(&self, mut info: ClientInfo) -> ClientInfo {
        info.client = Uuid::nil();
        (info.created_unix_s, info.last_push_unix_s) = (0, 0);
        info.latest_version = info.latest_version.map(|version| self.their(version));
        if let Some(snapshot) = &mut info.snapshot {
            snapshot.version = self.their(snapshot.version);
        }
        info
    }
}

/// The version that a client's history may begin at: every second one comes from another server.
fn base(client: usize) -> Uuid {
    if client.is_multiple_of(2) { Uuid::nil() } else { Uuid::from_u128(0xBA5E + client as u128) }
}

/// Tells how to see a failure again.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        #[allow(clippy::print_stderr, reason = "a word to who reads the failure")]
        if std::thread::panicking() {
            eprintln!("SEABED_TEST_SEED={} runs this program alone", self.0);
        }
    }
}

/// Runs so many programs, among them, when they are many, every kind of answer; or the one that `SEABED_TEST_SEED` names, when it is set.
fn run(programs: u64, kept: Kept, store: impl Fn() -> Store) {
    let asked: Option<u64> = std::env::var("SEABED_TEST_SEED").ok().map(|seed| seed.parse().expect("a seed"));
    let first = asked.unwrap_or_else(|| Uuid::new_v4().as_u64_pair().0 >> 1);
    let mut seen = BTreeSet::new();
    for seed in first..first + asked.map_or(programs, |_| 1) {
        let replay = Replay(seed);
        let mut both = Both::new(seed, kept, store());
        for _ in 0..STEPS {
            both.step();
        }
        both.compare_everything();
        seen.append(&mut both.seen);
        drop(replay);
    }
    assert!(programs < 100 || asked.is_some() || seen == BTreeSet::from(ANSWERS), "only {seen:?}");
}

#[test]
fn our_rules_answer_as_the_original_over_its_own_storage() {
    run(300, Kept::InMemory, Store::memory);
}

#[test]
fn our_rules_answer_as_the_original_over_our_storage() {
    run(300, Kept::Apart, Store::memory);
}

#[test]
fn our_rules_and_the_original_share_a_store() {
    run(240, Kept::Shared, Store::memory);
}

/// The same through files, where reads and group commits are real: fewer steps, because each of their commits is flushed.
#[test]
fn our_rules_and_the_original_share_a_file() {
    let directory = tempfile::tempdir().unwrap();
    run(3, Kept::Shared, || Store::sqlite(directory.path().join(Uuid::new_v4().to_string())).unwrap());
}
