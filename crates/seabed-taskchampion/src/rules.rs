//! The protocol's rules, pure: from what was read and what was asked to an answer, or to one batch and the effects it allows.
//!
//! 1. The protocol layer reads the client's row and hands it to a rule, with the time and the new version's id.
//! 2. The rule answers from what was read, or builds one conditional batch and the [`Effects`] that rest on it.
//! 3. The batch is applied, durably. Refused, because somebody else changed the client meanwhile, everything begins at step 1.
//! 4. The store's answer turns `Effects` into [`Committed`], which is all that an HTTP answer can be made of.

use seabed_kv::staged::Staged;
use seabed_kv::{Batch, Commit};
use uuid::Uuid;

use crate::Config;
use crate::keys::{
    CLIENT, ClientRow, DELETING, PARENT, SNAPSHOT, SnapshotMeta, Stored, VERSION, VersionRow, client_key,
    pair_key, parent_to_bytes, snapshot_to_bytes,
};
use crate::snapshot::{Ignored, Urgency, urgency};

/// What may be told once the batch that it rests on is durable.
#[derive(Debug)]
pub(crate) struct Effects<E>(E);

impl<E> Effects<E> {
    /// The batch was applied and is durable.
    pub(crate) fn committed(self, _durable: &Commit) -> Committed<E> {
        Committed(self.0)
    }
}

/// An answer that rests on durable data alone, and so may leave. Only this crate makes one: from the store's acknowledgement of a
/// batch, or from a read, which sees nothing that is not durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "an answer that is not released tells nobody anything"]
pub struct Committed<E>(E);

impl<E> Committed<E> {
    /// The answer, to be told.
    pub fn release(self) -> E {
        self.0
    }

    /// An answer made of what was read: this layer writes nothing that others see but Durable batches, and those are read only
    /// when they are durable.
    pub(crate) fn read(answer: E) -> Self {
        Self(answer)
    }
}

/// What became of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddVersion {
    /// It is the latest version now.
    Added {
        /// Its id.
        version: Uuid,
        /// How much the server wants a snapshot.
        urgency: Urgency,
    },
    /// Its parent is not the latest version; nothing was changed.
    Conflict {
        /// The latest version.
        latest: Uuid,
    },
    /// The client does not exist and is not to be created.
    NoSuchClient,
}

/// What became of an uploaded snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddSnapshot {
    /// It is the client's snapshot now.
    Kept,
    /// It is not, which is no error.
    Ignored(Ignored),
    /// The client does not exist.
    NoSuchClient,
}

/// What a rule says.
#[derive(Debug)]
pub(crate) enum Decision<E> {
    /// This follows from what was read.
    Answer(E),
    /// This follows when the batch is applied, which also takes the last reference to `discard` away.
    Commit { batch: Batch, discard: Option<Staged>, effects: Effects<E> },
}

/// A push: what a replica sent, where its bytes are, and what the server adds.
#[derive(Debug)]
pub(crate) struct Push<'a> {
    pub(crate) client: Uuid,
    pub(crate) parent: Uuid,
    pub(crate) version: Uuid,
    pub(crate) value: &'a Stored,
    pub(crate) now_unix_s: u64,
}

/// Decides a push. `batch` holds what makes the value's chunks stay.
pub(crate) fn add_version(
    read: Option<&ClientRow>,
    push: &Push<'_>,
    config: &Config,
    mut batch: Batch,
) -> Decision<AddVersion> {
    // A client without versions takes any parent: so a replica moves to a new server.
    match read {
        None if !config.create_clients => return Decision::Answer(AddVersion::NoSuchClient),
        Some(row) if !row.latest.is_nil() && row.latest != push.parent => {
            return Decision::Answer(AddVersion::Conflict { latest: row.latest });
        }
        _ => {}
    }
    let key = client_key(push.client);
    let mut row = if let Some(row) = read {
        batch.check_equals(CLIENT, key, row.to_bytes());
        row.clone()
    } else {
        // Rows of a client that was deleted under the same id may still be on their way out.
        batch.check_absent(CLIENT, key).check_absent(DELETING, key);
        ClientRow::new(push.now_unix_s)
    };
    let urgency = urgency(row.snapshot.as_ref(), config, push.now_unix_s);
    count_version(&mut row, push.version, push.value.bytes(), push.now_unix_s);
    batch.put(CLIENT, key, row.to_bytes());
    let version =
        VersionRow { version: push.version, received_unix_s: push.now_unix_s, value: push.value.clone() };
    put_version(&mut batch, push.client, push.parent, &version);
    Decision::Commit {
        batch,
        discard: None,
        effects: Effects(AddVersion::Added { version: push.version, urgency }),
    }
}

/// Stores a snapshot that the walk has found worth keeping, in place of the one before.
pub(crate) fn keep_snapshot(
    client: Uuid,
    read: &ClientRow,
    version: Uuid,
    value: &Stored,
    now_unix_s: u64,
    mut batch: Batch,
) -> Decision<AddSnapshot> {
    let key = client_key(client);
    let row = ClientRow {
        snapshot: Some(SnapshotMeta {
            version,
            unix_s: now_unix_s,
            versions_since: 0,
            bytes: value.bytes(),
            staged: value.staged().map(|value| value.id),
        }),
        ..read.clone()
    };
    batch.check_equals(CLIENT, key, read.to_bytes()).put(CLIENT, key, row.to_bytes());
    put_snapshot(&mut batch, client, version, value);
    let discard = read.snapshot.and_then(|snapshot| snapshot.staged());
    Decision::Commit { batch, discard, effects: Effects(AddSnapshot::Kept) }
}

/// What a version that is added to a client changes in its row.
pub(crate) fn count_version(row: &mut ClientRow, version: Uuid, bytes: u64, now_unix_s: u64) {
    row.latest = version;
    row.last_push_unix_s = now_unix_s;
    row.versions = row.versions.saturating_add(1);
    row.version_bytes = row.version_bytes.saturating_add(bytes);
    if let Some(snapshot) = &mut row.snapshot {
        snapshot.versions_since = snapshot.versions_since.saturating_add(1);
    }
}

/// Adds a version's own rows, on condition that there are none in their places.
pub(crate) fn put_version(batch: &mut Batch, client: Uuid, parent: Uuid, version: &VersionRow) {
    let (by_parent, by_version) = (pair_key(client, parent), pair_key(client, version.version));
    batch
        .check_absent(VERSION, by_parent)
        .check_absent(PARENT, by_version)
        .put(VERSION, by_parent, version.to_bytes())
        .put(PARENT, by_version, parent_to_bytes(parent));
}

/// Puts a snapshot in the place of the one before; the client's row says the rest of it.
pub(crate) fn put_snapshot(batch: &mut Batch, client: Uuid, version: Uuid, value: &Stored) {
    let key = client_key(client);
    match value {
        Stored::Inline(bytes) => batch.put(SNAPSHOT, key, snapshot_to_bytes(version, bytes)),
        Stored::Staged(_) => batch.delete(SNAPSHOT, key),
    };
}
