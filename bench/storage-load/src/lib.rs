//! A storage under the original's own `Server`: `storage-PEER DIR CASE SECONDS` prints a line of JSON.
//!
//! Both contenders are this program over another storage. `adds_1` is one client that pushes versions of 1 KiB, one after the
//! other; `adds_64_tasks` and `adds_64_threads` are 64 clients, on one thread (where a storage that blocks serves one
//! after the other) or on one each; `adds_snapshot` is one client with a snapshot of 1 MiB in place; `gets` reads a chain
//! from its beginning again and again.

use std::future::Future;
use std::rc::Rc;

use measure::{CROWD, Laps, Meter, Observed, payload};
use taskchampion_sync_server_core::{AddVersionResult, GetVersionResult, Server, ServerConfig, Storage};
use uuid::Uuid;

/// How long the chain is that `gets` reads.
const CHAIN: u64 = 10;
/// How long the snapshot is that `adds_snapshot` has in place.
const SNAPSHOT_BYTES: usize = 1024 * 1024;

/// The program, over the storage that `open` finds or makes in a directory.
pub fn main<S: Storage + 'static>(open: impl FnOnce(&str) -> S) {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, case, seconds] = arguments.as_slice() else { panic!("usage: DIR CASE SECONDS") };
    let server = Rc::new(Server::new(ServerConfig::default(), open(directory)));
    let clients = if case.starts_with("adds_64") { CROWD } else { 1 };
    // Everybody is known to the storage before the first lap: creating clients is not what is measured.
    let clients: Vec<Client> = (0..clients).map(|number| block_on(Client::create(&server, number))).collect();
    if case == "adds_snapshot" {
        block_on(clients[0].snapshot(&server));
    }
    let meter = Meter::start(seconds.parse().expect("seconds"), Observed::Own);
    let done: Vec<Done> = match case.as_str() {
        "adds_1" | "adds_snapshot" => {
            clients.into_iter().map(|client| block_on(client.adds(&server, meter.laps()))).collect()
        }
        "adds_64_tasks" => block_on(async {
            let crowd = tokio::task::LocalSet::new();
            let running: Vec<_> = clients
                .into_iter()
                .map(|client| {
                    let (server, laps) = (server.clone(), meter.laps());
                    crowd.spawn_local(async move { client.adds(&server, laps).await })
                })
                .collect();
            crowd.await;
            let mut done = Vec::new();
            for client in running {
                done.push(client.await.expect("no panic"));
            }
            done
        }),
        "adds_64_threads" => std::thread::scope(|scope| {
            let server: &Server = &server;
            let running: Vec<_> = clients
                .into_iter()
                .map(|client| {
                    let laps = meter.laps();
                    scope.spawn(move || block_on(client.adds(server, laps)))
                })
                .collect();
            running.into_iter().map(|client| client.join().expect("no panic")).collect()
        }),
        "gets" => clients.into_iter().map(|client| block_on(client.gets(&server, meter.laps()))).collect(),
        _ => panic!("no such case: {case}"),
    };
    let failed = done.iter().map(|done| done.failed).sum();
    meter.print(case, done.into_iter().map(|done| done.laps), &[("failed", failed)]);
}

/// Runs a future on this thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

struct Client {
    number: u64,
    id: Uuid,
    latest: Uuid,
}

/// What a client has done. A storage under load may refuse; that is counted and shown, and the client goes on.
struct Done {
    laps: Laps,
    failed: u64,
}

impl Client {
    async fn create(server: &Server, number: u64) -> Self {
        let id = Uuid::new_v4();
        let mut txn = server.txn(id).await.expect("a transaction");
        txn.new_client(Uuid::nil()).await.expect("a new client");
        txn.commit().await.expect("a client");
        drop(txn);
        let mut client = Self { number, id, latest: Uuid::nil() };
        for lap in 0..CHAIN {
            assert!(client.add(server, lap).await, "the first versions");
        }
        client
    }

    async fn snapshot(&self, server: &Server) {
        server.add_snapshot(self.id, self.latest, vec![0x5A; SNAPSHOT_BYTES]).await.expect("a snapshot");
        let found = server.get_snapshot(self.id).await.expect("an answer").expect("a snapshot");
        assert_eq!(found.1.len(), SNAPSHOT_BYTES);
    }

    async fn add(&mut self, server: &Server, lap: u64) -> bool {
        let mut segment = payload(self.number, lap).repeat(10);
        segment.resize(1024, 0);
        match server.add_version(self.id, self.latest, segment).await {
            Ok((AddVersionResult::Ok(version), _)) => {
                self.latest = version;
                true
            }
            Ok((AddVersionResult::ExpectedParentVersion(latest), _)) => {
                self.latest = latest;
                false
            }
            Err(_) => false,
        }
    }

    async fn adds(mut self, server: &Server, mut laps: Laps) -> Done {
        let mut failed = 0;
        while let Some(lap) = laps.next() {
            failed += u64::from(!self.add(server, lap).await);
        }
        Done { laps, failed }
    }

    async fn gets(self, server: &Server, mut laps: Laps) -> Done {
        let (mut parent, mut failed) = (Uuid::nil(), 0);
        while laps.next().is_some() {
            match server.get_child_version(self.id, parent).await {
                Ok(GetVersionResult::Success { version_id, history_segment, .. }) => {
                    assert_eq!(history_segment.len(), 1024);
                    parent = if version_id == self.latest { Uuid::nil() } else { version_id };
                }
                _ => failed += 1,
            }
        }
        Done { laps, failed }
    }
}
