//! Values: the bytes of a version or snapshot on their way in and out, in bounded memory.

use seabed_kv::Batch;
use seabed_kv::staged::{StagedReader, StagedWriter, Staging};
use uuid::Uuid;

use crate::error::Result;
use crate::keys::Stored;

/// Takes the bytes of a version or snapshot as they arrive: the first two thousand or so in memory, what is longer in chunks in
/// the store, so that an upload of any size takes well under a megabyte. Dropped, it leaves nothing but chunks that
/// [`maintain`](crate::TaskChampion::maintain) removes.
///
/// ```
/// # pollster::block_on(async {
/// use seabed_taskchampion::{Config, TaskChampion};
/// use uuid::Uuid;
///
/// let taskchampion = TaskChampion::open(&seabed_kv::Store::memory(), Config::default()).await?;
/// let mut upload = taskchampion.upload(Uuid::new_v4(), Uuid::new_v4(), 1_700_000_000_000);
/// upload.write(b"half of it, ").await?;
/// upload.write(b"and the rest").await?;
/// assert_eq!(upload.finish().await?.bytes(), 24);
/// # Ok::<(), seabed_kv::Error>(())
/// # })?;
/// # Ok::<(), seabed_kv::Error>(())
/// ```
#[derive(Debug)]
pub struct UploadWriter {
    client: Uuid,
    staging: Staging,
    inline_max: usize,
    id: [u8; 16],
    now_unix_ms: u64,
    bytes: u64,
    state: Gathered,
}

#[derive(Debug)]
enum Gathered {
    Inline(Vec<u8>),
    Staged(Box<StagedWriter>),
}

impl UploadWriter {
    pub(crate) fn new(client: Uuid, staging: Staging, inline_max: usize, id: Uuid, now_unix_ms: u64) -> Self {
        let state = Gathered::Inline(Vec::new());
        Self { client, staging, inline_max, id: id.into_bytes(), now_unix_ms, bytes: 0, state }
    }

    /// How many bytes it has taken.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes more bytes. Dropped in the middle, the upload is to be given up.
    ///
    /// # Errors
    /// Those of the store's writes; the upload is then to be given up.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        if let Gathered::Inline(gathered) = &mut self.state {
            if gathered.len().saturating_add(bytes.len()) <= self.inline_max {
                gathered.extend_from_slice(bytes);
                return Ok(());
            }
            let first = std::mem::take(gathered);
            self.state = Gathered::Staged(Box::new(self.staging.writer(self.id, self.now_unix_ms)));
            self.stage(&first).await?;
        }
        self.stage(bytes).await
    }

    async fn stage(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.state {
            Gathered::Inline(_) => Ok(()),
            Gathered::Staged(writer) => writer.write(bytes).await,
        }
    }

    /// Everything has arrived.
    ///
    /// # Errors
    /// Those of the store's writes; the upload is then to be given up.
    pub async fn finish(self) -> Result<Upload> {
        let Self { client, state, .. } = self;
        Ok(match state {
            Gathered::Inline(bytes) => {
                Upload { client, value: Stored::Inline(bytes), attach: Batch::new(), _writer: None }
            }
            Gathered::Staged(mut writer) => {
                let value = Stored::Staged(writer.finish().await?);
                // A writer attaches once, but the batch may be refused and built again: what attaches is kept to begin each with.
                let mut attach = Batch::new();
                writer.attach(&mut attach);
                Upload { client, value, attach, _writer: Some(writer) }
            }
        })
    }
}

/// A whole version or snapshot, ready to be added to its client. Dropped without, it leaves nothing but chunks that
/// [`maintain`](crate::TaskChampion::maintain) removes.
#[derive(Debug)]
pub struct Upload {
    client: Uuid,
    value: Stored,
    attach: Batch,
    /// Discards the chunks when it is dropped, unless they were attached.
    _writer: Option<Box<StagedWriter>>,
}

impl Upload {
    /// How long it is.
    pub fn bytes(&self) -> u64 {
        self.value.bytes()
    }

    /// Whose it is.
    pub fn client(&self) -> Uuid {
        self.client
    }

    pub(crate) fn value(&self) -> &Stored {
        &self.value
    }

    /// The batch to begin with: it makes the chunks stay.
    pub(crate) fn attach(&self) -> Batch {
        self.attach.clone()
    }
}

/// The bytes of a version or snapshot, read part by part. A snapshot that is replaced stays readable for fifteen minutes; what
/// is deleted with its client ends for its readers at once.
#[derive(Debug)]
pub struct Value {
    bytes: u64,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Inline(Option<Vec<u8>>),
    Staged(StagedReader),
}

impl Value {
    pub(crate) fn inline(bytes: Vec<u8>) -> Self {
        Self { bytes: bytes.len() as u64, source: Source::Inline(Some(bytes)) }
    }

    pub(crate) fn new(stored: Stored, staging: &Staging) -> Self {
        match stored {
            Stored::Inline(bytes) => Self::inline(bytes),
            Stored::Staged(value) => {
                Self { bytes: value.bytes, source: Source::Staged(staging.reader(value)) }
            }
        }
    }

    /// How long it is.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next part, at most about 120 KiB; `None` at the end. May be dropped and called again: the part that
    /// was being read is read anew.
    ///
    /// # Errors
    /// Those of the store's reads; `Corrupt` also when the value was discarded and swept while it was being read.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        match &mut self.source {
            Source::Inline(bytes) => Ok(bytes.take().filter(|bytes| !bytes.is_empty())),
            Source::Staged(reader) => reader.next().await,
        }
    }

    /// All of it at once. Memory is the caller's bound.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn collect(mut self) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(part) = self.next().await? {
            all.extend_from_slice(&part);
        }
        Ok(all)
    }
}
