//! Where the original keeps its data: the SQLite file of the one build, or the PostgreSQL database of the other.

use seabed_kv::Result;

use super::chain::Link;
use super::import::{History, SqliteFile};
use super::postgres::import::Database;

/// One of its databases, opened; its bytes are read one value at a time.
#[derive(Debug, Clone, Copy)]
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

    /// Whether what failed lies in a damaged part of a file. A PostgreSQL server tells nobody which row it could not read.
    pub(super) fn take_damage(&self) -> bool {
        match self {
            Self::File(file) => file.take_damage(),
            Self::Database(_) => false,
        }
    }

    /// Looks whether a file that nothing guards is still the one that was opened. A transaction guards the view of a database.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        match self {
            Self::File(file) => file.check_unchanged(),
            Self::Database(_) => Ok(()),
        }
    }
}
