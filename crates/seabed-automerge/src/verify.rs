//! Verification: is every document whole, are its counters right, and is there nothing else?
//!
//! Works beside a server that writes. What keeps changing is looked at again, and what seems to belong to nobody is looked at twice.

use std::collections::BTreeSet;
use std::fmt;

use seabed_kv::staged::{Staged, read_chunk_key};
use seabed_kv::{Key, KeyRange, ScanSpec, Store, Tenant};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::DocumentId;
use crate::error::{Error, ErrorKind, Result};
use crate::keys::{
    CHANGE, ChangeRow, DELETED, DOCUMENT, DeletedRow, FORMAT, FORMAT_VERSION, FormatRow, IDENTITY, PEER,
    PeerRow, QUARANTINE, QuarantineRow, SHARDS, SNAPSHOT, Stored, document_key, identity_from_bytes,
    read_document_key, read_numbered_key, read_snapshot_key, shards_from_bytes, snapshot_from_bytes,
};
use crate::meta::Meta;
use crate::salvage::{change_count, load};
use crate::shard::{SPREAD, Shard, shard_of};

/// How many findings a report spells out; the last one then says how many more there were.
pub const FINDINGS_MAX: usize = 1_000;

/// How often what keeps changing is looked at again. What has not stood still once is in use, and so not reported.
const EXAMINATIONS_MAX: usize = 8;

/// What [`verify`] examined and found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// How many documents were examined.
    pub documents: u64,
    /// How many changes are stored one by one.
    pub changes: u64,
    /// How many snapshots they have.
    pub snapshots: u64,
    /// How many bytes of changes and snapshots were read.
    pub bytes: u64,
    /// What is wrong, a sentence each, at most [`FINDINGS_MAX`] and one more; empty when all is well.
    pub findings: Vec<String>,
}

/// Examines one tenant of this layer: that every document loads, that its counters are right, that every snapshot has the digest in its key,
/// that nothing is in quarantine unseen, that no row and no chunk belongs to nobody. Holds one document at a time, and sixteen bytes a staged
/// value. May run beside a server, and be dropped at any await.
///
/// ```
/// # pollster::block_on(async {
/// use seabed_automerge::{DocStore, verify};
///
/// let store = seabed_kv::Store::memory();
/// DocStore::open(&store).await?;
/// let report = verify(&store.tenant("automerge-00")?).await?;
/// assert!(report.findings.is_empty());
/// # Ok::<(), seabed_kv::Error>(())
/// # })?;
/// # Ok::<(), seabed_kv::Error>(())
/// ```
///
/// # Errors
/// Those of the store's reads. Damage is no error but a finding.
pub async fn verify(tenant: &Tenant) -> Result<VerifyReport, Error> {
    examine(Verifier::new(Shard::new(tenant.clone()))).await
}

/// The same, for a tenant of a whole store: also that no shard is missing, and that documents are where requests look for them.
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
    // In this order: a chunk that is neither pending when the pending rows are read nor referred to when the documents are read
    // afterwards, was attached in between only if the documents' rows show it.
    let chunks = verifier.chunk_ids().await?;
    let pending = verifier.pending_ids().await?;
    verifier.documents().await?;
    verifier.deletions().await?;
    for category in [CHANGE, SNAPSHOT, PEER, QUARANTINE] {
        verifier.strays(category).await?;
    }
    for id in chunks.into_iter().filter(|id| !pending.contains(id)) {
        verifier.stray_chunk(id).await?;
    }
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

/// What the examination of one document found.
#[derive(Debug, Default)]
struct Examined {
    counted: Meta,
    bytes: u64,
    referenced: BTreeSet<[u8; 16]>,
    findings: Vec<String>,
}

impl Examined {
    fn find(&mut self, document: DocumentId, finding: impl fmt::Display) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(format!("document {document}: {finding}"));
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
        let row = self.shard.tenant.get(SHARDS, b"").await?;
        match (self.number, row.as_deref().map(shards_from_bytes)) {
            (Some(0), None) => self.find(format!("the row of {SHARDS} is missing")),
            (Some(0), Some(None)) => self.find(format!("the row of {SHARDS} does not read")),
            (Some(0), Some(shards)) => self.shards = shards,
            (Some(_), Some(_)) => self.find(format!("a row of {SHARDS}, which belongs in the first shard")),
            _ => {}
        }
        let row = self.shard.tenant.get(IDENTITY, b"").await?;
        match (self.number, row.as_deref().map(identity_from_bytes)) {
            (Some(0), Some(None)) => self.find(format!("the row of {IDENTITY} does not read")),
            (Some(1..), Some(_)) => {
                self.find(format!("a row of {IDENTITY}, which belongs in the first shard"));
            }
            // A store that was never served has none.
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
            match row.key.as_bytes().try_into() {
                Ok(id) => {
                    ids.insert(id);
                }
                Err(_) => self.find(format!("{category}: the key {:?} does not read", row.key)),
            }
        }
        Ok(ids)
    }

    async fn documents(&mut self) -> Result<()> {
        let tenant = self.shard.tenant.clone();
        let mut rows = tenant.scan(ScanSpec::new(DOCUMENT, KeyRange::all()).keys_only());
        while let Some(row) = rows.next().await {
            let row = row?;
            match read_document_key(row.key.as_bytes()) {
                Some(document) => self.document(document).await?,
                None => self.find(format!("{DOCUMENT}: the key {:?} does not read", row.key)),
            }
        }
        Ok(())
    }

    /// Examines one document; again when it was written meanwhile.
    async fn document(&mut self, document: DocumentId) -> Result<()> {
        let key = document_key(document);
        for _ in 0..EXAMINATIONS_MAX {
            let Some(before) = self.shard.tenant.get(DOCUMENT, key).await? else { return Ok(()) };
            let mut examined = self.examine(document, &before).await?;
            self.referenced.append(&mut examined.referenced);
            if self.shard.tenant.get(DOCUMENT, key).await?.as_ref() == Some(&before) {
                self.report.documents += 1;
                self.report.changes += examined.counted.changes;
                self.report.snapshots += examined.counted.snapshots;
                self.report.bytes += examined.bytes;
                for finding in examined.findings {
                    self.find(finding);
                }
                return Ok(());
            }
        }
        Ok(())
    }

    async fn examine(&self, document: DocumentId, row: &[u8]) -> Result<Examined> {
        let mut examined = Examined::default();
        if let (Some(number), Some(shards)) = (self.number, self.shards) {
            let its = shard_of(document, usize::from(shards));
            if its != usize::from(number) {
                examined.find(document, format_args!("belongs in shard {its}, where requests look for it"));
            }
        }
        if self.shard.tenant.exists(DELETED, document_key(document)).await? {
            examined.find(document, "was deleted, and is there");
        }
        let mut buffer = Vec::new();
        self.snapshots(document, &mut buffer, &mut examined).await?;
        self.changes(document, &mut buffer, &mut examined).await?;
        self.peers(document, &mut examined).await?;
        self.quarantined(document, &mut examined).await?;
        examined.bytes = buffer.len() as u64;
        if examined.findings.is_empty()
            && let Err(why) = load(&buffer)
        {
            examined.find(document, format_args!("automerge does not load it: {why}"));
        }
        let Some(meta) = Meta::from_bytes(row) else {
            examined.find(document, format_args!("its row of {DOCUMENT} does not read"));
            return Ok(examined);
        };
        let counted = examined.counted.clone();
        for (what, says, found) in [
            ("rows of changes", meta.rows, counted.rows),
            ("staged or addressed rows", meta.odd_rows, counted.odd_rows),
            ("changes", meta.changes, counted.changes),
            ("bytes of changes", meta.change_bytes, counted.change_bytes),
            ("snapshots", meta.snapshots, counted.snapshots),
            ("bytes of snapshots", meta.snapshot_bytes, counted.snapshot_bytes),
            ("peers", meta.peers, counted.peers),
            ("bytes of sync states", meta.peer_bytes, counted.peer_bytes),
            ("rows in quarantine", meta.quarantined, counted.quarantined),
        ] {
            if says != found {
                examined.find(document, format_args!("its row says {says} {what}, and there are {found}"));
            }
        }
        if counted.next > meta.next {
            examined.find(document, format_args!("has changes beyond row {}", meta.next));
        }
        Ok(examined)
    }

    /// The bytes of a value; its damage is a finding.
    async fn read(
        &self,
        document: DocumentId,
        stored: Stored,
        examined: &mut Examined,
    ) -> Result<Option<Vec<u8>>> {
        examined.referenced.extend(stored.staged().map(|value| value.id));
        match self.shard.read(stored).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                examined.find(document, error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn snapshots(
        &self,
        document: DocumentId,
        buffer: &mut Vec<u8>,
        examined: &mut Examined,
    ) -> Result<()> {
        let mut rows = self.scan(SNAPSHOT, document);
        while let Some(row) = rows.next().await {
            let row = row?;
            let key = read_snapshot_key(row.key.as_bytes());
            let Some(((_, digest), stored)) = key.zip(snapshot_from_bytes(&row.payload)) else {
                examined.find(document, format_args!("a row of {SNAPSHOT} does not read"));
                continue;
            };
            examined.counted.snapshots += 1;
            examined.counted.snapshot_bytes += stored.bytes();
            if let Some(bytes) = self.read(document, stored, examined).await? {
                if Sha256::digest(&bytes).as_slice() != digest {
                    examined.find(document, "a snapshot is not the one that its key names");
                }
                buffer.extend_from_slice(&bytes);
            }
        }
        Ok(())
    }

    async fn changes(
        &self,
        document: DocumentId,
        buffer: &mut Vec<u8>,
        examined: &mut Examined,
    ) -> Result<()> {
        let mut rows = self.scan(CHANGE, document);
        while let Some(row) = rows.next().await {
            let row = row?;
            let key = read_numbered_key(row.key.as_bytes());
            let Some(((_, number), change)) = key.zip(ChangeRow::from_bytes(&row.payload)) else {
                examined.find(document, format_args!("a row of {CHANGE} does not read"));
                continue;
            };
            examined.counted.rows += 1;
            examined.counted.odd_rows += u64::from(!change.is_plain());
            examined.counted.change_bytes += change.value.bytes();
            examined.counted.next = number.saturating_add(1);
            let addressed = change.address.is_some();
            let Some(bytes) = self.read(document, change.value, examined).await? else { continue };
            if addressed {
                examined.counted.changes += 1;
                continue;
            }
            if let Some(flaw) = crate::chunks::sift(&bytes).flaw {
                examined.find(document, format_args!("row {number} of its changes: {flaw}"));
            }
            examined.counted.changes += change_count(&bytes);
            buffer.extend_from_slice(&bytes);
        }
        Ok(())
    }

    async fn peers(&self, document: DocumentId, examined: &mut Examined) -> Result<()> {
        let mut rows = self.scan(PEER, document);
        while let Some(row) = rows.next().await {
            let Some(peer) = PeerRow::from_bytes(&row?.payload) else {
                examined.find(document, format_args!("a row of {PEER} does not read"));
                continue;
            };
            examined.counted.peers += 1;
            examined.counted.peer_bytes += peer.state.len() as u64;
        }
        Ok(())
    }

    /// What is in quarantine is no new damage; that it can be read is looked at all the same, but not the staged values.
    async fn quarantined(&self, document: DocumentId, examined: &mut Examined) -> Result<()> {
        let mut rows = self.scan(QUARANTINE, document);
        while let Some(row) = rows.next().await {
            examined.counted.quarantined += 1;
            match QuarantineRow::from_bytes(&row?.payload) {
                Some(row) => examined.referenced.extend(row.staged().map(|value| value.id)),
                None => examined.find(document, format_args!("a row of {QUARANTINE} does not read")),
            }
        }
        Ok(())
    }

    fn scan(&self, category: &str, document: DocumentId) -> seabed_kv::Scan {
        self.shard.tenant.scan(ScanSpec::new(category, KeyRange::prefix(document_key(document))))
    }

    /// What a document that is being deleted still refers to.
    async fn deletions(&mut self) -> Result<()> {
        let tenant = self.shard.tenant.clone();
        let mut rows = tenant.scan(ScanSpec::new(DELETED, KeyRange::all()));
        while let Some(row) = rows.next().await {
            let row = row?;
            let read = read_document_key(row.key.as_bytes()).zip(DeletedRow::from_bytes(&row.payload));
            let Some((document, deleted)) = read else {
                self.find(format!("{DELETED}: the row {:?} does not read", row.key));
                continue;
            };
            if deleted.removing {
                let mut examined = Examined::default();
                let mut buffer = Vec::new();
                self.snapshots(document, &mut buffer, &mut examined).await?;
                self.changes(document, &mut buffer, &mut examined).await?;
                self.quarantined(document, &mut examined).await?;
                self.referenced.append(&mut examined.referenced);
            }
        }
        Ok(())
    }

    /// Rows of documents that there are none of. One seek a document.
    async fn strays(&mut self, category: &str) -> Result<()> {
        let mut range = KeyRange::all();
        while let Some(key) = self.first_key(category, range).await? {
            let Some(document) = key.as_bytes().get(..16).and_then(read_document_key) else {
                self.find(format!("{category}: the key {key:?} does not read"));
                range = after_key(&key);
                continue;
            };
            let of_document = document_key(document);
            if !self.is_explained(document).await? {
                // In this order: one that was created since its row was looked for shows both now.
                let still = self.first_key(category, KeyRange::prefix(of_document)).await?.is_some();
                if still && !self.is_explained(document).await? {
                    self.find(format!("{category}: rows of {document}, of which there is no document"));
                }
            }
            range = after_prefix(&of_document);
            if range.start.as_bytes().is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Whether there is such a document, or one is being deleted.
    async fn is_explained(&self, document: DocumentId) -> Result<bool> {
        let key = document_key(document);
        if self.shard.tenant.exists(DOCUMENT, key).await? {
            return Ok(true);
        }
        let deleted = self.shard.tenant.get(DELETED, key).await?;
        Ok(deleted.is_some_and(|row| DeletedRow::from_bytes(&row).is_none_or(|row| row.removing)))
    }

    /// Chunks that are neither pending nor referred to; those that were attached or swept meanwhile are looked for once more.
    async fn stray_chunk(&mut self, id: [u8; 16]) -> Result<()> {
        if self.referenced.contains(&id) {
            return Ok(());
        }
        let pending = self.shard.staging.pending_category().to_owned();
        let chunks = self.shard.staging.chunk_category().to_owned();
        let there = self.first_key(&chunks, KeyRange::prefix(id)).await?.is_some();
        if there && !self.shard.tenant.exists(&pending, id).await? && !self.is_referenced(id).await? {
            self.find(format!("{chunks}: the chunks of {} belong to nobody", hex::encode(id)));
        }
        Ok(())
    }

    /// Looks through every row that may refer to a value. Reached for what seems to be a stray alone.
    async fn is_referenced(&self, id: [u8; 16]) -> Result<bool> {
        for category in [SNAPSHOT, CHANGE, QUARANTINE] {
            let mut rows = self.shard.tenant.scan(ScanSpec::new(category, KeyRange::all()));
            while let Some(row) = rows.next().await {
                let payload = row?.payload;
                let staged: Option<Staged> = match category {
                    SNAPSHOT => snapshot_from_bytes(&payload).and_then(|stored| stored.staged()),
                    CHANGE => ChangeRow::from_bytes(&payload).and_then(|row| row.value.staged()),
                    _ => QuarantineRow::from_bytes(&payload).and_then(|row| row.staged()),
                };
                if staged.is_some_and(|staged| staged.id == id) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    async fn first_key(&self, category: &str, range: KeyRange) -> Result<Option<Key>> {
        let spec = ScanSpec::new(category, range).keys_only().limit(1);
        let page = self.shard.tenant.scan_page(spec).await?;
        Ok(page.rows.into_iter().next().map(|row| row.key))
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
