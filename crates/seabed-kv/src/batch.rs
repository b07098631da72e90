//! Batches: checks and writes as one value, applied whole or not at all.

use crate::limits::{BATCH_BYTES_MAX, BATCH_STEPS_MAX, CATEGORY_BYTES_MAX, KEY_BYTES_MAX, PAYLOAD_BYTES_MAX};
use crate::{Error, Key, KeyPart, Op, Result};
use std::fmt;
use std::sync::Arc;

/// What must hold of one row for a batch to be applied. Checks look at values, so they mean the same on every backend and
/// after every restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// There is no such row.
    Absent,
    /// There is such a row, whatever it holds.
    Exists,
    /// The row holds exactly these bytes.
    Equals(Vec<u8>),
    /// The row's payload has this SHA-256.
    Sha256([u8; 32]),
}

impl Condition {
    /// Whether a row with this payload, or its absence, meets the condition.
    pub fn holds(&self, found: Option<&[u8]>) -> bool {
        match (self, found) {
            (Self::Absent, None) | (Self::Exists, Some(_)) => true,
            (Self::Equals(expected), Some(payload)) => expected == payload,
            (Self::Sha256(expected), Some(payload)) => {
                use sha2::Digest as _;
                sha2::Sha256::digest(payload).as_slice() == expected
            }
            _ => false,
        }
    }
}

/// A condition on one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The category of the row.
    pub category: Vec<u8>,
    /// The key of the row.
    pub key: Key,
    /// What must hold of it.
    pub condition: Condition,
}

/// One write of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Inserts the row or replaces its payload.
    Put {
        /// The category of the row.
        category: Vec<u8>,
        /// The key of the row.
        key: Key,
        /// What the row holds afterwards.
        payload: Vec<u8>,
    },
    /// Removes the row, if it is there.
    Delete {
        /// The category of the row.
        category: Vec<u8>,
        /// The key of the row.
        key: Key,
    },
    /// Removes every row of the category whose key begins with the prefix.
    DeletePrefix {
        /// The category of the rows.
        category: Vec<u8>,
        /// What their keys begin with; empty for the whole category.
        prefix: Key,
    },
}

/// Checks and writes over one tenant, atomic: when every check holds all writes take effect in the order given,
/// otherwise none does.
///
/// ```
/// # use seabed_kv::{Batch, Durability, Outcome, Store};
/// # let tenant = Store::memory().open("notes").wait()?;
/// let mut batch = Batch::new();
/// batch.check_absent("note", b"1").put("note", b"1", b"hello").put("index", b"hello", b"1");
/// assert!(matches!(tenant.apply(batch.clone(), Durability::Durable).wait()?, Outcome::Applied(_)));
/// // The second time the note is there, and nothing changes.
/// assert!(matches!(tenant.apply(batch, Durability::Durable).wait()?, Outcome::Refused(refusal) if refusal.check == 0));
/// # Ok::<(), seabed_kv::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    checks: Vec<Check>,
    writes: Vec<Write>,
    bytes: usize,
}

impl Batch {
    /// A batch without checks and writes; applying it is a success.
    pub fn new() -> Self {
        Self::default()
    }

    /// Requires that there is no such row.
    pub fn check_absent(&mut self, category: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> &mut Self {
        self.check(category, key, Condition::Absent)
    }

    /// Requires that there is such a row.
    pub fn check_exists(&mut self, category: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> &mut Self {
        self.check(category, key, Condition::Exists)
    }

    /// Requires that the row holds exactly `payload`.
    pub fn check_equals(
        &mut self,
        category: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
        payload: impl Into<Vec<u8>>,
    ) -> &mut Self {
        self.check(category, key, Condition::Equals(payload.into()))
    }

    /// Requires that the row's payload has this SHA-256: for a large one that the caller has read.
    pub fn check_sha256(
        &mut self,
        category: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
        digest: [u8; 32],
    ) -> &mut Self {
        self.check(category, key, Condition::Sha256(digest))
    }

    /// Requires `condition` of the row.
    pub fn check(
        &mut self,
        category: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
        condition: Condition,
    ) -> &mut Self {
        let (category, key) = (category.as_ref().to_vec(), Key::raw(key.as_ref()));
        let condition_bytes = if let Condition::Equals(payload) = &condition { payload.len() } else { 0 };
        self.bytes = self.bytes.saturating_add(category.len() + key.as_bytes().len() + condition_bytes);
        self.checks.push(Check { category, key, condition });
        self
    }

    /// Inserts the row or replaces its payload.
    pub fn put(
        &mut self,
        category: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
        payload: impl Into<Vec<u8>>,
    ) -> &mut Self {
        self.write(Write::Put {
            category: category.as_ref().to_vec(),
            key: Key::raw(key.as_ref()),
            payload: payload.into(),
        })
    }

    /// Inserts the row or replaces its payload by `payload` in the encoding that keys have: what
    /// [`KeyReader`](crate::KeyReader) takes apart again.
    ///
    /// # Errors
    /// `InvalidArgument` for a text or bytes component longer than 65,535 bytes; the batch stays as it was. Longer ones are
    /// embedded as they are: [`Key::raw`].
    pub fn put_encoded(
        &mut self,
        category: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
        payload: impl KeyPart,
    ) -> Result<&mut Self> {
        match Key::of(payload) {
            Ok(payload) => Ok(self.put(category, key, payload.into_bytes())),
            Err(error) => Err(error.in_row(category.as_ref(), key.as_ref())),
        }
    }

    /// Removes the row, if it is there.
    pub fn delete(&mut self, category: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> &mut Self {
        self.write(Write::Delete { category: category.as_ref().to_vec(), key: Key::raw(key.as_ref()) })
    }

    /// Removes every row of the category whose key begins with `prefix`.
    pub fn delete_prefix(&mut self, category: impl AsRef<[u8]>, prefix: impl AsRef<[u8]>) -> &mut Self {
        self.write(Write::DeletePrefix {
            category: category.as_ref().to_vec(),
            prefix: Key::raw(prefix.as_ref()),
        })
    }

    /// Appends one write.
    pub fn write(&mut self, write: Write) -> &mut Self {
        self.bytes = self.bytes.saturating_add(match &write {
            Write::Put { category, key, payload } => category.len() + key.as_bytes().len() + payload.len(),
            Write::Delete { category, key } | Write::DeletePrefix { category, prefix: key } => {
                category.len() + key.as_bytes().len()
            }
        });
        self.writes.push(write);
        self
    }

    /// The checks, in the order in which they are made; all of them before the first write.
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// The writes, in the order in which they take effect.
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// The category and key of its first write, or else of its first check.
    pub(crate) fn first_row(&self) -> Option<(&[u8], &[u8])> {
        let first_write = self.writes.first().map(|write| match write {
            Write::Put { category, key, .. } | Write::Delete { category, key } => (category, key),
            Write::DeletePrefix { category, prefix } => (category, prefix),
        });
        let first = first_write.or_else(|| self.checks.first().map(|check| (&check.category, &check.key)));
        first.map(|(category, key)| (category.as_slice(), key.as_bytes()))
    }

    /// Whether there is nothing to check and nothing to write.
    pub fn is_empty(&self) -> bool {
        self.checks.is_empty() && self.writes.is_empty()
    }

    /// The bytes of all categories, keys and payloads in it, as [`BATCH_BYTES_MAX`] counts them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What it takes while it waits: 65,536 deletions of nothing are not nothing.
    #[cfg(any(feature = "sqlite", feature = "postgres", shuttle))]
    pub(crate) fn held_bytes(&self) -> usize {
        self.bytes + (self.checks.len() + self.writes.len()) * 64
    }

    /// Whether every part is within the published limits.
    ///
    /// # Errors
    /// `InvalidArgument`, naming the limit.
    pub fn validate(&self) -> Result<()> {
        let steps = self.checks.len() + self.writes.len();
        within("batch has", steps, "checks and writes", BATCH_STEPS_MAX)?;
        let checks = self.checks.iter().map(|check| (&check.category, &check.key, 0));
        let writes = self.writes.iter().map(|write| match write {
            Write::Put { category, key, payload } => (category, key, payload.len()),
            Write::Delete { category, key } | Write::DeletePrefix { category, prefix: key } => {
                (category, key, 0)
            }
        });
        for (category, key, payload_bytes) in checks.chain(writes) {
            within("category has", category.len(), "bytes", CATEGORY_BYTES_MAX)?;
            within("key has", key.as_bytes().len(), "bytes", KEY_BYTES_MAX)?;
            within("payload has", payload_bytes, "bytes (stage larger values)", PAYLOAD_BYTES_MAX)?;
        }
        within("batch has", self.bytes, "bytes", BATCH_BYTES_MAX)
    }
}

fn within(what: &str, count: usize, unit: &str, limit: usize) -> Result<()> {
    if count <= limit {
        return Ok(());
    }
    Err(Error::invalid(format!("the {what} {count} {unit}, more than the {limit} allowed")))
}

/// When a batch counts as done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Durability {
    /// Acknowledged means that it survives a power cut.
    #[default]
    Durable,
    /// Acknowledged means that it survives a crash of this process. A power cut may undo the last such batches, never one in
    /// the middle, never a part of one. [`Commit::wait_durable`] and [`Tenant::flush`](crate::Tenant::flush) are the gates.
    Relaxed,
}

/// What became of a batch.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Every check held and every write took effect.
    Applied(Commit),
    /// A check did not hold and nothing was written. Released only when what it was refused by is durable.
    Refused(Refusal),
}

impl Outcome {
    /// The commit, or the refusal as an error of the caller's making.
    ///
    /// # Errors
    /// The refusal, when the batch was refused.
    pub fn applied(self) -> Result<Commit, Refusal> {
        match self {
            Self::Applied(commit) => Ok(commit),
            Self::Refused(refusal) => Err(refusal),
        }
    }

    /// Whether the batch took effect.
    pub fn is_applied(&self) -> bool {
        matches!(self, Self::Applied(_))
    }
}

/// Why a batch was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which check did not hold: its position among the batch's checks.
    pub check: usize,
    /// What the row held when it was checked; `None` when there was no such row.
    pub found: Option<Vec<u8>>,
}

/// The acknowledgement of a batch.
#[derive(Clone)]
pub struct Commit {
    /// The position of the batch in its tenant's commit order. Opaque, valid for this opening of the tenant, never stored.
    pub seq: u64,
    /// How many rows its deletes removed.
    pub deleted: u64,
    gate: Option<Arc<dyn DurabilityGate>>,
}

/// Where a commit asks for its durability.
pub(crate) trait DurabilityGate: Send + Sync {
    /// Done when the commit `seq` survives a power cut.
    fn wait_durable(self: Arc<Self>, seq: u64) -> Op<()>;
}

impl Commit {
    /// A commit that is durable already.
    pub(crate) fn durable(seq: u64, deleted: u64) -> Self {
        Self { seq, deleted, gate: None }
    }

    #[cfg(any(feature = "sqlite", feature = "postgres", shuttle))]
    pub(crate) fn relaxed(seq: u64, deleted: u64, gate: Arc<dyn DurabilityGate>) -> Self {
        Self { seq, deleted, gate: Some(gate) }
    }

    /// Done when this commit survives a power cut: at once for a Durable one. What a layer waits for before it tells others
    /// anything that rests on a Relaxed commit. May be dropped at any time.
    pub fn wait_durable(&self) -> Op<()> {
        match &self.gate {
            None => Op::ready(Ok(())),
            Some(gate) => gate.clone().wait_durable(self.seq),
        }
    }
}

impl fmt::Debug for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commit")
            .field("seq", &self.seq)
            .field("deleted", &self.deleted)
            .finish_non_exhaustive()
    }
}
