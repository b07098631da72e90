//! The published bounds. What arrives and is beyond one is refused with an error that names it, before anything is copied.

/// The largest message that is read, in bytes on the wire: the largest content and room for everything around it.
pub const WIRE_BYTES_MAX: usize = 1088 * 1024;

/// The largest content that is sent.
pub const CONTENT_BYTES_MAX: usize = 1024 * 1024;

/// The longest id of a message, channel or participant that is read.
pub const ID_BYTES_MAX: usize = 1024;

/// The longest retrieval hint that is read.
pub const HINT_BYTES_MAX: usize = 1024;

/// How many entries a causal history may have that is read.
pub const CAUSAL_HISTORY_MAX: usize = 1_024;

/// How many entries a repair request may have that is read.
pub const REPAIR_REQUEST_MAX: usize = 1_024;

/// The most hash functions that a filter may use which is consulted.
pub const FILTER_HASHES_MAX: u64 = 64;

/// The fewest bits that a filter may have which is consulted.
pub const FILTER_BITS_MIN: u64 = 64;

/// The most bits that a filter may have which is consulted.
pub const FILTER_BITS_MAX: u64 = 80_000_000;

/// After how many bytes of changed rows an operation delivers nothing more of what waited: the rest is due at once. The operation itself
/// changes less than three times as much besides, so that a batch of the kernel always holds it.
pub const CASCADE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// After how many changed rows, likewise.
pub const CASCADE_ROWS_MAX: usize = 16_384;

/// How many bytes of rows one call that declares messages met may change, before anything is delivered for it.
pub const MARKED_BYTES_MAX: usize = 5 * 1024 * 1024;

/// How many rows, likewise.
pub const MARKED_ROWS_MAX: usize = 49_152;
