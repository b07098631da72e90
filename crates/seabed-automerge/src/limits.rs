//! The published bounds of this layer. What lies beyond one is refused with an error that names it.

/// The longest id of a peer, in bytes.
pub const PEER_BYTES_MAX: usize = 1_024;

/// The most that is stored of one document, changes and snapshots together, in bytes: it is loaded as one buffer.
pub const DOCUMENT_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// From how many bytes on the changes of one commit are a staged value, written ahead of the batch that refers to it.
pub const COMMIT_INLINE_BYTES_MAX: usize = 1024 * 1024;

/// How many sync states of peers one handle keeps in memory.
pub const PEERS_MAX: usize = 4_096;

/// How many sync states one commit stores.
pub const COMMIT_PEERS_MAX: usize = 4_096;

/// How much of what comes from elsewhere may wait in one document for changes that it rests on, in bytes. It is in memory alone.
pub const WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How often a call that finds that others were quicker begins again before it answers Busy.
pub const ATTEMPTS_MAX: usize = 16;

/// How long a value that was replaced stays for those who are reading it, in milliseconds.
pub const DISCARDED_MS_MAX: u64 = 15 * 60 * 1_000;

/// How long the writing of a large value may take before what there is of it is removed, in milliseconds.
pub const WRITING_MS_MAX: u64 = 60 * 60 * 1_000;

/// A document whose changes take less than this is not worth compacting, in bytes.
pub const COMPACT_BYTES_MIN: u64 = 16 * 1024;

/// A document with more changes than this is worth compacting, whatever they take.
pub const COMPACT_CHANGES: u64 = 2_000;
