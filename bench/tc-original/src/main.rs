//! The original server's own storage, as published, behind three commands: `fill` writes a database, `dump` tells all that is in
//! one, `append` goes on with one. What the import and export of Seabed are held against.

use std::path::Path;

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use serde_json::json;
use sha2::{Digest, Sha256};
use taskchampion_sync_server_core::{
    AddVersionResult, Server, ServerConfig, Snapshot, Storage, StorageTxn, Version,
};
use taskchampion_sync_server_storage_sqlite::SqliteStorage;
use uuid::{Builder, Uuid};

const FILE: &str = "taskchampion-sync-server.sqlite3";

const USAGE: &str = "\
tc-original fill DIR --seed S --clients N --versions N
    writes clients with up to N versions each, snapshots, one empty client and one that came from elsewhere
tc-original dump DIR
    a line of JSON for each client and each of its versions, in the order of the chain
tc-original append DIR --seed S
    adds a version to each client, as the original server would";

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [command, directory, flags @ ..] = arguments.as_slice() else { bail!(USAGE) };
    let number = |name: &str| -> anyhow::Result<u64> {
        let at = flags.iter().position(|flag| flag == name);
        let value =
            at.and_then(|at| flags.get(at + 1)).with_context(|| format!("{name} is missing\n{USAGE}"))?;
        Ok(value.parse()?)
    };
    let directory = Path::new(directory);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    match command.as_str() {
        "fill" => {
            let (clients, versions) = (number("--clients")?, number("--versions")?);
            runtime.block_on(fill(directory, Random(number("--seed")?), clients, versions))
        }
        "dump" => runtime.block_on(dump(directory)),
        "append" => runtime.block_on(append(directory, Random(number("--seed")?))),
        _ => bail!(USAGE),
    }
}

async fn fill(directory: &Path, mut random: Random, clients: u64, versions: u64) -> anyhow::Result<()> {
    let storage = SqliteStorage::new(directory)?;
    for number in 0..clients {
        let client = random.id();
        let mut txn = storage.txn(client).await?;
        txn.new_client(Uuid::nil()).await?;
        // The first has every version it may have, the second none, the third came from another server.
        let length = match number {
            0 => versions,
            1 => 0,
            _ => random.below(versions + 1),
        };
        let mut parent = if number == 2 { random.id() } else { Uuid::nil() };
        let mut chain = Vec::new();
        for _ in 0..length {
            let version = random.id();
            let bytes = random.bytes();
            txn.add_version(version, parent, bytes).await?;
            chain.push(version);
            parent = version;
        }
        if let Some(version) = random.near_the_end(&chain)
            && number % 4 != 3
        {
            let snapshot = Snapshot {
                version_id: version,
                timestamp: DateTime::<Utc>::from_timestamp(
                    1_700_000_000 + random.below(40_000_000) as i64,
                    0,
                )
                .context("a time")?,
                versions_since: random.below(chain.len() as u64) as u32,
            };
            let bytes = random.bytes();
            txn.set_snapshot(snapshot, bytes).await?;
        }
        txn.commit().await?;
    }
    Ok(())
}

async fn dump(directory: &Path) -> anyhow::Result<()> {
    for client in clients(directory)? {
        let storage = SqliteStorage::new(directory)?;
        let mut txn = storage.txn(client).await?;
        let found = txn.get_client().await?.with_context(|| format!("client {client} is gone"))?;
        let snapshot = match found.snapshot {
            None => json!(null),
            Some(snapshot) => {
                let bytes =
                    txn.get_snapshot_data(snapshot.version_id).await?.context("a snapshot without bytes")?;
                json!({
                    "version": snapshot.version_id,
                    "unix_s": snapshot.timestamp.timestamp(),
                    "versions_since": snapshot.versions_since,
                    "bytes": bytes.len(),
                    "sha256": hash(&bytes),
                })
            }
        };
        println!("{}", json!({ "client": client, "latest": found.latest_version_id, "snapshot": snapshot }));
        for version in chain(txn.as_mut(), found.latest_version_id).await? {
            println!(
                "{}",
                json!({
                    "client": client,
                    "version": version.version_id,
                    "parent": version.parent_version_id,
                    "bytes": version.history_segment.len(),
                    "sha256": hash(&version.history_segment),
                })
            );
        }
    }
    Ok(())
}

async fn chain(txn: &mut dyn StorageTxn, latest: Uuid) -> anyhow::Result<Vec<Version>> {
    let mut chain = Vec::new();
    let mut next = txn.get_version(latest).await?;
    while let Some(version) = next {
        // Forward as well: this is how replicas find it.
        let forward = txn.get_version_by_parent(version.parent_version_id).await?;
        if forward.as_ref() != Some(&version) {
            bail!("version {} is not found by its parent", version.version_id);
        }
        next = txn.get_version(version.parent_version_id).await?;
        chain.push(version);
    }
    chain.reverse();
    Ok(chain)
}

async fn append(directory: &Path, mut random: Random) -> anyhow::Result<()> {
    for client in clients(directory)? {
        let server = Server::new(ServerConfig::default(), SqliteStorage::new(directory)?);
        let latest = server.txn(client).await?.get_client().await?.context("a client")?.latest_version_id;
        let (result, _) = server.add_version(client, latest, random.bytes()).await?;
        if !matches!(result, AddVersionResult::Ok(_)) {
            bail!("client {client} took no version after {latest}");
        }
    }
    Ok(())
}

/// The storage has no list of its clients.
fn clients(directory: &Path) -> anyhow::Result<Vec<Uuid>> {
    let connection = rusqlite::Connection::open(directory.join(FILE))?;
    let mut statement = connection.prepare("SELECT client_id FROM clients ORDER BY client_id")?;
    let ids = statement.query_map([], |row| row.get::<_, String>(0))?;
    ids.map(|id| Ok(Uuid::parse_str(&id?)?)).collect()
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SplitMix64: the same seed, the same database.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn id(&mut self) -> Uuid {
        let bytes = u128::from(self.next()) << 64 | u128::from(self.next());
        Builder::from_random_bytes(bytes.to_be_bytes()).into_uuid()
    }

    /// Mostly small, now and then more than a row holds.
    fn bytes(&mut self) -> Vec<u8> {
        let length = if self.below(10) == 0 { 1_900 + self.below(200_000) } else { 1 + self.below(1_900) };
        (0..length).map(|_| self.next() as u8).collect()
    }

    /// One of the last five: where replicas take snapshots.
    fn near_the_end(&mut self, chain: &[Uuid]) -> Option<Uuid> {
        let back = self.below(5) as usize;
        chain.iter().rev().nth(back).or(chain.last()).copied()
    }
}
