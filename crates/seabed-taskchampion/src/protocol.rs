//! The four requests: read, decide, one batch, answer.

use seabed_kv::staged::Staged;
use seabed_kv::{Batch, Commit, Durability, Error, ErrorKind, Outcome};
use uuid::Uuid;

use crate::TaskChampion;
use crate::error::{Result, busy, damaged};
use crate::keys::{
    CLIENT, ClientRow, DELETING, PARENT, SNAPSHOT, Stored, VERSION, VersionRow, client_key, pair_key,
    parent_from_bytes, snapshot_from_bytes,
};
use crate::rules::{self, AddSnapshot, AddVersion, Committed, Decision, Push};
use crate::shard::Shard;
use crate::snapshot::{Step, Walk};
use crate::value::{Upload, UploadWriter, Value};

/// How often a request begins anew because others changed the same client meanwhile. A push never comes near: when its client
/// has changed, the answer is nearly always a conflict.
pub const ATTEMPTS_MAX: usize = 64;

/// What follows a version.
#[derive(Debug)]
pub enum ChildVersion {
    /// This one.
    Found {
        /// Its id.
        version: Uuid,
        /// Its parent, the version asked for.
        parent: Uuid,
        /// Its bytes.
        value: Value,
    },
    /// Nothing: a push onto it would be accepted.
    UpToDate,
    /// Nothing any more: it is not in this client's history.
    Gone,
    /// The client does not exist.
    NoSuchClient,
}

/// The client's snapshot.
#[derive(Debug)]
pub enum GetSnapshot {
    /// This one.
    Found {
        /// The version it was taken at.
        version: Uuid,
        /// Its bytes.
        value: Value,
    },
    /// It has none.
    NoSnapshot,
    /// The client does not exist.
    NoSuchClient,
}

impl TaskChampion {
    /// Begins to take the bytes of a version or snapshot for `client`. `id` must be fresh and random: the chunks of a large value
    /// go under it. The time is in milliseconds since 1970.
    pub fn upload(&self, client: Uuid, id: Uuid, now_unix_ms: u64) -> UploadWriter {
        let shard = self.shard(client);
        UploadWriter::new(client, shard.staging.clone(), shard.inline_max(), id, now_unix_ms)
    }

    /// Whether there is a client of that id.
    #[cfg(feature = "http")]
    pub(crate) async fn has_client(&self, client: Uuid) -> Result<bool> {
        self.shard(client).tenant.exists(CLIENT, client_key(client)).await
    }

    /// The version whose parent is `parent`. Takes two reads, whatever the number of clients and versions. May be dropped at any
    /// await.
    ///
    /// # Errors
    /// Those of the store's reads; `Corrupt` for a damaged row.
    pub async fn get_child_version(&self, client: Uuid, parent: Uuid) -> Result<Committed<ChildVersion>> {
        let shard = self.shard(client);
        let Some(row) = shard.client_row(client).await? else {
            return Ok(Committed::read(ChildVersion::NoSuchClient));
        };
        // Read after the client's row, so that a version which is absent now had been dropped, or was not there when the row was read. A
        // child of the latest may have come and gone again in between: whoever is told "up to date" of it is told the conflict when it
        // pushes, and that it is gone when it asks again.
        let key = pair_key(client, parent);
        Ok(Committed::read(match shard.tenant.get(VERSION, key).await? {
            Some(bytes) => {
                let found =
                    VersionRow::from_bytes(&bytes).ok_or_else(|| damaged(&shard.tenant, VERSION, &key))?;
                let value = Value::new(found.value, &shard.staging);
                ChildVersion::Found { version: found.version, parent, value }
            }
            None if row.latest.is_nil() || row.latest == parent => ChildVersion::UpToDate,
            None => ChildVersion::Gone,
        }))
    }

    /// Adds a version onto `parent`, with the id `version`, which must be fresh and random. Takes one read and one durable batch of
    /// a few small rows, whatever the size of the snapshot and the number of clients. Dropped, it takes effect as a
    /// whole or not at all.
    ///
    /// # Errors
    /// Those of the store, among them one whose [`applied`](Error::applied) is unknown; `Busy` while a client of this id is
    /// being deleted, `Timeout` when the upload took so long that its chunks were swept, `Corrupt` for a damaged row.
    pub async fn add_version(
        &self,
        upload: Upload,
        parent: Uuid,
        version: Uuid,
        now_unix_s: u64,
    ) -> Result<Committed<AddVersion>> {
        let client = upload.client();
        let shard = self.shard(client);
        if version.is_nil() || version == parent {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "a new version's id is neither nil nor its parent's",
            ));
        }
        let push = Push { client, parent, version, value: upload.value(), now_unix_s };
        for _ in 0..ATTEMPTS_MAX {
            let row = shard.client_row(client).await?;
            let decision = rules::add_version(row.as_ref(), &push, self.config(), upload.attach());
            if let Some(answer) = shard.commit(decision, now_unix_s).await? {
                return Ok(answer);
            }
        }
        Err(crowded(shard))
    }

    /// Makes the upload the client's snapshot, taken at `version`, unless it is to be ignored. Takes up to five reads
    /// and one durable batch. Dropped, it takes effect as a whole or not at all.
    ///
    /// # Errors
    /// Those of the store, among them one whose [`applied`](Error::applied) is unknown; `Busy` when the client changed each of
    /// [`ATTEMPTS_MAX`] times, `Timeout` when the upload took so long that its chunks were swept, `Corrupt` for a
    /// damaged row.
    pub async fn add_snapshot(
        &self,
        upload: Upload,
        version: Uuid,
        now_unix_s: u64,
    ) -> Result<Committed<AddSnapshot>> {
        let client = upload.client();
        let shard = self.shard(client);
        for _ in 0..ATTEMPTS_MAX {
            let Some(row) = shard.client_row(client).await? else {
                return Ok(Committed::read(AddSnapshot::NoSuchClient));
            };
            let decision = match shard.walk(client, &row, version).await? {
                Step::Ignore(why) => Decision::Answer(AddSnapshot::Ignored(why)),
                _ => rules::keep_snapshot(client, &row, version, upload.value(), now_unix_s, upload.attach()),
            };
            if let Some(answer) = shard.commit(decision, now_unix_s).await? {
                return Ok(answer);
            }
        }
        Err(crowded(shard))
    }

    /// The client's snapshot. Takes at most two reads. May be dropped at any await.
    ///
    /// # Errors
    /// Those of the store's reads; `Corrupt` for a damaged row.
    pub async fn get_snapshot(&self, client: Uuid) -> Result<Committed<GetSnapshot>> {
        let shard = self.shard(client);
        let mut missing = None;
        for _ in 0..ATTEMPTS_MAX {
            let Some(row) = shard.client_row(client).await? else {
                return Ok(Committed::read(GetSnapshot::NoSuchClient));
            };
            let Some(snapshot) = row.snapshot else { return Ok(Committed::read(GetSnapshot::NoSnapshot)) };
            let version = snapshot.version;
            if let Some(value) = snapshot.staged() {
                let value = Value::new(Stored::Staged(value), &shard.staging);
                return Ok(Committed::read(GetSnapshot::Found { version, value }));
            }
            let bytes = shard.tenant.get(SNAPSHOT, client_key(client)).await?;
            match bytes.as_deref().and_then(snapshot_from_bytes) {
                Some((found, bytes)) if found == version => {
                    return Ok(Committed::read(GetSnapshot::Found { version, value: Value::inline(bytes) }));
                }
                // The two rows are of two moments when the snapshot was replaced between the reads; when nothing has changed the
                // next time either, the second row is damaged.
                _ if missing == Some(version) => {
                    return Err(damaged(&shard.tenant, SNAPSHOT, &client_key(client)));
                }
                _ => missing = Some(version),
            }
        }
        Err(crowded(shard))
    }
}

fn crowded(shard: &Shard) -> Error {
    busy(&shard.tenant, "the client is being changed by too many at once; ask again")
}

impl Shard {
    /// Walks back from the latest version until it is decided whether the upload is kept.
    async fn walk(&self, client: Uuid, row: &ClientRow, uploaded: Uuid) -> Result<Step> {
        let current = row.snapshot.map(|snapshot| snapshot.version);
        let (mut walk, mut step) = Walk::begin(row.latest, current, uploaded);
        while let Step::ParentOf(version) = step {
            let key = pair_key(client, version);
            let parent = match self.tenant.get(PARENT, key).await? {
                Some(bytes) => {
                    Some(parent_from_bytes(&bytes).ok_or_else(|| damaged(&self.tenant, PARENT, &key))?)
                }
                None => None,
            };
            step = walk.parent(parent);
        }
        Ok(step)
    }

    /// Makes a decision true and answers what may be told of it; `None` when somebody else was quicker and the rule is to be asked
    /// again.
    async fn commit<E>(&self, decision: Decision<E>, now_unix_s: u64) -> Result<Option<Committed<E>>> {
        match decision {
            Decision::Answer(answer) => Ok(Some(Committed::read(answer))),
            Decision::Commit { batch, discard, effects } => {
                let commit = self.apply(batch, discard, now_unix_s).await?;
                Ok(commit.map(|commit| effects.committed(&commit)))
            }
        }
    }

    /// Applies a batch durably, which also takes the last reference to `discard` away; `None` when the client's row is not the
    /// one that the batch rests on.
    pub(crate) async fn apply(
        &self,
        mut batch: Batch,
        discard: Option<Staged>,
        now_unix_s: u64,
    ) -> Result<Option<Commit>> {
        if let Some(value) = discard {
            self.staging.discard(&mut batch, value, now_unix_s.saturating_mul(1_000));
        }
        let checked: Vec<_> = batch.checks().iter().map(|check| self.checked(&check.category)).collect();
        match self.tenant.apply(batch, Durability::Durable).await? {
            Outcome::Applied(commit) => Ok(Some(commit)),
            Outcome::Refused(refusal) => {
                let checked = checked.get(refusal.check).copied().unwrap_or(Checked::Fresh);
                self.refused(checked).map(|()| None)
            }
        }
    }

    fn checked(&self, category: &[u8]) -> Checked {
        if category == CLIENT.as_bytes() {
            Checked::Client
        } else if category == DELETING.as_bytes() {
            Checked::Deleting
        } else if category == self.staging.pending_category().as_bytes() {
            Checked::Pending
        } else {
            Checked::Fresh
        }
    }

    /// Whether a refusal because of such a row is worth another try.
    fn refused(&self, checked: Checked) -> Result<()> {
        let error = |kind, message| Err(Error::new(kind, message).in_tenant(self.tenant.id()));
        match checked {
            Checked::Client => Ok(()),
            Checked::Deleting => Err(busy(&self.tenant, "a client of this id is being deleted; ask again")),
            Checked::Pending => error(
                ErrorKind::Timeout,
                "the upload took so long that what had arrived was removed; send it again",
            ),
            Checked::Fresh => error(
                ErrorKind::Corrupt,
                "a new version found its row taken: the id was not fresh, or the client is damaged (run `seabed \
                 verify`)",
            ),
        }
    }
}

/// What a check is on: a byte each, kept beside the batch, which goes to the store, for the case that it is refused.
#[derive(Debug, Clone, Copy)]
enum Checked {
    Client,
    Deleting,
    Pending,
    /// A row of a new version.
    Fresh,
}
