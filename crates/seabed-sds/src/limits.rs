//! The published bounds of a manager. Those of each channel are [`core::Limits`](crate::core::Limits).

/// How many items the stream holds before operations wait for its reader. What one operation brings is never divided, and those that were
/// in line already go on: so much the stream may exceed it.
pub const EVENTS_MAX: usize = 1_024;

/// How many bytes of messages the stream holds before operations wait for its reader, likewise.
pub const EVENTS_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How many items wait for callbacks before operations wait for those, likewise. An operation that a callback calls does not wait.
pub const CALLBACKS_WAITING_MAX: usize = 1_024;

/// How many bytes of messages wait for callbacks before operations wait for those, likewise.
pub const CALLBACKS_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How many channels messages may make in one manager, unless it is told otherwise.
pub const UNKNOWN_CHANNELS_MAX: usize = 1_024;

/// How many rows of failed batches are kept for the next commit; beyond it the next commit writes the whole channel.
pub const UNSAVED_ROWS_MAX: usize = 4_096;

/// How long the timer waits before it tries a channel again whose store failed, in milliseconds.
pub const RETRY_MS: u64 = 5_000;

/// How often [`SyncDue`](crate::What::SyncDue) is told where sync messages are not sent automatically, in milliseconds.
pub const SYNC_DUE_MS: u64 = 30_000;

/// The longest the timer sleeps, in milliseconds: a clock that was set forward is noticed after that.
pub const SLEEP_MS_MAX: u64 = 60_000;

/// How many findings a report of [`verify`](crate::verify()) spells out; the last one then says how many more there were.
pub const FINDINGS_MAX: usize = 1_000;
