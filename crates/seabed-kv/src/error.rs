//! What went wrong, and what the caller should do about it.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use crate::{Batch, TenantId};

/// How many bytes of a category an error shows.
const CATEGORY_BYTES_SHOWN: usize = 64;

/// How long a key may be that an error shows whole. Errors are logged, and what is longer may be a credential.
const KEY_BYTES_SHOWN_WHOLE: usize = 15;

/// How many bytes an error shows of a longer key.
const KEY_BYTES_SHOWN: usize = 4;

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure it was, and so what to do. A refused batch is not an error: it is
/// [`Outcome::Refused`](crate::Outcome::Refused).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument is out of bounds or malformed. Fix the call; nothing was touched.
    InvalidArgument,
    /// No tenant of that id is open. Open it first; nothing was touched.
    TenantNotFound,
    /// The tenant or the store was closed. Open it again.
    Closed,
    /// A bounded queue is full, or another process owns the store. Try again later.
    Busy,
    /// Something took longer than its published bound, such as a snapshot past its age. Start it again.
    Timeout,
    /// The file or the environment is of a kind this version does not work with. The message names both.
    Unsupported,
    /// Stored bytes are not what they must be. Nothing was written; restore from a backup.
    Corrupt,
    /// The layer below failed: the disk, the file system, the database.
    Backend,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InvalidArgument => "invalid argument",
            Self::TenantNotFound => "tenant not found",
            Self::Closed => "closed",
            Self::Busy => "busy",
            Self::Timeout => "timeout",
            Self::Unsupported => "unsupported",
            Self::Corrupt => "corrupt",
            Self::Backend => "backend failure",
        })
    }
}

/// Whether the writes of a failed call took effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Applied {
    /// Nothing of it was applied, and nothing of it ever will be.
    No,
    /// It may have been applied as a whole, or not at all: read again before deciding. Where the disk goes on failing a read decides nothing
    /// yet: what it shows is what stays once a write, or a flush, has succeeded after it.
    Unknown,
}

/// An error with its [kind](Error::kind), whether a write [took effect](Error::applied), a message that names the
/// tenant, and its cause.
///
/// Cheap to clone: a failed flush gives the same cause to each request that waited for it.
#[derive(Clone)]
pub struct Error(Arc<Detail>);

#[derive(Clone)]
struct Detail {
    kind: ErrorKind,
    applied: Applied,
    tenant: Option<TenantId>,
    /// The first row of the batch that failed.
    row: Option<String>,
    message: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` with a message that says what was wrong and what to do. Nothing was applied.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Arc::new(Detail {
            kind,
            applied: Applied::No,
            tenant: None,
            row: None,
            message: message.into(),
            source: None,
        }))
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    /// The same error with its cause.
    #[must_use]
    pub fn with_source(self, source: impl StdError + Send + Sync + 'static) -> Self {
        let mut detail = Arc::unwrap_or_clone(self.0);
        detail.source = Some(Arc::new(source));
        Self(Arc::new(detail))
    }

    /// The same error, naming the tenant it happened in, unless it names one already.
    #[must_use]
    pub fn in_tenant(self, tenant: &TenantId) -> Self {
        if self.0.tenant.is_some() {
            return self;
        }
        let mut detail = Arc::unwrap_or_clone(self.0);
        detail.tenant = Some(tenant.clone());
        Self(Arc::new(detail))
    }

    /// The same error, naming the first row that the failed batch was to write or check.
    pub(crate) fn in_batch(self, batch: &Batch) -> Self {
        match batch.first_row() {
            Some((category, key)) => self.in_row(category, key),
            None => self,
        }
    }

    /// The same error, naming the row that the failed call was to write.
    pub(crate) fn in_row(self, category: &[u8], key: &[u8]) -> Self {
        // Keys may be long, and a log line should not be.
        let shown = |bytes: &[u8], most: usize| {
            let head = bytes.get(..most).unwrap_or(bytes);
            format!("{}{}", head.escape_ascii(), if head.len() < bytes.len() { "..." } else { "" })
        };
        let of_key = if key.len() > KEY_BYTES_SHOWN_WHOLE { KEY_BYTES_SHOWN } else { key.len() };
        let (category, key) = (shown(category, CATEGORY_BYTES_SHOWN), shown(key, of_key));
        let mut detail = Arc::unwrap_or_clone(self.0);
        detail.row = Some(format!("batch from category {category:?}, key {key:?}"));
        Self(Arc::new(detail))
    }

    /// The same error, for a write that may have been applied.
    #[must_use]
    pub fn unknown(self) -> Self {
        let mut detail = Arc::unwrap_or_clone(self.0);
        detail.applied = Applied::Unknown;
        Self(Arc::new(detail))
    }

    /// What kind of failure it was.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the writes of the failed call took effect.
    pub fn applied(&self) -> Applied {
        self.0.applied
    }

    /// Whether the same call may succeed later without a change: the store was busy, or something timed out,
    /// and nothing was applied.
    pub fn is_retryable(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Busy | ErrorKind::Timeout) && self.0.applied == Applied::No
    }

    /// Whether it failed because the disk has no room: what is there can be read, and writes go on once there is some.
    pub fn is_disk_full(&self) -> bool {
        let mut source: Option<&(dyn StdError + 'static)> = Some(self);
        while let Some(error) = source {
            let full = |error: &std::io::Error| error.kind() == std::io::ErrorKind::StorageFull;
            if error.downcast_ref().is_some_and(full) {
                return true;
            }
            #[cfg(feature = "sqlite")]
            if error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code)
                == Some(rusqlite::ErrorCode::DiskFull)
            {
                return true;
            }
            #[cfg(feature = "postgres")]
            if error.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::code)
                == Some(&tokio_postgres::error::SqlState::DISK_FULL)
            {
                return true;
            }
            source = error.source();
        }
        false
    }

    /// The tenant in which it happened, where there was one.
    pub fn tenant(&self) -> Option<&TenantId> {
        self.0.tenant.as_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let detail = &*self.0;
        if let Some(tenant) = &detail.tenant {
            write!(f, "tenant {tenant}: ")?;
        }
        if let Some(row) = &detail.row {
            write!(f, "{row}: ")?;
        }
        f.write_str(&detail.message)?;
        if detail.applied == Applied::Unknown {
            f.write_str(" (whether it was applied is unknown)")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("applied", &self.0.applied)
            .field("tenant", &self.0.tenant)
            .field("message", &self.0.message)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_may_be_a_credential_is_told_in_part_only() {
        for (key, shown) in [("fifteen bytes..", "fifteen bytes.."), ("sixteen bytes...", "sixt...")] {
            let mut batch = Batch::new();
            batch.put("a category that is shown", key, b"");
            let text = Error::new(ErrorKind::Busy, "too much").in_batch(&batch).to_string();
            assert_eq!(
                text,
                format!("batch from category \"a category that is shown\", key \"{shown}\": too much")
            );
        }
    }
}
