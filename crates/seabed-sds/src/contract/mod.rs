//! The three persistence contracts: what a store owes a channel, and what it may expect.
//!
//! | | trait | shape | joint commit | carries everything |
//! |---|---|---|---|---|
//! | (C) | [`ChannelStore`] | one batch of small changes an operation | yes | yes |
//! | (B) | [`SnapshotPersistence`] | one snapshot and one history update an operation (nim-sds since 0.3) | no | no |
//! | (A) | [`FineGrainedPersistence`] | thirteen small calls (nim-sds 0.2.4) | no | no |
//!
//! The manager speaks (C). A backend for one of the others is plugged in with [`SnapshotStore`] or [`FineGrainedStore`].
//!
//! # What all three owe
//!
//! 1. Each call is atomic by itself: all of a batch or a history update or nothing, a snapshot replaced whole, a drop complete or not
//!    at all. `Ok` means that it is done, with the durability that the backend promises.
//! 2. Failed calls are repeated. So saving and appending are upserts by id, and removing, evicting or dropping what is absent is Ok.
//! 3. Loading gives the complete state, history oldest first, or an error; never a part. A row that does not read is an error.
//! 4. Calls for one channel come one after another, in order; calls for different channels at once. A slow call holds up its channel
//!    and no other.
//! 5. A future may be dropped at any await; the call has then been made or not, as a whole.

mod fine;
mod fine_store;
mod memory;
pub(crate) mod mirror;
mod snapshot;
mod snapshot_store;
mod store;

pub use async_trait::async_trait;
pub use fine::FineGrainedPersistence;
pub use fine_store::FineGrainedStore;
pub use memory::{MemoryFineGrained, MemorySnapshots, MemoryStore, NoPersistence};
pub use snapshot::SnapshotPersistence;
pub use snapshot_store::SnapshotStore;
pub use store::{ChannelBatch, ChannelStore, StoreError, StoreResult};
