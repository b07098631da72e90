//! The import of one client: compared, then written; a new one whole or not at all, one that is here step by step.

use seabed_kv::staged::StagedWriter;
use seabed_kv::{Batch, Durability, Error, ErrorKind, Result};
use uuid::Uuid;

use super::Totals;
use super::chain::Link;
use super::import::History;
use super::source::Source;
use crate::error::busy;
use crate::keys::{
    CLIENT, ClientRow, DELETING, DroppedRow, IMPORTED, PARENT, SNAPSHOT, SnapshotMeta, Stored, VERSION,
    VersionRow, client_key, deleting_to_bytes, imported_to_bytes, pair_key, parent_from_bytes,
    snapshot_from_bytes,
};
use crate::rules::{count_version, put_snapshot, put_version};
use crate::shard::Shard;
use crate::value::Value;

/// How many versions, and bytes in rows, one batch of an import holds.
const STEP_VERSIONS: u64 = 256;
const STEP_BYTES: u64 = 1 << 20;

/// What became of a client.
pub(super) enum Moved {
    /// Its history, or what was missing of it, was written: so much.
    Written(Totals),
    /// Nothing was missing.
    Unchanged {
        newer_here: bool,
    },
    Refused(String),
}

/// The import of one client. All its batches are Relaxed, because nobody is told of a client before all are flushed: one flush for
/// the whole import, and whatever a power cut takes is the end of it.
pub(super) struct Import<'a> {
    pub(super) shard: Shard,
    pub(super) source: Source<'a>,
    pub(super) history: &'a History,
    pub(super) now_unix_s: u64,
    /// Called for each version.
    pub(super) tick: &'a mut dyn FnMut(),
}

impl Import<'_> {
    pub(super) async fn run(mut self) -> Result<Moved> {
        match self.shard.client_row(self.history.client).await? {
            None => self.create().await,
            Some(row) => self.go_on(row).await,
        }
    }

    /// Writes the whole history. Until it is whole, the client is one whose rows are being removed: whoever opens the store after a crash
    /// completes that, and nobody ever sees a part.
    async fn create(&mut self) -> Result<Moved> {
        let client = self.history.client;
        if !self.mark().await? {
            // What an import that was cut off has left. A store that one process owns was rid of it when it was opened.
            self.shard.finish_deletion(client).await?;
            if !self.mark().await? {
                return Err(self.changed());
            }
        }
        let made = self.create_marked().await;
        if !matches!(made, Ok(Moved::Written(_))) {
            // What went wrong is told, whether or not this works: the next opening of the store does it again.
            if let Err(error) = self.shard.finish_deletion(client).await {
                tracing::warn!(%error, "removing a client that could not be imported failed");
            }
        }
        made
    }

    /// Marks the client as one that is being imported; false when there is one, or a mark.
    async fn mark(&self) -> Result<bool> {
        let key = client_key(self.history.client);
        let mut begin = Batch::new();
        begin.check_absent(CLIENT, key).check_absent(DELETING, key);
        begin.put(DELETING, key, self.importing());
        Ok(self.shard.tenant.apply(begin, Durability::Relaxed).await?.is_applied())
    }

    /// What the mark holds while this import is at it: never the time 0, which stands for rows that are to go.
    fn importing(&self) -> Vec<u8> {
        deleting_to_bytes(self.now_unix_s.max(1))
    }

    async fn create_marked(&mut self) -> Result<Moved> {
        let key = client_key(self.history.client);
        let mut row = ClientRow { latest: self.history.latest, ..ClientRow::new(self.now_unix_s) };
        let mut left = self.history.chain.as_slice();
        while !left.is_empty() {
            let mut step = Step::default();
            step.batch.check_equals(DELETING, key, self.importing());
            left = self.fill(&mut step, &mut row, left).await?;
            self.apply(step.batch).await?;
        }
        if let Some(why) = self.difference(&self.history.chain, None).await? {
            return Ok(Moved::Refused(format!("what was written of it is not what was read: {why}")));
        }
        let mut last = Step::default();
        last.batch.check_absent(CLIENT, key);
        last.batch.check_equals(DELETING, key, self.importing()).delete(DELETING, key);
        self.take_snapshot(&mut last, &mut row).await?;
        last.batch.put(CLIENT, key, row.to_bytes());
        self.remember(&mut last.batch);
        self.apply(last.batch).await?;
        self.check_snapshot(&row).await?;
        Ok(Moved::Written(self.written(self.history.chain.as_slice(), row.snapshot.is_some())))
    }

    /// Compares what is here with the original, and adds what only the original has.
    async fn go_on(&mut self, mut row: ClientRow) -> Result<Moved> {
        let (client, key, history) = (self.history.client, client_key(self.history.client), self.history);
        let dropped = self.shard.dropped(client).await?;
        let imported = self.shard.imported(client).await?;
        if let Some(why) = self.other_snapshot(row.snapshot.as_ref()).await? {
            return Ok(diverged(&why));
        }
        let reached = history.chain.iter().position(|link| link.version == row.latest);
        let (here, missing) = match reached {
            Some(position) => history.chain.split_at(position.saturating_add(1)),
            // Nothing was pushed here yet.
            None if row.versions == 0 && (row.latest.is_nil() || row.latest == history.goes_on_from()) => {
                history.chain.split_at(0)
            }
            None => {
                // Newer versions came here; perhaps so many since the import that a snapshot covers all of the original.
                let all_dropped = dropped.is_some() && imported == Some(history.latest);
                let newer = match self.difference(&history.chain, dropped).await? {
                    Some(_) if all_dropped && !self.has(history.latest).await? => None,
                    None if !self.goes_on_from(history.latest).await? => {
                        Some(format!("version {} is not here", history.latest))
                    }
                    difference => difference,
                };
                if let Some(why) = newer {
                    return Ok(diverged(&why));
                }
                if imported != Some(history.latest) {
                    let mut batch = Batch::new();
                    batch.check_exists(CLIENT, key);
                    self.remember(&mut batch);
                    self.apply(batch).await?;
                }
                return Ok(Moved::Unchanged { newer_here: true });
            }
        };
        if let Some(why) = self.difference(here, dropped).await? {
            return Ok(diverged(&why));
        }
        let newer_snapshot = self.has_newer_snapshot(row.snapshot.as_ref());
        let mut left = missing;
        while !left.is_empty() {
            let mut step = Step::default();
            step.batch.check_equals(CLIENT, key, row.to_bytes());
            left = self.fill(&mut step, &mut row, left).await?;
            step.batch.put(CLIENT, key, row.to_bytes());
            self.apply(step.batch).await?;
        }
        if let Some(why) = self.difference(missing, None).await? {
            return Ok(Moved::Refused(format!("what was written of it is not what was read: {why}")));
        }
        let named = row.latest != history.latest;
        let unchanged = missing.is_empty() && !newer_snapshot && !named;
        if unchanged && imported == Some(history.latest) {
            return Ok(Moved::Unchanged { newer_here: false });
        }
        let mut last = Step::default();
        last.batch.check_equals(CLIENT, key, row.to_bytes());
        row.latest = history.latest;
        if newer_snapshot {
            if let Some(old) = row.snapshot.and_then(|snapshot| snapshot.staged()) {
                self.shard.staging.discard(&mut last.batch, old, 0);
            }
            self.take_snapshot(&mut last, &mut row).await?;
        }
        last.batch.put(CLIENT, key, row.to_bytes());
        self.remember(&mut last.batch);
        self.apply(last.batch).await?;
        if newer_snapshot {
            self.check_snapshot(&row).await?;
        }
        if unchanged {
            return Ok(Moved::Unchanged { newer_here: false });
        }
        Ok(Moved::Written(self.written(missing, newer_snapshot)))
    }

    /// Puts as many versions into the step as it may hold, and answers what is left.
    async fn fill<'l>(
        &mut self,
        step: &mut Step,
        row: &mut ClientRow,
        links: &'l [Link],
    ) -> Result<&'l [Link]> {
        let mut left = links;
        while let Some((link, rest)) = left.split_first() {
            if step.is_full() {
                break;
            }
            let bytes = self.source.version_bytes(self.history, link).await?;
            let value = self.store(step, &bytes).await?;
            count_version(row, link.version, value.bytes(), self.now_unix_s);
            let version = VersionRow { version: link.version, received_unix_s: self.now_unix_s, value };
            put_version(&mut step.batch, self.history.client, link.parent, &version);
            step.versions += 1;
            (self.tick)();
            left = rest;
        }
        Ok(left)
    }

    /// Makes the original's snapshot the client's.
    async fn take_snapshot(&self, step: &mut Step, row: &mut ClientRow) -> Result<()> {
        let Some(head) = self.history.snapshot else { return Ok(()) };
        let bytes = self.source.snapshot_bytes(self.history).await?;
        let value = self.store(step, &bytes).await?;
        row.snapshot = Some(SnapshotMeta {
            version: head.version,
            unix_s: head.unix_s,
            versions_since: head.versions_since,
            bytes: value.bytes(),
            staged: value.staged().map(|value| value.id),
        });
        put_snapshot(&mut step.batch, self.history.client, head.version, &value);
        Ok(())
    }

    /// Stores a value, in the step's batch or in chunks that it makes stay.
    async fn store(&self, step: &mut Step, bytes: &[u8]) -> Result<Stored> {
        if bytes.len() <= self.shard.inline_max() {
            step.bytes += bytes.len() as u64;
            return Ok(Stored::Inline(bytes.to_vec()));
        }
        let id = Uuid::new_v4().into_bytes();
        let mut writer = self.shard.staging.writer(id, self.now_unix_s.saturating_mul(1_000));
        writer.write(bytes).await?;
        let value = writer.finish().await?;
        writer.attach(&mut step.batch);
        step.writers.push(writer);
        Ok(Stored::Staged(value))
    }

    /// Whether the original's snapshot is of a later version than the one here.
    fn has_newer_snapshot(&self, here: Option<&SnapshotMeta>) -> bool {
        let Some(theirs) = &self.history.snapshot else { return false };
        let Some(here) = here else { return true };
        let position = |version| self.history.chain.iter().position(|link| link.version == version);
        match (position(here.version), position(theirs.version)) {
            (Some(here), Some(theirs)) => theirs > here,
            // The one here is of the version before the first, or of one that the original does not have.
            (None, Some(_)) => self.history.chain.first().is_some_and(|first| first.parent == here.version),
            (_, None) => false,
        }
    }

    /// Where what is here differs from these links and their bytes, in a sentence; looks back from the last to the first. Those
    /// that were dropped here are not expected.
    pub(super) async fn difference(
        &self,
        links: &[Link],
        dropped: Option<DroppedRow>,
    ) -> Result<Option<String>> {
        let client = self.history.client;
        for link in links.iter().rev() {
            let version = link.version;
            if dropped.is_some_and(|dropped| dropped.last == version) {
                break;
            }
            let parent = self.shard.tenant.get(PARENT, pair_key(client, version)).await?;
            match parent.as_deref().map(parent_from_bytes) {
                None => return Ok(Some(format!("version {version} is not here"))),
                Some(Some(parent)) if parent == link.parent => {}
                Some(_) => {
                    return Ok(Some(format!("version {version} does not follow {} here", link.parent)));
                }
            }
            let Some(stored) = self.shard.version_row(client, link.parent).await? else {
                return Ok(Some(format!("version {version} has no bytes here")));
            };
            if stored.version != version {
                return Ok(Some(format!("{} is followed by version {} here", link.parent, stored.version)));
            }
            let same = stored.value.bytes() == link.bytes
                && Value::new(stored.value, &self.shard.staging)
                    .equals(&self.source.version_bytes(self.history, link).await?)
                    .await?;
            if !same {
                return Ok(Some(format!("version {version} has other bytes here")));
            }
        }
        Ok(None)
    }

    /// Why the snapshot here is another one than the original's although both are of one version, in a sentence.
    async fn other_snapshot(&self, here: Option<&SnapshotMeta>) -> Result<Option<String>> {
        let (Some(here), Some(there)) = (here, &self.history.snapshot) else { return Ok(None) };
        if here.version != there.version {
            return Ok(None);
        }
        let version = here.version;
        match self.same_snapshot_bytes(here).await {
            Ok(true) => Ok(None),
            Ok(false) => Ok(Some(format!("its snapshot of version {version} has other bytes here"))),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                Ok(Some(format!("its snapshot of version {version} cannot be read here ({error})")))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the snapshot here is the original's: what is said of it, and its bytes.
    pub(super) async fn same_snapshot(&self) -> Result<bool> {
        let client = self.history.client;
        let Some(row) = self.shard.client_row(client).await? else { return Ok(false) };
        let (Some(here), Some(there)) = (row.snapshot, self.history.snapshot) else {
            return Ok(row.snapshot.is_none() && self.history.snapshot.is_none());
        };
        let same = (here.version, here.unix_s, here.versions_since)
            == (there.version, there.unix_s, there.versions_since);
        Ok(same && self.same_snapshot_bytes(&here).await?)
    }

    /// Whether the snapshot here has the bytes of the original's.
    async fn same_snapshot_bytes(&self, here: &SnapshotMeta) -> Result<bool> {
        let client = self.history.client;
        let value = if let Some(value) = here.staged() {
            Value::new(Stored::Staged(value), &self.shard.staging)
        } else {
            let row = self.shard.tenant.get(SNAPSHOT, client_key(client)).await?;
            match row.as_deref().and_then(snapshot_from_bytes) {
                Some((version, bytes)) if version == here.version => Value::inline(bytes),
                _ => return Ok(false),
            }
        };
        value.equals(&self.source.snapshot_bytes(self.history).await?).await
    }

    /// The snapshot that was just written reads back, unless a device has written meanwhile: servers may run beside an import.
    async fn check_snapshot(&self, written: &ClientRow) -> Result<()> {
        if self.same_snapshot().await? {
            return Ok(());
        }
        let here = self.shard.client_row(self.history.client).await?;
        if here.is_some_and(|here| here.to_bytes() != written.to_bytes()) {
            return Ok(());
        }
        let message = format!(
            "the snapshot of client {} does not read back as it was written; run `seabed verify`",
            self.history.client
        );
        Err(Error::new(ErrorKind::Corrupt, message).in_tenant(self.shard.tenant.id()))
    }

    /// Whether the history here has that version, or begins after it. Anything goes on from nil.
    async fn goes_on_from(&self, version: Uuid) -> Result<bool> {
        let key = pair_key(self.history.client, version);
        Ok(version.is_nil() || self.has(version).await? || self.shard.tenant.exists(VERSION, key).await?)
    }

    async fn has(&self, version: Uuid) -> Result<bool> {
        self.shard.tenant.exists(PARENT, pair_key(self.history.client, version)).await
    }

    fn remember(&self, batch: &mut Batch) {
        let row = imported_to_bytes(self.history.latest, self.now_unix_s);
        batch.put(IMPORTED, client_key(self.history.client), row);
    }

    fn written(&self, links: &[Link], snapshot: bool) -> Totals {
        let mut totals = Totals::default();
        for link in links {
            totals.add_version(link.bytes);
        }
        if let (Some(head), true) = (&self.history.snapshot, snapshot) {
            totals.add_snapshot(head.bytes);
        }
        totals
    }

    async fn apply(&self, batch: Batch) -> Result<()> {
        self.source.check_unchanged()?;
        if self.shard.tenant.apply(batch, Durability::Relaxed).await?.is_applied() {
            Ok(())
        } else {
            Err(self.changed())
        }
    }

    fn changed(&self) -> Error {
        let message = format!(
            "client {} was changed, or its import removed, by somebody else; import while nobody serves the store",
            self.history.client
        );
        busy(&self.shard.tenant, &message)
    }
}

fn diverged(why: &str) -> Moved {
    Moved::Refused(format!(
        "there is a client of this id with another history here: {why}. Both are kept as they are; `seabed clients delete` \
         removes the one here"
    ))
}

/// One batch of an import.
#[derive(Default)]
struct Step {
    batch: Batch,
    versions: u64,
    bytes: u64,
    /// Kept until the batch is applied: they discard what was not attached.
    writers: Vec<StagedWriter>,
}

impl Step {
    fn is_full(&self) -> bool {
        self.versions >= STEP_VERSIONS || self.bytes >= STEP_BYTES
    }
}
