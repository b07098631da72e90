//! The library inside Taskwarrior, through the real binary: many devices of one user, conflicts, snapshots, a fresh device, and a
//! server that is killed in between.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::collections::BTreeMap;

use common::{Server, json, run};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use seabed_testkit::postgres::Cluster;
use seabed_testkit::proxy::{Act, Direction, Fault, Proxy};
use taskchampion::storage::inmemory::InMemoryStorage;
use taskchampion::{Operations, Replica, ServerConfig, Status};
use uuid::Uuid;

const DEVICES: usize = 4;
const ROUNDS: usize = 6;

struct User {
    client_id: Uuid,
    /// The servers by their addresses: making one derives the key, which takes half a second.
    servers: BTreeMap<String, Box<dyn taskchampion::Server>>,
    devices: Vec<Replica<InMemoryStorage>>,
    tasks: Vec<Uuid>,
}

impl User {
    fn new(client_id: Uuid) -> Self {
        let devices = (0..DEVICES).map(|_| Replica::new(InMemoryStorage::new())).collect();
        Self { client_id, servers: BTreeMap::new(), devices, tasks: Vec::new() }
    }

    /// Changes on each device what it knows, so that all of them change the same tasks at once.
    async fn change(&mut self, random: &mut StdRng) {
        for (number, device) in self.devices.iter_mut().enumerate() {
            let mut changes = Operations::new();
            let fresh = Uuid::from_u128(random.random());
            let mut task = device.create_task(fresh, &mut changes).await.unwrap();
            task.set_description(format!("made on {number}"), &mut changes).unwrap();
            task.set_status(Status::Pending, &mut changes).unwrap();
            for id in &self.tasks {
                if let Some(mut task) = device.get_task(*id).await.unwrap()
                    && random.random_ratio(1, 2)
                {
                    // Larger than what is stored beside a key, now and then.
                    let length = if random.random_ratio(1, 20) { 20_000 } else { 10 };
                    let note = format!("{number}: {}", "x".repeat(length));
                    task.set_value("note", Some(note), &mut changes).unwrap();
                    if random.random_ratio(1, 10) {
                        task.done(&mut changes).unwrap();
                    }
                }
            }
            device.commit_operations(changes).await.unwrap();
            self.tasks.push(fresh);
        }
    }

    async fn sync(&mut self, url: &str, device: usize) -> Result<(), taskchampion::Error> {
        if !self.servers.contains_key(url) {
            let config = ServerConfig::Remote {
                url: url.to_owned(),
                client_id: self.client_id,
                encryption_secret: b"kept on the devices".to_vec(),
            };
            self.servers.insert(url.to_owned(), config.into_server().await?);
        }
        let server = self.servers.get_mut(url).unwrap();
        self.devices[device].sync(server, false).await
    }

    async fn see(&mut self, device: usize) -> BTreeMap<Uuid, BTreeMap<String, String>> {
        let tasks = self.devices[device].all_task_data().await.unwrap();
        tasks
            .into_iter()
            .map(|(id, task)| {
                let fields = task.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
                (id, fields)
            })
            .collect()
    }
}

#[tokio::test]
async fn all_devices_converge_whatever_happens_to_the_server() {
    let mut random = StdRng::seed_from_u64(common::seed());
    let dir = tempfile::tempdir().unwrap();
    // Snapshots are asked for all the time.
    let serve = || Server::start_with(dir.path(), &["--snapshot-versions", "3"], &[("RUST_LOG", "info")]);
    let mut users =
        [User::new(Uuid::from_u128(random.random())), User::new(Uuid::from_u128(random.random()))];

    let mut server = serve();
    for round in 0..ROUNDS {
        for user in &mut users {
            user.change(&mut random).await;
            for _ in 0..DEVICES * 2 {
                let device = random.random_range(0..DEVICES);
                // A device that finds no server tries again later, as people do.
                user.sync(&server.url(), device).await.unwrap();
            }
        }
        if round % 2 == 1 {
            // In the middle of a synchronisation: with the first answer of several.
            let url = server.url();
            let device = random.random_range(0..DEVICES);
            users[0].change(&mut random).await;
            // Before it begins: when the other thread is late, its last line may be there already, and no further one comes.
            let before = server.logs().len();
            let syncing = users[0].sync(&url, device);
            let killing = tokio::task::spawn_blocking(move || {
                while server.logs().len() == before {
                    std::thread::yield_now();
                }
                server.kill();
            });
            let (synced, killed) = tokio::join!(syncing, killing);
            killed.unwrap();
            // It may or may not have come in time; either way nothing is lost, which the end shows.
            drop(synced);
            server = serve();
        }
    }

    // A second time round, for those who synchronised before others did.
    for user in &mut users {
        for device in (0..DEVICES).chain(0..DEVICES) {
            user.sync(&server.url(), device).await.unwrap();
        }
        let expected = user.see(0).await;
        assert_eq!(expected.len(), user.tasks.len(), "every task that any device made");
        for device in 1..DEVICES {
            assert!(user.see(device).await == expected, "device {device} sees something else");
        }
        // A fresh device begins with the snapshot.
        user.devices.push(Replica::new(InMemoryStorage::new()));
        user.sync(&server.url(), DEVICES).await.unwrap();
        assert!(user.see(DEVICES).await == expected, "a fresh device sees something else");
        let client = json(dir.path(), &["clients", "show", &user.client_id.to_string()]);
        assert!(client["client"]["snapshot"].is_object(), "{client}");
    }
    let verified = run(dir.path(), &["verify"]);
    assert!(verified.status.success(), "{}", common::stdout(&verified));
}

#[tokio::test]
async fn another_users_secret_reads_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut user = User::new(Uuid::new_v4());
    user.change(&mut StdRng::seed_from_u64(1)).await;
    user.sync(&server.url(), 0).await.unwrap();
    let rows = run(dir.path(), &["inspect", "taskchampion-00", "--limit", "1000", "--json"]);
    assert!(rows.status.success());
    assert!(!common::stdout(&rows).contains("made on"), "the server holds nothing that it can read");
}

/// Drops all that snapshots cover, however young: what `clients prune` does to it when it is old.
fn prune_everything_covered(dir: &std::path::Path) -> u64 {
    let store = seabed_kv::Store::sqlite(dir).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let dropped = runtime.block_on(async {
        let config = seabed_taskchampion::Config::default();
        let taskchampion = seabed_taskchampion::TaskChampion::open(&store, config).await.unwrap();
        taskchampion.prune(None, u64::MAX, u64::MAX).await.unwrap().versions
    });
    store.close().wait().unwrap();
    dropped
}

#[tokio::test]
async fn devices_go_on_after_old_versions_were_dropped_and_a_stale_one_is_told() {
    let mut random = StdRng::seed_from_u64(common::seed());
    let dir = tempfile::tempdir().unwrap();
    let serve = || Server::start_with(dir.path(), &["--snapshot-versions", "3"], &[]);
    let mut user = User::new(Uuid::from_u128(random.random()));
    let stale = DEVICES - 1;

    let server = serve();
    for round in 0..4 {
        user.change(&mut random).await;
        // The last device is left in a drawer after the first round.
        for device in (0..stale).chain((round == 0).then_some(stale)) {
            user.sync(&server.url(), device).await.unwrap();
        }
    }
    for device in 0..stale {
        user.sync(&server.url(), device).await.unwrap();
    }
    assert!(server.terminate().0.success());
    let path = dir.path().to_owned();
    let dropped = tokio::task::spawn_blocking(move || prune_everything_covered(&path)).await.unwrap();
    assert!(dropped > 0);

    let server = serve();
    let id = user.client_id.to_string();
    let versions = || json(dir.path(), &["clients", "show", &id])["client"]["latest_version"].clone();
    let before = versions();
    // An error at once, and not an endless exchange of conflicts; nothing of it is stored.
    assert!(user.sync(&server.url(), stale).await.is_err());
    assert_eq!(versions(), before);

    // A fresh device takes the snapshot, but only before it has tasks of its own: so the client decides.
    let mut early = User::new(user.client_id);
    early.change(&mut random).await;
    assert!(early.sync(&server.url(), 0).await.is_err());
    user.devices[stale] = Replica::new(InMemoryStorage::new());
    user.sync(&server.url(), stale).await.unwrap();
    user.change(&mut random).await;
    for device in (0..DEVICES).chain(0..DEVICES) {
        user.sync(&server.url(), device).await.unwrap();
    }
    let expected = user.see(0).await;
    for device in 1..DEVICES {
        assert!(user.see(device).await == expected, "device {device} sees something else");
    }
    assert_eq!(json(dir.path(), &["verify"])["findings"], 0);
}

fn serve_database(store: &str) -> Server {
    let mut command = common::seabed();
    command.args(["serve", "--listen", "127.0.0.1:0", "--snapshot-versions", "20"]);
    Server::spawn({
        command.env("SEABED_STORE", store).env("RUST_LOG", "info");
        command
    })
}

fn assert_sound(store: &str) {
    let verified = common::seabed().arg("verify").env("SEABED_STORE", store).output().unwrap();
    assert!(verified.status.success(), "{}", common::stdout(&verified));
}

/// All devices synchronise, twice round, and see the same.
async fn assert_converges(user: &mut User, urls: &[String]) {
    for device in (0..DEVICES).chain(0..DEVICES) {
        user.sync(&urls[device % urls.len()], device).await.unwrap();
    }
    let expected = user.see(0).await;
    assert_eq!(expected.len(), user.tasks.len(), "every task that any device made");
    for device in 1..DEVICES {
        assert!(user.see(device).await == expected, "device {device} sees something else");
    }
    // A fresh device begins with the snapshot, wherever that was left.
    let mut fresh = User::new(user.client_id);
    fresh.sync(&urls[urls.len() - 1], 0).await.unwrap();
    assert!(fresh.see(0).await == expected, "a fresh device sees something else");
}

#[tokio::test]
async fn devices_that_take_now_one_server_and_now_another_of_a_database_converge() {
    let mut random = StdRng::seed_from_u64(common::seed());
    let cluster = Cluster::start();
    let store = cluster.create_database();
    let servers = [serve_database(&store), serve_database(&store)];
    let urls = servers.each_ref().map(Server::url);
    let mut users =
        [User::new(Uuid::from_u128(random.random())), User::new(Uuid::from_u128(random.random()))];
    for _ in 0..ROUNDS {
        for user in &mut users {
            user.change(&mut random).await;
            for _ in 0..DEVICES * 2 {
                let (device, server) = (random.random_range(0..DEVICES), random.random_range(0..2));
                user.sync(&urls[server], device).await.unwrap();
            }
        }
    }
    for user in &mut users {
        assert_converges(user, &urls).await;
    }
    for server in servers {
        let (_, logs) = server.terminate();
        assert!(!logs.contains("status=5"), "{logs}");
    }
    assert_sound(&store);
}

/// The connection to the database breaks at every message that comes back from it while a device synchronises, so also after the
/// commit of its push and before anybody was told: the server cannot know, says so, and the device finds out when it comes again.
#[tokio::test]
async fn a_device_recovers_wherever_the_connection_to_the_database_breaks() {
    let mut random = StdRng::seed_from_u64(common::seed());
    let cluster = Cluster::start();
    let direct = cluster.create_database();
    let proxy = Proxy::start(cluster.port());
    let server = serve_database(&proxy.url(direct.rsplit('/').next().unwrap()));
    let urls = [server.url()];
    let mut user = User::new(Uuid::from_u128(random.random()));
    user.change(&mut random).await;
    for device in (0..DEVICES).chain(0..DEVICES) {
        user.sync(&urls[0], device).await.unwrap();
    }
    let mut failed = 0;
    for message in 1.. {
        let mut changes = Operations::new();
        let fresh = Uuid::from_u128(random.random());
        let mut task = user.devices[0].create_task(fresh, &mut changes).await.unwrap();
        task.set_description(format!("made before message {message}"), &mut changes).unwrap();
        user.devices[0].commit_operations(changes).await.unwrap();
        user.tasks.push(fresh);
        proxy.arm(Fault { direction: Direction::ToClient, message, act: Act::CutBefore });
        failed += usize::from(user.sync(&urls[0], 0).await.is_err());
        let fired = proxy.has_fired();
        proxy.disarm();
        // Another device too, so that the chain goes on over what nobody was told of.
        for device in [0, 1] {
            user.sync(&urls[0], device).await.unwrap();
        }
        if !fired {
            break;
        }
        assert!(message < 500, "a synchronisation is not that long");
    }
    assert_converges(&mut user, &urls).await;
    let (_, logs) = server.terminate();
    assert!(failed > 0 && logs.contains("applied=Unknown"), "no push was cut off in its commit: {logs}");
    assert_sound(&direct);
}
