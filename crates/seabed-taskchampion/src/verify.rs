//! Verification: is everything that was acknowledged there, whole and linear, and is there nothing else?
//!
//! Works beside a server that writes. What a push changes is looked at again when there was one meanwhile, and what seems to
//! belong to nobody is looked at twice, in an order in which an upload cannot slip between.

use std::collections::BTreeSet;
use std::fmt;

use seabed_kv::staged::{Staged, read_chunk_key};
use seabed_kv::{Key, KeyRange, ScanSpec, Store, Tenant};
use serde::Serialize;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::keys::{
    CLIENT, ClientRow, DELETING, DROPPED, DroppedRow, FORMAT, FORMAT_VERSION, FormatRow, IMPORTED, PARENT,
    SHARDS, SNAPSHOT, SnapshotMeta, Stored, VERSION, VersionRow, client_key, imported_from_bytes, pair_key,
    parent_from_bytes, read_client_key, read_pair_key, shards_from_bytes, snapshot_from_bytes,
};
use crate::shard::{SPREAD, Shard, shard_of};

/// How many findings a report spells out; the last one then says how many more there were.
pub const FINDINGS_MAX: usize = 1_000;

/// How often what keeps changing is looked at again. What has not stood still once is in use, and so not reported.
const EXAMINATIONS_MAX: usize = 8;

/// What [`verify`] examined and found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// How many clients were examined.
    pub clients: u64,
    /// How many versions their chains hold.
    pub versions: u64,
    /// How many snapshots they have.
    pub snapshots: u64,
    /// How many bytes of versions and snapshots were read.
    pub bytes: u64,
    /// What is wrong, a sentence each, at most [`FINDINGS_MAX`] and one more; empty when all is well.
    pub findings: Vec<String>,
}

/// Examines one tenant of this layer: that the chain of each client is linear from its first version to its latest, with
/// matching parent rows; that counters are right; that every value is whole and as long as it should be; that no row and
/// no chunk belongs to nobody. Reads everything once and holds sixteen bytes a staged value. May run beside a server, and
/// be dropped at any await.
///
/// ```
/// # pollster::block_on(async {
/// use seabed_taskchampion::{Config, TaskChampion, verify};
///
/// let store = seabed_kv::Store::memory();
/// TaskChampion::open(&store, Config::default()).await?;
/// let report = verify(&store.tenant("taskchampion-00")?).await?;
/// assert!(report.findings.is_empty());
/// # Ok::<(), seabed_kv::Error>(())
/// # })?;
/// # Ok::<(), seabed_kv::Error>(())
/// ```
///
/// # Errors
/// Those of the store's reads. Damage is no error but a finding.
pub async fn verify(tenant: &Tenant) -> Result<VerifyReport, Error> {
    let verifier = Verifier::new(Shard::new(tenant.clone()));
    examine(verifier).await
}

/// The same, for a tenant of a whole store: also that no shard is missing, and, for each shard, that its clients belong there, which
/// [`verify`] can tell of the first one alone.
///
/// # Errors
/// Those of the store, and of its reads.
pub async fn verify_in(store: &Store, tenant: &Tenant) -> Result<VerifyReport, Error> {
    let mut verifier = Verifier::new(Shard::new(tenant.clone()));
    let there = SPREAD.numbers(store).await?;
    match verifier.number {
        Some(0) => {
            let shards = read_shards(tenant).await?.unwrap_or(1);
            for number in (1..shards).filter(|number| !there.contains(number)) {
                verifier.find(SPREAD.missing(number).to_string());
            }
        }
        Some(number) if there.contains(&0) => {
            verifier.shards = read_shards(&store.open(SPREAD.tenant_id(0)).await?).await?;
            if let Some(shards) = verifier.shards.filter(|shards| number >= *shards) {
                verifier.find(format!("{} is none of the {shards} shards", tenant.id()));
            }
        }
        Some(_) => verifier.find(SPREAD.missing(0).to_string()),
        None => {}
    }
    examine(verifier).await
}

/// How many shards the first one says there are; `None` when it does not, which its own verification finds.
async fn read_shards(first: &Tenant) -> Result<Option<u16>> {
    Ok(first.get(SHARDS, b"").await?.as_deref().and_then(shards_from_bytes))
}

async fn examine(mut verifier: Verifier) -> Result<VerifyReport> {
    verifier.format().await?;
    verifier.shards().await?;
    // In this order: a chunk that is neither pending when the pending rows are read nor referred to when the clients are read
    // afterwards, was attached in between only if the clients' rows show it.
    let chunks = verifier.chunk_ids().await?;
    let pending = verifier.pending_ids().await?;
    verifier.clients().await?;
    // After the clients, so that one whose deletion begins meanwhile is seen as the one or the other.
    verifier.deletions().await?;
    for category in [VERSION, PARENT, SNAPSHOT, DELETING, DROPPED, IMPORTED] {
        verifier.strays(category).await?;
    }
    let unexplained: Vec<_> =
        chunks.into_iter().filter(|id| !pending.contains(id) && !verifier.referenced.contains(id)).collect();
    verifier.stray_chunks(&unexplained).await?;
    Ok(verifier.report())
}

struct Verifier {
    shard: Shard,
    /// Which shard it is.
    number: Option<u16>,
    /// How many there are, where that is known.
    shards: Option<u16>,
    report: VerifyReport,
    unspoken: u64,
    referenced: BTreeSet<[u8; 16]>,
}

/// What the examination of one client found.
#[derive(Debug, Default)]
struct Examined {
    versions: u64,
    version_bytes: u64,
    /// Those of its snapshot, when it has one.
    snapshot_bytes: Option<u64>,
    referenced: BTreeSet<[u8; 16]>,
    findings: Vec<String>,
}

impl Examined {
    fn find(&mut self, client: Uuid, finding: impl fmt::Display) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(format!("client {client}: {finding}"));
        }
    }
}

impl Verifier {
    fn new(shard: Shard) -> Self {
        Self {
            number: SPREAD.number(shard.tenant.id().as_str()),
            shard,
            shards: None,
            report: VerifyReport::default(),
            unspoken: 0,
            referenced: BTreeSet::new(),
        }
    }

    fn find(&mut self, finding: String) {
        if self.report.findings.len() < FINDINGS_MAX {
            self.report.findings.push(finding);
        } else {
            self.unspoken += 1;
        }
    }

    fn report(mut self) -> VerifyReport {
        if self.unspoken > 0 {
            self.report.findings.push(format!("and {} more", self.unspoken));
        }
        self.report
    }

    async fn format(&mut self) -> Result<()> {
        let row = self.shard.tenant.get(FORMAT, b"").await?;
        match row.as_deref().map(FormatRow::from_bytes) {
            None => self.find(format!("the row of {FORMAT} is missing")),
            Some(None) => self.find(format!("the row of {FORMAT} does not read")),
            Some(Some(row)) if row.version != FORMAT_VERSION => self.find(format!(
                "{FORMAT} says version {}, written by {:?}; this program knows {FORMAT_VERSION}",
                row.version, row.writer
            )),
            Some(Some(_)) => {}
        }
        Ok(())
    }

    /// The first shard, and no other, says how many there are.
    async fn shards(&mut self) -> Result<()> {
        let row = self.shard.tenant.get(SHARDS, b"").await?;
        match (self.number, row.as_deref().map(shards_from_bytes)) {
            (Some(0), None) => self.find(format!("the row of {SHARDS} is missing")),
            (Some(0), Some(None)) => self.find(format!("the row of {SHARDS} does not read")),
            (Some(0), Some(shards)) => self.shards = shards,
            (Some(_), Some(_)) => self.find(format!("a row of {SHARDS}, which belongs in the first shard")),
            _ => {}
        }
        Ok(())
    }

    /// The ids under which there are chunks. One seek an id: the chunks between are skipped.
    async fn chunk_ids(&mut self) -> Result<Vec<[u8; 16]>> {
        let category = self.shard.staging.chunk_category().to_owned();
        let mut ids = Vec::new();
        let mut range = KeyRange::all();
        while let Some(key) = self.first_key(&category, range).await? {
            if let Some((id, _)) = read_chunk_key(key.as_bytes()) {
                ids.push(id);
                range = after_prefix(&id);
            } else {
                self.find(format!("{category}: the key {key:?} does not read"));
                range = after_key(&key);
            }
            if range.start.as_bytes().is_empty() {
                break;
            }
        }
        Ok(ids)
    }

    async fn pending_ids(&mut self) -> Result<BTreeSet<[u8; 16]>> {
        let category = self.shard.staging.pending_category().to_owned();
        let mut ids = BTreeSet::new();
        let mut rows = self.shard.tenant.scan(ScanSpec::new(&category, KeyRange::all()).keys_only());
        while let Some(row) = rows.next().await {
            let row = row?;
            match read_client_key(row.key.as_bytes()) {
                Some(id) => {
                    ids.insert(id.into_bytes());
                }
                None => self.find(format!("{category}: the key {:?} does not read", row.key)),
            }
        }
        Ok(ids)
    }

    async fn clients(&mut self) -> Result<()> {
        let tenant = self.shard.tenant.clone();
        let mut rows = tenant.scan(ScanSpec::new(CLIENT, KeyRange::all()).keys_only());
        while let Some(row) = rows.next().await {
            let row = row?;
            match read_client_key(row.key.as_bytes()) {
                Some(client) => self.client(client).await?,
                None => self.find(format!("{CLIENT}: the key {:?} does not read", row.key)),
            }
        }
        Ok(())
    }

    /// What a client that is being deleted, or is being imported, still refers to: its versions lose their rows and their chunks, or get
    /// them, step by step. Its snapshot was discarded in the batch that began the deletion, and comes with the last of an import.
    async fn deletions(&mut self) -> Result<()> {
        let tenant = self.shard.tenant.clone();
        let mut rows = tenant.scan(ScanSpec::new(DELETING, KeyRange::all()).keys_only());
        while let Some(row) = rows.next().await {
            // A key that does not read is found among the strays.
            let Some(client) = read_client_key(row?.key.as_bytes()) else { continue };
            let mut versions = tenant.scan(ScanSpec::new(VERSION, KeyRange::prefix(client_key(client))));
            while let Some(version) = versions.next().await {
                let version = VersionRow::from_bytes(&version?.payload);
                self.referenced
                    .extend(version.and_then(|version| version.value.staged()).map(|value| value.id));
            }
        }
        Ok(())
    }

    /// Examines one client; again when versions of it were dropped meanwhile.
    async fn client(&mut self, client: Uuid) -> Result<()> {
        for _ in 0..EXAMINATIONS_MAX {
            let dropped = self.shard.tenant.get(DROPPED, client_key(client)).await?;
            let (mut examined, same) = self.examine(client, dropped.as_deref()).await?;
            self.referenced.append(&mut examined.referenced);
            if self.shard.tenant.get(DROPPED, client_key(client)).await? != dropped {
                continue;
            }
            if same {
                self.report.clients += 1;
                self.report.versions += examined.versions;
                self.report.snapshots += u64::from(examined.snapshot_bytes.is_some());
                self.report.bytes += examined.version_bytes + examined.snapshot_bytes.unwrap_or(0);
                for finding in examined.findings {
                    self.find(finding);
                }
            }
            return Ok(());
        }
        Ok(())
    }

    /// Examines one client, and answers whether it is the same afterwards. Its chain is walked from the latest version of one
    /// moment, which later pushes do not change; what they do change is looked at again until nothing has changed meanwhile.
    async fn examine(&self, client: Uuid, dropped: Option<&[u8]>) -> Result<(Examined, bool)> {
        let mut examined = Examined::default();
        let Some(bytes) = self.shard.tenant.get(CLIENT, client_key(client)).await? else {
            return Ok((examined, false));
        };
        let row = ClientRow::from_bytes(&bytes);
        if let (Some(number), Some(shards)) = (self.number, self.shards) {
            let its = shard_of(client, usize::from(shards));
            if its != usize::from(number) {
                examined.find(client, format_args!("belongs in shard {its}, where requests look for it"));
            }
        }
        if let Some(row) = &row {
            let first_follows = self.walk(client, row, &mut examined).await?;
            check_beginning(client, first_follows, dropped, &mut examined);
            self.counters(client, row, &mut examined).await?;
            self.snapshots(client, &mut examined).await?;
        } else {
            examined.find(client, format_args!("its row of {CLIENT} does not read"));
        }
        let imported = self.shard.tenant.get(IMPORTED, client_key(client)).await?;
        if imported.is_some_and(|row| imported_from_bytes(&row).is_none()) {
            examined.find(client, format_args!("its row of {IMPORTED} does not read"));
        }
        // Of a client that was deleted meanwhile, and perhaps created anew, nothing of this is true any more.
        let now = self.shard.tenant.get(CLIENT, client_key(client)).await?;
        let same = match (row, now.as_deref().map(ClientRow::from_bytes)) {
            (Some(row), Some(Some(now))) => {
                now.created_unix_s == row.created_unix_s && now.versions >= row.versions
            }
            (None, Some(None)) => true,
            _ => false,
        };
        Ok((examined, same))
    }

    /// Walks from the latest version to the first one, and answers what that one follows.
    async fn walk(&self, client: Uuid, row: &ClientRow, examined: &mut Examined) -> Result<Uuid> {
        let tenant = &self.shard.tenant;
        // A chain that bites its tail would be walked for ever; no chain has more links than there are rows.
        let links_max = tenant.count(PARENT, &KeyRange::prefix(client_key(client))).await?;
        let mut version = row.latest;
        while !version.is_nil() {
            let Some(bytes) = tenant.get(PARENT, pair_key(client, version)).await? else {
                // A client that was made to continue a history from elsewhere begins at a version that it does not have.
                if version == row.latest && row.versions > 0 {
                    examined.find(client, format_args!("its latest version {version} is missing"));
                }
                break;
            };
            let Some(parent) = parent_from_bytes(&bytes) else {
                examined.find(client, format_args!("the parent row of {version} does not read"));
                break;
            };
            if examined.versions >= links_max {
                examined.find(client, format_args!("its chain comes back to {version}"));
                break;
            }
            examined.versions += 1;
            self.version(client, version, parent, examined).await?;
            version = parent;
        }
        if row.versions != examined.versions {
            let versions = examined.versions;
            let finding = format_args!("counts {} versions, but its chain has {versions}", row.versions);
            examined.find(client, finding);
        }
        if row.version_bytes != examined.version_bytes {
            let (counted, found) = (row.version_bytes, examined.version_bytes);
            examined.find(client, format_args!("counts {counted} bytes of versions, but they have {found}"));
        }
        Ok(version)
    }

    /// Compares the number of rows with the length of the chain that was walked from `walked`.
    async fn counters(&self, client: Uuid, walked: &ClientRow, examined: &mut Examined) -> Result<()> {
        let (tenant, key) = (&self.shard.tenant, client_key(client));
        for _ in 0..EXAMINATIONS_MAX {
            let before = tenant.get(CLIENT, key).await?;
            let rows = [
                (VERSION, tenant.count(VERSION, &KeyRange::prefix(key)).await?),
                (PARENT, tenant.count(PARENT, &KeyRange::prefix(key)).await?),
            ];
            if tenant.get(CLIENT, key).await? != before {
                continue;
            }
            let Some(now) = before.as_deref().and_then(ClientRow::from_bytes) else { return Ok(()) };
            // As many more as were pushed since.
            let versions = examined.versions + now.versions.saturating_sub(walked.versions);
            for (category, rows) in rows {
                if rows != versions {
                    let finding =
                        format_args!("{rows} rows of {category}, but its chain has {versions} versions");
                    examined.find(client, finding);
                }
            }
            if now.snapshot.is_some_and(|snapshot| snapshot.versions_since > now.versions) {
                examined.find(client, "counts more versions since its snapshot than it has");
            }
            return Ok(());
        }
        Ok(())
    }

    /// Reads the client's snapshot; another one when it was replaced meanwhile.
    async fn snapshots(&self, client: Uuid, examined: &mut Examined) -> Result<()> {
        for _ in 0..EXAMINATIONS_MAX {
            let Some(row) = self.row_now(client).await? else { return Ok(()) };
            let mut this = Examined::default();
            self.snapshot(client, row.snapshot.as_ref(), &mut this).await?;
            examined.referenced.append(&mut this.referenced);
            let unchanged = |now: &ClientRow| match (&now.snapshot, &row.snapshot) {
                (None, None) => true,
                (Some(now), Some(then)) => {
                    (now.version, now.unix_s, now.staged) == (then.version, then.unix_s, then.staged)
                }
                _ => false,
            };
            if self.row_now(client).await?.as_ref().is_some_and(unchanged) {
                examined.snapshot_bytes = this.snapshot_bytes;
                examined.findings.append(&mut this.findings);
                return Ok(());
            }
        }
        Ok(())
    }

    async fn row_now(&self, client: Uuid) -> Result<Option<ClientRow>> {
        let bytes = self.shard.tenant.get(CLIENT, client_key(client)).await?;
        Ok(bytes.as_deref().and_then(ClientRow::from_bytes))
    }

    async fn version(
        &self,
        client: Uuid,
        version: Uuid,
        parent: Uuid,
        examined: &mut Examined,
    ) -> Result<()> {
        let Some(bytes) = self.shard.tenant.get(VERSION, pair_key(client, parent)).await? else {
            examined.find(client, format_args!("version {version} is missing"));
            return Ok(());
        };
        match VersionRow::from_bytes(&bytes) {
            None => examined.find(client, format_args!("the row of version {version} does not read")),
            Some(found) if found.version != version => examined.find(
                client,
                format_args!("the child of {parent} is {}, but its parent row says {version}", found.version),
            ),
            Some(found) => {
                examined.version_bytes += found.value.bytes();
                if let Stored::Staged(value) = found.value {
                    self.staged(client, &format!("version {version}"), value, examined).await?;
                }
            }
        }
        Ok(())
    }

    async fn snapshot(
        &self,
        client: Uuid,
        snapshot: Option<&SnapshotMeta>,
        examined: &mut Examined,
    ) -> Result<()> {
        let tenant = &self.shard.tenant;
        let inline = tenant.get(SNAPSHOT, client_key(client)).await?;
        let Some(snapshot) = snapshot else {
            if inline.is_some() {
                examined.find(client, format_args!("has no snapshot, but a row of {SNAPSHOT}"));
            }
            return Ok(());
        };
        examined.snapshot_bytes = Some(snapshot.bytes);
        let key = pair_key(client, snapshot.version);
        if !tenant.exists(PARENT, key).await? && !tenant.exists(VERSION, key).await? {
            examined.find(
                client,
                format_args!("its snapshot is of {}, which is not in its chain", snapshot.version),
            );
        }
        if let Some(value) = snapshot.staged() {
            if inline.is_some() {
                examined.find(client, format_args!("has a staged snapshot and also a row of {SNAPSHOT}"));
            }
            return self.staged(client, "its snapshot", value, examined).await;
        }
        match inline.as_deref().map(snapshot_from_bytes) {
            None => examined.find(client, "its snapshot is missing"),
            Some(None) => examined.find(client, format_args!("its row of {SNAPSHOT} does not read")),
            Some(Some((version, bytes))) => {
                if version != snapshot.version || bytes.len() as u64 != snapshot.bytes {
                    examined.find(
                        client,
                        format_args!(
                            "its row of {SNAPSHOT} has {} bytes of version {version}, but {} of {} are expected",
                            bytes.len(),
                            snapshot.bytes,
                            snapshot.version
                        ),
                    );
                }
            }
        }
        Ok(())
    }

    /// Reads a staged value whole: its chunks are numbered without a gap and have the right length together.
    async fn staged(&self, client: Uuid, what: &str, value: Staged, examined: &mut Examined) -> Result<()> {
        examined.referenced.insert(value.id);
        let staging = &self.shard.staging;
        if self.shard.tenant.exists(staging.pending_category(), value.id).await? {
            examined.find(client, format_args!("{what} is marked for removal"));
        }
        let chunks = ScanSpec::new(staging.chunk_category(), KeyRange::prefix(value.id));
        let mut rows = self.shard.tenant.scan(chunks);
        let (mut expected, mut bytes) = (0_u32, 0_u64);
        while let Some(row) = rows.next().await {
            let row = row?;
            if read_chunk_key(row.key.as_bytes()) != Some((value.id, expected)) {
                examined.find(client, format_args!("{what} has no chunk {expected}"));
                return Ok(());
            }
            expected = expected.saturating_add(1);
            bytes += row.payload.len() as u64;
        }
        if bytes != value.bytes {
            examined.find(
                client,
                format_args!("{what} has {bytes} bytes in chunks, but {} are expected", value.bytes),
            );
        }
        Ok(())
    }

    /// Finds rows of clients that do not exist. One seek a client.
    async fn strays(&mut self, category: &str) -> Result<()> {
        let tenant = self.shard.tenant.clone();
        let mut range = KeyRange::all();
        while let Some(key) = self.first_key(category, range).await? {
            let client = key.as_bytes().get(..16).and_then(read_client_key);
            let whole = match category {
                VERSION | PARENT => read_pair_key(key.as_bytes()).is_some(),
                _ => read_client_key(key.as_bytes()).is_some(),
            };
            let Some(client) = client.filter(|_| whole) else {
                self.find(format!("{category}: the key {key:?} does not read"));
                range = after_key(&key);
                continue;
            };
            let known = tenant.exists(CLIENT, client_key(client)).await?
                || tenant.exists(DELETING, client_key(client)).await?;
            // A deletion may have ended, or a client come into being, between the reads: look again.
            if !known
                && tenant.exists(category, &key).await?
                && !tenant.exists(CLIENT, client_key(client)).await?
                && !tenant.exists(DELETING, client_key(client)).await?
            {
                self.find(format!("{category}: rows of client {client}, which does not exist"));
            }
            range = after_prefix(client.as_bytes());
            if range.start.as_bytes().is_empty() {
                break;
            }
        }
        Ok(())
    }

    async fn stray_chunks(&mut self, unexplained: &[[u8; 16]]) -> Result<()> {
        let (tenant, staging) = (self.shard.tenant.clone(), self.shard.staging.clone());
        for id in unexplained {
            let chunks = KeyRange::prefix(id);
            if !tenant.exists(staging.pending_category(), id).await?
                && self.first_key(staging.chunk_category(), chunks).await?.is_some()
            {
                let id = Uuid::from_bytes(*id);
                self.find(format!("{}: chunks of {id}, which nothing refers to", staging.chunk_category()));
            }
        }
        Ok(())
    }

    async fn first_key(&self, category: &str, range: KeyRange) -> Result<Option<Key>> {
        let spec = ScanSpec::new(category, range).keys_only().limit(1);
        let page = self.shard.tenant.scan_page(spec).await?;
        Ok(page.rows.into_iter().next().map(|row| row.key))
    }
}

/// Compares where the chain begins with what was dropped of it: a beginning that is missing otherwise is a gap.
fn check_beginning(client: Uuid, first_follows: Uuid, dropped: Option<&[u8]>, examined: &mut Examined) {
    match dropped.map(DroppedRow::from_bytes) {
        None => {}
        Some(None) => examined.find(client, format_args!("its row of {DROPPED} does not read")),
        Some(Some(dropped)) if dropped.last == first_follows => {}
        Some(Some(dropped)) => examined.find(
            client,
            format_args!(
                "its versions up to {} were dropped, but the first that is left follows {first_follows}",
                dropped.last
            ),
        ),
    }
}

/// Every key after those that begin with `prefix`; an empty start when there can be none.
fn after_prefix(prefix: &[u8]) -> KeyRange {
    KeyRange::new(KeyRange::prefix(prefix).stop, b"")
}

fn after_key(key: &Key) -> KeyRange {
    let mut start = key.as_bytes().to_vec();
    start.push(0);
    KeyRange::new(start, b"")
}
