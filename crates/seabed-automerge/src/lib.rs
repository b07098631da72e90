#![doc = include_str!("crate.md")]

mod append;
mod chunks;
mod classic;
mod clock;
mod committed;
mod compact;
#[cfg(feature = "conformance")]
pub mod conformance;
mod detail;
mod directory;
mod document_persister;
mod documents;
mod engine;
mod error;
mod held;
mod id;
mod identity;
mod inspect;
mod keys;
pub mod limits;
mod memory;
mod meta;
mod persistent;
mod persister;
mod recover;
mod salvage;
#[cfg(feature = "http")]
mod server;
mod shard;
mod store;
mod verify;
mod waiting;

pub use append::{Append, Appended};
pub use committed::Committed;
pub use compact::{CompactOptions, CompactReport, Replace};
pub use detail::{ActorInfo, DocumentDetail, check_saved};
pub use directory::{ExportReport, ImportReport, REFUSED_MAX, Refused, documents_in};
pub use document_persister::{DocumentError, DocumentPersister};
pub use documents::DocumentInfo;
pub use engine::Engine;
pub use error::{Error, ErrorKind, Result};
pub use id::{DocumentId, ParseDocumentIdError};
pub use inspect::decode_row;
pub use memory::MemoryPersister;
pub use meta::Meta;
pub use persistent::{PersistError, Persistent, PersistentAutoCommit, PersistentAutomerge, TransactError};
pub use persister::{Commit, Persister, Progress, Recovery, StoredSizes};
pub use recover::Recovered;
pub use salvage::{Damaged, Piece};
#[cfg(feature = "http")]
pub use server::{
    Access, Admission, Denied, Everybody, Identity, LiveMetrics, LiveOptions, LiveServer, Policy,
    limits as live_limits,
};
pub use shard::{SPREAD, is_bookkeeping, is_ours};
pub use store::{DocStore, Loaded};
pub use verify::{FINDINGS_MAX, VerifyReport, verify, verify_in};

#[doc(hidden)]
pub use chunks::fuzz_chunks;
#[doc(hidden)]
pub use keys::fuzz_rows;
#[cfg(feature = "http")]
#[doc(hidden)]
pub use server::fuzz_frames;
