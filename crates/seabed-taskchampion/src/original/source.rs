//! Where the original keeps its data: the SQLite file of the one build, or the PostgreSQL database of the other.

use seabed_kv::Result;

use super::chain::Link;
use super::import::{History, SqliteFile};
use super::postgres::import::Database;

/// One of its databases, opened; its bytes are read one value at a time.
#[derive(Debug)]
pub(super) enum Source<'a> {
    File(&'a SqliteFile),
    Database(&'a Database<'a>),
}

impl Source<'_> {
    /// The bytes of a version.
    pub(super) async fn version_bytes(&self, history: &History, link: &Link) -> Result<Vec<u8>> {
        match self {
            Self::File(file) => file.version_bytes(link),
            Self::Database(database) => database.version_bytes(history.client, link.version).await,
        }
    }

    /// The bytes of a client's snapshot.
    pub(super) async fn snapshot_bytes(&self, history: &History) -> Result<Vec<u8>> {
        match self {
            Self::File(file) => file.snapshot_bytes(history),
            Self::Database(database) => database.snapshot_bytes(history.client).await,
        }
    }
}
