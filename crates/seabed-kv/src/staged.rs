//! Values too large for one row: written in chunks ahead of the batch that refers to them.
//!
//! 1. [`Staging::writer`] takes the bytes as they arrive and stores them as chunk rows of
//!    [`inline_limit`](Tenant::inline_limit) bytes under a fresh id, in small Relaxed batches that nothing refers to. A *pending*
//!    row names the id meanwhile.
//! 2. The caller builds the one Durable batch that makes the value real: it stores the [`Staged`] reference wherever
//!    it likes, and [`StagedWriter::attach`] adds the removal of the pending row, on condition that it is still there.
//!    One flush makes chunks and reference durable together.
//! 3. What replaces a value calls [`Staging::discard`] on the same batch. Its chunks stay readable for those who are reading
//!    them, until a sweep.
//! 4. [`Staging::sweep`] removes, in bounded steps, the chunks of values that were discarded or never attached: all of them when
//!    a store is opened by its only owner, old ones from time to time.
//!
//! ```
//! use seabed_kv::staged::{Staged, Staging};
//! use seabed_kv::{Batch, Durability, Store};
//!
//! let tenant = Store::memory().open("documents").wait()?;
//! let staging = Staging::new(tenant.clone(), "document");
//! pollster::block_on(async {
//!     let mut writer = staging.writer(*b"a fresh 16 bytes", 0);
//!     writer.write(&[7; 1_000_000]).await?;
//!     let value = writer.finish().await?;
//!     let mut batch = Batch::new();
//!     batch.put("document", b"1", value.to_bytes());
//!     writer.attach(&mut batch);
//!     assert!(tenant.apply(batch, Durability::Durable).await?.is_applied());
//!
//!     let stored = tenant.get("document", b"1").await?.expect("just stored");
//!     let mut reader = staging.reader(Staged::from_bytes(&stored).expect("24 bytes"));
//!     let mut length = 0;
//!     while let Some(part) = reader.next().await? {
//!         length += part.len();
//!     }
//!     assert_eq!(length, 1_000_000);
//!     Ok::<(), seabed_kv::Error>(())
//! })?;
//! # Ok::<(), seabed_kv::Error>(())
//! ```

use crate::{
    Batch, Durability, Error, ErrorKind, Key, KeyRange, KeyReader, Outcome, Result, ScanSpec, Tenant,
};

/// How many bytes of chunks one unreferenced batch holds, and so how much a writer buffers.
pub const STAGED_BATCH_BYTES: usize = 256 * 1024;

/// How many chunk rows one step of a sweep removes.
pub const SWEEP_STEP_ROWS: usize = 512;

/// How many chunks a reader holds at once: with chunks of two kilobytes an eighth of a megabyte.
pub const READ_STEP_CHUNKS: usize = 64;

/// A reference to a staged value: what the caller stores in a row of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Staged {
    /// The id under which its chunks are stored.
    pub id: [u8; 16],
    /// How long the value is.
    pub bytes: u64,
}

impl Staged {
    /// How long a stored reference is.
    pub const ENCODED_BYTES: usize = 24;

    /// The reference as bytes: the id, then the length as eight bytes, big-endian.
    pub fn to_bytes(self) -> [u8; Self::ENCODED_BYTES] {
        let mut bytes = [0; Self::ENCODED_BYTES];
        let (id, length) = bytes.split_at_mut(16);
        id.copy_from_slice(&self.id);
        length.copy_from_slice(&self.bytes.to_be_bytes());
        bytes
    }

    /// The reference that these bytes are; `None` when they are not exactly 24.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (id, length) = bytes.split_at_checked(16)?;
        Some(Self { id: id.try_into().ok()?, bytes: u64::from_be_bytes(length.try_into().ok()?) })
    }
}

/// The staged values of one layer in one tenant: chunk rows in the category `<layer>.chunk`, pending rows in
/// `<layer>.pending`.
#[derive(Debug, Clone)]
pub struct Staging {
    tenant: Tenant,
    chunks: String,
    pending: String,
}

/// Why a pending row is there: the first byte of its payload, before the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pending {
    Writing,
    Discarded,
}

impl Pending {
    fn row(self, now_ms: u64) -> Vec<u8> {
        let mark = match self {
            Self::Writing => b'w',
            Self::Discarded => b'd',
        };
        let mut row = vec![mark];
        row.extend_from_slice(&now_ms.to_be_bytes());
        row
    }

    fn read(row: &[u8]) -> Option<(Self, u64)> {
        let (mark, since_ms) = row.split_first()?;
        let state = match mark {
            b'w' => Self::Writing,
            b'd' => Self::Discarded,
            _ => return None,
        };
        Some((state, u64::from_be_bytes(since_ms.try_into().ok()?)))
    }
}

/// Which values a [sweep](Staging::sweep) removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sweep {
    /// All that are pending: for the only owner of a store, before it serves.
    Everything,
    /// Those that have been pending since before this time, in milliseconds. Give readers of discarded values, and writers, the
    /// time they may take.
    Before {
        /// Discarded values older than this.
        discarded_ms: u64,
        /// Values whose writing began before this and never ended.
        writing_ms: u64,
    },
}

impl Staging {
    /// The staged values that `layer` keeps in `tenant`.
    pub fn new(tenant: Tenant, layer: &str) -> Self {
        Self { tenant, chunks: format!("{layer}.chunk"), pending: format!("{layer}.pending") }
    }

    /// The category of the chunk rows: key is the id, then the position as four bytes, big-endian.
    pub fn chunk_category(&self) -> &str {
        &self.chunks
    }

    /// The category of the pending rows: key is the id.
    pub fn pending_category(&self) -> &str {
        &self.pending
    }

    /// Begins a value under `id`, which must be fresh: 16 random bytes.
    pub fn writer(&self, id: [u8; 16], now_ms: u64) -> StagedWriter {
        StagedWriter {
            staging: self.clone(),
            id,
            now_ms,
            buffer: Vec::new(),
            chunks: 0,
            bytes: 0,
            state: WriterState::Empty,
        }
    }

    /// Reads a value from its beginning.
    pub fn reader(&self, value: Staged) -> StagedReader {
        StagedReader { staging: self.clone(), value, position: 0, chunks: 0 }
    }

    /// Adds to the batch that takes away the last reference to `value` what lets a sweep remove its chunks.
    pub fn discard(&self, batch: &mut Batch, value: Staged, now_ms: u64) {
        batch.put(&self.pending, value.id, Pending::Discarded.row(now_ms));
    }

    /// Removes the chunks of values that nothing refers to and answers how many values there were. May be dropped at any await;
    /// the next sweep goes on.
    ///
    /// # Errors
    /// Those of the tenant's reads and writes.
    pub async fn sweep(&self, which: Sweep) -> Result<u64> {
        let mut swept = 0;
        let mut pending = self.tenant.scan(ScanSpec::new(&self.pending, KeyRange::all()));
        while let Some(row) = pending.next().await {
            let row = row?;
            let due = match (which, Pending::read(&row.payload)) {
                (Sweep::Everything, _) => true,
                (Sweep::Before { discarded_ms, .. }, Some((Pending::Discarded, since_ms))) => {
                    since_ms < discarded_ms
                }
                (Sweep::Before { writing_ms, .. }, Some((Pending::Writing, since_ms))) => {
                    since_ms < writing_ms
                }
                (Sweep::Before { .. }, None) => false,
            };
            if due && self.remove(&row.key, row.payload, which == Sweep::Everything).await? {
                swept += 1;
            }
        }
        Ok(swept)
    }

    /// Removes one value. Its pending row may have changed since it was read: with `whatever` it is removed all the same, as long as it
    /// is pending.
    async fn remove(&self, id: &Key, pending: Vec<u8>, whatever: bool) -> Result<bool> {
        // First the mark, so that a writer that is still at it cannot attach a value whose chunks are going.
        let mut expected = pending;
        loop {
            let mut mark = Batch::new();
            mark.check_equals(&self.pending, id, expected).put(&self.pending, id, Pending::Discarded.row(0));
            match self.tenant.apply(mark, Durability::Relaxed).await? {
                Outcome::Applied(_) => break,
                // A value is pending in two ways, one after the other, so this ends.
                Outcome::Refused(refusal) => match refusal.found {
                    Some(found) if whatever => expected = found,
                    _ => return Ok(false),
                },
            }
        }
        loop {
            let spec = ScanSpec::new(&self.chunks, KeyRange::prefix(id)).keys_only().limit(SWEEP_STEP_ROWS);
            let rows = self.tenant.scan(spec).collect().await?;
            let mut step = Batch::new();
            for row in &rows {
                step.delete(&self.chunks, &row.key);
            }
            let last = rows.len() < SWEEP_STEP_ROWS;
            if last {
                step.delete(&self.pending, id);
            }
            self.tenant.apply(step, Durability::Relaxed).await?;
            if last {
                return Ok(true);
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WriterState {
    /// Nothing is stored yet.
    Empty,
    /// Chunks and a pending row are stored.
    Pending,
    /// A batch that attaches the value was handed out.
    Attached,
    /// A batch of chunks failed or was dropped in the middle: the value has a hole and can only be given up.
    Broken,
}

/// Takes the bytes of one value. Dropped before its batch was applied, it discards what it has stored.
#[derive(Debug)]
pub struct StagedWriter {
    staging: Staging,
    id: [u8; 16],
    now_ms: u64,
    buffer: Vec<u8>,
    chunks: u32,
    bytes: u64,
    state: WriterState,
}

impl StagedWriter {
    /// Takes more bytes; stores them whenever [`STAGED_BATCH_BYTES`] have gathered. Dropped in the middle, the value is
    /// discarded with its writer.
    ///
    /// # Errors
    /// Those of the tenant's writes; the value is then to be given up.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let room = STAGED_BATCH_BYTES.saturating_sub(self.buffer.len());
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() >= STAGED_BATCH_BYTES {
                self.store(false).await?;
            }
        }
        Ok(())
    }

    /// Stores what is left and answers the reference to put into the batch.
    ///
    /// # Errors
    /// Those of the tenant's writes; the value is then to be given up.
    pub async fn finish(&mut self) -> Result<Staged> {
        self.store(true).await?;
        Ok(Staged { id: self.id, bytes: self.bytes })
    }

    /// Adds to the batch that refers to the value what makes it stay; again, when the batch was refused and is built anew. The batch is
    /// refused when a sweep has overtaken the writer; the value must then be written again.
    pub fn attach(&mut self, batch: &mut Batch) {
        if matches!(self.state, WriterState::Pending | WriterState::Attached) {
            self.check_not_swept(batch);
            batch.delete(&self.staging.pending, self.id);
            self.state = WriterState::Attached;
        }
    }

    /// A sweep marks the value as discarded before it removes the first chunk.
    fn check_not_swept(&self, batch: &mut Batch) {
        batch.check_equals(&self.staging.pending, self.id, Pending::Writing.row(self.now_ms));
    }

    async fn store(&mut self, all: bool) -> Result<()> {
        if matches!(self.state, WriterState::Attached | WriterState::Broken) {
            return Err(Error::invalid("the staged value was attached or given up before; begin a new one"));
        }
        let chunk_bytes = self.staging.tenant.inline_limit().max(1);
        let whole = if all { self.buffer.len() } else { self.buffer.len() - self.buffer.len() % chunk_bytes };
        let (ready, rest) = self.buffer.split_at(whole);
        if ready.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        if self.state == WriterState::Empty {
            batch.put(&self.staging.pending, self.id, Pending::Writing.row(self.now_ms));
        } else {
            self.check_not_swept(&mut batch);
        }
        for chunk in ready.chunks(chunk_bytes) {
            batch.put(&self.staging.chunks, chunk_key(self.id, self.chunks), chunk);
            self.chunks = self
                .chunks
                .checked_add(1)
                .ok_or_else(|| Error::invalid("a staged value has more chunks than can be counted"))?;
        }
        self.buffer = rest.to_vec();
        self.state = WriterState::Broken;
        if let Outcome::Refused(_) = self.staging.tenant.apply(batch, Durability::Relaxed).await? {
            return Err(Error::new(
                ErrorKind::Timeout,
                "the staged value was swept before it was attached: it took too long; write it again",
            ));
        }
        self.state = WriterState::Pending;
        Ok(())
    }
}

impl Drop for StagedWriter {
    fn drop(&mut self) {
        if self.state == WriterState::Empty {
            return;
        }
        // Refused, and so without effect, once the batch that attaches the value was applied. Nobody reads what was never attached, so
        // the next sweep may take it.
        let mut batch = Batch::new();
        self.check_not_swept(&mut batch);
        batch.put(&self.staging.pending, self.id, Pending::Discarded.row(0));
        // A failure is logged and counted by the tenant; the next owner's sweep removes the value all the same.
        drop(self.staging.tenant.apply(batch, Durability::Relaxed));
    }
}

/// Reads one value from its beginning to its end.
#[derive(Debug)]
pub struct StagedReader {
    staging: Staging,
    value: Staged,
    position: u64,
    chunks: u32,
}

impl StagedReader {
    /// The next part, at most [`READ_STEP_CHUNKS`] chunks; `None` at the end.
    ///
    /// # Errors
    /// `Corrupt` when chunks are missing or too long, which also happens when the value was discarded and swept while it was
    /// being read: the reader is slower than the sweep allows.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        if self.position >= self.value.bytes {
            return Ok(None);
        }
        let mut range = KeyRange::prefix(self.value.id);
        range.start = chunk_key(self.value.id, self.chunks);
        // One page is one view: its rows are of one moment.
        let spec = ScanSpec::new(&self.staging.chunks, range).limit(READ_STEP_CHUNKS);
        let page = self.staging.tenant.scan_page(spec).await?;
        let over = page.next.is_none() && page.rows.len() < READ_STEP_CHUNKS;
        let mut part = Vec::with_capacity(page.rows.iter().map(|row| row.payload.len()).sum());
        for row in page.rows {
            if row.key != chunk_key(self.value.id, self.chunks) {
                return Err(self.damaged());
            }
            part.extend_from_slice(&row.payload);
            self.chunks = self.chunks.saturating_add(1);
        }
        self.position += part.len() as u64;
        if part.is_empty() || self.position > self.value.bytes || (over && self.position < self.value.bytes) {
            return Err(self.damaged());
        }
        Ok(Some(part))
    }

    fn damaged(&self) -> Error {
        let message = format!(
            "the staged value {} of {} bytes is not whole: chunk {} is missing or does not fit",
            Key::raw(self.value.id).as_bytes().escape_ascii(),
            self.value.bytes,
            self.chunks
        );
        Error::new(ErrorKind::Corrupt, message).in_tenant(self.staging.tenant.id())
    }
}

fn chunk_key(id: [u8; 16], position: u32) -> Key {
    let mut key = id.to_vec();
    key.extend_from_slice(&position.to_be_bytes());
    Key::raw(key)
}

/// The id and position in a chunk row's key; `None` when it is none.
pub fn read_chunk_key(key: &[u8]) -> Option<([u8; 16], u32)> {
    let mut reader = KeyReader::new(key);
    let id = reader.raw(16)?.try_into().ok()?;
    let position = reader.raw(4)?.try_into().ok()?;
    reader.rest().is_empty().then_some((id, u32::from_be_bytes(position)))
}
